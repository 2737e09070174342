//! Patroni's configuration: the rendered file, its four ConfigMaps, and changes to what it runs by.

use serde_json::{Value, json};

use super::context::Context;
use super::ownership::volumes;
use super::{Action, Kind};
use crate::patroni::{CONFIG_KEY, config_patch, dynamic, template};

/// The ConfigMaps that are missing or differ.
pub fn plan(cx: &Context<'_>) -> Vec<Action> {
    // Patroni writes into its own four, so they are only made. An apply would own nothing in them worth owning. Made again,
    // empty, they would hide that there is history; members that have data make them themselves.
    let fresh = volumes(cx).next().is_none();
    let mut actions: Vec<Action> = cx
        .names
        .patroni_objects()
        .iter()
        .filter(|name| fresh && cx.observed.get(Kind::ConfigMap, name).is_none())
        .map(|name| Action::Create(Kind::ConfigMap, cx.retained(Kind::ConfigMap, name)))
        .collect();
    let file = template(cx.names.0, cx.spec(), super::members::version(cx), super::scale::members(cx));
    // JSON is YAML that no reader of YAML 1.1 takes for something else: there, a bare `on` or `12:30` is no text.
    let text = format!("{file:#}\n");
    let rest = json!({ "data": { CONFIG_KEY: text } });
    let body = cx.owned(Kind::ConfigMap, &cx.names.config(), rest);
    actions.extend(cx.apply_action(Kind::ConfigMap, body));
    actions
}

/// What Patroni should run by and does not yet.
pub fn pending(cx: &Context<'_>) -> Option<Value> {
    let live = cx.view.config.config.as_ref()?;
    config_patch(live, &dynamic(cx.spec(), super::scale::committing(cx)))
}

/// The change to what Patroni runs by, through the primary.
pub fn change(cx: &Context<'_>) -> Option<Action> {
    let member = cx.view.running_primary()?.name.to_owned();
    pending(cx).map(|patch| Action::PatchPatroniConfig { member, patch })
}
