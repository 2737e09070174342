//! The node's own object and its lease.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::NodeConfig;
use super::env::Capacity;

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How soon after a failure.
const RETRY: Duration = Duration::from_secs(1);
const PODS: u32 = 250;

/// What this machine has.
pub(super) fn capacity(root: &std::path::Path) -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").map(|text| total_memory(&text)).unwrap_or_default();
    let storage = rustix::fs::statvfs(root).map(|stat| i128::from(stat.f_blocks) * i128::from(stat.f_frsize));
    Capacity { milli_cpu: cpus as i128 * 1000, memory, storage: storage.unwrap_or_default() }
}

/// MemTotal in bytes.
fn total_memory(meminfo: &str) -> i128 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<i128>().ok());
    kilobytes.unwrap_or_default() * 1024
}

/// Creates or updates the Node, and says that it is ready.
pub(super) async fn register(
    client: &Client,
    config: &NodeConfig,
    capacity: Capacity,
    features: &BTreeMap<String, String>,
) -> Result<(), kube::Error> {
    let nodes = Api::<Node>::all(client.clone());
    let node = node(config, features);
    match nodes.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let labels = json!({"metadata": {"labels": node.metadata.labels, "annotations": node.metadata.annotations}});
            nodes.patch(&config.name, &PatchParams::default(), &Patch::Merge(labels)).await?;
        }
        Err(error) => return Err(error),
    }
    let patch = json!({"status": status(config, capacity, Timestamp::now())});
    nodes.patch_status(&config.name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
}

fn node(config: &NodeConfig, features: &BTreeMap<String, String>) -> Node {
    let labels = [
        ("kubernetes.io/hostname", config.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("topology.kubernetes.io/zone", config.zone.as_str()),
    ];
    let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let metadata = ObjectMeta {
        name: Some(config.name.clone()),
        labels: Some(labels),
        annotations: Some(features.clone()),
        ..ObjectMeta::default()
    };
    Node { metadata, ..Node::default() }
}

/// As Go and Kubernetes name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn status(config: &NodeConfig, capacity: Capacity, now: Timestamp) -> NodeStatus {
    let amounts: BTreeMap<String, Quantity> = [
        ("cpu", (capacity.milli_cpu / 1000).to_string()),
        ("memory", format!("{}Ki", capacity.memory / 1024)),
        ("ephemeral-storage", format!("{}Ki", capacity.storage / 1024)),
        ("pods", PODS.to_string()),
    ]
    .into_iter()
    .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
    .collect();
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let condition = |kind: &str, status: &str, reason: &str| NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
        ..NodeCondition::default()
    };
    NodeStatus {
        capacity: Some(amounts.clone()),
        allocatable: Some(amounts),
        addresses: Some(vec![
            address("InternalIP", config.address.ip().to_string()),
            address("Hostname", config.name.clone()),
        ]),
        conditions: Some(vec![
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ]),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.address.port()) }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().to_owned(),
            operating_system: "linux".to_owned(),
            kubelet_version: concat!("v", env!("CARGO_PKG_VERSION"), "-dbctl").to_owned(),
            container_runtime_version: concat!("sandbox://", env!("CARGO_PKG_VERSION")).to_owned(),
            os_image: "the local machine".to_owned(),
            kernel_version: kernel(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Renews the node's lease for ever, and says again that the node is ready where somebody found that it is not: an outage
/// of the API server may have kept the lease from being renewed for too long.
pub(super) async fn keep(
    client: Client,
    config: NodeConfig,
    capacity: Capacity,
    features: BTreeMap<String, String>,
) {
    loop {
        let kept = match renew(&client, &config.name).await {
            Ok(()) => reassure(&client, &config, capacity, &features).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &kept {
            tracing::debug!(%error, "the node's lease was not renewed");
        }
        tokio::time::sleep(if kept.is_ok() { RENEW_EVERY } else { RETRY }).await;
    }
}

async fn renew(client: &Client, name: &str) -> Result<(), kube::Error> {
    let leases = Api::<Lease>::namespaced(client.clone(), LEASE_NAMESPACE);
    let renewed = json!({"spec": {"renewTime": MicroTime(Timestamp::now()), "holderIdentity": name}});
    match leases.patch(name, &PatchParams::default(), &Patch::Merge(renewed)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            leases.create(&PostParams::default(), &lease(name)).await.map(drop)
        }
        result => result.map(drop),
    }
}

async fn reassure(
    client: &Client,
    config: &NodeConfig,
    capacity: Capacity,
    features: &BTreeMap<String, String>,
) -> Result<(), kube::Error> {
    if Api::<Node>::all(client.clone()).get_opt(&config.name).await?.as_ref().is_some_and(is_ready) {
        return Ok(());
    }
    tracing::info!(node = config.name, "the node is back");
    register(client, config, capacity, features).await
}

/// Whether a node's condition Ready is true.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn lease(name: &str) -> Lease {
    Lease {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(total_memory("MemTotal:       16384256 kB\nMemFree: 1 kB\n"), 16_384_256 * 1024);
        assert_eq!(total_memory(""), 0);
        let here = capacity(std::path::Path::new("/"));
        assert!(here.memory > 1 << 20 && here.milli_cpu >= 1000 && here.storage > 1 << 20);
    }
}
