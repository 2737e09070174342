//! What the server itself sets or keeps when objects are written.

use base64::Engine;
use serde_json::{Map, Value, json};

use super::pods::{qos_class, set};
use super::text;
use crate::sandbox::object::Gvk;

/// Kinds whose generation counts the changes of their spec.
pub(super) fn has_generation(gvk: &Gvk) -> bool {
    matches!(
        (gvk.group.as_str(), gvk.kind.as_str()),
        ("", "Pod" | "ReplicationController")
            | ("apps", "StatefulSet" | "Deployment" | "ReplicaSet" | "DaemonSet")
            | ("batch", "Job" | "CronJob")
            | ("policy", "PodDisruptionBudget")
            | ("discovery.k8s.io", "EndpointSlice")
            | ("networking.k8s.io", "NetworkPolicy" | "Ingress" | "IngressClass")
            | ("scheduling.k8s.io", "PriorityClass")
            | ("apiextensions.k8s.io", "CustomResourceDefinition")
    )
}

/// Kinds whose status is written apart.
pub(super) fn has_status(gvk: &Gvk) -> bool {
    matches!(
        (gvk.group.as_str(), gvk.kind.as_str()),
        ("", "Pod" | "Service" | "PersistentVolumeClaim" | "PersistentVolume" | "Namespace" | "Node")
            | ("", "ReplicationController" | "ResourceQuota")
            | ("apps", "StatefulSet" | "Deployment" | "ReplicaSet" | "DaemonSet")
            | ("batch", "Job" | "CronJob")
            | ("policy", "PodDisruptionBudget")
            | ("autoscaling", "HorizontalPodAutoscaler")
            | ("networking.k8s.io", "Ingress")
            | ("storage.k8s.io", "VolumeAttachment")
            | ("apiextensions.k8s.io", "CustomResourceDefinition")
    )
}

/// The status a new object starts with; None leaves what the client sent.
fn first_status(gvk: &Gvk, object: &Value) -> Option<Value> {
    Some(match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => json!({"phase": "Pending", "qosClass": qos_class(&object["spec"])}),
        ("", "Service") => json!({"loadBalancer": {}}),
        ("", "PersistentVolumeClaim" | "PersistentVolume") => json!({"phase": "Pending"}),
        ("", "Namespace") => json!({"phase": "Active"}),
        // A kubelet registers its node with the status in place.
        ("", "Node") => return None,
        ("apps", "StatefulSet") => json!({"replicas": 0, "availableReplicas": 0}),
        ("apps", "ReplicaSet") | ("", "ReplicationController") => json!({"replicas": 0}),
        ("apps", "DaemonSet") => json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
        }),
        ("policy", "PodDisruptionBudget") => {
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0})
        }
        _ => json!({}),
    })
}

/// Prepares a new object.
pub(super) fn create(gvk: &Gvk, object: &mut Value) {
    normalise(gvk, object);
    if has_status(gvk)
        && let Some(status) = first_status(gvk, object)
    {
        object["status"] = status;
    }
    let Some(fields) = object.as_object_mut() else { return };
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod(fields),
        ("", "Service") => service(fields),
        ("", "Namespace") => namespace(fields),
        ("batch", "Job") => job(object),
        _ => {}
    }
    if has_generation(gvk) && object["metadata"].is_object() {
        object["metadata"]["generation"] = json!(1);
    }
}

/// Prepares a changed object.
pub(super) fn update(gvk: &Gvk, new: &mut Value, old: &Value) {
    normalise(gvk, new);
    if has_status(gvk) {
        keep(new, old, "status");
    }
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Service") => service_update(new, old),
        ("", "Pod") => {
            if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
                tolerations(spec);
            }
        }
        _ => {}
    }
    if has_generation(gvk) && new["metadata"].is_object() {
        let before = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1);
        let changed = content(new) != content(old);
        new["metadata"]["generation"] = json!(before + i64::from(changed));
    }
}

/// Prepares a write of the status: everything else stays as it is stored.
pub(super) fn status_update(gvk: &Gvk, new: &mut Value, old: &Value) {
    let status = new.get("status").cloned();
    let managed = new.pointer("/metadata/managedFields").cloned();
    // Who writes the status may label and annotate the object too, as kubelets do with their nodes; a few kinds differ.
    let metadata = super::known(gvk)
        .then(|| new["metadata"].clone())
        .filter(|metadata| metadata.is_object() && gvk.kind != "CustomResourceDefinition");
    let version = new.pointer("/metadata/resourceVersion").cloned();
    let mut kept = old.clone();
    if let Some(metadata) = metadata {
        kept["metadata"] = metadata;
        let apart = match gvk.kind.as_str() {
            "Pod" => "ownerReferences",
            "Deployment" => "labels",
            _ => "",
        };
        if !apart.is_empty() {
            let old = old["metadata"].get(apart).cloned();
            set_or_remove(&mut kept["metadata"], apart, old);
        }
    }
    if let Some(fields) = kept.as_object_mut() {
        match status {
            Some(status) => drop(fields.insert("status".to_owned(), status)),
            None => drop(fields.remove("status")),
        }
    }
    for (name, value) in [("managedFields", managed), ("resourceVersion", version)] {
        if let (Some(value), Some(metadata)) = (value, kept["metadata"].as_object_mut()) {
            metadata.insert(name.to_owned(), value);
        }
    }
    *new = kept;
}

fn set_or_remove(fields: &mut Value, name: &str, value: Option<Value>) {
    let Some(fields) = fields.as_object_mut() else { return };
    match value {
        Some(value) => drop(fields.insert(name.to_owned(), value)),
        None => drop(fields.remove(name)),
    }
}

/// What counts for the generation: all but metadata and status.
fn content(object: &Value) -> Map<String, Value> {
    let mut fields = object.as_object().cloned().unwrap_or_default();
    for name in ["metadata", "status", "apiVersion", "kind"] {
        fields.remove(name);
    }
    fields
}

fn keep(new: &mut Value, old: &Value, name: &str) {
    if let Some(fields) = new.as_object_mut() {
        match old.get(name) {
            Some(value) => drop(fields.insert(name.to_owned(), value.clone())),
            None => drop(fields.remove(name)),
        }
    }
}

/// Forms that the server does not keep as they were sent.
fn normalise(gvk: &Gvk, object: &mut Value) {
    if (gvk.group.as_str(), gvk.kind.as_str()) == ("", "Secret") {
        fold_string_data(object);
    }
}

/// `stringData` is a way to write `data`, and is never read.
pub(super) fn fold_string_data(secret: &mut Value) {
    let Some(fields) = secret.as_object_mut() else { return };
    let Some(Value::Object(plain)) = fields.remove("stringData") else { return };
    if plain.is_empty() {
        return;
    }
    let data = fields.entry("data").or_insert_with(|| json!({}));
    if let Some(data) = data.as_object_mut() {
        for (key, value) in plain {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, json!(encoded));
        }
    }
}

/// What admission sets in every pod of a cluster.
fn pod(fields: &mut Map<String, Value>) {
    let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) else { return };
    set(spec, "serviceAccountName", json!("default"));
    if let Some(name) = spec.get("serviceAccountName").cloned() {
        spec.insert("serviceAccount".to_owned(), name);
    }
    if !spec.contains_key("priorityClassName") {
        set(spec, "priority", json!(0));
    }
    set(spec, "preemptionPolicy", json!("PreemptLowerPriority"));
    tolerations(spec);
}

/// Pods stay on a node that does not answer for five minutes, unless they say otherwise.
fn tolerations(spec: &mut Map<String, Value>) {
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if let Some(list) = tolerations.as_array_mut() {
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let tolerated = list.iter().any(|toleration| {
                let all = toleration.get("key").is_none_or(|found| found == key);
                all && matches!(
                    toleration.get("effect").and_then(Value::as_str),
                    None | Some("NoExecute" | "")
                )
            });
            if !tolerated {
                list.push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
                }));
            }
        }
    }
}

fn service(fields: &mut Map<String, Value>) {
    let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if spec.get("type") == Some(&json!("ExternalName")) {
        return;
    }
    set(spec, "ipFamilyPolicy", json!("SingleStack"));
    set(spec, "ipFamilies", json!(["IPv4"]));
    if let Some(address) = spec.get("clusterIP").cloned().filter(|address| *address != json!("")) {
        set(spec, "clusterIPs", json!([address]));
    }
}

/// Addresses that an update leaves out stay, and the list of addresses follows the first one.
fn service_update(new: &mut Value, old: &Value) {
    let external = |object: &Value| text(object, "/spec/type") == "ExternalName";
    let old_spec = old.get("spec").cloned().unwrap_or_default();
    drop_type_fields(new, &old_spec);
    let both = !external(new) && !external(old);
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if !both {
        return;
    }
    for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
        let unset =
            spec.get(name).is_none_or(|value| value.is_null() || *value == json!("") || *value == json!([]));
        if let (true, Some(value)) = (unset, old_spec.get(name)) {
            spec.insert(name.to_owned(), value.clone());
        }
    }
    let first_changed = spec.get("clusterIP") != old_spec.get("clusterIP");
    if first_changed && spec.get("clusterIPs") == old_spec.get("clusterIPs") {
        let first = spec.get("clusterIP").cloned().unwrap_or_default();
        spec.insert("clusterIPs".to_owned(), json!([first]));
    }
}

/// Fields that only some types of Service have go with the type, unless they were changed with it.
fn drop_type_fields(new: &mut Value, old: &Value) {
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP").to_owned();
    let on_nodes = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let before = old["type"].as_str().unwrap_or("ClusterIP");
    let mut drop_same = |name: &str| {
        if spec.get(name) == old.get(name) {
            spec.remove(name);
        }
    };
    if on_nodes(before) && !on_nodes(&kind) {
        drop_same("externalTrafficPolicy");
        drop_same("healthCheckNodePort");
    }
    if before == "LoadBalancer" && kind != before {
        drop_same("allocateLoadBalancerNodePorts");
        drop_same("loadBalancerClass");
    }
    if before != "ExternalName" && kind == "ExternalName" {
        for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            drop_same(name);
        }
    }
    let numbers = |ports: Option<&Value>| -> Vec<Value> {
        let ports = ports.and_then(Value::as_array).into_iter().flatten();
        ports.map(|port| port["nodePort"].clone()).collect()
    };
    if on_nodes(before) && !on_nodes(&kind) && numbers(spec.get("ports")) == numbers(old.get("ports")) {
        for port in super::pods::each(spec, "ports") {
            port.remove("nodePort");
        }
    }
}

fn namespace(fields: &mut Map<String, Value>) {
    let spec = fields.entry("spec").or_insert_with(|| json!({}));
    if let Some(spec) = spec.as_object_mut() {
        set(spec, "finalizers", json!(["kubernetes"]));
    }
    let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let name = metadata.get("name").cloned().unwrap_or_default();
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
}

/// A job finds its pods by its uid, unless told otherwise.
fn job(object: &mut Value) {
    if object.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let uid = text(object, "/metadata/uid").to_owned();
    let name = text(object, "/metadata/name").to_owned();
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let template = spec.entry("template").or_insert_with(|| json!({}));
    let labels = template
        .as_object_mut()
        .map(|template| template.entry("metadata").or_insert_with(|| json!({})))
        .and_then(Value::as_object_mut)
        .map(|metadata| metadata.entry("labels").or_insert_with(|| json!({})))
        .and_then(Value::as_object_mut);
    if let Some(labels) = labels {
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            labels.entry(key).or_insert_with(|| json!(value));
        }
    }
    set(spec, "selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
}
