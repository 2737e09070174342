//! The schemas of the built-in kinds, read from the published API definitions.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization,
    autoscaling::v1 as autoscaling, autoscaling::v2 as autoscaling_v2, batch::v1 as batch,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling,
    storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value};

use super::build::{members, texts};
use super::node::{MICRO_TIME, Node, QUANTITY, Type};
use super::{Schema, lists};
use crate::sandbox::object::Gvk;

const REFERENCE: &str = "#/components/schemas/";

/// Trees of definitions and of kinds, made when first asked for.
static TREES: Mutex<Option<HashMap<String, Schema>>> = Mutex::new(None);

macro_rules! kinds {
    ($($group:literal $version:literal : $module:ident [$($kind:ident)*];)*) => {
        /// Notes a built-in kind's definitions in `generator`; its own definition's name, or None for other kinds.
        fn describe(gvk: &Gvk, generator: &mut SchemaGenerator) -> Option<String> {
            match (gvk.group.as_str(), gvk.version.as_str(), gvk.kind.as_str()) {
                $($(($group, $version, stringify!($kind)) => {
                    Some(reference(generator.subschema_for::<$module::$kind>().as_value()))
                })*)*
                _ => None,
            }
        }

        #[cfg(test)]
        pub(super) fn all() -> Vec<Gvk> {
            vec![$($(Gvk::gvk($group, $version, stringify!($kind)),)*)*]
        }
    };
}

kinds! {
    "" "v1": core [
        Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod
        PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount
    ];
    "apps" "v1": apps [ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet];
    "authentication.k8s.io" "v1": authentication [SelfSubjectReview TokenRequest TokenReview];
    "authorization.k8s.io" "v1": authorization [
        LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
    ];
    "autoscaling" "v1": autoscaling [Scale];
    "autoscaling" "v2": autoscaling_v2 [HorizontalPodAutoscaler];
    "batch" "v1": batch [CronJob Job];
    "coordination.k8s.io" "v1": coordination [Lease];
    "discovery.k8s.io" "v1": discovery [EndpointSlice];
    "events.k8s.io" "v1": events [Event];
    "networking.k8s.io" "v1": networking [Ingress IngressClass NetworkPolicy];
    "policy" "v1": policy [Eviction PodDisruptionBudget];
    "rbac.authorization.k8s.io" "v1": rbac [ClusterRole ClusterRoleBinding Role RoleBinding];
    "scheduling.k8s.io" "v1": scheduling [PriorityClass];
    "storage.k8s.io" "v1": storage [CSIDriver CSINode StorageClass VolumeAttachment];
    "apiextensions.k8s.io" "v1": apiextensions [CustomResourceDefinition];
}

fn generator() -> SchemaGenerator {
    SchemaGenerator::new(SchemaSettings::openapi3())
}

/// The name of the definition that a reference leads to.
fn reference(schema: &Value) -> String {
    let text = schema.get("$ref").and_then(Value::as_str).unwrap_or_default();
    text.strip_prefix(REFERENCE).unwrap_or(text).to_owned()
}

/// A built-in kind's definition name and all definitions that it needs, with their descriptions.
pub(crate) fn definitions(gvk: &Gvk) -> Option<(String, Map<String, Value>)> {
    let mut generator = generator();
    let name = describe(gvk, &mut generator)?;
    Some((name, generator.take_definitions(false)))
}

/// The tree of a built-in kind.
pub(super) fn schema(gvk: &Gvk) -> Option<Schema> {
    let key = format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind);
    let mut guard = TREES.lock().unwrap_or_else(PoisonError::into_inner);
    let trees = guard.get_or_insert_default();
    if let Some(known) = trees.get(&key) {
        return Some(known.clone());
    }
    let (name, definitions) = definitions(gvk)?;
    let schema = definition(&name, &definitions, trees);
    trees.insert(key, schema.clone());
    Some(schema)
}

/// The tree of `ObjectMeta`.
pub(super) fn object_meta() -> Option<Schema> {
    let mut guard = TREES.lock().unwrap_or_else(PoisonError::into_inner);
    let trees = guard.get_or_insert_default();
    let mut generator = generator();
    let name = reference(generator.subschema_for::<meta::v1::ObjectMeta>().as_value());
    if let Some(known) = trees.get(&name) {
        return Some(known.clone());
    }
    Some(definition(&name, &generator.take_definitions(false), trees))
}

/// The tree of one definition, shared by all that refer to it.
fn definition(name: &str, all: &Map<String, Value>, trees: &mut HashMap<String, Schema>) -> Schema {
    if let Some(known) = trees.get(name) {
        return known.clone();
    }
    // A definition met again while its own tree is being made is recursive: below that, anything goes.
    trees.insert(name.to_owned(), Node { open: true, builtin: true, ..Node::default() }.into());
    let short = name.rsplit('.').next().unwrap_or(name);
    let schema: Schema = match all.get(name) {
        Some(json) => node(short, "", json, all, trees).into(),
        None => Node { open: true, builtin: true, ..Node::default() }.into(),
    };
    trees.insert(name.to_owned(), schema.clone());
    schema
}

/// The tree of a schema that stands in definition `owner` as `field` (empty: the definition itself).
fn inline(
    owner: &str,
    field: &str,
    json: &Value,
    all: &Map<String, Value>,
    trees: &mut HashMap<String, Schema>,
) -> Schema {
    if json.get("$ref").is_some() {
        return definition(&reference(json), all, trees);
    }
    node(owner, field, json, all, trees).into()
}

fn node(
    owner: &str,
    field: &str,
    json: &Value,
    all: &Map<String, Value>,
    trees: &mut HashMap<String, Schema>,
) -> Node {
    let properties: BTreeMap<String, Schema> = members(json.get("properties"))
        .map(|(name, child)| {
            let child = inline(owner, name, child, all, trees);
            (name.clone(), lists::mark(owner, name, child))
        })
        .collect();
    let values = json
        .get("additionalProperties")
        .filter(|child| child.is_object())
        .map(|child| inline("", "", child, all, trees));
    let items = json.get("items").map(|child| inline("", "", child, all, trees));
    let kind = json.get("type").and_then(Value::as_str).and_then(Type::parse);
    Node {
        open: properties.is_empty() && values.is_none() && matches!(kind, None | Some(Type::Object)),
        builtin: true,
        kind,
        format: match owner {
            "Quantity" => Some(QUANTITY.to_owned()),
            "MicroTime" => Some(MICRO_TIME.to_owned()),
            _ => json.get("format").and_then(Value::as_str).map(str::to_owned),
        },
        int_or_string: json.get("x-kubernetes-int-or-string").and_then(Value::as_bool).unwrap_or_default(),
        properties,
        values,
        items,
        list: lists::list_kind(owner, field),
        atomic: lists::atomic(owner, field),
        merge: lists::merge(owner, field),
        required: texts(json.get("required")),
        ..Node::default()
    }
}
