//! Backups: the schedules, what is known of them, and the Jobs that take and verify them. The bytes are the Jobs' own business.

mod health;
mod job;
mod runs;
mod task;
#[cfg(test)]
mod tests;

use serde_json::json;

pub use health::{backup_due, events, summary, verdict, verified_summary};
pub use job::{CREDENTIALS, credentials, credentials_mount, credentials_variable};
pub use runs::{Run, RunState, failed_jobs, runs};
pub use task::Task;

use super::context::Context;
use super::notes::{self, ARCHIVE};
use super::object::uid_of;
use super::ownership::{Owner, owner};
use super::pause::is_paused;
use super::{Action, Kind};
use crate::api::{Catalog, Verb, requests};

/// How late a backup of the schedule may still be begun, in seconds: the cluster may have been down when it was due.
const STARTING_DEADLINE_SECONDS: i64 = 3600;
/// Jobs of the schedule that are kept to be looked at, of those that went well and of those that did not.
const KEPT_JOBS: i32 = 3;
/// Where the spec names no time zone.
const UTC: &str = "Etc/UTC";

/// What the spec asks for, where backups are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Where they go.
    pub destination: &'a str,
    /// When they are taken: cron with five fields, or one of its `@` words.
    pub schedule: &'a str,
    /// The schedule's time zone.
    pub zone: &'a str,
    /// How many are kept.
    pub keep: i32,
    /// When the newest is verified, if that is wanted.
    pub verify: Option<&'a str>,
}

/// What the spec asks for; `None` where backups are off.
pub fn enabled<'a>(cx: &Context<'a>) -> Option<Wanted<'a>> {
    let backup = cx.spec().backup.as_ref().filter(|backup| backup.enabled)?;
    Some(Wanted {
        destination: backup.destination.as_deref()?,
        schedule: backup.schedule.as_deref()?,
        zone: backup.time_zone.as_deref().unwrap_or(UTC),
        keep: backup.retention,
        verify: backup.verify.as_deref(),
    })
}

/// Whether one is being taken, by whomever it was asked for.
pub fn is_backing_up(cx: &Context<'_>) -> bool {
    runs(cx, Task::Backup).iter().any(|run| run.state == RunState::Active)
}

/// What was last said of what is in the destination.
pub fn catalog(cx: &Context<'_>) -> Option<Catalog> {
    Catalog::of(cx.observed.get(Kind::ConfigMap, &cx.names.backups())?)
}

/// The ConfigMap and the CronJobs; without what they are for, the end of the latter.
pub fn plan(cx: &Context<'_>) -> Vec<Action> {
    let wanted = enabled(cx);
    let mut actions = Vec::new();
    let name = cx.names.backups();
    if wanted.is_some() && cx.observed.get(Kind::ConfigMap, &name).is_none() {
        let mut map = cx.retained(Kind::ConfigMap, &name);
        map["metadata"]["annotations"] = json!({ ARCHIVE: notes::archive(cx) });
        actions.push(Action::Create(Kind::ConfigMap, map));
    }
    for task in Task::ALL {
        let cron = wanted.as_ref().and_then(|wanted| Some((wanted, task.cron(wanted)?)));
        actions.extend(match cron {
            Some((wanted, cron)) => scheduled(cx, wanted, task, cron),
            None => unscheduled(cx, task),
        });
    }
    actions
}

/// Has the schedules that there are rest.
pub fn rest(cx: &Context<'_>) -> Vec<Action> {
    let Some(wanted) = enabled(cx) else { return Vec::new() };
    let live = |task: &Task| cx.observed.get(Kind::CronJob, &task.schedule(&cx.names));
    let goes = |task: &Task| live(task).is_some_and(|live| live["spec"]["suspend"] != true);
    let tasks = Task::ALL.into_iter().filter(goes);
    tasks.filter_map(|task| scheduled(cx, &wanted, task, task.cron(&wanted)?)).collect()
}

fn scheduled(cx: &Context<'_>, wanted: &Wanted<'_>, task: Task, cron: &str) -> Option<Action> {
    let rest = json!({ "spec": {
        "schedule": cron,
        "timeZone": wanted.zone,
        // In a major upgrade there is nobody to take one from, or to no avail.
        "suspend": is_paused(cx) || super::major::active(cx).is_some(),
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": STARTING_DEADLINE_SECONDS,
        "successfulJobsHistoryLimit": KEPT_JOBS,
        "failedJobsHistoryLimit": KEPT_JOBS,
        "jobTemplate": {
            "metadata": { "labels": task.labels(&cx.names) },
            "spec": job::scheduled(cx, wanted, task),
        },
    } });
    cx.apply_action(Kind::CronJob, cx.owned(Kind::CronJob, &task.schedule(&cx.names), rest))
}

fn unscheduled(cx: &Context<'_>, task: Task) -> Option<Action> {
    let name = task.schedule(&cx.names);
    let live = cx.observed.get(Kind::CronJob, &name)?;
    let ours = matches!(owner(cx, Kind::CronJob, live), Owner::Ours | Owner::Orphaned);
    ours.then(|| Action::Delete { kind: Kind::CronJob, uid: uid_of(live).map(str::to_owned), name })
}

/// The Job that a request asks for, made once: its name is the request's. `backup` is the one that it is about.
pub fn requested(
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
    task: Task,
    request: &str,
    backup: Option<&str>,
) -> Action {
    let rest = json!({ "spec": job::requested(cx, wanted, task, request, backup) });
    let mut body = cx.owned(Kind::Job, &task.job(&cx.names, request), rest);
    body["metadata"]["labels"] = json!(task.labels(&cx.names));
    Action::Create(Kind::Job, body)
}

/// Names of the Jobs of requests that are not at their end: whether one is there must be known for sure, whoever made it.
pub fn requested_jobs(cx: &Context<'_>) -> Vec<String> {
    let operations =
        cx.database.status.as_ref().map(|status| status.operations.as_slice()).unwrap_or_default();
    let of = |verb: &str| {
        // A restore in place ends with a backup.
        let restores = verb == Verb::Restore.to_string();
        Task::ALL.into_iter().find(|task| task.verb().to_string() == verb || restores)
    };
    let running = operations.iter().filter(|operation| operation.phase.is_under_way());
    let running = running.filter_map(|operation| Some((of(&operation.kind)?, operation.id.clone())));
    let annotations = cx.database.metadata.annotations.as_ref();
    let asked =
        annotations.map(requests).unwrap_or_default().into_iter().filter_map(|(.., parsed)| parsed.ok());
    let asked = asked.filter_map(|(verb, request)| Some((of(&verb.to_string())?, request.id.to_string())));
    let asked = asked.filter(|(_, id)| operations.iter().all(|operation| operation.id != *id));
    let before_upgrade = super::rollout::backup_job(cx);
    running.chain(asked).map(|(task, id)| task.job(&cx.names, &id)).chain(before_upgrade).collect()
}
