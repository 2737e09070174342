//! Work that somebody asked for, and that stops members on purpose: while it goes on, that they do not run is no sickness.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{command, condition, status};
use crate::api::{
    ConditionType, Names, Operation, OperationPhase, PgVersion, Stage, UpgradeProgress, Verb, reason,
};
use crate::cli::doctor::evidence::Patient;
use crate::cli::doctor::finding::{Finding, Severity, Topic};
use crate::plan::View;

/// What is under way.
pub struct Work<'a> {
    verb: Verb,
    operation: Option<&'a Operation>,
    upgrade: Option<&'a UpgradeProgress>,
}

/// The restore in place, major upgrade or restart that is under way.
pub fn under_way(patient: &Patient) -> Option<Work<'_>> {
    let status = status(patient)?;
    let major = |text: &str| text.parse().ok().map(PgVersion::major);
    // Other upgrades move the primary's role, and stop one member after the other.
    let upgrade = status.upgrade.as_ref().filter(|upgrade| major(&upgrade.from) != major(&upgrade.to));
    let known = status.operations.iter().filter(|operation| operation.phase == OperationPhase::Running);
    let mut known = known.filter_map(|operation| Some((operation.kind.parse().ok()?, operation)));
    let asked = known.find(|(verb, operation)| match verb {
        // One that works on members one by one only takes the data of before a restore away.
        Verb::Restore => operation.remaining.is_empty(),
        Verb::Upgrade | Verb::AbortUpgrade | Verb::Restart => true,
        _ => false,
    });
    match asked {
        Some((verb, operation)) => Some(Work { verb, operation: Some(operation), upgrade }),
        None => upgrade.map(|_| Work { verb: Verb::Upgrade, operation: None, upgrade }),
    }
}

impl Work<'_> {
    /// Whether that member is stopped by it.
    pub fn stops(&self, member: &str) -> bool {
        let at = self.operation.and_then(|operation| operation.remaining.first());
        self.verb != Verb::Restart || at.is_some_and(|at| at == member)
    }

    fn what(&self, name: &str) -> String {
        match (self.verb, self.upgrade) {
            (Verb::Restore, _) => format!("a restore in place of {name} is under way"),
            (Verb::Restart, _) => format!("a restart of {name} is under way"),
            (Verb::AbortUpgrade, _) => format!("an upgrade of {name} is being taken back"),
            (_, Some(upgrade)) => {
                format!("the upgrade of {name} from {} to {} is under way", upgrade.from, upgrade.to)
            }
            _ => format!("an upgrade of {name} is under way"),
        }
    }

    /// How it is taken back, as long as that can be.
    fn undo(&self, patient: &Patient) -> Option<String> {
        match self.verb {
            Verb::Restore => {
                let mark = View::new(&patient.database.name_any(), &patient.observed).mark?;
                let back = mark.stage != Stage::Done && !mark.undo && !mark.discard;
                back.then(|| format!("{} --undo --wait", command(patient, "restore")))
            }
            Verb::Upgrade => Some(format!("{} --major --abort --wait", command(patient, "upgrade"))),
            _ => None,
        }
    }
}

/// That it is under way, and what comes of it.
pub fn finding(patient: &Patient) -> Option<Finding> {
    let work = under_way(patient)?;
    let name = patient.database.name_any();
    let writable = condition(patient, ConditionType::Writable).filter(|condition| condition.status != "True");
    let (severity, ends) = match writable {
        Some(_) => (Severity::Warning, ", and nobody can write until it ends"),
        None => (Severity::Note, ""),
    };
    let said = work.operation.and_then(|operation| operation.message.as_deref());
    let said = said.or_else(|| work.upgrade.and_then(|upgrade| upgrade.message.as_deref()));
    let began = work.operation.and_then(|operation| operation.started_at.as_ref());
    let began = began.or_else(|| work.upgrade.and_then(|upgrade| upgrade.started_at.as_ref()));
    let began: Option<Timestamp> = began.map(|time| time.0);
    let mut finding = Finding::new(severity, Topic::Work, "UnderWay", format!("{}{ends}", work.what(&name)))
        .because(said)
        .since(began)
        .explains([
            Topic::Commits,
            Topic::Condition(ConditionType::Ready),
            Topic::Condition(ConditionType::UpToDate),
        ])
        .next(format!("{} --watch", command(patient, "status")));
    // Two primaries are nobody's purpose.
    if writable.is_some_and(|condition| condition.reason != reason::SPLIT_BRAIN) {
        finding = finding.explains([Topic::Writes]);
    }
    // That it takes long is said of the same thing.
    finding = finding.explains(work.operation.map(|operation| Topic::Request(operation.id.clone())));
    let members = (0..patient.database.spec.replicas).map(|ordinal| Names(&name).member(ordinal));
    finding = finding.explains(members.map(Topic::Replication));
    let undo = work.undo(patient).filter(|_| writable.is_some());
    Some(undo.into_iter().fold(finding, Finding::next))
}
