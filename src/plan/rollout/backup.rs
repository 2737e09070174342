//! The backup before an upgrade: one Job, whose name follows from the note, and what came of it.

use jiff::{SignedDuration, Timestamp};

use super::super::backup::{RunState, Task, catalog, enabled, requested, runs};
use super::super::context::Context;
use super::super::{Action, Kind};
use super::note::Note;
use super::short;

/// One that ended so long before the upgrade was asked for will do.
const RECENT: SignedDuration = SignedDuration::from_hours(1);
/// How long after a Job's end its backup is looked for in the catalog, which another watch tells of.
const LISTED: SignedDuration = SignedDuration::from_secs(30);

/// How far it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Backed {
    /// There is one, or none is asked for.
    Done,
    /// What it is at, and the Job to make.
    Waits(String, Option<Action>),
    /// It failed, and why.
    Failed(String),
}

/// The request that it is made for: the same in every pass, and another one when the spec asks anew.
pub fn request(cx: &Context<'_>, note: &Note) -> String {
    let generation = cx.database.metadata.generation.unwrap_or_default();
    format!("upgrade-{}", short(&format!("{} {generation} {}", cx.uid, note.target)))
}

/// Backups are off, or one is recent enough.
pub fn is_done(cx: &Context<'_>, note: &Note) -> bool {
    let newest = catalog(cx).and_then(|catalog| catalog.newest().map(|entry| entry.stopped_at));
    enabled(cx).is_none()
        || newest.is_some_and(|stopped| note.started_at.duration_since(stopped) <= RECENT)
        || note.backup.as_ref().is_some_and(|id| catalog(cx).is_some_and(|all| all.for_request(id).is_some()))
}

/// How far it is.
pub fn state(cx: &Context<'_>, note: &Note, now: Timestamp) -> Backed {
    if is_done(cx, note) {
        return Backed::Done;
    }
    let (Some(wanted), Some(id)) = (enabled(cx), note.backup.as_deref()) else { return Backed::Done };
    let own = cx.names.backup_job(id);
    let runs = runs(cx, Task::Backup);
    if let Some(run) = runs.iter().find(|run| run.name == own) {
        return match run.state {
            RunState::Active => Backed::Waits(run.story(cx), None),
            RunState::Failed(_) => Backed::Failed(run.words(cx)),
            RunState::Complete(at) if now.duration_since(at) < LISTED => {
                Backed::Waits(format!("Job {own} is done; waiting until its backup is listed"), None)
            }
            RunState::Complete(_) => Backed::Done,
        };
    }
    if let Some(other) = runs.iter().find(|run| run.state == RunState::Active) {
        return Backed::Waits(format!("another one is being taken ({})", other.story(cx)), None);
    }
    if cx.observed.get(Kind::Job, &own).is_some() {
        return Backed::Failed(format!(
            "Job {own:?} exists and does not belong to this Database: it is not touched"
        ));
    }
    let job = requested(cx, &wanted, Task::Backup, id, None);
    Backed::Waits(format!("Job {own} is made"), Some(job))
}

/// The name of the Job that the note asks for.
pub fn job(cx: &Context<'_>) -> Option<String> {
    let note = Note::of(cx).filter(|note| !note.rolling)?;
    note.backup.map(|id| cx.names.backup_job(&id))
}
