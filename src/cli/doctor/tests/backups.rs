//! What is told of archiving.

use super::*;

/// The same words from a member, of that many files that wait.
fn note(patient: &mut Patient, member: &str, waiting: u64, at: &str) {
    let oldest = (waiting > 0).then_some(at);
    patient.reports.get_mut(member).unwrap().archive = serde_json::from_value(json!({ "waiting": waiting,
        "oldestWaiting": oldest, "lastError": { "at": at, "error": "no route to host", "file": "x" } }))
    .unwrap();
}

#[test]
fn a_note_of_a_failure_is_no_failure_where_nothing_waits() {
    assert_eq!(after_to(|patient| note(patient, "db-1", 0, AT)), "");
    insta::assert_snapshot!(after_to(|patient| note(patient, "db-1", 2, AT)), @"
    Problem ArchivingFails: WAL of db does not reach its backups: 2 files wait on db-1 | no route to host | 2026-11-22T10:08:00Z
      $ dbctl backups selftest --to s3://b/p
    ");
    // What the controller said is not lost with it.
    let text = after_to(|patient| {
        note(patient, "db-1", 0, AT);
        told(patient, "BackupsHealthy", "False", "ArchivingFailing", "it waits");
    });
    assert!(
        text.starts_with("Problem ArchivingFails: WAL of db does not reach its backups | it waits"),
        "{text}"
    );
}
