//! What may be wrong with members: their nodes, volumes and pods, and what they say of themselves.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde_json::Value;

use super::cluster::since;
use super::evidence::Patient;
use super::finding::{Finding, Severity, Topic};
use super::log;
use crate::agent::{Disk, PostmasterState};
use crate::api::{ConditionType, Names, Phase};
use crate::cli::output;
use crate::plan::{Kind, Member, OUT_OF_SERVICE, View, at, list, terminating, text};

/// Lag that no busy replica has for long; also what the alert on it counts from, in bytes.
const LAG: i64 = 256 << 20;
/// How often a container may have been started again in its life before that is worth a word.
const RESTARTS: i64 = 3;
/// A container that started again longer ago than this is well by now, in seconds.
const RECENT: i64 = 3600;

/// What is wrong with nodes, claims and members.
pub fn findings(patient: &Patient, now: Timestamp) -> Vec<Finding> {
    let name = patient.database.name_any();
    let view = View::new(&name, &patient.observed);
    let look = Look { patient, names: Names(&name), view: &view, now };
    let mut all = look.nodes();
    for ordinal in 0..patient.database.spec.replicas {
        all.extend(look.claim(ordinal));
        all.extend(look.room(ordinal));
        all.extend(look.member(ordinal));
    }
    all
}

/// What members' troubles lead to: to be told by whoever causes them.
pub fn leads_to(patient: &Patient, view: &View<'_>, member: &str) -> Vec<Topic> {
    let mut topics = vec![Topic::Condition(ConditionType::Ready), Topic::Condition(ConditionType::UpToDate)];
    let status = patient.database.status.as_ref();
    let was = status.and_then(|status| status.outage.as_ref()?.from.as_deref());
    let leads = [view.lock.holder.as_deref(), view.sync.leader.as_deref(), was].contains(&Some(member));
    // Who leads keeps writes, and whoever follows it, going; everybody else confirms its commits.
    if leads || view.running_primary().is_none() {
        topics.extend([Topic::Writes, Topic::Backups, Topic::Condition(ConditionType::BackupsHealthy)]);
        topics.extend(view.members.iter().map(|other| Topic::Replication(other.name.to_owned())));
    }
    topics.push(Topic::Commits);
    topics
}

struct Look<'a> {
    patient: &'a Patient,
    names: Names<'a>,
    view: &'a View<'a>,
    now: Timestamp,
}

impl Look<'_> {
    fn events(&self) -> String {
        format!("{} events {}", self.patient.command, self.names.0)
    }

    /// How an object is looked at.
    fn describe(&self, kind: &str, name: &str) -> String {
        let kubectl = self.patient.kubectl.as_ref();
        kubectl.map_or_else(|| self.events(), |kubectl| format!("{kubectl} describe {kind} {name}"))
    }

    fn logs(&self, member: &str) -> String {
        format!("{} logs {} --member {member} --tail 50", self.patient.command, self.names.0)
    }

    fn leads_to(&self, member: &str) -> Vec<Topic> {
        leads_to(self.patient, self.view, member)
    }

    /// Nodes that are gone, silent, or about to be drained.
    fn nodes(&self) -> Vec<Finding> {
        let members = |node: &str| {
            let on =
                self.view.members.iter().filter(|member| text(member.pod, "/spec/nodeName") == Some(node));
            on.map(|member| member.name.to_owned()).collect::<Vec<_>>()
        };
        let of = |(name, node): (&String, &Option<Value>)| {
            let members = members(name);
            let on = format!("{} {}", members.join(", "), if members.len() == 1 { "is" } else { "are" });
            let leads = members.iter().map(|member| Topic::Member(member.clone()));
            let down = |code, what: String| {
                Finding::new(Severity::Problem, Topic::Node(name.clone()), code, what).explains(leads.clone())
            };
            let Some(node) = node else {
                let what = format!("node {name} is not there any more, and {on} on it");
                return Some(down("NodeGone", what).next(self.describe("pod", &members.join(" "))));
            };
            let ready =
                list(node, "/status/conditions").iter().find(|condition| condition["type"] == "Ready");
            if let Some(ready) = ready.filter(|ready| ready["status"] != "True") {
                let finding = down("NodeNotReady", format!("node {name} is not ready, and {on} on it"));
                let finding = finding.because(text(ready, "/message")).since(since(node, "Ready"));
                let vouched = list(node, "/spec/taints").iter().any(|taint| taint["key"] == OUT_OF_SERVICE);
                let finding = finding.next(self.describe("node", name));
                return Some(match (vouched, &self.patient.kubectl) {
                    (false, Some(_)) => finding.next(format!(
                        "kubectl taint node {name} {OUT_OF_SERVICE}=nodeshutdown:NoExecute   # only if it is off for good"
                    )),
                    _ => finding,
                });
            }
            (node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) && !members.is_empty()).then(
                || {
                    let what = format!("node {name} is cordoned, and {on} on it");
                    Finding::new(Severity::Note, Topic::Node(name.clone()), "NodeCordoned", what)
                },
            )
        };
        self.patient.nodes.iter().filter_map(of).collect()
    }

    /// A claim that is not there, has no volume, or is on its way out.
    fn claim(&self, ordinal: i32) -> Option<Finding> {
        let (name, member) = (self.names.claim(ordinal), self.names.member(ordinal));
        let claim = self.patient.observed.get(Kind::PersistentVolumeClaim, &name)?;
        let found = |severity, code, what: String| {
            let leads = [Topic::Member(member.clone()), Topic::Condition(ConditionType::StorageHealthy)];
            let topic = Topic::Claim(name.clone());
            Finding::new(severity, topic, code, what).explains(leads).next(self.describe("pvc", &name))
        };
        let made = text(claim, "/metadata/creationTimestamp").and_then(|time| time.parse().ok());
        match text(claim, "/status/phase") {
            Some("Bound") if terminating(claim) => {
                let what =
                    format!("claim {name} is deleted, and goes with its data as soon as {member} stops");
                let since = text(claim, "/metadata/deletionTimestamp").and_then(|time| time.parse().ok());
                Some(found(Severity::Problem, "ClaimTerminating", what).since(since))
            }
            Some("Bound") => None,
            Some("Lost") => {
                Some(found(Severity::Problem, "ClaimLost", format!("the volume of claim {name} is gone")))
            }
            _ => {
                let why = self.patient.warning(&name, &[]);
                let what = format!("claim {name} has no volume");
                Some(found(Severity::Problem, "ClaimPending", what).because(why).since(made))
            }
        }
    }

    /// Room on a member's volume.
    fn room(&self, ordinal: i32) -> Option<Finding> {
        let member = self.names.member(ordinal);
        let disk = self.patient.reports.get(&member)?.disk?;
        let (severity, code, word) = fullness(&disk)?;
        let left = i64::try_from(disk.free).unwrap_or(i64::MAX);
        let size = i64::try_from(disk.size).unwrap_or(i64::MAX);
        let what = format!(
            "{word} on the volume of {member}: {} of {} free",
            output::bytes(left),
            output::bytes(size)
        );
        let finding = Finding::new(severity, Topic::Room(member.clone()), code, what)
            .explains([Topic::Condition(ConditionType::StorageHealthy)]);
        // Nobody stops for want of room before there is none.
        let finding = if disk.is_full() {
            finding.explains([Topic::Member(member.clone())]).explains(self.leads_to(&member))
        } else {
            finding
        };
        let finding = finding.since(self.storage().map(|condition| condition.last_transition_time.0));
        let larger = self.patient.database.spec.storage.size.value().saturating_mul(2);
        let larger = (larger >> 20).max(1);
        let larger = if larger % 1024 == 0 { format!("{}Gi", larger >> 10) } else { format!("{larger}Mi") };
        Some(
            finding
                .next(format!("{} resize {} --storage {larger} --wait", self.patient.command, self.names.0)),
        )
    }

    fn storage(&self) -> Option<&Condition> {
        let status = self.patient.database.status.as_ref()?;
        let kind = ConditionType::StorageHealthy.to_string();
        status.conditions.iter().find(|condition| condition.type_ == kind && condition.status == "False")
    }

    /// What keeps a member from being one.
    fn member(&self, ordinal: i32) -> Option<Finding> {
        let name = self.names.member(ordinal);
        let found = match self.view.member(&name) {
            // Nobody has asked for it yet, which is the controller's to do, and told of it.
            None if self.view.stateful_replicas().is_some_and(|asked| ordinal >= asked) => None,
            None => self.missing(&name),
            Some(member) => {
                self.down(member).or_else(|| self.lame(member)).or_else(|| self.restarted(member))
            }
        }?;
        // While it is made for the first time, that it does not run yet is no sickness.
        let status = self.patient.database.status.as_ref();
        let young = matches!(
            status.map(|status| status.phase),
            None | Some(None | Some(Phase::Pending | Phase::Creating))
        );
        let severity = if young && STARTS.contains(&found.code) { Severity::Note } else { found.severity };
        Some(Finding { severity, ..found })
    }

    /// There is no pod.
    fn missing(&self, member: &str) -> Option<Finding> {
        if self.patient.unread.iter().any(|unread| unread.what == "pods") {
            return None;
        }
        let why = self.patient.warning(&self.names.main(), &["FailedCreate"]);
        let what = format!("{member} has no pod");
        let finding = Finding::new(Severity::Problem, Topic::Member(member.to_owned()), "PodMissing", what);
        let next = self.describe("statefulset", &self.names.main());
        Some(finding.because(why).next(next).explains(self.leads_to(member)))
    }

    /// A finding about a member that does not run, or not as it should.
    fn about(&self, member: &Member<'_>, code: &'static str, what: String) -> Finding {
        let said = self.patient.logs.get(member.name).and_then(|text| log::last_fatal(text));
        Finding::new(Severity::Problem, Topic::Member(member.name.to_owned()), code, what)
            .because(said.map(|said| format!("its log: {said}")))
            .since(since(member.pod, "Ready"))
            .explains(self.leads_to(member.name))
    }

    /// Its pod does not run.
    fn down(&self, member: &Member<'_>) -> Option<Finding> {
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

    /// Its pod runs, and PostgreSQL does not as it should.
    fn lame(&self, member: &Member<'_>) -> Option<Finding> {
        let name = member.name;
        let leads = self.view.lock.holder.as_deref() == Some(name);
        let state = member.answer.map(|answer| answer.state.as_str());
        if let Some(why) = self.patient.silent.get(name).filter(|_| member.is_silent()) {
            let finding = self.about(member, "MemberSilent", format!("{name} does not answer"));
            return Some(finding.because(Some(why.as_str())).next(self.logs(name)));
        }
        if let Some(state) = state.filter(|state| *state != "running") {
            let code = if state.contains("starting") || state.contains("creating replica") {
                "Starting"
            } else {
                "PostgresDown"
            };
            let severity = if code == "Starting" { Severity::Warning } else { Severity::Problem };
            let gone = self
                .patient
                .reports
                .get(name)
                .is_some_and(|report| report.postmaster == PostmasterState::Stopped);
            let gone = if gone { ", and has no PostgreSQL running" } else { "" };
            let finding = self.about(
                member,
                code,
                format!("{name} does not run: Patroni says that it is {state:?}{gone}"),
            );
            return Some(Finding { severity, ..finding.next(self.logs(name)) });
        }
        if member.isolated {
            let finding =
                self.about(member, "MemberIsolated", format!("{name} does not reach the Kubernetes API"));
            return Some(finding.next(self.logs(name)));
        }
        if !member.ready() {
            return Some(
                self.about(member, "MemberNotReady", format!("{name} is not ready")).next(self.logs(name)),
            );
        }
        if leads { None } else { self.behind(member) }
    }

    /// A replica that does not follow the primary as it should.
    fn behind(&self, member: &Member<'_>) -> Option<Finding> {
        let name = member.name;
        let primary = self.view.running_primary().filter(|primary| primary.name != name)?;
        let found = |severity, code, what: String| {
            let leads = [Topic::Commits, Topic::Condition(ConditionType::Ready)];
            let topic = Topic::Replication(name.to_owned());
            Some(Finding::new(severity, topic, code, what).explains(leads).next(self.logs(name)))
        };
        if !member.streams() {
            return found(
                Severity::Problem,
                "NotStreaming",
                format!("{name} does not stream from {}", primary.name),
            );
        }
        let differs = primary.timeline().zip(member.timeline()).filter(|(own, other)| own != other);
        if let Some((own, other)) = differs {
            let what = format!("{name} is on timeline {other}, and {} on {own}", primary.name);
            return found(Severity::Problem, "OtherTimeline", what);
        }
        let ahead = primary.answer.and_then(|answer| answer.xlog.location);
        let replayed = member.answer.and_then(|answer| answer.xlog.replayed_location);
        let lag = ahead.zip(replayed).map(|(ahead, replayed)| ahead.saturating_sub(replayed))?;
        if lag > LAG {
            let what = format!("{name} is {} behind {}", output::bytes(lag), primary.name);
            return found(Severity::Warning, "Lag", what);
        }
        None
    }

    /// It runs by now, and has ended too often.
    fn restarted(&self, member: &Member<'_>) -> Option<Finding> {
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

/// Codes of what every member goes through before it runs for the first time.
const STARTS: [&str; 5] = ["Starting", "MemberNotReady", "MemberSilent", "PodMissing", "PostgresDown"];

/// The steps of `StorageHealthy`.
fn fullness(disk: &Disk) -> Option<(Severity, &'static str, &'static str)> {
    let used = disk.size.saturating_sub(disk.free);
    if disk.is_full() {
        Some((Severity::Critical, "VolumeFull", "no room"))
    } else if used.saturating_mul(100) >= disk.size.saturating_mul(95) {
        Some((Severity::Problem, "VolumeNearlyFull", "hardly any room"))
    } else if used.saturating_mul(100) >= disk.size.saturating_mul(80) {
        Some((Severity::Warning, "VolumeFilling", "little room"))
    } else {
        None
    }
}
