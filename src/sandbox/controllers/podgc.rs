//! Pods whose node is no more, or will not be back: one that is shut down and marked as out of service.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::cache::Change;
use super::context::Context;
use super::error::absent_is_fine;
use super::meta::{Key, is_deleting, is_finished, name, node_of};
use super::queue::{Outcome, Queue};
use super::run::Tasks;
use super::scheduler::bears;
use super::write;

/// How long a node may be missing before its pods go: one that registers anew keeps them.
const QUARANTINE: Duration = Duration::from_secs(40);
/// The taint that says a node is shut down for good.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Starts the controller.
pub(super) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let (queue, requests) = Queue::new();
    let pods = context.caches.pods.clone();
    let sender = queue.clone();
    context.caches.nodes.on_change(move |change: &Change<Node>| {
        let Some(node) = change.latest().filter(|_| concerns(change)) else { return };
        let pause = if change.new.is_some() { Duration::ZERO } else { QUARANTINE };
        for pod in pods.all().iter().filter(|pod| node_of(pod) == Some(name(&node.metadata))) {
            sender.add_after(Key::of(&**pod), pause);
        }
    });
    let nodes = context.caches.nodes.clone();
    let sender = queue;
    context.caches.pods.on_change(move |change: &Change<Pod>| {
        let Some(pod) = &change.new else { return };
        match node_of(pod).map(|node| nodes.get(&Key::new("", node))) {
            Some(None) => sender.add_after(Key::of(&**pod), QUARANTINE),
            Some(Some(node)) if is_deleting(&pod.metadata) && is_out_of_service(&node) => {
                sender.add(Key::of(&**pod));
            }
            _ => {}
        }
    });
    tasks.controller("podgc", requests, 2, |context, key| async move { reconcile(&context, &key).await });
}

fn concerns(change: &Change<Node>) -> bool {
    change.new.as_ref().is_none_or(|node| is_out_of_service(node))
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = ready.filter(|each| each.type_ == "Ready").any(|each| each.status == "True");
    !ready && taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Whether the taint ends the pod's stay. Elsewhere that is another controller's to do, and what follows this one's.
fn is_expelled(pod: &Pod, node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut taints = taints.filter(|taint| taint.key == OUT_OF_SERVICE && taint.effect == "NoExecute");
    taints.any(|taint| !bears(pod, taint))
}

async fn reconcile(context: &Context, key: &Key) -> Outcome {
    let Some(pod) = context.caches.pods.get(key) else { return Ok(None) };
    let Some(node) = node_of(&pod) else { return Ok(None) };
    let nodes: Api<Node> = context.cluster_api();
    match nodes.get_opt(node).await? {
        Some(node)
            if !(is_out_of_service(&node) && (is_deleting(&pod.metadata) || is_expelled(&pod, &node))) =>
        {
            return Ok(None);
        }
        _ => {}
    }
    let api = context.api::<Pod>(&key.namespace);
    if !is_finished(&pod) {
        let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed", "conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists", "lastTransitionTime": Time(jiff::Timestamp::now())}]}});
        absent_is_fine(
            api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(status)).await,
        )?;
    }
    absent_is_fine(api.delete(&key.name, &write::delete_only(&*pod).grace_period(0)).await)?;
    Ok(None)
}
