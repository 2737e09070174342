//! A backup that was asked for: one Job, whose name is the request's, and what came of it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::backup::{self, Run, RunState, Task};
use super::super::requests::Step;
use super::{Turn, failed, rejected, succeeded, waits};
use crate::api::{Operation, OperationPhase};
use crate::plan::Kind;

/// For how long a Job is made that is not there yet: as long as a request may be taken up.
const LIMIT: SignedDuration = SignedDuration::from_hours(1);
/// How long after a Job's end its backup is looked for in the catalog, which another watch tells of.
const LISTED: SignedDuration = SignedDuration::from_secs(30);

/// Takes it up, or says why not.
pub fn begin(turn: &Turn<'_, '_>, operation: Operation) -> Step {
    let (cx, name) = (turn.cx, turn.cx.names.0);
    if backup::enabled(cx).is_none() {
        let message = format!(
            "backups of {name} are off: set spec.backup with enabled, a destination and a schedule, as in \
             `kubectl explain database.spec.backup`"
        );
        return rejected(turn, operation, message);
    }
    // Its own may have been made by a pass that could not write the status.
    let own = cx.names.backup_job(&operation.id);
    let others = backup::runs(cx, Task::Backup).into_iter().filter(|run| run.name != own);
    let running = others.into_iter().find(|run| run.state == RunState::Active);
    if let Some(run) = running {
        let message = format!(
            "another backup is being taken ({}): ask again when it is done, or wait for that one with `dbctl backups {name}`",
            run.story(cx)
        );
        return rejected(turn, operation, message);
    }
    let Some(primary) = cx.view.running_primary() else {
        let message = format!("no primary is running, and a backup needs one to end: {}", turn.standing());
        return rejected(turn, operation, message);
    };
    let from = Some(primary.name.to_owned());
    go_on(turn, Operation { phase: OperationPhase::Running, from, ..operation })
}

/// Goes on with it.
pub fn go_on(turn: &Turn<'_, '_>, operation: Operation) -> Step {
    let cx = turn.cx;
    let name = cx.names.backup_job(&operation.id);
    if cx.observed.get(Kind::Job, &name).is_none() {
        return without_job(turn, operation, &name);
    }
    let Some(run) = backup::runs(cx, Task::Backup).into_iter().find(|run| run.name == name) else {
        let message = format!("Job {name:?} exists and does not belong to this Database: it is not touched");
        return failed(turn, operation, message);
    };
    // It was seen, so it is not made again should somebody delete it.
    let step_started_at = operation.step_started_at.clone().or(Some(Time(turn.now)));
    let operation = Operation { step_started_at, ..operation };
    match run.state {
        RunState::Active => waits(operation, run.story(cx)),
        RunState::Complete(at) => ended_well(turn, operation, &run, at),
        RunState::Failed(_) => {
            let message = run.words(cx);
            failed(turn, operation, message)
        }
    }
}

/// Whether the catalog lists the backup that the request asked for.
fn listed(turn: &Turn<'_, '_>, operation: &Operation) -> Option<String> {
    let catalog = backup::catalog(turn.cx)?;
    catalog.for_request(&operation.id).map(backup::summary)
}

fn without_job(turn: &Turn<'_, '_>, operation: Operation, name: &str) -> Step {
    if let Some(summary) = listed(turn, &operation) {
        return succeeded(turn, operation, summary);
    }
    let late = turn.since(operation.started_at.as_ref()) >= LIMIT;
    match backup::enabled(turn.cx) {
        Some(wanted) if operation.step_started_at.is_none() && !late => {
            let job = backup::requested(turn.cx, &wanted, Task::Backup, &operation.id, None);
            Step { ask: Some(job), ..waits(operation, format!("Job {name} is made")) }
        }
        None if operation.step_started_at.is_none() => {
            failed(turn, operation, "backups were turned off before it began".to_owned())
        }
        _ => failed(turn, operation, format!("Job {name} is gone, and no backup of it is listed")),
    }
}

fn ended_well(turn: &Turn<'_, '_>, operation: Operation, run: &Run<'_>, at: Timestamp) -> Step {
    if let Some(summary) = listed(turn, &operation) {
        return succeeded(turn, operation, summary);
    }
    if turn.now.duration_since(at) < LISTED {
        return waits(operation, format!("Job {} is done; waiting until its backup is listed", run.name));
    }
    let map = turn.cx.names.backups();
    succeeded(
        turn,
        operation,
        format!("Job {} is done, but ConfigMap {map} does not list its backup", run.name),
    )
}
