//! What may be wrong with members: their nodes, volumes and pods, and what they say of themselves.

mod nodes;
mod pods;
mod postgres;
mod volumes;

use jiff::Timestamp;
use kube::ResourceExt;

use super::cluster::since;
use super::database::under_way;
use super::evidence::Patient;
use super::finding::{Finding, Severity, Topic};
use super::log;
use crate::api::{ConditionType, Names, Phase};
use crate::plan::{Member, View};

/// Codes of what every member goes through before it runs for the first time.
const STARTS: [&str; 5] = ["Starting", "MemberNotReady", "MemberSilent", "PodMissing", "PostgresDown"];

/// Codes of what a member that is stopped on purpose looks like.
const STOPS: [&str; 6] =
    ["Terminating", "Starting", "MemberNotReady", "MemberSilent", "PodMissing", "PostgresDown"];

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
        if STOPS.contains(&found.code) && self.on_purpose(&name) {
            return None;
        }
        // While it is made for the first time, that it does not run yet is no sickness.
        let status = self.patient.database.status.as_ref();
        let young = matches!(
            status.map(|status| status.phase),
            None | Some(None | Some(Phase::Pending | Phase::Creating))
        );
        let severity = if young && STARTS.contains(&found.code) { Severity::Note } else { found.severity };
        Some(Finding { severity, ..found })
    }

    /// It does not run because somebody's work stops it, and not because its start failed.
    fn on_purpose(&self, name: &str) -> bool {
        let answer = self.view.member(name).and_then(|member| member.answer);
        let failed =
            answer.is_some_and(|answer| ["failed", "crashed"].iter().any(|word| answer.state.contains(word)));
        !failed && under_way(self.patient).is_some_and(|work| work.stops(name))
    }

    /// A finding about a member that does not run, or not as it should.
    fn about(&self, member: &Member<'_>, code: &'static str, what: String) -> Finding {
        let said = self.patient.logs.get(member.name).and_then(|text| log::last_fatal(text));
        Finding::new(Severity::Problem, Topic::Member(member.name.to_owned()), code, what)
            .because(said.map(|said| format!("its log: {said}")))
            .since(since(member.pod, "Ready"))
            .explains(self.leads_to(member.name))
    }
}
