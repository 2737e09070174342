//! Members' pods: those that are not there, do not run, or were started again too often.

use jiff::Timestamp;
use serde_json::Value;

use super::Look;
use crate::api::ConditionType;
use crate::cli::doctor::cluster::since;
use crate::cli::doctor::finding::{Finding, Severity, Topic};
use crate::plan::{Member, at, list, terminating, text};

/// How often a container may have been started again in its life before that is worth a word.
const RESTARTS: i64 = 3;
/// A container that started again longer ago than this is well by now, in seconds.
const RECENT: i64 = 3600;

impl Look<'_> {
    /// There is no pod.
    pub fn missing(&self, member: &str) -> Option<Finding> {
        if self.patient.unread.iter().any(|unread| unread.what == "pods") {
            return None;
        }
        if let Some(why) = self.refused() {
            let what = format!("the pod of {member} cannot be made");
            let finding =
                Finding::new(Severity::Problem, Topic::Member(member.to_owned()), "PodRefused", what);
            let next = self.way_out(&why);
            // Its claim may wait for a pod to be made for.
            let claims = [Topic::Condition(ConditionType::StorageHealthy)];
            return Some(
                finding.because(Some(why)).next(next).explains(self.leads_to(member)).explains(claims),
            );
        }
        let what = format!("{member} has no pod");
        let finding = Finding::new(Severity::Problem, Topic::Member(member.to_owned()), "PodMissing", what);
        let next = self.describe("statefulset", &self.names.main());
        Some(finding.next(next).explains(self.leads_to(member)))
    }

    /// Why the API server takes no pod, in its own words.
    pub fn refused(&self) -> Option<String> {
        self.patient.warning(&self.names.main(), &["FailedCreate"])
    }

    /// What helps where a pod is refused in those words.
    fn way_out(&self, why: &str) -> String {
        let kubectl = self.patient.kubectl.as_deref().unwrap_or("kubectl");
        if why.contains("exceeded quota") {
            format!("{kubectl} describe resourcequota")
        } else if why.contains(" is invalid: ") || why.contains("PriorityClass") {
            format!("{kubectl} edit database {}", self.names.0)
        } else {
            self.describe("statefulset", &self.names.main())
        }
    }

    /// Its pod does not run.
    pub fn down(&self, member: &Member<'_>) -> Option<Finding> {
        let (name, pod) = (member.name, member.pod);
        let describe = || self.describe("pod", name);
        if terminating(pod) {
            return Some(self.about(member, "Terminating", format!("{name} is stopping")).next(describe()));
        }
        let conditions = list(pod, "/status/conditions");
        let unscheduled = conditions.iter().find(|c| c["type"] == "PodScheduled" && c["status"] == "False");
        if let Some(condition) = unscheduled {
            let finding = self.about(member, "Unschedulable", format!("{name} finds no node"));
            return Some(
                finding
                    .because(text(condition, "/message"))
                    .since(since(pod, "PodScheduled"))
                    .next(describe()),
            );
        }
        let waiting = list(pod, "/status/initContainerStatuses")
            .iter()
            .chain(list(pod, "/status/containerStatuses"))
            .find_map(|status| {
                Some((status, at(status, "/state/waiting").or_else(|| at(status, "/state/terminated"))?))
            })
            .filter(|(_, state)| !matches!(text(state, "/reason"), Some("PodInitializing" | "Completed")));
        let (status, state) = waiting?;
        let reason = text(state, "/reason").unwrap_or("not running");
        let message = text(state, "/message").map(str::to_owned);
        let pull =
            matches!(reason, "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull");
        if pull {
            // What the back-off says is only how long it waits.
            let why =
                self.patient.warning(name, &["Failed"]).filter(|_| reason == "ImagePullBackOff").or(message);
            let image = text(status, "/image").unwrap_or("its image");
            let what = format!("{name} cannot start: image {image} is not to be had ({reason})");
            let finding = self.about(member, "ImagePull", what).because(why).next(describe());
            return Some(finding);
        }
        let ended = text(status, "/lastState/terminated/message").or_else(|| text(state, "/message"));
        let ended = ended.and_then(|said| said.lines().rfind(|line| !line.trim().is_empty()));
        let restarts = at(status, "/restartCount").and_then(Value::as_i64).unwrap_or(0);
        let (code, what) = match reason {
            "CrashLoopBackOff" | "Error" | "OOMKilled" => {
                ("CrashLoop", format!("{name} ends again and again ({reason}, {restarts} restarts)"))
            }
            "ContainerCreating" => ("Starting", format!("{name} is being started")),
            other => ("ContainerWaits", format!("{name} cannot start ({other})")),
        };
        let why = ended.map(str::to_owned).or_else(|| self.patient.warning(name, &[]));
        let finding = self.about(member, code, what).because(why);
        let log = if code == "CrashLoop" { format!("{} --previous", self.logs(name)) } else { describe() };
        Some(finding.next(log))
    }

    /// It runs by now, and has ended too often.
    pub fn restarted(&self, member: &Member<'_>) -> Option<Finding> {
        let container = member.container()?;
        let restarts =
            at(container, "/restartCount").and_then(Value::as_i64).filter(|count| *count >= RESTARTS)?;
        let ended: Timestamp = text(container, "/lastState/terminated/finishedAt")?.parse().ok()?;
        if self.now.duration_since(ended).as_secs() > RECENT {
            return None;
        }
        let said = text(container, "/lastState/terminated/message").and_then(|said| said.lines().next_back());
        let what = format!("{} was started again {restarts} times", member.name);
        let finding =
            Finding::new(Severity::Warning, Topic::Other, "Restarts", what).because(said).since(Some(ended));
        Some(finding.next(format!("{} --previous", self.logs(member.name))))
    }
}
