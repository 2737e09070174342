//! Loss of the primary: what is fenced, released, said and recorded.

use std::time::Duration;

use serde_json::{Value, json};

use super::{is, names, says};
use crate::api::{LABEL_ROLE, Phase, reason};
use crate::patroni::Answer;
use crate::plan::world::World;
use crate::plan::*;

fn answer(role: &str, state: &str) -> Answer {
    Answer { role: role.into(), state: state.into(), timeline: Some(1), ..Answer::default() }
}

/// Three members, all of which answer.
fn world() -> World {
    let mut world = World::settled(json!({}));
    world.answer("db-0", Some(answer("primary", "running")));
    world.answer("db-1", Some(answer("replica", "running")));
    world.answer("db-2", Some(answer("replica", "running")));
    world
}

fn hold(world: &mut World, acquired: jiff::Timestamp, renewed: jiff::Timestamp) {
    let annotations = json!({ "acquireTime": acquired.to_string(), "renewTime": renewed.to_string() });
    let lock = json!({ "metadata": { "resourceVersion": "70", "annotations": annotations } });
    world.change(Kind::ConfigMap, "db-leader", lock);
}

/// The container of db-0 ends, and its Patroni with it.
fn kill(world: &mut World) {
    let now = world.now;
    let seconds = jiff::SignedDuration::from_secs;
    hold(world, now - seconds(100), now - seconds(3));
    let end = json!({ "exitCode": 137, "containerID": "x://1", "finishedAt": now.to_string() });
    let status = json!({ "startTime": (now - seconds(200)).to_string(), "containerStatuses": [
        { "name": "postgres", "state": { "terminated": end } },
    ], "conditions": [{ "type": "Ready", "status": "False" }] });
    world.change(Kind::Pod, "db-0", json!({ "status": status }));
    world.answer("db-0", None);
}

fn urgent(world: &World) -> Vec<String> {
    let mut actions = names(&world.plan().actions);
    actions.retain(|action| action.starts_with("strip") || action.starts_with("release"));
    actions
}

#[test]
fn a_dead_primarys_lock_is_released_for_somebody_who_can_take_it() {
    let mut world = world();
    assert_eq!(urgent(&world), Vec::<String>::new());
    kill(&mut world);
    assert_eq!(urgent(&world), ["release db-0"]);
    // It comes before everything else, and is told.
    let plan = world.plan();
    assert_eq!(names(&plan.actions)[..2], ["release db-0", "event LockReleased"]);
    let Action::ReleaseLock(release) = &plan.actions[0] else { panic!() };
    assert_eq!((release.version.as_str(), release.pod_uid.is_some()), ("70", true));
    assert!(release.proof.contains("db-0 ended with exit code 137"), "{}", release.proof);

    let set = |world: &mut World, patch: Value| {
        world.change(Kind::ConfigMap, "db-sync", json!({ "metadata": { "annotations": patch } }));
    };
    // Nobody has every commit: what died may come back, and nobody else may lead.
    set(&mut world, json!({ "sync_standby": "" }));
    assert_eq!(urgent(&world), Vec::<String>::new());
    set(&mut world, json!({ "sync_standby": "db-2" }));
    assert_eq!(urgent(&world), ["release db-0"]);
    world.answer("db-2", None);
    assert_eq!(urgent(&world), Vec::<String>::new());
    world.answer("db-2", Some(answer("replica", "starting")));
    assert_eq!(urgent(&world), Vec::<String>::new());
}

#[test]
fn a_paused_patroni_keeps_the_lock() {
    let mut world = world();
    kill(&mut world);
    let config = crate::patroni::dynamic(&world.database.as_ref().unwrap().spec, 3, "uid-1");
    let mut config = config;
    config["pause"] = json!(true);
    let annotations = json!({ "config": config.to_string() });
    world.change(Kind::ConfigMap, "db-config", json!({ "metadata": { "annotations": annotations } }));
    assert_eq!(urgent(&world), Vec::<String>::new());
}

#[test]
fn who_does_not_hold_the_lock_loses_the_role() {
    let mut world = world();
    let label =
        |role: Value| json!({ "metadata": { "resourceVersion": "5", "labels": { LABEL_ROLE: role } } });
    world.change(Kind::Pod, "db-1", label(json!("primary")));
    assert_eq!(urgent(&world), ["strip db-1"]);
    let version = |plan: &Plan| match &plan.actions[0] {
        Action::StripRole { version, .. } => version.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(version(&world.plan()).as_deref(), Some("5"));
    // Nobody holds it: nobody is the primary.
    world.change(Kind::Pod, "db-1", label(json!("replica")));
    let free = json!({ "metadata": { "annotations": { "leader": null } } });
    world.change(Kind::ConfigMap, "db-leader", free);
    assert_eq!(urgent(&world), ["strip db-0"]);
    // Without the lock's object there is nothing to go by.
    world.observed.remove(Kind::ConfigMap, "db-leader");
    assert_eq!(urgent(&world), Vec::<String>::new());
}

#[test]
fn two_that_claim_to_be_primary_are_told_and_contained() {
    let mut world = world();
    world.answer("db-1", Some(answer("primary", "running")));
    world.change(Kind::Pod, "db-1", json!({ "metadata": { "labels": { LABEL_ROLE: "primary" } } }));
    assert_eq!(says(&world, "Writable"), is("False", reason::SPLIT_BRAIN));
    assert_eq!(urgent(&world), ["strip db-1"]);
    let events: Vec<_> =
        names(&world.plan().actions).into_iter().filter(|name| name.starts_with("event")).collect();
    assert_eq!(events, ["event SplitBrainSuspected"]);
}

#[test]
fn a_silent_primary_is_suspect_and_nothing_is_done_to_it() {
    let mut world = world();
    world.answer("db-0", None);
    for (seconds, said) in
        [(2, is("True", reason::PRIMARY_ACCEPTS_WRITES)), (4, is("False", reason::PRIMARY_SUSPECT))]
    {
        world.observed.silent.insert("db-0".into(), Duration::from_secs(seconds));
        assert_eq!(says(&world, "Writable"), said, "{seconds}");
        assert_eq!(urgent(&world), Vec::<String>::new());
    }
    let plan = world.plan();
    assert!(names(&plan.actions).contains(&"event PrimarySuspect".to_owned()));
    let outage = plan.status.outage.unwrap();
    assert_eq!((outage.from.as_deref(), outage.reason.as_str()), (Some("db-0"), "PrimarySilent"));
    // It began with the last sign of its life, not when its silence was noticed.
    let now = world.now;
    hold(&mut world, now - jiff::SignedDuration::from_secs(100), now - jiff::SignedDuration::from_secs(9));
    let outage = world.plan().status.outage.unwrap();
    assert_eq!(now.duration_since(outage.started_at.unwrap().0).as_secs(), 9);
    world.observed.lock_age = LockAge::Expired;
    assert_eq!(says(&world, "Writable"), is("False", reason::NO_LEADER));
}

#[test]
fn a_change_of_primary_is_recorded_once() {
    let mut world = world();
    kill(&mut world);
    let began = world.now;
    let plan = world.pass(usize::MAX);
    assert_eq!(plan.status.outage.as_ref().map(|outage| outage.reason.as_str()), Some("PrimaryDied"));
    assert_eq!(plan.status.phase, Some(Phase::FailingOver));
    let before = world.pass(usize::MAX).status.outage;
    assert_eq!(before, plan.status.outage);

    world.lead("db-1");
    world.answer("db-1", Some(answer("primary", "running")));
    let status = world.pass(usize::MAX).status;
    let failover = status.last_failover.clone().unwrap();
    assert_eq!(
        (failover.from.as_deref(), failover.to.as_str(), failover.reason.as_str()),
        (Some("db-0"), "db-1", "PrimaryDied")
    );
    assert_eq!(failover.started_at.as_ref().map(|at| at.0), Some(began));
    assert_eq!(failover.duration_seconds, Some(4.0));
    assert_eq!((status.outage, status.failovers.len()), (None, 1));
    let told = world.events.iter().filter(|event| event.reason == "FailedOver");
    assert_eq!(
        told.map(|event| event.message.as_str()).collect::<Vec<_>>(),
        ["db-1 is the primary, after db-0 (PrimaryDied); writes were down for 4.0 s"]
    );
    let again = world.pass(usize::MAX).status;
    assert_eq!(again.failovers, status.failovers);
}

#[test]
fn of_a_change_that_nobody_watched_the_duration_is_not_known() {
    for (seconds, known) in [(9, true), (10, false)] {
        let mut world = world();
        world.lead("db-1");
        let now = world.now;
        let taken = now - jiff::SignedDuration::from_secs(seconds);
        hold(&mut world, taken, now);
        let plan = world.plan();
        let failover = plan.status.last_failover.clone().unwrap();
        assert_eq!(failover.started_at.map(|at| at.0), Some(taken));
        assert_eq!(failover.writable_at.is_some(), known, "{seconds}");
        assert_eq!(failover.duration_seconds.is_some(), known, "{seconds}");
    }
}

#[test]
fn only_ten_changes_are_kept_and_the_first_primary_is_none() {
    let mut world = World::settled(json!({}));
    assert_eq!(world.plan().status.failovers, vec![]);
    for turn in 0..12 {
        world.lead(["db-1", "db-0"][turn % 2]);
        world.settle();
    }
    let status = world.plan().status;
    assert_eq!(status.failovers.len(), 10);
    assert_eq!(status.last_failover.as_ref(), status.failovers.first());
    assert_eq!(status.failovers[0].to, "db-0");
}

#[test]
fn one_that_comes_back_is_no_failover() {
    let mut world = world();
    world.answer("db-0", Some(answer("primary", "crashed")));
    let outage = world.pass(usize::MAX).status.outage.unwrap();
    assert_eq!(outage.reason, "PostgresDown");
    world.answer("db-0", Some(answer("primary", "running")));
    let status = world.pass(usize::MAX).status;
    assert_eq!((status.outage, status.failovers), (None, vec![]));
    assert!(
        world
            .events
            .iter()
            .any(|event| event.reason == "WritableAgain"
                && event.message.contains("after 2.0 s (PostgresDown)"))
    );
}

#[test]
fn without_anybody_who_has_every_commit_nobody_is_promoted_and_that_is_said() {
    let mut world = world();
    kill(&mut world);
    let annotations = json!({ "leader": "db-0", "sync_standby": "" });
    world.change(Kind::ConfigMap, "db-sync", json!({ "metadata": { "annotations": annotations } }));
    world.change(Kind::ConfigMap, "db-leader", json!({ "metadata": { "annotations": { "leader": null } } }));
    world.observed.remove(Kind::Pod, "db-0");
    let plan = world.plan();
    let writable = super::condition(&plan.status, "Writable");
    assert_eq!(writable.reason, reason::NO_SAFE_CANDIDATE);
    assert!(writable.message.contains("dbctl failover db --force"), "{}", writable.message);
    // With one of the two that confirmed, or the old primary, there is somebody.
    let listed = json!({ "sync_standby": "db-1,db-2", "quorum": "1" });
    world.change(Kind::ConfigMap, "db-sync", json!({ "metadata": { "annotations": listed } }));
    assert_eq!(says(&world, "Writable").1, reason::NO_LEADER);
    world.answer("db-2", None);
    assert_eq!(says(&world, "Writable").1, reason::NO_SAFE_CANDIDATE);
}

#[test]
fn patroni_is_woken_while_nobody_confirms_commits() {
    let mut world = world();
    let wakes =
        |world: &World| names(&world.plan().actions).contains(&r#"patch db-0 {"dbctl":null}"#.to_owned());
    assert!(!wakes(&world));
    for (standbys, woken) in [("", true), ("db-1", true), ("db-1,db-2", false)] {
        let annotations = json!({ "sync_standby": standbys });
        world.change(Kind::ConfigMap, "db-sync", json!({ "metadata": { "annotations": annotations } }));
        assert_eq!(wakes(&world), woken, "{standbys}");
        assert_eq!(world.plan().requeue == AT_ONCE, woken, "{standbys}");
    }
    // It would not hear it.
    world.answer("db-0", None);
    let annotations = json!({ "sync_standby": "" });
    world.change(Kind::ConfigMap, "db-sync", json!({ "metadata": { "annotations": annotations } }));
    assert!(!wakes(&world));
}

#[test]
fn a_member_that_is_cloned_anew_is_told_once() {
    let mut world = world();
    world.answer("db-2", None);
    let cloning = json!({ "state": "creating replica", "role": "uninitialized" }).to_string();
    world.change(Kind::Pod, "db-2", json!({ "metadata": { "annotations": { "status": cloning } } }));
    world.pass(usize::MAX);
    world.pass(usize::MAX);
    assert_eq!(world.events.iter().filter(|event| event.reason == "MemberCloned").count(), 1);
    let ready = super::condition(&world.plan().status, "Ready").message.clone();
    assert_eq!(ready, "db-2 is being cloned from the primary");
}

#[test]
fn a_member_that_does_not_reach_the_api_is_told() {
    let mut world = world();
    let seen = |role: &str, seen: i64, failsafe: bool| Answer {
        dcs_last_seen: Some(seen),
        failsafe_mode_is_active: failsafe,
        ..answer(role, "running")
    };
    world.answer("db-1", Some(seen("replica", 1000, false)));
    // A replica that agrees to the failsafe mode says so of itself, and is well.
    for (other, failsafe, told) in
        [(1000, false, false), (988, false, false), (987, false, true), (1000, true, false)]
    {
        world.answer("db-2", Some(seen("replica", other, failsafe)));
        assert_eq!(says(&world, "Ready").1 == reason::MEMBER_ISOLATED, told, "{other} {failsafe}");
        assert_eq!(says(&world, "Writable").0, "True");
    }
    world.answer("db-0", Some(seen("primary", 1000, true)));
    let ready = super::condition(&world.plan().status, "Ready").message.clone();
    assert!(ready.starts_with("db-0 does not reach the Kubernetes API; it stays primary"), "{ready}");
}

#[test]
fn a_full_volume_is_told() {
    let mut world = world();
    let room = |free: u64| Room { size: 1 << 30, free };
    for (free, full) in [(32 << 20, false), (31 << 20, true)] {
        world.observed.rooms.insert("db-0".into(), room(free));
        assert_eq!(says(&world, "StorageHealthy").1 == reason::VOLUME_FULL, full);
        assert_eq!(says(&world, "Writable").0, "True");
    }
    let storage = |world: &World| super::condition(&world.plan().status, "StorageHealthy").message.clone();
    assert_eq!(
        storage(&world),
        "hardly any room is left on the volume of db-0: writes that need more of it fail until it is larger: `dbctl resize db --storage SIZE`"
    );
    world.answer("db-0", Some(answer("primary", "crashed")));
    let status = world.plan().status;
    assert_eq!(
        super::condition(&status, "Writable").message,
        "db-0 holds the leader lock, but has no room left on its volume (31 MiB of 1024 MiB)"
    );
}

#[test]
fn a_member_that_gives_its_data_up_and_is_cloned_is_told_of_once() {
    let mut world = world();
    let becomes = |world: &mut World, status: Value| {
        world.answer("db-1", None);
        let annotations = json!({ "status": status.to_string() });
        world.change(Kind::Pod, "db-1", json!({ "metadata": { "annotations": annotations } }));
        world.pass(usize::MAX).status.instances[1].timeline
    };
    assert_eq!(becomes(&mut world, json!({ "role": "replica", "state": "stopped" })), Some(1));
    let cloned = json!({ "role": "uninitialized", "state": "creating replica" });
    assert_eq!(becomes(&mut world, cloned.clone()), None);
    assert_eq!(becomes(&mut world, cloned), None);
    let told: Vec<_> = world.events.iter().filter(|event| event.reason == "MemberCloned").collect();
    assert_eq!(told.len(), 1);
    assert_eq!(
        told[0].message,
        "db-1 is being cloned from the primary anew: its own data cannot follow the primary's"
    );
}
