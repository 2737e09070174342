//! How the lists and maps of built-in kinds merge: the marks that the API definitions of Kubernetes carry and the
//! published schemas leave out.

use serde_json::{Map, Value, json};

use super::Schema;
use super::node::{ListKind, Merge, Node};

/// Keys of a list in server-side apply and in strategic merge patches, which differ for ports.
struct Keyed {
    owner: &'static str,
    field: &'static str,
    apply: &'static [&'static str],
    merge: &'static str,
    retain_keys: bool,
}

const fn keyed(owner: &'static str, field: &'static str, key: &'static [&'static str]) -> Keyed {
    Keyed { owner, field, apply: key, merge: key[0], retain_keys: false }
}

/// A list that has keys for apply only; a strategic merge patch replaces it.
const fn apply_only(owner: &'static str, field: &'static str, key: &'static [&'static str]) -> Keyed {
    Keyed { owner, field, apply: key, merge: "", retain_keys: false }
}

/// A list that a strategic merge patch merges and that apply takes as a whole.
const fn merge_only(owner: &'static str, field: &'static str, merge: &'static str) -> Keyed {
    Keyed { owner, field, apply: &[], merge, retain_keys: false }
}

const KEYED: &[Keyed] = &[
    keyed("ObjectMeta", "ownerReferences", &["uid"]),
    keyed("PodSpec", "containers", &["name"]),
    keyed("PodSpec", "initContainers", &["name"]),
    keyed("PodSpec", "ephemeralContainers", &["name"]),
    Keyed { owner: "PodSpec", field: "volumes", apply: &["name"], merge: "name", retain_keys: true },
    keyed("PodSpec", "imagePullSecrets", &["name"]),
    keyed("PodSpec", "hostAliases", &["ip"]),
    keyed("PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    Keyed { owner: "PodSpec", field: "resourceClaims", apply: &["name"], merge: "name", retain_keys: true },
    apply_only("PodSpec", "schedulingGates", &["name"]),
    keyed("PodStatus", "conditions", &["type"]),
    keyed("PodStatus", "podIPs", &["ip"]),
    keyed("PodStatus", "hostIPs", &["ip"]),
    Keyed {
        owner: "PodStatus",
        field: "resourceClaimStatuses",
        apply: &["name"],
        merge: "name",
        retain_keys: true,
    },
    keyed("Container", "env", &["name"]),
    keyed("Container", "ports", &["containerPort", "protocol"]),
    keyed("Container", "volumeMounts", &["mountPath"]),
    keyed("Container", "volumeDevices", &["devicePath"]),
    keyed("EphemeralContainer", "env", &["name"]),
    keyed("EphemeralContainer", "ports", &["containerPort", "protocol"]),
    keyed("EphemeralContainer", "volumeMounts", &["mountPath"]),
    keyed("EphemeralContainer", "volumeDevices", &["devicePath"]),
    apply_only("ResourceRequirements", "claims", &["name"]),
    keyed("ServiceSpec", "ports", &["port", "protocol"]),
    keyed("ServiceStatus", "conditions", &["type"]),
    keyed("ServiceAccount", "secrets", &["name"]),
    merge_only("ServiceAccount", "imagePullSecrets", "name"),
    merge_only("NodeSpec", "taints", "key"),
    keyed("NodeStatus", "conditions", &["type"]),
    keyed("NodeStatus", "addresses", &["type"]),
    keyed("NamespaceStatus", "conditions", &["type"]),
    keyed("PersistentVolumeClaimStatus", "conditions", &["type"]),
    keyed("StatefulSetStatus", "conditions", &["type"]),
    keyed("DeploymentStatus", "conditions", &["type"]),
    keyed("ReplicaSetStatus", "conditions", &["type"]),
    keyed("DaemonSetStatus", "conditions", &["type"]),
    keyed("ReplicationControllerStatus", "conditions", &["type"]),
    merge_only("JobStatus", "conditions", "type"),
    keyed("PodDisruptionBudgetStatus", "conditions", &["type"]),
    apply_only("CustomResourceDefinitionStatus", "conditions", &["type"]),
    apply_only("HorizontalPodAutoscalerStatus", "conditions", &["type"]),
];

/// Lists of scalars that are sets, in both ways of merging.
const SETS: &[(&str, &str)] = &[("ObjectMeta", "finalizers")];

/// Lists of scalars that are sets in server-side apply only.
const APPLY_SETS: &[(&str, &str)] = &[
    ("NodeSpec", "podCIDRs"),
    ("PodFailurePolicyOnExitCodesRequirement", "values"),
    ("CSIDriverSpec", "volumeLifecycleModes"),
];

/// Whole definitions that server-side apply owns as one value.
const ATOMIC: &[&str] = &[
    "ConfigMapKeySelector",
    "CrossVersionObjectReference",
    "EndpointAddress",
    "EndpointPort",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "OwnerReference",
    "ResourceFieldSelector",
    "RoleRef",
    "ScopeSelector",
    "SecretKeySelector",
    "SecretReference",
    "Subject",
    "TopologySelectorTerm",
    "TypedLocalObjectReference",
];

/// Maps that server-side apply owns as one value.
const ATOMIC_MAPS: &[(&str, &str)] =
    &[("PodSpec", "nodeSelector"), ("ServiceSpec", "selector"), ("ReplicationControllerSpec", "selector")];

fn find(owner: &str, field: &str) -> Option<&'static Keyed> {
    KEYED.iter().find(|keyed| keyed.owner == owner && keyed.field == field)
}

pub(super) fn list_kind(owner: &str, field: &str) -> ListKind {
    if SETS.contains(&(owner, field)) || APPLY_SETS.contains(&(owner, field)) {
        return ListKind::Set;
    }
    match find(owner, field) {
        Some(keyed) if !keyed.apply.is_empty() => {
            ListKind::Map(keyed.apply.iter().map(|key| (*key).to_owned()).collect())
        }
        _ => ListKind::Atomic,
    }
}

pub(super) fn merge(owner: &str, field: &str) -> Merge {
    if SETS.contains(&(owner, field)) {
        return Merge { key: Some(""), retain_keys: false };
    }
    match find(owner, field) {
        Some(keyed) if !keyed.merge.is_empty() => {
            Merge { key: Some(keyed.merge), retain_keys: keyed.retain_keys }
        }
        _ => Merge::default(),
    }
}

pub(super) fn atomic(owner: &str, field: &str) -> bool {
    (field.is_empty() && ATOMIC.contains(&owner)) || ATOMIC_MAPS.contains(&(owner, field))
}

/// A field's tree with marks that belong to the field and not to the definition it refers to.
pub(super) fn mark(owner: &str, field: &str, child: Schema) -> Schema {
    if !(owner == "DeploymentSpec" && field == "strategy") {
        return child;
    }
    let node = child.node();
    Node {
        kind: node.kind,
        builtin: true,
        properties: node.properties.clone(),
        merge: Merge { key: None, retain_keys: true },
        ..Node::default()
    }
    .into()
}

/// The marks as the extensions that API documents carry.
pub(crate) fn marks(owner: &str, field: &str) -> Map<String, Value> {
    let mut found = Map::new();
    let mut add = |name: &str, value: Value| drop(found.insert(format!("x-kubernetes-{name}"), value));
    if atomic(owner, field) {
        add("map-type", json!("atomic"));
    }
    match list_kind(owner, field) {
        ListKind::Atomic => {}
        ListKind::Set => add("list-type", json!("set")),
        ListKind::Map(keys) => {
            add("list-type", json!("map"));
            add("list-map-keys", json!(keys));
        }
    }
    let merge = merge(owner, field);
    let retain_keys = merge.retain_keys || (owner, field) == ("DeploymentSpec", "strategy");
    match merge.key {
        Some(key) => {
            add("patch-strategy", json!(if retain_keys { "merge,retainKeys" } else { "merge" }));
            if !key.is_empty() {
                add("patch-merge-key", json!(key));
            }
        }
        None if retain_keys => add("patch-strategy", json!("retainKeys")),
        None => {}
    }
    found
}
