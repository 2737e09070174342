//! Members whose pod runs, and PostgreSQL in it does not as it should.

use super::Look;
use crate::agent::PostmasterState;
use crate::api::ConditionType;
use crate::cli::doctor::finding::{Finding, Severity, Topic};
use crate::cli::output;
use crate::plan::Member;

/// Lag that no busy replica has for long; also what the alert on it counts from, in bytes.
const LAG: i64 = 256 << 20;

impl Look<'_> {
    /// Its pod runs, and PostgreSQL does not as it should.
    pub fn lame(&self, member: &Member<'_>) -> Option<Finding> {
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
}
