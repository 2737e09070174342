//! What is told while somebody's work stops members on purpose.

use super::*;
use crate::api::reason;

/// Nobody can write, and that is what was asked for.
fn works(patient: &mut Patient, kind: &str, message: &str) {
    let operations = json!([{ "id": "1", "kind": kind, "phase": "Running", "message": message,
        "startedAt": "2026-11-22T10:07:00Z" }]);
    patient.database.status.as_mut().unwrap().operations = serde_json::from_value(operations).unwrap();
    told(patient, "Writable", "False", "NoLeader", "nobody holds the leader lock");
    told(patient, "Ready", "False", "Restoring", "m");
    map(patient, "db-leader", json!({}));
}

fn restore(patient: &mut Patient, undo: bool) {
    works(patient, "restore", "restoring to 2026-11-22T09:55:00Z");
    let id = ulid::Ulid::from_parts(1, 1);
    let mark =
        json!({ "id": id, "stage": "Restoring", "old": id, "undo": undo, "from": "s3://b/p" }).to_string();
    map(patient, "db-config", json!({ "db.example.com/restored": mark }));
    for member in ["db-1", "db-2"] {
        patient.observed.remove(Kind::Pod, member);
        patient.observed.answers.remove(member);
    }
    change(
        patient,
        Kind::Pod,
        "db-0",
        json!({ "status": { "conditions": [
        { "type": "Ready", "status": "False", "lastTransitionTime": AT }] } }),
    );
    patient.observed.answers.get_mut("db-0").unwrap().state = "running custom bootstrap script".into();
}

#[test]
fn a_restore_in_place_is_why_nobody_can_write() {
    insta::assert_snapshot!(after_to(|patient| restore(patient, false)), @"
    Warning UnderWay: a restore in place of db is under way, and nobody can write until it ends | restoring to 2026-11-22T09:55:00Z | 2026-11-22T10:07:00Z
      so nobody can write to db
      $ dbctl status db --watch
      $ dbctl restore db --undo --wait
    ");
    let text = after_to(|patient| restore(patient, true));
    assert!(text.starts_with("Warning UnderWay: ") && !text.contains("--undo"), "{text}");
    // What is not on purpose is told all the same.
    let text = after_to(|patient| {
        restore(patient, false);
        waits(patient, "db-0", json!({ "waiting": { "reason": "ErrImagePull", "message": "m" } }), json!({}));
    });
    assert!(text.starts_with("Problem ImagePull: db-0 ") && text.contains("\nWarning UnderWay: "), "{text}");
    let text = after_to(|patient| {
        restore(patient, false);
        patient.observed.answers.get_mut("db-0").unwrap().state = "custom bootstrap failed".into();
    });
    assert!(text.starts_with("Problem PostgresDown: db-0 "), "{text}");
    let text = after_to(|patient| {
        restore(patient, false);
        told(patient, "Writable", "False", reason::SPLIT_BRAIN, "m");
    });
    assert!(text.starts_with("Critical SplitBrain: "), "{text}");
}

#[test]
fn once_it_has_ended_the_outage_is_an_outage() {
    let text = after_to(|patient| {
        restore(patient, false);
        patient.database.status.as_mut().unwrap().operations[0].phase = crate::api::OperationPhase::Failed;
    });
    assert!(text.starts_with("Critical ") && text.contains("nobody can write to db"), "{text}");
    // The old data is taken away beside a database that works.
    let text = after_to(|patient| {
        works(patient, "restore", "m");
        patient.database.status.as_mut().unwrap().operations[0].remaining = vec!["db-0".into()];
    });
    assert!(text.starts_with("Critical NotWritable: ") && text.contains("failover db --dry-run"), "{text}");
}

#[test]
fn a_major_upgrade_and_a_restart_are_reasons_too() {
    insta::assert_snapshot!(after_to(|patient| {
        works(patient, "upgrade", "copying the data");
        let upgrade = json!({ "from": "17.6", "to": "18.1", "step": "Upgrading", "startedAt": "2026-11-22T10:08:00Z" });
        patient.database.status.as_mut().unwrap().upgrade = serde_json::from_value(upgrade).unwrap();
    }), @"
    Warning UnderWay: the upgrade of db from 17.6 to 18.1 is under way, and nobody can write until it ends | copying the data | 2026-11-22T10:07:00Z
      so nobody can write to db
      $ dbctl status db --watch
      $ dbctl upgrade db --major --abort --wait
    ");
    let restart = |at: &str| {
        after_to(|patient| {
            works(patient, "restart", "db-0 restarts");
            told(patient, "Writable", "True", "Fine", "");
            map(patient, "db-leader", json!({ "leader": "db-1", "renewTime": "2026-11-22T10:09:58Z" }));
            patient.database.status.as_mut().unwrap().operations[0].remaining = vec![at.into()];
            patient.observed.remove(Kind::Pod, "db-2");
        })
    };
    let text = restart("db-2");
    assert!(
        text.contains("UnderWay: a restart of db is under way | ") && !text.contains("PodMissing"),
        "{text}"
    );
    assert!(restart("db-0").contains("Problem PodMissing: db-2 "));
}
