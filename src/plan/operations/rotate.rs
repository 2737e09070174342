//! New passwords that were asked for. They are written into the Secrets, pods have those as files, and agents go by the files:
//! the primary's sets them in the data, where no session notices, and each member's Patroni logs in with them from then on.

use jiff::SignedDuration;

use super::super::backup::is_backing_up;
use super::super::certificates::passwords_everywhere;
use super::super::conditions::writable;
use super::super::requests::Step;
use super::super::secrets::{APP_PASSWORD, ROTATED, internal};
use super::super::text::at;
use super::super::{Action, Kind, Rotate};
use super::{Turn, failed, rejected, succeeded};
use crate::api::{CredentialsOf, Operation, OperationPhase, RotateArguments};

/// How long members may take: a kubelet brings a file that has changed within about a minute, at the latest.
const LIMIT: SignedDuration = SignedDuration::from_mins(5);

/// Takes it up, or says why not. The Secrets are listed as what remains.
pub fn begin(turn: &Turn<'_, '_>, operation: Operation, arguments: RotateArguments) -> Step {
    let (cx, name) = (turn.cx, turn.cx.names.0);
    let (app, own) = (cx.names.app_secret(), cx.names.internal_secret());
    let remaining = match arguments.of {
        CredentialsOf::All => vec![app, own],
        CredentialsOf::App => vec![app],
        CredentialsOf::Internal => vec![own],
    };
    if let Some(gone) = remaining.iter().find(|secret| cx.observed.get(Kind::Secret, secret).is_none()) {
        let message = format!("Secret {gone} is not there: see `dbctl status {name}`");
        return rejected(turn, operation, message);
    }
    if turn.assessment.healthy_primary().is_none() {
        let message = format!(
            "no primary is running ({}), and it is the primary that sets passwords: see `dbctl status {name}`",
            writable(cx).message
        );
        return rejected(turn, operation, message);
    }
    if !passwords_everywhere(cx) {
        let message =
            "not every pod has the passwords as files yet: ask again when all members are up to date";
        return rejected(turn, operation, message.to_owned());
    }
    if arguments.of != CredentialsOf::App && is_backing_up(cx) {
        let message = "a backup is under way, which would end with the passwords that it began with: ask again when it is done";
        return rejected(turn, operation, message.to_owned());
    }
    go_on(turn, Operation { phase: OperationPhase::Running, remaining, ..operation })
}

/// Goes on with it.
pub fn go_on(turn: &Turn<'_, '_>, operation: Operation) -> Step {
    let cx = turn.cx;
    let all: Vec<String> = operation.remaining.clone();
    if let Some(gone) = all.iter().find(|secret| cx.observed.get(Kind::Secret, secret).is_none()) {
        let message = format!("Secret {gone} is gone: see `dbctl status {}`", cx.names.0);
        return failed(turn, operation, message);
    }
    let told = |kind: Kind, name: &str| {
        let annotations = cx.observed.get(kind, name).and_then(|object| at(object, "/metadata/annotations"));
        annotations.is_some_and(|all| all[ROTATED] == operation.id.as_str())
    };
    let pods = cx.view.members.iter().map(|member| member.name.to_owned());
    let pods: Vec<String> = pods.filter(|pod| !told(Kind::Pod, pod)).collect();
    let written = all.iter().all(|secret| told(Kind::Secret, secret));
    let waits_for = waits_for(turn, &operation);
    if written && pods.is_empty() && waits_for.is_empty() {
        let message = format!("new passwords are in {}, and every member goes by them", all.join(" and "));
        return succeeded(turn, operation, message);
    }
    // Whoever becomes the primary sets them; meanwhile nobody should be kept from doing something about that.
    if turn.assessment.healthy_primary().is_none() {
        let message = format!(
            "no primary is running ({}): the next one sets the passwords that are in {}",
            writable(cx).message,
            all.join(" and ")
        );
        return failed(turn, operation, message);
    }
    if turn.since(operation.started_at.as_ref()) >= LIMIT {
        let (minutes, name) = (LIMIT.as_mins(), cx.names.0);
        let message = if written {
            let who = if waits_for.is_empty() { "the pods" } else { &waits_for.join(", ") };
            format!(
                "after {minutes} minutes, {who} did not go by the new passwords, and will once all is well: see `dbctl status {name}`"
            )
        } else {
            format!(
                "after {minutes} minutes, {} could not be written: see the events of `dbctl status {name}`",
                all.join(" and ")
            )
        };
        return failed(turn, operation, message);
    }
    let ask = (!written || !pods.is_empty()).then(|| {
        let keys = |secret: &String| {
            if *secret == cx.names.app_secret() {
                vec![APP_PASSWORD.to_owned()]
            } else {
                internal::LOGINS.map(str::to_owned).to_vec()
            }
        };
        let secrets = all.iter().map(|secret| (secret.clone(), keys(secret))).collect();
        Action::Rotate(Rotate { id: operation.id.clone(), secrets, pods })
    });
    let message = if written && !waits_for.is_empty() {
        format!("waiting for {} to go by the new passwords", waits_for.join(", "))
    } else {
        format!("writing new passwords into {}", all.join(" and "))
    };
    Step { operation: Operation { message: Some(message), ..operation }, ask }
}

/// The members that do not go by the new passwords yet: the primary, and of the others those that answer. Whoever is away sees
/// nothing else when it is back.
fn waits_for(turn: &Turn<'_, '_>, operation: &Operation) -> Vec<String> {
    let (cx, id) = (turn.cx, Some(operation.id.as_str()));
    let goes_by = |member: &str| {
        cx.observed.rotations.get(member).is_some_and(|rotations| {
            operation.remaining.iter().all(|secret| {
                let of = if *secret == cx.names.app_secret() { &rotations.app } else { &rotations.internal };
                of.as_deref() == id
            })
        })
    };
    let answers = |member: &str| cx.observed.rotations.contains_key(member);
    let primary = turn.assessment.healthy_primary().map(|primary| primary.name.clone());
    let others = cx.view.members.iter().map(|member| member.name.to_owned());
    let others = others.filter(|member| Some(member) != primary.as_ref() && answers(member));
    primary.clone().into_iter().chain(others).filter(|member| !goes_by(member)).collect()
}
