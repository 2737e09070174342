//! Requests: annotations that ask for something once. Each is answered in `status.operations`, and none is ever answered
//! twice: what was answered stays listed for as long as its annotation is there. What takes longer goes on from what the
//! status says of it, whether or not its annotation still stands.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ring::digest;

use super::context::Context;
use super::operations::{Turn, begin, go_on};
use super::pause::is_paused;
use super::{Action, Event};
use crate::api::{DatabaseStatus, Found, Operation, OperationPhase, Verb, requests};

/// How many operations the status keeps.
const KEPT: usize = 10;

/// What becomes of the requests in this pass.
pub struct Answers {
    /// The operations to list, newest first.
    pub operations: Vec<Operation>,
    /// What one of them asks Patroni for now.
    pub ask: Option<Action>,
    /// The Jobs that others are to have.
    pub jobs: Vec<Action>,
}

impl Answers {
    /// One that nothing else may be done beside is not at its end yet.
    pub fn busy(&self) -> bool {
        self.operations.iter().any(excludes)
    }
}

fn under_way(operation: &Operation) -> bool {
    operation.phase.is_under_way()
}

/// While it is under way, nothing else may be done. A backup, or its verification, takes long, disturbs nobody, and must not
/// keep anybody from moving a role.
fn excludes(operation: &Operation) -> bool {
    under_way(operation) && !operation.kind.parse().is_ok_and(Verb::is_aside)
}

/// What is under way, or has just been asked for, that nothing else may be done beside; in words.
pub fn busy(cx: &Context<'_>, now: jiff::Timestamp) -> Option<String> {
    let old = cx.database.status.as_ref().map(|status| status.operations.as_slice()).unwrap_or_default();
    if let Some(operation) = old.iter().find(|operation| excludes(operation)) {
        return Some(format!("waiting until the {} that was asked for is done", operation.kind));
    }
    let annotations = cx.database.metadata.annotations.as_ref()?;
    let fresh =
        requests(annotations).into_iter().filter_map(|(.., parsed)| parsed.ok()).find(|(verb, request)| {
            let id = request.id.to_string();
            let aside = verb.is_aside() || *verb == Verb::Resume;
            !aside
                && request.check(*verb, cx.uid, now).is_ok()
                && old.iter().all(|operation| operation.id != id)
        });
    fresh.map(|(verb, _)| format!("waiting until the {verb} that was asked for is answered"))
}

/// Answers what is new, and goes on with what is under way.
pub fn plan(turn: &Turn<'_, '_>) -> Answers {
    let cx = turn.cx;
    let old = cx.database.status.as_ref().map(|status| status.operations.as_slice()).unwrap_or_default();
    let annotations = cx.database.metadata.annotations.clone().unwrap_or_default();
    let found = requests(&annotations);
    let (mut ask, mut jobs) = (None, Vec::new());
    let mut take = |action: Option<Action>| match action {
        Some(job @ Action::Create(..)) => jobs.push(job),
        other => ask = ask.take().or(other),
    };
    let mut operations: Vec<Operation> = Vec::new();
    for operation in old {
        // Of what is under way when a pause begins, nothing is asked for until it is over.
        if under_way(operation) && !is_paused(cx) {
            let mut good = found.iter().filter_map(|(_, _, parsed)| parsed.as_ref().ok());
            let request = good.find(|(_, request)| request.id.to_string() == operation.id);
            let step = go_on(turn, operation, request.map(|(_, request)| request));
            take(step.ask);
            operations.push(step.operation);
        } else {
            operations.push(operation.clone());
        }
    }

    let active = operations.iter().filter(|operation| under_way(operation)).count();
    // More than fit at once are left for later, or their answers would push each other out for ever.
    let mut fresh = 0;
    for found in found.iter().take(KEPT.saturating_sub(active)) {
        if operations.iter().all(|operation| operation.id != id(found)) {
            let same = |other: &Operation| {
                let asked = found.2.as_ref().ok().map(|(verb, _)| verb).filter(|verb| verb.is_aside());
                under_way(other) && asked.is_some_and(|verb| other.kind == verb.to_string())
            };
            let busy = operations.iter().find(|other| excludes(other) || same(other)).cloned();
            let step = answer(turn, found, busy.as_ref());
            take(step.ask);
            operations.insert(fresh, step.operation);
            fresh += 1;
        }
    }
    let current: BTreeSet<String> = found.iter().take(KEPT).map(id).collect();
    Answers { operations: kept(operations, &current), ask, jobs }
}

/// The newest, and all those that must not be forgotten: they are under way, or their annotation still stands.
fn kept(operations: Vec<Operation>, current: &BTreeSet<String>) -> Vec<Operation> {
    let needed = |operation: &Operation| under_way(operation) || current.contains(&operation.id);
    let room = KEPT.saturating_sub(operations.iter().filter(|operation| needed(operation)).count());
    let mut past = 0;
    let mut keep = |operation: &Operation| {
        let needed = needed(operation);
        past += usize::from(!needed);
        needed || past <= room
    };
    operations.into_iter().filter(|operation| keep(operation)).take(KEPT).collect()
}

/// The id of its answer. A request that cannot be read has none; the same text always gets the same one.
fn id((kind, raw, parsed): &Found) -> String {
    match parsed {
        Ok((_, request)) => request.id.to_string(),
        Err(_) => {
            let digest = digest::digest(&digest::SHA256, format!("{kind}={raw}").as_bytes());
            let hash: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("unreadable-{hash}")
        }
    }
}

/// What becomes of an operation in this pass.
pub struct Step {
    /// As it is to be listed.
    pub operation: Operation,
    /// What it asks Patroni for now, or the Job that it is to have.
    pub ask: Option<Action>,
}

fn answer(turn: &Turn<'_, '_>, found: &Found, busy: Option<&Operation>) -> Step {
    let (kind, _, parsed) = found;
    let operation = Operation { id: id(found), kind: kind.clone(), ..Operation::default() };
    let refused = match parsed {
        Err(error) => error.to_string(),
        Ok((verb, request)) => match request.check(*verb, turn.cx.uid, turn.now) {
            Err(error) => error.to_string(),
            Ok(()) => return begin(turn, operation, *verb, request, busy),
        },
    };
    Step { operation: ended(turn, operation, OperationPhase::Rejected, refused), ask: None }
}

/// The operation, at its end.
pub fn ended(turn: &Turn<'_, '_>, operation: Operation, phase: OperationPhase, message: String) -> Operation {
    let finished_at = Some(Time(turn.now));
    Operation { phase, message: Some(message), finished_at, step_started_at: None, ..operation }
}

/// Completes what a failover says at its end by how long nobody could write: the record of that is made in the same pass.
pub fn complete(old: Option<&DatabaseStatus>, new: &mut DatabaseStatus) {
    let before = old.map(|status| status.operations.as_slice()).unwrap_or_default();
    let newest = new.failovers.first().cloned();
    for operation in &mut new.operations {
        let fresh = before.iter().all(|old| old.id != operation.id || under_way(old));
        let moved = newest.as_ref().filter(|_| fresh && operation.phase == OperationPhase::Succeeded);
        let moved = moved.filter(|moved| {
            // A switchover that no pass saw begin is recorded from when the lock moved.
            let during = moved.writable_at.as_ref().zip(operation.started_at.as_ref());
            operation.kind == "failover"
                && operation.from != operation.to
                && operation.to.as_ref() == Some(&moved.to)
                && during.is_some_and(|(writable, began)| writable.0 >= began.0)
        });
        if let (Some(seconds), Some(message)) =
            (moved.and_then(|moved| moved.duration_seconds), operation.message.as_mut())
        {
            message.push_str(&format!("; writes were down for {seconds:.1} s"));
        }
    }
}

/// Events for those that came to their end.
pub fn events(old: Option<&DatabaseStatus>, new: &DatabaseStatus) -> Vec<Event> {
    let before = old.map(|status| status.operations.as_slice()).unwrap_or_default();
    let fresh = |operation: &&Operation| {
        // That one was completed, or found to be good, is told of the backup itself, whoever asked for it.
        let aside = operation.kind.parse().is_ok_and(Verb::is_aside);
        let told = aside && operation.phase == OperationPhase::Succeeded;
        !told && !under_way(operation) && before.iter().all(|old| old.id != operation.id || under_way(old))
    };
    new.operations.iter().filter(fresh).map(event).collect()
}

fn event(operation: &Operation) -> Event {
    let Operation { id, kind, phase, message, .. } = operation;
    let verb = match kind.as_str() {
        "backup" => "Backup",
        "failover" => "Failover",
        "restart" => "Restart",
        "restore" => "Restore",
        "resume" => "Resume",
        "upgrade" => "Upgrade",
        "abort-upgrade" => "UpgradeAbort",
        "rotate-credentials" => "Rotation",
        "verify" => "Verification",
        _ => "Request",
    };
    let message = format!("{kind} request {id}: {}", message.as_deref().unwrap_or_default());
    Event { warning: *phase != OperationPhase::Succeeded, reason: format!("{verb}{phase:?}"), message }
}
