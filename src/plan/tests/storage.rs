//! Room on volumes, and how they grow.

use serde_json::{Value, json};

use super::{condition, is, names, says};
use crate::api::{Quantity, reason};
use crate::patroni::Answer;
use crate::plan::text::text;
use crate::plan::world::World;
use crate::plan::*;

fn sizes(world: &World) -> Vec<String> {
    let request = |claim: &Value| text(claim, "/spec/resources/requests/storage").unwrap().to_owned();
    let claims = world.observed.all(Kind::PersistentVolumeClaim).map(request);
    let template = "/spec/volumeClaimTemplates/0/spec/resources/requests/storage";
    claims.chain([text(world.get(Kind::StatefulSet, "db"), template).unwrap().to_owned()]).collect()
}

#[test]
fn volumes_grow_first_and_then_those_to_come_and_no_pod_is_touched() {
    let mut world = World::settled(json!({}));
    let pods: Vec<Value> = world.observed.all(Kind::Pod).map(|pod| pod["metadata"]["uid"].clone()).collect();
    world.edit(json!({ "storage": { "size": "2Gi" } }));
    let plan = world.pass(usize::MAX);
    let grow = r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#;
    let done: Vec<String> =
        names(&plan.actions).into_iter().filter(|name| name.starts_with("patch data")).collect();
    assert_eq!(done, ["0", "1", "2"].map(|n| format!("patch data-db-{n} {grow}")));
    assert_eq!(says(&world, "UpToDate"), is("False", reason::RESIZE_PENDING));
    assert_eq!(names(&world.pass(usize::MAX).actions)[0], "orphan StatefulSet db");
    assert!(world.observed.get(Kind::StatefulSet, "db").is_none());
    // What is not there for a moment is no reason for anything.
    assert_eq!(world.plan().actions.iter().filter(|a| matches!(a, Action::Delete { .. })).count(), 0);
    world.settle();
    assert_eq!(sizes(&world), ["2Gi"; 4]);
    let after: Vec<Value> = world.observed.all(Kind::Pod).map(|pod| pod["metadata"]["uid"].clone()).collect();
    assert_eq!(after, pods);
    assert_eq!(says(&world, "UpToDate").0, "True");
    assert!(world.events.iter().any(|event| event.reason == "Resized"));
    assert_eq!(world.plan().actions, vec![]);
}

#[test]
fn a_stateful_set_is_not_replaced_while_members_go() {
    let mut world = World::settled(json!({}));
    world.lead("db-2");
    world.edit(json!({ "replicas": 1, "storage": { "size": "2Gi" } }));
    for _ in 0..30 {
        let plan = world.pass(usize::MAX);
        let orphaned = names(&plan.actions).iter().any(|name| name.starts_with("orphan"));
        assert!(!orphaned || world.pods() == ["db-0"], "{:?}", world.pods());
        world.step();
    }
    assert_eq!(says(&world, "UpToDate").0, "True");
    // A removed member's volume grows once it is there again.
    world.edit(json!({ "storage": { "size": "3Gi" } }));
    world.settle();
    assert_eq!(sizes(&world), ["3Gi", "2Gi", "2Gi", "3Gi"]);
    world.edit(json!({ "replicas": 3 }));
    world.settle();
    assert_eq!(sizes(&world), ["3Gi"; 4]);
}

#[test]
fn a_class_that_lets_nothing_grow_is_named_with_the_way_out() {
    let mut world = World::settled(json!({ "storage": { "size": "1Gi", "storageClassName": "fast" } }));
    world.observed.expansion = [("fast".to_owned(), false)].into();
    world.edit(json!({ "storage": { "size": "2Gi" } }));
    world.settle();
    assert_eq!(says(&world, "StorageHealthy"), is("False", reason::RESIZE_REFUSED));
    let status = world.plan().status;
    let message = &condition(&status, "StorageHealthy").message;
    assert!(message.contains("\"fast\"") && message.contains("allowVolumeExpansion"), "{message}");
    assert!(world.events.iter().any(|event| event.warning && event.reason == reason::RESIZE_REFUSED));
    // New volumes have the size, which is the way out.
    assert_eq!(sizes(&world), ["1Gi", "1Gi", "1Gi", "2Gi"]);
    world.observed.expansion.clear();
    world.settle();
    assert_eq!(sizes(&world), ["2Gi"; 4]);
}

/// Those of `who` wait for their nodes since a while.
fn await_nodes(world: &mut World, who: &[&str], for_seconds: i64) {
    let since = world.now - jiff::SignedDuration::from_secs(for_seconds);
    let began = since - jiff::SignedDuration::from_secs(100);
    for pod in who {
        let pending = json!({ "type": "FileSystemResizePending", "status": "True", "lastTransitionTime": since.to_string() });
        let status = json!({ "conditions": [pending], "capacity": { "storage": "512Mi" } });
        world.change(Kind::PersistentVolumeClaim, &format!("data-{pod}"), json!({ "status": status }));
        world.change(Kind::Pod, pod, json!({ "status": { "startTime": began.to_string() } }));
    }
}

fn deleted(world: &World) -> Vec<String> {
    names(&world.plan().actions).into_iter().filter(|name| name.starts_with("delete Pod")).collect()
}

#[test]
fn a_member_is_started_anew_where_its_node_does_not_do_it_while_it_runs() {
    let all = ["db-0", "db-1", "db-2"];
    let with = |who: &[&str], seconds: i64| {
        let mut world = World::settled(json!({}));
        await_nodes(&mut world, who, seconds);
        world
    };
    assert_eq!(deleted(&with(&all, 60)), Vec::<String>::new(), "nodes have their time");
    assert_eq!(deleted(&with(&all, 100)), ["delete Pod db-1"], "the primary comes last");
    assert_eq!(deleted(&with(&["db-0"], 100)), ["delete Pod db-0"]);
    // One that does not run has nothing to lose, and one that runs waits for it.
    let not_ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
    let mut world = with(&all, 10);
    world.change(Kind::Pod, "db-0", not_ready.clone());
    assert_eq!(deleted(&world), ["delete Pod db-0"]);
    let mut world = with(&["db-1"], 100);
    world.change(Kind::Pod, "db-2", not_ready);
    assert_eq!(deleted(&world), Vec::<String>::new());
    // It has been started since.
    let mut world = with(&["db-1"], 100);
    let now = json!({ "status": { "startTime": world.now.to_string() } });
    world.change(Kind::Pod, "db-1", now);
    assert_eq!(deleted(&world), Vec::<String>::new());
}

#[test]
fn room_is_told_of_in_steps_without_fluttering() {
    let mut world = World::settled(json!({}));
    world.answer(
        "db-1",
        Some(Answer { role: "replica".into(), state: "running".into(), ..Answer::default() }),
    );
    let size = 50 << 30;
    for (used, healthy, why) in [
        (10, "True", reason::CLAIMS_BOUND),
        (80, "False", reason::VOLUME_FILLING),
        (79, "False", reason::VOLUME_FILLING),
        (77, "True", reason::CLAIMS_BOUND),
        (95, "False", reason::VOLUME_NEARLY_FULL),
        (94, "False", reason::VOLUME_NEARLY_FULL),
        (92, "False", reason::VOLUME_FILLING),
        (79, "False", reason::VOLUME_FILLING),
        (100, "False", reason::VOLUME_FULL),
        (50, "True", reason::CLAIMS_BOUND),
    ] {
        world.observed.rooms.insert("db-1".into(), Room { size, free: size / 100 * (100 - used) });
        world.settle();
        assert_eq!(says(&world, "StorageHealthy"), is(healthy, why), "{used}");
        // A little more or less is not worth a write.
        world
            .observed
            .rooms
            .insert("db-1".into(), Room { size, free: (size / 100 * (100 - used)).saturating_sub(9) });
        assert_eq!(world.plan().actions, vec![], "{used}");
    }
    let told: Vec<&str> = world.events.iter().map(|event| event.reason.as_str()).collect();
    let room: Vec<&str> = told.into_iter().filter(|reason| reason.starts_with("Volume")).collect();
    assert_eq!(
        room,
        [
            reason::VOLUME_FILLING,
            "VolumeRoomAgain",
            reason::VOLUME_NEARLY_FULL,
            reason::VOLUME_FULL,
            "VolumeRoomAgain"
        ]
    );
}

#[test]
fn classes_are_looked_up_only_where_something_is_to_grow() {
    let mut world = World::settled(json!({ "storage": { "size": "1Gi", "storageClassName": "fast" } }));
    let classes = |world: &World| classes_to_grow(world.database.as_ref().unwrap(), &world.observed);
    assert_eq!(classes(&world), Vec::<String>::new());
    world.edit(json!({ "storage": { "size": "2Gi" } }));
    assert_eq!(classes(&world), ["fast"]);
    assert!("1Gi".parse::<Quantity>().unwrap() < world.database.as_ref().unwrap().spec.storage.size);
}
