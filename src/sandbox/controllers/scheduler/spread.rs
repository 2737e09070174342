//! Even spreading over zones, nodes or whatever a label tells apart. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, TopologySpreadConstraint};

use super::affinity::{node_allowed, unborne};
use super::choose::{Cluster, cordoned};
use crate::sandbox::controllers::meta::{is_deleting, label, namespace};
use crate::sandbox::controllers::selector;

fn constraints(pod: &Pod, hard: bool) -> impl Iterator<Item = &TopologySpreadConstraint> {
    let all = pod.spec.iter().flat_map(|spec| spec.topology_spread_constraints.iter().flatten());
    all.filter(move |each| (each.when_unsatisfiable == "DoNotSchedule") == hard)
}

fn counts(pod: &Pod, constraint: &TopologySpreadConstraint, other: &Pod) -> bool {
    let selected = constraint
        .label_selector
        .as_ref()
        .is_some_and(|selector| selector::matches(selector, other.metadata.labels.as_ref()));
    let keys = constraint.match_label_keys.iter().flatten();
    selected
        && namespace(&pod.metadata) == namespace(&other.metadata)
        && !is_deleting(&other.metadata)
        && keys.into_iter().all(|key| {
            let own = label(&pod.metadata, key);
            own.is_none() || own == label(&other.metadata, key)
        })
}

/// Pods per place, over the places the pod could be in at all.
fn census<'a>(
    cluster: &'a Cluster,
    pod: &Pod,
    constraint: &TopologySpreadConstraint,
) -> BTreeMap<&'a str, i64> {
    let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    let ignores_affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore");
    let mut census = BTreeMap::new();
    for node in &cluster.nodes {
        let eligible = (ignores_affinity || node_allowed(pod, node))
            && !(honours_taints && (unborne(pod, node, true).is_some() || cordoned(pod, node)));
        if let Some(place) = label(&node.metadata, &constraint.topology_key).filter(|_| eligible) {
            census.entry(place).or_insert(0);
        }
    }
    for (other, node) in &cluster.pods {
        let place = cluster.node(node).and_then(|node| label(&node.metadata, &constraint.topology_key));
        if let Some(count) = place.and_then(|place| census.get_mut(place))
            && counts(pod, constraint, other)
        {
            *count += 1;
        }
    }
    census
}

/// Whether the pod on that node would keep within every skew it must not pass.
pub(super) fn allowed(cluster: &Cluster, pod: &Pod, node: &Node) -> bool {
    constraints(pod, true).all(|constraint| {
        let census = census(cluster, pod, constraint);
        let Some(place) = label(&node.metadata, &constraint.topology_key) else { return false };
        let Some(here) = census.get(place) else { return false };
        let too_few = constraint
            .min_domains
            .is_some_and(|least| i64::from(least) > i64::try_from(census.len()).unwrap_or(0));
        let fewest = if too_few { 0 } else { census.values().copied().min().unwrap_or(0) };
        let own = i64::from(counts(pod, constraint, pod));
        here + own - fewest <= i64::from(constraint.max_skew)
    })
}

/// How many pods share the places on that node that the pod would rather share with few.
pub(super) fn crowd(cluster: &Cluster, pod: &Pod, node: &Node) -> i64 {
    constraints(pod, false)
        .map(|constraint| {
            let census = census(cluster, pod, constraint);
            let here = label(&node.metadata, &constraint.topology_key).and_then(|place| census.get(place));
            // A node that is in no such place comes after all that are.
            here.copied().unwrap_or_else(|| census.values().sum::<i64>() + 1)
        })
        .sum()
}
