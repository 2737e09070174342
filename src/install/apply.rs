//! Putting an installation's objects into a cluster.

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

/// What an apply has made of an object, or would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// It was another.
    Configured,
    /// It was so already.
    Unchanged,
}

impl Change {
    /// As kubectl says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Change::Created => "created",
            Change::Configured => "configured",
            Change::Unchanged => "unchanged",
        }
    }
}

/// Makes one object what it is to be, whatever its kind, in the name of a field manager.
///
/// # Errors
/// Where it is none, or the API server refuses it.
pub async fn apply(client: &Client, manager: &str, object: Value) -> Result<(), kube::Error> {
    let object: DynamicObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    submit(client, &PatchParams::apply(manager).force(), &object).await.map(drop)
}

/// The same with a choice of how, for example only to see what would come of it; returns the object as it is then.
///
/// # Errors
/// Where the API server refuses it.
pub async fn submit(
    client: &Client,
    params: &PatchParams,
    object: &DynamicObject,
) -> Result<DynamicObject, kube::Error> {
    api_of(client, object).patch(&object.name_any(), params, &Patch::Apply(object)).await
}

/// Where an object is.
pub fn api_of(client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
    let resource = resource(&object.types.clone().unwrap_or_default());
    match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// The resource of a kind.
pub fn resource(types: &TypeMeta) -> ApiResource {
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind))
}

/// An object in one word, as kubectl names it: `deployment.apps/dbctl-controller`.
pub fn resource_name(resource: &ApiResource, name: &str) -> String {
    let dot = if resource.group.is_empty() { "" } else { "." };
    format!("{}{dot}{}/{name}", resource.kind.to_lowercase(), resource.group)
}

/// What became of an object, by its content before and after. What others say of it, and who has which field, is none.
pub fn change(before: Option<&DynamicObject>, after: &DynamicObject) -> Change {
    match before {
        None => Change::Created,
        Some(before) if content(before) == content(after) => Change::Unchanged,
        Some(_) => Change::Configured,
    }
}

fn content(object: &DynamicObject) -> DynamicObject {
    let mut object = object.clone();
    let metadata = &mut object.metadata;
    metadata.managed_fields = None;
    metadata.resource_version = None;
    metadata.generation = None;
    // A list of objects does not say of what.
    object.types = None;
    if let Some(data) = object.data.as_object_mut() {
        data.remove("status");
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(metadata: Value, spec: &str, status: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": { "a": spec },
            "status": { "b": status },
        }))
        .unwrap()
    }

    #[test]
    fn what_others_write_is_no_change() {
        let before = object(json!({ "name": "x", "resourceVersion": "1", "labels": { "l": "1" } }), "1", "1");
        let table = [
            (
                object(
                    json!({ "name": "x", "resourceVersion": "2", "generation": 3, "labels": { "l": "1" } }),
                    "1",
                    "2",
                ),
                Change::Unchanged,
            ),
            (object(json!({ "name": "x", "labels": { "l": "2" } }), "1", "1"), Change::Configured),
            (object(json!({ "name": "x", "labels": { "l": "1" } }), "2", "1"), Change::Configured),
        ];
        for (after, wanted) in table {
            assert_eq!(change(Some(&before), &after), wanted, "{after:?}");
        }
        assert_eq!(change(None, &before), Change::Created);
    }

    #[test]
    fn names_are_kubectls() {
        for (api_version, kind, wanted) in [
            ("v1", "Namespace", "namespace/x"),
            ("apps/v1", "Deployment", "deployment.apps/x"),
            ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterrole.rbac.authorization.k8s.io/x"),
        ] {
            let types = TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() };
            assert_eq!(resource_name(&resource(&types), "x"), wanted);
        }
        // Plurals are what the API is asked by.
        let types =
            TypeMeta { api_version: "networking.k8s.io/v1".to_owned(), kind: "NetworkPolicy".to_owned() };
        assert_eq!(resource(&types).plural, "networkpolicies");
    }
}
