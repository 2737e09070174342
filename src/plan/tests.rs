//! Tables and properties over whole plans.

mod failover;
mod inplace;
mod pause;
mod storage;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::text::{at, text};
use super::world::{World, database};
use super::*;
use crate::api::{OperationPhase, Phase, reason};
use crate::patroni::Answer;

fn condition<'s>(status: &'s DatabaseStatus, kind: &str) -> &'s Condition {
    status.conditions.iter().find(|condition| condition.type_ == kind).unwrap()
}

/// Status and reason of a condition.
fn says(world: &World, kind: &str) -> (String, String) {
    let status = world.plan().status;
    let found = condition(&status, kind);
    (found.status.clone(), found.reason.clone())
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

fn names(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .map(|action| match action {
            Action::Create(kind, body) => format!("create {kind} {}", name_of(body)),
            Action::CreateSecret(plan) => format!("create Secret {}", name_of(&plan.body)),
            Action::Secure(Securing::MakeAuthority { body, .. }) => {
                format!("make authority {}", name_of(body))
            }
            Action::Secure(Securing::RenewAuthority { name, .. }) => format!("renew authority {name}"),
            Action::Rotate(rotate) => {
                let names = rotate.secrets.iter().map(|(name, _)| name);
                let all: Vec<&String> = names.chain(&rotate.pods).collect();
                format!("rotate {all:?}")
            }
            Action::Secure(Securing::Certify { body, .. }) => format!("certify {}", name_of(body)),
            Action::Secure(Securing::Trust { from, to, .. }) => format!("trust {from} in {to}"),
            Action::Apply(apply) => format!("apply {} {}", apply.kind, name_of(&apply.body)),
            Action::Delete { kind, name, .. } => format!("delete {kind} {name}"),
            Action::ReplacePod { pod, .. } => format!("replace {pod}"),
            Action::Orphan { name, .. } => format!("orphan StatefulSet {name}"),
            Action::PatchClaim { name, patch, .. } => format!("patch {name} {patch}"),
            Action::PatchPatroniConfig { member, patch } => format!("patch {member} {patch}"),
            Action::Ask { ask: Ask::Switchover { leader, candidate, .. }, .. } => {
                format!("switchover {leader} {candidate}")
            }
            Action::Ask { ask, .. } => format!("ask {ask:?}"),
            Action::Annotate { name, .. } => format!("annotate {name}"),
            Action::StripRole { pod, .. } => format!("strip {pod}"),
            Action::ReleaseLock(release) => format!("release {}", release.holder),
            Action::Mark(marking) => format!("mark {:?}", marking.with),
            Action::PatchStatus(_) => "status".to_owned(),
            Action::PublishEvent(event) => format!("event {}", event.reason),
            Action::AddFinalizer => "add finalizer".to_owned(),
            Action::RemoveFinalizer => "remove finalizer".to_owned(),
        })
        .collect()
}

#[test]
fn a_new_database_gets_all_its_objects_in_order() {
    let plan = World::new(database(json!({}))).plan();
    assert_eq!(
        names(&plan.actions),
        [
            "add finalizer",
            "create Secret db-internal",
            "create Secret db-app",
            "make authority db-ca",
            "certify db-tls",
            "create ConfigMap db-leader",
            "create ConfigMap db-config",
            "create ConfigMap db-failover",
            "create ConfigMap db-sync",
            "apply ConfigMap db-patroni",
            "apply ServiceAccount db",
            "apply Role db",
            "apply RoleBinding db",
            "apply Service db",
            "apply Service db-ro",
            "apply Service db-headless",
            "apply PodDisruptionBudget db",
            "apply StatefulSet db",
            "status",
        ]
    );
    assert_eq!(plan.status.phase, Some(Phase::Pending));
    assert_eq!(plan.status.conditions.len(), 5);
}

#[test]
fn a_new_database_goes_in_quick_loops_until_it_is_complete() {
    let mut world = World::settled(json!({}));
    let loop_wait = |world: &World| {
        let config = world.get(Kind::ConfigMap, "db-config");
        let config: Value =
            serde_json::from_str(text(config, "/metadata/annotations/config").unwrap()).unwrap();
        config["loop_wait"].as_i64().unwrap()
    };
    let set = |world: &mut World, loop_wait: i64, made: jiff::Timestamp, standbys: &str| {
        let config = crate::patroni::dynamic(&world.database.as_ref().unwrap().spec, 3, "uid-1");
        let mut config = config;
        config["loop_wait"] = json!(loop_wait);
        let annotations = json!({ "config": config.to_string() });
        world.change(Kind::ConfigMap, "db-config", json!({ "metadata": { "annotations": annotations } }));
        let made = json!({ "metadata": { "creationTimestamp": made } });
        world.change(Kind::StatefulSet, "db", made);
        let sync = json!({ "metadata": { "annotations": { "sync_standby": standbys } } });
        world.change(Kind::ConfigMap, "db-sync", sync);
    };
    assert_eq!(loop_wait(&world), 5);
    let now = world.now;
    let long_ago = now - jiff::SignedDuration::from_hours(1);
    let slow = r#"patch db-0 {"loop_wait":5}"#;
    for (made, standbys, patched) in
        [(now, "db-1", false), (now, "db-1,db-2", true), (long_ago, "db-1", true)]
    {
        set(&mut world, 1, made, standbys);
        let plan = world.plan();
        assert_eq!(names(&plan.actions).iter().any(|action| action == slow), patched, "{standbys}");
        let up_to_date = plan.status.conditions.iter().find(|condition| condition.type_ == "UpToDate");
        assert_eq!(up_to_date.unwrap().status, "True");
    }
    // A number that is not dbctl's own is nobody's wish.
    set(&mut world, 2, now, "db-1");
    assert!(names(&world.plan().actions).iter().any(|action| action == slow));
}

#[test]
fn data_history_and_keys_have_no_owner() {
    let world = World::settled(json!({}));
    for (kind, name) in needed("db", 3) {
        let object = world.get(kind, &name);
        let retained = matches!(kind, Kind::Secret | Kind::PersistentVolumeClaim)
            || (kind == Kind::ConfigMap && name != "db-patroni");
        assert_eq!(at(object, "/metadata/ownerReferences").is_none(), retained, "{kind} {name}");
    }
}

#[test]
fn a_settled_database_is_ready_and_writes_nothing() {
    for replicas in [1, 2, 3, 9] {
        let world = World::settled(json!({ "replicas": replicas }));
        let plan = world.plan();
        assert_eq!(plan.actions, vec![], "{replicas}");
        assert_eq!(plan.requeue, IDLE);
        assert_eq!(plan.status.phase, Some(Phase::Running));
        assert_eq!(plan.status.ready.as_deref(), Some(format!("{replicas}/{replicas}").as_str()));
        assert_eq!(plan.status.primary.as_deref(), Some("db-0"));
        assert_eq!(plan.status.version.as_deref(), Some("16.15"));
        assert_eq!(plan.status.observed_generation, Some(1));
        for (kind, status) in [
            ("Ready", "True"),
            ("Writable", "True"),
            ("BackupsHealthy", "Unknown"),
            ("StorageHealthy", "True"),
            ("UpToDate", "True"),
        ] {
            assert_eq!(condition(&plan.status, kind).status, status, "{kind}");
        }
        assert_eq!(world.observed.get(Kind::PodDisruptionBudget, "db").is_some(), replicas > 1);
    }
}

#[test]
fn positions_and_small_lag_are_not_worth_a_write() {
    let mut world = World::settled(json!({}));
    let annotations = |optime: i64| json!({ "metadata": { "annotations": { "optime": optime.to_string(), "renewTime": "x" } } });
    world.change(Kind::ConfigMap, "db-leader", annotations(1_000_000));
    assert_eq!(world.plan().actions, vec![]);
    world.change(Kind::ConfigMap, "db-leader", annotations(100 + (40 << 20)));
    assert_eq!(names(&world.plan().actions), ["status"]);
    assert_eq!(world.plan().status.instances[1].lag_bytes, Some(32 << 20));
}

#[test]
fn drift_is_repaired_and_additions_of_others_are_left() {
    for (kind, name, patch, writes) in [
        (Kind::Service, "db", json!({ "spec": { "selector": { "db.example.com/role": "replica" } } }), true),
        (Kind::Service, "db", json!({ "metadata": { "annotations": { "else": "1" } } }), false),
        (Kind::StatefulSet, "db", json!({ "spec": { "replicas": 2 } }), true),
        (Kind::Role, "db", json!({ "rules": [] }), true),
        (Kind::ConfigMap, "db-patroni", json!({ "data": null }), true),
        (Kind::ConfigMap, "db-config", json!({ "metadata": { "annotations": { "history": "[]" } } }), false),
        (Kind::Secret, "db-internal", json!({ "metadata": { "annotations": { "else": "1" } } }), false),
    ] {
        let mut world = World::settled(json!({}));
        world.change(kind, name, patch.clone());
        let applied = world
            .plan()
            .actions
            .iter()
            .any(|action| matches!(action, Action::Apply(apply) if apply.kind == kind));
        assert_eq!(applied, writes, "{kind} {patch}");
        world.settle();
        assert_eq!(says(&world, "Ready"), is("True", reason::ALL_MEMBERS_READY));
    }
}

#[test]
fn a_setting_that_is_taken_back_is_taken_back() {
    let mut world = World::settled(
        json!({ "placement": { "nodeSelector": { "disk": "ssd" } }, "parameters": { "work_mem": "8MB" } }),
    );
    assert!(at(world.get(Kind::StatefulSet, "db"), "/spec/template/spec/nodeSelector").is_some());
    world.edit(json!({ "placement": null, "parameters": null }));
    let actions = names(&world.plan().actions);
    assert!(
        actions.contains(&r#"patch db-0 {"postgresql":{"parameters":{"work_mem":null}}}"#.to_owned()),
        "{actions:?}"
    );
    world.settle();
    assert!(at(world.get(Kind::StatefulSet, "db"), "/spec/template/spec/nodeSelector").is_none());
    assert_eq!(says(&world, "UpToDate"), is("True", reason::PODS_UP_TO_DATE));
}

#[test]
fn a_name_that_is_taken_stops_everything() {
    for (kind, name) in needed("db", 3) {
        let mut world = World::new(database(json!({})));
        let foreign =
            json!({ "metadata": { "name": name, "namespace": "ns", "uid": "x" }, "data": { "a": "b" } });
        world.observed.insert(kind, foreign.clone());
        let plan = world.plan();
        assert_eq!(names(&plan.actions), ["status", "event NameTaken"], "{kind} {name}");
        let ready = condition(&plan.status, "Ready");
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", reason::NAME_TAKEN));
        assert!(ready.message.contains(&format!("{kind} \"{name}\"")), "{}", ready.message);
        world.settle();
        assert_eq!(world.get(kind, &name), &foreign);
        assert_eq!(world.events.len(), 1);
        world.observed.remove(kind, &name);
        world.settle();
        assert_eq!(says(&world, "Ready"), is("True", reason::ALL_MEMBERS_READY), "{kind} {name}");
    }
}

#[test]
fn labels_alone_do_not_make_an_object_ours() {
    let mut world = World::new(database(json!({})));
    let labels = crate::api::Names("db").labels();
    world.observed.insert(Kind::Service, json!({ "metadata": { "name": "db", "labels": labels } }));
    assert_eq!(says(&world, "Ready"), is("False", reason::NAME_TAKEN));
    // What a deleted Database of this name leaves goes by itself.
    let owner = json!([{ "kind": "Database", "name": "db", "uid": "older" }]);
    world.observed.insert(
        Kind::Service,
        json!({ "metadata": { "name": "db", "labels": labels, "ownerReferences": owner } }),
    );
    let plan = world.plan();
    assert_eq!(names(&plan.actions), ["status"]);
    assert_eq!((plan.status.phase, plan.requeue), (Some(Phase::Pending), SOON));
}

#[test]
fn a_restore_that_cannot_be_made_is_no_empty_database() {
    let own = json!({ "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/x/" });
    for (spec, source, why, phase) in [
        (json!({}), None, reason::RESTORING, Phase::Pending),
        (json!({}), Some(SourceDatabase::Missing), reason::RESTORE_SOURCE, Phase::Failed),
        (json!({}), Some(SourceDatabase::Without), reason::RESTORE_SOURCE, Phase::Failed),
        (
            json!({ "backup": own }),
            Some(SourceDatabase::At("s3://b/x".to_owned())),
            reason::RESTORE_SOURCE,
            Phase::Failed,
        ),
    ] {
        let mut spec = spec;
        spec["restoreFrom"] = json!({ "database": "other" });
        let mut world = World::new(database(spec));
        world.observed.source = source;
        world.settle();
        assert!(Kind::ALL.into_iter().all(|kind| world.observed.all(kind).count() == 0));
        assert_eq!(says(&world, "Ready"), is("False", why));
        assert_eq!(world.plan().status.phase, Some(phase));
    }
}

/// Patroni's configuration.
fn configuration(world: &World) -> Value {
    let map = world.get(Kind::ConfigMap, "db-patroni");
    serde_json::from_str(map["data"][crate::patroni::CONFIG_KEY].as_str().unwrap()).unwrap()
}

#[test]
fn a_restored_database_is_filled_by_the_agent_and_claims_its_own_archive() {
    let spec = json!({
        "restoreFrom": { "database": "other", "targetTime": "2026-11-22T03:00:00Z" },
        "backup": { "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/mine" },
    });
    let mut world = World::new(database(spec));
    world.observed.source = Some(SourceDatabase::At("s3://b/x".to_owned()));
    world.pass(usize::MAX);
    let file = configuration(&world);
    assert_eq!(file["bootstrap"]["method"], "dbctl");
    assert_eq!(
        file["bootstrap"]["dbctl"],
        json!({ "command": "dbctl agent bootstrap", "from": "s3://b/x", "target-time": "2026-11-22T03:00:00Z" })
    );
    assert_eq!(file["dbctl"]["archive"], json!({ "to": "s3://b/mine", "id": "uid-1" }));
    assert_eq!(
        (says(&world, "Ready"), world.plan().status.phase),
        (is("False", reason::RESTORING), Some(Phase::Restoring))
    );
    // Once it is there, it stands on its own.
    world.observed.source = None;
    world.change(
        Kind::ConfigMap,
        "db-config",
        json!({ "metadata": { "annotations": { "initialize": "7412345678901234567" } } }),
    );
    world.settle();
    assert_eq!(configuration(&world)["bootstrap"].get("method"), None);
    assert_eq!(says(&world, "Ready").0, "True");
}

#[test]
fn a_restore_that_failed_says_why() {
    let said = |message: &str| {
        let mut world = World::new(database(json!({ "restoreFrom": { "destination": "s3://b/x" } })));
        world.pass(usize::MAX);
        let end = json!({ "terminated": { "message": format!("traceback\n{message}\n") } });
        let status = json!({ "containerStatuses": [{ "name": "postgres", "state": { "running": {} }, "lastState": end }] });
        let labels = world.get(Kind::StatefulSet, "db")["spec"]["template"]["metadata"]["labels"].clone();
        world
            .observed
            .insert(Kind::Pod, json!({ "metadata": { "name": "db-0", "labels": labels }, "status": status }));
        (says(&world, "Ready"), world.plan().status.phase)
    };
    assert_eq!(
        said("restore failed: failed to recover"),
        (is("False", reason::RESTORE_FAILED), Some(Phase::Failed))
    );
    assert_eq!(
        said("restore interrupted: failed to list"),
        (is("False", reason::RESTORING), Some(Phase::Restoring))
    );
    assert_eq!(said("something else"), (is("False", reason::RESTORING), Some(Phase::Restoring)));
}

#[test]
fn a_lost_secret_is_not_replaced_by_one_with_wrong_passwords() {
    for name in ["db-internal", "db-app"] {
        let mut world = World::settled(json!({}));
        world.observed.remove(Kind::Secret, name);
        world.settle();
        assert!(world.observed.get(Kind::Secret, name).is_none());
        assert_eq!(says(&world, "Ready"), is("False", reason::SECRET_MISSING));
        assert_eq!(says(&world, "Writable").0, "True");
    }
}

#[test]
fn secrets_that_were_lost_with_their_database_are_made_anew_for_its_data() {
    let mut world = World::settled(json!({}));
    world.delete();
    world.settle();
    for name in ["db-internal", "db-app"] {
        world.observed.remove(Kind::Secret, name);
    }
    world.recreate(json!({}));
    world.settle();
    assert!(world.observed.get(Kind::Secret, "db-internal").is_some());
    assert_eq!(says(&world, "Ready").0, "True");
}

/// A controller that has just seen them takes them to be there for a while longer: pods are made, and wait for them.
#[test]
fn secrets_that_pods_wait_for_are_made() {
    for (waits, made) in [("CreateContainerConfigError", true), ("CrashLoopBackOff", false)] {
        let mut world = World::settled(json!({}));
        world.observed.remove(Kind::Secret, "db-internal");
        for pod in world.pods() {
            let ran = if made { json!(null) } else { json!({ "terminated": { "exitCode": 1 } }) };
            let container =
                json!({ "name": "postgres", "state": { "waiting": { "reason": waits } }, "lastState": ran });
            let status = json!({ "metadata": { "annotations": { "status": null } }, "status": { "containerStatuses": [container] } });
            world.change(Kind::Pod, &pod, status);
        }
        world.pass(usize::MAX);
        assert_eq!(world.observed.get(Kind::Secret, "db-internal").is_some(), made, "{waits}");
    }
}

#[test]
fn a_removed_members_slot_is_let_go_and_nobody_elses() {
    let ttl = |world: &World| {
        let config = world.get(Kind::ConfigMap, "db-config")["metadata"]["annotations"]["config"].as_str();
        serde_json::from_str::<Value>(config.unwrap()).unwrap().get("member_slots_ttl").cloned()
    };
    let keep = |world: &mut World, slots: Value| {
        let kept = json!({ "metadata": { "annotations": { "retain_slots": slots.to_string() } } });
        world.change(Kind::ConfigMap, "db-leader", kept);
        world.settle();
    };
    let mut world = World::settled(json!({}));
    keep(&mut world, json!(["db_0", "db_1", "db_2"]));
    assert_eq!(ttl(&world), None);
    world.edit(json!({ "replicas": 2 }));
    world.settle();
    assert_eq!(ttl(&world), Some(json!(1)));
    keep(&mut world, json!(["db_0", "db_1"]));
    assert_eq!(ttl(&world), None);
    assert_eq!(world.plan().actions, vec![]);
}

#[test]
fn claims_say_whose_data_they_hold() {
    let world = World::settled(json!({}));
    for claim in world.observed.all(Kind::PersistentVolumeClaim) {
        let notes = &claim["metadata"]["annotations"];
        assert_eq!((&notes[SYSTEM], &notes[RELEASE]), (&json!("7710"), &json!("16.15")));
    }
}

#[test]
fn an_invalid_spec_changes_nothing() {
    let mut world = World::settled(json!({}));
    world.edit(json!({ "replicas": 12 }));
    assert_eq!(names(&world.plan().actions), ["status", "event InvalidSpec"]);
    assert_eq!(world.plan().status.phase, Some(Phase::Failed));
}

#[test]
fn a_lost_configuration_is_written_by_whoever_leads_and_by_nobody_else() {
    let mut world = World::settled(json!({}));
    world.observed.remove(Kind::ConfigMap, "db-config");
    assert!(!names(&world.plan().actions).contains(&"create ConfigMap db-config".to_owned()));
    world.settle();
    assert_eq!(says(&world, "Ready").0, "True");

    // Nobody leads: members wait, and above all no new one with an empty volume comes.
    world.delete();
    world.settle();
    world.observed.remove(Kind::ConfigMap, "db-config");
    world.recreate(json!({ "replicas": 5 }));
    world.settle();
    assert_eq!(says(&world, "Ready"), is("False", reason::HISTORY_MISSING));
    assert!(world.observed.get(Kind::StatefulSet, "db").is_none());
    assert!(world.plan().status.conditions[0].message.contains("data-db-0, data-db-1, data-db-2"));

    // Made by hand, it has those with data start first.
    let labels = crate::api::Names("db").labels();
    world.observed.insert(Kind::ConfigMap, json!({ "metadata": { "name": "db-config", "labels": labels } }));
    world.pass(usize::MAX);
    assert_eq!(world.get(Kind::StatefulSet, "db")["spec"]["replicas"], 3);
    world.settle();
    assert_eq!((says(&world, "Ready").0.as_str(), world.pods().len()), ("True", 5));
}

#[test]
fn shrinking_moves_the_primary_even_where_the_configuration_was_lost() {
    let mut world = World::settled(json!({}));
    world.lead("db-2");
    world.settle();
    world.observed.remove(Kind::ConfigMap, "db-config");
    world.edit(json!({ "replicas": 1 }));
    assert!(!names(&world.plan().actions).contains(&"apply StatefulSet db".to_owned()));
    world.settle();
    assert_eq!((world.pods(), says(&world, "Ready").0.as_str()), (vec!["db-0".to_owned()], "True"));
}

#[test]
fn the_last_member_waits_for_nobody_before_the_others_go() {
    let mut world = World::settled(json!({}));
    world.edit(json!({ "replicas": 1 }));
    let plan = world.pass(usize::MAX);
    let patch = r#"patch db-0 {"primary_start_timeout":60,"synchronous_mode":false}"#;
    assert!(names(&plan.actions).contains(&patch.to_owned()), "{:?}", names(&plan.actions));
    assert_eq!(world.get(Kind::StatefulSet, "db")["spec"]["replicas"], 3);
    world.step();
    world.pass(usize::MAX);
    assert_eq!(world.get(Kind::StatefulSet, "db")["spec"]["replicas"], 1);
}

#[test]
fn data_of_another_major_is_said_to_be_that_and_no_version_is_claimed() {
    let mut world = World::settled(json!({ "version": "18.6" }));
    world.delete();
    world.settle();
    // As an earlier dbctl left it, which noted no release beside the data.
    world.change(Kind::ConfigMap, "db-config", json!({ "metadata": { "annotations": { RELEASE: null } } }));
    world.recreate(json!({ "version": "16.15" }));
    world.pass(usize::MAX);
    world.step();
    for pod in world.pods() {
        let said = "log\nerror: failed to start PostgreSQL 16: set spec.version back to a release of 18\n";
        let container = json!({ "name": "postgres", "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s" } }, "lastState": { "terminated": { "message": said } } });
        let status = json!({ "conditions": [], "containerStatuses": [container] });
        world.change(Kind::Pod, &pod, json!({ "metadata": { "annotations": null }, "status": status }));
    }
    world.observed.lock_age = LockAge::Expired;
    let status = world.plan().status;
    assert_eq!(status.version, None);
    let ready = condition(&status, "Ready");
    assert!(ready.message.contains("set spec.version back to a release of 18"), "{}", ready.message);
}

#[test]
fn data_of_another_major_is_refused_before_anything_is_made() {
    let mut world = World::settled(json!({ "version": "16.15" }));
    let noted =
        |world: &World| world.get(Kind::ConfigMap, "db-config")["metadata"]["annotations"][RELEASE].clone();
    assert_eq!(noted(&world), "16.15");
    world.delete();
    world.settle();
    world.recreate(json!({ "version": "17.2" }));
    let plan = world.plan();
    assert_eq!(names(&plan.actions), ["status", "event OtherMajor"]);
    let ready = condition(&plan.status, "Ready");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", reason::OTHER_MAJOR));
    assert!(
        ready.message.contains("16.15") && ready.message.contains("a release of 16"),
        "{}",
        ready.message
    );
    world.settle();
    assert!(world.observed.get(Kind::StatefulSet, "db").is_none());
    // Another release of the same major reads it, and is noted.
    world.edit(json!({ "version": "16.16" }));
    world.settle();
    assert_eq!((says(&world, "Ready").0.as_str(), noted(&world)), ("True", json!("16.16")));
    // Of a database that is there, the release goes on, whatever is asked for and lost.
    world.edit(json!({ "version": "17.2" }));
    world.observed.remove(Kind::StatefulSet, "db");
    world.settle();
    assert_eq!(
        world.get(Kind::StatefulSet, "db")["spec"]["template"]["metadata"]["labels"][LABEL_VERSION],
        "16.16"
    );
    assert_eq!(says(&world, "UpToDate"), is("False", reason::UPGRADE_NEEDED));
    // Where no volume is left, there is nothing to read.
    let mut world = World::settled(json!({ "version": "16.15", "replicas": 1 }));
    world.delete();
    world.settle();
    world.observed.remove(Kind::PersistentVolumeClaim, "data-db-0");
    world.recreate(json!({ "version": "17.2", "replicas": 1 }));
    assert_ne!(says(&world, "Ready").1, reason::OTHER_MAJOR);
}

#[test]
fn what_was_orphaned_goes_on_and_is_taken_up_again() {
    for policy in ["Retain", "Delete"] {
        let mut world = World::settled(json!({ "deletionPolicy": policy }));
        world.orphan();
        assert_eq!(names(&world.plan().actions), ["remove finalizer"]);
        let before = world.observed.clone();
        world.pass(usize::MAX);
        assert!(world.database.is_none());
        assert!(Kind::ALL.into_iter().all(|kind| before.all(kind).eq(world.observed.all(kind))), "{policy}");

        world.recreate(json!({}));
        assert_ne!(says(&world, "Ready").1, reason::NAME_TAKEN);
        world.settle();
        assert_eq!(says(&world, "Ready"), is("True", reason::ALL_MEMBERS_READY));
        let owner = &world.get(Kind::StatefulSet, "db")["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], "uid-2");
        for (kind, name) in needed("db", 3) {
            let same = at(world.get(kind, &name), "/metadata/uid")
                == at(before.get(kind, &name).unwrap(), "/metadata/uid");
            assert!(same, "{kind} {name} was made anew");
        }
    }
}

/// Each part of the proof is needed.
#[test]
fn an_object_without_owner_is_an_orphan_only_by_name_labels_and_mark() {
    for taken in [
        json!({ "metadata": { "annotations": { APPLIED: null } } }),
        json!({ "metadata": { "labels": { "app.kubernetes.io/managed-by": "helm" } } }),
        json!({ "metadata": { "labels": { "db.example.com/database": "other" } } }),
        json!({ "metadata": { "ownerReferences": [{ "kind": "Shop", "name": "db", "uid": "7", "controller": true }] } }),
    ] {
        let mut world = World::settled(json!({}));
        world.orphan();
        world.pass(usize::MAX);
        world.recreate(json!({}));
        world.change(Kind::Service, "db", taken.clone());
        assert_eq!(says(&world, "Ready"), is("False", reason::NAME_TAKEN), "{taken}");
    }
}

#[test]
fn pods_of_anothers_stateful_set_are_not_deleted() {
    let mut world = World::settled(json!({ "replicas": 1 }));
    let theirs = json!({ "metadata": { "ownerReferences": null, "annotations": { APPLIED: null } } });
    world.change(Kind::StatefulSet, "db", theirs);
    assert_eq!(says(&world, "Ready"), is("False", reason::NAME_TAKEN));
    world.delete();
    assert_eq!(names(&world.plan().actions)[0], "remove finalizer");
}

#[test]
fn a_volume_that_is_being_deleted_is_told_of() {
    let mut world = World::settled(json!({}));
    let gone = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
    world.change(Kind::PersistentVolumeClaim, "data-db-1", gone);
    assert_eq!(says(&world, "StorageHealthy"), is("False", reason::CLAIM_TERMINATING));
}

#[test]
fn what_hands_write_into_patronis_objects_breaks_nothing() {
    let mut world = World::settled(json!({}));
    for (optime, lsn) in [(i64::MIN, i64::MAX), (i64::MAX, i64::MIN)] {
        let lock = json!({ "metadata": { "annotations": { "optime": optime.to_string() } } });
        world.change(Kind::ConfigMap, "db-leader", lock);
        let status = json!({ "state": "running", "role": "replica", "replication_state": "streaming", "timeline": 1, "replay_lsn": lsn });
        let pod = json!({ "metadata": { "annotations": { "status": status.to_string() } } });
        world.change(Kind::Pod, "db-1", pod);
        assert!(world.plan().status.instances[1].lag_bytes >= Some(0));
    }
    world.change(Kind::StatefulSet, "db", json!({ "spec": { "replicas": i32::MAX } }));
    let needed = needed_by(world.database.as_ref().unwrap(), &world.observed);
    assert!(needed.len() < 50, "{}", needed.len());
}

/// What is done to a settled database of three, and what its conditions then say.
#[test]
fn a_replica_that_patroni_lists_as_something_else_is_not_ready_and_says_so() {
    let mut world = World::settled(json!({ "replicas": 2 }));
    let answer = Answer { role: "replica".into(), state: "running".into(), ..Answer::default() };
    world.answer("db-1", Some(answer));
    let status =
        json!({ "state": "running", "role": "demoted", "replication_state": "streaming", "timeline": 1 });
    let annotations = json!({ "status": status.to_string() });
    world.change(Kind::Pod, "db-1", json!({ "metadata": { "annotations": annotations } }));
    let status = world.plan().status;
    let ready = condition(&status, "Ready");
    assert_eq!(ready.reason, "MemberNotReady");
    assert_eq!(ready.message, "db-1 runs as a replica, but Patroni lists it as demoted");
}

#[test]
fn conditions_tell_the_truth() {
    type Break = fn(&mut World);
    let cases: [(&str, Break, &str, &str, Phase); 12] = [
        (
            "lock released",
            |w| {
                w.change(
                    Kind::ConfigMap,
                    "db-leader",
                    json!({ "metadata": { "annotations": { "leader": null } } }),
                );
            },
            reason::NO_LEADER,
            reason::NO_LEADER,
            Phase::FailingOver,
        ),
        (
            "holder's pod gone",
            |w| drop(w.observed.remove(Kind::Pod, "db-0")),
            reason::PRIMARY_NOT_RUNNING,
            reason::PRIMARY_NOT_RUNNING,
            Phase::FailingOver,
        ),
        (
            "replica's pod gone",
            |w| drop(w.observed.remove(Kind::Pod, "db-2")),
            reason::MEMBERS_MISSING,
            reason::PRIMARY_ACCEPTS_WRITES,
            Phase::Progressing,
        ),
        (
            "replica not ready",
            |w| w.change(Kind::Pod, "db-2", json!({ "status": { "conditions": [] } })),
            reason::MEMBER_NOT_READY,
            reason::PRIMARY_ACCEPTS_WRITES,
            Phase::Degraded,
        ),
        (
            "replica not streaming",
            |w| {
                w.change(Kind::Pod, "db-2", json!({ "metadata": { "annotations": { "status": "{\"role\":\"replica\",\"state\":\"running\"}" } } }));
            },
            reason::MEMBER_NOT_READY,
            reason::PRIMARY_ACCEPTS_WRITES,
            Phase::Degraded,
        ),
        (
            "replica on an older timeline",
            |w| {
                w.change(Kind::Pod, "db-2", json!({ "metadata": { "annotations": { "status": "{\"role\":\"replica\",\"state\":\"running\",\"replication_state\":\"streaming\",\"timeline\":9}" } } }));
            },
            reason::MEMBER_NOT_READY,
            reason::PRIMARY_ACCEPTS_WRITES,
            Phase::Degraded,
        ),
        (
            "replica not a synchronous standby",
            |w| {
                w.change(
                    Kind::ConfigMap,
                    "db-sync",
                    json!({ "metadata": { "annotations": { "sync_standby": "db-1" } } }),
                );
            },
            reason::MEMBER_NOT_READY,
            reason::PRIMARY_ACCEPTS_WRITES,
            Phase::Degraded,
        ),
        (
            "no synchronous standby",
            |w| {
                w.change(
                    Kind::ConfigMap,
                    "db-sync",
                    json!({ "metadata": { "annotations": { "sync_standby": "" } } }),
                );
            },
            reason::SYNC_DEGRADED,
            reason::PRIMARY_ACCEPTS_WRITES,
            Phase::Degraded,
        ),
        (
            "nowhere to write",
            |w| w.change(Kind::EndpointSlice, "db-x", json!({ "endpoints": [] })),
            reason::NO_ENDPOINT,
            reason::NO_ENDPOINT,
            Phase::FailingOver,
        ),
        (
            "two to write to",
            |w| {
                w.change(Kind::EndpointSlice, "db-x", json!({ "endpoints": [{ "targetRef": { "name": "db-0" } }, { "targetRef": { "name": "db-1" } }] }));
            },
            reason::NO_ENDPOINT,
            reason::NO_ENDPOINT,
            Phase::FailingOver,
        ),
        (
            "the holder says it is not a primary",
            |w| {
                drop(w.observed.answers.insert(
                    "db-0".into(),
                    Answer { role: "replica".into(), state: "running".into(), ..Answer::default() },
                ));
            },
            reason::PRIMARY_NOT_RUNNING,
            reason::PRIMARY_NOT_RUNNING,
            Phase::FailingOver,
        ),
        (
            "the lock has run out",
            |w| w.observed.lock_age = LockAge::Expired,
            reason::NO_LEADER,
            reason::NO_LEADER,
            Phase::FailingOver,
        ),
    ];
    for (what, break_it, ready, writable, phase) in cases {
        let mut world = World::settled(json!({}));
        break_it(&mut world);
        let plan = world.plan();
        assert_eq!(condition(&plan.status, "Ready").reason, ready, "{what}");
        assert_eq!(condition(&plan.status, "Ready").status, "False", "{what}");
        assert_eq!(condition(&plan.status, "Writable").reason, writable, "{what}");
        assert_eq!(plan.status.phase, Some(phase), "{what}");
        assert_eq!(plan.requeue, SOON, "{what}");
        assert!(plan.actions.iter().any(|action| matches!(action, Action::PublishEvent(_))), "{what}");
    }
}

#[test]
fn an_answer_outweighs_what_was_written_earlier() {
    let mut world = World::settled(json!({}));
    let answer =
        Answer { role: "primary".into(), state: "running".into(), timeline: Some(1), ..Answer::default() };
    world.observed.answers.insert("db-0".into(), answer);
    world.observed.lock_age = LockAge::Expired;
    world.change(Kind::Pod, "db-0", json!({ "metadata": { "annotations": { "status": null } } }));
    assert_eq!(says(&world, "Writable"), is("True", reason::PRIMARY_ACCEPTS_WRITES));
}

#[test]
fn commits_wait_for_a_quorum_from_the_second_member_on() {
    let mut world = World::settled(json!({ "replicas": 1 }));
    assert_eq!(world.mode(), json!(false));
    world.edit(json!({ "replicas": 3 }));
    world.settle();
    assert_eq!(world.mode(), json!("quorum"));
    assert_eq!(says(&world, "Ready").0, "True");
    world.edit(json!({ "replicas": 1 }));
    world.settle();
    assert_eq!((world.mode(), world.pods()), (json!(false), vec!["db-0".to_owned()]));
    assert!(world.observed.get(Kind::PodDisruptionBudget, "db").is_none());
    assert!(world.observed.get(Kind::PersistentVolumeClaim, "data-db-2").is_some(), "claims stay");
}

#[test]
fn shrinking_moves_the_primary_first_and_never_removes_it() {
    let mut world = World::settled(json!({ "replicas": 5 }));
    world.lead("db-4");
    world.settle();
    world.edit(json!({ "replicas": 3 }));
    let plan = world.plan();
    assert!(names(&plan.actions).contains(&"switchover db-4 db-0".to_owned()), "{:?}", names(&plan.actions));
    assert!(!names(&plan.actions).contains(&"apply StatefulSet db".to_owned()));
    assert_eq!(condition(&plan.status, "Ready").reason, reason::SCALING);
    assert_eq!(plan.status.phase, Some(Phase::Progressing));
    world.settle();
    assert_eq!((world.pods().len(), world.leader()), (3, Some("db-0")));
    assert_eq!(says(&world, "Ready").0, "True");
}

#[test]
fn shrinking_waits_where_nobody_who_stays_is_fit() {
    let mut world = World::settled(json!({ "replicas": 3 }));
    world.lead("db-2");
    world.settle();
    world.change(Kind::Pod, "db-0", json!({ "status": { "conditions": [] } }));
    world.edit(json!({ "replicas": 1 }));
    let plan = world.plan();
    assert_eq!(condition(&plan.status, "Ready").reason, reason::SCALING);
    assert!(condition(&plan.status, "Ready").message.contains("db-2"));
    assert_eq!(world.get(Kind::StatefulSet, "db")["spec"]["replicas"], 3);
    let applies = |plan: &Plan| names(&plan.actions).contains(&"apply StatefulSet db".to_owned());
    assert!(!applies(&plan));
    // Nor while nobody knows who the primary is.
    world.change(Kind::ConfigMap, "db-leader", json!({ "metadata": { "annotations": { "leader": null } } }));
    assert!(!applies(&world.plan()));
}

#[test]
fn shrinking_waits_until_commits_wait_for_one_who_stays() {
    for (standbys, removed) in [("db-3,db-4", false), ("db-1,db-3", true), ("", true)] {
        let mut world = World::settled(json!({ "replicas": 5 }));
        let sync = json!({ "metadata": { "annotations": { "sync_standby": standbys } } });
        world.change(Kind::ConfigMap, "db-sync", sync);
        world.edit(json!({ "replicas": 2 }));
        let plan = world.plan();
        let applies = names(&plan.actions).contains(&"apply StatefulSet db".to_owned());
        let message = condition(&plan.status, "Ready").message.clone();
        assert_eq!(
            (applies, message.contains("listed as a synchronous standby")),
            (removed, !removed),
            "{standbys}"
        );
    }
}

#[test]
fn a_shrinking_write_is_bound_to_the_leader_of_that_moment() {
    let mut world = World::settled(json!({}));
    world.edit(json!({ "replicas": 2 }));
    let plan = world.plan();
    let bound = plan.actions.iter().find_map(|action| match action {
        Action::Apply(apply) if apply.kind == Kind::StatefulSet => Some(apply.leader_below),
        _ => None,
    });
    assert_eq!(bound, Some(Some(2)));
}

#[test]
fn even_numbers_are_advised_against_once() {
    for (replicas, warned) in [(2, false), (3, false), (4, true)] {
        let world = World::settled(json!({ "replicas": replicas }));
        let count = world.events.iter().filter(|event| event.reason == reason::EVEN_REPLICAS).count();
        assert_eq!(count, usize::from(warned), "{replicas}");
    }
}

#[test]
fn a_new_release_reaches_the_pods_but_a_new_major_does_not() {
    for (version, image, up_to_date, runs) in [
        ("16.16", "dbctl/postgres:16.16", is("True", reason::PODS_UP_TO_DATE), "16.16"),
        ("17.2", "dbctl/postgres:16.15", is("False", reason::UPGRADE_NEEDED), "16.15"),
    ] {
        let mut world = World::settled(json!({}));
        world.edit(json!({ "version": version }));
        world.settle();
        let found = text(world.get(Kind::StatefulSet, "db"), "/spec/template/spec/containers/0/image");
        assert_eq!(found, Some(image));
        assert_eq!(says(&world, "UpToDate"), up_to_date);
        assert_eq!(world.plan().status.version.as_deref(), Some(runs));
        assert_eq!(world.releases(), [runs; 3]);
    }
}

#[test]
fn deletion_keeps_or_removes_what_the_policy_says() {
    for (policy, kept) in [("Retain", true), ("Delete", false)] {
        let mut world = World::settled(json!({ "deletionPolicy": policy }));
        world.delete();
        let plan = world.pass(usize::MAX);
        assert_eq!(plan.status.phase, Some(Phase::Deleting));
        assert_eq!(names(&plan.actions)[0], "delete StatefulSet db");
        assert!(
            names(&world.plan().actions).iter().all(|action| !action.contains("finalizer")),
            "pods still run"
        );
        world.settle();
        assert!(world.database.is_none());
        for (kind, name) in [
            (Kind::PersistentVolumeClaim, "data-db-2"),
            (Kind::ConfigMap, "db-config"),
            (Kind::Secret, "db-internal"),
            (Kind::Secret, "db-app"),
            (Kind::Secret, "db-ca"),
            (Kind::Secret, "db-tls"),
        ] {
            assert_eq!(world.observed.get(kind, name).is_some(), kept, "{policy} {name}");
        }
        assert!(world.observed.get(Kind::Service, "db").is_none());
    }
}

/// Whoever deletes the definition deletes all Databases with it, and has not said a word about data.
#[test]
fn without_their_definition_databases_go_and_their_data_stays() {
    let mut world = World::settled(json!({ "deletionPolicy": "Delete" }));
    world.observed.definition_going = true;
    world.delete();
    world.settle();
    assert!(world.database.is_none());
    assert_eq!(world.observed.all(Kind::PersistentVolumeClaim).count(), 3);
    assert_eq!(world.observed.all(Kind::Secret).count(), 4);
}

#[test]
fn what_was_kept_is_taken_up_again_by_as_many_members_as_hold_it() {
    let mut world = World::settled(json!({}));
    world.lead("db-2");
    world.settle();
    world.delete();
    world.settle();
    world.recreate(json!({ "replicas": 1 }));
    world.pass(usize::MAX);
    assert_eq!(
        world.get(Kind::StatefulSet, "db")["spec"]["replicas"],
        3,
        "the newest data may be any member's"
    );
    world.settle();
    assert_eq!(world.pods(), ["db-0"]);
    assert_eq!(says(&world, "Ready").0, "True");
}

#[test]
fn others_objects_survive_a_deletion() {
    let mut world = World::settled(json!({ "deletionPolicy": "Delete" }));
    let labels = crate::api::Names("db").labels();
    for (kind, name) in
        [(Kind::Secret, "mine"), (Kind::PersistentVolumeClaim, "data-other"), (Kind::ConfigMap, "db-notes")]
    {
        world.observed.insert(kind, json!({ "metadata": { "name": name, "labels": labels } }));
    }
    world.delete();
    world.settle();
    assert!(world.database.is_none());
    assert!(world.observed.get(Kind::Secret, "mine").is_some());
    assert!(world.observed.get(Kind::PersistentVolumeClaim, "data-other").is_some());
    assert!(world.observed.get(Kind::ConfigMap, "db-notes").is_some());
}

#[test]
fn a_database_that_cannot_be_read_goes_and_leaves_its_data() {
    let mut world = World::settled(json!({ "deletionPolicy": "Delete" }));
    world.delete();
    let stand_in = stand_in(&world.database.as_ref().unwrap().metadata).unwrap();
    assert_eq!(
        names(&plan_unreadable(&stand_in, &world.observed, &Settings::default())),
        ["delete StatefulSet db"]
    );
    world.observed.remove(Kind::StatefulSet, "db");
    world.step();
    assert_eq!(
        names(&plan_unreadable(&stand_in, &world.observed, &Settings::default())),
        ["remove finalizer"]
    );
}

#[test]
fn requests_are_answered_once_and_never_looped_over() {
    let mut world = World::settled(json!({}));
    let id = ulid::Ulid::from_parts(u64::try_from(world.now.as_millisecond()).unwrap(), 1);
    let good = format!(r#"{{"id":"{id}","uid":"uid-1"}}"#);
    let other = format!(r#"{{"id":"{}","uid":"another"}}"#, ulid::Ulid::from_parts(id.timestamp_ms(), 2));
    let annotations =
        [("restore", good.as_str()), ("failover", other.as_str()), ("backup", "{"), ("dance", "{}")];
    let annotations = annotations.map(|(verb, text)| (format!("db.example.com/{verb}"), text.to_owned()));
    world.database.as_mut().unwrap().metadata.annotations = Some(annotations.into());
    world.events.clear();
    world.settle();
    let operations = world.plan().status.operations;
    assert_eq!(operations.len(), 4);
    assert!(operations.iter().all(|operation| operation.phase == OperationPhase::Rejected));
    assert_eq!(
        world.events.iter().filter(|event| event.reason.ends_with("Rejected") && event.warning).count(),
        4
    );
    let said = |kind: &str| operations.iter().find(|o| o.kind == kind).unwrap().message.clone().unwrap();
    assert!(said("restore").contains("backups of db are off"));
    assert!(said("failover").contains("another object's uid"));
    assert!(said("backup").contains("malformed"));
    assert!(said("dance").contains("unknown verb"));
    assert_eq!(world.plan().actions, vec![]);
}

#[test]
fn more_requests_than_are_kept_do_not_push_each_other_out() {
    let mut world = World::settled(json!({}));
    let many = (0..25).map(|n| (format!("db.example.com/verb-{n:02}"), "{}".to_owned()));
    world.database.as_mut().unwrap().metadata.annotations = Some(many.collect());
    world.settle();
    assert_eq!(world.plan().status.operations.len(), 10);
    // New ones push out those that are over.
    let other = [("db.example.com/other".to_owned(), "{}".to_owned())];
    world.database.as_mut().unwrap().metadata.annotations = Some(other.into());
    world.settle();
    let kinds: Vec<String> =
        world.plan().status.operations.into_iter().map(|operation| operation.kind).collect();
    assert_eq!((kinds.len(), kinds[0].as_str()), (10, "other"));
}

fn any_spec() -> impl Strategy<Value = Value> {
    let backup = prop::option::of((any::<bool>(), prop::option::of("[a-z]{1,3}")));
    (1..=9, any::<bool>(), any::<bool>(), prop::option::of("[1-9][0-9]?MB"), 0..3usize, backup).prop_map(
        |(replicas, synchronous, delete, work_mem, hba, backup)| {
            let parameters = work_mem.map_or(json!({}), |value| json!({ "work_mem": value }));
            let backup = backup.map(|(enabled, secret)| {
                json!({ "enabled": enabled, "schedule": "0 3 * * *", "destination": "s3://b/p", "credentialsSecret": secret })
            });
            json!({
                "replicas": replicas,
                "backup": backup,
                "synchronous": synchronous,
                "deletionPolicy": if delete { "Delete" } else { "Retain" },
                "parameters": parameters,
                "hba": vec!["host all all 10.0.0.0/8 reject"; hba],
                "resources": { "requests": { "memory": "1Gi", "cpu": "500m" } },
            })
        },
    )
}

/// What happens to a database in between.
#[derive(Clone, Debug)]
enum Happening {
    Pass(usize),
    Step,
    Edit(Value),
    Lead(usize),
    LosePod(usize),
    LoseObject(usize),
    LoseConfigMap(usize),
    Foreign(usize),
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..20usize).prop_map(Happening::Pass),
        4 => Just(Happening::Step),
        1 => any_spec().prop_map(Happening::Edit),
        1 => (0..9usize).prop_map(Happening::Lead),
        1 => (0..9usize).prop_map(Happening::LosePod),
        1 => (0..9usize).prop_map(Happening::LoseObject),
        1 => (0..4usize).prop_map(Happening::LoseConfigMap),
        1 => any::<prop::sample::Index>().prop_map(|which| Happening::Foreign(which.index(1000))),
    ]
}

fn foreign(name: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "ns", "uid": "foreign" }, "data": { "a": "b" } })
}

/// Others take their objects away again, which are as they made them.
fn foreign_ones_go(world: &mut World) {
    for (kind, name) in needed("db", 9) {
        let found = world.observed.get(kind, &name).filter(|object| object["metadata"]["uid"] == "foreign");
        if let Some(found) = found {
            assert_eq!(found, &foreign(&name), "{kind}");
            world.observed.remove(kind, &name);
        }
    }
}

fn happen(world: &mut World, happening: &Happening) {
    let pods = world.pods();
    match happening {
        Happening::Pass(limit) => drop(world.pass(*limit)),
        Happening::Step => world.step(),
        Happening::Edit(spec) => world.edit(spec.clone()),
        Happening::Lead(pod) if world.leader().is_some() && !pods.is_empty() => {
            world.lead(&pods[pod % pods.len()]);
        }
        Happening::LosePod(pod) if !pods.is_empty() => {
            drop(world.observed.remove(Kind::Pod, &pods[pod % pods.len()]));
        }
        Happening::LoseObject(which) => {
            let owned = [
                Kind::Service,
                Kind::Role,
                Kind::RoleBinding,
                Kind::ServiceAccount,
                Kind::PodDisruptionBudget,
            ];
            drop(world.observed.remove(owned[which % owned.len()], "db"));
        }
        // A hand that takes it away while members with empty volumes start cannot be helped.
        Happening::LoseConfigMap(which) if world.volumes_are_filled() => {
            drop(world.observed.remove(Kind::ConfigMap, &crate::api::Names("db").patroni_objects()[*which]));
        }
        Happening::Foreign(which) => {
            let needed = needed("db", 9);
            let (kind, name) = &needed[which % needed.len()];
            // Where members run, these are Patroni's and the StatefulSet's to fill, whosever they are.
            let filled =
                !pods.is_empty() && matches!(kind, Kind::ConfigMap | Kind::PersistentVolumeClaim | Kind::Pod);
            if !filled && world.observed.get(*kind, name).is_none() {
                world.observed.insert(*kind, foreign(name));
            }
        }
        Happening::Lead(_) | Happening::LosePod(_) | Happening::LoseConfigMap(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn planning_twice_changes_nothing(spec in any_spec()) {
        let mut world = World::settled(spec);
        prop_assert_eq!(world.plan().actions, vec![]);
        world.step();
        // Not as late as the schedule's next time, which the status names.
        world.now += jiff::SignedDuration::from_hours(1);
        prop_assert_eq!(world.plan().actions, vec![]);
    }

    /// A second pass over the same observation asks for the same: nothing is decided by how often it is looked.
    #[test]
    fn from_any_interrupted_state_it_converges(
        spec in any_spec(),
        happenings in prop::collection::vec(any_happening(), 0..24),
    ) {
        let mut world = World::new(database(spec));
        for happening in &happenings {
            happen(&mut world, happening);
            let shrinks_primary_away = world.leader().is_some_and(|leader| {
                !world.pods().is_empty() && !matches!(happening, Happening::LosePod(_)) && !world.pods().iter().any(|pod| pod == leader)
            });
            let lost = happenings.iter().any(|happening| matches!(happening, Happening::LosePod(_)));
            prop_assert!(!shrinks_primary_away || lost);
        }
        foreign_ones_go(&mut world);
        world.settle();
        // What failed is asked for again after a while.
        world.observed.asked = None;
        world.settle();
        let plan = world.plan();
        prop_assert_eq!(plan.actions, vec![]);
        let ready = condition(&plan.status, "Ready");
        prop_assert_eq!(ready.status.as_str(), "True", "{}", ready.message);
        prop_assert_eq!(plan.status.phase, Some(Phase::Running));
        let replicas = world.database.as_ref().unwrap().spec.replicas;
        prop_assert_eq!(i32::try_from(world.pods().len()).unwrap(), replicas);
        let synchronous = world.database.as_ref().unwrap().spec.synchronous && replicas > 1;
        prop_assert_eq!(world.mode() == json!("quorum"), synchronous);
    }

    #[test]
    fn deletion_ends_from_any_interrupted_state(
        spec in any_spec(),
        happenings in prop::collection::vec(any_happening(), 0..16),
        limits in prop::collection::vec(0..6usize, 0..12),
    ) {
        let mut world = World::new(database(spec));
        for happening in &happenings {
            happen(&mut world, happening);
        }
        let policy = world.database.as_ref().unwrap().spec.deletion_policy;
        let guarded = world.database.as_ref().unwrap().metadata.finalizers.is_some();
        world.delete();
        for limit in limits {
            if world.database.is_some() {
                world.pass(limit);
                world.step();
            }
        }
        prop_assume!(guarded);
        world.settle();
        prop_assert!(world.database.is_none());
        foreign_ones_go(&mut world);
        let claims = world.observed.all(Kind::PersistentVolumeClaim).count();
        let secrets = world.observed.all(Kind::Secret).count();
        if policy == DeletionPolicy::Delete {
            prop_assert_eq!((claims, secrets), (0, 0));
        } else {
            prop_assert!(secrets > 0 || happenings.is_empty() || claims == 0);
        }
        prop_assert_eq!(world.observed.all(Kind::Service).count(), 0);
    }
}
