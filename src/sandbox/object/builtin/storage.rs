//! Checks of claims, volumes and storage classes.

use serde_json::{Value, json};

use super::{items, names, one_of, pod_checks, text};
use crate::api::Quantity;
use crate::sandbox::object::FieldError;

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let modes = items(spec, "/accessModes");
    if modes.is_empty() {
        errors
            .push(FieldError::required(format!("{path}.accessModes"), "at least 1 access mode is required"));
    }
    for mode in modes.iter().filter(|mode| !MODES.contains(&mode.as_str().unwrap_or_default())) {
        errors.push(FieldError::not_supported(format!("{path}.accessModes"), mode, MODES));
    }
}

/// Checks the spec of a claim.
pub(super) fn claim(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    access_modes(spec, path, errors);
    let size = spec.pointer("/resources/requests/storage");
    match size.and_then(Value::as_str).map(str::parse::<Quantity>) {
        _ if size.is_none() => {
            errors.push(FieldError::required(format!("{path}.resources[storage]"), ""));
        }
        Some(Ok(quantity)) if quantity.milli() <= 0 => {
            let path = format!("{path}.resources[storage]");
            errors.push(FieldError::invalid(path, size.unwrap_or(&Value::Null), "must be greater than zero"));
        }
        _ => pod_checks::resources(&spec["resources"], &format!("{path}.resources"), errors),
    }
    let class = text(spec, "/storageClassName");
    if !class.is_empty() {
        for problem in names::subdomain(class) {
            errors.push(FieldError::invalid(format!("{path}.storageClassName"), &json!(class), &problem));
        }
    }
    one_of(spec, "volumeMode", &["Block", "Filesystem"], path, errors);
}

/// Checks a volume.
pub(super) fn volume(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    access_modes(spec, "spec", errors);
    match spec.pointer("/capacity/storage") {
        None => errors.push(FieldError::required("spec.capacity", "")),
        Some(_) => {
            pod_checks::resources(&json!({"requests": spec["capacity"]}), "spec.capacity", errors);
        }
    }
    one_of(spec, "persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], "spec", errors);
    one_of(spec, "volumeMode", &["Block", "Filesystem"], "spec", errors);
    let general = ["accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity"];
    let more =
        ["persistentVolumeReclaimPolicy", "storageClassName", "volumeMode", "volumeAttributesClassName"];
    let sources = spec.as_object().map_or(0, |fields| {
        fields.keys().filter(|key| ![&general[..], &more[..]].concat().contains(&key.as_str())).count()
    });
    match sources {
        0 => errors.push(FieldError::required("spec", "must specify a volume type")),
        1 => {}
        _ => errors.push(FieldError::forbidden("spec", "may not specify more than 1 volume type")),
    }
}

/// Checks a storage class.
pub(super) fn class(object: &Value, errors: &mut Vec<FieldError>) {
    if text(object, "/provisioner").is_empty() {
        errors.push(FieldError::required("provisioner", ""));
    }
    for (field, allowed) in [
        ("reclaimPolicy", ["Delete", "Retain"]),
        ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"]),
    ] {
        let value = text(object, &format!("/{field}"));
        if !value.is_empty() && !allowed.contains(&value) {
            errors.push(FieldError::not_supported(field, &json!(value), allowed));
        }
    }
}
