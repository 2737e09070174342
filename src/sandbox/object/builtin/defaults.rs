//! Defaults of the built-in kinds.

use serde_json::{Map, Value, json};

use super::pods::{each, pod, pod_spec, set};
use crate::sandbox::object::Gvk;

/// Fills in an object.
pub(super) fn fill(gvk: &Gvk, object: &mut Value) {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => spec(object, pod),
        ("", "PodTemplate") => template(object.as_object_mut()),
        ("", "Service") => spec(object, service),
        ("", "Secret") => top(object, |secret| set(secret, "type", json!("Opaque"))),
        ("", "PersistentVolumeClaim") => spec(object, claim),
        ("", "PersistentVolume") => spec(object, volume),
        ("", "Endpoints") => top(object, endpoints),
        ("", "ReplicationController") => spec(object, replicas_and_template),
        ("apps", "StatefulSet") => spec(object, stateful_set),
        ("apps", "Deployment") => spec(object, deployment),
        ("apps", "ReplicaSet") => spec(object, replicas_and_template),
        ("apps", "DaemonSet") => spec(object, daemon_set),
        ("batch", "Job") => job(object),
        ("batch", "CronJob") => spec(object, cron_job),
        ("discovery.k8s.io", "EndpointSlice") => top(object, endpoint_slice),
        ("networking.k8s.io", "NetworkPolicy") => spec(object, network_policy),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => top(object, binding),
        ("scheduling.k8s.io", "PriorityClass") => {
            top(object, |class| set(class, "preemptionPolicy", json!("PreemptLowerPriority")));
        }
        ("storage.k8s.io", "StorageClass") => top(object, storage_class),
        ("storage.k8s.io", "CSIDriver") => spec(object, csi_driver),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => spec(object, definition),
        ("autoscaling", "HorizontalPodAutoscaler") => spec(object, |spec| set(spec, "minReplicas", json!(1))),
        _ => {}
    }
}

fn top(object: &mut Value, fill: impl FnOnce(&mut Map<String, Value>)) {
    if let Some(fields) = object.as_object_mut() {
        fill(fields);
    }
}

fn spec(object: &mut Value, fill: impl FnOnce(&mut Map<String, Value>)) {
    if let Some(fields) = object.get_mut("spec").and_then(Value::as_object_mut) {
        fill(fields);
    }
}

/// The pod spec in a `template`.
fn template(holder: Option<&mut Map<String, Value>>) {
    if let Some(template) = holder.and_then(|holder| holder.get_mut("template")) {
        spec(template, pod_spec);
    }
}

fn replicas_and_template(spec: &mut Map<String, Value>) {
    set(spec, "replicas", json!(1));
    template(Some(spec));
}

fn stateful_set(spec: &mut Map<String, Value>) {
    set(spec, "podManagementPolicy", json!("OrderedReady"));
    let strategy = spec.entry("updateStrategy").or_insert_with(|| json!({}));
    if let Some(strategy) = strategy.as_object_mut() {
        set(strategy, "type", json!("RollingUpdate"));
        if strategy.get("type") == Some(&json!("RollingUpdate")) {
            set(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                set(rolling, "partition", json!(0));
            }
        }
    }
    let retention = spec.entry("persistentVolumeClaimRetentionPolicy").or_insert_with(|| json!({}));
    if let Some(retention) = retention.as_object_mut() {
        set(retention, "whenDeleted", json!("Retain"));
        set(retention, "whenScaled", json!("Retain"));
    }
    set(spec, "revisionHistoryLimit", json!(10));
    replicas_and_template(spec);
    for template in each(spec, "volumeClaimTemplates") {
        set(template, "apiVersion", json!("v1"));
        set(template, "kind", json!("PersistentVolumeClaim"));
        set(template, "status", json!({"phase": "Pending"}));
        if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
            claim(spec);
        }
    }
}

fn deployment(spec: &mut Map<String, Value>) {
    let strategy = spec.entry("strategy").or_insert_with(|| json!({}));
    if let Some(strategy) = strategy.as_object_mut() {
        set(strategy, "type", json!("RollingUpdate"));
        if strategy.get("type") == Some(&json!("RollingUpdate")) {
            set(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                set(rolling, "maxUnavailable", json!("25%"));
                set(rolling, "maxSurge", json!("25%"));
            }
        }
    }
    set(spec, "revisionHistoryLimit", json!(10));
    set(spec, "progressDeadlineSeconds", json!(600));
    replicas_and_template(spec);
}

fn daemon_set(spec: &mut Map<String, Value>) {
    let strategy = spec.entry("updateStrategy").or_insert_with(|| json!({}));
    if let Some(strategy) = strategy.as_object_mut() {
        set(strategy, "type", json!("RollingUpdate"));
        if strategy.get("type") == Some(&json!("RollingUpdate")) {
            set(strategy, "rollingUpdate", json!({"maxUnavailable": 1, "maxSurge": 0}));
        }
    }
    set(spec, "revisionHistoryLimit", json!(10));
    template(Some(spec));
}

fn job(object: &mut Value) {
    spec(object, |spec| {
        // A job that counts nothing runs one pod once; with parallelism alone it is a work queue.
        if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
            set(spec, "completions", json!(1));
        }
        set(spec, "parallelism", json!(1));
        let backoff = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
        set(spec, "backoffLimit", json!(backoff));
        set(spec, "completionMode", json!("NonIndexed"));
        set(spec, "suspend", json!(false));
        set(spec, "manualSelector", json!(false));
        let replacement =
            if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        set(spec, "podReplacementPolicy", json!(replacement));
        template(Some(spec));
    });
    let labels = object.pointer("/spec/template/metadata/labels").cloned();
    if let (Some(labels), Some(metadata)) =
        (labels, object.get_mut("metadata").and_then(Value::as_object_mut))
    {
        set(metadata, "labels", labels);
    }
}

fn cron_job(spec: &mut Map<String, Value>) {
    set(spec, "concurrencyPolicy", json!("Allow"));
    set(spec, "suspend", json!(false));
    set(spec, "successfulJobsHistoryLimit", json!(3));
    set(spec, "failedJobsHistoryLimit", json!(1));
    let job = spec.get_mut("jobTemplate").and_then(|template| template.get_mut("spec"));
    template(job.and_then(Value::as_object_mut));
}

fn service(spec: &mut Map<String, Value>) {
    set(spec, "type", json!("ClusterIP"));
    set(spec, "sessionAffinity", json!("None"));
    if spec.get("sessionAffinity") == Some(&json!("ClientIP")) {
        set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind != "ExternalName" {
        set(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        set(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    for port in each(spec, "ports") {
        set(port, "protocol", json!("TCP"));
        let unset = port.get("targetPort").is_none_or(|target| *target == json!(0) || *target == json!(""));
        if let (true, Some(number)) = (unset, port.get("port").cloned()) {
            port.insert("targetPort".to_owned(), number);
        }
    }
}

fn claim(spec: &mut Map<String, Value>) {
    set(spec, "volumeMode", json!("Filesystem"));
}

fn volume(spec: &mut Map<String, Value>) {
    set(spec, "persistentVolumeReclaimPolicy", json!("Retain"));
    set(spec, "volumeMode", json!("Filesystem"));
    if let Some(path) = spec.get_mut("hostPath").and_then(Value::as_object_mut) {
        set(path, "type", json!(""));
    }
}

fn endpoints(object: &mut Map<String, Value>) {
    for subset in each(object, "subsets") {
        for port in each(subset, "ports") {
            set(port, "protocol", json!("TCP"));
        }
    }
}

fn endpoint_slice(object: &mut Map<String, Value>) {
    for port in each(object, "ports") {
        set(port, "name", json!(""));
        set(port, "protocol", json!("TCP"));
    }
}

fn network_policy(spec: &mut Map<String, Value>) {
    let types = if spec.contains_key("egress") { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    set(spec, "policyTypes", types);
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            for port in each(rule, "ports") {
                set(port, "protocol", json!("TCP"));
            }
        }
    }
}

fn binding(object: &mut Map<String, Value>) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    if let Some(role) = object.get_mut("roleRef").and_then(Value::as_object_mut) {
        set(role, "apiGroup", json!(GROUP));
    }
    for subject in each(object, "subjects") {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            set(subject, "apiGroup", json!(GROUP));
        }
    }
}

fn storage_class(object: &mut Map<String, Value>) {
    set(object, "reclaimPolicy", json!("Delete"));
    set(object, "volumeBindingMode", json!("Immediate"));
}

fn csi_driver(spec: &mut Map<String, Value>) {
    set(spec, "attachRequired", json!(true));
    set(spec, "podInfoOnMount", json!(false));
    set(spec, "storageCapacity", json!(false));
    set(spec, "fsGroupPolicy", json!("ReadWriteOnceWithFSType"));
    set(spec, "volumeLifecycleModes", json!(["Persistent"]));
    set(spec, "requiresRepublish", json!(false));
    set(spec, "seLinuxMount", json!(false));
}

fn definition(spec: &mut Map<String, Value>) {
    set(spec, "conversion", json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        set(names, "singular", json!(kind.to_lowercase()));
        set(names, "listKind", json!(format!("{kind}List")));
    }
}
