//! Whether a member is well enough for the next one to be touched, or so unwell that nothing more may be.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::super::assess::Assessment;
use super::super::conditions::{self, replica_problem};
use super::super::context::Context;
use super::super::object::terminating;
use super::super::status::CLONING;
use super::super::text::{at, list, number, text};
use super::super::view::Member;
use crate::api::PgVersion;

/// How long a member that was made anew may take to be well.
const DEADLINE: SignedDuration = SignedDuration::from_mins(10);
/// How long it must have been well before the next one is touched.
const SOAK: SignedDuration = SignedDuration::from_secs(10);
/// How often its container may end meanwhile.
const ENDS: i32 = 3;
/// How long what does not pass by itself may last: a registry may answer again.
const SOON: SignedDuration = SignedDuration::from_secs(60);
/// The same of a PostgreSQL that cannot be started, which Patroni tries every few seconds.
const STARTS: SignedDuration = SignedDuration::from_secs(30);
/// Kubernetes' words for a container that cannot be made as it is asked for.
const UNMAKEABLE: [&str; 8] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

/// What a member's state means for the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The next one may be touched.
    Passed,
    /// Not yet: what it lacks, as the rest of a sentence that begins with its name.
    Waits(String),
    /// It will not become well by itself: why, likewise.
    Failed(String),
}

/// Judges a member that was made from the new template, which is to run that release.
pub fn judge(
    cx: &Context<'_>,
    assessment: &Assessment,
    member: &Member<'_>,
    release: PgVersion,
    now: Timestamp,
) -> Gate {
    if let Some(why) = failed(member, release, now) {
        return Gate::Failed(why);
    }
    if let Some(lacks) = lacks(cx, assessment, member) {
        return Gate::Waits(lacks);
    }
    if let Some(runs) = runs_another(member, release) {
        return Gate::Waits(runs);
    }
    let soaked = ready_since(member).is_none_or(|since| now.duration_since(since) >= SOAK);
    if soaked { Gate::Passed } else { Gate::Waits("is back, and is watched for a moment".to_owned()) }
}

/// What a member lacks to be well, as the rest of a sentence that begins with its name: the primary serves, a replica could
/// take over from it now.
pub fn lacks(cx: &Context<'_>, assessment: &Assessment, member: &Member<'_>) -> Option<String> {
    if terminating(member.pod) {
        return Some("is stopping".to_owned());
    }
    if cx.view.lock.holder.as_deref() == Some(member.name) {
        let problem = assessment.primary.as_ref().and_then(|primary| primary.problem.clone());
        return problem.or_else(|| (!member.ready()).then(|| "is not ready".to_owned()));
    }
    if let Some(problem) = replica_problem(cx, member) {
        return Some(problem);
    }
    let candidate = assessment.candidate(member.name)?;
    candidate.unfit.as_ref().map(ToString::to_string).or_else(|| {
        conditions::unlisted_standby(cx, member.name)
            .then(|| "is not listed as a synchronous standby yet".to_owned())
    })
}

/// Its container does not run, and not because it is being started: to replace it makes nothing worse.
pub fn is_down(member: &Member<'_>) -> bool {
    let unplaced = text(member.pod, "/spec/nodeName").is_none();
    !terminating(member.pod)
        && (unplaced || member.waiting().is_some_and(|why| !why.starts_with("ContainerCreating")))
}

/// Why it will not become well by itself. Judged by times that Kubernetes wrote, so that a controller that starts anew comes
/// to the same.
pub fn failed(member: &Member<'_>, release: PgVersion, now: Timestamp) -> Option<String> {
    if terminating(member.pod) {
        return None;
    }
    let lasts = since(member).map(|since| now.duration_since(since))?;
    if member.ready() {
        return runs_another(member, release).filter(|_| lasts >= SOON);
    }
    let waiting = member.waiting();
    let unmakeable = |why: &&String| UNMAKEABLE.iter().any(|word| why.starts_with(word));
    if let Some(why) = waiting.as_ref().filter(unmakeable).filter(|_| lasts >= SOON) {
        return Some(format!("has no running container ({why})"));
    }
    let ends = member.container().and_then(|container| number(container, "/restartCount")).unwrap_or(0);
    if ends >= ENDS {
        let last = last_words(member).map(|words| format!(": {words}")).unwrap_or_default();
        return Some(format!("ended {ends} times since it was replaced{last}"));
    }
    let state = member.answer.map(|answer| answer.state.as_str());
    if matches!(state, Some("start failed" | "crashed")) && lasts >= STARTS {
        return Some("cannot start PostgreSQL".to_owned());
    }
    // One whose data is being copied, or that catches up, works, and how long that takes depends on how much there is.
    let works = state == Some(CLONING) || member.streams() && !member.is_silent();
    (lasts >= DEADLINE && !works).then(|| {
        let what = waiting
            .map_or_else(|| "is not ready".to_owned(), |why| format!("has no running container ({why})"));
        format!("{what}, {} minutes after it was replaced", DEADLINE.as_secs() / 60)
    })
}

/// PostgreSQL is of another release than its pod was made for.
fn runs_another(member: &Member<'_>, release: PgVersion) -> Option<String> {
    let runs = member.answer.and_then(|answer| answer.server_version)?;
    let wanted = i64::from(release.major()) * 10_000 + i64::from(release.minor());
    (runs != wanted).then(|| format!("runs PostgreSQL {}.{} and not {release}", runs / 10_000, runs % 10_000))
}

fn ready_condition<'a>(member: &Member<'a>) -> Option<&'a Value> {
    list(member.pod, "/status/conditions").iter().find(|condition| condition["type"] == "Ready")
}

fn time(value: &Value, pointer: &str) -> Option<Timestamp> {
    text(value, pointer)?.parse().ok()
}

fn ready_since(member: &Member<'_>) -> Option<Timestamp> {
    time(ready_condition(member)?, "/lastTransitionTime")
}

/// Since when it is as ready, or not, as it is now.
fn since(member: &Member<'_>) -> Option<Timestamp> {
    let made = time(member.pod, "/metadata/creationTimestamp");
    made.into_iter().chain(ready_since(member)).max()
}

/// What its container said when it last ended.
fn last_words(member: &Member<'_>) -> Option<String> {
    let container = member.container()?;
    let end = at(container, "/lastState/terminated").or_else(|| at(container, "/state/terminated"))?;
    let line = text(end, "/message")?.lines().rfind(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().take(300).collect())
}
