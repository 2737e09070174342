//! Clients for the kinds that plans name.

use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, TypeMeta};
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

/// An object of a list or a watch as plans read it. Of a list, an API server says once what all are; a plan that looks for
/// that in each would write every object anew after every start.
pub fn listed(kind: Kind, mut object: DynamicObject) -> Value {
    let types = || TypeMeta { api_version: kind.api_version(), kind: kind.as_str().to_owned() };
    object.types.get_or_insert_with(types);
    plain(object)
}

/// The object as plans read it, without the bookkeeping of field managers, which is often half of it.
pub fn plain(mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    serde_json::to_value(&object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::covers;
    use serde_json::json;

    #[test]
    fn what_a_list_holds_is_what_was_applied() {
        let applied = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "a" }, "spec": { "replicas": 3 } });
        let mut item = applied.clone();
        for said_once in ["apiVersion", "kind"] {
            item.as_object_mut().unwrap().remove(said_once);
        }
        let object = |value: &Value| serde_json::from_value::<DynamicObject>(value.clone()).unwrap();
        assert!(!covers(&plain(object(&item)), &applied));
        assert!(covers(&listed(Kind::StatefulSet, object(&item)), &applied));
        assert!(covers(&listed(Kind::StatefulSet, object(&applied)), &applied));
    }
}
