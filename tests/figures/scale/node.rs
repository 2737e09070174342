//! Nodes that run nothing: every pod that is given one of them is ready at once, at an address of its own.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::Error;
use super::patroni::Clusters;

/// As a kubelet takes where nothing else is said.
const PODS_PER_NODE: usize = 110;
/// Pods that are looked after at a time.
const AT_ONCE: usize = 16;

/// Registers as many as so many pods need.
pub async fn register(client: &Client, pods: usize) -> Result<usize, Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    // The scheduler spreads, and has some room to do so.
    let count = (pods * 5 / 4).div_ceil(PODS_PER_NODE).max(3);
    for number in 0..count {
        let name = format!("worker-{number}");
        let labels = json!({ "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": format!("zone-{}", number % 3) });
        let node = serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } }))?;
        nodes.create(&PostParams::default(), &node).await?;
        let room = json!({ "cpu": "256", "memory": "1024Gi", "ephemeral-storage": "4096Gi",
            "pods": PODS_PER_NODE.to_string() });
        let status = json!({ "capacity": room, "allocatable": room,
            "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }, { "type": "Hostname", "address": name }],
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": now() }] });
        nodes.patch_status(&name, &PatchParams::default(), &merge(json!({ "status": status }))).await?;
    }
    Ok(count)
}

pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub fn merge(patch: Value) -> Patch<Value> {
    Patch::Merge(patch)
}

/// Looks after pods for as long as it is polled.
pub async fn run(client: Client, clusters: Arc<Clusters>) {
    let next = &AtomicU32::new(0);
    let pods = Api::<Pod>::all(client.clone());
    let config = watcher::Config::default().labels(dbctl::api::LABEL_DATABASE);
    let changes = watcher(pods, config).default_backoff().applied_objects();
    changes
        .for_each_concurrent(AT_ONCE, |pod| {
            let (client, clusters) = (client.clone(), clusters.clone());
            async move {
                let Ok(pod) = pod else { return };
                if let Err(error) = look_after(&client, &clusters, &pod, next).await {
                    eprintln!("pod {}: {error}", pod.name_any());
                }
            }
        })
        .await;
}

async fn look_after(
    client: &Client,
    clusters: &Arc<Clusters>,
    pod: &Pod,
    next: &AtomicU32,
) -> Result<(), Error> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    if pod.metadata.deletion_timestamp.is_some() {
        pods.delete(&name, &DeleteParams::default().grace_period(0)).await.map(drop).or_else(gone)?;
        return Ok(());
    }
    let database = pod.labels().get(dbctl::api::LABEL_DATABASE).ok_or("a pod of no database")?.clone();
    if let Some(address) = address.and_then(|address| address.parse().ok()) {
        // One of an earlier run, where nobody answers any more.
        if !clusters.knows(&namespace, &database, &name) {
            clusters.listen(&namespace, &database, &name, address).await?;
            if clusters.note_member(&namespace, &database, &name, address) {
                clusters.make(client, &namespace, &database).await?;
            }
        }
        return Ok(());
    }
    if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) {
        return Ok(());
    }
    let address = loop {
        let address = nth(next.fetch_add(1, Ordering::Relaxed));
        match clusters.listen(&namespace, &database, &name, address).await {
            Ok(()) => break address,
            // Somebody else's.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    };
    let joined = clusters.note_member(&namespace, &database, &name, address);
    let status = merge(json!({ "status": status(pod, address) }));
    pods.patch_status(&name, &PatchParams::default(), &status).await.map(drop).or_else(gone)?;
    if joined { clusters.make(client, &namespace, &database).await } else { Ok(()) }
}

/// It went meanwhile.
pub fn gone(error: kube::Error) -> Result<(), kube::Error> {
    match error {
        kube::Error::Api(status) if status.is_not_found() => Ok(()),
        error => Err(error),
    }
}

/// Addresses of the loopback that nobody has by default.
fn nth(number: u32) -> Ipv4Addr {
    let [_, a, b, c] = (number / 250 * 256 + number % 250 + 1).to_be_bytes();
    Ipv4Addr::new(127, 210 + a % 40, b, c)
}

fn status(pod: &Pod, address: Ipv4Addr) -> Value {
    let condition = |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": now() });
    let kinds = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let spec = pod.spec.as_ref();
    let containers = spec.map(|spec| spec.containers.clone()).unwrap_or_default();
    let containers: Vec<Value> = containers
        .into_iter()
        .map(|container| {
            json!({ "name": container.name, "ready": true, "started": true, "restartCount": 0,
                "image": container.image, "lastState": {}, "state": { "running": { "startedAt": now() } },
                "imageID": "docker.io/dbctl/postgres@sha256:9b1e4a2f0c5d7e8f9a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d1e2f",
                "containerID": format!("containerd://{:064x}", u32::from(address)) })
        })
        .collect();
    json!({ "phase": "Running", "podIP": address, "hostIP": "127.0.0.1", "podIPs": [{ "ip": address }],
        "hostIPs": [{ "ip": "127.0.0.1" }], "startTime": now(), "qosClass": "Burstable",
        "conditions": kinds.map(condition), "containerStatuses": containers })
}
