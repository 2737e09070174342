//! Writes that happen only where something differs.

use std::fmt::Debug;

use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::error::{ReconcileError, absent_is_fine};
use super::meta::{name, uid};

/// The merge patch that makes `new` of `old`, or nothing where they are equal.
pub(super) fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        if let Some(inner) = merge_patch(old.get(key).unwrap_or(&Value::Null), value) {
            patch.insert(key.clone(), inner);
        }
    }
    Some(Value::Object(patch))
}

/// Brings the status to `new`, if it is not that already; a missing object is left missing.
pub(super) async fn status<K, S>(
    api: &Api<K>,
    object: &K,
    old: Option<&S>,
    new: &S,
) -> Result<bool, ReconcileError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let old = serde_json::to_value(old)?;
    let Some(patch) = merge_patch(&old, &serde_json::to_value(new)?) else { return Ok(false) };
    let body = json!({"metadata": {"uid": uid(object.meta())}, "status": patch});
    absent_is_fine(
        api.patch_status(name(object.meta()), &PatchParams::default(), &Patch::Merge(&body)).await,
    )?;
    Ok(true)
}

/// Merges `patch` into the very object that was seen, or conflicts where it has changed since.
pub(super) async fn merge<K>(api: &Api<K>, object: &K, mut patch: Value) -> Result<(), ReconcileError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    patch["metadata"]["uid"] = json!(uid(object.meta()));
    patch["metadata"]["resourceVersion"] = json!(object.meta().resource_version);
    absent_is_fine(api.patch(name(object.meta()), &PatchParams::default(), &Patch::Merge(&patch)).await)?;
    Ok(())
}

/// Parameters that delete only the very object that was seen, never its successor of the same name.
pub(super) fn delete_only<K: Resource>(object: &K) -> DeleteParams {
    let uid = object.meta().uid.clone();
    DeleteParams { preconditions: Some(Preconditions { uid, resource_version: None }), ..Default::default() }
}

/// Deletes the very object that was seen; one that has gone is fine.
pub(super) async fn delete<K>(api: &Api<K>, object: &K) -> Result<(), ReconcileError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    absent_is_fine(api.delete(name(object.meta()), &delete_only(object)).await)?;
    Ok(())
}

/// The metadata patch that takes one finalizer away.
pub(super) fn without_finalizer<K: Resource>(object: &K, finalizer: &str) -> Value {
    let kept: Vec<&String> =
        object.meta().finalizers.iter().flatten().filter(|each| *each != finalizer).collect();
    json!({"metadata": {"finalizers": kept}})
}

/// The metadata patch that adds one finalizer.
pub(super) fn with_finalizer<K: Resource>(object: &K, finalizer: &str) -> Value {
    let mut all: Vec<&str> = object.meta().finalizers.iter().flatten().map(String::as_str).collect();
    all.push(finalizer);
    json!({"metadata": {"finalizers": all}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_patch_holds_only_what_differs() {
        for (old, new, patch) in [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null}))),
            (json!(null), json!({"a": 1}), Some(json!({"a": 1}))),
            (json!({"a": {"x": 1, "y": 2}}), json!({"a": {"x": 1, "y": 3}}), Some(json!({"a": {"y": 3}}))),
            (json!({"l": [1, 2]}), json!({"l": [1]}), Some(json!({"l": [1]}))),
        ] {
            assert_eq!(merge_patch(&old, &new), patch, "{old} to {new}");
        }
    }
}
