//! A verification that was asked for: one Job, whose name is the request's, and what it found.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::backup::{self, Run, RunState, Task};
use super::super::requests::Step;
use super::{Turn, failed, rejected, succeeded, waits};
use crate::api::{Operation, OperationPhase, VerifyArguments};
use crate::plan::Kind;

/// For how long a Job is made that is not there yet: as long as a request may be taken up.
const LIMIT: SignedDuration = SignedDuration::from_hours(1);
/// How long after a Job's end its result is looked for in the catalog, which another watch tells of.
const LISTED: SignedDuration = SignedDuration::from_secs(30);

/// Takes it up, or says why not. Which backup it is about is settled here: a newer one may be there in the next pass.
pub fn begin(turn: &Turn<'_, '_>, operation: Operation, arguments: &VerifyArguments) -> Step {
    let (cx, name) = (turn.cx, turn.cx.names.0);
    if backup::enabled(cx).is_none() {
        let message =
            format!("backups of {name} are off: set spec.backup with enabled, a destination and a schedule");
        return rejected(turn, operation, message);
    }
    let own = cx.names.verify_job(&operation.id);
    let others = backup::runs(cx, Task::Verify).into_iter().filter(|run| run.name != own);
    if let Some(run) = others.into_iter().find(|run| run.state == RunState::Active) {
        let message = format!("another verification runs ({}): ask again when it is done", run.story(cx));
        return rejected(turn, operation, message);
    }
    let catalog = backup::catalog(cx).unwrap_or_default();
    let wanted = match &arguments.backup {
        None => catalog.newest(),
        Some(id) => catalog.backups.iter().find(|entry| entry.id == *id),
    };
    let Some(entry) = wanted else {
        let message = match &arguments.backup {
            Some(id) => {
                format!("{id} is no good backup of {name}: see what there is with `dbctl backups {name}`")
            }
            None => format!("there is no good backup of {name} yet: take one with `dbctl backup-now {name}`"),
        };
        return rejected(turn, operation, message);
    };
    let from = Some(entry.id.clone());
    go_on(turn, Operation { phase: OperationPhase::Running, from, ..operation })
}

/// Goes on with it.
pub fn go_on(turn: &Turn<'_, '_>, operation: Operation) -> Step {
    let cx = turn.cx;
    let name = cx.names.verify_job(&operation.id);
    if cx.observed.get(Kind::Job, &name).is_none() {
        return without_job(turn, operation, &name);
    }
    let Some(run) = backup::runs(cx, Task::Verify).into_iter().find(|run| run.name == name) else {
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

/// What was found of the backup since it was asked for.
fn result(turn: &Turn<'_, '_>, operation: &Operation) -> Option<Result<String, String>> {
    let catalog = backup::catalog(turn.cx)?;
    let entry = catalog.backups.iter().find(|entry| operation.from.as_ref() == Some(&entry.id))?;
    let at = entry.verified_at?;
    // Of the status only seconds come back.
    operation.started_at.as_ref().filter(|began| at.as_second() >= began.0.as_second())?;
    let id = &entry.id;
    Some(match &entry.verify_problem {
        None => Ok(backup::verified_summary(entry)),
        Some(problem) => Err(format!("backup {id} is damaged: failed to {problem}")),
    })
}

fn told(turn: &Turn<'_, '_>, operation: Operation, result: Result<String, String>) -> Step {
    match result {
        Ok(message) => succeeded(turn, operation, message),
        Err(message) => failed(turn, operation, message),
    }
}

fn without_job(turn: &Turn<'_, '_>, operation: Operation, name: &str) -> Step {
    let seen = operation.step_started_at.is_some();
    if let Some(result) = result(turn, &operation).filter(|_| seen) {
        return told(turn, operation, result);
    }
    let late = turn.since(operation.started_at.as_ref()) >= LIMIT;
    match backup::enabled(turn.cx) {
        Some(wanted) if !seen && !late => {
            let job =
                backup::requested(turn.cx, &wanted, Task::Verify, &operation.id, operation.from.as_deref());
            Step { ask: Some(job), ..waits(operation, format!("Job {name} is made")) }
        }
        None if !seen => failed(turn, operation, "backups were turned off before it began".to_owned()),
        _ => failed(turn, operation, format!("Job {name} is gone, and what it found is not listed")),
    }
}

fn ended_well(turn: &Turn<'_, '_>, operation: Operation, run: &Run<'_>, at: Timestamp) -> Step {
    if let Some(result) = result(turn, &operation) {
        return told(turn, operation, result);
    }
    if turn.now.duration_since(at) < LISTED {
        return waits(operation, format!("Job {} is done; waiting until what it found is listed", run.name));
    }
    let id = operation.from.clone().unwrap_or_default();
    let map = turn.cx.names.backups();
    succeeded(turn, operation, format!("backup {id} is good, but ConfigMap {map} does not say so"))
}
