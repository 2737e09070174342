//! Clients for the kinds that plans name.

use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use serde_json::Value;

use crate::plan::Kind;

/// How the client finds a kind.
pub fn api_resource(kind: Kind) -> ApiResource {
    ApiResource {
        group: kind.group().to_owned(),
        version: "v1".to_owned(),
        api_version: kind.api_version(),
        kind: kind.as_str().to_owned(),
        plural: kind.plural().to_owned(),
    }
}

/// Objects of a kind in one namespace.
pub fn namespaced(client: &Client, namespace: &str, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &api_resource(kind))
}

/// Objects of a kind in one namespace, or in all.
pub fn scoped(client: &Client, namespace: Option<&str>, kind: Kind) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => namespaced(client, namespace, kind),
        None => Api::all_with(client.clone(), &api_resource(kind)),
    }
}

/// The object as plans read it, without the bookkeeping of field managers, which is often half of it.
pub fn plain(mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    serde_json::to_value(&object).unwrap_or_default()
}
