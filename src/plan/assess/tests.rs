use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::patroni::{Answer, Positions};
use crate::plan::world::World;
use crate::plan::{Ask, Kind, NodeState};

const END: i64 = 100 << 20;

fn answer(role: &str, position: i64) -> Answer {
    let replica = role == "replica";
    let known = Some(position);
    let xlog = if replica {
        Positions { received_location: known, replayed_location: known, ..Positions::default() }
    } else {
        Positions { location: known, ..Positions::default() }
    };
    Answer {
        role: role.into(),
        state: "running".into(),
        timeline: Some(1),
        replication_state: replica.then(|| "streaming".into()),
        xlog,
        ..Answer::default()
    }
}

/// Three members, all well: db-0 leads.
fn well() -> World {
    let mut world = World::settled(json!({}));
    annotate(&mut world, "db-leader", json!({ "optime": END.to_string() }));
    world.answer("db-0", Some(answer("primary", END)));
    world.answer("db-1", Some(answer("replica", END)));
    world.answer("db-2", Some(answer("replica", END)));
    world
}

/// The same, and db-0 is gone for good: its lock has run out, and nobody streams any more.
fn led_by_nobody() -> World {
    let mut world = well();
    silence(&mut world, "db-0");
    world.observed.lock_age = LockAge::Expired;
    annotate(&mut world, "db-leader", json!({ "renewTime": "2026-11-22T10:00:00.5+00:00" }));
    for name in ["db-1", "db-2"] {
        world.observed.answers.get_mut(name).unwrap().replication_state = None;
    }
    world
}

fn annotate(world: &mut World, object: &str, annotations: Value) {
    world.change(Kind::ConfigMap, object, json!({ "metadata": { "annotations": annotations } }));
}

fn silence(world: &mut World, name: &str) {
    world.answer(name, None);
    world.observed.silent.insert(name.to_owned(), Duration::from_secs(10));
}

fn at<'w>(world: &'w mut World, name: &str) -> &'w mut Answer {
    world.observed.answers.get_mut(name).unwrap()
}

fn received(world: &mut World, name: &str, position: i64) {
    let xlog = &mut at(world, name).xlog;
    (xlog.received_location, xlog.replayed_location) = (Some(position), Some(position));
}

fn configure(world: &mut World, key: &str, value: Value) {
    let spec = &world.database.as_ref().unwrap().spec;
    let mut config = crate::patroni::dynamic(spec, 3, "uid-1");
    config[key] = value;
    annotate(world, "db-config", json!({ "config": config.to_string() }));
}

fn cordon(world: &mut World, name: &str, node: &str) {
    world.change(Kind::Pod, name, json!({ "spec": { "nodeName": node } }));
    world.observed.nodes.insert(node.into(), NodeState { cordoned: true, out_of_service: false });
}

fn judged(world: &World) -> Assessment {
    assess("db", &world.observed, world.now)
}

/// `switchover db-0 db-1`, `failover db-1`, or the words of the refusal.
fn chosen(world: &World, to: Option<&str>, force: bool) -> String {
    match judged(world).choose(to, force) {
        Ok(Move::Switchover { from, to }) => format!("switchover {from} {to}"),
        Ok(Move::Failover { to, .. }) => format!("failover {to}"),
        Err(refusal) => format!("{refusal}."),
    }
}

type Change = fn(&mut World);

#[test]
fn a_healthy_primary_hands_over_to_whoever_can_follow() {
    let cases: &[(&str, Change, Option<&str>, &str)] = &[
        ("all are well", |_| {}, None, "switchover db-0 db-1"),
        ("named", |_| {}, Some("db-2"), "switchover db-0 db-2"),
        ("is it already", |_| {}, Some("db-0"), "db-0 is the primary already."),
        ("unknown", |_| {}, Some("db-7"), "there is no member db-7; the members are db-0, db-1, db-2."),
        ("a little less behind", |w| received(w, "db-1", END - 9), None, "switchover db-0 db-2"),
        ("its node is cordoned", |w| cordon(w, "db-1", "n1"), None, "switchover db-0 db-2"),
        (
            "its node is cordoned, and it is named",
            |w| cordon(w, "db-1", "n1"),
            Some("db-1"),
            "switchover db-0 db-1",
        ),
        (
            "silent",
            |w| silence(w, "db-1"),
            Some("db-1"),
            "db-1 does not answer; `dbctl logs` shows why; db-2 can take over now.",
        ),
        (
            "far behind",
            |w| received(w, "db-1", END - (3 << 20)),
            Some("db-1"),
            "db-1 lags by 3.0 MiB; ask again when it has caught up; db-2 can take over now.",
        ),
        (
            "received and not replayed",
            |w| at(w, "db-1").xlog.replayed_location = Some(END - (65 << 20)),
            Some("db-1"),
            "db-1 has still to replay 65.0 MiB, and would take no writes before it has; ask again when it has caught up; db-2 can \
             take over now.",
        ),
        (
            "not streaming",
            |w| at(w, "db-1").replication_state = Some("in archive recovery".into()),
            Some("db-1"),
            "db-1 is not streaming from the primary; it can take over as soon as it streams; db-2 can take over now.",
        ),
        (
            "another timeline",
            |w| at(w, "db-1").timeline = Some(2),
            Some("db-1"),
            "db-1 is on timeline 2, and the database on 1; promoting it would throw away what was written since, and --force \
             does not do that; db-2 can take over now.",
        ),
        (
            "not listed",
            |w| annotate(w, "db-sync", json!({ "sync_standby": "db-2", "quorum": "0" })),
            Some("db-1"),
            "db-1 is not listed as a synchronous standby: commits do not wait for it; Patroni lists it within seconds of its \
             streaming; db-2 can take over now.",
        ),
        (
            "not listed, and nobody has to be",
            |w| {
                configure(w, "synchronous_mode", json!(false));
                annotate(w, "db-sync", json!({ "leader": null, "sync_standby": null }));
            },
            Some("db-1"),
            "switchover db-0 db-1",
        ),
        (
            "being cloned",
            |w| at(w, "db-1").state = "creating replica".into(),
            Some("db-1"),
            "db-1 has no data to go by: it is creating replica; it can be primary when it has been filled; db-2 can take over now.",
        ),
        (
            "nobody",
            |w| {
                silence(w, "db-1");
                at(w, "db-2").state = "starting".into();
            },
            None,
            "no member is fit to be primary: db-1 does not answer, db-2 is starting; `dbctl status` shows how they come along.",
        ),
        (
            "asked for already",
            |w| annotate(w, "db-failover", json!({ "leader": "db-0", "member": "db-2" })),
            None,
            "Patroni has been asked to move the primary's role to db-2 and is at it: look again when it is done.",
        ),
        (
            "two run as primary",
            |w| w.answer("db-2", Some(answer("primary", END))),
            Some("db-1"),
            "db-2 says that it runs as primary but does not hold the leader lock: to promote another one would make two \
             primaries; it steps down within seconds, or delete pod db-2.",
        ),
    ];
    for (what, change, to, expected) in cases {
        let mut world = well();
        change(&mut world);
        assert_eq!(chosen(&world, *to, false), *expected, "{what}");
        // It cannot be forced: what Patroni refuses it refuses all the same, and nothing has to be lost.
        assert_eq!(chosen(&world, *to, true), *expected, "{what}, forced");
    }
    let mut world = well();
    configure(&mut world, "pause", json!(true));
    assert!(chosen(&world, None, false).starts_with("Patroni is paused"));
    assert_eq!(chosen(&world, None, true), "switchover db-0 db-1");
    let alone = World::settled(json!({ "replicas": 1 }));
    assert!(chosen(&alone, None, true).starts_with("db-0 is the only member"));
    let unmade = World::new(crate::plan::world::database(json!({})));
    assert!(chosen(&unmade, None, true).starts_with("the database has not been made yet"));
}

/// Patroni, asked for nobody by name, is quicker; it is not asked so where it could take somebody that is not fit.
#[test]
fn a_member_is_named_to_patroni_where_another_would_not_do() {
    type Change = fn(&mut World);
    let cases: &[(&str, Change, bool, &str)] = &[
        ("both are fit", |_| {}, false, "db-1 or db-2, whichever is first"),
        (
            "one lags, so Patroni takes it by itself no more",
            |w| received(w, "db-2", END - (3 << 20)),
            false,
            "db-1",
        ),
        ("one is silent", |w| silence(w, "db-2"), false, "db-1"),
        ("one is on a node that is drained", |w| cordon(w, "db-2", "n2"), true, "db-1"),
        (
            "one has all, and much of it to replay",
            |w| at(w, "db-2").xlog.replayed_location = Some(END - (1 << 29)),
            true,
            "db-1",
        ),
        (
            "both are on such a node",
            |w| {
                cordon(w, "db-1", "n2");
                cordon(w, "db-2", "n2");
            },
            false,
            "db-1 or db-2, whichever is first",
        ),
    ];
    for (what, change, named, heirs) in cases {
        let mut world = well();
        change(&mut world);
        let judged = judged(&world);
        let chosen = judged.choose(None, false).unwrap();
        let insists = |named| matches!(judged.ask(&chosen, named), Ask::Switchover { insist: true, .. });
        assert_eq!((insists(false), insists(true)), (*named, true), "{what}");
        assert_eq!(judged.heirs(&chosen, false), *heirs, "{what}");
        assert_eq!(judged.heirs(&chosen, true), "db-1", "{what}");
    }
}

#[test]
fn without_a_primary_force_promotes_whoever_has_most() {
    let cases: &[(&str, Change, Option<&str>, &str)] = &[
        ("both have all", |_| {}, None, "failover db-1"),
        ("named", |_| {}, Some("db-2"), "failover db-2"),
        ("one has more", |w| received(w, "db-1", END - 512), None, "failover db-2"),
        (
            "the other one has more",
            |w| received(w, "db-1", END - 512),
            Some("db-1"),
            "db-1 lacks 512 bytes that db-2 has; promote that one.",
        ),
        (
            "one has a newer timeline",
            |w| at(w, "db-2").timeline = Some(2),
            Some("db-1"),
            "db-1 is on timeline 1, and the database on 2; promoting it would throw away what was written since, and --force \
             does not do that; db-2 can take over now.",
        ),
        (
            "who was on the newer timeline does not answer",
            |w| {
                annotate(
                    w,
                    "db-config",
                    json!({ "history": "[[1,50,\"x\",\"2026-11-22T07:11:38+00:00\",\"db-2\"]]" }),
                );
                silence(w, "db-2");
            },
            None,
            "no member is fit to be primary: db-1 is on timeline 1, and the database on 2, db-2 does not answer; `dbctl status` \
             shows how they come along.",
        ),
        ("only one is left", |w| silence(w, "db-1"), None, "failover db-2"),
        (
            "the holder itself",
            |_| {},
            Some("db-0"),
            "db-0 holds the leader lock, but does not answer and does not renew the leader lock: choose another member, or see \
             to this one.",
        ),
        (
            "the old one still runs",
            |w| {
                w.answer("db-0", Some(answer("primary", END)));
                annotate(w, "db-leader", json!({ "leader": null }));
            },
            Some("db-1"),
            "db-0 says that it runs as primary but does not hold the leader lock: to promote another one would make two \
             primaries; it steps down within seconds, or delete pod db-0.",
        ),
        (
            "the lock may be alive",
            |w| w.observed.lock_age = LockAge::Fresh,
            Some("db-1"),
            "db-0 holds the leader lock and does not answer: nothing proves that it is dead, so nobody else may be primary \
             before the lock runs out, 20 seconds after it was last renewed. Patroni then elects a fit member by itself; where \
             there is none, --force promotes one.",
        ),
        (
            "the holder's PostgreSQL does not start, and its Patroni keeps the lock",
            |w| {
                w.observed.lock_age = LockAge::Fresh;
                let stuck =
                    Answer { state: "start failed".into(), role: "primary".into(), ..Answer::default() };
                w.answer("db-0", Some(stuck));
                w.observed.silent.clear();
            },
            Some("db-1"),
            "failover db-1",
        ),
        ("nobody says where it is", |w| at(w, "db-1").xlog = Positions::default(), None, "failover db-2"),
    ];
    for (what, change, to, expected) in cases {
        let mut world = led_by_nobody();
        change(&mut world);
        assert_eq!(chosen(&world, *to, true), *expected, "{what}");
        let unforced = judged(&world).choose(*to, false);
        assert!(unforced.is_err(), "{what}: {unforced:?}");
    }
}

#[test]
fn what_would_be_lost_is_said() {
    let after = "2026-11-22T10:00:00Z, when it was last heard of,";
    let nothing = "no acknowledged commit is lost".to_owned();
    let newest = format!("whatever db-0 wrote after {after} is lost, and nothing older");
    let cases: &[(&str, Change, &str)] = &[
        // Each commit is on one of the two, and db-1 is as far as the other.
        ("both are heard", |_| {}, &nothing),
        ("the other one is silent", |w| silence(w, "db-2"), &newest),
        (
            "the other one does not have to be heard",
            |w| {
                silence(w, "db-2");
                annotate(w, "db-sync", json!({ "sync_standby": "db-1", "quorum": "0" }));
            },
            &nothing,
        ),
        (
            "nobody was waited for",
            |w| annotate(w, "db-sync", json!({ "sync_standby": "", "quorum": "0" })),
            &newest,
        ),
        ("the list is another primary's", |w| annotate(w, "db-sync", json!({ "leader": "db-2" })), &newest),
        ("asynchronous", |w| configure(w, "synchronous_mode", json!(false)), &newest),
        (
            "asynchronous, and behind",
            |w| {
                configure(w, "synchronous_mode", json!(false));
                received(w, "db-1", END - (3 << 19));
                silence(w, "db-2");
            },
            "1.5 MiB of db-0's WAL are lost, and whatever it wrote after 2026-11-22T10:00:00Z, when it was last heard of, too",
        ),
        ("not known", |w| at(w, "db-1").xlog = Positions::default(), "nothing tells how much would be lost"),
    ];
    for (what, change, expected) in cases {
        let mut world = led_by_nobody();
        change(&mut world);
        let judged = judged(&world);
        assert_eq!(judged.candidate("db-1").unwrap().loss.to_string(), *expected, "{what}");
        if let Err(refusal @ Refusal::NeedsForce { .. }) = judged.choose(Some("db-1"), false) {
            assert!(
                refusal.to_string().ends_with(&format!("--force promotes db-1 now: {expected}")),
                "{refusal}"
            );
        }
    }
    // Whoever takes over from a healthy primary gets everything.
    assert_eq!(judged(&well()).candidate("db-1").unwrap().loss, Loss::Nothing);
}

#[test]
fn lag_is_told_in_bytes_and_seconds() {
    let mut world = well();
    received(&mut world, "db-1", END - 2048);
    let earlier = world.now - jiff::SignedDuration::from_secs(7);
    at(&mut world, "db-1").xlog.replayed_timestamp =
        Some(earlier.to_string().replace('T', " ").replace('Z', "+00:00"));
    at(&mut world, "db-2").xlog.replayed_timestamp = Some(earlier.to_string());
    let judged = judged(&world);
    let lag = |name: &str| judged.candidate(name).map(|c| (c.lag_bytes, c.lag_seconds));
    assert_eq!(lag("db-1"), Some((Some(2048), Some(7))));
    // Nothing has been written for a while: that is no lag.
    assert_eq!(lag("db-2"), Some((Some(0), Some(0))));
    assert_eq!(
        [0, 1, 1023, 1024, 1 << 20, 5 << 30].map(size),
        ["0 bytes", "1 byte", "1023 bytes", "1.0 KiB", "1.0 MiB", "5.0 GiB"]
    );
}

#[test]
fn only_what_does_not_exist_is_not_found() {
    let refusal = judged(&well()).choose(Some("x"), false).unwrap_err();
    assert!(refusal.is_not_found() && !refusal.is_passing());
    let mut world = led_by_nobody();
    world.observed.lock_age = LockAge::Fresh;
    let refusal = judged(&world).choose(None, true).unwrap_err();
    assert!(refusal.is_passing() && !refusal.is_not_found());
}

#[test]
fn members_on_their_way_out_are_not_chosen() {
    let judged = judged(&well()).with_replicas(1);
    let refused = judged.choose(Some("db-1"), false).unwrap_err();
    assert!(matches!(refused, Refusal::Unfit { unfit: Unfit::Leaving, .. }), "{refused}");
}

#[derive(Clone, Debug)]
struct State {
    silent: bool,
    position: i64,
    timeline: i64,
    state: &'static str,
    listed: bool,
}

fn any_state() -> impl Strategy<Value = State> {
    (
        prop::bool::weighted(0.2),
        1..4_i64,
        1..3_i64,
        prop::sample::select(vec!["running", "running", "starting"]),
        any::<bool>(),
    )
        .prop_map(|(silent, position, timeline, state, listed)| State {
            silent,
            position,
            timeline,
            state,
            listed,
        })
}

proptest! {
    #[test]
    fn what_is_promoted_is_as_good_as_any(
        members in prop::collection::vec(any_state(), 2..4),
        led in any::<bool>(), expired in any::<bool>(), quorum in 0..2_usize, force in any::<bool>(), to in prop::option::of(0..3),
    ) {
        let mut world = if led { well() } else { led_by_nobody() };
        if !led && !expired {
            annotate(&mut world, "db-leader", json!({ "leader": null }));
        }
        let mut listed = Vec::new();
        for (index, state) in members.iter().enumerate() {
            let name = format!("db-{}", index + 1);
            let answer = at(&mut world, "db-1").clone();
            let mut answer = Answer { state: state.state.into(), timeline: Some(state.timeline), ..answer };
            let position = Some(state.position << 18);
            (answer.xlog.received_location, answer.xlog.replayed_location) = (position, position);
            world.answer(&name, Some(answer));
            if state.silent && name != "db-1" {
                silence(&mut world, &name);
            }
            if state.listed {
                listed.push(name);
            }
        }
        annotate(&mut world, "db-sync", json!({ "sync_standby": listed.join(","), "quorum": quorum.to_string() }));
        let judged = judged(&world);
        let to = to.map(|ordinal| format!("db-{ordinal}"));
        let Ok(chosen) = judged.choose(to.as_deref(), force) else { return Ok(()) };
        prop_assert!(to.as_deref().is_none_or(|to| to == chosen.to()));
        let target = judged.candidate(chosen.to()).unwrap();
        prop_assert!(target.state != "silent" && target.state != "starting");
        match &chosen {
            Move::Switchover { from, .. } => {
                prop_assert!(led && from == "db-0" && target.listed && target.streaming);
                prop_assert_eq!(target.timeline, Some(1));
            }
            Move::Failover { loss, .. } => {
                prop_assert!(!led && force);
                let heard = judged.candidates.iter().filter(|other| other.state == "running");
                for other in heard.clone() {
                    prop_assert!((other.timeline, other.position) <= (target.timeline, target.position));
                }
                // Nothing is lost only where enough of those that were waited for are heard.
                let voters = heard.filter(|other| other.listed).count();
                prop_assert!(*loss != Loss::Nothing || voters > quorum);
            }
        }
    }
}
