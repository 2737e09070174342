//! What to do next about a Job. Pure.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::failure::{self, Verdict};
use crate::sandbox::controllers::meta::{
    annotation, has_finalizer, is_deleting, is_ready, name, phase, pod_condition, uid,
};

/// The finalizer that keeps an ended pod until it has been counted.
pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The annotation and label with a pod's number in an indexed Job.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// First pause after a pod has failed; it doubles with each further failure.
const MIN_BACKOFF: i64 = 10;
/// Longest pause after failures.
const MAX_BACKOFF: i64 = 600;

/// What a pass should do. Pods are let go only after the status that counts them has been written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Pods to make, by their number in an indexed Job.
    pub(super) create: Vec<Option<i32>>,
    /// Names of pods to delete.
    pub(super) delete: Vec<String>,
    /// Names of pods that have been counted, to be let go.
    pub(super) release: Vec<String>,
    pub(super) status: JobStatus,
    /// The Job has been over for as long as it asked to be kept.
    pub(super) expired: bool,
    pub(super) recheck: Option<Duration>,
}

/// The Job's end, if it has come: its condition, with reason and message where it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Complete,
    Failed(String, String),
}

impl End {
    fn failed(reason: &str, message: &str) -> Self {
        Self::Failed(reason.to_owned(), message.to_owned())
    }
}

/// The condition that says how a Job has ended, once everything is done.
pub(in crate::sandbox::controllers) fn finished(status: Option<&JobStatus>) -> Option<&JobCondition> {
    conditions(status)
        .find(|each| matches!(each.type_.as_str(), "Complete" | "Failed") && each.status == "True")
}

fn conditions(status: Option<&JobStatus>) -> impl Iterator<Item = &JobCondition> {
    status.into_iter().flat_map(|status| status.conditions.iter().flatten())
}

/// Ends that count. A pod that is being deleted counts as failed, as it will not end well any more.
struct Tally {
    succeeded: i32,
    failed: i32,
    done_indexes: BTreeSet<i32>,
    active: Vec<String>,
    active_indexes: BTreeSet<i32>,
    ready: i32,
    terminating: i32,
    /// When the newest failure was.
    last_failure: Option<Timestamp>,
    restarts: i32,
    release: Vec<String>,
    /// Why the Job's policy says that it has failed.
    condemned: Option<String>,
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn index(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, INDEX)?.parse().ok()
}

/// Numbers written as "0,2-4".
pub(super) fn parse_indexes(text: &str) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first..=last);
        }
    }
    indexes
}

/// Numbers written as "0,2-4".
pub(super) fn write_indexes(indexes: &BTreeSet<i32>) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let ranges = ranges.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    ranges.collect::<Vec<_>>().join(",")
}

fn tally(job: &Job, spec: &JobSpec, pods: &[Pod]) -> Tally {
    let old = job.status.as_ref();
    let uncounted = old.and_then(|status| status.uncounted_terminated_pods.clone()).unwrap_or_default();
    let counted: BTreeSet<String> =
        uncounted.succeeded.into_iter().flatten().chain(uncounted.failed.into_iter().flatten()).collect();
    let mut tally = Tally {
        succeeded: old.and_then(|status| status.succeeded).unwrap_or(0),
        failed: old.and_then(|status| status.failed).unwrap_or(0),
        done_indexes: parse_indexes(
            old.and_then(|status| status.completed_indexes.as_deref()).unwrap_or_default(),
        ),
        active: Vec::new(),
        active_indexes: BTreeSet::new(),
        ready: 0,
        terminating: 0,
        last_failure: None,
        restarts: 0,
        release: Vec::new(),
        condemned: None,
    };
    let mut active: Vec<&Pod> = Vec::new();
    for pod in pods {
        let tracked = has_finalizer(&pod.metadata, TRACKING);
        let new = tracked && !counted.contains(uid(&pod.metadata));
        match phase(pod) {
            "Succeeded" => {
                tally.done_indexes.extend(index(pod).filter(|_| is_indexed(spec)));
                tally.succeeded += i32::from(new && !is_indexed(spec));
            }
            "Failed" => {
                let verdict = failure::judge(spec, pod);
                tally.failed += i32::from(new && verdict != Verdict::Ignore);
                if let Verdict::Fail(why) = verdict {
                    tally.condemned.get_or_insert(why);
                }
                tally.last_failure = tally.last_failure.max(ended_at(pod));
            }
            _ if is_deleting(&pod.metadata) => {
                tally.terminating += 1;
                if spec.pod_failure_policy.is_some() {
                    // How it ends decides.
                    continue;
                }
                tally.failed += i32::from(new);
            }
            _ => {
                tally.restarts += restarts(pod);
                tally.ready += i32::from(is_ready(pod));
                tally.active_indexes.extend(index(pod));
                active.push(pod);
                continue;
            }
        }
        if tracked {
            tally.release.push(name(&pod.metadata).to_owned());
        }
    }
    if is_indexed(spec) {
        let wanted = spec.completions.unwrap_or(1);
        tally.done_indexes.retain(|index| *index < wanted);
        tally.succeeded = count(tally.done_indexes.len());
    }
    // Where some have to go, the youngest and least advanced go first.
    active.sort_by_key(|pod| {
        (is_ready(pod), Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)))
    });
    tally.active = active.into_iter().map(|pod| name(&pod.metadata).to_owned()).collect();
    tally
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}

fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|each| each.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let ends = ends.map(|time| time.0).max();
    let said =
        pod_condition(pod, "Ready").and_then(|each| each.last_transition_time.as_ref()).map(|time| time.0);
    ends.or(said).or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// Whether the Job is over by what has been counted.
fn end(job: &Job, spec: &JobSpec, tally: &Tally, now: Timestamp) -> Option<End> {
    for each in conditions(job.status.as_ref()).filter(|each| each.status == "True") {
        match (each.type_.as_str(), each.reason.as_deref()) {
            ("SuccessCriteriaMet" | "Complete", _) => return Some(End::Complete),
            ("FailureTarget" | "Failed", reason) => {
                let message = each.message.as_deref().unwrap_or_default();
                return Some(End::failed(reason.unwrap_or_default(), message));
            }
            _ => {}
        }
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let on_failure =
        spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure");
    let success = match spec.completions {
        Some(wanted) => tally.succeeded >= wanted,
        // Without a number, the first good end is the Job's, once the others are through as well.
        None => tally.succeeded > 0 && tally.active.is_empty(),
    };
    if success {
        return Some(End::Complete);
    }
    if let Some(why) = &tally.condemned {
        return Some(End::failed("PodFailurePolicy", why));
    }
    if tally.failed > limit || (on_failure && tally.restarts > 0 && tally.restarts >= limit) {
        return Some(End::failed("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    let over = deadline(job, spec).is_some_and(|deadline| deadline <= now);
    over.then(|| End::failed("DeadlineExceeded", "Job was active longer than specified deadline"))
}

fn deadline(job: &Job, spec: &JobSpec) -> Option<Timestamp> {
    let started = job.status.as_ref()?.start_time.as_ref()?.0;
    Timestamp::from_second(started.as_second() + spec.active_deadline_seconds?).ok()
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(at.as_second() - now.as_second()).unwrap_or(0).max(1))
}

/// Decides the next step. `pods` are all pods that the Job controls.
pub(super) fn plan(job: &Job, pods: &[Pod], now: Timestamp) -> Plan {
    let Some(spec) = &job.spec else { return Plan::default() };
    if let Some(over) = finished(job.status.as_ref()) {
        return retire(job, spec, pods, over, now);
    }
    let tally = tally(job, spec, pods);
    let end = end(job, spec, &tally, now);
    let suspended = spec.suspend == Some(true);
    let mut plan = Plan { release: tally.release.clone(), ..Default::default() };
    if end.is_some() || suspended {
        plan.delete.clone_from(&tally.active);
    } else {
        fill(spec, &tally, now, &mut plan);
        if let Some(deadline) = deadline(job, spec) {
            sooner(&mut plan.recheck, until(deadline, now));
        }
    }
    plan.status = status(job, spec, &tally, end.as_ref(), suspended, now);
    plan
}

fn sooner(recheck: &mut Option<Duration>, pause: Duration) {
    *recheck = Some(recheck.map_or(pause, |other| other.min(pause)));
}

/// Makes or removes pods until as many are active as should be.
fn fill(spec: &JobSpec, tally: &Tally, now: Timestamp, plan: &mut Plan) {
    let parallel = spec.parallelism.unwrap_or(1).max(0);
    let active = count(tally.active.len());
    let wanted = match spec.completions {
        Some(completions) => parallel.min((completions - tally.succeeded).max(0)),
        None if tally.succeeded > 0 => active.min(parallel),
        None => parallel,
    };
    if active > wanted {
        let surplus = usize::try_from(active - wanted).unwrap_or(0);
        plan.delete.extend(tally.active.iter().take(surplus).cloned());
        return;
    }
    let missing = usize::try_from(wanted - active).unwrap_or(0);
    if missing == 0 {
        return;
    }
    if let Some(last) = tally.last_failure.filter(|_| tally.failed > 0) {
        let doublings = u32::try_from(tally.failed - 1).unwrap_or(0).min(10);
        let pause = MIN_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
        if let Ok(due) = Timestamp::from_second(last.as_second() + pause)
            && due > now
        {
            sooner(&mut plan.recheck, until(due, now));
            return;
        }
    }
    if is_indexed(spec) {
        let free = (0..spec.completions.unwrap_or(1))
            .filter(|index| !tally.done_indexes.contains(index) && !tally.active_indexes.contains(index));
        plan.create.extend(free.take(missing).map(Some));
    } else {
        plan.create.resize(missing, None);
    }
}

/// What is left to do after the end: the last pods' finalizers, and the Job's own end if it set a time for it.
fn retire(job: &Job, spec: &JobSpec, pods: &[Pod], over: &JobCondition, now: Timestamp) -> Plan {
    let held = pods.iter().filter(|pod| has_finalizer(&pod.metadata, TRACKING));
    let mut plan = Plan {
        release: held.map(|pod| name(&pod.metadata).to_owned()).collect(),
        status: job.status.clone().unwrap_or_default(),
        ..Default::default()
    };
    plan.status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
    if let (Some(keep), Some(since)) = (spec.ttl_seconds_after_finished, &over.last_transition_time)
        && let Ok(due) = Timestamp::from_second(since.0.as_second() + i64::from(keep))
    {
        if due <= now {
            plan.expired = true;
        } else {
            plan.recheck = Some(until(due, now));
        }
    }
    plan
}

fn status(
    job: &Job,
    spec: &JobSpec,
    tally: &Tally,
    end: Option<&End>,
    suspended: bool,
    now: Timestamp,
) -> JobStatus {
    let old = job.status.clone().unwrap_or_default();
    let some = |count: i32| (count > 0).then_some(count);
    // The counts are final only after the last pod has ended; until then the Job is merely sure how it ends.
    let settled = end.is_some() && tally.active.is_empty() && tally.terminating == 0;
    let conditions = write_conditions(&old, end, settled, suspended, now);
    let complete = settled && end == Some(&End::Complete);
    JobStatus {
        active: some(if end.is_some() || suspended { 0 } else { count(tally.active.len()) }),
        completed_indexes: is_indexed(spec)
            .then(|| write_indexes(&tally.done_indexes))
            .filter(|text| !text.is_empty()),
        completion_time: old.completion_time.clone().or_else(|| complete.then_some(Time(now))),
        conditions: (!conditions.is_empty()).then_some(conditions),
        failed: some(tally.failed),
        ready: Some(if end.is_some() || suspended { 0 } else { tally.ready }),
        start_time: if suspended { None } else { old.start_time.clone().or(Some(Time(now))) },
        succeeded: some(tally.succeeded),
        terminating: Some(tally.terminating),
        uncounted_terminated_pods: Some(UncountedTerminatedPods::default()),
        ..old
    }
}

fn write_conditions(
    old: &JobStatus,
    end: Option<&End>,
    settled: bool,
    suspended: bool,
    now: Timestamp,
) -> Vec<JobCondition> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let mut set = |type_: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        if conditions.iter().any(|each| each.type_ == type_ && each.status == status) {
            return;
        }
        conditions.retain(|each| each.type_ != type_);
        conditions.push(JobCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        });
    };
    if suspended {
        set("Suspended", true, "JobSuspended", "Job suspended");
    } else if old.conditions.iter().flatten().any(|each| each.type_ == "Suspended") {
        set("Suspended", false, "JobResumed", "Job resumed");
    }
    let (target, last, reason, message) = match end {
        Some(End::Complete) => (
            "SuccessCriteriaMet",
            "Complete",
            "CompletionsReached",
            "Reached expected number of succeeded pods",
        ),
        Some(End::Failed(reason, message)) => ("FailureTarget", "Failed", reason.as_str(), message.as_str()),
        None => return conditions,
    };
    set(target, true, reason, message);
    if settled {
        set(last, true, reason, message);
    }
    conditions
}
