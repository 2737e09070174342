//! Patroni's configuration: the rendered file, its four ConfigMaps, and changes to what it runs by.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::context::Context;
use super::ownership::volumes;
use super::text::text;
use super::{Action, Kind, notes};
use crate::patroni::{CONFIG_KEY, FIRST_LOOP_WAIT_SECONDS, config_patch, dynamic, plain_access, template};

const LOOP_WAIT: &str = "loop_wait";

/// The ConfigMaps that are missing or differ.
pub fn plan(cx: &Context<'_>) -> Vec<Action> {
    // Patroni writes into its own four, so they are only made. An apply would own nothing in them worth owning. Made again,
    // empty, they would hide that there is history; members that have data make them themselves.
    let fresh = volumes(cx).next().is_none();
    let absent = |name: &String| fresh && cx.observed.get(Kind::ConfigMap, name).is_none();
    let map = |name: &String| {
        let mut map = cx.retained(Kind::ConfigMap, name);
        if *name == cx.names.dynamic_config() && super::backup::enabled(cx).is_some() {
            map["metadata"]["annotations"] = json!({ notes::ARCHIVE: notes::archive(cx) });
        }
        Action::Create(Kind::ConfigMap, map)
    };
    let patronis = cx.names.patroni_objects();
    let mut actions: Vec<Action> = patronis.iter().filter(|name| absent(name)).map(map).collect();
    let (version, members) = (super::members::version(cx), super::scale::members(cx));
    let mut file = template(cx.names.0, cx.spec(), version, members, notes::archive(cx));
    super::certificates::fill(cx, &mut file);
    super::restore::fill(cx, &mut file);
    super::inplace::fill(cx, &mut file);
    // JSON is YAML that no reader of YAML 1.1 takes for something else: there, a bare `on` or `12:30` is no text.
    let text = format!("{file:#}\n");
    let rest = json!({ "data": { CONFIG_KEY: text } });
    let body = cx.owned(Kind::ConfigMap, &cx.names.config(), rest);
    actions.extend(cx.apply_action(Kind::ConfigMap, body));
    actions
}

/// How long after its StatefulSet a database that is not complete yet still goes in quick loops.
const FIRST_STEPS: SignedDuration = SignedDuration::from_mins(5);

/// What the spec asks of Patroni and it does not run by yet.
pub fn pending(cx: &Context<'_>) -> Option<Value> {
    difference(cx, true)
}

/// The change to what Patroni runs by, through the primary.
pub fn change(cx: &Context<'_>, now: Timestamp) -> Option<Action> {
    let member = cx.view.running_primary()?.name.to_owned();
    let patch = difference(cx, begins(cx, now))?;
    Some(Action::PatchPatroniConfig { member, patch })
}

/// While somebody should confirm commits and does not yet, Patroni is told to look again: each step to there waits for its
/// next loop otherwise, and until then a lost primary takes commits with it. The change changes nothing.
pub fn wake(cx: &Context<'_>) -> Option<Action> {
    let primary = cx.view.running_primary().filter(|primary| primary.answer.is_some())?;
    let waits = cx.view.members.iter().any(|member| member.name != primary.name && member.streams());
    (waits && super::conditions::awaits_standbys(cx))
        .then(|| Action::PatchPatroniConfig { member: primary.name.to_owned(), patch: json!({ WAKE: null }) })
}

/// A key that is not there: taking it away wakes Patroni, and does nothing else.
const WAKE: &str = "dbctl";

/// What live and wanted configuration differ in; `quick`: but for the loops that a new database is made in.
fn difference(cx: &Context<'_>, quick: bool) -> Option<Value> {
    let live = cx.view.config.config.as_ref()?;
    let mut wanted = dynamic(cx.spec(), super::scale::committing(cx), notes::archive(cx));
    if !super::certificates::everywhere(cx) {
        plain_access(&mut wanted, cx.spec());
    }
    if quick && live.get(LOOP_WAIT) == Some(&json!(FIRST_LOOP_WAIT_SECONDS)) {
        wanted[LOOP_WAIT] = json!(FIRST_LOOP_WAIT_SECONDS);
    }
    // For as long as it takes Patroni to let go of the slots of members that were removed: it keeps those of all members that
    // are not there for half an hour, and with them WAL.
    if removed_slots(cx) {
        wanted[SLOTS_TTL] = json!(1);
    } else if live.get(SLOTS_TTL).is_some() {
        wanted[SLOTS_TTL] = Value::Null;
    }
    config_patch(live, &wanted)
}

/// Patroni's setting for how long it keeps the slot of a member that is not there, in seconds.
/// <https://patroni.readthedocs.io/en/latest/dynamic_configuration.html>
const SLOTS_TTL: &str = "member_slots_ttl";

/// Whether slots of removed members are still kept, and nobody who will come back lacks its own meanwhile.
fn removed_slots(cx: &Context<'_>) -> bool {
    let replicas = cx.spec().replicas;
    let all_there = (0..replicas).all(|ordinal| cx.view.member(&cx.names.member(ordinal)).is_some());
    let settled = cx.view.stateful_replicas() == Some(replicas)
        && cx.view.members.iter().all(|member| member.ordinal < replicas);
    // Patroni's slots have the members' names, with what PostgreSQL allows in them.
    let removed =
        (replicas..crate::api::REPLICAS_MAX).map(|ordinal| cx.names.member(ordinal).replace('-', "_"));
    all_there && settled && removed.into_iter().any(|slot| cx.view.lock.slots.contains(&slot))
}

/// The database is new, and not all of its members are there.
fn begins(cx: &Context<'_>, now: Timestamp) -> bool {
    let made = cx.view.stateful_set.and_then(|set| text(set, "/metadata/creationTimestamp"));
    let made = made.and_then(|made| made.parse::<Timestamp>().ok());
    made.is_some_and(|made| now.duration_since(made) < FIRST_STEPS) && !super::conditions::complete(cx)
}
