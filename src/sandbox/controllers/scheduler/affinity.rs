//! Where a pod may and would like to be: node selectors, taints, other pods. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelector, NodeSelectorTerm, Pod, PodAffinityTerm, Taint, Toleration,
};

use super::choose::Cluster;
use crate::sandbox::controllers::meta::{contains, is_finished, label, name, namespace};
use crate::sandbox::controllers::selector::{self, requirement};

/// Whether the node is what the selector asks for: any of its terms.
pub(super) fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_holds(term, node))
}

fn term_holds(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let empty = term.match_expressions.is_none() && term.match_fields.is_none();
    !empty
        && labels.into_iter().all(|each| {
            requirement(
                &each.operator,
                label(&node.metadata, &each.key),
                each.values.as_deref().unwrap_or_default(),
            )
        })
        && fields.into_iter().all(|each| {
            let value = (each.key == "metadata.name").then(|| name(&node.metadata));
            requirement(&each.operator, value, each.values.as_deref().unwrap_or_default())
        })
}

pub(super) fn affinity(pod: &Pod) -> Option<&Affinity> {
    pod.spec.as_ref()?.affinity.as_ref()
}

/// Whether the pod's node selector and required node affinity allow the node.
pub(super) fn node_allowed(pod: &Pod, node: &Node) -> bool {
    let plain = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    let required = affinity(pod).and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        required.and_then(|each| each.required_during_scheduling_ignored_during_execution.as_ref());
    contains(node.metadata.labels.as_ref(), plain) && required.is_none_or(|selector| selects(selector, node))
}

/// How much the pod would like the node.
pub(super) fn node_preference(pod: &Pod, node: &Node) -> i64 {
    let wishes = affinity(pod).and_then(|affinity| affinity.node_affinity.as_ref());
    let wishes = wishes.and_then(|each| each.preferred_during_scheduling_ignored_during_execution.as_ref());
    let wishes = wishes.into_iter().flatten().filter(|wish| term_holds(&wish.preference, node));
    wishes.map(|wish| i64::from(wish.weight)).sum()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    };
    (effect.is_empty() || effect == taint.effect)
        && value
        && (key == taint.key || (key.is_empty() && toleration.operator.as_deref() == Some("Exists")))
}

/// Whether the pod bears a taint.
pub(in crate::sandbox::controllers) fn bears(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.into_iter().any(|toleration| tolerates(toleration, taint))
}

/// The first of the node's taints that the pod does not bear, of those that keep pods away or put them off.
pub(super) fn unborne<'a>(pod: &Pod, node: &'a Node, hard: bool) -> Option<&'a Taint> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    let concerns = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute") == hard;
    taints.iter().filter(|taint| concerns(&taint.effect)).find(|taint| !bears(pod, taint))
}

/// Whether a term about other pods, asked by `pod`, means `other`.
fn means(cluster: &Cluster, pod: &Pod, term: &PodAffinityTerm, other: &Pod) -> bool {
    let space = namespace(&other.metadata);
    let listed = term.namespaces.iter().flatten().any(|each| each == space);
    let selected = term
        .namespace_selector
        .as_ref()
        .is_some_and(|selector| selector::matches(selector, cluster.namespaces.get(space)));
    let own = term.namespaces.iter().flatten().next().is_none()
        && term.namespace_selector.is_none()
        && namespace(&pod.metadata) == space;
    (listed || selected || own)
        && !is_finished(other)
        && term
            .label_selector
            .as_ref()
            .is_some_and(|selector| selector::matches(selector, other.metadata.labels.as_ref()))
}

/// Whether two nodes are the same place by that label; a node without it is nowhere.
fn same_place(topology: &str, one: &Node, other: Option<&Node>) -> bool {
    let place = label(&one.metadata, topology);
    place.is_some() && place == other.and_then(|other| label(&other.metadata, topology))
}

fn terms(pod: &Pod, repelling: bool) -> &[PodAffinityTerm] {
    let Some(affinity) = affinity(pod) else { return &[] };
    let terms = if repelling {
        affinity
            .pod_anti_affinity
            .as_ref()
            .map(|each| &each.required_during_scheduling_ignored_during_execution)
    } else {
        affinity.pod_affinity.as_ref().map(|each| &each.required_during_scheduling_ignored_during_execution)
    };
    terms.and_then(|terms| terms.as_deref()).unwrap_or_default()
}

/// Whether the pods that must be near are near. The first of a group that wants its own kind near may go anywhere.
pub(super) fn attracted(cluster: &Cluster, pod: &Pod, node: &Node) -> bool {
    terms(pod, false).iter().all(|term| {
        let mut meant = cluster.pods.iter().filter(|(other, _)| means(cluster, pod, term, other)).peekable();
        if meant.peek().is_none() {
            return means(cluster, pod, term, pod);
        }
        meant.any(|(_, place)| same_place(&term.topology_key, node, cluster.node(place)))
    })
}

/// Whether a pod that must not be near is near.
pub(super) fn repelled(cluster: &Cluster, pod: &Pod, node: &Node) -> bool {
    terms(pod, true).iter().any(|term| {
        cluster.pods.iter().any(|(other, place)| {
            means(cluster, pod, term, other) && same_place(&term.topology_key, node, cluster.node(place))
        })
    })
}

/// Whether a pod that is there must not have this one near.
pub(super) fn unwelcome(cluster: &Cluster, pod: &Pod, node: &Node) -> bool {
    cluster.pods.iter().any(|(other, place)| {
        terms(other, true).iter().any(|term| {
            means(cluster, other, term, pod) && same_place(&term.topology_key, node, cluster.node(place))
        })
    })
}

/// How much the pod would like the company it would have on the node.
pub(super) fn company(cluster: &Cluster, pod: &Pod, node: &Node) -> i64 {
    let Some(affinity) = affinity(pod) else { return 0 };
    let near = affinity.pod_affinity.as_ref();
    let near = near.and_then(|each| each.preferred_during_scheduling_ignored_during_execution.as_ref());
    let far = affinity.pod_anti_affinity.as_ref();
    let far = far.and_then(|each| each.preferred_during_scheduling_ignored_during_execution.as_ref());
    let near = near.into_iter().flatten().map(|wish| (wish, 1));
    let far = far.into_iter().flatten().map(|wish| (wish, -1));
    near.chain(far)
        .map(|(wish, sign)| {
            let term = &wish.pod_affinity_term;
            let met = cluster.pods.iter().filter(|(other, place)| {
                means(cluster, pod, term, other) && same_place(&term.topology_key, node, cluster.node(place))
            });
            sign * i64::from(wish.weight) * i64::try_from(met.count()).unwrap_or(i64::MAX / 1000)
        })
        .sum()
}

/// Labels of namespaces by name.
pub(super) type NamespaceLabels = BTreeMap<String, BTreeMap<String, String>>;
