//! Following an upgrade to its end.

use std::time::Duration;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use super::is_halted;
use crate::api::{Database, DatabaseStatus, PgVersion};
use crate::cli::error::{CliError, Result};
use crate::cli::progress::{Step, Steps};
use crate::cli::session::Session;
use crate::cli::{Context, output, wait};

/// Shows each step until the controller says that all members run the release and are well.
///
/// # Errors
/// Where it halts, or does not end in time.
pub async fn to_the_end(
    context: &Context,
    session: &Session,
    changed: &Database,
    to: PgVersion,
    timeout: Duration,
) -> Result<()> {
    let name = changed.name_any();
    let databases: Api<Database> = Api::namespaced(session.streaming.clone(), &session.namespace);
    let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut news = std::pin::pin!(watcher(databases, one).default_backoff());
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut tick = tokio::time::interval(wait::TICK);
    let (began, first) = (Instant::now(), jiff::Timestamp::now());
    let mut lines = Lines { steps: Steps::new(context.ui), current: None, down: false };
    let mut last = None;
    loop {
        tokio::select! {
            _ = &mut interrupt => return Err(wait::interrupted(context, &name)),
            event = news.next() => match event {
                Some(Ok(watcher::Event::Apply(database) | watcher::Event::InitApply(database)))
                    if database.metadata.uid == changed.metadata.uid =>
                {
                    last = Some(database);
                }
                Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
                Some(Ok(_)) => {
                    return Err(CliError::not_found(format!("failed to follow the upgrade of database {name:?}: it was deleted")));
                }
                Some(Err(error)) => tracing::warn!("watching database {name:?}: {error}"),
                None => return Err(CliError::failed(format!("watch database {name:?}"))),
            },
            _ = tick.tick() => wait::check_sandbox(context, session, &name)?,
            () = tokio::time::sleep_until(began + timeout) => {
                return Err(too_late(context, &name, timeout, last.as_ref()));
            }
        }
        let Some(database) = &last else { continue };
        lines.show(database);
        match verdict(database, changed.metadata.generation, to) {
            Verdict::NotYet => {}
            Verdict::Done => {
                lines.settle(Step::Done);
                let since = changed.status.as_ref().and_then(|status| status.upgrade.as_ref());
                let since = since.and_then(|upgrade| upgrade.started_at.as_ref()).map_or(first, |at| at.0);
                context.ui.note(summary(database, to, began.elapsed(), since));
                return Ok(());
            }
            Verdict::Halted(message) => {
                lines.settle(Step::Failed);
                return Err(CliError::failed(format!("upgrade database {name:?}: {message}")));
            }
        }
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Done,
    NotYet,
    Halted(String),
}

/// What the status says of that generation of the spec.
pub(super) fn verdict(database: &Database, generation: Option<i64>, to: PgVersion) -> Verdict {
    let Some(status) = &database.status else { return Verdict::NotYet };
    if status.observed_generation < generation {
        return Verdict::NotYet;
    }
    let up_to_date = status.conditions.iter().find(|condition| condition.type_ == "UpToDate");
    if is_halted(database) {
        return Verdict::Halted(up_to_date.map(|condition| condition.message.clone()).unwrap_or_default());
    }
    let arrived = status.version.as_deref() == Some(to.to_string().as_str()) && status.upgrade.is_none();
    let well = [crate::api::ConditionType::UpToDate, crate::api::ConditionType::Ready];
    if arrived && well.into_iter().all(|kind| status.is_true(kind)) { Verdict::Done } else { Verdict::NotYet }
}

/// What it came to.
pub(super) fn summary(database: &Database, to: PgVersion, took: Duration, since: jiff::Timestamp) -> String {
    let none = DatabaseStatus::default();
    let status = database.status.as_ref().unwrap_or(&none);
    let moves =
        status.failovers.iter().filter(|moved| moved.started_at.as_ref().is_some_and(|at| at.0 >= since));
    let longest = moves.filter_map(|moved| moved.duration_seconds).max_by(f64::total_cmp);
    let gap = match longest {
        Some(seconds) => format!("; writes were down for {} while the role moved", output::seconds(seconds)),
        None => String::new(),
    };
    let took = humantime::format_duration(Duration::from_secs(took.as_secs().max(1)));
    let members = output::count(database.spec.replicas, "member");
    format!("database {:?}: all of {members} run PostgreSQL {to}, after {took}{gap}", database.name_any())
}

fn too_late(context: &Context, name: &str, timeout: Duration, last: Option<&Database>) -> CliError {
    let waited = humantime::format_duration(timeout);
    let says = last.and_then(|database| database.status.as_ref()).and_then(|status| {
        status.conditions.iter().find(|condition| condition.type_ == "UpToDate" && condition.status != "True")
    });
    CliError::timed_out(format!("the upgrade of database {name:?} has not ended after {waited}; it goes on"))
        .details(says.map(|condition| condition.message.clone()))
        .hint(format!("follow it with {} status {name} --watch", context.invocation()))
}

/// A line for each step: what is said of it changes while it goes on.
struct Lines {
    steps: Steps,
    /// The one it is at: its key, and what is said when it is done.
    current: Option<(String, String)>,
    down: bool,
}

impl Lines {
    fn show(&mut self, database: &Database) {
        let Some(status) = &database.status else { return };
        if let Some((key, now, then)) = said(status) {
            if self.current.as_ref().is_some_and(|(current, _)| *current != key) {
                self.settle(Step::Done);
            }
            self.steps.set(&key, Step::Working, now);
            self.current = Some((key, then));
        }
        match &status.outage {
            Some(outage) => {
                self.down = true;
                self.steps.set("writes", Step::Working, format!("nobody can write ({})", outage.reason));
            }
            None if self.down => self.steps.set("writes", Step::Done, "writes are accepted again"),
            None => {}
        }
    }

    fn settle(&mut self, step: Step) {
        if let Some((key, then)) = self.current.take() {
            self.steps.set(&key, step, then);
        }
    }
}

/// The step that the status is at: a key, what is done, and what will have been done.
fn said(status: &DatabaseStatus) -> Option<(String, String, String)> {
    let Some(upgrade) = &status.upgrade else {
        let found = status.conditions.iter().find(|condition| condition.type_ == "UpToDate");
        let waits = found.filter(|condition| condition.status != "True")?.message.clone();
        return Some(("waits".to_owned(), waits.clone(), waits));
    };
    let now = upgrade.message.clone().unwrap_or_default();
    let (step, to) = (upgrade.step.as_str(), &upgrade.to);
    let then = match (step, &upgrade.pod) {
        ("Switchover", Some(pod)) => format!("the primary's role has moved away from {pod}"),
        ("Replica" | "Primary", Some(pod)) => format!("{pod} is well with {to}"),
        ("Backup", _) => "the backup is there".to_owned(),
        _ => now.clone(),
    };
    // A member is a step, whatever its role is at the moment.
    let key = match (step, &upgrade.pod) {
        ("Replica" | "Primary", Some(pod)) => pod.clone(),
        _ => step.to_owned(),
    };
    Some((key, now, then))
}
