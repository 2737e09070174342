//! Requests for a major upgrade, and for its end. Up to the mark nothing is disturbed: a rehearsal, a backup, its
//! verification. From then on the mark says how it goes on, and the request only tells of it.

use jiff::SignedDuration;

use super::job::{self, Outcome, outcome};
use super::{active, downtime, note, undone, words};
use crate::api::{
    AbortUpgradeArguments, MajorStage, MajorUpgrade, Operation, OperationPhase, PgVersion, UpgradeArguments,
    Verb,
};
use crate::plan::Action;
use crate::plan::backup::{self, Task};
use crate::plan::conditions::complete;
use crate::plan::context::Context;
use crate::plan::members;
use crate::plan::operations::{Turn, failed, rejected, succeeded, waits};
use crate::plan::requests::Step;

/// For how long a Job is made that is not there yet.
const LIMIT: SignedDuration = SignedDuration::from_hours(1);

/// Why it cannot be upgraded to that release.
pub fn unfit(from: PgVersion, to: PgVersion) -> Option<String> {
    let (old, new) = (from.major(), to.major());
    if new == old {
        return Some(format!(
            "{from} and {to} are releases of one major version: that takes no major upgrade"
        ));
    }
    if new < old {
        return Some(format!(
            "{to} is older than {from}, and data never goes back to an older major version"
        ));
    }
    if new == old + 1 {
        return None;
    }
    let steps: Vec<String> = (old + 1..=new).map(|major| major.to_string()).collect();
    Some(format!(
        "from {from} to {to} is more than one major version: go through {}, one after the other",
        steps.join(", ")
    ))
}

/// Takes it up, or says why not.
pub fn begin(turn: &Turn<'_, '_>, operation: Operation, arguments: &UpgradeArguments) -> Step {
    let cx = turn.cx;
    let (from, to, name) = (members::version(cx), arguments.to, cx.names.0);
    if let Some(mark) = active(cx) {
        return rejected(turn, operation, format!("an upgrade to {} is under way", mark.to));
    }
    if let Some(unfit) = unfit(from, to) {
        return rejected(turn, operation, unfit);
    }
    if cx.spec().version != to {
        let message = format!(
            "spec.version is {}, not {to}: what is asked for must be what is wanted",
            cx.spec().version
        );
        return rejected(turn, operation, message);
    }
    if cx.view.running_primary().is_none() || !complete(cx) {
        let message = format!(
            "every member must be there and up to date with the primary first: see `dbctl status {name}`"
        );
        return rejected(turn, operation, message);
    }
    if backup::enabled(cx).is_none() && !arguments.without_backup {
        let message = format!(
            "backups of {name} are off, and an upgrade begins with one: set spec.backup, or go without (--without-backup)"
        );
        return rejected(turn, operation, message);
    }
    let from = cx.view.running_primary().map(|primary| primary.name.to_owned());
    go_on(turn, Operation { phase: OperationPhase::Running, from, ..operation }, Some(arguments))
}

/// Goes on with it.
pub fn go_on(turn: &Turn<'_, '_>, operation: Operation, arguments: Option<&UpgradeArguments>) -> Step {
    let cx = turn.cx;
    if let Some(mark) = cx.view.major.as_ref().filter(|mark| mark.id == operation.id) {
        return told(turn, operation, mark);
    }
    let Some(arguments) = arguments else {
        return failed(turn, operation, "the request is gone; nothing was changed".to_owned());
    };
    if is_asked(cx, Verb::AbortUpgrade) {
        return failed(turn, operation, "aborted before anything was changed".to_owned());
    }
    match prepare(turn, &operation, arguments) {
        Prepared::Waits(words, action) => Step { ask: action, ..waits(operation, words) },
        Prepared::Failed(words) => failed(turn, operation, format!("{words}; nothing was changed")),
        Prepared::Ready => {
            let ready = cx.view.running_primary().is_some() && complete(cx);
            match cx.view.config.initialize.clone().filter(|id| ready && !id.is_empty()) {
                Some(initialize) => {
                    let mark = MajorUpgrade {
                        id: operation.id.clone(),
                        from: members::version(cx),
                        to: arguments.to,
                        stage: MajorStage::Stopping,
                        link: arguments.link,
                        initialize,
                        member: None,
                        system_identifier: None,
                        took: None,
                        reason: None,
                        closed_at: turn.now,
                        writable_at: None,
                    };
                    Step {
                        ask: note(cx, &mark, serde_json::json!({})),
                        ..waits(operation, "all members stop")
                    }
                }
                None => {
                    waits(operation, "waiting until every member is there and up to date with the primary")
                }
            }
        }
    }
}

fn is_asked(cx: &Context<'_>, verb: Verb) -> bool {
    let operations =
        cx.database.status.as_ref().map(|status| status.operations.as_slice()).unwrap_or_default();
    operations.iter().any(|other| other.kind == verb.to_string() && other.phase.is_under_way())
}

enum Prepared {
    Waits(String, Option<Action>),
    Failed(String),
    Ready,
}

/// The rehearsal, the backup and its verification, one after the other.
fn prepare(turn: &Turn<'_, '_>, operation: &Operation, arguments: &UpgradeArguments) -> Prepared {
    let (cx, id) = (turn.cx, operation.id.as_str());
    let late = turn.since(operation.started_at.as_ref()) >= LIMIT;
    let name = job::rehearsal_name(cx, id);
    match outcome(cx, &name) {
        Outcome::Absent if late => return Prepared::Failed(format!("Job {name} is gone")),
        Outcome::Absent => {
            let Some(host) = cx.view.running_primary().and_then(|primary| primary.address()) else {
                return Prepared::Waits("waiting for the primary".to_owned(), None);
            };
            let job = job::rehearsal(cx, id, host, members::version(cx), arguments.to);
            return Prepared::Waits(format!("Job {name} is made"), Some(job));
        }
        Outcome::Active => {
            let words = format!("rehearsing with the schema alone (Job {name})");
            return Prepared::Waits(words, None);
        }
        Outcome::Failed(words) => return Prepared::Failed(format!("the rehearsal failed: {words}")),
        Outcome::Foreign => return foreign(&name),
        Outcome::Done => {}
    }
    if backup::enabled(cx).is_none() {
        return if arguments.without_backup {
            Prepared::Ready
        } else {
            Prepared::Failed("backups were turned off".to_owned())
        };
    }
    let catalog = backup::catalog(cx).unwrap_or_default();
    let name = cx.names.backup_job(id);
    let Some(entry) = catalog.for_request(id) else {
        return match outcome(cx, &name) {
            Outcome::Absent if !late => {
                Prepared::Waits(format!("Job {name} is made"), job::backup(cx, Task::Backup, id, None))
            }
            Outcome::Absent => Prepared::Failed(format!("Job {name} is gone, and no backup of it is listed")),
            Outcome::Active => Prepared::Waits(format!("a backup is being taken (Job {name})"), None),
            Outcome::Done => Prepared::Waits("waiting until the backup is listed".to_owned(), None),
            Outcome::Failed(words) => Prepared::Failed(format!("no backup could be taken: {words}")),
            Outcome::Foreign => foreign(&name),
        };
    };
    if let Some(problem) = &entry.verify_problem {
        return Prepared::Failed(format!("backup {} is damaged: failed to {problem}", entry.id));
    }
    if entry.verified_at.is_some() {
        return Prepared::Ready;
    }
    let name = cx.names.verify_job(id);
    match outcome(cx, &name) {
        Outcome::Absent if !late => {
            let job = job::backup(cx, Task::Verify, id, Some(&entry.id));
            Prepared::Waits(format!("Job {name} is made"), job)
        }
        Outcome::Absent => Prepared::Failed(format!("Job {name} is gone")),
        Outcome::Active => Prepared::Waits(format!("the backup is being verified (Job {name})"), None),
        Outcome::Done => {
            Prepared::Waits("waiting until what was found of the backup is listed".to_owned(), None)
        }
        Outcome::Failed(words) => Prepared::Failed(format!("the backup could not be verified: {words}")),
        Outcome::Foreign => foreign(&name),
    }
}

fn foreign(name: &str) -> Prepared {
    Prepared::Failed(format!("Job {name:?} exists and does not belong to this Database"))
}

/// The request tells what the mark says.
fn told(turn: &Turn<'_, '_>, operation: Operation, mark: &MajorUpgrade) -> Step {
    let down =
        downtime(mark).map_or_else(String::new, |seconds| format!("; writes were down for {seconds:.1} s"));
    let took = mark.took.as_ref().map_or_else(String::new, |took| format!(", {took}"));
    match mark.stage {
        MajorStage::Finished => {
            let after = match outcome(turn.cx, &turn.cx.names.backup_job(&job::after(&mark.id))) {
                Outcome::Failed(words) => format!("; its first backup failed: {words}"),
                _ => String::new(),
            };
            let behind = turn.cx.observed.majors.values().find(|report| {
                report.id == mark.id
                    && report.state == crate::agent::MajorState::Finished
                    && !report.words.is_empty()
            });
            let behind = behind.map_or_else(String::new, |report| format!("; {}", report.words));
            succeeded(
                turn,
                operation,
                format!("upgraded from {} to {}{down}{took}{after}{behind}", mark.from, mark.to),
            )
        }
        MajorStage::Undone => {
            let why = mark.reason.as_deref().unwrap_or("it was aborted");
            let message = format!("taken back, and {} runs as before: {why}{down}", mark.from);
            failed(turn, operation, message)
        }
        _ => waits(operation, words(turn.cx, turn.now).unwrap_or_default()),
    }
}

/// Takes up a request to take an upgrade back.
pub fn abort(turn: &Turn<'_, '_>, operation: Operation, _: AbortUpgradeArguments) -> Step {
    let running = Operation { phase: OperationPhase::Running, ..operation };
    if active(turn.cx).is_none() && !is_asked(turn.cx, Verb::Upgrade) {
        return rejected(turn, running, "no major upgrade is under way".to_owned());
    }
    go_on_aborting(turn, running)
}

/// Goes on with that.
pub fn go_on_aborting(turn: &Turn<'_, '_>, operation: Operation) -> Step {
    let Some(mark) = turn.cx.view.major.as_ref() else {
        return if is_asked(turn.cx, Verb::Upgrade) {
            waits(operation, "it ends before anything is changed")
        } else {
            succeeded(turn, operation, "it was ended before anything was changed".to_owned())
        };
    };
    match mark.stage {
        stage if stage.can_be_undone() => {
            let mark = undone(mark, "it was aborted".to_owned());
            Step {
                ask: note(turn.cx, &mark, serde_json::json!({})),
                ..waits(operation, "it is being taken back")
            }
        }
        MajorStage::Undoing | MajorStage::Returning => {
            waits(operation, words(turn.cx, turn.now).unwrap_or_default())
        }
        MajorStage::Undone => succeeded(turn, operation, format!("taken back: {} runs as before", mark.from)),
        // A finished one may be an earlier one's mark.
        MajorStage::Finished if is_asked(turn.cx, Verb::Upgrade) => {
            waits(operation, "it ends before anything is changed")
        }
        _ => rejected(
            turn,
            operation,
            format!(
                "the new primary has been started on data of {}, and what is written there would be lost: restore the backup that was \
                 taken before, if that is what is wanted",
                mark.to
            ),
        ),
    }
}
