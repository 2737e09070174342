//! The StatefulSet.

use serde_json::{Value, json};

use super::context::Context;
use super::scale::Scale;
use super::text::{at, list, text};
use super::view::LABEL_VERSION;
use super::{Action, Kind};
use crate::api::PgVersion;

/// The release that pods are made for as things stand: the StatefulSet's.
pub fn version(cx: &Context<'_>) -> PgVersion {
    live(cx).unwrap_or_else(|| release(cx))
}

/// The release that pods should be made for: the spec's, unless the volumes hold another major's data, which needs an upgrade
/// first. The live StatefulSet knows which one that is; where it was lost, what is noted beside the data does.
pub fn release(cx: &Context<'_>) -> PgVersion {
    if let Some(release) = super::major::release(cx) {
        return release;
    }
    let wanted = cx.spec().version;
    live(cx)
        .or_else(|| super::release::recorded(cx))
        .filter(|live| live.major() != wanted.major())
        .unwrap_or(wanted)
}

fn live(cx: &Context<'_>) -> Option<PgVersion> {
    at(cx.view.stateful_set?, "/spec/template/metadata/labels")?.get(LABEL_VERSION)?.as_str()?.parse().ok()
}

/// The StatefulSet's write, if one is needed. `template`: what its pods are made from.
pub fn plan(cx: &Context<'_>, scale: &Scale, template: &Value) -> Option<Action> {
    let name = cx.names.main();
    let rest = json!({ "spec": {
        "serviceName": cx.names.headless_service(),
        "replicas": scale.replicas,
        // One at a time would keep the primary from coming back while a lower ordinal is broken.
        "podManagementPolicy": "Parallel",
        // dbctl decides which pod is replaced when.
        "updateStrategy": { "type": "OnDelete" },
        "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain", "whenScaled": "Retain" },
        "selector": { "matchLabels": cx.names.selector() },
        "template": super::inplace::annotated(cx, template),
        "volumeClaimTemplates": claim_templates(cx),
    } });
    let mut apply = cx.apply(Kind::StatefulSet, cx.owned(Kind::StatefulSet, &name, rest))?;
    let shrinks = cx.view.stateful_replicas().is_some_and(|live| live > scale.replicas);
    // To stop all of them takes nobody's role.
    let shrinks = shrinks && super::inplace::under_way(cx).is_none();
    apply.leader_below =
        (shrinks && (cx.view.config.initialize.is_some() || cx.view.initialized())).then_some(scale.replicas);
    Some(Action::Apply(apply))
}

/// Immutable: what the live StatefulSet says is said again. A new size reaches the volumes another way.
fn claim_templates(cx: &Context<'_>) -> Value {
    let live = cx.view.stateful_set.map(|set| list(set, "/spec/volumeClaimTemplates"));
    if let Some(live) = live.filter(|live| !live.is_empty()) {
        return live.iter().map(as_given).collect();
    }
    let storage = &cx.spec().storage;
    let mut template = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": "data", "labels": cx.names.labels() },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": storage.size } },
        },
    });
    if let Some(class) = &storage.storage_class_name {
        template["spec"]["storageClassName"] = json!(class);
    }
    json!([template])
}

/// A live template without what the API server wrote into it.
fn as_given(live: &Value) -> Value {
    let mut template = live.clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("creationTimestamp");
        }
    }
    template
}

/// The size that the StatefulSet gives new volumes.
pub fn template_size<'a>(cx: &Context<'a>) -> Option<&'a str> {
    text(cx.view.stateful_set?, "/spec/volumeClaimTemplates/0/spec/resources/requests/storage")
}
