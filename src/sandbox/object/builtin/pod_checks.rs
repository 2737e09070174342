//! Checks of pods and pod templates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{items, metadata, names, not_negative, one_of, text};
use crate::api::Quantity;
use crate::sandbox::object::{Cause, FieldError};

const RESTART: [&str; 3] = ["Always", "OnFailure", "Never"];
const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// Checks a pod.
pub(super) fn pod(pod: &Value, errors: &mut Vec<FieldError>) {
    spec(&pod["spec"], "spec", errors);
}

/// Checks a pod template.
pub(super) fn template(template: &Value, path: &str, errors: &mut Vec<FieldError>) {
    template_labels(template, path, errors);
    spec(&template["spec"], &format!("{path}.spec"), errors);
}

/// Checks a pod template's labels alone.
pub(super) fn template_labels(template: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(labels) = template.pointer("/metadata/labels").and_then(Value::as_object) {
        metadata::labels(labels, &format!("{path}.metadata.labels"), errors);
    }
}

fn spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let volumes = volumes(spec, path, errors);
    if items(spec, "/containers").is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut seen = BTreeSet::new();
    for list in ["containers", "initContainers"] {
        for (index, found) in items(spec, &format!("/{list}")).iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let name = text(found, "/name");
            if !name.is_empty() && !seen.insert(name.to_owned()) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
            }
            container(found, &volumes, &path, errors);
        }
    }
    one_of(spec, "restartPolicy", &RESTART, path, errors);
    one_of(spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], path, errors);
    not_negative(spec, "terminationGracePeriodSeconds", path, errors);
    let account = text(spec, "/serviceAccountName");
    if !account.is_empty() {
        form(account, names::subdomain, format!("{path}.serviceAccountName"), errors);
    }
}

/// Adds what a form has to say about a name.
fn form(name: &str, form: fn(&str) -> Vec<String>, path: String, errors: &mut Vec<FieldError>) {
    errors.extend(form(name).iter().map(|problem| FieldError::invalid(path.clone(), &json!(name), problem)));
}

/// A name that must be there, be there once, and have a form.
fn required_name(name: &str, check: fn(&str) -> Vec<String>, path: String, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        form(name, check, path, errors);
    }
}

/// Checks volumes, and gives their names.
fn volumes(spec: &Value, path: &str, errors: &mut Vec<FieldError>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for (index, volume) in items(spec, "/volumes").iter().enumerate() {
        let path = format!("{path}.volumes[{index}]");
        let name = text(volume, "/name");
        required_name(name, names::label, format!("{path}.name"), errors);
        if !seen.insert(name.to_owned()) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
        }
        let sources =
            volume.as_object().map_or(0, |fields| fields.keys().filter(|key| *key != "name").count());
        if sources > 1 {
            errors.push(FieldError::forbidden(path, "may not specify more than 1 volume type"));
        }
    }
    seen
}

fn container(container: &Value, volumes: &BTreeSet<String>, path: &str, errors: &mut Vec<FieldError>) {
    required_name(text(container, "/name"), names::label, format!("{path}.name"), errors);
    if text(container, "/image").is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    }
    one_of(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
    one_of(container, "terminationMessagePolicy", &["FallbackToLogsOnError", "File"], path, errors);
    ports(container, path, errors);
    environment(container, path, errors);
    mounts(container, volumes, path, errors);
    resources(&container["resources"], &format!("{path}.resources"), errors);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = container.get(name).filter(|found| !found.is_null()) {
            probe(found, name, &format!("{path}.{name}"), errors);
        }
    }
}

fn ports(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, port) in items(container, "/ports").iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = text(port, "/name");
        if !name.is_empty() && !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
        }
        match port.get("containerPort").and_then(Value::as_i64) {
            None | Some(0) => errors.push(FieldError::required(format!("{path}.containerPort"), "")),
            Some(number) if !(1..=65535).contains(&number) => {
                errors.push(FieldError::invalid(format!("{path}.containerPort"), &json!(number), PORT_RANGE));
            }
            _ => {}
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &path, errors);
    }
}

fn environment(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, variable) in items(container, "/env").iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        required_name(text(variable, "/name"), names::environment, format!("{path}.name"), errors);
        let Some(from) = variable.get("valueFrom").filter(|from| from.is_object()) else { continue };
        let path = format!("{path}.valueFrom");
        if !text(variable, "/value").is_empty() {
            let detail = "may not be specified when `value` is not empty";
            errors.push(FieldError::new(path.clone(), Cause::Invalid, Some(&json!("")), detail));
        }
        let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
        match sources.iter().filter(|source| from.get(**source).is_some()).count() {
            1 => {}
            0 => {
                let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
                errors.push(FieldError::invalid(path, &json!(""), detail));
            }
            _ => {
                let detail = "may not have more than one field specified at a time";
                errors.push(FieldError::invalid(path, &json!(""), detail));
            }
        }
    }
}

fn mounts(container: &Value, volumes: &BTreeSet<String>, path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, mount) in items(container, "/volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let (name, at) = (text(mount, "/name"), text(mount, "/mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::new(format!("{path}.name"), Cause::NotFound, Some(&json!(name)), ""));
        }
        if at.is_empty() {
            errors.push(FieldError::required(format!("{path}.mountPath"), ""));
        } else if !seen.insert(at) {
            errors.push(FieldError::invalid(format!("{path}.mountPath"), &json!(at), "must be unique"));
        }
    }
}

/// Checks that quantities can be read and that no request is above its limit.
pub(super) fn resources(resources: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let amount = |which: &str, name: &str| -> Option<Quantity> {
        let value = resources.get(which)?.get(name)?;
        value.as_str().map_or_else(|| value.to_string(), str::to_owned).parse().ok()
    };
    for which in ["limits", "requests"] {
        for (name, value) in resources.get(which).and_then(Value::as_object).into_iter().flatten() {
            match amount(which, name) {
                Some(quantity) if quantity.milli() < 0 => {
                    let detail = "must be greater than or equal to 0";
                    errors.push(FieldError::invalid(format!("{path}.{which}[{name}]"), value, detail));
                }
                Some(quantity) if which == "requests" => {
                    if let Some(limit) = amount("limits", name).filter(|limit| quantity > *limit) {
                        let detail = format!("must be less than or equal to {name} limit of {limit}");
                        errors.push(FieldError::invalid(format!("{path}.requests"), value, &detail));
                    }
                }
                Some(_) => {}
                None => {
                    let detail = "quantities must match the regular expression \
                                  '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
                    errors.push(FieldError::invalid(format!("{path}.{which}[{name}]"), value, detail));
                }
            }
        }
    }
}

fn probe(probe: &Value, name: &str, path: &str, errors: &mut Vec<FieldError>) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    match handlers.iter().filter(|handler| probe.get(**handler).is_some()).count() {
        1 => {}
        0 => errors.push(FieldError::required(path, "must specify a handler type")),
        _ => errors.push(FieldError::forbidden(path, "may not specify more than 1 handler type")),
    }
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        not_negative(probe, field, path, errors);
    }
    let successes = probe.get("successThreshold").and_then(Value::as_i64).unwrap_or(1);
    if name != "readinessProbe" && successes != 1 {
        errors.push(FieldError::invalid(format!("{path}.successThreshold"), &json!(successes), "must be 1"));
    }
}
