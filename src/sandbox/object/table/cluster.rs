//! Tables of nodes, volumes, namespaces and other things of the whole cluster.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, Layout, NAME, age, items, joined, name, text, text_or};

const MODE: Column = ("VolumeMode", "string", 1, "A filesystem or a block device.");

pub(super) fn layout(group: &str, kind: &str) -> Option<Layout> {
    Some(match (group, kind) {
        ("", "Node") => Layout {
            columns: &[
                NAME,
                ("Status", "string", 0, "Whether it is ready, and may take pods."),
                ("Roles", "string", 0, "Its roles, by its labels."),
                AGE,
                ("Version", "string", 0, "Version of its kubelet."),
                ("Internal-IP", "string", 1, "Its address in the cluster."),
                ("External-IP", "string", 1, "Its address outside."),
                ("OS-Image", "string", 1, "Its operating system."),
                ("Kernel-Version", "string", 1, "Its kernel."),
                ("Container-Runtime", "string", 1, "What runs its containers."),
            ],
            cells: node,
        },
        ("", "Namespace") => Layout {
            columns: &[NAME, ("Status", "string", 0, "Active, or on its way out."), AGE],
            cells: namespace,
        },
        ("", "PersistentVolumeClaim") => Layout {
            columns: &[
                NAME,
                ("Status", "string", 0, "Whether it has a volume."),
                ("Volume", "string", 0, "The volume."),
                ("Capacity", "string", 0, "The volume's size."),
                ("Access Modes", "string", 0, "How it may be mounted."),
                ("StorageClass", "string", 0, "The class it asks for."),
                ("VolumeAttributesClass", "string", 0, "The attributes it asks for."),
                AGE,
                MODE,
            ],
            cells: claim,
        },
        ("", "PersistentVolume") => Layout {
            columns: &[
                NAME,
                ("Capacity", "string", 0, "Its size."),
                ("Access Modes", "string", 0, "How it may be mounted."),
                ("Reclaim Policy", "string", 0, "What happens to it without its claim."),
                ("Status", "string", 0, "Whether it is claimed."),
                ("Claim", "string", 0, "The claim."),
                ("StorageClass", "string", 0, "Its class."),
                ("VolumeAttributesClass", "string", 0, "Its attributes."),
                ("Reason", "string", 0, "Why it is in that state."),
                AGE,
                MODE,
            ],
            cells: volume,
        },
        ("storage.k8s.io", "StorageClass") => Layout {
            columns: &[
                NAME,
                ("Provisioner", "string", 0, "What makes its volumes."),
                ("ReclaimPolicy", "string", 0, "What happens to a volume without its claim."),
                ("VolumeBindingMode", "string", 0, "When a claim gets its volume."),
                ("AllowVolumeExpansion", "string", 0, "Whether its volumes can grow."),
                AGE,
            ],
            cells: class,
        },
        ("scheduling.k8s.io", "PriorityClass") => Layout {
            columns: &[
                NAME,
                ("Value", "integer", 0, "The priority."),
                ("Global-Default", "boolean", 0, "Whether pods without a class have it."),
                AGE,
                ("PreemptionPolicy", "string", 0, "Whether its pods may push others out."),
            ],
            cells: priority,
        },
        ("apiextensions.k8s.io", "CustomResourceDefinition") => Layout {
            columns: &[NAME, ("Created At", "date", 0, "When it was made.")],
            cells: |object, _| vec![name(object), json!(text(object, "/metadata/creationTimestamp"))],
        },
        _ => return None,
    })
}

fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready =
        items(object, "/status/conditions").iter().find(|condition| condition["type"] == json!("Ready"));
    let mut status = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object.pointer("/spec/unschedulable") == Some(&json!(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .collect();
    let address = |kind: &str| {
        let found = items(object, "/status/addresses").iter().find(|address| address["type"] == json!(kind));
        json!(found.map_or("<none>", |address| text(address, "/address")))
    };
    let info = |field: &str| json!(text_or(object, &format!("/status/nodeInfo/{field}"), "<unknown>"));
    vec![
        name(object),
        json!(status),
        json!(joined(roles)),
        age(object, now),
        json!(text(object, "/status/nodeInfo/kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(text(object, "/status/phase")), age(object, now)]
}

fn access_modes(object: &Value, pointer: &str) -> String {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    let modes: Vec<&str> = items(object, pointer).iter().map(short).collect();
    modes.join(",")
}

/// Claims and volumes that are being deleted say so.
fn phase(object: &Value) -> &str {
    if text(object, "/metadata/deletionTimestamp").is_empty() {
        text(object, "/status/phase")
    } else {
        "Terminating"
    }
}

fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !text(object, "/spec/volumeName").is_empty();
    let (capacity, modes) = if bound {
        (text(object, "/status/capacity/storage"), access_modes(object, "/status/accessModes"))
    } else {
        ("", String::new())
    };
    vec![
        name(object),
        json!(phase(object)),
        json!(text(object, "/spec/volumeName")),
        json!(capacity),
        json!(modes),
        json!(text(object, "/spec/storageClassName")),
        json!(text_or(object, "/spec/volumeAttributesClassName", "<unset>")),
        age(object, now),
        json!(text_or(object, "/spec/volumeMode", "<unset>")),
    ]
}

fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match (text(object, "/spec/claimRef/namespace"), text(object, "/spec/claimRef/name")) {
        (_, "") => String::new(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        name(object),
        json!(text(object, "/spec/capacity/storage")),
        json!(access_modes(object, "/spec/accessModes")),
        json!(text(object, "/spec/persistentVolumeReclaimPolicy")),
        json!(phase(object)),
        json!(claim),
        json!(text(object, "/spec/storageClassName")),
        json!(text_or(object, "/spec/volumeAttributesClassName", "<unset>")),
        json!(text(object, "/status/reason")),
        age(object, now),
        json!(text_or(object, "/spec/volumeMode", "<unset>")),
    ]
}

fn class(object: &Value, now: Timestamp) -> Vec<Value> {
    const DEFAULT: &str = "/metadata/annotations/storageclass.kubernetes.io~1is-default-class";
    let mark = if text(object, DEFAULT) == "true" { " (default)" } else { "" };
    vec![
        json!(format!("{}{mark}", text(object, "/metadata/name"))),
        json!(text(object, "/provisioner")),
        json!(text_or(object, "/reclaimPolicy", "Delete")),
        json!(text_or(object, "/volumeBindingMode", "Immediate")),
        json!(object.get("allowVolumeExpansion") == Some(&json!(true))),
        age(object, now),
    ]
}

fn priority(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        object.get("value").cloned().unwrap_or(json!(0)),
        json!(object.get("globalDefault") == Some(&json!(true))),
        age(object, now),
        json!(text(object, "/preemptionPolicy")),
    ]
}
