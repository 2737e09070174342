//! A major upgrade: pg_upgrade as an explicit procedure, with a mark beside the data that alone says how far it is.
//!
//! `request` answers those who ask for it, or for its end; `machine` says how it goes on; `job` makes its Jobs.

mod job;
mod machine;
pub mod request;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

#[cfg(test)]
pub use job::rehearsal;
pub use machine::undone;

use super::backup::{self, Task};
use super::blocked::Blocked;
use super::conditions::{complete, writable};
use super::context::Context;
use super::object::terminating;
use super::text::{at, text};
use super::view::LABEL_VERSION;
use super::{Action, Kind, members, scale};
use crate::api::{
    MAJOR_UPGRADE, MajorStage, MajorUpgrade, Operation, PgVersion, UpgradeProgress, Verb, Verdict, reason,
};
use job::Outcome;
use machine::{Next, Seen, State};

/// The mark of an upgrade that is under way.
pub fn active<'a>(cx: &'a Context<'_>) -> Option<&'a MajorUpgrade> {
    cx.view.major.as_ref().filter(|mark| !mark.stage.is_over())
}

/// The release whose programs members must have, while an upgrade is under way.
pub fn release(cx: &Context<'_>) -> Option<PgVersion> {
    active(cx).map(MajorUpgrade::release)
}

/// The release before, where pods of that one need its programs too. Those of a finished upgrade keep the variable until they
/// are made anew for another reason.
pub fn previous(cx: &Context<'_>, version: PgVersion) -> Option<PgVersion> {
    let mark = cx.view.major.as_ref()?;
    (mark.stage.is_forward() && mark.to == version).then_some(mark.from)
}

/// A mark that cannot be read: members wait, and nobody may guess.
pub fn blocked(cx: &Context<'_>) -> Option<Blocked> {
    let map = cx.observed.get(Kind::ConfigMap, &cx.names.dynamic_config())?;
    let error = MajorUpgrade::parse(map).err()?;
    Blocked::failed(
        reason::UPGRADING,
        format!(
            "annotation {MAJOR_UPGRADE} of ConfigMap {:?}, which says how far a major upgrade is, cannot be read ({error}): put it \
             right, or, if none was under way, take it away",
            cx.names.dynamic_config()
        ),
    )
}

/// What is done now about an upgrade that is under way.
pub fn plan(cx: &Context<'_>, now: Timestamp) -> Vec<Action> {
    let Some(state) = state(cx, now) else { return Vec::new() };
    match machine::next(&state) {
        Next::Mark(mark) => note(cx, &mark, json!({})).into_iter().collect(),
        Next::Return(mark) => {
            let initialize = json!({ "initialize": mark.initialize });
            note(cx, &mark, initialize).into_iter().collect()
        }
        Next::Replace(pods) => pods.iter().filter_map(|pod| replace(cx, pod)).collect(),
        Next::Clear => {
            cx.names.patroni_objects().iter().filter_map(|name| forget(cx, name, |_| true)).collect()
        }
        Next::Unlock => {
            forget(cx, &cx.names.leader(), |key| key == crate::patroni::LEADER).into_iter().collect()
        }
        Next::Wait(_) => after(cx, &state.mark).into_iter().collect(),
    }
}

/// The first backup of the new release, as soon as it can be written to.
fn after(cx: &Context<'_>, mark: &MajorUpgrade) -> Option<Action> {
    let id = job::after(&mark.id);
    let due = mark.stage == MajorStage::Opened && mark.writable_at.is_some() && complete(cx);
    let absent = matches!(job::outcome(cx, &cx.names.backup_job(&id)), Outcome::Absent);
    let listed = backup::catalog(cx).is_some_and(|catalog| catalog.for_request(&id).is_some());
    (due && absent && !listed).then(|| job::backup(cx, Task::Backup, &id, None))?
}

fn backed_up(cx: &Context<'_>, mark: &MajorUpgrade) -> bool {
    let id = job::after(&mark.id);
    backup::enabled(cx).is_none()
        || backup::catalog(cx).is_some_and(|catalog| catalog.for_request(&id).is_some())
        || matches!(job::outcome(cx, &cx.names.backup_job(&id)), Outcome::Failed(_) | Outcome::Foreign)
}

fn replace(cx: &Context<'_>, pod: &str) -> Option<Action> {
    let member = cx.view.member(pod)?;
    let uid = super::uid_of(member.pod).map(str::to_owned);
    Some(Action::Delete { kind: Kind::Pod, name: pod.to_owned(), uid })
}

/// Writes the mark, and other annotations beside it, in one.
pub fn note(cx: &Context<'_>, mark: &MajorUpgrade, beside: Value) -> Option<Action> {
    let name = cx.names.dynamic_config();
    let map = cx.observed.get(Kind::ConfigMap, &name)?;
    let mut annotations = beside.as_object().cloned().unwrap_or_default();
    annotations.insert(MAJOR_UPGRADE.to_owned(), json!(serde_json::to_string(mark).unwrap_or_default()));
    Some(Action::Annotate {
        version: text(map, "/metadata/resourceVersion").map(str::to_owned),
        name,
        annotations,
    })
}

/// What Patroni has written into one of its objects, but for what it runs by.
fn patronis<'a>(cx: &Context<'a>, name: &str) -> Vec<&'a str> {
    let map = cx.observed.get(Kind::ConfigMap, name);
    let annotations = map.and_then(|map| at(map, "/metadata/annotations")).and_then(Value::as_object);
    let keys = annotations.into_iter().flatten().map(|(key, _)| key.as_str());
    // Others' keys have a domain.
    keys.filter(|key| !key.contains('/') && *key != "config").collect()
}

fn forget(cx: &Context<'_>, name: &str, which: impl Fn(&str) -> bool) -> Option<Action> {
    let map = cx.observed.get(Kind::ConfigMap, name)?;
    let keys = patronis(cx, name).into_iter().filter(|key| which(key));
    let annotations: Map<String, Value> = keys.map(|key| (key.to_owned(), Value::Null)).collect();
    if annotations.is_empty() {
        return None;
    }
    let version = text(map, "/metadata/resourceVersion").map(str::to_owned);
    Some(Action::Annotate { name: name.to_owned(), version, annotations })
}

fn state(cx: &Context<'_>, now: Timestamp) -> Option<State> {
    let mark = active(cx)?.clone();
    let seen = |member: &super::Member<'_>| Seen {
        name: member.name.to_owned(),
        release: member.version().and_then(|version| version.parse().ok()),
        terminating: terminating(member.pod),
        report: cx.observed.majors.get(member.name).filter(|report| report.id == mark.id).cloned(),
    };
    let live = cx.view.stateful_replicas().unwrap_or_else(|| scale::members(cx));
    let written = cx.view.stateful_set.and_then(|set| {
        at(set, "/spec/template/metadata/labels")?.get(LABEL_VERSION)?.as_str()?.parse().ok()
    });
    let runs = cx.view.running_primary().filter(|_| writable(cx).status == Some(true));
    Some(State {
        members: cx.view.members.iter().map(seen).collect(),
        expected: (0..live).map(|ordinal| cx.names.member(ordinal)).collect(),
        template: written,
        cleared: cx.names.patroni_objects().iter().all(|name| patronis(cx, name).is_empty()),
        unlocked: cx.view.lock.holder.is_none(),
        initialize: cx.view.config.initialize.clone(),
        primary: runs.map(|primary| primary.name.to_owned()),
        complete: complete(cx),
        backed_up: backed_up(cx, &mark),
        now,
        mark,
    })
}

/// What it is at, in words.
pub fn words(cx: &Context<'_>, now: Timestamp) -> Option<String> {
    let state = state(cx, now)?;
    let going = match machine::next(&state) {
        Next::Wait(words) => words,
        Next::Replace(pods) => format!("{} stop", pods.join(", ")),
        Next::Clear => "Patroni's objects forget the old data".to_owned(),
        Next::Mark(_) | Next::Return(_) | Next::Unlock => "going on".to_owned(),
    };
    Some(match &state.mark.reason {
        Some(reason) => format!("taken back ({reason}): {going}"),
        None => going,
    })
}

/// What `Ready` says while it is under way.
pub fn verdict(cx: &Context<'_>) -> Option<Verdict> {
    let mark = active(cx)?;
    let (from, to) = (mark.from, mark.to);
    Some(Verdict::no(
        reason::UPGRADING,
        if mark.stage.is_forward() {
            format!("being upgraded from {from} to {to}: {:?}", mark.stage)
        } else {
            format!("the upgrade from {from} to {to} is being taken back: {:?}", mark.stage)
        },
    ))
}

/// What the status tells of it, from when it was asked for.
pub fn progress(cx: &Context<'_>, operations: &[Operation]) -> Option<UpgradeProgress> {
    let running = |operation: &&Operation| {
        operation.kind == Verb::Upgrade.to_string() && operation.phase.is_under_way()
    };
    let operation = operations.iter().find(running);
    if let Some(mark) = active(cx) {
        return Some(UpgradeProgress {
            from: mark.from.to_string(),
            to: mark.to.to_string(),
            step: format!("{:?}", mark.stage),
            pod: mark.member.clone(),
            message: operation.and_then(|operation| operation.message.clone()),
            started_at: Some(Time(mark.closed_at)),
        });
    }
    let operation = operation?;
    Some(UpgradeProgress {
        from: members::version(cx).to_string(),
        to: cx.spec().version.to_string(),
        step: "Preparing".to_owned(),
        pod: None,
        message: operation.message.clone(),
        started_at: operation.started_at.clone(),
    })
}

/// Seconds for which nobody could write.
pub fn downtime(mark: &MajorUpgrade) -> Option<f64> {
    let millis = mark.writable_at?.duration_since(mark.closed_at).as_millis().max(0);
    Some(f64::from(i32::try_from(millis).unwrap_or(i32::MAX)) / 1000.0)
}
