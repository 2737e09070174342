//! What its conditions say: that of writes, and of commits, as findings of their own, the rest where nothing else told it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::{command, condition, is_young, status, under_way};
use crate::api::{ConditionType, reason};
use crate::cli::doctor::backups;
use crate::cli::doctor::evidence::Patient;
use crate::cli::doctor::finding::{Finding, Severity, Topic};

/// Why a new database is not made, which time alone does not mend.
const BLOCKED: [&str; 3] = [reason::INVALID_SPEC, reason::NAME_TAKEN, reason::CERTIFICATE_UNUSABLE];

/// What those say that are not true.
pub fn findings(patient: &Patient) -> Vec<Finding> {
    let bad = ConditionType::ALL.into_iter().filter_map(|kind| {
        let condition = condition(patient, kind).filter(|condition| condition.status != "True")?;
        Some(of_condition(patient, kind, condition))
    });
    bad.collect()
}

fn of_condition(patient: &Patient, kind: ConditionType, condition: &Condition) -> Finding {
    let name = patient.database.name_any();
    let outage = status(patient).and_then(|status| status.outage.as_ref());
    let began = outage.and_then(|outage| outage.started_at.as_ref()).map(|time| time.0);
    let since = Some(condition.last_transition_time.0);
    let reason = condition.reason.as_str();
    let young = is_young(patient);
    let (severity, topic, code, what) = match (kind, reason) {
        _ if young && !BLOCKED.contains(&reason) => (
            Severity::Note,
            Topic::Condition(kind),
            "BeingMade",
            format!("{name} is being made: {kind} is not true yet"),
        ),
        (ConditionType::Writable, reason::SPLIT_BRAIN) => (
            Severity::Critical,
            Topic::Writes,
            "SplitBrain",
            format!("two members of {name} say that they are the primary"),
        ),
        (ConditionType::Writable, _) => {
            (Severity::Critical, Topic::Writes, "NotWritable", format!("nobody can write to {name}"))
        }
        (ConditionType::Ready, reason::SYNC_DEGRADED) => (
            Severity::Problem,
            Topic::Commits,
            "CommitsUnprotected",
            format!("no replica confirms commits of {name}: they exist on the primary alone"),
        ),
        (ConditionType::UpToDate, reason::ROLLOUT_HALTED) => (
            Severity::Problem,
            Topic::Rollout,
            "RolloutHalted",
            format!("a change of the pods of {name} has halted"),
        ),
        (ConditionType::BackupsHealthy, reason::BACKUPS_DISABLED) => {
            (Severity::Note, Topic::Other, "BackupsOff", format!("{name} has no backups"))
        }
        // Where an agent says why, that is told in its words.
        (ConditionType::BackupsHealthy, reason::ARCHIVING_FAILING) if !backups::is_told(patient) => (
            Severity::Problem,
            Topic::Archiving,
            "ArchivingFails",
            format!("WAL of {name} does not reach its backups"),
        ),
        (ConditionType::BackupsHealthy, reason::BACKUP_DAMAGED) => {
            (Severity::Problem, Topic::Backups, "BackupDamaged", format!("a backup of {name} is damaged"))
        }
        (ConditionType::BackupsHealthy, reason::NO_BACKUP) if condition.status == "Unknown" => {
            (Severity::Note, Topic::Backups, "NoBackup", format!("{name} has no backup yet"))
        }
        (ConditionType::BackupsHealthy, _) => (
            Severity::Warning,
            Topic::Condition(kind),
            "BackupsUnhealthy",
            format!("backups of {name} are not as they should be ({reason})"),
        ),
        (ConditionType::UpToDate, reason::CERTIFICATE_UNUSABLE) => (
            Severity::Problem,
            Topic::Condition(kind),
            "CertificateUnusable",
            format!("a certificate of {name} cannot be used"),
        ),
        (ConditionType::UpToDate, reason::CERTIFICATE_EXPIRED) => (
            Severity::Problem,
            Topic::Condition(kind),
            "CertificateExpired",
            format!("the certificate of {name} has expired"),
        ),
        (ConditionType::UpToDate, _) => (
            Severity::Warning,
            Topic::Condition(kind),
            "NotUpToDate",
            format!("pods of {name} do not run the spec yet ({reason})"),
        ),
        (ConditionType::Ready, reason::SCALING | reason::UPGRADING | reason::RESTORING) => (
            Severity::Warning,
            Topic::Condition(kind),
            "Changing",
            format!("{name} is being changed ({reason})"),
        ),
        (ConditionType::StorageHealthy, reason::VOLUME_FILLING) => {
            (Severity::Warning, Topic::Condition(kind), "VolumeFilling", format!("volumes of {name} fill"))
        }
        (ConditionType::Ready | ConditionType::StorageHealthy, _) => (
            Severity::Problem,
            Topic::Condition(kind),
            "ConditionFalse",
            format!("{name} is not well: {kind} is {} ({reason})", condition.status),
        ),
    };
    // What is down on purpose comes back without anybody's help.
    let on_purpose = reason != reason::SPLIT_BRAIN
        && matches!(kind, ConditionType::Writable | ConditionType::Ready)
        && under_way(patient).is_some();
    let severity = if on_purpose { severity.max(Severity::Warning) } else { severity };
    let since = if topic == Topic::Writes { began.or(since) } else { since };
    let mut finding =
        Finding::new(severity, topic, code, what).because(Some(condition.message.as_str())).since(since);
    for command in remedies(patient, kind, reason) {
        finding = finding.next(command);
    }
    match finding.topic {
        Topic::Writes => {
            finding.explains([Topic::Commits, Topic::Condition(ConditionType::Ready), Topic::Backups])
        }
        Topic::Archiving => finding.explains([Topic::Backups]),
        Topic::Rollout => finding.explains([Topic::Condition(ConditionType::Ready)]),
        _ => finding,
    }
}

/// What helps.
fn remedies(patient: &Patient, kind: ConditionType, reason: &str) -> Vec<String> {
    let one = |text: String| vec![text];
    if is_young(patient) && !BLOCKED.contains(&reason) {
        return one(format!("{} --watch", command(patient, "status")));
    }
    match (kind, reason) {
        (ConditionType::Writable, reason::SPLIT_BRAIN) => one(command(patient, "status")),
        (ConditionType::Writable, _) => one(format!("{} --dry-run", command(patient, "failover"))),
        (_, reason::ROLLOUT_HALTED) => {
            vec![
                format!("{} --resume --wait", command(patient, "upgrade")),
                format!("{} --abort --wait", command(patient, "upgrade")),
            ]
        }
        (ConditionType::BackupsHealthy, reason::ARCHIVING_FAILING) => {
            let backup = patient.database.spec.backup.as_ref();
            match backup.and_then(|backup| backup.destination.as_deref()) {
                Some(destination) => one(format!("{} backups selftest --to {destination}", patient.command)),
                None => one(command(patient, "status")),
            }
        }
        (ConditionType::BackupsHealthy, reason::BACKUPS_DISABLED) => Vec::new(),
        (ConditionType::BackupsHealthy, reason::BACKUP_DAMAGED) => {
            one(format!("{} -o wide", command(patient, "backups")))
        }
        (ConditionType::BackupsHealthy, _) => one(format!("{} --wait", command(patient, "backup-now"))),
        (_, reason::RESTORE_FAILED) => one(format!("{} --undo --wait", command(patient, "restore"))),
        _ => one(format!("{} -o wide", command(patient, "status"))),
    }
}
