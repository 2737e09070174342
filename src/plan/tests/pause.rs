//! A database that dbctl keeps its hands off.

use serde_json::json;

use super::{is, names, says};
use crate::api::{OperationPhase, PAUSED, reason};
use crate::plan::world::World;
use crate::plan::*;

fn set(world: &mut World, value: Option<&str>) {
    let annotations = world.database.as_mut().unwrap().metadata.annotations.get_or_insert_default();
    match value {
        Some(value) => drop(annotations.insert(PAUSED.to_owned(), value.to_owned())),
        None => drop(annotations.remove(PAUSED)),
    }
}

fn ask(world: &mut World, verb: &str) -> String {
    let millis = u64::try_from(world.now.as_millisecond()).unwrap();
    let id = ulid::Ulid::from_parts(millis, 7).to_string();
    let database = world.database.as_mut().unwrap();
    let request = json!({ "id": id, "uid": "uid-1" }).to_string();
    let annotations = database.metadata.annotations.get_or_insert_default();
    annotations.insert(format!("db.example.com/{verb}"), request);
    id
}

/// The actions that change anything but the status.
fn changes(world: &World) -> Vec<String> {
    let plan = world.plan();
    let kept = plan.actions.iter().filter(|a| !matches!(a, Action::PatchStatus(_) | Action::PublishEvent(_)));
    names(&kept.cloned().collect::<Vec<_>>())
}

#[test]
fn nothing_is_changed_and_all_of_it_is_done_at_the_end() {
    let mut world = World::settled(json!({}));
    set(&mut world, Some("true"));
    world.edit(json!({ "replicas": 5, "storage": { "size": "2Gi" }, "parameters": { "work_mem": "8MB" } }));
    world.observed.remove(Kind::Service, "db-ro");
    assert_eq!(changes(&world), Vec::<String>::new());
    world.pass(usize::MAX);
    assert_eq!(says(&world, "UpToDate"), is("False", reason::PAUSED));
    assert_eq!(world.events.last().unwrap().reason, "Paused");
    world.step();
    assert_eq!(world.pods().len(), 3);

    set(&mut world, Some("false"));
    world.settle();
    assert_eq!((world.pods().len(), says(&world, "UpToDate").0.as_str()), (5, "True"));
    assert!(world.events.iter().any(|event| event.reason == "Resumed"));
}

/// The write Service and the lock are left alone too: whoever pauses wants nobody's hand in it.
#[test]
fn a_pod_without_the_lock_keeps_its_label_and_a_dead_holder_its_lock() {
    let mut world = World::settled(json!({}));
    let label = json!({ "metadata": { "labels": { crate::api::LABEL_ROLE: "primary" } } });
    world.change(Kind::Pod, "db-2", label);
    assert!(changes(&world).contains(&"strip db-2".to_owned()));
    set(&mut world, Some("true"));
    assert_eq!(changes(&world), Vec::<String>::new());
}

#[test]
fn what_is_asked_for_is_refused_at_once_and_what_is_under_way_rests() {
    for verb in ["failover", "restart", "verify", "backup"] {
        let mut world = World::settled(json!({}));
        set(&mut world, Some("true"));
        ask(&mut world, verb);
        let operations = world.pass(usize::MAX).status.operations;
        assert_eq!(operations[0].phase, OperationPhase::Rejected, "{verb}");
        let message = operations[0].message.clone().unwrap();
        assert!(message.contains("dbctl resume db"), "{message}");
        set(&mut world, None);
        world.settle();
        assert_eq!(world.asked, vec![], "and is not done later: {verb}");
    }
    let mut world = World::settled(json!({}));
    let id = ask(&mut world, "restart");
    world.pass(usize::MAX);
    set(&mut world, Some("true"));
    let before = world.asked.len();
    for _ in 0..5 {
        world.pass(usize::MAX);
        world.step();
    }
    let operation =
        |world: &World| world.plan().status.operations.iter().find(|o| o.id == id).cloned().unwrap();
    assert!(world.asked.len() == before && operation(&world).phase.is_under_way());
    set(&mut world, None);
    world.settle();
    assert!(!operation(&world).phase.is_under_way(), "it goes on when the pause is over");
}

#[test]
fn a_paused_database_is_deleted_when_it_is_resumed() {
    let mut world = World::settled(json!({ "deletionPolicy": "Delete" }));
    set(&mut world, Some("true"));
    world.delete();
    world.settle();
    assert_eq!(world.pods().len(), 3);
    assert!(says(&world, "Ready").1 == reason::DELETING && world.database.is_some());
    set(&mut world, None);
    world.settle();
    assert!(world.database.is_none() && world.observed.all(Kind::PersistentVolumeClaim).count() == 0);
}
