//! PodDisruptionBudgets: how many pods may be evicted now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::cache::Change;
use super::context::Context;
use super::meta::{Key, controller_of, is_deleting, is_finished, is_ready, name, namespace};
use super::queue::{Outcome, Queue};
use super::run::{Tasks, feed};
use super::{selector, write};

/// How long an eviction that was allowed counts without the pod being deleted.
const EVICTION: i64 = 120;

/// Starts the controller.
pub(super) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let (queue, requests) = Queue::new();
    feed(&context.caches.budgets, &queue, |change| change.new.as_ref().map(|budget| Key::of(&**budget)));
    let budgets = context.caches.budgets.clone();
    feed(&context.caches.pods, &queue, move |change: &Change<Pod>| {
        let mut keys = BTreeSet::new();
        for pod in change.both() {
            let near = budgets.in_namespace(namespace(&pod.metadata));
            keys.extend(near.iter().filter(|budget| covers(budget, pod)).map(|budget| Key::of(&**budget)));
        }
        keys
    });
    let budgets = context.caches.budgets.clone();
    feed(&context.caches.sets, &queue, move |change| {
        let space = change.latest().map(|set| namespace(&set.metadata).to_owned()).unwrap_or_default();
        budgets.in_namespace(&space).iter().map(|budget| Key::of(&**budget)).collect::<Vec<_>>()
    });
    tasks.controller(
        "disruption",
        requests,
        2,
        |context, key| async move { reconcile(&context, &key).await },
    );
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| selector::matches(selector, pod.metadata.labels.as_ref()))
}

async fn reconcile(context: &Context, key: &Key) -> Outcome {
    let Some(budget) = context.caches.budgets.get(key) else { return Ok(None) };
    if is_deleting(&budget.metadata) {
        return Ok(None);
    }
    let pods: Vec<Arc<Pod>> = context
        .caches
        .pods
        .in_namespace(&key.namespace)
        .into_iter()
        .filter(|pod| covers(&budget, pod))
        .collect();
    let scale = expected(context, &key.namespace, &pods);
    let (status, recheck) = decide(&budget, &pods, scale, Timestamp::now());
    write::status(&context.api(&key.namespace), &*budget, budget.status.as_ref(), &status).await?;
    Ok(recheck)
}

/// How many pods the pods' controllers mean to have.
fn expected(context: &Context, space: &str, pods: &[Arc<Pod>]) -> i32 {
    let mut total = 0;
    let mut seen = BTreeMap::new();
    for pod in pods {
        match controller_of(&pod.metadata) {
            Some(owner) if owner.kind == "StatefulSet" => {
                let set = context.caches.sets.get(&Key::new(space, &owner.name));
                let replicas = set.map_or(0, |set| set.spec.replicas.unwrap_or(1));
                seen.insert(owner.uid.clone(), replicas);
            }
            _ => total += 1,
        }
    }
    total + seen.values().sum::<i32>()
}

/// A number, or a part of `total` rounded up.
fn resolve(value: &IntOrString, total: i32) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i32 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
            total.saturating_mul(percent).saturating_add(99) / 100
        }
    }
}

/// The status by what is there. Pure.
fn decide(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: i32,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let spec = budget.spec.as_ref();
    let live: Vec<&Arc<Pod>> = pods.iter().filter(|pod| !is_finished(pod)).collect();
    let (expected, desired) = match spec.map(|spec| (&spec.max_unavailable, &spec.min_available)) {
        Some((Some(most), _)) => (scale, (scale - resolve(most, scale)).max(0)),
        Some((_, Some(IntOrString::Int(least)))) => (count(live.len()), *least),
        Some((_, Some(least))) => (scale, resolve(least, scale)),
        _ => (count(live.len()), 1),
    };
    let old = budget.status.clone().unwrap_or_default();
    let mut recheck: Option<Duration> = None;
    let disrupted: BTreeMap<String, Time> = old
        .disrupted_pods
        .unwrap_or_default()
        .into_iter()
        .filter(|(pod, since)| {
            let there = live.iter().any(|each| name(&each.metadata) == pod && !is_deleting(&each.metadata));
            let rest = since.0.as_second() + EVICTION - now.as_second();
            let rest = u64::try_from(rest).unwrap_or(0);
            if there && rest > 0 {
                let rest = Duration::from_secs(rest);
                recheck = Some(recheck.map_or(rest, |other| other.min(rest)));
            }
            there && rest > 0
        })
        .collect();
    let healthy = live.iter().filter(|pod| {
        is_ready(pod) && !is_deleting(&pod.metadata) && !disrupted.contains_key(name(&pod.metadata))
    });
    let healthy = count(healthy.count());
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(vec![condition(budget, allowed, now)]),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    (status, recheck)
}

fn condition(budget: &PodDisruptionBudget, allowed: i32, now: Timestamp) -> Condition {
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let old = budget.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let same = old.filter(|each| each.type_ == "DisruptionAllowed").find(|each| each.status == status);
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: budget.metadata.generation,
        last_transition_time: same.map_or(Time(now), |same| same.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pods(states: &str) -> Vec<Arc<Pod>> {
        let pod = |(index, state): (usize, char)| {
            let ready = if state == 'U' { "False" } else { "True" };
            let phase = if state == 'F' { "Failed" } else { "Running" };
            let mut pod = json!({"metadata": {"name": format!("p-{index}")}, "status": {"phase": phase,
                "conditions": [{"type": "Ready", "status": ready}]}});
            if state == 'T' {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        states.chars().enumerate().map(pod).collect()
    }

    fn decided(spec: Value, status: Value, states: &str, scale: i32) -> PodDisruptionBudgetStatus {
        let budget = json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status});
        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        decide(&serde_json::from_value(budget).unwrap(), &pods(states), scale, now).0
    }

    #[test]
    fn evictions_are_allowed_as_far_as_enough_pods_are_healthy() {
        for (spec, states, scale, healthy, desired, allowed, expected) in [
            (json!({"minAvailable": 1}), "R", 1, 1, 1, 0, 1),
            (json!({"minAvailable": 1}), "RRR", 3, 3, 1, 2, 3),
            (json!({"minAvailable": 2}), "RUT", 3, 1, 2, 0, 3),
            (json!({"minAvailable": "50%"}), "RRR", 3, 3, 2, 1, 3),
            (json!({"maxUnavailable": 1}), "RRR", 3, 3, 2, 1, 3),
            (json!({"maxUnavailable": 1}), "RR", 3, 2, 2, 0, 3),
            (json!({"maxUnavailable": "100%"}), "RR", 2, 2, 0, 2, 2),
            (json!({"minAvailable": 0}), "", 0, 0, 0, 0, 0),
            (json!({"minAvailable": 1}), "RF", 2, 1, 1, 0, 1),
        ] {
            let status = decided(spec.clone(), json!(null), states, scale);
            let got = (
                status.current_healthy,
                status.desired_healthy,
                status.disruptions_allowed,
                status.expected_pods,
            );
            assert_eq!(got, (Some(healthy), Some(desired), Some(allowed), Some(expected)), "{spec} {states}");
            assert_eq!(status.observed_generation, Some(3));
        }
    }

    #[test]
    fn an_evicted_pod_counts_as_gone_for_a_while() {
        let with = |time: &str| json!({"disruptedPods": {"p-0": time, "gone": time}});
        let status = decided(json!({"minAvailable": 1}), with("2026-01-01T00:04:00Z"), "RRR", 3);
        assert_eq!(status.disruptions_allowed, Some(1));
        assert_eq!(status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["p-0"]);
        let status = decided(json!({"minAvailable": 1}), with("2026-01-01T00:02:00Z"), "RRR", 3);
        assert_eq!((status.disruptions_allowed, status.disrupted_pods), (Some(2), None));
    }

    #[test]
    fn the_condition_keeps_its_time_until_it_flips() {
        let first = decided(json!({"minAvailable": 1}), json!(null), "RR", 2);
        let mut old = serde_json::to_value(&first).unwrap();
        old["conditions"][0]["lastTransitionTime"] = json!("2025-01-01T00:00:00Z");
        let same = decided(json!({"minAvailable": 1}), old.clone(), "RR", 2);
        assert_eq!(serde_json::to_value(same).unwrap(), old);
        let flipped = decided(json!({"minAvailable": 1}), old, "R", 2);
        assert_eq!(
            flipped.conditions.unwrap()[0].last_transition_time,
            first.conditions.unwrap()[0].last_transition_time
        );
    }
}
