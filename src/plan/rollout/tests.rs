use proptest::prelude::*;
use serde_json::{Value, json};
use ulid::Ulid;

use crate::api::{OperationPhase, Phase, reason};
use crate::patroni::{Answer, PendingSetting};
use crate::plan::world::World;
use crate::plan::{Action, Ask, Event, Kind};

fn up_to_date(world: &World) -> (String, String, String) {
    let status = world.plan().status;
    let found = status.conditions.into_iter().find(|condition| condition.type_ == "UpToDate").unwrap();
    (found.status, found.reason, found.message)
}

fn events(world: &World, reason: &str) -> Vec<Event> {
    world.events.iter().filter(|event| event.reason == reason).cloned().collect()
}

fn replaced(world: &World) -> Vec<&str> {
    world.replaced.iter().map(|(pod, _)| pod.as_str()).collect()
}

/// A pass, and then the cluster moves.
fn turn(world: &mut World) {
    world.pass(usize::MAX);
    world.step();
}

/// Turns until it is so.
fn until(world: &mut World, what: &str, so: impl Fn(&World) -> bool) {
    for _ in 0..2000 {
        if so(world) {
            return;
        }
        turn(world);
    }
    panic!("never {what}: {:?} {:?}", world.note(), up_to_date(world));
}

fn resume(world: &mut World) -> String {
    let annotations = world.database.as_mut().unwrap().metadata.annotations.get_or_insert_default();
    let id = Ulid::from_parts(u64::try_from(world.now.as_millisecond()).unwrap(), 7).to_string();
    let request = json!({ "id": id, "uid": "uid-1" }).to_string();
    annotations.insert("db.example.com/resume".to_owned(), request);
    id
}

#[test]
fn replicas_come_first_and_the_primary_last_after_its_role_has_moved() {
    for (replicas, order, moves) in [
        (1, vec!["db-0"], 0),
        (2, vec!["db-1", "db-0"], 1),
        (3, vec!["db-2", "db-1", "db-0"], 1),
        (5, vec!["db-4", "db-3", "db-2", "db-1", "db-0"], 1),
    ] {
        let mut world = World::settled(json!({ "replicas": replicas }));
        world.edit(json!({ "version": "16.16" }));
        world.settle();
        assert_eq!(replaced(&world), order);
        assert_eq!(world.releases(), vec!["16.16"; order.len()]);
        assert_eq!(world.asked.len(), moves, "{:?}", world.asked);
        assert_eq!(world.note(), None);
        let plan = world.plan();
        assert_eq!((plan.status.upgrade, plan.status.version.as_deref()), (None, Some("16.16")));
        assert_eq!((plan.actions, plan.status.phase), (vec![], Some(Phase::Running)));
        if moves > 0 {
            assert_eq!(plan.status.last_failover.unwrap().reason, "RollingUpdate");
        }
        assert_eq!(events(&world, "RolloutStarted").len(), 1);
        assert_eq!(events(&world, "RolloutDone").len(), 1);
        assert_eq!(events(&world, "MemberReplaced").len(), order.len());
    }
}

#[test]
fn every_change_of_the_template_takes_the_same_way() {
    for spec in [
        json!({ "resources": { "requests": { "memory": "2Gi" } } }),
        json!({ "placement": { "nodeSelector": { "disk": "ssd" } } }),
    ] {
        let mut world = World::settled(json!({}));
        world.edit(spec);
        until(&mut world, "moving", |world| world.replaced.len() == 1);
        let status = world.plan().status;
        assert_eq!((status.phase, status.upgrade), (Some(Phase::Progressing), None));
        world.settle();
        assert_eq!(replaced(&world), ["db-2", "db-1", "db-0"]);
        assert_eq!(up_to_date(&world).0, "True");
    }
}

#[test]
fn the_status_tells_each_step() {
    let mut world = World::settled(json!({}));
    world.edit(json!({ "version": "16.16" }));
    let mut told: Vec<String> = Vec::new();
    for _ in 0..60 {
        let status = world.plan().status;
        let line = status.upgrade.map_or_else(
            || "-".to_owned(),
            |upgrade| {
                let pod = upgrade.pod.unwrap_or_default();
                format!(
                    "{} to {}: {} {pod}: {}",
                    upgrade.from,
                    upgrade.to,
                    upgrade.step,
                    upgrade.message.unwrap()
                )
            },
        );
        if told.last() != Some(&line) {
            told.push(line);
        }
        turn(&mut world);
    }
    insta::assert_snapshot!(told.join("\n"), @"
    16.15 to 16.16: Preparing : the upgrade from 16.15 to 16.16 begins
    16.15 to 16.16: Preparing : the upgrade from 16.15 to 16.16: pods are made from the new template from now on
    16.15 to 16.16: Replica db-2: replacing db-2, which is a replica
    16.15 to 16.16: Replica db-2: waiting for db-2, which is back, and is watched for a moment
    16.15 to 16.16: Replica db-1: replacing db-1, which is a replica
    16.15 to 16.16: Replica db-1: waiting for db-1, which is back, and is watched for a moment
    16.15 to 16.16: Switchover db-0: moving the primary's role from db-0 to db-1 or db-2, whichever is first
    16.15 to 16.16: Replica db-0: replacing db-0, which is a replica
    16.15 to 16.16: Replica db-0: waiting for db-0, which is back, and is watched for a moment
    -
    ");
}

#[test]
fn the_primary_wherever_it_is_comes_last() {
    for leader in ["db-0", "db-1", "db-2"] {
        let mut world = World::settled(json!({}));
        world.lead(leader);
        world.settle();
        world.edit(json!({ "version": "16.16" }));
        world.settle();
        assert_eq!(replaced(&world).last(), Some(&leader));
        assert_ne!(world.leader(), Some(leader));
    }
}

#[test]
fn an_upgrade_waits_until_every_member_is_well_and_nothing_else_goes_on() {
    type Change = fn(&mut World);
    let cases: &[(&str, Change, Change, &str)] = &[
        (
            "a member is down",
            |w| unready(w, "db-2", true),
            |w| unready(w, "db-2", false),
            "it is begun when every member is well, and db-2 is not ready",
        ),
        (
            "a restart is asked for",
            |w| {
                let annotations = w.database.as_mut().unwrap().metadata.annotations.get_or_insert_default();
                let id = Ulid::from_parts(u64::try_from(w.now.as_millisecond()).unwrap(), 9).to_string();
                annotations
                    .insert("db.example.com/restart".into(), json!({ "id": id, "uid": "uid-1" }).to_string());
            },
            |w| {
                w.database.as_mut().unwrap().metadata.annotations = None;
                w.settle();
            },
            "waiting until the restart that was asked for is answered",
        ),
        (
            "Patroni is paused",
            |w| pause(w, true),
            |w| pause(w, false),
            "waiting: Patroni is paused by somebody who works on this database",
        ),
    ];
    for (what, change, undo, says) in cases {
        let mut world = World::settled(json!({}));
        change(&mut world);
        world.edit(json!({ "version": "16.16" }));
        let (status, reason, message) = up_to_date(&world);
        assert_eq!((status.as_str(), reason.as_str()), ("False", reason::PODS_OUTDATED), "{what}");
        assert_eq!(message, format!("the upgrade from 16.15 to 16.16: {says}"), "{what}");
        assert_eq!(world.note(), None, "{what}");
        undo(&mut world);
        world.settle();
        assert_eq!(world.releases(), ["16.16"; 3], "{what}");
    }
}

fn pause(world: &mut World, paused: bool) {
    let spec = &world.database.as_ref().unwrap().spec;
    let mut config = crate::patroni::dynamic(spec, 3, "uid-1");
    if paused {
        config["pause"] = json!(true);
    }
    let annotations = json!({ "config": config.to_string() });
    world.change(Kind::ConfigMap, "db-config", json!({ "metadata": { "annotations": annotations } }));
}

fn unready(world: &mut World, pod: &str, unready: bool) {
    let ready = json!({ "type": "Ready", "status": if unready { "False" } else { "True" }, "lastTransitionTime": world.now });
    world.change(Kind::Pod, pod, json!({ "status": { "conditions": [ready] } }));
}

/// What it takes until the next member is touched.
#[test]
fn nothing_more_is_touched_before_a_member_has_passed_its_gate() {
    let other_release = |world: &mut World| {
        let answer = Answer {
            role: "replica".into(),
            state: "running".into(),
            timeline: Some(1),
            replication_state: Some("streaming".into()),
            server_version: Some(160_015),
            ..Answer::default()
        };
        world.answer("db-2", Some(answer));
    };
    type Change<'c> = &'c dyn Fn(&mut World);
    let cases: [(&str, Change<'_>); 5] = [
        ("it is not ready", &|world| unready(world, "db-2", true)),
        ("it runs the old release", &other_release),
        ("it does not stream", &|world| {
            let status = json!({ "state": "running", "role": "replica", "timeline": 1, "replay_lsn": 100 });
            world.change(
                Kind::Pod,
                "db-2",
                json!({ "metadata": { "annotations": { "status": status.to_string() } } }),
            );
        }),
        ("commits do not wait for it", &|world| {
            let sync = json!({ "sync_standby": "db-1" });
            world.change(Kind::ConfigMap, "db-sync", json!({ "metadata": { "annotations": sync } }));
        }),
        ("another one is unwell", &|world| unready(world, "db-1", true)),
    ];
    for (what, change) in cases {
        let mut world = World::settled(json!({}));
        world.edit(json!({ "version": "16.16" }));
        until(&mut world, "begun", |world| world.replaced.len() == 1);
        world.step();
        for _ in 0..20 {
            change(&mut world);
            world.pass(usize::MAX);
        }
        assert_eq!(replaced(&world), ["db-2"], "{what}");
        assert_eq!(world.asked, [], "{what}");
        world.observed.answers.clear();
        unready(&mut world, "db-1", false);
        unready(&mut world, "db-2", false);
        world.step();
        world.settle();
        assert_eq!(world.releases(), ["16.16"; 3], "{what}");
    }
}

#[test]
fn a_release_that_does_not_run_halts_at_the_first_replica_which_gets_back_what_it_had() {
    let mut world = World::settled(json!({}));
    world.broken = vec!["16.16".into()];
    world.edit(json!({ "version": "16.16" }));
    world.settle();
    assert_eq!(replaced(&world), ["db-2", "db-2"]);
    assert_eq!((world.releases(), world.leader()), (vec!["16.15".to_owned(); 3], Some("db-0")));
    assert_eq!(world.asked, []);
    let (status, reason, message) = up_to_date(&world);
    assert_eq!((status.as_str(), reason.as_str()), ("False", reason::ROLLOUT_HALTED));
    insta::assert_snapshot!(message, @"halted, since db-2 ended 3 times since it was replaced; db-2 gets back what it had, and nothing else is touched: see `dbctl logs db --member db-2` and `dbctl events db`; `dbctl upgrade db --resume` tries again, `dbctl upgrade db --abort` goes back to 16.15");
    let plan = world.plan();
    let upgrade = plan.status.upgrade.unwrap();
    assert_eq!((upgrade.step.as_str(), upgrade.pod.as_deref()), ("Halted", Some("db-2")));
    assert_eq!((plan.status.phase, plan.actions), (Some(Phase::Degraded), vec![]));
    assert_eq!(plan.status.version.as_deref(), Some("16.15"));
    assert_eq!(events(&world, "RolloutHalted").len(), 1);
    // Whatever time passes, whoever starts anew.
    for _ in 0..100 {
        world.now += jiff::SignedDuration::from_hours(1);
        world.observed.asked = None;
        turn(&mut world);
    }
    assert_eq!(world.replaced.len(), 2);
    // A pod that goes by itself comes back as it was.
    world.observed.remove(Kind::Pod, "db-0");
    world.settle();
    assert_eq!(world.releases(), ["16.15"; 3]);
    // Tried again, it halts again; mended, it goes through.
    let id = resume(&mut world);
    world.settle();
    assert_eq!(replaced(&world), ["db-2", "db-2", "db-2", "db-2"]);
    let operation = world.plan().status.operations[0].clone();
    assert_eq!((operation.id, operation.phase), (id, OperationPhase::Succeeded));
    world.broken.clear();
    world.now += jiff::SignedDuration::from_secs(1);
    resume(&mut world);
    world.settle();
    assert_eq!((world.releases(), world.note()), (vec!["16.16".to_owned(); 3], None));
}

#[test]
fn what_halted_later_goes_back_where_the_spec_does() {
    let mut world = World::settled(json!({}));
    world.edit(json!({ "version": "16.16" }));
    until(&mut world, "half of it", |world| world.replaced.len() == 2);
    unready(&mut world, "db-2", false);
    // The second one never comes back.
    for _ in 0..400 {
        world.step();
        if world.note().is_none_or(|note| note.halted.is_some()) {
            break;
        }
        let starts = json!({ "state": "starting", "role": "replica" }).to_string();
        let made = world.get(Kind::Pod, "db-1")["metadata"]["creationTimestamp"].clone();
        let ready = json!({ "type": "Ready", "status": "False", "lastTransitionTime": made });
        let unwell = json!({ "metadata": { "annotations": { "status": starts } }, "status": { "conditions": [ready] } });
        world.change(Kind::Pod, "db-1", unwell);
        world.pass(usize::MAX);
    }
    world.settle();
    assert_eq!(
        (world.releases(), world.leader()),
        (vec!["16.15".into(), "16.15".into(), "16.16".into()], Some("db-0"))
    );
    assert_eq!(up_to_date(&world).1, reason::ROLLOUT_HALTED);
    world.edit(json!({ "version": "16.15" }));
    world.settle();
    assert_eq!((world.releases(), world.note()), (vec!["16.15".to_owned(); 3], None));
    assert_eq!(replaced(&world), ["db-2", "db-1", "db-1", "db-2"]);
    assert_eq!(world.asked, []);
}

#[test]
fn a_wish_that_is_taken_back_while_a_replica_is_broken_is_taken_back() {
    let mut world = World::settled(json!({}));
    world.broken = vec!["16.16".into()];
    world.edit(json!({ "version": "16.16" }));
    until(&mut world, "begun", |world| world.replaced.len() == 1);
    world.edit(json!({ "version": "16.15" }));
    world.settle();
    assert_eq!((world.releases(), world.note()), (vec!["16.15".to_owned(); 3], None));
    assert_eq!(replaced(&world), ["db-2", "db-2"]);
}

#[test]
fn members_that_cannot_run_as_they_are_get_what_can() {
    let mut world = World::settled(json!({}));
    let unplaced = json!({ "spec": { "nodeName": null } });
    unready(&mut world, "db-1", true);
    world.change(Kind::Pod, "db-1", unplaced);
    world.edit(json!({ "placement": { "nodeSelector": { "disk": "hdd" } } }));
    world.settle();
    assert_eq!(replaced(&world), ["db-1", "db-2", "db-0"]);
    assert_eq!(up_to_date(&world).0, "True");
}

fn with_backup() -> Value {
    json!({ "backup": { "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/p" } })
}

fn jobs(world: &World) -> Vec<String> {
    world.observed.all(Kind::Job).map(|job| crate::plan::name_of(job).to_owned()).collect()
}

fn end_job(world: &mut World, condition: &str) {
    let name = jobs(world).pop().unwrap();
    let ended =
        json!({ "type": condition, "status": "True", "lastTransitionTime": world.now, "message": "no room" });
    world.change(Kind::Job, &name, json!({ "status": { "conditions": [ended] } }));
}

#[test]
fn a_backup_comes_first_and_no_pod_is_touched_before_it_is_there() {
    let mut world = World::settled(with_backup());
    world.edit(json!({ "version": "16.16" }));
    for _ in 0..100 {
        turn(&mut world);
    }
    assert_eq!((jobs(&world).len(), world.replaced.len()), (1, 0));
    // Of the release that runs.
    let job = world.observed.all(Kind::Job).next().unwrap().clone();
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["image"], "dbctl/postgres:16.15");
    assert_eq!(world.plan().status.upgrade.unwrap().step, "Backup");
    let upgrade = world.plan().status.phase;
    assert_eq!(upgrade, Some(Phase::Upgrading));
    end_job(&mut world, "Complete");
    world.settle();
    assert_eq!((world.releases(), jobs(&world).len()), (vec!["16.16".to_owned(); 3], 1));
    // Nothing but a release asks for one.
    world.edit(json!({ "resources": { "requests": { "cpu": "1" } } }));
    world.settle();
    assert_eq!((jobs(&world).len(), up_to_date(&world).0.as_str()), (1, "True"));
}

#[test]
fn a_backup_that_fails_halts_before_anything_was_touched() {
    let mut world = World::settled(with_backup());
    world.edit(json!({ "version": "16.16" }));
    until(&mut world, "a Job", |world| jobs(world).len() == 1);
    end_job(&mut world, "Failed");
    world.settle();
    assert_eq!((world.replaced.len(), up_to_date(&world).1), (0, reason::ROLLOUT_HALTED.to_owned()));
    insta::assert_snapshot!(up_to_date(&world).2, @"halted, since the backup that is taken first failed: no room; nothing was touched: see `dbctl backups db`; `dbctl upgrade db --resume` tries again, `dbctl upgrade db --abort` goes back to 16.15");
    resume(&mut world);
    until(&mut world, "another Job", |world| jobs(world).len() == 2);
    let newest = world.note().unwrap().backup.unwrap();
    let name = crate::api::Names("db").backup_job(&newest);
    let ended = json!({ "type": "Complete", "status": "True", "lastTransitionTime": world.now });
    world.change(Kind::Job, &name, json!({ "status": { "conditions": [ended] } }));
    world.settle();
    assert_eq!(world.releases(), ["16.16"; 3]);
}

#[test]
fn another_major_is_held_and_can_be_taken_back_or_worked_beside() {
    let mut world = World::settled(json!({}));
    world.edit(json!({ "version": "17.2" }));
    world.settle();
    assert_eq!(up_to_date(&world).1, reason::UPGRADE_NEEDED);
    insta::assert_snapshot!(up_to_date(&world).2, @"members run 16.15: going to 17.2 changes the data's format, which `dbctl upgrade db --to 17.2 --major` is for; until then the database goes on with 16.15, and spec.version 16.15 takes the wish back");
    world.edit(json!({ "resources": { "requests": { "cpu": "1" } } }));
    world.settle();
    assert_eq!((world.releases(), world.replaced.len()), (vec!["16.15".to_owned(); 3], 3));
    assert_eq!(up_to_date(&world).1, reason::UPGRADE_NEEDED);
    world.edit(json!({ "version": "16.15" }));
    world.settle();
    assert_eq!((up_to_date(&world).0.as_str(), world.replaced.len()), ("True", 3));
}

#[test]
fn a_major_upgrade_is_refused_while_members_go_to_another_release() {
    let mut world = World::settled(json!({ "replicas": 2 }));
    world.edit(json!({ "version": "16.16" }));
    until(&mut world, "is a replica replaced", |world| !replaced(world).is_empty());
    world.edit(json!({ "version": "17.2" }));
    let id = Ulid::from_parts(u64::try_from(world.now.as_millisecond()).unwrap(), 7).to_string();
    let request = json!({ "id": id, "uid": "uid-1", "to": "17.2", "withoutBackup": true }).to_string();
    let annotations = world.database.as_mut().unwrap().metadata.annotations.get_or_insert_default();
    annotations.insert("db.example.com/upgrade".to_owned(), request);
    let status = world.plan().status;
    let answer = status.operations.iter().find(|operation| operation.id == id).unwrap();
    assert_eq!(answer.phase, OperationPhase::Rejected);
    let message = answer.message.as_deref().unwrap();
    assert!(message.contains("is being upgraded from 16.15 to 16.16"), "{message}");
}

#[test]
fn without_a_primary_a_failover_may_be_asked_for_in_the_middle_of_it() {
    for (led, phase) in [(true, OperationPhase::Rejected), (false, OperationPhase::Accepted)] {
        let mut world = World::settled(json!({}));
        world.edit(json!({ "version": "16.16" }));
        until(&mut world, "moving", |world| world.replaced.len() == 1);
        world.step();
        world.pass(usize::MAX);
        if !led {
            world.observed.silent.insert("db-0".into(), std::time::Duration::from_secs(30));
        }
        let annotations = world.database.as_mut().unwrap().metadata.annotations.get_or_insert_default();
        let id = Ulid::from_parts(u64::try_from(world.now.as_millisecond()).unwrap(), 9).to_string();
        let request = json!({ "id": id, "uid": "uid-1", "force": true }).to_string();
        annotations.insert("db.example.com/failover".into(), request);
        let operation = world.plan().status.operations[0].clone();
        assert_eq!(operation.phase, phase, "{operation:?}");
    }
}

fn pending(world: &mut World, settings: &[(&str, i64, i64)]) {
    for name in world.pods() {
        let leads = world.leader() == Some(&name);
        let reasons = settings.iter().map(|(name, old, new)| {
            let setting =
                PendingSetting { old_value: json!(old.to_string()), new_value: json!(new.to_string()) };
            ((*name).to_owned(), setting)
        });
        let answer = Answer {
            role: if leads { "primary" } else { "replica" }.into(),
            state: "running".into(),
            timeline: Some(1),
            replication_state: (!leads).then(|| "streaming".into()),
            postmaster_start_time: Some("1970-01-02 00:00:00+00:00".into()),
            pending_restart: true,
            pending_restart_reason: reasons.collect(),
            ..Answer::default()
        };
        world.answer(&name, Some(answer));
    }
}

/// What PostgreSQL and Patroni make of a restart: a standby keeps as much as its primary has.
fn restarted(world: &mut World, member: &str) {
    let lowered: Vec<String> = world.observed.answers[world.leader().unwrap()]
        .pending_restart_reason
        .iter()
        .filter(|(name, setting)| setting.is_lowered() && name.starts_with("max_"))
        .map(|(name, _)| name.clone())
        .collect();
    let leads = world.leader() == Some(member);
    let answer = world.observed.answers.get_mut(member).unwrap();
    answer.pending_restart_reason.retain(|name, _| !leads && lowered.contains(name));
    answer.pending_restart = !answer.pending_restart_reason.is_empty();
}

#[test]
fn settings_that_need_a_restart_get_one_in_the_order_that_standbys_need() {
    let restart = |member: &str| Ask::Restart { member: member.into() };
    let moves = |to: &str| Ask::Switchover { leader: "db-0".into(), candidate: to.into(), insist: false };
    // Settings with their old and new values, and what is asked for.
    type Case<'c> = (&'c [(&'c str, i64, i64)], Vec<Ask>);
    let cases: [Case<'_>; 4] = [
        (&[("max_connections", 100, 200)], vec![restart("db-2"), restart("db-1"), moves("db-1")]),
        (&[("shared_buffers", 200, 100)], vec![restart("db-2"), restart("db-1"), moves("db-1")]),
        (&[("max_connections", 200, 100)], vec![restart("db-0"), restart("db-2"), restart("db-1")]),
        (
            &[("max_connections", 200, 100), ("shared_buffers", 1, 2)],
            vec![restart("db-2"), restart("db-1"), restart("db-0"), restart("db-2"), restart("db-1")],
        ),
    ];
    for (settings, expected) in cases {
        let mut world = World::settled(json!({}));
        pending(&mut world, settings);
        for _ in 0..200 {
            let plan = world.pass(usize::MAX);
            let asks = plan.actions.iter().filter_map(|action| match action {
                Action::Ask { ask, .. } => Some(ask.clone()),
                _ => None,
            });
            for ask in asks.collect::<Vec<_>>() {
                let member = ask.whom().to_owned();
                restarted(&mut world, &member);
            }
            world.step();
            // What was answered is forgotten after a while.
            if world
                .observed
                .asked
                .as_ref()
                .is_some_and(|asked| asked.outcome != crate::plan::AskOutcome::UnderWay)
            {
                world.now += jiff::SignedDuration::from_secs(61);
                world.observed.asked = None;
            }
        }
        assert_eq!(world.asked, expected, "{settings:?}");
    }
}

#[test]
fn one_member_restarts_in_place_and_nobody_restarts_where_another_is_unwell() {
    let mut world = World::settled(json!({ "replicas": 1 }));
    pending(&mut world, &[("shared_buffers", 1, 2)]);
    world.pass(usize::MAX);
    assert_eq!(world.asked, [Ask::Restart { member: "db-0".into() }]);
    let mut world = World::settled(json!({}));
    pending(&mut world, &[("shared_buffers", 1, 2)]);
    world.observed.answers.get_mut("db-1").unwrap().replication_state = None;
    world.pass(usize::MAX);
    assert_eq!(world.asked, []);
    let (status, reason, message) = up_to_date(&world);
    assert_eq!((status.as_str(), reason.as_str()), ("False", reason::RESTART_PENDING), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a controller is cut short at, and whoever leads meanwhile: pods are replaced one at a time (the world sees to
    /// that), the primary's never, and in the end all are as asked for.
    #[test]
    fn from_any_point_it_converges_in_the_same_order(
        replicas in 1..5_i32,
        cuts in prop::collection::vec((0..10_usize, any::<bool>(), prop::option::of(0..4_usize)), 0..40),
        wishes in prop::collection::vec((0..40_usize, prop::sample::select(vec!["16.14", "16.15", "16.16"])), 1..4),
    ) {
        let mut world = World::settled(json!({ "replicas": replicas }));
        for (number, (limit, step, lead)) in cuts.into_iter().enumerate() {
            for (_, version) in wishes.iter().filter(|(at, _)| *at == number) {
                world.edit(json!({ "version": version }));
            }
            let leader = world.leader().unwrap().to_owned();
            let before = world.replaced.len();
            world.pass(limit);
            prop_assert!(replicas == 1 || world.replaced[before..].iter().all(|(pod, _)| *pod != leader));
            if step {
                world.step();
            } else {
                // A controller that starts anew; Patroni does what it was asked for all the same.
                world.step();
                world.observed.asked = None;
            }
            if let Some(pod) = lead {
                let pods = world.pods();
                let pod = pods[pod % pods.len()].clone();
                world.lead(&pod);
            }
        }
        let wanted = wishes.last().unwrap().1;
        world.edit(json!({ "version": wanted }));
        world.settle();
        prop_assert_eq!(world.releases(), vec![wanted; usize::try_from(replicas).unwrap()]);
        prop_assert_eq!(world.note(), None);
        prop_assert_eq!(world.plan().actions, vec![]);
    }

    /// A release that does not run: wherever the controller is cut short, it halts, the primary's pod is never touched, at
    /// most one member is down, and it stays halted.
    #[test]
    fn a_broken_release_halts_from_any_point(
        replicas in 2..5_i32,
        cuts in prop::collection::vec((0..10_usize, any::<bool>()), 0..60),
    ) {
        let mut world = World::settled(json!({ "replicas": replicas }));
        world.broken = vec!["16.16".into()];
        world.edit(json!({ "version": "16.16" }));
        for (limit, forget) in cuts {
            world.pass(limit);
            world.step();
            if forget {
                world.observed.asked = None;
            }
            let broken = world.releases().iter().filter(|release| *release == "16.16").count();
            prop_assert!(broken <= 1);
        }
        world.settle();
        prop_assert_eq!(world.releases(), vec!["16.15"; usize::try_from(replicas).unwrap()]);
        prop_assert_eq!((world.leader(), world.asked.len()), (Some("db-0"), 0));
        prop_assert!(world.note().unwrap().halted.is_some());
        let last = format!("db-{}", replicas - 1);
        prop_assert!(world.replaced.iter().all(|(pod, _)| *pod == last));
    }
}
