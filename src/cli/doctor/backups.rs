//! What may be wrong with backups: that WAL is not archived, that none was taken, or that those that are there are old.

use jiff::Timestamp;
use kube::ResourceExt;

use super::evidence::Patient;
use super::finding::{Finding, Severity, Topic};
use crate::agent::ArchiveReport;
use crate::api::{Catalog, ConditionType, Names};
use crate::plan::{Kind, name_of, text};

/// A file of WAL, in bytes, where nobody has asked for another size.
const SEGMENT: u64 = 16 << 20;
/// A backup that is older than this is worth a word, whatever the schedule says, in days.
const OLD: i64 = 8;

/// What is wrong with them.
pub fn findings(patient: &Patient, now: Timestamp) -> Vec<Finding> {
    if !patient.database.spec.backup.as_ref().is_some_and(|backup| backup.enabled) {
        return Vec::new();
    }
    let mut all: Vec<Finding> = archiving(patient).into_iter().collect();
    all.extend(age(patient, now));
    all.extend(jobs(patient));
    all
}

/// What the primary's agent says of its archive: its words say more than a condition.
fn archiving(patient: &Patient) -> Option<Finding> {
    let failing = |(member, report): (&String, &crate::agent::AgentReport)| {
        // The note of a try that failed stays until one on the same member succeeds. Where nothing waits, there is nothing to
        // try: a former primary has got rid of its WAL, or somebody else archives.
        let archive = report.archive.clone().filter(|archive| archive.waiting > 0)?;
        let failed = archive.last_error.clone()?;
        Some((member.clone(), archive, failed))
    };
    let (member, archive, failed) =
        patient.reports.iter().filter_map(failing).max_by_key(|(_, archive, _)| archive.waiting)?;
    let name = patient.database.name_any();
    let wait = match archive.waiting {
        1 => "1 file waits".to_owned(),
        waiting => format!("{waiting} files wait"),
    };
    let what = format!("WAL of {name} does not reach its backups: {wait} on {member}");
    let destination = patient.database.spec.backup.as_ref().and_then(|backup| backup.destination.clone());
    let next = match destination {
        Some(destination) => format!("{} backups selftest --to {destination}", patient.command),
        None => format!("{} status {name}", patient.command),
    };
    let finding = Finding::new(Severity::Problem, Topic::Archiving, "ArchivingFails", what)
        .because(Some(failed.error.as_str()))
        .since(archive.oldest_waiting.or(Some(failed.at)))
        .explains([Topic::Backups, Topic::Condition(ConditionType::BackupsHealthy)])
        .next(next);
    let filled = fills(patient, &member, &archive).then_some(Topic::Room(member));
    Some(finding.explains(filled))
}

/// Whether an agent says why archiving fails.
pub fn is_told(patient: &Patient) -> bool {
    archiving(patient).is_some()
}

/// Whether what waits to be archived is a good part of what fills the member's volume.
fn fills(patient: &Patient, member: &str, archive: &ArchiveReport) -> bool {
    let disk = patient.reports.get(member).and_then(|report| report.disk);
    disk.is_some_and(|disk| archive.waiting.saturating_mul(SEGMENT) >= disk.size / 5)
}

/// The newest backup is old. The schedule's own is in the condition.
fn age(patient: &Patient, now: Timestamp) -> Option<Finding> {
    let name = patient.database.name_any();
    let catalog = patient.observed.get(Kind::ConfigMap, &Names(&name).backups()).and_then(Catalog::of);
    let status = patient.database.status.as_ref();
    let last = catalog.and_then(|catalog| catalog.newest().map(|entry| entry.stopped_at));
    let last = last.or(status.and_then(|status| status.last_backup_time.as_ref()).map(|time| time.0))?;
    let days = now.duration_since(last).as_hours() / 24;
    (days >= OLD).then(|| {
        let what = format!("the newest backup of {name} is {days} days old");
        Finding::new(Severity::Warning, Topic::Backups, "BackupOld", what)
            .since(Some(last))
            .next(format!("{} backup-now {name} --wait", patient.command))
    })
}

/// The newest Job of a backup that failed, if no later one was well: the condition says no more than that.
fn jobs(patient: &Patient) -> Option<Finding> {
    let name = patient.database.name_any();
    let made = |job: &&serde_json::Value| text(job, "/metadata/creationTimestamp").map(str::to_owned);
    let newest = patient.observed.all(Kind::Job).max_by_key(made)?;
    let condition = crate::plan::list(newest, "/status/conditions")
        .iter()
        .find(|condition| condition["type"] == "Failed" && condition["status"] == "True")?;
    let job = name_of(newest);
    let pods =
        patient.observed.all(Kind::Pod).filter(|pod| text(pod, "/metadata/labels/job-name") == Some(job));
    let said = pods.filter_map(super::cluster::story).last();
    let what = format!("the last Job of backups, {job}, failed");
    let kubectl = patient.kubectl.as_deref().unwrap_or("kubectl");
    Some(
        Finding::new(Severity::Warning, Topic::Backups, "BackupJobFailed", what)
            .because(said.or_else(|| text(condition, "/message").map(str::to_owned)))
            .since(text(condition, "/lastTransitionTime").and_then(|time| time.parse().ok()))
            .explains([Topic::Condition(ConditionType::BackupsHealthy)])
            .next(format!("{kubectl} logs job/{job} --tail 20"))
            .next(format!("{} backup-now {name} --wait", patient.command)),
    )
}
