//! Checks of `metadata`, which all kinds share.

use serde_json::{Map, Value, json};

use super::{names, text};
use crate::sandbox::object::{Cause, FieldError, Gvk};

/// All annotations of an object together, keys and values.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// How a kind's names are formed.
fn name_form(gvk: &Gvk) -> fn(&str) -> Vec<String> {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Namespace") => names::label,
        ("", "Service") => names::label_1035,
        ("rbac.authorization.k8s.io", _) => names::path_segment,
        _ => names::subdomain,
    }
}

/// Checks the metadata of a new object.
pub(super) fn create(gvk: &Gvk, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let form = name_form(gvk);
    let prefix = text(object, "/metadata/generateName");
    if !prefix.is_empty() {
        // The server adds to it, so that it may end where a name may not.
        let probe = format!("{}x", prefix.trim_end_matches('-'));
        for problem in form(&probe) {
            errors.push(FieldError::invalid("metadata.generateName", &json!(prefix), &problem));
        }
    }
    let name = text(object, "/metadata/name");
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        for problem in form(name) {
            errors.push(FieldError::invalid("metadata.name", &json!(name), &problem));
        }
    }
    common(object, &mut errors);
    errors
}

/// Checks a change of an object's metadata.
pub(super) fn update(gvk: &Gvk, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    const KEPT: [&str; 6] =
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];
    for field in KEPT {
        let at = |object: &Value| object.pointer(&format!("/metadata/{field}")).cloned().unwrap_or(json!(""));
        if at(new) != at(old) {
            let value = at(new);
            errors.push(FieldError::invalid(format!("metadata.{field}"), &value, "field is immutable"));
        }
    }
    if !super::known(gvk) && text(new, "/metadata/resourceVersion").is_empty() {
        let detail = "must be specified for an update";
        errors.push(FieldError::invalid("metadata.resourceVersion", &json!(0), detail));
    }
    if !text(old, "/metadata/deletionTimestamp").is_empty() {
        let before = texts(old, "/metadata/finalizers");
        let added: Vec<String> = texts(new, "/metadata/finalizers")
            .into_iter()
            .filter(|name| !before.contains(name))
            .map(|name| format!("{name:?}"))
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", &detail));
        }
    }
    common(new, &mut errors);
    errors
}

fn texts<'a>(object: &'a Value, pointer: &str) -> Vec<&'a str> {
    let list = object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect()
}

fn common(object: &Value, errors: &mut Vec<FieldError>) {
    if let Some(map) = object.pointer("/metadata/labels").and_then(Value::as_object) {
        labels(map, "metadata.labels", errors);
    }
    if let Some(map) = object.pointer("/metadata/annotations").and_then(Value::as_object) {
        annotations(map, errors);
    }
    let finalizers = texts(object, "/metadata/finalizers");
    for name in &finalizers {
        for problem in names::qualified(name) {
            errors.push(FieldError::invalid("metadata.finalizers", &json!(name), &problem));
        }
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        let detail = "finalizer foregroundDeletion and orphan cannot be both set";
        errors.push(FieldError::invalid("metadata.finalizers", &json!(finalizers), detail));
    }
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owner_references(owners.map(Vec::as_slice).unwrap_or_default(), errors);
}

/// Checks labels; also those of pod templates.
pub(super) fn labels(labels: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in labels {
        for problem in names::qualified(key) {
            errors.push(FieldError::invalid(path, &json!(key), &problem));
        }
        for problem in names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(path, value, &problem));
        }
    }
}

fn annotations(map: &Map<String, Value>, errors: &mut Vec<FieldError>) {
    let mut size = 0;
    for (key, value) in map {
        for problem in names::qualified(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", &json!(key), &problem));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        let detail = format!("may not be more than {ANNOTATIONS_MAX} bytes");
        errors.push(FieldError::new("metadata.annotations", Cause::TooLong, None, &detail));
    }
}

fn owner_references(owners: &[Value], errors: &mut Vec<FieldError>) {
    let path = "metadata.ownerReferences";
    let mut first = String::new();
    for owner in owners {
        for field in ["apiVersion", "kind", "name", "uid"] {
            let value = owner.get(field).and_then(Value::as_str).unwrap_or_default();
            if value.is_empty() {
                let detail =
                    if field == "apiVersion" { "version must not be empty" } else { "must not be empty" };
                let error = FieldError::invalid(format!("{path}.{field}"), &json!(""), detail);
                errors.push(error);
            }
        }
        if text(owner, "/apiVersion") == "v1" && text(owner, "/kind") == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, owner, detail));
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", text(owner, "/kind"), text(owner, "/name"));
            if first.is_empty() {
                first = this;
                continue;
            }
            let detail = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
            );
            errors.push(FieldError::invalid(path, &json!(owners), &detail));
        }
    }
}
