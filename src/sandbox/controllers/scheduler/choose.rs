//! Which node a pod goes to. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelector, Pod, Taint};

use super::affinity::{self, NamespaceLabels};
use super::spread;
use crate::sandbox::controllers::meta::{is_deleting, name};

/// What there is to choose from, and who is where already.
#[derive(Default)]
pub(super) struct Cluster {
    pub(super) nodes: Vec<Arc<Node>>,
    /// Pods with the names of their nodes; those that were given one a moment ago as well.
    pub(super) pods: Vec<(Arc<Pod>, String)>,
    pub(super) namespaces: NamespaceLabels,
}

impl Cluster {
    pub(super) fn node(&self, wanted: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| name(&node.metadata) == wanted).map(|node| &**node)
    }
}

/// Whether a cordon keeps the pod away: it counts as the taint that Kubernetes gives such a node.
pub(super) fn cordoned(pod: &Pod, node: &Node) -> bool {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    };
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    unschedulable && !affinity::bears(pod, &cordon)
}

/// Why a node is not for a pod, in Kubernetes' words.
fn obstacle(cluster: &Cluster, pod: &Pod, node: &Node, volumes: &[NodeSelector]) -> Option<String> {
    let reason = if is_deleting(&node.metadata) || cordoned(pod, node) {
        "node(s) were unschedulable"
    } else if !is_ready(node) {
        "node(s) were not ready"
    } else if !affinity::node_allowed(pod, node) {
        "node(s) didn't match Pod's node affinity/selector"
    } else if let Some(taint) = affinity::unborne(pod, node, true) {
        let value = taint.value.as_deref().unwrap_or_default();
        return Some(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    } else if !affinity::attracted(cluster, pod, node) {
        "node(s) didn't match pod affinity rules"
    } else if affinity::repelled(cluster, pod, node) {
        "node(s) didn't match pod anti-affinity rules"
    } else if affinity::unwelcome(cluster, pod, node) {
        "node(s) didn't satisfy existing pods anti-affinity rules"
    } else if !spread::allowed(cluster, pod, node) {
        "node(s) didn't match pod topology spread constraints"
    } else if !volumes.iter().all(|selector| affinity::selects(selector, node)) {
        "node(s) had volume node affinity conflict"
    } else {
        return None;
    };
    Some(reason.to_owned())
}

/// Whether the node says it is well.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// How good a node is that would do: wishes first, then even spreading, then few neighbours.
fn score(cluster: &Cluster, pod: &Pod, node: &Node) -> (i64, i64, i64) {
    let put_off = if affinity::unborne(pod, node, false).is_some() { -100 } else { 0 };
    let wishes = affinity::node_preference(pod, node) + affinity::company(cluster, pod, node) + put_off;
    let neighbours = cluster.pods.iter().filter(|(_, place)| place == name(&node.metadata)).count();
    let crowd = spread::crowd(cluster, pod, node);
    (wishes, -crowd, -i64::try_from(neighbours).unwrap_or(i64::MAX))
}

/// The best node for the pod, or why there is none. `favourite` is taken if it will do: its claims may be there.
pub(super) fn choose(
    cluster: &Cluster,
    pod: &Pod,
    volumes: &[NodeSelector],
    favourite: Option<&str>,
) -> Result<String, String> {
    let mut obstacles: BTreeMap<String, usize> = BTreeMap::new();
    let mut fit: Vec<&Arc<Node>> = Vec::new();
    for node in &cluster.nodes {
        match obstacle(cluster, pod, node, volumes) {
            None => fit.push(node),
            Some(reason) => *obstacles.entry(reason).or_default() += 1,
        }
    }
    if let Some(node) = fit.iter().find(|node| Some(name(&node.metadata)) == favourite) {
        return Ok(name(&node.metadata).to_owned());
    }
    // The first by name of several that are equally good.
    let best = fit.into_iter().rev().max_by_key(|node| score(cluster, pod, node));
    best.map(|node| name(&node.metadata).to_owned()).ok_or_else(|| {
        if cluster.nodes.is_empty() {
            return "no nodes available to schedule pods".to_owned();
        }
        let reasons: Vec<String> =
            obstacles.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        format!("0/{} nodes are available: {}.", cluster.nodes.len(), reasons.join(", "))
    })
}
