//! What to do next about a CronJob. Pure.

use std::sync::Arc;
use std::time::Duration;

use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;

use crate::sandbox::controllers::job::finished;
use crate::sandbox::controllers::meta::{annotation, controller_reference, is_deleting, name};

/// The annotation with the time a Job was made for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// A schedule is looked at this often: the clock that timers run by stands still while the machine sleeps.
const LOOK: Duration = Duration::from_secs(60);

/// What a pass should do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) delete: Vec<Arc<Job>>,
    pub(super) create: Option<Box<Job>>,
    pub(super) status: CronJobStatus,
    pub(super) recheck: Option<Duration>,
    /// Why nothing will come of it.
    pub(super) complaint: Option<(&'static str, String)>,
}

/// Decides the next step. `jobs` are those the CronJob controls.
pub(super) fn plan(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let spec = &cron.spec;
    let (over, active): (Vec<&Arc<Job>>, Vec<&Arc<Job>>) =
        jobs.iter().partition(|job| finished(job.status.as_ref()).is_some());
    let mut plan = Plan { delete: surplus(cron, &over), ..Default::default() };
    plan.status = CronJobStatus {
        active: None,
        last_successful_time: over.iter().filter_map(|job| succeeded_at(job)).chain(last_success(cron)).max(),
        last_schedule_time: cron.status.as_ref().and_then(|status| status.last_schedule_time.clone()),
    };
    let mut running: Vec<ObjectReference> = active.iter().map(|job| reference(job)).collect();
    if spec.suspend != Some(true) && !is_deleting(&cron.metadata) {
        match times(cron, now) {
            Err(complaint) => plan.complaint = Some(complaint),
            Ok(Times { due, next }) => {
                let wait = next.map_or(LOOK.as_secs(), |next| {
                    u64::try_from(next.as_second() - now.as_second()).unwrap_or(0).max(1)
                });
                plan.recheck = Some(Duration::from_secs(wait).min(LOOK));
                if let Some(due) = due {
                    fire(cron, &active, due, &mut plan, &mut running);
                }
            }
        }
    }
    plan.status.active = (!running.is_empty()).then_some(running);
    plan
}

fn fire(
    cron: &CronJob,
    active: &[&Arc<Job>],
    due: Timestamp,
    plan: &mut Plan,
    running: &mut Vec<ObjectReference>,
) {
    let job = build(cron, due);
    if active.iter().any(|each| each.metadata.name == job.metadata.name) {
        // Made by a pass that could not write so any more.
        plan.status.last_schedule_time = Some(Time(due));
        return;
    }
    match cron.spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let note = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.complaint = Some(("JobAlreadyActive", note.to_owned()));
            return;
        }
        Some("Replace") => {
            plan.delete.extend(active.iter().map(|job| Arc::clone(job)));
            running.clear();
        }
        _ => {}
    }
    plan.status.last_schedule_time = Some(Time(due));
    plan.create = Some(Box::new(job));
}

/// The time that is due now, if one is, and the next one.
struct Times {
    due: Option<Timestamp>,
    next: Option<Timestamp>,
}

/// Reads the schedule; what cannot be read is a reason and a message.
fn times(cron: &CronJob, now: Timestamp) -> Result<Times, (&'static str, String)> {
    let spec = &cron.spec;
    let schedule: Cron = spec.schedule.parse().map_err(|error| {
        ("UnparseableSchedule", format!("unparseable schedule {:?}: {error}", spec.schedule))
    })?;
    let zone = match spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => TimeZone::get(name)
            .map_err(|error| ("UnknownTimeZone", format!("invalid timeZone: {name:?}: {error}")))?,
    };
    let at: Zoned = now.to_zoned(zone);
    let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let earliest = last.or(cron.metadata.creation_timestamp.as_ref()).map_or(now, |time| time.0);
    let deadline = spec
        .starting_deadline_seconds
        .and_then(|allowed| Timestamp::from_second(now.as_second().saturating_sub(allowed)).ok());
    let earliest = deadline.map_or(earliest, |deadline| deadline.max(earliest));
    let due = schedule.find_previous_occurrence(&at, true).ok().map(|due| due.timestamp());
    let next = schedule.find_next_occurrence(&at, false).ok().map(|next| next.timestamp());
    Ok(Times { due: due.filter(|due| *due > earliest), next })
}

fn build(cron: &CronJob, due: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let from = template.metadata.unwrap_or_default();
    let mut annotations = from.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), due.to_string());
    Job {
        metadata: ObjectMeta {
            // The same time always makes the same name: no time is served twice.
            name: Some(format!("{}-{}", name(&cron.metadata), due.as_second().div_euclid(60))),
            namespace: cron.metadata.namespace.clone(),
            labels: from.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// A reference to a Job as the status lists it.
pub(super) fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        ..Default::default()
    }
}

fn is_success(job: &Job) -> bool {
    finished(job.status.as_ref()).is_some_and(|condition| condition.type_ == "Complete")
}

fn succeeded_at(job: &Job) -> Option<Time> {
    job.status.as_ref()?.completion_time.clone().filter(|_| is_success(job))
}

fn last_success(cron: &CronJob) -> Option<Time> {
    cron.status.as_ref()?.last_successful_time.clone()
}

/// Ended Jobs beyond those to be kept, the oldest first.
fn surplus(cron: &CronJob, over: &[&Arc<Job>]) -> Vec<Arc<Job>> {
    let keep = |limit: Option<i32>, default: i32| usize::try_from(limit.unwrap_or(default)).unwrap_or(0);
    let limits = [
        (true, keep(cron.spec.successful_jobs_history_limit, 3)),
        (false, keep(cron.spec.failed_jobs_history_limit, 1)),
    ];
    let mut surplus = Vec::new();
    for (success, limit) in limits {
        let mut some: Vec<&Arc<Job>> =
            over.iter().copied().filter(|job| is_success(job) == success).collect();
        some.sort_by_key(|job| {
            let scheduled =
                annotation(&job.metadata, SCHEDULED).and_then(|text| text.parse::<Timestamp>().ok());
            let created = job.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (scheduled.or(created), job.metadata.name.clone())
        });
        let gone = some.len().saturating_sub(limit);
        surplus.extend(some.into_iter().take(gone).filter(|job| !is_deleting(&job.metadata)).cloned());
    }
    surplus
}
