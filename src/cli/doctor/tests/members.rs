//! What is told of members, their nodes and their volumes.

use super::*;

#[test]
fn a_node_is_the_cause_of_all_that_was_on_it() {
    insta::assert_snapshot!(after_to(|patient| {
        patient.nodes.insert("node-0".into(), Some(node("Unknown", "Kubelet stopped posting node status.")));
        change(patient, Kind::Pod, "db-0", json!({ "status": { "conditions": [{ "type": "Ready", "status": "False", "lastTransitionTime": AT }] } }));
        patient.observed.answers.remove("db-0");
        patient.observed.silent.insert("db-0".into(), std::time::Duration::from_secs(5));
        patient.silent.insert("db-0".into(), "no answer within 2 s".into());
        for (kind, reason) in [("Writable", "PrimarySuspect"), ("Ready", "PrimarySuspect")] {
            told(patient, kind, "False", reason, "db-0 holds the leader lock but does not answer");
        }
        change(patient, Kind::Pod, "db-1", json!({ "metadata": { "annotations": { "status": json!({ "role": "replica", "state": "running" }).to_string() } } }));
    }), @"
    Critical NodeNotReady: node node-0 is not ready, and db-0 is on it | Kubelet stopped posting node status. | 2026-11-22T10:08:00Z
      so nobody can write to db
      so db-0 does not answer
      $ kubectl describe node node-0
      $ kubectl taint node node-0 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute   # only if it is off for good
    ");
}

#[test]
fn a_member_that_ends_says_why_and_what_it_costs() {
    insta::assert_snapshot!(after_to(|patient| {
        let last = json!({ "terminated": { "exitCode": 1, "message": "starting\nthe volume holds data of PostgreSQL 16" } });
        waits(patient, "db-1", json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s" } }), last);
        told(patient, "Ready", "False", "SyncDegraded", "no replica confirms commits");
    }), @"
    Problem CrashLoop: db-1 ends again and again (CrashLoopBackOff, 4 restarts) | the volume holds data of PostgreSQL 16 | 2026-11-22T10:08:00Z
      so no replica confirms commits of db: they exist on the primary alone
      $ dbctl logs db --member db-1 --tail 50 --previous
    ");
    insta::assert_snapshot!(after_to(|patient| {
        let waiting = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image" } });
        waits(patient, "db-2", waiting, json!({}));
        patient.events.push(serde_json::from_value(json!({ "metadata": {}, "involvedObject": { "name": "db-2" }, "type": "Warning",
            "reason": "Failed", "message": "Failed to pull image: not found" })).unwrap());
        patient.events.push(serde_json::from_value(json!({ "metadata": {}, "involvedObject": { "name": "db-2" }, "type": "Warning",
            "reason": "Failed", "message": "Error: ErrImagePull", "lastTimestamp": AT })).unwrap());
        told(patient, "UpToDate", "False", "PodsOutdated", "replacing db-2");
        told(patient, "Ready", "False", "MemberNotReady", "db-2 is not running");
    }), @"
    Problem ImagePull: db-2 cannot start: image dbctl/postgres:99.9 is not to be had (ImagePullBackOff) | Failed to pull image: not found | 2026-11-22T10:08:00Z
      $ kubectl describe pod db-2
    ");
    insta::assert_snapshot!(after_to(|patient| {
        change(patient, Kind::Pod, "db-2", json!({ "status": { "conditions": [
            { "type": "Ready", "status": "False", "lastTransitionTime": AT }] } }));
        patient.observed.answers.get_mut("db-2").unwrap().state = "start failed".into();
        patient.logs.insert("db-2".into(), "x\nFATAL:  could not map anonymous shared memory\n".into());
    }), @r#"
    Problem PostgresDown: db-2 does not run: Patroni says that it is "start failed" | its log: FATAL:  could not map anonymous shared memory | 2026-11-22T10:08:00Z
      $ dbctl logs db --member db-2 --tail 50
    "#);
}

#[test]
fn replicas_that_run_may_be_of_no_use() {
    insta::assert_snapshot!(after_to(|patient| {
        patient.observed.answers.get_mut("db-1").unwrap().timeline = Some(2);
        patient.observed.answers.get_mut("db-2").unwrap().xlog.replayed_location = Some(1);
    }), @"
    Problem OtherTimeline: db-1 is on timeline 2, and db-0 on 3
      $ dbctl logs db --member db-1 --tail 50
    Warning Lag: db-2 is 1024.0 MiB behind db-0
      $ dbctl logs db --member db-2 --tail 50
    ");
    insta::assert_snapshot!(after_to(|patient| {
        change(patient, Kind::Pod, "db-1", json!({ "metadata": { "annotations": { "status": json!({ "role": "replica", "state": "running" }).to_string() } } }));
        patient.observed.remove(Kind::Pod, "db-2");
        patient.events.push(serde_json::from_value(json!({ "metadata": {}, "involvedObject": { "name": "db" }, "type": "Warning",
            "reason": "FailedCreate", "message": "exceeded quota: pods=2" })).unwrap());
    }), @"
    Problem PodRefused: the pod of db-2 cannot be made | exceeded quota: pods=2
      $ kubectl describe resourcequota
    Problem NotStreaming: db-1 does not stream from db-0
      $ dbctl logs db --member db-1 --tail 50
    ");
}

#[test]
fn a_pod_that_is_refused_is_why_its_claim_waits() {
    let refused = |patient: &mut Patient, why: &str| {
        patient.observed.remove(Kind::Pod, "db-2");
        change(
            patient,
            Kind::PersistentVolumeClaim,
            "data-db-2",
            json!({ "status": { "phase": "Pending" } }),
        );
        patient.events.push(
            serde_json::from_value(
                json!({ "metadata": {}, "involvedObject": { "name": "db" }, "type": "Warning",
            "reason": "FailedCreate", "message": why }),
            )
            .unwrap(),
        );
        told(patient, "StorageHealthy", "False", "ClaimPending", "no volume yet for data-db-2");
        told(patient, "Ready", "False", "MembersMissing", "no pod yet for 1 of 3 members: db-2");
    };
    let invalid = "create Pod db-2 in StatefulSet db failed error: Pod \"db-2\" is invalid: \
        spec.containers[0].resources.requests: Invalid value: \"1Gi\": must be less than or equal to memory limit of 500Mi";
    insta::assert_snapshot!(after_to(|patient| refused(patient, invalid)), @r#"
    Problem PodRefused: the pod of db-2 cannot be made | create Pod db-2 in StatefulSet db failed error: Pod "db-2" is invalid: spec.containers[0].resources.requests: Invalid value: "1Gi": must be less than or equal to memory limit of 500Mi
      $ kubectl edit database db
    "#);
    // Of a new database too, whose pods are otherwise only on their way.
    let text = after_to(|patient| {
        refused(patient, "pods \"db-2\" is forbidden: no PriorityClass with name high was found");
        patient.database.status.as_mut().unwrap().phase = Some(crate::api::Phase::Creating);
    });
    assert!(
        text.starts_with("Problem PodRefused: ") && text.contains("$ kubectl edit database db"),
        "{text}"
    );
    // A claim that has its own trouble is told beside it.
    insta::assert_snapshot!(after_to(|patient| {
        refused(patient, "violates PodSecurity \"restricted\"");
        patient.events.push(serde_json::from_value(json!({ "metadata": {}, "involvedObject": { "name": "data-db-2" }, "type": "Warning",
            "reason": "ProvisioningFailed", "message": "storageclass fast not found" })).unwrap());
    }), @r#"
    Problem ClaimPending: claim data-db-2 has no volume | storageclass fast not found
      $ kubectl describe pvc data-db-2
    Problem PodRefused: the pod of db-2 cannot be made | violates PodSecurity "restricted"
      $ kubectl describe statefulset db
    "#);
}

#[test]
fn archiving_that_fails_is_why_a_volume_is_full() {
    let failing = |patient: &mut Patient, waiting: u64, free: u64| {
        let report = patient.reports.get_mut("db-0").unwrap();
        report.disk = Some(Disk { size: 10 << 30, free });
        report.archive = serde_json::from_value(json!({ "waiting": waiting, "oldestWaiting": "2026-11-22T09:00:00Z",
            "lastError": { "at": "2026-11-22T10:09:00Z", "error": "403 Forbidden: InvalidAccessKeyId", "file": "x" } })).unwrap();
        told(patient, "BackupsHealthy", "False", "ArchivingFailing", "m");
        told(patient, "StorageHealthy", "False", "VolumeFull", "m");
        told(patient, "Writable", "False", "NoLeader", "m");
    };
    insta::assert_snapshot!(after_to(|patient| failing(patient, 500, 1 << 20)), @"
    Critical ArchivingFails: WAL of db does not reach its backups: 500 files wait on db-0 | 403 Forbidden: InvalidAccessKeyId | 2026-11-22T09:00:00Z
      so nobody can write to db
      so no room on the volume of db-0: 1.0 MiB of 10.0 GiB free
      $ dbctl backups selftest --to s3://b/p
    ");
    // A little WAL fills no volume.
    insta::assert_snapshot!(after_to(|patient| failing(patient, 2, 1 << 20)), @"
    Critical VolumeFull: no room on the volume of db-0: 1.0 MiB of 10.0 GiB free | 2026-11-22T10:08:00Z
      so nobody can write to db
      $ dbctl resize db --storage 20Gi --wait
    Problem ArchivingFails: WAL of db does not reach its backups: 2 files wait on db-0 | 403 Forbidden: InvalidAccessKeyId | 2026-11-22T09:00:00Z
      $ dbctl backups selftest --to s3://b/p
    ");
}

#[test]
fn a_volume_that_fills_is_the_cause_of_nothing_yet() {
    let text = after_to(|patient| {
        patient.reports.get_mut("db-1").unwrap().disk = Some(Disk { size: 10 << 30, free: 1536 << 20 });
        told(patient, "StorageHealthy", "False", "VolumeFilling", "m");
        waits(patient, "db-1", json!({ "waiting": { "reason": "ErrImagePull", "message": "m" } }), json!({}));
    });
    let told: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(told.len() == 2 && told[0].starts_with("Problem ImagePull: db-1"), "{text}");
    assert!(
        told[1].starts_with("Warning VolumeFilling: little room on the volume of db-1: 1.5 GiB"),
        "{text}"
    );
}
