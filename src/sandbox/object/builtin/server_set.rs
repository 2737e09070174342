//! Fields that the server itself sets when an object is made, and that therefore nobody owns.

use serde_json::{Map, Value, json};

use super::{items, text};
use crate::sandbox::object::Gvk;

/// Paths of such fields, as they are in this new object. A value that only a client can have set is not among them.
pub(crate) fn paths(gvk: &Gvk, object: &Value) -> Vec<Vec<String>> {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod(object),
        ("", "Service") => service(object),
        ("", "Namespace") => {
            vec![path(["spec", "finalizers"])]
        }
        ("", "PersistentVolumeClaim" | "PersistentVolume") => protection(object),
        ("batch", "Job") => job(object),
        _ => Vec::new(),
    }
}

/// The finalizer that admission adds.
fn protection(object: &Value) -> Vec<Vec<String>> {
    let finalizers = items(object, "/metadata/finalizers");
    let own = |name: &&Value| {
        matches!(name.as_str(), Some("kubernetes.io/pvc-protection" | "kubernetes.io/pv-protection"))
    };
    if finalizers.iter().all(|name| own(&name)) {
        return vec![path(["metadata", "finalizers"])];
    }
    Vec::new()
}

fn path<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn pod(object: &Value) -> Vec<Vec<String>> {
    let mut found = vec![path(["spec", "priority"]), path(["spec", "preemptionPolicy"])];
    if text(object, "/spec/serviceAccountName") == "default" {
        found.extend([path(["spec", "serviceAccountName"]), path(["spec", "serviceAccount"])]);
    }
    let own = |toleration: &Value| {
        text(toleration, "/key").starts_with("node.kubernetes.io/")
            && text(toleration, "/effect") == "NoExecute"
            && toleration.get("tolerationSeconds") == Some(&json!(300))
    };
    if items(object, "/spec/tolerations").iter().all(own) {
        found.push(path(["spec", "tolerations"]));
    }
    found
}

fn service(object: &Value) -> Vec<Vec<String>> {
    let mut found =
        vec![path(["spec", "ipFamilies"]), path(["spec", "ipFamilyPolicy"]), path(["spec", "clusterIPs"])];
    if text(object, "/spec/clusterIP") != "None" {
        found.push(path(["spec", "clusterIP"]));
    }
    found
}

fn job(object: &Value) -> Vec<Vec<String>> {
    if object.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return Vec::new();
    }
    let labels = object.pointer("/spec/template/metadata/labels").and_then(Value::as_object);
    let own = |key: &str| key.ends_with("controller-uid") || key.ends_with("job-name");
    let mut found = vec![path(["spec", "selector"])];
    if labels.is_some_and(|labels| labels.keys().all(|key| own(key))) {
        found.push(path(["spec", "template", "metadata", "labels"]));
    } else {
        let keys = labels.into_iter().flat_map(Map::keys).filter(|key| own(key));
        found.extend(keys.map(|key| path(["spec", "template", "metadata", "labels", key])));
    }
    found
}
