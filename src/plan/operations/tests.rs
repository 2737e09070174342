mod rotate;

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use ulid::Ulid;

use crate::api::{Operation, OperationPhase};
use crate::patroni::Answer;
use crate::plan::world::World;
use crate::plan::{Action, Ask, AskOutcome, Asked, Kind, LockAge, NodeState};

/// Asks for something, and returns the request's id.
fn request(world: &mut World, verb: &str, arguments: Value) -> String {
    let annotations = world.database.as_mut().unwrap().metadata.annotations.get_or_insert_default();
    let made = u64::try_from(world.now.as_millisecond()).unwrap();
    let id = Ulid::from_parts(made, annotations.len() as u128).to_string();
    let mut request = json!({ "id": id, "uid": "uid-1" });
    json_patch::merge(&mut request, &arguments);
    annotations.insert(format!("db.example.com/{verb}"), request.to_string());
    id
}

fn operations(world: &World) -> Vec<Operation> {
    world.plan().status.operations
}

fn find(world: &World, id: &str) -> Operation {
    operations(world).into_iter().find(|operation| operation.id == id).unwrap()
}

/// Phase and message.
fn said(world: &World, id: &str) -> (OperationPhase, String) {
    let operation = find(world, id);
    (operation.phase, operation.message.unwrap_or_default())
}

fn events(world: &World, reason: &str) -> usize {
    world.events.iter().filter(|event| event.reason == reason).count()
}

fn switchover(leader: &str, candidate: &str) -> Ask {
    Ask::Switchover { leader: leader.into(), candidate: candidate.into(), insist: false }
}

/// To that member and no other.
fn named(leader: &str, candidate: &str) -> Ask {
    Ask::Switchover { leader: leader.into(), candidate: candidate.into(), insist: true }
}

fn restart(member: &str) -> Ask {
    Ask::Restart { member: member.into() }
}

/// The primary is gone for good, and so is its lock.
fn lose_primary(world: &mut World) {
    world.observed.silent.insert("db-0".into(), Duration::from_secs(30));
    world.observed.lock_age = LockAge::Expired;
    world.change(Kind::ConfigMap, "db-failover", json!({}));
}

fn silence(world: &mut World, member: &str) {
    world.observed.silent.insert(member.into(), Duration::from_secs(9));
}

/// Members answer when asked.
fn answering(world: &mut World) {
    for name in world.pods() {
        let leads = world.leader() == Some(&name);
        let answer = Answer {
            role: if leads { "primary" } else { "replica" }.into(),
            state: "running".into(),
            timeline: Some(1),
            replication_state: (!leads).then(|| "streaming".into()),
            postmaster_start_time: Some("1970-01-02 00:00:00.123456+00:00".into()),
            ..Answer::default()
        };
        world.answer(&name, Some(answer));
    }
}

fn settled(verb: &str, arguments: Value) -> (World, String) {
    let mut world = World::settled(json!({}));
    let id = request(&mut world, verb, arguments);
    world.settle();
    (world, id)
}

#[test]
fn a_failover_with_a_healthy_primary_is_a_switchover() {
    for (arguments, to, ask) in [
        (json!({}), "db-1", switchover("db-0", "db-1")),
        (json!({ "to": "db-2" }), "db-2", named("db-0", "db-2")),
        (json!({ "to": "db-2", "from": "db-0", "force": true }), "db-2", named("db-0", "db-2")),
    ] {
        let (mut world, id) = settled("failover", arguments);
        assert_eq!((world.leader(), world.asked.clone()), (Some(to), vec![ask]));
        let operation = find(&world, &id);
        assert_eq!(operation.phase, OperationPhase::Succeeded);
        assert_eq!((operation.from.as_deref(), operation.to.as_deref()), (Some("db-0"), Some(to)));
        assert!(operation.started_at < operation.finished_at);
        let message = operation.message.unwrap();
        let expected = format!("{to} is the primary, after db-0, and accepts writes; writes were down for ");
        assert!(message.starts_with(&expected) && message.ends_with(" s"), "{message}");
        assert_eq!(events(&world, "FailoverSucceeded"), 1);
        let moved = world.plan().status.last_failover.unwrap();
        assert_eq!((moved.to.as_str(), moved.reason.as_str()), (to, "Switchover"));
        // Once and for all.
        world.lead("db-0");
        world.settle();
        assert_eq!(
            (world.leader(), world.asked.len(), events(&world, "FailoverSucceeded")),
            (Some("db-0"), 1, 1)
        );
    }
}

#[test]
fn it_stands_in_the_status_before_patroni_is_asked() {
    let mut world = World::settled(json!({}));
    request(&mut world, "failover", json!({}));
    let actions = world.plan().actions;
    let place = |of: fn(&Action) -> bool| actions.iter().position(of).unwrap();
    assert!(place(|a| matches!(a, Action::PatchStatus(_))) < place(|a| matches!(a, Action::Ask { .. })));
}

type Change = fn(&mut World);

#[test]
fn what_cannot_be_done_is_rejected_with_the_reason() {
    let upgrade: Change = |w| {
        w.edit(json!({ "version": "16.16" }));
        w.pass(usize::MAX);
        w.pass(usize::MAX);
    };
    let busy: Change = |w| {
        let (ask, cause) = (switchover("db-0", "db-1"), "Scaling".to_owned());
        w.observed.asked = Some(Asked { ask, cause, outcome: AskOutcome::UnderWay });
    };
    let cases: &[(&str, &str, Change, Value, &str)] = &[
        (
            "malformed",
            "failover",
            |_| {},
            json!({ "too": "db-1" }),
            "malformed failover request: unknown field `too`",
        ),
        ("malformed", "restart", |_| {}, json!({ "member": 1 }), "malformed restart request: invalid type"),
        ("another object's", "failover", |_| {}, json!({ "uid": "another" }), "names another object's uid"),
        (
            "old",
            "failover",
            |_| {},
            json!({ "id": Ulid::from_parts(1, 1).to_string() }),
            "more than an hour old",
        ),
        (
            "unknown",
            "failover",
            |_| {},
            json!({ "to": "db-9" }),
            "there is no member db-9; the members are db-0, db-1, db-2",
        ),
        (
            "unknown",
            "restart",
            |_| {},
            json!({ "member": "x" }),
            "there is no member x; the members are db-0, db-1, db-2",
        ),
        (
            "somebody else leads by now",
            "failover",
            |_| {},
            json!({ "from": "db-2" }),
            "db-2 is not the primary any more, db-0 is: look again with `dbctl status db`",
        ),
        ("deleted", "failover", |w| w.delete(), json!({}), "the database is being deleted"),
        ("upgraded", "failover", upgrade, json!({}), "the database is being upgraded from 16.15 to 16.16"),
        ("upgraded", "restart", upgrade, json!({}), "the database is being upgraded from 16.15 to 16.16"),
        (
            "busy",
            "failover",
            busy,
            json!({}),
            "Patroni is busy (the primary's role moves from db-0 to db-1, Scaling)",
        ),
        (
            "blocked",
            "failover",
            |w| w.edit(json!({ "storage": { "size": "1Ki" } })),
            json!({}),
            "nothing can be done with this database now",
        ),
        (
            "about to be removed",
            "failover",
            |w| w.edit(json!({ "replicas": 2 })),
            json!({ "to": "db-2" }),
            "db-2 is about to be removed",
        ),
        (
            "nobody leads",
            "failover",
            lose_primary,
            json!({}),
            "--force promotes db-1 now: no acknowledged commit is lost",
        ),
        ("nobody leads", "restart", lose_primary, json!({}), "no primary is running"),
        (
            "does not answer",
            "restart",
            |w| silence(w, "db-2"),
            json!({}),
            "db-2 does not answer, so it cannot be asked to restart",
        ),
    ];
    for (what, verb, change, arguments, expected) in cases {
        let mut world = World::settled(json!({}));
        world.events.clear();
        change(&mut world);
        let id = request(&mut world, verb, arguments.clone());
        let id = arguments["id"].as_str().map_or(id, str::to_owned);
        let plan = world.pass(usize::MAX);
        let asks = plan.actions.iter().any(|action| matches!(action, Action::Ask { .. }));
        assert!(!asks, "{what}");
        let operation = plan.status.operations.into_iter().find(|operation| operation.id == id);
        let operation = operation.unwrap_or_else(|| panic!("{what}: not answered"));
        let message = operation.message.unwrap();
        assert!(
            operation.phase == OperationPhase::Rejected && message.contains(expected),
            "{what}: {message}"
        );
        let reason = if *verb == "failover" { "FailoverRejected" } else { "RestartRejected" };
        assert_eq!(events(&world, reason), 1, "{what}");
    }
}

#[test]
fn whoever_is_the_primary_already_need_not_become_it() {
    for arguments in [json!({ "to": "db-0" }), json!({ "to": "db-0", "from": "db-2" })] {
        let (world, id) = settled("failover", arguments);
        let (phase, message) = said(&world, &id);
        assert_eq!(phase, OperationPhase::Succeeded);
        assert_eq!(message, "db-0 is the primary already: nothing had to be done");
        assert_eq!(world.asked, []);
    }
}

#[test]
fn one_thing_is_done_at_a_time() {
    let mut world = World::settled(json!({}));
    let first = request(&mut world, "failover", json!({}));
    let second = request(&mut world, "restart", json!({}));
    world.settle();
    assert_eq!(said(&world, &first).0, OperationPhase::Succeeded);
    let (phase, message) = said(&world, &second);
    assert_eq!(phase, OperationPhase::Rejected);
    assert!(message.contains(&format!("failover request {first} is under way")), "{message}");

    // The other way round, and a second one in place of the first.
    let mut world = World::settled(json!({}));
    let first = request(&mut world, "restart", json!({}));
    world.pass(usize::MAX);
    let second = request(&mut world, "failover", json!({}));
    world.pass(usize::MAX);
    let third = request(&mut world, "restart", json!({ "member": "db-1" }));
    world.settle();
    for id in [&second, &third] {
        let (phase, message) = said(&world, id);
        assert_eq!(phase, OperationPhase::Rejected);
        assert!(message.contains(&format!("restart request {first} is under way")), "{message}");
    }
    // Its annotation is gone, and it went on.
    assert_eq!(said(&world, &first).0, OperationPhase::Succeeded);
}

#[test]
fn what_patroni_refuses_fails_with_its_words_and_how_things_stand() {
    for (verb, expected) in [
        ("failover", "no good candidates; how things stand: db-0 is the primary and accepts writes"),
        (
            "restart",
            "halted: no good candidates; not restarted: db-2, db-1, db-0; how things stand: db-0 is the primary and accepts \
             writes; see `dbctl logs db --member db-2`",
        ),
    ] {
        let mut world = World::settled(json!({}));
        world.refuses = Some("no good candidates".into());
        let id = request(&mut world, verb, json!({}));
        world.settle();
        assert_eq!(said(&world, &id), (OperationPhase::Failed, expected.to_owned()));
        assert_eq!((world.asked.len(), world.leader()), (1, Some("db-0")));
    }
}

#[test]
fn a_failover_that_does_not_happen_ends_after_a_minute() {
    let mut world = World::settled(json!({}));
    let id = request(&mut world, "failover", json!({}));
    let mut passes = 0;
    while find(&world, &id).phase != OperationPhase::Failed {
        world.pass(usize::MAX);
        passes += 1;
        assert!(passes < 40);
    }
    assert!((29..=32).contains(&passes), "{passes}");
    let message = said(&world, &id).1;
    assert!(
        message.starts_with("db-1 did not become the primary within 60 s; how things stand: db-0 is"),
        "{message}"
    );
}

#[test]
fn another_one_taking_over_is_no_success() {
    let mut world = World::settled(json!({}));
    let id = request(&mut world, "failover", json!({ "to": "db-1" }));
    world.pass(usize::MAX);
    world.lead("db-2");
    world.pass(usize::MAX);
    let (phase, message) = said(&world, &id);
    assert_eq!(phase, OperationPhase::Failed);
    assert!(
        message.starts_with("db-2 took over instead of db-1: db-2 is the primary and accepts writes"),
        "{message}"
    );
}

#[test]
fn a_forced_failover_waits_for_the_lock_and_says_what_is_lost() {
    let mut world = World::settled(json!({ "synchronous": false }));
    lose_primary(&mut world);
    world.observed.lock_age = LockAge::Fresh;
    let id = request(&mut world, "failover", json!({ "force": true }));
    for _ in 0..5 {
        world.pass(usize::MAX);
        world.step();
        let (phase, message) = said(&world, &id);
        assert_eq!(phase, OperationPhase::Accepted);
        assert!(message.starts_with("db-0 holds the leader lock and does not answer"), "{message}");
    }
    world.observed.lock_age = LockAge::Expired;
    world.settle();
    assert_eq!(world.asked, [Ask::Failover { candidate: "db-1".into() }]);
    let (phase, message) = said(&world, &id);
    assert_eq!(phase, OperationPhase::Succeeded);
    let expected = "db-1 is the primary, after db-0, and accepts writes; whatever db-0 wrote since it was last heard of is lost, \
                    and nothing older; writes were down for ";
    assert!(message.starts_with(expected), "{message}");
    assert_eq!(world.plan().status.last_failover.unwrap().reason, "ForcedFailover");
}

#[test]
fn what_was_to_be_forced_is_not_where_there_is_a_primary_again() {
    for (to, expected) in [
        (None, (OperationPhase::Succeeded, "Patroni elected db-2 by itself before it had to be forced")),
        (
            Some("db-1"),
            (
                OperationPhase::Failed,
                "nothing was forced, since there is a primary again: db-2 is the primary and accepts writes",
            ),
        ),
    ] {
        let mut world = World::settled(json!({}));
        lose_primary(&mut world);
        world.observed.lock_age = LockAge::Fresh;
        let id = request(&mut world, "failover", json!({ "force": true, "to": to }));
        world.pass(usize::MAX);
        world.lead("db-2");
        world.settle();
        let (phase, message) = said(&world, &id);
        assert!(phase == expected.0 && message.starts_with(expected.1), "{message}");
        assert_eq!(world.asked, []);
    }
}

#[test]
fn a_switchover_is_never_turned_into_a_forced_failover() {
    let mut world = World::settled(json!({}));
    let id = request(&mut world, "failover", json!({}));
    // It is recorded, and then the controller and the primary die.
    let plan = world.plan();
    let limit = plan.actions.iter().position(|action| matches!(action, Action::Ask { .. })).unwrap();
    world.pass(limit);
    lose_primary(&mut world);
    world.pass(usize::MAX);
    let (phase, message) = said(&world, &id);
    assert_eq!((phase, world.asked.clone()), (OperationPhase::Failed, vec![]));
    assert!(message.contains("--force promotes db-1 now"), "{message}");
}

#[test]
fn a_restart_takes_replicas_first_and_the_primary_last() {
    let (world, id) = settled("restart", json!({}));
    // Nobody says when its PostgreSQL was started, so the old primary is restarted once more.
    assert_eq!(world.asked, [restart("db-2"), restart("db-1"), switchover("db-0", "db-1"), restart("db-0")]);
    let (phase, message) = said(&world, &id);
    assert_eq!(phase, OperationPhase::Succeeded);
    assert_eq!(message, "restarted db-2, db-1, db-0; db-1 is the primary now, after db-0");
    assert_eq!(events(&world, "RestartSucceeded"), 1);

    let mut world = World::settled(json!({}));
    answering(&mut world);
    let id = request(&mut world, "restart", json!({}));
    world.settle();
    assert_eq!(world.asked, [restart("db-2"), restart("db-1"), switchover("db-0", "db-1")]);
    assert_eq!(find(&world, &id).done, ["db-2", "db-1", "db-0"]);
}

#[test]
fn a_primary_that_has_handed_over_is_left_to_start_again() {
    let mut world = World::settled(json!({}));
    answering(&mut world);
    let id = request(&mut world, "restart", json!({ "member": "db-0" }));
    world.pass(usize::MAX);
    let before = world.observed.answers["db-0"].postmaster_start_time.clone();
    world.step();
    assert_eq!(world.leader(), Some("db-1"));
    for (state, role) in [("stopping", "primary"), ("stopped", "demoted"), ("starting", "replica")] {
        let answer = world.observed.answers.get_mut("db-0").unwrap();
        (answer.state, answer.role) = (state.into(), role.into());
        answer.postmaster_start_time = before.clone();
        world.pass(usize::MAX);
        let message = said(&world, &id).1;
        assert_eq!(message, "waiting until db-0 is back as a replica", "{state}");
    }
    assert_eq!(world.asked, [switchover("db-0", "db-1")]);
    let answer = world.observed.answers.get_mut("db-0").unwrap();
    (answer.state, answer.role) = ("running".into(), "replica".into());
    world.settle();
    // It says that it is still the same: then it was not restarted.
    assert_eq!(world.asked, [switchover("db-0", "db-1"), restart("db-0")]);
    assert_eq!(said(&world, &id).0, OperationPhase::Succeeded);
}

#[test]
fn a_restart_tells_how_far_it_got_and_waits_for_each_member() {
    let mut world = World::settled(json!({}));
    answering(&mut world);
    let id = request(&mut world, "restart", json!({}));
    world.pass(usize::MAX);
    assert_eq!(said(&world, &id), (OperationPhase::Running, "restarting db-2 (0 of 3 restarted)".into()));
    world.step();
    // It was restarted, and does not stream yet.
    world.observed.answers.get_mut("db-2").unwrap().replication_state = None;
    let mut passes = 0;
    while find(&world, &id).phase == OperationPhase::Running {
        world.pass(usize::MAX);
        passes += 1;
        let (_, message) = said(&world, &id);
        assert!(
            passes < 100
                && (message.starts_with("waiting until db-2 is back (0 of 3")
                    || message.starts_with("halted"))
        );
    }
    let (phase, message) = said(&world, &id);
    assert_eq!((phase, world.asked.clone()), (OperationPhase::Failed, vec![restart("db-2")]));
    assert!(
        message.starts_with("halted: db-2 is not back after 180 s: it is not streaming from the primary"),
        "{message}"
    );
    assert!(message.contains("not restarted: db-2, db-1, db-0"), "{message}");
}

#[test]
fn single_members_are_restarted_by_themselves() {
    for (replicas, member, change, expected) in [
        (3, json!("db-2"), (|_| {}) as Change, vec![restart("db-2")]),
        (3, json!("db-0"), |_| {}, vec![switchover("db-0", "db-1"), restart("db-0")]),
        (1, Value::Null, |_| {}, vec![restart("db-0")]),
        (1, json!("db-0"), |_| {}, vec![restart("db-0")]),
        // Nobody can take over: in place, after a while.
        (2, json!("db-0"), |w| silence(w, "db-1"), vec![restart("db-0")]),
    ] {
        let mut world = World::settled(json!({ "replicas": replicas }));
        change(&mut world);
        let id = request(&mut world, "restart", json!({ "member": member }));
        for _ in 0..30 {
            world.pass(usize::MAX);
            world.step();
        }
        assert_eq!(world.asked, expected, "{replicas} {member}");
        assert_eq!(said(&world, &id).0, OperationPhase::Succeeded);
    }
}

#[test]
fn a_restart_ends_soon_where_nobody_leads() {
    let mut world = World::settled(json!({}));
    let id = request(&mut world, "restart", json!({}));
    world.pass(usize::MAX);
    world.step();
    lose_primary(&mut world);
    let mut passes = 0;
    while find(&world, &id).phase == OperationPhase::Running {
        world.pass(usize::MAX);
        passes += 1;
    }
    assert!((28..=32).contains(&passes), "{passes}");
    assert_eq!((said(&world, &id).0, world.asked.len()), (OperationPhase::Failed, 1));
}

#[test]
fn whoever_is_quickest_may_follow_where_nobody_was_named() {
    for (arguments, phase) in
        [(json!({}), OperationPhase::Succeeded), (json!({ "to": "db-1" }), OperationPhase::Failed)]
    {
        let mut world = World::settled(json!({}));
        let id = request(&mut world, "failover", arguments);
        world.pass(usize::MAX);
        world.observed.asked = None;
        world.lead("db-2");
        world.settle();
        let operation = find(&world, &id);
        assert_eq!(operation.phase, phase, "{:?}", operation.message);
        let took = if phase == OperationPhase::Succeeded { "db-2" } else { "db-1" };
        assert_eq!(operation.to.as_deref(), Some(took));
    }
}

#[test]
fn members_that_go_meanwhile_are_not_waited_for() {
    let mut world = World::settled(json!({}));
    let id = request(&mut world, "restart", json!({}));
    world.refuses = None;
    world.pass(usize::MAX);
    world.edit(json!({ "replicas": 1 }));
    world.settle();
    let operation = find(&world, &id);
    assert_eq!((world.pods(), world.leader()), (vec!["db-0".to_owned()], Some("db-0")));
    assert_eq!(operation.phase, OperationPhase::Succeeded, "{:?}", operation.message);
}

fn cordon(world: &mut World, nodes: &[(&str, bool)]) {
    for (member, cordoned) in nodes {
        let node = format!("node-of-{member}");
        world.change(Kind::Pod, member, json!({ "spec": { "nodeName": node } }));
        world.observed.nodes.insert(node, NodeState { cordoned: *cordoned, out_of_service: false });
    }
}

#[test]
fn a_primary_leaves_a_cordoned_node() {
    let mut world = World::settled(json!({}));
    cordon(&mut world, &[("db-0", true), ("db-1", true), ("db-2", false)]);
    world.settle();
    assert_eq!((world.leader(), world.asked.clone()), (Some("db-2"), vec![named("db-0", "db-2")]));
    assert_eq!(events(&world, "PrimaryMoves"), 1);
    assert_eq!(world.plan().status.last_failover.unwrap().reason, "NodeCordoned");
    let told = world.plan().status.instances.iter().map(|i| i.node_cordoned).collect::<Vec<_>>();
    assert_eq!(told, [true, true, false]);
    // Now nobody is any better: it stays, and that is told once.
    cordon(&mut world, &[("db-2", true)]);
    world.settle();
    world.settle();
    assert_eq!(
        (world.leader(), world.asked.len(), events(&world, "PrimaryCannotMove")),
        (Some("db-2"), 1, 1)
    );
    // Somebody else on such a node becomes the primary, and is not well at first.
    world.lead("db-0");
    silence(&mut world, "db-0");
    world.settle();
    assert_eq!(events(&world, "PrimaryCannotMove"), 1);
    world.observed.silent.clear();
    world.settle();
    assert_eq!((world.leader(), events(&world, "PrimaryCannotMove")), (Some("db-0"), 2));
    // Somebody is.
    cordon(&mut world, &[("db-1", false)]);
    world.settle();
    assert_eq!((world.leader(), events(&world, "PrimaryMoves")), (Some("db-1"), 2));
}

#[test]
fn a_primary_on_a_cordoned_node_stays_where_it_would_do_harm() {
    let cases: &[(&str, Change)] = &[
        ("its node is not cordoned", |w| cordon(w, &[("db-0", false)])),
        ("nodes are not known", |w| w.observed.nodes.clear()),
        ("being deleted", |w| w.delete()),
        ("paused", |w| {
            let spec = &w.database.as_ref().unwrap().spec;
            let mut config = crate::patroni::dynamic(spec, 3, "uid-1");
            config["pause"] = json!(true);
            let annotations = json!({ "config": config.to_string() });
            w.change(Kind::ConfigMap, "db-config", json!({ "metadata": { "annotations": annotations } }));
        }),
        ("nobody is fit", |w| {
            for name in ["db-1", "db-2"] {
                w.observed.silent.insert(name.into(), Duration::from_secs(9));
            }
        }),
        ("the role moves already", |w| {
            let annotations = json!({ "leader": "db-0", "member": "db-1" });
            w.change(Kind::ConfigMap, "db-failover", json!({ "metadata": { "annotations": annotations } }));
        }),
        ("it was refused a moment ago", |w| {
            let (ask, cause) = (named("db-0", "db-1"), "NodeCordoned".to_owned());
            w.observed.asked = Some(Asked { ask, cause, outcome: AskOutcome::Failed("no".into()) });
        }),
    ];
    for (what, change) in cases {
        let mut world = World::settled(json!({}));
        cordon(&mut world, &[("db-0", true), ("db-1", false), ("db-2", false)]);
        change(&mut world);
        let asks = world.plan().actions.iter().any(|action| matches!(action, Action::Ask { .. }));
        assert!(!asks, "{what}");
    }
    // What somebody asked for comes first.
    let mut world = World::settled(json!({}));
    cordon(&mut world, &[("db-0", true), ("db-1", false), ("db-2", true)]);
    let id = request(&mut world, "failover", json!({ "to": "db-2" }));
    world.settle();
    assert_eq!(said(&world, &id).0, OperationPhase::Succeeded);
    assert_eq!(world.asked, [named("db-0", "db-2"), named("db-2", "db-1")]);
}

#[test]
fn a_removal_waits_for_what_was_asked_for_and_the_other_way_round() {
    let mut world = World::settled(json!({}));
    world.lead("db-2");
    world.settle();
    let id = request(&mut world, "failover", json!({ "to": "db-1" }));
    world.edit(json!({ "replicas": 2 }));
    world.settle();
    assert_eq!(world.asked, [named("db-2", "db-1")]);
    assert_eq!((said(&world, &id).0, world.leader()), (OperationPhase::Succeeded, Some("db-1")));
    assert_eq!(world.pods().len(), 2);
}

proptest! {
    // Each case is some dozens of passes.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_cut_short_a_request_comes_to_one_end(
        verb in prop::sample::select(vec!["failover", "restart"]),
        cuts in prop::collection::vec((0..8_usize, any::<bool>(), any::<bool>()), 0..12),
        answers in any::<bool>(),
        replicas in 2..5_i32,
    ) {
        let mut world = World::settled(json!({ "replicas": replicas }));
        if answers {
            answering(&mut world);
        }
        let id = request(&mut world, verb, json!({}));
        for (limit, moves, forgets) in cuts {
            world.pass(limit);
            if forgets {
                // A controller that is started anew; what Patroni was asked for it does all the same.
                world.step();
                world.observed.asked = None;
            } else if moves {
                world.step();
            }
        }
        world.settle();
        let operation = find(&world, &id);
        let ended = matches!(operation.phase, OperationPhase::Succeeded);
        prop_assert!(ended, "{operation:?} {:?}", world.asked);
        let moves: Vec<&Ask> = world.asked.iter().filter(|ask| matches!(ask, Ask::Switchover { .. })).collect();
        // At most once more than needed each time that something was forgotten, and always the same.
        prop_assert!(moves.iter().all(|ask| *ask == moves[0]), "{:?}", world.asked);
        prop_assert_eq!(operations(&world).len(), 1);
        prop_assert!(events(&world, "FailoverSucceeded") + events(&world, "RestartSucceeded") <= 1);
        let before = world.asked.len();
        world.settle();
        prop_assert_eq!(world.asked.len(), before);
    }
}

// Backups -----------------------------------------------------------------------------------------

fn backed_up() -> World {
    let mut world = World::settled(
        json!({ "backup": { "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/p" } }),
    );
    world.events.clear();
    world
}

fn jobs(world: &World) -> Vec<String> {
    world.observed.all(Kind::Job).map(|job| crate::plan::name_of(job).to_owned()).collect()
}

/// The Job of the request ends.
fn end(world: &mut World, kind: &str) -> String {
    let name = jobs(world).pop().unwrap();
    let condition = json!({ "type": kind, "status": "True", "lastTransitionTime": world.now, "message": "BackoffLimitExceeded" });
    world.change(Kind::Job, &name, json!({ "status": { "conditions": [condition] } }));
    name
}

fn list(world: &mut World, request: &str) {
    let began = world.now - jiff::SignedDuration::from_secs(4);
    let entry = json!({ "id": "b-1", "startedAt": began, "stoppedAt": world.now, "bytes": 12_897_484, "request": request });
    let text = json!({ "backups": [entry] }).to_string();
    world.change(Kind::ConfigMap, "db-backups", json!({ "data": { "catalog.json": text } }));
}

#[test]
fn a_backup_is_one_job_and_says_what_came_of_it() {
    let mut world = backed_up();
    let id = request(&mut world, "backup", json!({}));
    world.settle();
    let (phase, message) = said(&world, &id);
    let name = format!("db-backup-{}", id[16..].to_lowercase());
    assert_eq!((phase, message), (OperationPhase::Running, format!("Job {name} has no pod yet")));
    assert_eq!(jobs(&world).join(" "), name);
    let job = world.get(Kind::Job, &name).clone();
    assert_eq!(
        (&job["spec"]["backoffLimit"], &job["spec"]["ttlSecondsAfterFinished"]),
        (&json!(0), &json!(86_400))
    );
    let command = job["spec"]["template"]["spec"]["containers"][0]["command"].as_array().unwrap();
    assert_eq!(command[command.len() - 2..], [json!("--request"), json!(id)]);
    assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "uid-1");

    end(&mut world, "Complete");
    world.pass(usize::MAX);
    assert_eq!(said(&world, &id).0, OperationPhase::Running, "the catalog is told of by another watch");
    list(&mut world, &id);
    world.settle();
    assert_eq!(said(&world, &id), (OperationPhase::Succeeded, "backup b-1, 12.3 MiB in 4 s".into()));
    assert_eq!((events(&world, "BackupCompleted"), events(&world, "BackupSucceeded")), (1, 0));
    // Its Job goes after a day, and it is not taken again.
    world.observed.remove(Kind::Job, &name);
    world.settle();
    assert_eq!((jobs(&world).len(), said(&world, &id).0), (0, OperationPhase::Succeeded));
}

#[test]
fn a_backup_that_fails_says_why_in_its_pods_words() {
    let mut world = backed_up();
    let id = request(&mut world, "backup", json!({}));
    world.settle();
    let name = end(&mut world, "Failed");
    let job = world.get(Kind::Job, &name);
    let owner = json!({ "kind": "Job", "name": name, "uid": job["metadata"]["uid"] });
    let mut labels = job["metadata"]["labels"].clone();
    labels["batch.kubernetes.io/job-name"] = json!(name);
    let said_last = "taking a backup\nerror: failed to put x: AccessDenied\n";
    let status = json!({ "containerStatuses": [{ "state": { "terminated": { "message": said_last } } }] });
    let metadata = json!({ "name": format!("{name}-x"), "labels": labels, "ownerReferences": [owner] });
    world.observed.insert(Kind::Pod, json!({ "metadata": metadata, "status": status }));
    world.pass(usize::MAX);
    assert_eq!(said(&world, &id), (OperationPhase::Failed, "failed to put x: AccessDenied".into()));
    world.settle();
    assert_eq!(events(&world, "BackupFailed"), 1, "{:?}", world.events);
}

#[test]
fn backups_are_refused_with_the_reason() {
    type Break = fn(&mut World);
    let cases: [(Break, &str); 5] = [
        (|w| w.edit(json!({ "backup": { "enabled": false } })), "backups of db are off"),
        (
            |w| {
                let owner = json!({ "kind": "CronJob", "name": "db-backup", "uid": "c" });
                let labels = crate::api::Names("db").backup_labels();
                let metadata = json!({ "name": "db-backup-29", "uid": "j", "labels": labels, "ownerReferences": [owner] });
                w.observed.insert(Kind::Job, json!({ "metadata": metadata }));
            },
            "another backup is being taken",
        ),
        (|w| lose_primary(w), "no primary is running"),
        (|w| w.edit(json!({ "replicas": 12 })), "nothing can be done with this database now"),
        (
            |w| {
                request(w, "backup", json!({}));
                w.pass(usize::MAX);
            },
            "backup request",
        ),
    ];
    for (breaks, why) in cases {
        let mut world = backed_up();
        breaks(&mut world);
        let before = jobs(&world);
        let id = request(&mut world, "backup", json!({}));
        world.pass(usize::MAX);
        let (phase, message) = said(&world, &id);
        assert_eq!((phase, message.contains(why)), (OperationPhase::Rejected, true), "{why}: {message}");
        assert_eq!(jobs(&world), before, "{why}");
    }
    let mut world = backed_up();
    let id = request(&mut world, "backup", json!({ "to": "s3://elsewhere" }));
    world.settle();
    assert!(said(&world, &id).1.contains("malformed"), "{:?}", said(&world, &id));
}

#[test]
fn a_backup_keeps_nobody_from_moving_the_role() {
    let mut world = backed_up();
    let backup = request(&mut world, "backup", json!({}));
    world.settle();
    let moved = request(&mut world, "failover", json!({}));
    world.settle();
    assert_eq!(
        (said(&world, &backup).0, said(&world, &moved).0),
        (OperationPhase::Running, OperationPhase::Succeeded)
    );
    assert_eq!(world.leader(), Some("db-1"));
}

/// Whatever was done when the controller ended, and whatever a watch has yet to tell.
#[test]
fn a_pass_that_was_cut_short_makes_no_second_job() {
    for limit in 0..6 {
        for forgets in [false, true] {
            let mut world = backed_up();
            let id = request(&mut world, "backup", json!({}));
            world.pass(limit);
            if forgets {
                // The status was not written; the Job may have been made.
                world.database.as_mut().unwrap().status.as_mut().unwrap().operations.clear();
            }
            world.settle();
            assert_eq!(jobs(&world).len(), 1, "{limit} {forgets}");
            assert_eq!(said(&world, &id).0, OperationPhase::Running);
        }
    }
}

#[test]
fn a_job_that_somebody_deleted_is_not_made_again() {
    let mut world = backed_up();
    let id = request(&mut world, "backup", json!({}));
    world.settle();
    let name = jobs(&world).pop().unwrap();
    world.observed.remove(Kind::Job, &name);
    world.settle();
    let (phase, message) = said(&world, &id);
    assert_eq!((phase, jobs(&world).len()), (OperationPhase::Failed, 0));
    assert!(message.contains("is gone"), "{message}");

    // One of its name that is somebody else's.
    let mut world = backed_up();
    let id = request(&mut world, "backup", json!({}));
    let name = crate::api::Names("db").backup_job(&id);
    world.observed.insert(Kind::Job, json!({ "metadata": { "name": name, "uid": "x" } }));
    world.settle();
    let (phase, message) = said(&world, &id);
    assert_eq!(phase, OperationPhase::Failed);
    assert!(message.contains("does not belong to this Database"), "{message}");
}

// Verifications -----------------------------------------------------------------------------------

/// What is in the destination: two backups, the newer of which was found to be like this just now.
fn found(world: &mut World, problem: Option<Option<&str>>) {
    let entry = |id: &str| json!({ "id": id, "startedAt": "1970-01-10T00:00:00Z", "stoppedAt": "1970-01-10T00:00:04Z" });
    let mut newest = entry("b-2");
    if let Some(problem) = problem {
        newest["verifiedAt"] = json!(world.now);
        newest["verifyProblem"] = json!(problem);
    }
    let text = json!({ "backups": [newest, entry("b-1")] }).to_string();
    world.change(Kind::ConfigMap, "db-backups", json!({ "data": { "catalog.json": text } }));
}

#[test]
fn a_verification_is_one_job_about_one_backup() {
    for (asked, about) in [(json!({}), "b-2"), (json!({ "backup": "b-1" }), "b-1")] {
        let mut world = backed_up();
        found(&mut world, None);
        let id = request(&mut world, "verify", asked);
        world.settle();
        let name = format!("db-verify-{}", id[16..].to_lowercase());
        assert_eq!(said(&world, &id), (OperationPhase::Running, format!("Job {name} has no pod yet")));
        assert_eq!(jobs(&world).join(" "), name);
        let command = &world.get(Kind::Job, &name)["spec"]["template"]["spec"]["containers"][0]["command"];
        let words: Vec<&str> = command.as_array().unwrap().iter().filter_map(|word| word.as_str()).collect();
        assert_eq!(
            words.join(" "),
            format!(
                "dbctl agent verify --to s3://b/p --archive uid-1 --database db --request {id} --backup {about}"
            )
        );
    }
}

#[test]
fn what_a_verification_found_is_its_end() {
    for (kind, problem, phase, message) in [
        ("Complete", None, OperationPhase::Succeeded, "backup b-2 is good: it was restored"),
        (
            "Complete",
            Some("check x: torn"),
            OperationPhase::Failed,
            "backup b-2 is damaged: failed to check x: torn",
        ),
        ("Failed", Some("check x: torn"), OperationPhase::Failed, "BackoffLimitExceeded"),
    ] {
        let mut world = backed_up();
        found(&mut world, None);
        let id = request(&mut world, "verify", json!({}));
        world.settle();
        let name = end(&mut world, kind);
        world.pass(usize::MAX);
        if kind == "Complete" {
            assert_eq!(
                said(&world, &id).0,
                OperationPhase::Running,
                "the catalog is told of by another watch"
            );
        }
        found(&mut world, Some(problem));
        world.settle();
        let (ended, words) = said(&world, &id);
        assert_eq!((ended, words.contains(message)), (phase, true), "{words}");
        assert_eq!(events(&world, "VerificationSucceeded"), 0);
        assert_eq!(events(&world, "VerificationFailed"), usize::from(phase == OperationPhase::Failed));
        assert_eq!(events(&world, "BackupVerified"), usize::from(problem.is_none()));
        assert_eq!(events(&world, "BackupDamaged"), usize::from(problem.is_some()));
        world.observed.remove(Kind::Job, &name);
        world.settle();
        assert_eq!((jobs(&world).len(), said(&world, &id).0), (0, phase));
    }
}

#[test]
fn verifications_are_refused_with_the_reason() {
    type Break = fn(&mut World);
    let cases: [(Break, Value, &str); 5] = [
        (|w| w.edit(json!({ "backup": { "enabled": false } })), json!({}), "backups of db are off"),
        (
            |w| drop(w.observed.remove(Kind::ConfigMap, "db-backups")),
            json!({}),
            "there is no good backup of db yet",
        ),
        (|_| {}, json!({ "backup": "b-9" }), "b-9 is no good backup of db"),
        (
            |w| {
                let owner = json!({ "kind": "CronJob", "name": "db-verify", "uid": "c" });
                let labels = crate::api::Names("db").verify_labels();
                let metadata = json!({ "name": "db-verify-29", "uid": "j", "labels": labels, "ownerReferences": [owner] });
                w.observed.insert(Kind::Job, json!({ "metadata": metadata }));
            },
            json!({}),
            "another verification runs",
        ),
        (
            |w| {
                request(w, "verify", json!({}));
                w.pass(usize::MAX);
            },
            json!({}),
            "verify request",
        ),
    ];
    for (breaks, asked, why) in cases {
        let mut world = backed_up();
        found(&mut world, None);
        breaks(&mut world);
        let before = jobs(&world);
        let id = request(&mut world, "verify", asked);
        world.pass(usize::MAX);
        let (phase, message) = said(&world, &id);
        assert_eq!((phase, message.contains(why)), (OperationPhase::Rejected, true), "{why}: {message}");
        assert_eq!(jobs(&world), before, "{why}");
    }
}

#[test]
fn a_verification_is_in_nobodys_way() {
    let mut world = backed_up();
    found(&mut world, None);
    // Nor does it need a primary.
    lose_primary(&mut world);
    let verification = request(&mut world, "verify", json!({}));
    world.pass(usize::MAX);
    assert_eq!(said(&world, &verification).0, OperationPhase::Running);
    let mut world = backed_up();
    found(&mut world, None);
    let verification = request(&mut world, "verify", json!({}));
    world.settle();
    let backup = request(&mut world, "backup", json!({}));
    let moved = request(&mut world, "failover", json!({}));
    world.settle();
    let phases = [&verification, &backup, &moved].map(|id| said(&world, id).0);
    assert_eq!(phases, [OperationPhase::Running, OperationPhase::Running, OperationPhase::Succeeded]);
}
