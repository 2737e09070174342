use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::sandbox::object::Gvk;
use crate::sandbox::object::schema::tests::any_json;

#[test]
fn a_test_for_null_passes_where_nothing_is() {
    let object = json!({"metadata": {"name": "a"}});
    let patch = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": null},
        {"op": "add", "path": "/metadata/finalizers", "value": ["x"]},
    ]);
    let patched = json_patch(&object, &patch).unwrap();
    assert_eq!(patched["metadata"]["finalizers"], json!(["x"]));
    let error = json_patch(&patched, &patch).unwrap_err();
    assert_eq!(error.code(), 422);
    assert_eq!(error.status()["message"], "the server rejected our request due to an error in our request");
}

#[test]
fn json_patches_that_do_not_fit() {
    let object = json!({"a": {"b": 1}});
    let cases = [
        (json!([{"op": "remove", "path": "/x"}]), 422),
        (json!([{"op": "replace", "path": "/x", "value": 1}]), 422),
        (json!([{"op": "add", "path": "/x/y", "value": 1}]), 422),
        (json!([{"op": "test", "path": "/a/b", "value": null}]), 422),
        (json!([{"op": "jump", "path": "/a"}]), 422),
        (json!({"a": 1}), 400),
    ];
    for (patch, code) in cases {
        assert_eq!(json_patch(&object, &patch).unwrap_err().code(), code, "{patch}");
    }
}

#[test]
fn a_merge_patch_is_an_object() {
    assert_eq!(merge_patch(&json!({}), &json!([])).unwrap_err().code(), 400);
}

fn pod_patch(pod: Value, patch: Value) -> Result<Value, PatchError> {
    strategic_patch(&pod, &patch, &Schema::builtin(&Gvk::gvk("", "v1", "Pod")).unwrap())
}

#[test]
fn lists_merge_by_their_keys() {
    let cases = [
        // Items with keys merge, items without are added.
        (
            json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}, {"name": "b"}]}),
            json!({"containers": [
                {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                {"name": "b"},
            ]}),
        ),
        // Ports have one key here and two in server-side apply.
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "protocol": "TCP"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "name": "pg"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "protocol": "TCP", "name": "pg"}]}]}),
        ),
        // Deleting and replacing.
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        (
            json!({"securityContext": {"fsGroup": 1, "runAsUser": 2}}),
            json!({"securityContext": {"$patch": "replace", "runAsUser": 3}}),
            json!({"securityContext": {"runAsUser": 3}}),
        ),
        // The order that the client saw; the server's own item keeps its place.
        (
            json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "2"}]}),
            json!({"containers": [{"name": "server"}, {"name": "b", "image": "2"}, {"name": "a"}]}),
        ),
        // Only the keys named stay.
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]}),
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
        ),
        // A list without keys is replaced.
        (
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        ),
        // Nulls and directives for what is not there leave nothing.
        (
            json!({}),
            json!({"nodeName": null, "containers": [{"name": "a", "image": null}, {"name": "b", "$patch": "delete"}]}),
            json!({"containers": [{"name": "a"}]}),
        ),
    ];
    for (before, patch, after) in cases {
        let patched = pod_patch(json!({"spec": before}), json!({"spec": patch})).unwrap();
        assert_eq!(patched["spec"], after, "{patch}");
    }
}

#[test]
fn sets_of_scalars_merge() {
    let pod = json!({"metadata": {"finalizers": ["a", "b"]}});
    let added = pod_patch(pod.clone(), json!({"metadata": {"finalizers": ["b", "c"]}})).unwrap();
    assert_eq!(added["metadata"]["finalizers"], json!(["a", "b", "c"]));
    let removed = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
    assert_eq!(pod_patch(pod, removed).unwrap()["metadata"]["finalizers"], json!(["b"]));
}

#[test]
fn bad_strategic_patches_are_refused() {
    let pod = json!({"spec": {"containers": [{"name": "a"}]}});
    for patch in [
        json!({"spec": {"containers": [{"image": "nameless"}]}}),
        json!({"spec": {"containers": [{"name": "a", "$patch": "explode"}]}}),
        json!({"spec": {"$patch": "explode"}}),
        json!("text"),
    ] {
        assert_eq!(pod_patch(pod.clone(), patch.clone()).unwrap_err().code(), 400, "{patch}");
    }
}

#[test]
fn a_null_within_a_list_is_a_value() {
    let patch = json!({"a": [{"a": null}]});
    assert_eq!(merge_patch(&json!({}), &patch).unwrap(), patch);
}

fn fields() -> impl Strategy<Value = Value> {
    any_json().prop_filter("an object", Value::is_object)
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().any(has_null),
        Value::Array(items) => items.iter().any(has_null),
        _ => false,
    }
}

proptest! {
    #[test]
    fn an_empty_merge_patch_changes_nothing(object in fields()) {
        prop_assert_eq!(merge_patch(&object, &json!({})).unwrap(), object);
    }

    #[test]
    fn a_merge_patch_twice_is_once(object in fields(), patch in fields()) {
        let once = merge_patch(&object, &patch).unwrap();
        prop_assert_eq!(merge_patch(&once, &patch).unwrap(), once);
    }

    #[test]
    fn merging_an_object_into_nothing_gives_it_back(object in fields().prop_filter("no nulls", |value| !has_null(value))) {
        prop_assert_eq!(merge_patch(&json!({}), &object).unwrap(), object);
    }

    #[test]
    fn without_a_schema_strategic_patches_are_merge_patches(
        object in fields(),
        patch in fields().prop_filter("no nulls", |value| !has_null(value)),
        gone in "[a-e]",
    ) {
        let mut patch = patch;
        patch[gone] = Value::Null;
        let merged = merge_patch(&object, &patch).unwrap();
        prop_assert_eq!(strategic_patch(&object, &patch, &Schema::any()).unwrap(), merged);
    }
}
