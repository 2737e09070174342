//! What may not change once an object is there.

use serde_json::{Map, Value, json};

use super::{items, text};
use crate::api::Quantity;
use crate::sandbox::object::{FieldError, Gvk};

const STATEFUL_SET: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                            'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                            'minReadySeconds' are forbidden";
const STATEFUL_SET_FIELDS: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];
const POD: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                   existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                   previously negative)";
const CLAIM: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                     bound claims";
const IMMUTABLE: &str = "field is immutable";

pub(super) fn check(gvk: &Gvk, new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod(new, old, errors),
        ("", "Service") => service(new, old, errors),
        ("", "ConfigMap") => sealed(new, old, &["data", "binaryData"], errors),
        ("", "Secret") => {
            fixed(new, old, &["type"], errors);
            sealed(new, old, &["data"], errors);
        }
        ("", "PersistentVolumeClaim") => claim(new, old, errors),
        ("", "PersistentVolume") => volume(new, old, errors),
        ("apps", "StatefulSet") => stateful_set(new, old, errors),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => fixed(new, old, &["spec.selector"], errors),
        ("batch", "Job") => job(new, old, errors),
        ("discovery.k8s.io", "EndpointSlice") => fixed(new, old, &["addressType"], errors),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding")
            if new["roleRef"] != old["roleRef"] =>
        {
            errors.push(FieldError::invalid("roleRef", &new["roleRef"], "cannot change roleRef"));
        }
        ("scheduling.k8s.io", "PriorityClass") if new["value"] != old["value"] => {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        ("events.k8s.io", "Event") => {
            let fields = ["regarding", "reason", "note", "type", "eventTime", "action", "related"];
            fixed(new, old, &fields, errors);
            fixed(new, old, &["reportingController", "reportingInstance"], errors);
        }
        ("storage.k8s.io", "StorageClass") => storage_class(new, old, errors),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            fixed(new, old, &["spec.group", "spec.scope", "spec.names.kind", "spec.names.plural"], errors);
        }
        _ => {}
    }
}

/// Fields that keep their value.
fn fixed(new: &Value, old: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    for field in fields {
        let at = |object: &Value| object.pointer(&format!("/{}", field.replace('.', "/"))).cloned();
        if at(new) != at(old) {
            errors.push(FieldError::invalid(*field, &at(new).unwrap_or_default(), IMMUTABLE));
        }
    }
}

/// Data that was marked immutable, and the mark itself.
fn sealed(new: &Value, old: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if old["immutable"] != json!(true) {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    for field in std::iter::once(&"immutable").chain(fields) {
        if new[*field] != old[*field] {
            errors.push(FieldError::forbidden(*field, detail));
        }
    }
}

fn fields_without(value: &Value, names: &[&str]) -> Map<String, Value> {
    let mut fields = value.as_object().cloned().unwrap_or_default();
    fields.retain(|name, _| !names.contains(&name.as_str()));
    fields
}

fn stateful_set(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let rest = |object: &Value| fields_without(&object["spec"], &STATEFUL_SET_FIELDS);
    if rest(new) != rest(old) {
        errors.push(FieldError::forbidden("spec", STATEFUL_SET));
    }
}

fn pod(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    for list in ["containers", "initContainers"] {
        let path = format!("/spec/{list}");
        if items(new, &path).len() != items(old, &path).len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{list}"), detail));
            return;
        }
    }
    // How long a toleration lasts may change.
    let timeless = |toleration: &Value| fields_without(toleration, &["tolerationSeconds"]);
    let kept = items(old, "/spec/tolerations")
        .iter()
        .all(|one| items(new, "/spec/tolerations").iter().any(|other| timeless(one) == timeless(other)));
    if !kept {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
    let deadline = |pod: &Value| pod.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64);
    match (deadline(new), deadline(old)) {
        (Some(new), Some(old)) if new > old => {
            let detail = "must be less than or equal to previous value";
            errors.push(FieldError::invalid("spec.activeDeadlineSeconds", &json!(new), detail));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid("spec.activeDeadlineSeconds", &Value::Null, detail));
        }
        _ => {}
    }
    if frozen_part(new, old) != frozen_part(old, old) {
        errors.push(FieldError::forbidden("spec", POD));
    }
    for list in ["containers", "initContainers"] {
        for (index, container) in items(new, &format!("/spec/{list}")).iter().enumerate() {
            if text(container, "/image").is_empty() {
                errors.push(FieldError::required(format!("spec.{list}[{index}].image"), ""));
            }
        }
    }
}

/// A pod's spec with what may change put out of sight.
fn frozen_part(pod: &Value, old: &Value) -> Map<String, Value> {
    let mut movable = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    let negative =
        old.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|n| n < 0);
    if negative && pod.pointer("/spec/terminationGracePeriodSeconds") == Some(&json!(1)) {
        movable.push("terminationGracePeriodSeconds");
    }
    let mut fields = fields_without(&pod["spec"], &movable);
    if negative {
        fields.remove("terminationGracePeriodSeconds");
    }
    for list in ["containers", "initContainers"] {
        for container in super::pods::each(&mut fields, list) {
            container.remove("image");
        }
    }
    fields
}

fn service(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let external = |object: &Value| text(object, "/spec/type") == "ExternalName";
    if external(new) || external(old) {
        return;
    }
    let first = |object: &Value| {
        let list = items(object, "/spec/clusterIPs").first().cloned();
        list.or_else(|| object.pointer("/spec/clusterIP").cloned()).filter(|address| *address != json!(""))
    };
    if let (Some(before), Some(after)) = (first(old), first(new))
        && before != after
    {
        let list = new.pointer("/spec/clusterIPs").cloned().unwrap_or(json!([after]));
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &list, "may not change once set"));
    }
}

fn storage(object: &Value) -> Option<Quantity> {
    text(object, "/spec/resources/requests/storage").parse().ok()
}

fn claim(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let bound = text(new, "/status/phase") == "Bound";
    let frozen = |object: &Value| {
        let mut spec = object["spec"].clone();
        // A volume is bound once, and a class may be filled in where none was named.
        if text(old, "/spec/volumeName").is_empty() {
            remove(&mut spec, "volumeName");
        }
        if old.pointer("/spec/storageClassName").is_none() {
            remove(&mut spec, "storageClassName");
        }
        if bound {
            remove(&mut spec, "volumeAttributesClassName");
        }
        // Sizes are compared as amounts, and a bound claim's may grow.
        if let Some(requests) = spec.pointer_mut("/resources/requests").and_then(Value::as_object_mut) {
            requests.remove("storage");
        }
        let size = if bound { None } else { storage(object).map(|size| size.milli()) };
        (spec, size)
    };
    if frozen(new) != frozen(old) {
        errors.push(FieldError::forbidden("spec", CLAIM));
        return;
    }
    let (size, before) = (storage(new), storage(old));
    if bound && size < before {
        let capacity: Option<Quantity> = text(new, "/status/capacity/storage").parse().ok();
        if size <= capacity {
            let detail = "field can not be less than status.capacity";
            errors.push(FieldError::forbidden("spec.resources.requests.storage", detail));
        }
    }
}

fn remove(value: &mut Value, name: &str) {
    if let Some(fields) = value.as_object_mut() {
        fields.remove(name);
    }
}

fn volume(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    const FREE: [&str; 8] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
    ];
    let rest = |object: &Value| {
        let mut fields = fields_without(&object["spec"], &FREE);
        fields.remove("volumeMode");
        fields
    };
    if rest(new) != rest(old) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", detail));
    }
    fixed(new, old, &["spec.volumeMode"], errors);
}

fn job(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let mut fields =
        vec!["spec.selector", "spec.completionMode", "spec.podFailurePolicy", "spec.backoffLimitPerIndex"];
    if text(old, "/spec/completionMode") != "Indexed" {
        fields.push("spec.completions");
    }
    fixed(new, old, &fields, errors);
    // A job that has not started may still be placed elsewhere.
    let waiting = old["spec"]["suspend"] == json!(true) && old.pointer("/status/startTime").is_none();
    let template = |object: &Value| {
        let mut template = object["spec"]["template"].clone();
        if waiting {
            if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
                for name in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
                    spec.remove(name);
                }
            }
            remove(&mut template["metadata"], "labels");
            remove(&mut template["metadata"], "annotations");
        }
        template
    };
    if template(new) != template(old) {
        errors.push(FieldError::invalid("spec.template", &new["spec"]["template"], IMMUTABLE));
    }
}

fn storage_class(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if new[field] != old[field] {
            errors.push(FieldError::forbidden(field, &format!("updates to {field} are forbidden.")));
        }
    }
    fixed(new, old, &["volumeBindingMode"], errors);
}
