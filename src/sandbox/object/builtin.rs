//! Defaults, preparation and checks of the built-in kinds.

mod defaults;
mod definition;
mod event;
mod metadata;
pub(crate) mod names;
mod nested;
mod pod_checks;
mod pods;
mod prepare;
pub(crate) mod server_set;
mod storage;
mod structure;
#[cfg(test)]
mod tests;
mod update;
mod various;
mod workloads;

use serde_json::Value;

use super::schema::Schema;
use super::{Cause, FieldError, Gvk};

/// Whether this is a built-in kind that this module knows.
pub fn known(gvk: &Gvk) -> bool {
    matches!(
        (gvk.group.as_str(), gvk.version.as_str()),
        ("", "v1")
            | ("apps" | "batch" | "policy" | "autoscaling", "v1")
            | ("autoscaling", "v2")
            | (
                "apiextensions.k8s.io"
                    | "authentication.k8s.io"
                    | "authorization.k8s.io"
                    | "coordination.k8s.io"
                    | "discovery.k8s.io"
                    | "events.k8s.io"
                    | "networking.k8s.io"
                    | "rbac.authorization.k8s.io"
                    | "scheduling.k8s.io"
                    | "storage.k8s.io",
                "v1"
            )
    )
}

/// Whether the kind has `metadata.generation`.
pub fn has_generation(gvk: &Gvk) -> bool {
    prepare::has_generation(gvk)
}

/// Whether the kind has a status that is written apart.
pub fn has_status(gvk: &Gvk) -> bool {
    prepare::has_status(gvk)
}

/// Fills in the defaults of a built-in kind. Doing it twice changes nothing more.
pub fn default(gvk: &Gvk, object: &mut Value) {
    if (gvk.group.as_str(), gvk.kind.as_str()) == ("", "Secret") {
        prepare::fold_string_data(object);
    }
    defaults::fill(gvk, object);
}

/// What the server sets or clears when an object of a built-in kind is made: status reset to its first form,
/// `stringData` folded, a Job's selector made from `metadata.uid` (so name, namespace and uid must be set before),
/// a pod's service account and tolerations. Kinds with a generation get `metadata.generation` 1.
pub fn prepare_create(gvk: &Gvk, object: &mut Value) {
    prepare::create(gvk, object);
}

/// What the server keeps when an object of a built-in kind is changed: the status where a kind has a status
/// subresource, a Service's addresses, and `metadata.generation`, one up when anything but metadata and status
/// changed.
pub fn prepare_update(gvk: &Gvk, new: &mut Value, old: &Value) {
    prepare::update(gvk, new, old);
}

/// What the server keeps when the status subresource is written: everything but the status (and managedFields).
/// It holds for custom resources too.
pub fn prepare_status_update(gvk: &Gvk, new: &mut Value, old: &Value) {
    prepare::status_update(gvk, new, old);
}

/// Checks a new object of a built-in kind, metadata included. Values of the wrong type should have been refused while
/// decoding ([`super::schema::Schema::decode`]); if one is left, nothing else is looked at.
pub fn validate_create(gvk: &Gvk, object: &Value) -> Vec<FieldError> {
    if let Some(error) = wrong_type(gvk, object) {
        return vec![error];
    }
    let mut errors = metadata::create(gvk, object);
    check(gvk, object, &mut errors);
    errors
}

fn wrong_type(gvk: &Gvk, object: &Value) -> Option<FieldError> {
    let problem = Schema::builtin(gvk)?.decode(gvk, object).err()?;
    Some(FieldError::new("<nil>", Cause::TypeInvalid, None, &problem))
}

/// Checks a change of an object of a built-in kind, metadata included.
pub fn validate_update(gvk: &Gvk, new: &Value, old: &Value) -> Vec<FieldError> {
    if let Some(error) = wrong_type(gvk, new) {
        return vec![error];
    }
    let mut errors = metadata::update(gvk, new, old);
    update::check(gvk, new, old, &mut errors);
    // What was let in once is not judged again.
    let same_spec = new.get("spec").is_some() && new.get("spec") == old.get("spec");
    if errors.is_empty() && !same_spec {
        check(gvk, new, &mut errors);
    }
    errors
}

/// Checks a change of an object's status through its subresource.
pub fn validate_status_update(gvk: &Gvk, new: &Value, old: &Value) -> Vec<FieldError> {
    match wrong_type(gvk, new) {
        Some(error) => vec![error],
        None => metadata::update(gvk, new, old),
    }
}

/// Checks the metadata of a new object of any kind; custom resources are checked with this and their schema.
pub fn metadata(gvk: &Gvk, object: &Value) -> Vec<FieldError> {
    metadata::create(gvk, object)
}

/// Checks a change of the metadata of an object of any kind. A custom resource's new form must name the
/// `resourceVersion` that it replaces (a patch keeps the stored one).
pub fn metadata_update(gvk: &Gvk, new: &Value, old: &Value) -> Vec<FieldError> {
    metadata::update(gvk, new, old)
}

/// The same object in another version or group of its kind (an Event of `v1` and of `events.k8s.io/v1`); anything
/// else is returned as it is.
pub fn convert(object: &Value, to: &Gvk) -> Value {
    match (to.group.as_str(), to.kind.as_str()) {
        ("" | "events.k8s.io", "Event") => event::convert(object, &to.group),
        _ => object.clone(),
    }
}

/// The checks of each kind that hold for new and for changed objects.
fn check(gvk: &Gvk, object: &Value, errors: &mut Vec<FieldError>) {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod_checks::pod(object, errors),
        ("", "Service") => various::service(object, errors),
        ("", "ConfigMap") => various::config_map(object, errors),
        ("", "Secret") => various::secret(object, errors),
        ("", "PersistentVolumeClaim") => storage::claim(&object["spec"], "spec", errors),
        ("", "PersistentVolume") => storage::volume(object, errors),
        ("", "Event") => various::core_event(object, errors),
        ("events.k8s.io", "Event") => various::event(object, errors),
        ("apps", "StatefulSet") => workloads::stateful_set(object, errors),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => workloads::replicated(object, errors),
        ("batch", "Job") => workloads::job(&object["spec"], "spec", errors),
        ("batch", "CronJob") => workloads::cron_job(object, errors),
        ("policy", "PodDisruptionBudget") => various::disruption_budget(object, errors),
        ("coordination.k8s.io", "Lease") => various::lease(object, errors),
        ("discovery.k8s.io", "EndpointSlice") => various::endpoint_slice(object, errors),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => various::role(gvk, object, errors),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            various::binding(gvk, object, errors);
        }
        ("storage.k8s.io", "StorageClass") => storage::class(object, errors),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition::check(object, errors),
        _ => {}
    }
}

/// The text at a pointer, or none.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items at a pointer, or none.
fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Refuses a number below zero.
fn not_negative(object: &Value, field: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(value) = object.get(field).filter(|value| value.as_i64().is_some_and(|number| number < 0)) {
        errors.push(FieldError::invalid(
            format!("{path}.{field}"),
            value,
            "must be greater than or equal to 0",
        ));
    }
}

/// Refuses a text that is not one of those allowed; an empty one passes.
fn one_of(object: &Value, field: &str, allowed: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    let value = object.get(field).cloned().unwrap_or_default();
    let found = value.as_str().unwrap_or_default();
    if !found.is_empty() && !allowed.contains(&found) {
        errors.push(FieldError::not_supported(format!("{path}.{field}"), &value, allowed.iter().copied()));
    }
}
