//! The certificates of a Database: an authority of its own, and the server's certificate that it signs; or a Secret that somebody
//! else keeps.
//!
//! `decide` says what is due; this puts it into a plan, and says who speaks TLS by now. What is in Secrets comes here as what
//! certificates say of themselves, without any key.

mod decide;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

pub use decide::{Authority, Certificate, Held, Server, authority_due, decide, server_due};

use super::blocked::Blocked;
use super::context::Context;
use super::secrets::{APP_PASSWORD, ROTATION, file};
use super::text::{at, list, text};
use super::{Action, Event, Kind, compare};
use crate::api::{ConditionType, DatabaseStatus, Phase, Verdict, reason};
use crate::patroni::plain_access;

/// Key of the certificate, and of what leads from it to an authority.
pub const CERTIFICATE: &str = "tls.crt";
/// Key of its private key.
pub const KEY: &str = "tls.key";
/// Key of the authorities that are trusted.
pub const TRUSTED: &str = "ca.crt";
/// Key, in the authority's Secret, of its certificate as the authority before it signed it.
pub const CROSS: &str = "cross.crt";
/// Annotation of Secret `NAME-app` with a hash of the authorities that are in it.
pub const TOLD: &str = "db.example.com/ca";
/// The volume with what secures connections, in the pods of members and of those that connect to them.
pub const VOLUME: &str = "security";

/// What is to be done about certificates. Each holds the version of the Secret that was seen, and is done to that one only.
#[derive(Clone, Debug, PartialEq)]
pub enum Securing {
    /// Make an authority.
    MakeAuthority {
        /// Its Secret, without content.
        body: Value,
        /// The Secret whose authorities stay trusted, if it is there: what was lost has signed what still runs.
        before: String,
    },
    /// Make another authority in the place of one that comes to its end, and trust both.
    RenewAuthority {
        /// Its Secret.
        name: String,
        /// The version that was seen.
        version: Option<String>,
    },
    /// Make a certificate for the server.
    Certify {
        /// The Secret of the authority that signs it.
        authority: String,
        /// Its own Secret, without content.
        body: Value,
        /// The version that was seen; `None` where there is none.
        version: Option<String>,
        /// The names that it is for.
        names: Vec<String>,
    },
    /// Write who is trusted, as one Secret says it, into another.
    Trust {
        /// The Secret that says it.
        from: String,
        /// The other one.
        to: String,
        /// The version that was seen of that.
        version: Option<String>,
        /// What is noted on it: then it is the users', who are told to use TLS too.
        note: Option<String>,
    },
}

/// The Secrets whose certificates a plan must know.
pub fn secrets(cx: &Context<'_>) -> Vec<String> {
    match given(cx) {
        Some(given) => vec![given.to_owned()],
        None => vec![cx.names.authority_secret(), cx.names.certificate_secret()],
    }
}

/// The Secret that the user keeps.
pub fn given<'a>(cx: &Context<'a>) -> Option<&'a str> {
    cx.spec().tls.as_ref()?.certificate_secret.as_deref()
}

/// The Secret that pods mount; `None` where there is none that could be mounted, and pods of before TLS stay what they are. A
/// Secret that cannot be used replaces none that is.
pub fn secret(cx: &Context<'_>) -> Option<String> {
    match given(cx) {
        None => Some(cx.names.certificate_secret()),
        Some(given) if unusable(cx).is_none() => Some(given.to_owned()),
        Some(_) => mounted(cx).map(str::to_owned),
    }
}

/// What is wrong with the user's Secret, as a sentence without its name.
fn unusable(cx: &Context<'_>) -> Option<String> {
    match cx.observed.certificates.get(given(cx)?) {
        None => Some("is not there".to_owned()),
        Some(held) => held.problem.clone(),
    }
}

/// The Secret that pods are told to mount by now.
fn mounted<'a>(cx: &Context<'a>) -> Option<&'a str> {
    let set = cx.view.stateful_set.and_then(|set| at(set, "/spec/template/spec"));
    let pods = cx.view.members.iter().filter_map(|member| at(member.pod, "/spec"));
    set.into_iter().chain(pods).find_map(|spec| text(volume_of(spec)?, "/projected/sources/0/secret/name"))
}

fn volume_of(spec: &Value) -> Option<&Value> {
    list(spec, "/volumes").iter().find(|volume| volume["name"] == VOLUME)
}

/// Whether every pod speaks TLS, and each to come will: only then it can be insisted upon.
pub fn everywhere(cx: &Context<'_>) -> bool {
    let speaks = |spec: Option<&Value>| spec.is_some_and(|spec| volume_of(spec).is_some());
    let set = cx.view.stateful_set.is_none_or(|set| speaks(at(set, "/spec/template/spec")));
    set && secret(cx).is_some() && cx.view.members.iter().all(|member| speaks(at(member.pod, "/spec")))
}

/// Whether every pod, and each to come, has the passwords as files.
pub fn passwords_everywhere(cx: &Context<'_>) -> bool {
    let has = |spec: Option<&Value>| {
        let sources =
            spec.and_then(volume_of).map(|volume| list(volume, "/projected/sources")).unwrap_or_default();
        sources.iter().flat_map(|source| list(source, "/secret/items")).any(|item| item["path"] == file::APP)
    };
    let set = cx.view.stateful_set.is_none_or(|set| has(at(set, "/spec/template/spec")));
    set && cx.view.members.iter().all(|member| has(at(member.pod, "/spec")))
}

/// What the configuration of Patroni says of it: replicas verify whom they stream from, or, while some member does not speak TLS
/// yet, nobody insists.
pub fn fill(cx: &Context<'_>, file: &mut Value) {
    if everywhere(cx) {
        file["dbctl"]["verify"] = json!(true);
    } else if let Some(dynamic) = file.pointer_mut("/bootstrap/dcs") {
        plain_access(dynamic, cx.spec());
    }
}

/// Every name that a client may reach the server by.
pub fn names(cx: &Context<'_>) -> Vec<String> {
    let services = [cx.names.main(), cx.names.read_only_service(), cx.names.headless_service()];
    let ways = |service: &String| {
        let namespace = cx.namespace;
        [
            "".to_owned(),
            format!(".{namespace}"),
            format!(".{namespace}.svc"),
            format!(".{namespace}.svc.cluster.local"),
        ]
        .map(|rest| format!("{service}{rest}"))
    };
    let mut names: Vec<String> = services.iter().flat_map(ways).collect();
    // Members; without a namespace, a wildcard would stand for a whole domain.
    names.extend(ways(&services[2]).into_iter().skip(1).map(|name| format!("*.{name}")));
    names.push("localhost".to_owned());
    names
}

/// What is due.
pub fn plan(cx: &Context<'_>, now: jiff::Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    if given(cx).is_none() {
        actions.extend(own(cx, now));
    }
    actions.extend(tell(cx));
    actions.into_iter().map(Action::Secure).collect()
}

fn own(cx: &Context<'_>, now: jiff::Timestamp) -> Vec<Securing> {
    let (authority, server) = (cx.names.authority_secret(), cx.names.certificate_secret());
    let held = |name: &String| cx.observed.certificates.get(name);
    let names = names(cx);
    let (first, second) = decide(held(&authority), held(&server), &names, now);
    let mut all = Vec::new();
    match first {
        Authority::Keep => {}
        Authority::Make => all.push(Securing::MakeAuthority {
            body: cx.retained(Kind::Secret, &authority),
            before: server.clone(),
        }),
        Authority::Renew => {
            all.push(Securing::RenewAuthority { version: version(cx, &authority), name: authority.clone() });
        }
    }
    match second {
        Server::Keep => {}
        Server::Make => all.push(Securing::Certify {
            authority,
            version: version(cx, &server),
            body: cx.retained(Kind::Secret, &server),
            names,
        }),
        Server::Trust => {
            let version = version(cx, &server);
            all.push(Securing::Trust { from: authority, to: server, version, note: None });
        }
    }
    all
}

fn version(cx: &Context<'_>, name: &str) -> Option<String> {
    text(cx.observed.get(Kind::Secret, name)?, "/metadata/resourceVersion").map(str::to_owned)
}

/// Users are told whom to trust, once it is there for sure that the server speaks TLS.
fn tell(cx: &Context<'_>) -> Option<Securing> {
    let from = secret(cx)?;
    let held = cx.observed.certificates.get(&from).filter(|held| held.problem.is_none())?;
    let to = cx.names.app_secret();
    let app = cx.observed.get(Kind::Secret, &to)?;
    let trusted: Vec<&str> = held.trusted.iter().map(|trusted| trusted.fingerprint.as_str()).collect();
    let note = compare::hash(&json!(trusted));
    let told = at(app, "/metadata/annotations").and_then(|all| all.get(TOLD)?.as_str());
    if !everywhere(cx) || told == Some(note.as_str()) {
        return None;
    }
    Some(Securing::Trust { version: version(cx, &to), from, to, note: Some(note) })
}

/// Where the user's Secret cannot be used, nothing is begun with it.
pub fn blocked(cx: &Context<'_>) -> Option<Blocked> {
    let problem = unusable(cx).filter(|_| cx.view.stateful_set.is_none() && cx.view.members.is_empty())?;
    let name = given(cx)?;
    Some(Blocked {
        reason: reason::CERTIFICATE_UNUSABLE,
        message: format!(
            "Secret {name:?} of spec.tls.certificateSecret {problem}: nothing is made until it holds {CERTIFICATE}, {KEY} and \
             {TRUSTED}"
        ),
        phase: Phase::Pending,
        warning: true,
    })
}

/// What `UpToDate` says of certificates, where something is wrong with them.
pub fn verdict(cx: &Context<'_>, now: jiff::Timestamp) -> Option<Verdict> {
    if let (Some(problem), Some(name)) = (unusable(cx), given(cx)) {
        return Some(Verdict::no(
            reason::CERTIFICATE_UNUSABLE,
            format!(
                "Secret {name:?} of spec.tls.certificateSecret {problem}: members go on with what they have"
            ),
        ));
    }
    let held = |name: &String| cx.observed.certificates.get(name);
    let authority = cx.names.authority_secret();
    if let Some(problem) =
        held(&authority).filter(|_| given(cx).is_none()).and_then(|held| held.problem.as_ref())
    {
        return Some(Verdict::no(
            reason::CERTIFICATE_UNUSABLE,
            format!(
                "Secret {authority:?} {problem}, so no certificate can be renewed: restore it from a copy, or delete it, and \
                 another authority is made, which clients then have to trust"
            ),
        ));
    }
    let name = secret(cx)?;
    let end = held(&name)?.certificate.as_ref()?.not_after;
    (end <= now).then(|| {
        Verdict::no(
            reason::CERTIFICATE_EXPIRED,
            format!(
                "the certificate of Secret {name:?} ended at {end}: clients that check it refuse to connect"
            ),
        )
    })
}

/// Tells when something begins to be wrong with certificates.
pub fn event(old: &DatabaseStatus, new: &DatabaseStatus) -> Option<Event> {
    let kind = ConditionType::UpToDate.to_string();
    let wrong = |status: &DatabaseStatus| {
        let grave = [reason::CERTIFICATE_UNUSABLE, reason::CERTIFICATE_EXPIRED];
        let found = status.conditions.iter().find(|each| each.type_ == kind)?;
        grave.iter().find(|grave| **grave == found.reason).map(|grave| (*grave, found.message.clone()))
    };
    let (reason, message) = wrong(new)?;
    (wrong(old).map(|(before, _)| before) != Some(reason)).then(|| Event::warning(reason, message))
}

/// When the certificate that the server shows ends.
pub fn expiry(cx: &Context<'_>) -> Option<jiff::Timestamp> {
    Some(cx.observed.certificates.get(&secret(cx)?)?.certificate.as_ref()?.not_after)
}

/// When the first of the authorities that sign it ends which still sign anything: dbctl's own.
pub fn authority_expiry(cx: &Context<'_>) -> Option<jiff::Timestamp> {
    given(cx).is_none().then_some(())?;
    Some(cx.observed.certificates.get(&cx.names.authority_secret())?.certificate.as_ref()?.not_after)
}

/// The volume, and where it is mounted; `whole`: with what only members may have.
pub fn volume(cx: &Context<'_>, whole: bool) -> Option<Value> {
    let name = secret(cx)?;
    let keys = if whole { [CERTIFICATE, KEY, TRUSTED].as_slice() } else { &[TRUSTED] };
    let mut sources = vec![source(&name, keys)];
    if whole {
        sources.extend(passwords(cx));
    }
    Some(json!({ "name": VOLUME, "projected": { "defaultMode": MODE, "sources": sources } }))
}

fn source(name: &str, keys: &[&str]) -> Value {
    let items: Vec<Value> = keys.iter().map(|key| json!({ "key": key, "path": key })).collect();
    json!({ "secret": { "name": name, "items": items } })
}

/// The passwords, and which rotation they are of: nothing says that of Secrets that were never changed.
fn passwords(cx: &Context<'_>) -> [Value; 4] {
    let (internal, app) = (cx.names.internal_secret(), cx.names.app_secret());
    let renamed = |name: &str, key: &str, path: &str, optional: bool| {
        let mut source = json!({ "secret": { "name": name, "items": [{ "key": key, "path": path }] } });
        if optional {
            source["secret"]["optional"] = json!(true);
        }
        source
    };
    [
        source(&internal, &super::internal::ALL),
        renamed(&app, APP_PASSWORD, file::APP, false),
        renamed(&internal, ROTATION, file::INTERNAL_ROTATION, true),
        renamed(&app, ROTATION, file::APP_ROTATION, true),
    ]
}

/// Readable for the pod's group.
const MODE: i32 = 0o440;
/// Where it is mounted: one file for each key.
pub const MOUNT: &str = "/etc/dbctl/security";

/// Where [`volume`] is mounted.
pub fn mount() -> Value {
    json!({ "name": VOLUME, "mountPath": MOUNT, "readOnly": true })
}

/// The variable that says so.
pub fn variable() -> Value {
    json!({ "name": "SECURITY_DIRECTORY", "value": MOUNT })
}

/// Puts volume, mount and variable into the spec of a pod with one container.
pub fn into_pod(cx: &Context<'_>, spec: &mut Map<String, Value>, whole: bool) {
    let Some(volume) = volume(cx, whole).filter(|_| whole || everywhere(cx)) else { return };
    let add = |list: Option<&mut Value>, item: Value| {
        list.and_then(Value::as_array_mut).into_iter().for_each(|all| all.push(item.clone()));
    };
    add(spec.get_mut("volumes"), volume);
    let container = spec.get_mut("containers").and_then(|all| all.get_mut(0));
    if let Some(container) = container {
        add(container.get_mut("volumeMounts"), mount());
        add(container.get_mut("env"), variable());
    }
}
