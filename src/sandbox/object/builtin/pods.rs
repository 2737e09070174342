//! Defaults of pods and of everything that holds a pod template.

use serde_json::{Map, Value, json};

/// Sets a field that is not there.
pub(super) fn set(fields: &mut Map<String, Value>, name: &str, value: Value) {
    if fields.get(name).is_none_or(Value::is_null) {
        fields.insert(name.to_owned(), value);
    }
}

/// Sets a text field that is not there or empty.
fn set_text(fields: &mut Map<String, Value>, name: &str, value: &str) {
    if fields.get(name).and_then(Value::as_str).unwrap_or_default().is_empty() {
        fields.insert(name.to_owned(), json!(value));
    }
}

/// The objects in a list field.
pub(super) fn each<'a>(
    fields: &'a mut Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> + use<'a> {
    fields.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn child<'a>(fields: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    fields.get_mut(name).and_then(Value::as_object_mut)
}

/// Fills in a pod; what templates do not get is set here alone.
pub(super) fn pod(spec: &mut Map<String, Value>) {
    set(spec, "enableServiceLinks", json!(true));
    for list in ["containers", "initContainers"] {
        for container in each(spec, list) {
            requests_from_limits(container);
        }
    }
    pod_spec(spec);
}

/// A container that limits a resource and does not ask for it asks for the limit.
fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = child(container, "resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Some(requests) = requests.as_object_mut() {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// Fills in the spec of a pod or of a pod template.
pub(super) fn pod_spec(spec: &mut Map<String, Value>) {
    if spec.get("nodeName").and_then(Value::as_str) == Some("") {
        spec.remove("nodeName");
    }
    set_text(spec, "dnsPolicy", "ClusterFirst");
    set_text(spec, "restartPolicy", "Always");
    set_text(spec, "schedulerName", "default-scheduler");
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    service_account(spec);
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for item in each(spec, list) {
            container(item, host_network);
        }
    }
    for item in each(spec, "volumes") {
        volume(item);
    }
}

/// The deprecated field mirrors the one that took its place.
fn service_account(spec: &mut Map<String, Value>) {
    let named = |spec: &Map<String, Value>, name: &str| {
        spec.get(name).and_then(Value::as_str).filter(|value| !value.is_empty()).map(str::to_owned)
    };
    if let Some(name) = named(spec, "serviceAccountName").or_else(|| named(spec, "serviceAccount")) {
        spec.insert("serviceAccountName".to_owned(), json!(name));
        spec.insert("serviceAccount".to_owned(), json!(name));
    }
}

fn container(container: &mut Map<String, Value>, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
    set_text(container, "imagePullPolicy", pull_policy(&image));
    set(container, "resources", json!({}));
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    for port in each(container, "ports") {
        set_text(port, "protocol", "TCP");
        if let (true, Some(number)) = (host_network, port.get("containerPort").cloned()) {
            set(port, "hostPort", number);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = child(container, name) {
            probe(found);
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(request) = child(lifecycle, name).and_then(|hook| child(hook, "httpGet")) {
                http_get(request);
            }
        }
    }
    for variable in each(container, "env") {
        if let Some(reference) = child(variable, "valueFrom").and_then(|from| child(from, "fieldRef")) {
            set_text(reference, "apiVersion", "v1");
        }
    }
}

/// An image without a tag, or with the tag latest, is always pulled.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or_default();
    let tag = name.split_once(':').map(|(_, tag)| tag);
    if image.contains('@') || tag.is_some_and(|tag| tag != "latest") { "IfNotPresent" } else { "Always" }
}

fn probe(probe: &mut Map<String, Value>) {
    for (name, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.get(name).and_then(Value::as_i64).unwrap_or_default() == 0 {
            probe.insert(name.to_owned(), json!(value));
        }
    }
    if let Some(request) = child(probe, "httpGet") {
        http_get(request);
    }
    if let Some(call) = child(probe, "grpc") {
        set(call, "service", json!(""));
    }
}

fn http_get(request: &mut Map<String, Value>) {
    set_text(request, "path", "/");
    set_text(request, "scheme", "HTTP");
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.keys().all(|name| name == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = child(volume, name) {
            set(source, "defaultMode", json!(0o644));
            field_references(source);
            for source in each(source, "sources") {
                if let Some(token) = child(source, "serviceAccountToken") {
                    set(token, "expirationSeconds", json!(3600));
                }
                if let Some(downward) = child(source, "downwardAPI") {
                    field_references(downward);
                }
            }
        }
    }
    if let Some(path) = child(volume, "hostPath") {
        set(path, "type", json!(""));
    }
    if let Some(claim) = child(volume, "ephemeral").and_then(|source| child(source, "volumeClaimTemplate"))
        && let Some(spec) = child(claim, "spec")
    {
        set_text(spec, "volumeMode", "Filesystem");
    }
}

fn field_references(source: &mut Map<String, Value>) {
    for item in each(source, "items") {
        if let Some(reference) = child(item, "fieldRef") {
            set_text(reference, "apiVersion", "v1");
        }
    }
}

/// A pod's quality of service, from what its containers ask for and are limited to.
pub(super) fn qos_class(spec: &Value) -> &'static str {
    let containers = ["containers", "initContainers"]
        .iter()
        .filter_map(|list| spec.get(*list).and_then(Value::as_array))
        .flatten();
    let (mut any, mut all) = (false, true);
    for container in containers {
        let amount = |which: &str, resource: &str| {
            container.pointer(&format!("/resources/{which}/{resource}")).filter(|value| **value != json!("0"))
        };
        for resource in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", resource), amount("limits", resource));
            any |= request.is_some() || limit.is_some();
            all &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
