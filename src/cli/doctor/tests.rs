//! What is told of a database to which the very thing was done: evidence in, findings out.

mod backups;
mod certificates;
mod members;
mod work;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cluster;
use super::evidence::{Controllers, Definition, Evidence, LeaseState, Patient, Unread};
use super::*;
use crate::agent::{AgentReport, Disk};
use crate::api::VERSION;
use crate::cli::ui::{ColorChoice, Ui};
use crate::plan::Kind;

fn now() -> Timestamp {
    "2026-11-22T10:10:00Z".parse().unwrap()
}

const AT: &str = "2026-11-22T10:08:00Z";

/// A database of three members at rest: db-0 is the primary.
fn healthy() -> Evidence {
    let fine = |kind| condition(kind, "True", "Fine", "");
    let conditions = ["Ready", "Writable", "BackupsHealthy", "StorageHealthy", "UpToDate"].map(fine);
    let database = serde_json::from_value(json!({
        "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
        "metadata": { "name": "db", "namespace": "ns", "uid": "u", "generation": 2, "creationTimestamp": "2026-11-20T10:00:00Z" },
        "spec": { "replicas": 3, "version": "18.6", "storage": { "size": "10Gi" },
            "backup": { "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/p", "credentialsSecret": "keys" } },
        "status": { "observedGeneration": 2, "phase": "Running", "primary": "db-0", "replicas": 3, "readyReplicas": 3,
            "lastBackupTime": "2026-11-22T03:00:00Z",
            "conditions": conditions },
    }))
    .unwrap();
    let mut patient = Patient::of(database);
    for ordinal in 0..3 {
        let name = format!("db-{ordinal}");
        patient.observed.insert(Kind::Pod, pod(&name));
        let claim = json!({ "metadata": { "name": format!("data-{name}") }, "status": { "phase": "Bound" } });
        patient.observed.insert(Kind::PersistentVolumeClaim, claim);
        let answer = json!({ "role": if ordinal == 0 { "primary" } else { "replica" }, "state": "running", "timeline": 3,
            "replication_state": "streaming", "xlog": { "location": 1 << 30, "replayed_location": 1 << 30 } });
        patient.observed.answers.insert(name.clone(), serde_json::from_value(answer).unwrap());
        patient.reports.insert(
            name,
            AgentReport { disk: Some(Disk { size: 10 << 30, free: 9 << 30 }), ..AgentReport::default() },
        );
        patient
            .nodes
            .insert(format!("node-{ordinal}"), Some(node("True", "kubelet is posting ready status")));
    }
    map(&mut patient, "db-leader", json!({ "leader": "db-0", "renewTime": "2026-11-22T10:09:58Z" }));
    map(&mut patient, "db-sync", json!({ "leader": "db-0", "sync_standby": "db-1,db-2", "quorum": "1" }));
    map(
        &mut patient,
        "db-config",
        json!({ "initialize": "7", "config": json!({ "synchronous_mode": "quorum" }).to_string() }),
    );
    patient.secrets = ["db-internal", "db-app", "keys"].map(|name| (name.to_owned(), true)).into();
    patient.certificates = certificates::fine(&patient);
    let mut evidence = Evidence { databases: vec![patient], ..Evidence::default() };
    let cluster = &mut evidence.cluster;
    (cluster.command, cluster.client, cluster.place) =
        ("dbctl".into(), VERSION.into(), "dbctl-system".into());
    cluster.definition = Some(Definition::There(Some(VERSION.into())));
    cluster.controllers = Some(Controllers {
        lease: Some(LeaseState {
            holder: "pod-a_x".into(),
            version: Some(VERSION.into()),
            renewed: None,
            alive: true,
        }),
        deployment: Some((2, 2)),
        pods: Vec::new(),
    });
    evidence
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": AT })
}

fn node(ready: &str, message: &str) -> Value {
    json!({ "metadata": { "name": "n" }, "spec": {}, "status": { "conditions": [
        { "type": "Ready", "status": ready, "message": message, "lastTransitionTime": AT }] } })
}

fn pod(name: &str) -> Value {
    let role = if name == "db-0" { "primary" } else { "replica" };
    let status = json!({ "role": role, "state": "running", "replication_state": "streaming", "timeline": 3 });
    json!({ "metadata": { "name": name, "labels": { "db.example.com/database": "db" }, "annotations": { "status": status.to_string() } },
        "spec": { "nodeName": format!("node-{}", &name[3..]) },
        "status": { "phase": "Running", "podIP": "10.0.0.1", "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": AT }],
            "containerStatuses": [{ "name": "postgres", "restartCount": 0, "state": { "running": {} } }] } })
}

fn map(patient: &mut Patient, name: &str, annotations: Value) {
    patient
        .observed
        .insert(Kind::ConfigMap, json!({ "metadata": { "name": name, "annotations": annotations } }));
}

/// Changes an object that is there.
fn change(patient: &mut Patient, kind: Kind, name: &str, patch: Value) {
    let mut object = patient.observed.get(kind, name).unwrap().clone();
    json_patch::merge(&mut object, &patch);
    patient.observed.insert(kind, object);
}

/// A member whose container waits.
fn waits(patient: &mut Patient, name: &str, state: Value, last: Value) {
    let ready = json!([{ "type": "Ready", "status": "False", "lastTransitionTime": AT }]);
    let container = json!([{ "name": "postgres", "restartCount": 4, "image": "dbctl/postgres:99.9", "state": state, "lastState": last }]);
    change(
        patient,
        Kind::Pod,
        name,
        json!({ "status": { "conditions": ready, "containerStatuses": container } }),
    );
    patient.observed.answers.remove(name);
}

fn told(patient: &mut Patient, kind: &str, status: &str, reason: &str, message: &str) {
    let conditions = &mut patient.database.status.as_mut().unwrap().conditions;
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(serde_json::from_value(condition(kind, status, reason, message)).unwrap());
}

/// What is found, one line each.
fn lines(evidence: &Evidence) -> String {
    let line = |finding: &Finding| {
        let so: Vec<String> = finding.consequences.iter().map(|so| format!("\n  so {so}")).collect();
        let next: Vec<String> = finding.next.iter().map(|next| format!("\n  $ {next}")).collect();
        let why = finding.why.as_ref().map(|why| format!(" | {why}")).unwrap_or_default();
        let since = finding.since.map(|since| format!(" | {since}")).unwrap_or_default();
        format!(
            "{:?} {}: {}{why}{since}{}{}",
            finding.severity,
            finding.code,
            finding.what,
            so.concat(),
            next.concat()
        )
    };
    findings(evidence, now()).iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The same of the healthy one after something was done to it.
fn after(done: impl FnOnce(&mut Evidence)) -> String {
    let mut evidence = healthy();
    done(&mut evidence);
    lines(&evidence)
}

fn after_to(done: impl FnOnce(&mut Patient)) -> String {
    after(|evidence| done(&mut evidence.databases[0]))
}

#[test]
fn of_a_healthy_one_nothing_is_told() {
    assert_eq!(after(|_| ()), "");
    let diagnosis = diagnose(&healthy(), now());
    assert!(diagnosis.healthy);
    let text = render::render(&Ui::new(ColorChoice::Never), &diagnosis, now());
    assert_eq!(text, "database ns/db: nothing is wrong\n");
}

#[test]
fn without_a_controller_what_was_asked_for_waits() {
    let id = ulid::Ulid::from_parts(u64::try_from(now().as_millisecond()).unwrap() - 120_000, 7);
    let request = json!({ "id": id, "uid": "u" }).to_string();
    let ask = move |evidence: &mut Evidence| {
        let metadata = &mut evidence.databases[0].database.metadata;
        metadata
            .annotations
            .get_or_insert_default()
            .insert("db.example.com/failover".into(), request.clone());
        metadata.generation = Some(3);
    };
    let quiet = LeaseState { holder: "pod-a_x".into(), renewed: AT.parse().ok(), ..LeaseState::default() };
    insta::assert_snapshot!(after(|evidence| {
        ask(evidence);
        let pods = vec![json!({ "metadata": { "name": "pod-a" }, "status": { "containerStatuses": [
            { "state": { "waiting": { "reason": "ErrImagePull", "message": "no such image" } } }] } })];
        evidence.cluster.controllers = Some(Controllers { lease: Some(quiet.clone()), deployment: Some((0, 2)), pods });
    }), @"
    Problem ControllerSilent: no controller works: pod-a no longer renews its Lease in dbctl-system | the Deployment has 0 of 2 ready; pod-a: ErrImagePull: no such image | 2026-11-22T10:08:00Z
      so the newest change of db is not answered
      so a failover was asked for (01M81BM6000000000000000007), and nobody has taken it up
      $ kubectl -n dbctl-system describe deployment,pods
    ");
    insta::assert_snapshot!(after(|evidence| {
        evidence.cluster.controllers = Some(Controllers::default());
    }), @"
    Warning ControllerMissing: no controller is seen in dbctl-system: no Lease, no Deployment | Patroni goes on electing primaries; changes, upgrades, restores and deletions wait
      $ dbctl install --wait
    ");
    insta::assert_snapshot!(after(|evidence| {
        evidence.cluster.controllers.as_mut().unwrap().deployment = Some((1, 2));
        evidence.cluster.definition = Some(Definition::There(Some("0.0.1".into())));
    }), @"
    Warning ControllerNotReady: 1 of 2 controllers are ready in dbctl-system: one works
      $ kubectl -n dbctl-system get pods
    Warning VersionSkew: the definition of Databases (0.0.1) is older than this dbctl (0.1.0): the API server drops from Databases what it does not know
      $ dbctl install --wait
    ");
}

#[test]
fn a_cluster_that_does_not_answer_is_all_that_is_told() {
    let mut evidence = Evidence::default();
    evidence.cluster.command = "dbctl".into();
    evidence.cluster.silent = Some("Connection refused".into());
    insta::assert_snapshot!(lines(&evidence), @"
    Critical ApiServerSilent: the API server does not answer | Connection refused
      $ dbctl version
    ");
    evidence.cluster.silent = None;
    evidence.cluster.definition = Some(Definition::Missing);
    evidence.cluster.controllers = Some(Controllers::default());
    insta::assert_snapshot!(lines(&evidence), @"
    Critical DefinitionMissing: the cluster does not know the kind Database: dbctl is not installed in it
      so no controller is seen in : no Lease, no Deployment
      $ dbctl install --wait
    ");
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_goes_on() {
    let unread = |what: &str, forbidden| Unread { what: what.into(), why: "forbidden: no".into(), forbidden };
    insta::assert_snapshot!(after(|evidence| {
        evidence.unread.push(unread("the definition of Databases", true));
        let patient = &mut evidence.databases[0];
        patient.unread.push(unread("pods", false));
        patient.secrets.insert("keys".into(), false);
    }), @"
    Problem SecretMissing: Secret keys is not there | spec.backup.credentialsSecret names it; pods cannot start without
      $ kubectl create secret generic keys --from-literal=KEY=VALUE
    Warning NotRead: pods could not be read: what is wrong there is not told | forbidden: no
    Note MayNotRead: the definition of Databases could not be read: what is wrong there is not told | forbidden: no
    ");
}

#[test]
fn what_was_asked_for_and_did_not_come_is_told_while_it_matters() {
    let operation = |id: &str, kind: &str, phase: &str, at: &str| json!({ "id": id, "kind": kind, "phase": phase, "message": "why", "startedAt": at, "finishedAt": at });
    insta::assert_snapshot!(after_to(|patient| {
        let operations = json!([
            operation("5", "backup", "Succeeded", AT),
            operation("4", "backup", "Failed", AT),
            operation("3", "failover", "Rejected", AT),
            operation("6", "rotate-credentials", "Failed", AT),
            operation("2", "restart", "Running", "2026-11-22T09:00:00Z"),
            operation("1", "verify", "Failed", "2026-11-20T09:00:00Z"),
        ]);
        patient.database.status.as_mut().unwrap().operations = serde_json::from_value(operations).unwrap();
        patient.database.metadata.annotations.get_or_insert_default().insert("db.example.com/failovr".into(), "{}".into());
    }), @r#"
    Warning UnderWay: a restart of db is under way | why | 2026-11-22T09:00:00Z
      so a restart does not come to its end
      $ dbctl status db --watch
    Warning RequestFailed: the last rotate-credentials that was asked for failed | why | 2026-11-22T10:08:00Z
      $ dbctl status db
    Warning RequestUnreadable: annotation db.example.com/failovr of db cannot be read | unknown verb "failovr": known are backup, failover, restart, restore, resume, upgrade, abort-upgrade, rotate-credentials and verify
      $ kubectl annotate database db db.example.com/failovr-
    Note RequestRefused: the last failover that was asked for was refused | why | 2026-11-22T10:08:00Z
      $ dbctl status db
    "#);
}

#[test]
fn a_request_that_was_refused_is_no_trouble_of_the_database() {
    let ended = |phase: &str| {
        let mut evidence = healthy();
        let operations =
            json!([{ "id": "1", "kind": "failover", "phase": phase, "startedAt": AT, "finishedAt": AT }]);
        evidence.databases[0].database.status.as_mut().unwrap().operations =
            serde_json::from_value(operations).unwrap();
        diagnose(&evidence, now()).healthy
    };
    assert!(ended("Rejected"));
    assert!(!ended("Failed"));
}

#[test]
fn what_somebody_chose_is_said_and_explains() {
    insta::assert_snapshot!(after(|evidence| {
        let patient = &mut evidence.databases[0];
        patient.database.metadata.annotations.get_or_insert_default().insert("db.example.com/paused".into(), "true".into());
        told(patient, "UpToDate", "False", "Paused", "m");
        evidence.retained.push("old".into());
    }), @"
    Warning Paused: dbctl is paused for db (db.example.com/paused=true): it changes nothing | Patroni goes on electing primaries; schedules of backups rest | 2026-11-22T10:08:00Z
      $ dbctl resume db
    Note DataRetained: data of deleted databases is kept: old
      $ dbctl list --retained
    ");
    insta::assert_snapshot!(after_to(|patient| {
        told(patient, "UpToDate", "False", "RolloutHalted", "halted, since db-2 did not come back");
        told(patient, "BackupsHealthy", "Unknown", "BackupsDisabled", "m");
    }), @"
    Problem RolloutHalted: a change of the pods of db has halted | halted, since db-2 did not come back | 2026-11-22T10:08:00Z
      $ dbctl upgrade db --resume --wait
      $ dbctl upgrade db --abort --wait
    Note BackupsOff: db has no backups | m | 2026-11-22T10:08:00Z
    ");
}

#[test]
fn a_database_that_is_being_made_is_not_sick() {
    let text = after_to(|patient| {
        let status = patient.database.status.as_mut().unwrap();
        status.phase = Some(crate::api::Phase::Creating);
        for name in ["db-leader", "db-sync", "db-config"] {
            patient.observed.remove(Kind::ConfigMap, name);
        }
        for name in ["db-0", "db-1", "db-2"] {
            patient.observed.remove(Kind::Pod, name);
        }
        patient.secrets.insert("db-app".into(), false);
        told(patient, "Ready", "False", "Creating", "m");
        told(patient, "Writable", "False", "NoLeader", "m");
    });
    assert!(
        text.lines().filter(|line| !line.starts_with(' ')).all(|line| line.starts_with("Note ")),
        "{text}"
    );
}

#[test]
fn pages_keep_to_eighty_columns() {
    let mut evidence = healthy();
    let patient = &mut evidence.databases[0];
    let long = "x".repeat(200);
    let last = json!({ "terminated": { "exitCode": 1, "message": format!("{long} said {long}") } });
    waits(patient, "db-1", json!({ "waiting": { "reason": "CrashLoopBackOff" } }), last);
    told(patient, "Ready", "False", "SyncDegraded", &long);
    told(patient, "StorageHealthy", "False", "ClaimPending", &"many words ".repeat(40));
    let diagnosis = diagnose(&evidence, now());
    let text = render::render(&Ui::new(ColorChoice::Never), &diagnosis, now());
    for line in text.lines().filter(|line| !line.starts_with("  next")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(!text.contains('\x1b'), "{text}");
    assert!(text.starts_with("database ns/db: 2 problems\n\nPROBLEM  db-1 ends again and again"), "{text}");
}

#[test]
fn pods_tell_their_own_story() {
    let pod = |status: Value| cluster::story(&json!({ "metadata": {}, "status": status }));
    assert_eq!(pod(json!({})), None);
    let unscheduled =
        json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": "no node" }] });
    assert_eq!(pod(unscheduled).as_deref(), Some("no node"));
}
