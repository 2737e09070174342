//! Several nodes on one machine, with Kubernetes' controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{EvictParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::sandbox::controllers;
use crate::sandbox::node::tests::{Cluster, is_ready, status};
use crate::sandbox::node::{Isolation, VolumeMode};

const NODES: [&str; 3] = ["sandbox", "sandbox-1", "sandbox-2"];

/// Says where it has been before, notes it for the next time, and goes on.
const SCRIPT: &str =
    "echo \"been on: $(cat \"$PLACES\" 2>/dev/null)\"; echo \"$NODE\" >> \"$PLACES\"; exec sleep 1000";

fn set() -> Value {
    let node = json!({"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}});
    json!({
        "metadata": {"name": "s"},
        "spec": {
            "serviceName": "s", "replicas": 3, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "s"}},
            "template": {"metadata": {"labels": {"app": "s"}}, "spec": {
                "terminationGracePeriodSeconds": 1,
                "topologySpreadConstraints": [{
                    "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
                    // A cordoned node does not count.
                    "nodeTaintsPolicy": "Honor", "labelSelector": {"matchLabels": {"app": "s"}},
                }],
                "containers": [{
                    "name": "c", "image": "dbctl/postgres:16.15", "command": ["sh", "-c", SCRIPT],
                    "env": [{"name": "PLACES", "value": "/data/places"}, node],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }],
            }},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
        },
    })
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

fn address(pod: &Pod) -> (Option<String>, Option<String>) {
    let status = pod.status.clone().unwrap_or_default();
    (status.pod_ip, status.host_ip)
}

/// The members, once all of them are ready.
async fn members(cluster: &Cluster) -> BTreeMap<String, Pod> {
    let mut found = BTreeMap::new();
    for name in ["s-0", "s-1", "s-2"] {
        found.insert(name.to_owned(), cluster.until(name, "ready", is_ready).await);
    }
    found
}

async fn cordon(cluster: &Cluster, node: &str, cordoned: bool) {
    let patch = Patch::Merge(json!({"spec": {"unschedulable": cordoned}}));
    let nodes = Api::<Node>::all(cluster.client.clone());
    nodes.patch(node, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_spread_over_nodes_and_leave_one_that_is_drained() {
    let mut cluster = Cluster::start_with(Isolation::Loopback, VolumeMode::Directories, 3).await;
    let stop = CancellationToken::new();
    let controllers = tokio::spawn(controllers::run(cluster.client.clone(), stop.clone()));
    cluster.make::<StatefulSet>(set()).await;
    let first = members(&cluster).await;
    let nodes: BTreeSet<String> = first.values().map(node_of).collect();
    assert_eq!(nodes, NODES.map(str::to_owned).into());

    // Each node is one by itself: object, lease, endpoint, and the pods that it tells of.
    let objects = Api::<Node>::all(cluster.client.clone()).list(&ListParams::default()).await.unwrap();
    let hosts: BTreeSet<String> = objects
        .iter()
        .map(|node| {
            let addresses = node.status.as_ref().unwrap().addresses.as_ref().unwrap();
            assert_eq!(node.labels()["kubernetes.io/hostname"], node.name_any());
            addresses.iter().find(|address| address.type_ == "InternalIP").unwrap().address.clone()
        })
        .collect();
    assert_eq!(hosts.len(), 3, "{hosts:?}");
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), "kube-node-lease");
    for (name, pod) in &first {
        let node = node_of(pod);
        for _ in 0..500 {
            if leases.get_opt(&node).await.unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        leases.get(&node).await.unwrap();
        assert!(hosts.contains(address(pod).1.as_deref().unwrap()));
        cluster.until_logged(name, "been on: \n").await;
        let faults = cluster.ask_node(&node, "GET", &format!("/faults/default/{name}"), Value::Null).await;
        assert_eq!(faults["pod"]["name"], name.as_str(), "{faults}");
    }

    // kubectl drain: no new pods there, and those that are there are evicted.
    let drained = node_of(&first["s-1"]);
    cordon(&cluster, &drained, true).await;
    cluster.api::<Pod>().evict("s-1", &EvictParams::default()).await.unwrap();
    let moved =
        cluster.until("s-1", "ready elsewhere", |pod| pod.uid() != first["s-1"].uid() && is_ready(pod)).await;
    assert_ne!(node_of(&moved), drained);
    cluster.until_logged("s-1", &format!("been on: {drained}\n")).await;
    cordon(&cluster, &drained, false).await;
    cluster.api::<Pod>().evict("s-1", &EvictParams::default()).await.unwrap();
    let back = cluster.until("s-1", "ready again", |pod| pod.uid() != moved.uid() && is_ready(pod)).await;
    assert_eq!(node_of(&back), drained, "the only place that does not put two on one");

    // What was running is taken up again, each on its node.
    let before = members(&cluster).await;
    cluster.crash_node().await;
    cluster.start_node().await;
    for (name, pod) in before {
        let again = cluster
            .until(&name, "started again", |pod| status(pod).restart_count == 1 && is_ready(pod))
            .await;
        assert_eq!(
            (again.uid(), node_of(&again), address(&again).0),
            (pod.uid(), node_of(&pod), address(&pod).0)
        );
    }
    stop.cancel();
    controllers.await.unwrap().unwrap();
    cluster.end().await;
}
