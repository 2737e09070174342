//! Nodes that have stopped reporting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use super::cache::{Cache, Change};
use super::context::Context;
use super::error::absent_is_fine;
use super::meta::{Key, is_deleting, is_ready, name, namespace, node_of};
use super::queue::{Outcome, Queue};
use super::run::Tasks;

/// Where nodes keep their leases.
const LEASES: &str = "kube-node-lease";
/// How long a lease may stay as it is.
const GRACE: Duration = Duration::from_secs(40);

/// When each lease was last seen to move. By this machine's steady clock: the node's own may differ, and neither
/// counts the time the machine has slept.
type Renewals = Arc<Mutex<HashMap<String, Instant>>>;

/// Starts the controller.
pub(super) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let (queue, requests) = Queue::new();
    let leases: Cache<Lease> = Cache::new();
    let renewals = Renewals::default();
    let seen = Arc::clone(&renewals);
    leases.on_change(move |change: &Change<Lease>| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lease) = change.latest() else { return };
        let node = name(&lease.metadata).to_owned();
        if change.new.is_some() {
            if seen.insert(node.clone(), Instant::now()).is_none() {
                queue.add_after(node, GRACE);
            }
        } else {
            seen.remove(&node);
        }
    });
    tasks.watch(leases, context.api::<Lease>(LEASES));
    tasks.controller("node", requests, 2, move |context, node: String| {
        let since = renewals.lock().unwrap_or_else(PoisonError::into_inner).get(&node).map(Instant::elapsed);
        async move {
            match since {
                None => Ok(None),
                Some(since) if since < GRACE => Ok(Some(GRACE - since)),
                Some(_) => mark_unknown(&context, &node).await,
            }
        }
    });
}

/// Says of the node and its pods that nobody knows how they are. The node says better as soon as it is back.
async fn mark_unknown(context: &Context, node: &str) -> Outcome {
    let Some(found) = context.caches.nodes.get(&Key::new("", node)) else { return Ok(Some(GRACE)) };
    if !is_unknown(&found) {
        tracing::warn!(node, "node has not renewed its lease for {} s", GRACE.as_secs());
        let condition = json!({"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.", "lastTransitionTime": Time(Timestamp::now())});
        let nodes: Api<Node> = context.cluster_api();
        let body = json!({"status": {"conditions": [condition]}});
        absent_is_fine(nodes.patch_status(node, &PatchParams::default(), &Patch::Strategic(&body)).await)?;
    }
    for pod in context.caches.pods.all() {
        if node_of(&pod) == Some(node) && is_ready(&pod) && !is_deleting(&pod.metadata) {
            let condition = json!({"type": "Ready", "status": "False", "reason": "NodeNotReady",
                "message": "Node is not ready", "lastTransitionTime": Time(Timestamp::now())});
            let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            let pods = context.api::<Pod>(namespace(&pod.metadata));
            let (name, patch) = (name(&pod.metadata), Patch::Strategic(&body));
            absent_is_fine(pods.patch_status(name, &PatchParams::default(), &patch).await)?;
        }
    }
    Ok(Some(GRACE))
}

fn is_unknown(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|each| each.type_ == "Ready" && each.status == "Unknown")
}
