//! Claims, and the room on their volumes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::Look;
use crate::agent::Disk;
use crate::api::ConditionType;
use crate::cli::doctor::finding::{Finding, Severity, Topic};
use crate::cli::output;
use crate::plan::{Kind, terminating, text};

impl Look<'_> {
    /// A claim that is not there, has no volume, or is on its way out.
    pub fn claim(&self, ordinal: i32) -> Option<Finding> {
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
                // No pod is refused for want of a volume, while a claim may well wait for its first pod.
                let refused = self.view.member(&member).is_none() && self.refused().is_some();
                if refused && why.is_none() {
                    return None;
                }
                let what = format!("claim {name} has no volume");
                let mut finding = found(Severity::Problem, "ClaimPending", what).because(why).since(made);
                finding.explains.retain(|topic| !refused || !matches!(topic, Topic::Member(_)));
                Some(finding)
            }
        }
    }

    /// Room on a member's volume.
    pub fn room(&self, ordinal: i32) -> Option<Finding> {
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
}

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
