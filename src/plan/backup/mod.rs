//! Backups: the schedule, what is known of them, and the Jobs that take them. The bytes are the Jobs' own business.

mod health;
mod job;
mod runs;
#[cfg(test)]
mod tests;

use serde_json::json;

pub use health::{events, summary, verdict};
pub use job::{CREDENTIALS, credentials, credentials_mount, credentials_variable};
pub use runs::{Run, RunState, failed_backups, runs};

use super::context::Context;
use super::notes::{self, ARCHIVE};
use super::object::uid_of;
use super::ownership::{Owner, owner};
use super::{Action, Kind};
use crate::api::{Catalog, PAUSED, Verb, requests};

/// How late a backup of the schedule may still be begun, in seconds: the cluster may have been down when it was due.
const STARTING_DEADLINE_SECONDS: i64 = 3600;
/// How often a backup of the schedule is begun again that failed.
const SCHEDULED_RETRIES: i32 = 2;
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
}

/// What the spec asks for; `None` where backups are off.
pub fn enabled<'a>(cx: &Context<'a>) -> Option<Wanted<'a>> {
    let backup = cx.spec().backup.as_ref().filter(|backup| backup.enabled)?;
    Some(Wanted {
        destination: backup.destination.as_deref()?,
        schedule: backup.schedule.as_deref()?,
        zone: backup.time_zone.as_deref().unwrap_or(UTC),
        keep: backup.retention,
    })
}

/// Somebody had the schedule rest.
pub fn is_paused(cx: &Context<'_>) -> bool {
    let annotations = cx.database.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(PAUSED)).is_some_and(|value| value == "true")
}

/// What was last said of what is in the destination.
pub fn catalog(cx: &Context<'_>) -> Option<Catalog> {
    Catalog::of(cx.observed.get(Kind::ConfigMap, &cx.names.backups())?)
}

/// The ConfigMap and the CronJob; without backups, the end of the CronJob.
pub fn plan(cx: &Context<'_>) -> Vec<Action> {
    let Some(wanted) = enabled(cx) else { return unscheduled(cx).into_iter().collect() };
    let mut actions = Vec::new();
    let name = cx.names.backups();
    if cx.observed.get(Kind::ConfigMap, &name).is_none() {
        let mut map = cx.retained(Kind::ConfigMap, &name);
        map["metadata"]["annotations"] = json!({ ARCHIVE: notes::archive(cx) });
        actions.push(Action::Create(Kind::ConfigMap, map));
    }
    let rest = json!({ "spec": {
        "schedule": wanted.schedule,
        "timeZone": wanted.zone,
        "suspend": is_paused(cx),
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": STARTING_DEADLINE_SECONDS,
        "successfulJobsHistoryLimit": KEPT_JOBS,
        "failedJobsHistoryLimit": KEPT_JOBS,
        "jobTemplate": {
            "metadata": { "labels": cx.names.backup_labels() },
            "spec": job::spec(cx, &wanted, None, SCHEDULED_RETRIES),
        },
    } });
    let body = cx.owned(Kind::CronJob, &cx.names.backup_schedule(), rest);
    actions.extend(cx.apply_action(Kind::CronJob, body));
    actions
}

fn unscheduled(cx: &Context<'_>) -> Option<Action> {
    let name = cx.names.backup_schedule();
    let live = cx.observed.get(Kind::CronJob, &name)?;
    let ours = matches!(owner(cx, Kind::CronJob, live), Owner::Ours | Owner::Orphaned);
    ours.then(|| Action::Delete { kind: Kind::CronJob, uid: uid_of(live).map(str::to_owned), name })
}

/// The Job that a request asks for, made once: its name is the request's.
pub fn requested(cx: &Context<'_>, wanted: &Wanted<'_>, request: &str) -> Action {
    let rest = json!({ "spec": job::requested(cx, wanted, request) });
    let mut body = cx.owned(Kind::Job, &cx.names.backup_job(request), rest);
    body["metadata"]["labels"] = json!(cx.names.backup_labels());
    Action::Create(Kind::Job, body)
}

/// Names of the Jobs of requests that are not at their end: whether one is there must be known for sure, whoever made it.
pub fn requested_jobs(cx: &Context<'_>) -> Vec<String> {
    let operations =
        cx.database.status.as_ref().map(|status| status.operations.as_slice()).unwrap_or_default();
    let verb = Verb::Backup.to_string();
    let running =
        operations.iter().filter(|operation| operation.kind == verb && operation.phase.is_under_way());
    let annotations = cx.database.metadata.annotations.as_ref();
    let asked =
        annotations.map(requests).unwrap_or_default().into_iter().filter_map(|(.., parsed)| parsed.ok());
    let asked = asked.filter(|(verb, _)| *verb == Verb::Backup).map(|(_, request)| request.id.to_string());
    let asked = asked.filter(|id| operations.iter().all(|operation| operation.id != *id));
    running.map(|operation| operation.id.clone()).chain(asked).map(|id| cx.names.backup_job(&id)).collect()
}
