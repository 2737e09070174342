//! Backups, their verifications, failovers, restarts, restores in place and new passwords that were asked for. Each goes on, pass
//! by pass, from what the status says of it and from what is there: a controller that starts anew asks Patroni at most once more for the same thing, which does no harm.

mod backup;
mod failover;
mod restart;
mod restore;
mod rotate;
#[cfg(test)]
mod tests;
mod verify;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::assess::Assessment;
use super::blocked::Blocked;
use super::conditions::writable;
use super::context::Context;
use super::requests::{Step, ended};
use super::rollout::Rollout;
use super::{Action, Ask, AskOutcome, Asked, inplace, major};
use crate::api::{BackupArguments, Operation, OperationPhase, Request, ResumeArguments, Verb};

/// What all of them decide by.
pub struct Turn<'t, 'a> {
    /// The Database and what there is of it.
    pub cx: &'t Context<'a>,
    /// Who may be primary.
    pub assessment: &'t Assessment,
    /// What becomes of the members' pods.
    pub rollout: &'t Rollout,
    /// Why nothing may be changed.
    pub blocked: Option<&'t Blocked>,
    /// The time.
    pub now: Timestamp,
}

impl Turn<'_, '_> {
    /// What Patroni was last asked for on behalf of this operation.
    fn asked(&self, operation: &Operation) -> Option<&Asked> {
        self.cx.observed.asked.as_ref().filter(|asked| asked.cause == operation.id)
    }

    /// Something is being asked of Patroni, for whatever cause.
    fn asking(&self) -> bool {
        self.cx.observed.asked.as_ref().is_some_and(|asked| asked.outcome == AskOutcome::UnderWay)
    }

    /// How long ago that was.
    pub(super) fn since(&self, time: Option<&Time>) -> SignedDuration {
        time.map_or(SignedDuration::ZERO, |time| self.now.duration_since(time.0))
    }

    /// How things stand, for who reads that something failed.
    fn standing(&self) -> String {
        writable(self.cx).message
    }
}

/// Takes up a request, or not.
pub fn begin(
    turn: &Turn<'_, '_>,
    operation: Operation,
    verb: Verb,
    request: &Request,
    busy: Option<&Operation>,
) -> Step {
    let started_at = Some(Time(turn.now));
    let operation = Operation { started_at, ..operation };
    // A restore that does not come to its end is left by another one, or by the way back.
    let stuck = verb == Verb::Restore && inplace::under_way(turn.cx).is_some();
    let busy = busy.filter(|busy| !(stuck && busy.kind == verb.to_string()));
    // What has halted is in its own way, and so is what is to be taken back.
    if let Some(refused) =
        in_the_way(turn, verb, busy).filter(|_| !matches!(verb, Verb::Resume | Verb::AbortUpgrade))
    {
        return rejected(turn, operation, refused);
    }
    let begun = match verb {
        Verb::Backup => {
            request.arguments(verb).map(|BackupArguments {}| backup::begin(turn, operation.clone()))
        }
        Verb::Verify => {
            request.arguments(verb).map(|arguments| verify::begin(turn, operation.clone(), &arguments))
        }
        Verb::Upgrade => request
            .arguments(verb)
            .map(|arguments| major::request::begin(turn, operation.clone(), &arguments)),
        Verb::AbortUpgrade => {
            request.arguments(verb).map(|arguments| major::request::abort(turn, operation.clone(), arguments))
        }
        Verb::Restart => {
            request.arguments(verb).map(|arguments| restart::begin(turn, operation.clone(), &arguments))
        }
        Verb::Restore => request
            .arguments(verb)
            .map(|arguments| restore::begin(turn, operation.clone(), request, &arguments)),
        Verb::RotateCredentials => {
            request.arguments(verb).map(|arguments| rotate::begin(turn, operation.clone(), arguments))
        }
        Verb::Resume => Ok(resume(turn, operation.clone(), request)),
        Verb::Failover => {
            request.arguments(verb).map(|arguments| failover::begin(turn, operation.clone(), &arguments))
        }
    };
    begun.unwrap_or_else(|error| rejected(turn, operation, error.to_string()))
}

/// A rollout that has halted goes on, by what is noted of it in this very pass; one that says so already was cut short.
fn resume(turn: &Turn<'_, '_>, operation: Operation, request: &Request) -> Step {
    if let Err(error) = request.arguments::<ResumeArguments>(Verb::Resume) {
        return rejected(turn, operation, error.to_string());
    }
    let noted = turn.rollout.note.as_ref().and_then(|note| note.resumed.as_deref());
    if turn.rollout.resumed.as_deref().or(noted) == Some(operation.id.as_str()) {
        return succeeded(turn, operation, "it goes on".to_owned());
    }
    let message = match turn.blocked {
        Some(blocked) => format!("nothing can be done with this database now: {}", blocked.message),
        None => "nothing has halted that could go on".to_owned(),
    };
    rejected(turn, operation, message)
}

/// Goes on with an operation. `request`: what asked for it, if that still stands.
pub fn go_on(turn: &Turn<'_, '_>, operation: &Operation, request: Option<&Request>) -> Step {
    let operation = operation.clone();
    if turn.cx.database.metadata.deletion_timestamp.is_some() {
        return failed(turn, operation, "the database is being deleted".to_owned());
    }
    match operation.kind.as_str() {
        "failover" => {
            let arguments = request.and_then(|request| request.arguments(Verb::Failover).ok());
            failover::go_on(turn, operation, arguments.as_ref())
        }
        "backup" => backup::go_on(turn, operation),
        "restart" => restart::go_on(turn, operation),
        "restore" => {
            let asked = request.and_then(|request| request.arguments(Verb::Restore).ok());
            restore::go_on(turn, operation, asked.as_ref())
        }
        "rotate-credentials" => rotate::go_on(turn, operation),
        "verify" => verify::go_on(turn, operation),
        "upgrade" => {
            let arguments = request.and_then(|request| request.arguments(Verb::Upgrade).ok());
            major::request::go_on(turn, operation, arguments.as_ref())
        }
        "abort-upgrade" => major::request::go_on_aborting(turn, operation),
        // Another version began it.
        _ => failed(turn, operation, "this version of dbctl does not know how to go on with it".to_owned()),
    }
}

/// What else goes on with the database.
fn in_the_way(turn: &Turn<'_, '_>, verb: Verb, busy: Option<&Operation>) -> Option<String> {
    let cx = turn.cx;
    if cx.database.metadata.deletion_timestamp.is_some() {
        return Some("the database is being deleted".to_owned());
    }
    if let Some(paused) = super::pause::refusal(cx) {
        return Some(paused);
    }
    if let Some(blocked) = turn.blocked {
        return Some(format!("nothing can be done with this database now: {}", blocked.message));
    }
    // What stands beside the data says so, whatever became of the request that began it.
    if let Some(mark) = inplace::under_way(cx).filter(|_| verb != Verb::Restore) {
        return Some(format!(
            "restore {} is under way, in which all members stop: ask again when it is done",
            mark.id
        ));
    }
    if let Some(mark) = major::active(cx).filter(|_| verb != Verb::AbortUpgrade) {
        return Some(format!(
            "the upgrade to {} is under way, in which all members stop: ask again when it is done",
            mark.to
        ));
    }
    // Without a primary, somebody has to be able to do something.
    if turn.rollout.is_moving() && !verb.is_aside() && turn.assessment.healthy_primary().is_some() {
        let what = match &turn.rollout.upgrade {
            Some(upgrade) => {
                format!("the database is being upgraded from {} to {}", upgrade.from, upgrade.to)
            }
            None => "the members' pods are being replaced".to_owned(),
        };
        return Some(format!(
            "{what}, which restarts members and moves the primary's role itself: ask again when that is done"
        ));
    }
    if let Some(busy) = busy {
        return Some(format!(
            "{} request {} is under way, and one thing is done at a time: ask again when it is done",
            busy.kind, busy.id
        ));
    }
    let asked = cx.observed.asked.as_ref().filter(|_| turn.asking())?;
    Some(format!("Patroni is busy ({}): ask again in a few seconds", doing(asked)))
}

/// What Patroni is being asked for, whatever for; in words.
pub fn asking(cx: &Context<'_>) -> Option<String> {
    let asked = cx.observed.asked.as_ref().filter(|asked| asked.outcome == AskOutcome::UnderWay)?;
    Some(format!("waiting for Patroni ({})", doing(asked)))
}

fn doing(asked: &Asked) -> String {
    let why = &asked.cause;
    match &asked.ask {
        Ask::Switchover { leader, candidate, .. } => {
            format!("the primary's role moves from {leader} to {candidate}, {why}")
        }
        Ask::Failover { candidate } => format!("{candidate} is promoted, {why}"),
        Ask::Restart { member } => format!("{member} restarts, {why}"),
    }
}

pub(super) fn rejected(turn: &Turn<'_, '_>, operation: Operation, message: String) -> Step {
    Step { operation: ended(turn, operation, OperationPhase::Rejected, message), ask: None }
}

pub(super) fn failed(turn: &Turn<'_, '_>, operation: Operation, message: String) -> Step {
    Step { operation: ended(turn, operation, OperationPhase::Failed, message), ask: None }
}

pub(super) fn succeeded(turn: &Turn<'_, '_>, operation: Operation, message: String) -> Step {
    Step { operation: ended(turn, operation, OperationPhase::Succeeded, message), ask: None }
}

/// It waits. A message that says for how long would be a write in each pass.
pub(super) fn waits(operation: Operation, message: impl Into<String>) -> Step {
    Step { operation: Operation { message: Some(message.into()), ..operation }, ask: None }
}

/// It asks Patroni for that, unless Patroni is busy: then it waits.
fn asks(turn: &Turn<'_, '_>, operation: Operation, message: String, ask: Ask) -> Step {
    let cause = operation.id.clone();
    let ask = (!turn.asking()).then_some(Action::Ask { ask, cause });
    let operation = Operation { phase: OperationPhase::Running, message: Some(message), ..operation };
    Step { operation, ask }
}
