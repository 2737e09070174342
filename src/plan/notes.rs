//! What is noted beside the data, on Patroni's `NAME-config`: a Database and its StatefulSet go, the data and what must be
//! known of it stay. Patroni, which writes the rest of the object, leaves foreign annotations alone.

use serde_json::{Map, Value, json};

use super::context::Context;
use super::object::{terminating, uid_of};
use super::ownership::{Owner, owner};
use super::release::{self, RELEASE};
use super::rollout::{Note, ROLLOUT};
use super::text::at;
use super::view::Member;
use super::{Action, Apply, Kind, backup};

/// Annotation with the id of the archive that the data's WAL goes to.
pub const ARCHIVE: &str = "db.example.com/archive-id";

/// Annotation of a claim with the system identifier of the data in its volume.
pub const SYSTEM: &str = "db.example.com/system-identifier";

/// Notes on each claim whose data it holds: a claim may outlive all else, or be carried elsewhere. Only of members that run,
/// since Patroni runs none on another database's data.
pub fn claims(cx: &Context<'_>) -> Vec<Action> {
    let Some(identifier) = cx.view.config.initialize.as_deref().filter(|id| !id.is_empty()) else {
        return Vec::new();
    };
    let running = cx.view.members.iter().filter(|member| member.is_running_primary() || member.streams());
    let stamp = |member: &Member<'_>| {
        let name = cx.names.claim(member.ordinal);
        let claim = cx.observed.get(Kind::PersistentVolumeClaim, &name)?;
        let ours = owner(cx, Kind::PersistentVolumeClaim, claim) == Owner::Ours && !terminating(claim);
        let release = member.version();
        let noted = |key: &str| at(claim, "/metadata/annotations")?.get(key)?.as_str();
        if !ours || (noted(SYSTEM) == Some(identifier) && noted(RELEASE) == release) {
            return None;
        }
        let patch = json!({ "metadata": { "annotations": { SYSTEM: identifier, RELEASE: release } } });
        Some(Action::PatchClaim { name, uid: uid_of(claim).map(str::to_owned), patch })
    };
    running.filter_map(stamp).collect()
}

/// The id of the archive: what was noted once, else the Database's own UID. Patroni's object may have been lost, so it is
/// noted on `NAME-backups` too.
pub fn archive<'a>(cx: &Context<'a>) -> &'a str {
    let noted = |name: String| recorded(cx, &name, ARCHIVE).filter(|id| !id.is_empty());
    noted(cx.names.dynamic_config()).or_else(|| noted(cx.names.backups())).unwrap_or(cx.uid)
}

/// A note on the ConfigMap of that name.
pub fn recorded<'a>(cx: &Context<'a>, name: &str, key: &str) -> Option<&'a str> {
    at(cx.observed.get(Kind::ConfigMap, name)?, "/metadata/annotations")?.get(key)?.as_str()
}

/// Notes what is not noted yet. All of it in one write: what an apply leaves out, it takes away.
pub fn plan(cx: &Context<'_>, rollout: Option<&Note>) -> Option<Action> {
    let name = cx.names.dynamic_config();
    let uid = uid_of(cx.observed.get(Kind::ConfigMap, &name)?)?.to_owned();
    let noted = |key: &str| recorded(cx, &name, key).map(str::to_owned);
    // One of another version that cannot be read is not taken away either.
    let release = release::running(cx).map(|running| running.to_string()).or_else(|| noted(RELEASE));
    let wanted = backup::enabled(cx).map(|_| archive(cx).to_owned()).filter(|id| !id.is_empty());
    let archive = wanted.or_else(|| noted(ARCHIVE));
    // Written and read again, so that what another version wrote otherwise is no difference.
    let rollout =
        if Note::of(cx).as_ref() == rollout { noted(ROLLOUT) } else { rollout.and_then(Note::text) };
    let notes = [(RELEASE, release), (ARCHIVE, archive), (ROLLOUT, rollout)];
    if notes.iter().all(|(key, note)| *note == noted(key)) {
        return None;
    }
    let notes = notes.into_iter().filter_map(|(key, note)| Some((key.to_owned(), Value::String(note?))));
    let mut body = cx.retained(Kind::ConfigMap, &name);
    body["metadata"]["annotations"] = Value::Object(notes.collect::<Map<_, _>>());
    Some(Action::Apply(Apply { kind: Kind::ConfigMap, body, uid: Some(uid), leader_below: None }))
}
