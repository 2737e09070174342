//! The Jobs that take and verify backups, as they stand.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::Task;
use crate::api::LABEL_DATABASE;
use crate::plan::context::Context;
use crate::plan::object::{label, name_of, owners, uid_of};
use crate::plan::text::{at, list, text};
use crate::plan::{Kind, Observed};

/// The longest reason that is told on, in characters.
const LONGEST: usize = 500;

/// One Job.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// How far it is.
    pub state: RunState,
    /// When it was made.
    pub made: Option<Timestamp>,
    task: Task,
    job: &'a Value,
}

/// How far a Job is, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Not at its end.
    Active,
    /// It went well.
    Complete(Timestamp),
    /// It did not, and is not tried again.
    Failed(Timestamp),
}

/// The Jobs of this Database's backups, or of their verifications, of requests and of the schedule.
pub fn runs<'a>(cx: &Context<'a>, task: Task) -> Vec<Run<'a>> {
    let own =
        |job: &&Value| label(job, "app.kubernetes.io/name") == Some(task.label()) && is_ours(cx, task, job);
    cx.observed.all(Kind::Job).filter(own).map(|job| Run::of(job, task)).collect()
}

/// The uids of that Database's Jobs of that kind that failed.
pub fn failed_jobs(task: Task, database: &str, observed: &Observed) -> BTreeSet<String> {
    let own = |job: &&Value| {
        label(job, "app.kubernetes.io/name") == Some(task.label())
            && label(job, LABEL_DATABASE) == Some(database)
    };
    let all = observed.all(Kind::Job).filter(own).map(|job| Run::of(job, task));
    all.filter(|run| run.failed_at().is_some()).map(|run| run.uid.to_owned()).collect()
}

/// A request's Job is the Database's, one of the schedule is the CronJob's.
fn is_ours(cx: &Context<'_>, task: Task, job: &Value) -> bool {
    let schedule = task.schedule(&cx.names);
    owners(job).iter().any(|owner| match owner["kind"].as_str() {
        Some("Database") => owner["uid"] == cx.uid,
        Some("CronJob") => owner["name"] == schedule.as_str(),
        _ => false,
    })
}

impl<'a> Run<'a> {
    /// Reads a Job.
    pub fn of(job: &'a Value, task: Task) -> Self {
        let holds = |kind: &str| {
            list(job, "/status/conditions")
                .iter()
                .find(|each| each["type"] == kind && each["status"] == "True")
        };
        let since = |condition: &Value| {
            let times = [text(job, "/status/completionTime"), text(condition, "/lastTransitionTime")];
            times.into_iter().flatten().find_map(|time| time.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
        };
        let state = match (holds("Complete"), holds("Failed")) {
            (Some(condition), _) => RunState::Complete(since(condition)),
            (None, Some(condition)) => RunState::Failed(since(condition)),
            (None, None) => RunState::Active,
        };
        let made = text(job, "/metadata/creationTimestamp").and_then(|made| made.parse().ok());
        Self { name: name_of(job), uid: uid_of(job).unwrap_or_default(), state, made, task, job }
    }

    /// When it failed.
    pub fn failed_at(&self) -> Option<Timestamp> {
        match self.state {
            RunState::Failed(at) => Some(at),
            _ => None,
        }
    }

    /// Its newest pod.
    fn pod(&self, cx: &Context<'a>) -> Option<&'a Value> {
        let of_it = |pod: &&Value| {
            ["batch.kubernetes.io/job-name", "job-name"].iter().any(|key| label(pod, key) == Some(self.name))
                && owners(pod).iter().any(|owner| owner["uid"] == self.uid)
        };
        cx.observed.all(Kind::Pod).filter(of_it).max_by_key(|pod| text(pod, "/metadata/creationTimestamp"))
    }

    /// What it is at, as a sentence.
    pub fn story(&self, cx: &Context<'a>) -> String {
        let Some(pod) = self.pod(cx) else { return format!("Job {} has no pod yet", self.name) };
        let name = name_of(pod);
        let waiting = list(pod, "/status/containerStatuses").iter().find_map(|status| {
            let waiting = at(status, "/state/waiting")?;
            Some((text(waiting, "/reason").unwrap_or("waiting"), text(waiting, "/message")))
        });
        match (text(pod, "/spec/nodeName"), waiting) {
            (None, _) => format!("pod {name} has no node yet"),
            (_, Some((reason, Some(message)))) => {
                format!("pod {name} does not run yet ({reason}: {message})")
            }
            (_, Some((reason, None))) => format!("pod {name} does not run yet ({reason})"),
            (_, None) => format!("pod {name} {}", self.task.story()),
        }
    }

    /// Why it failed: its pod's last words, else the Job controller's.
    pub fn words(&self, cx: &Context<'a>) -> String {
        let pod = self.pod(cx);
        let said = pod.and_then(|pod| {
            let ends = list(pod, "/status/containerStatuses").iter();
            let message = ends.filter_map(|status| text(status, "/state/terminated/message")).next();
            message.and_then(last_line).or_else(|| text(pod, "/status/message"))
        });
        let condition = || {
            let failed = list(self.job, "/status/conditions").iter().find(|each| each["type"] == "Failed");
            failed.and_then(|failed| text(failed, "/message"))
        };
        said.or_else(condition).unwrap_or("it does not say why").chars().take(LONGEST).collect()
    }
}

/// The last line that says what went wrong.
fn last_line(text: &str) -> Option<&str> {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with("hint:"))?;
    Some(line.strip_prefix("error: ").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_is_no_hint_says_why() {
        for (text, line) in [
            ("a\nerror: failed to b\n", Some("failed to b")),
            ("error: b\nhint: try c\n\n", Some("b")),
            ("b", Some("b")),
            ("\n \n", None),
            ("", None),
        ] {
            assert_eq!(last_line(text), line, "{text:?}");
        }
    }
}
