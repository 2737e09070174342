//! Restores in place: from the request to the backup at the end, cut short anywhere.

use proptest::prelude::*;
use serde_json::{Value, json};
use ulid::Ulid;

use super::super::*;
use super::names;
use crate::agent::FAILED;
use crate::api::{
    CATALOG_KEY, Kept, Mark, Names, Operation, OperationPhase, Phase, RESTORED, Stage, reason, requests,
};
use crate::plan::text::{at, text};
use crate::plan::world::World;

fn spec() -> Value {
    json!({ "backup": { "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/p" } })
}

/// A database with backups, of which the controller knows.
fn world() -> World {
    let mut world = World::settled(spec());
    world.now = "2026-11-22T10:00:00Z".parse().unwrap();
    let entry = |id: &str, at: &str| json!({ "id": id, "startedAt": at, "stoppedAt": at, "size": 1_000_000, "version": "16.15" });
    let catalog = json!({ "backups": [entry("b2", "2026-11-22T03:00:00Z"), entry("b1", "2026-11-21T03:00:00Z")],
        "earliest": "2026-11-21T03:00:00Z" });
    world.change(Kind::ConfigMap, "db-backups", json!({ "data": { CATALOG_KEY: catalog.to_string() } }));
    world.settle();
    world
}

fn ask(world: &mut World, arguments: Value) -> String {
    let made = u64::try_from(world.now.as_millisecond()).unwrap();
    let id = Ulid::from_parts(made, 7).to_string();
    let mut request = json!({ "id": id, "uid": "uid-1" });
    json_patch::merge(&mut request, &arguments);
    let annotations = world.database.as_mut().unwrap().metadata.annotations.get_or_insert_default();
    annotations.insert("db.example.com/restore".to_owned(), request.to_string());
    assert_eq!(requests(annotations).len(), 1);
    id
}

fn operation(world: &World, id: &str) -> Operation {
    world.plan().status.operations.into_iter().find(|operation| operation.id == id).unwrap()
}

fn said(world: &World, id: &str) -> (OperationPhase, String) {
    let operation = operation(world, id);
    (operation.phase, operation.message.unwrap_or_default())
}

fn mark(world: &World) -> Option<Mark> {
    Mark::of(world.get(Kind::ConfigMap, "db-config")).unwrap()
}

fn ready(world: &World) -> (String, String) {
    let status = world.plan().status;
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap().clone();
    (ready.reason, ready.message)
}

fn job(id: &str) -> String {
    Names("db").backup_job(id)
}

#[test]
fn all_members_get_the_data_of_the_target_and_a_backup_is_taken() {
    let mut world = world();
    let id = ask(&mut world, json!({ "targetTime": "2026-11-22T09:00:00Z" }));
    let mut steps = Vec::new();
    for _ in 0..30 {
        let plan = world.pass(usize::MAX);
        let shown = mark(&world).map(|mark| format!("{:?}", mark.stage)).unwrap_or_default();
        let line = format!("{shown} {} pods, {:?}", world.pods().len(), plan.status.phase.unwrap());
        if steps.last() != Some(&line) {
            steps.push(line);
        }
        world.step();
    }
    assert_eq!(
        steps,
        [
            "Stopping 3 pods, Running",
            "Stopping 3 pods, Restoring",
            "Stopped 0 pods, Restoring",
            "Restoring 0 pods, Restoring",
            "Done 1 pods, Restoring",
            "Done 3 pods, Running",
        ]
    );
    assert_eq!(world.contents(), [id.clone(), id.clone(), id.clone()]);
    assert_eq!(world.aside.values().collect::<Vec<_>>(), ["before", "before", "before"]);
    let (phase, message) = said(&world, &id);
    assert_eq!(phase, OperationPhase::Succeeded, "{message}");
    assert!(message.contains("restored to 2026-11-22T09:00:00Z"), "{message}");
    assert!(message.contains(&format!("pgdata.before-{id}")) && message.contains(&job(&id)), "{message}");
    assert_eq!(world.observed.all(Kind::Job).count(), 1);
    assert_eq!(world.plan().actions, vec![]);
    // What it says of Patroni's afterwards says nothing of a restore any more.
    let file = world.get(Kind::ConfigMap, "db-patroni")["data"]["patroni.yml"].as_str().unwrap();
    let file: Value = serde_json::from_str(file).unwrap();
    assert_eq!((&file["dbctl"]["restore"], file["bootstrap"].get("method")), (&json!(id), None));
    let set = world.get(Kind::StatefulSet, "db");
    assert_eq!(at(set, "/spec/template/metadata/annotations").unwrap()[RESTORED], id);
}

#[test]
fn the_first_member_is_told_what_to_restore_before_it_is_there() {
    let mut world = world();
    let id = ask(&mut world, json!({ "backup": "b1", "targetName": "before it's gone" }));
    while mark(&world).is_none_or(|mark| mark.stage != Stage::Restoring) {
        world.pass(usize::MAX);
        world.step();
    }
    assert_eq!(world.pods().len(), 0);
    assert_eq!(world.get(Kind::StatefulSet, "db")["spec"]["replicas"], 0);
    let file = world.get(Kind::ConfigMap, "db-patroni")["data"]["patroni.yml"].as_str().unwrap();
    let file: Value = serde_json::from_str(file).unwrap();
    assert_eq!(
        file["bootstrap"]["dbctl"],
        json!({ "from": "s3://b/p", "backup": "b1", "target-name": "before it's gone", "command": "dbctl agent bootstrap" })
    );
    assert_eq!(file["dbctl"]["restore"], json!(id));
    world.pass(usize::MAX);
    assert_eq!(world.get(Kind::StatefulSet, "db")["spec"]["replicas"], 1);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_stopped() {
    type Change = fn(&mut World);
    let nothing: Change = |_| {};
    let pause: Change = |world| {
        let config = text(world.get(Kind::ConfigMap, "db-config"), "/metadata/annotations/config").unwrap();
        let mut config: Value = serde_json::from_str(config).unwrap();
        config["pause"] = json!(true);
        let annotations = json!({ "config": config.to_string() });
        world.change(Kind::ConfigMap, "db-config", json!({ "metadata": { "annotations": annotations } }));
    };
    let full: Change = |world| {
        world.observed.rooms.insert("db-1".into(), Room { size: 5_000_000, free: 400_000 });
        world.observed.kept.insert("db-1".into(), Vec::new());
    };
    let unaware: Change = |world| {
        world.observed.rooms.insert("db-2".into(), Room { size: 5 << 30, free: 4 << 30 });
    };
    let busy: Change = |world| {
        let operation = Operation {
            id: "1".into(),
            kind: "failover".into(),
            phase: OperationPhase::Running,
            ..Operation::default()
        };
        world.database.as_mut().unwrap().status.as_mut().unwrap().operations = vec![operation];
        world.observed.asked = Some(Asked {
            ask: Ask::Failover { candidate: "db-1".into() },
            cause: "1".into(),
            outcome: AskOutcome::UnderWay,
        });
    };
    let none: Change = |world| {
        world.change(Kind::ConfigMap, "db-backups", json!({ "data": null }));
    };
    let off: Change = |world| world.edit(json!({ "backup": { "enabled": false } }));
    for (change, arguments, why) in [
        (
            nothing,
            json!({ "targetTime": "2026-11-20T09:00:00Z" }),
            "the target lies before the first backup: the data can be restored to any time from 2026-11-21T03:00:00Z to about now",
        ),
        (
            nothing,
            json!({ "targetTime": "2026-11-23T09:00:00Z" }),
            "the target lies in the future: the data can be restored to any time from 2026-11-21T03:00:00Z to now",
        ),
        (nothing, json!({ "targetTime": "yesterday" }), "targetTime is no instant"),
        (nothing, json!({ "backup": "b9" }), "there is no backup b9: see `dbctl backups db`"),
        (
            nothing,
            json!({ "backup": "b2", "targetTime": "2026-11-22T01:00:00Z" }),
            "backup b2 was complete only after the target",
        ),
        (nothing, json!({ "undo": true }), "no restore in place is under way"),
        (
            nothing,
            json!({ "discard": [Ulid::from_parts(1, 1).to_string()] }),
            "no member that answers keeps data of before restore",
        ),
        (nothing, json!({ "nonsense": 1 }), "malformed restore request: unknown field `nonsense`"),
        (pause, json!({}), "Patroni is paused by somebody who works on this database: resume it first"),
        (full, json!({}), "there is too little room for it on the volume of db-1"),
        (
            unaware,
            json!({}),
            "the dbctl in the pod of db-2 knows nothing of restores in place: delete that pod",
        ),
        (busy, json!({}), "Patroni is busy (db-1 is promoted, 1)"),
        (none, json!({}), "no backup of it is known: take one first, with `dbctl backup-now db`"),
        (off, json!({}), "backups of db are off"),
    ] {
        let mut world = world();
        change(&mut world);
        let id = ask(&mut world, arguments);
        let plan = world.pass(usize::MAX);
        let (phase, message) = said(&world, &id);
        assert_eq!(phase, OperationPhase::Rejected, "{why}: {message}");
        assert!(message.contains(why), "{message}");
        assert!(!names(&plan.actions).iter().any(|action| action.starts_with("mark")), "{why}");
        assert_eq!((mark(&world), world.pods().len()), (None, 3));
    }
    // With less, it goes.
    let mut world = world();
    full(&mut world);
    let id = ask(&mut world, json!({ "withoutOld": true }));
    world.pass(usize::MAX);
    assert_eq!(said(&world, &id).0, OperationPhase::Running);
    assert!(mark(&world).unwrap().discard);
}

#[test]
fn a_request_never_restores_twice() {
    let mut world = world();
    let id = ask(&mut world, json!({}));
    world.settle();
    assert_eq!(said(&world, &id).0, OperationPhase::Succeeded);
    let again = |world: &mut World, expected: &str| {
        world.settle();
        let (phase, message) = said(world, &id);
        assert_eq!(phase, OperationPhase::Rejected);
        assert!(message.contains(expected), "{message}");
        assert_eq!((mark(world).unwrap().stage, world.pods().len()), (Stage::Done, 3));
    };
    // The status is lost, and the annotation still stands.
    world.database.as_mut().unwrap().status = None;
    again(&mut world, "no request replaces data twice");
    // The Database is deleted, and its manifest applied again with the annotation.
    let annotations = world.database.as_ref().unwrap().metadata.annotations.clone();
    world.delete();
    while world.database.is_some() {
        world.pass(usize::MAX);
        world.step();
    }
    world.recreate(spec());
    world.database.as_mut().unwrap().metadata.annotations = annotations;
    again(&mut world, "names another object's uid");
    assert_eq!(world.contents(), [id.clone(), id.clone(), id.clone()]);
}

#[test]
fn one_that_cannot_be_had_leaves_the_old_data_and_says_what_to_do() {
    for way in ["undo", "another"] {
        let mut world = world();
        let sync = world.get(Kind::ConfigMap, "db-sync")["metadata"]["annotations"].clone();
        let id = ask(&mut world, json!({ "targetName": "nowhere" }));
        world.unrestorable =
            Some(format!("{FAILED}failed to recover to restore point \"nowhere\": recovery ended before"));
        world.settle();
        let (phase, message) = said(&world, &id);
        assert_eq!(phase, OperationPhase::Failed);
        assert!(
            message.contains("`dbctl restore db --undo` puts it back") && message.contains(&id),
            "{message}"
        );
        let status = world.plan().status;
        assert_eq!(status.phase, Some(Phase::Failed));
        assert_eq!(ready(&world).0, reason::RESTORE_FAILED);
        assert_eq!(world.aside.values().collect::<Vec<_>>(), ["before"]);
        world.unrestorable = None;
        world.now += jiff::SignedDuration::from_secs(60);
        let next = ask(&mut world, if way == "undo" { json!({ "undo": true }) } else { json!({}) });
        if way == "undo" {
            // Whoever was asked for before a switchover is told again, so that nobody else leads.
            while mark(&world).unwrap().is_under_way() {
                world.pass(usize::MAX);
                world.stateful_set();
            }
            assert_eq!(world.get(Kind::ConfigMap, "db-sync")["metadata"]["annotations"], sync);
        }
        world.settle();
        assert_eq!(said(&world, &next).0, OperationPhase::Succeeded, "{}", said(&world, &next).1);
        let expected = if way == "undo" { "before".to_owned() } else { next.clone() };
        assert_eq!(world.contents(), vec![expected; 3]);
        assert_eq!(world.aside.len(), if way == "undo" { 0 } else { 3 });
        assert_eq!(world.plan().status.phase, Some(Phase::Running));
    }
}

#[test]
fn a_restore_that_has_not_failed_is_not_replaced() {
    let mut world = world();
    let id = ask(&mut world, json!({}));
    while mark(&world).is_none_or(|mark| mark.stage < crate::api::Stage::Restoring) {
        world.pass(usize::MAX);
        world.stateful_set();
    }
    world.now += jiff::SignedDuration::from_secs(1);
    let other = ask(&mut world, json!({}));
    world.pass(usize::MAX);
    let (phase, message) = said(&world, &other);
    assert_eq!(phase, OperationPhase::Rejected);
    assert!(message.contains("or take it back first with `dbctl restore db --undo`"), "{message}");
    world.settle();
    assert_eq!(said(&world, &id).0, OperationPhase::Succeeded);
    assert_eq!(world.contents(), vec![id; 3]);
}

#[test]
fn kept_data_is_removed_when_it_is_asked_for_and_known() {
    let mut world = world();
    let id = ask(&mut world, json!({}));
    world.settle();
    let kept = Kept { id: Ulid::from_string(&id).unwrap(), bytes: Some(5_000_000) };
    for member in ["db-0", "db-1", "db-2"] {
        world.observed.kept.insert(member.to_owned(), vec![kept.clone()]);
    }
    world.settle();
    assert_eq!(world.plan().status.instances[1].kept[0].size_bytes, Some(5_000_000));
    world.now += jiff::SignedDuration::from_secs(60);
    let discard = ask(&mut world, json!({ "discard": [id] }));
    world.settle();
    let (phase, message) = said(&world, &discard);
    assert_eq!(
        (phase, message.as_str()),
        (OperationPhase::Running, "still to remove it, or not answering: db-0, db-1, db-2")
    );
    let config = world.get(Kind::ConfigMap, "db-config");
    assert_eq!(crate::api::discarded(config), [kept.id]);
    for member in ["db-0", "db-1", "db-2"] {
        world.observed.kept.insert(member.to_owned(), Vec::new());
    }
    world.settle();
    assert_eq!(said(&world, &discard).0, OperationPhase::Succeeded);
    assert_eq!(world.plan().status.instances[1].kept, vec![]);
}

#[test]
fn what_says_of_which_data_volumes_are_and_cannot_be_read_stops_everything() {
    let mut world = world();
    world.change(Kind::ConfigMap, "db-config", json!({ "metadata": { "annotations": { RESTORED: "{" } } }));
    let plan = world.plan();
    assert_eq!(plan.status.phase, Some(Phase::Failed));
    assert_eq!(names(&plan.actions), ["status", "event RestoreFailed"]);
}

#[derive(Clone, Debug)]
enum Happening {
    /// A pass of which only the first actions are carried out.
    Pass(usize),
    /// The cluster and Patroni do what they do.
    Step,
    /// The controller forgets.
    Forget,
    /// The status is lost.
    NoStatus,
    /// A pod is lost.
    LosePod(usize),
    /// Somebody scales the StatefulSet by hand.
    Scale(i32),
    /// The request is taken back.
    Withdraw,
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0_usize..12).prop_map(Happening::Pass),
        4 => Just(Happening::Step),
        1 => Just(Happening::Forget),
        1 => Just(Happening::NoStatus),
        1 => (0_usize..3).prop_map(Happening::LosePod),
        1 => (0..4).prop_map(Happening::Scale),
        1 => Just(Happening::Withdraw),
    ]
}

fn happen(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Pass(limit) => drop(world.pass(*limit)),
        Happening::Step => world.step(),
        Happening::Forget => world.observed.asked = None,
        Happening::NoStatus => world.database.as_mut().unwrap().status = None,
        Happening::LosePod(number) => {
            if let Some(pod) = world.pods().get(*number) {
                drop(world.observed.remove(Kind::Pod, pod));
            }
        }
        Happening::Scale(replicas) => {
            world.change(Kind::StatefulSet, "db", json!({ "spec": { "replicas": replicas } }));
        }
        Happening::Withdraw => {
            world.database.as_mut().unwrap().metadata.annotations.get_or_insert_default().clear();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Either all members have what was asked for, or all have what was there.
    #[test]
    fn from_wherever_it_is_cut_short_it_comes_to_one_end(
        happenings in prop::collection::vec(any_happening(), 0..40),
        undo in any::<bool>(),
    ) {
        let mut world = world();
        let id = ask(&mut world, json!({ "targetTime": "2026-11-22T09:00:00Z" }));
        for (number, happening) in happenings.iter().enumerate() {
            happen(&mut world, happening);
            if undo && number == happenings.len() / 2 {
                world.now += jiff::SignedDuration::from_secs(60);
                ask(&mut world, json!({ "undo": true }));
            }
        }
        world.settle();
        let done = mark(&world);
        let expected = match &done {
            Some(mark) if mark.undo => "before".to_owned(),
            Some(mark) => mark.id.to_string(),
            None => "before".to_owned(),
        };
        prop_assert!(done.as_ref().is_none_or(|mark| !mark.is_under_way()));
        prop_assert!(expected == "before" || expected == id);
        prop_assert_eq!(world.contents(), vec![expected; 3]);
        prop_assert_eq!(world.plan().status.phase, Some(Phase::Running));
        prop_assert_eq!(world.plan().actions, vec![]);
    }
}
