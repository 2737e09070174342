use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelector, Pod};
use serde_json::{Value, json};

use super::choose::{Cluster, choose};

fn node(name: &str, zone: &str, spec: Value) -> Arc<Node> {
    let node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": zone}},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut spec = spec;
    spec["containers"] = json!([]);
    let pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": "db"}}, "spec": spec});
    serde_json::from_value(pod).unwrap()
}

fn cluster(nodes: Vec<Arc<Node>>, pods: &[(&str, Value)]) -> Cluster {
    let pods = pods.iter().enumerate();
    let pods = pods.map(|(index, (node, spec))| {
        (Arc::new(pod(&format!("there-{index}"), spec.clone())), (*node).to_owned())
    });
    Cluster { nodes, pods: pods.collect(), ..Default::default() }
}

fn three() -> Vec<Arc<Node>> {
    vec![node("a", "z1", json!({})), node("b", "z1", json!({})), node("c", "z2", json!({}))]
}

fn spread(key: &str, when: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"app": "db"}}}]})
}

fn apart(required: bool) -> Value {
    let term =
        json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}});
    let rule = if required {
        json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]})
    } else {
        json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]})
    };
    json!({"affinity": {"podAntiAffinity": rule}})
}

#[test]
fn a_pod_goes_where_it_may_and_would_rather_be() {
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    let wish = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 5, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z2"]}]}}]}}});
    let plain = json!({});
    for (case, there, spec, expected) in [
        ("the first of equals", vec![], plain.clone(), "a"),
        ("fewest neighbours", vec!["a", "a", "b"], plain, "c"),
        ("node selector", vec![], json!({"nodeSelector": {"zone": "z2"}}), "c"),
        ("wish for a node", vec!["c"], wish, "c"),
        ("apart from its like", vec!["a", "b"], apart(true), "c"),
        ("rather apart from its like", vec!["a", "b", "c", "c"], apart(false), "a"),
        ("near its like", vec!["c"], near.clone(), "c"),
        ("the first may be anywhere", vec![], near, "a"),
        ("spread over zones", vec!["a"], spread("zone", "ScheduleAnyway"), "c"),
        ("spread over nodes", vec!["a", "c"], spread("kubernetes.io/hostname", "ScheduleAnyway"), "b"),
        ("spread over zones, strictly", vec!["a"], spread("zone", "DoNotSchedule"), "c"),
    ] {
        let there: Vec<(&str, Value)> = there.into_iter().map(|node| (node, json!({}))).collect();
        let chosen = choose(&cluster(three(), &there), &pod("p", spec), &[], None);
        assert_eq!(chosen.as_deref(), Ok(expected), "{case}");
    }
}

#[test]
fn one_node_is_enough_for_soft_wishes() {
    let one = || vec![node("a", "z1", json!({}))];
    for spec in [
        apart(false),
        spread("zone", "ScheduleAnyway"),
        spread("missing", "ScheduleAnyway"),
        spread("zone", "DoNotSchedule"),
    ] {
        let there = [("a", json!({})), ("a", json!({}))];
        assert_eq!(
            choose(&cluster(one(), &there), &pod("p", spec.clone()), &[], None).as_deref(),
            Ok("a"),
            "{spec}"
        );
    }
}

#[test]
fn who_fits_nowhere_is_told_why() {
    let tainted = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
    let mut unready = (*node("a", "z", json!({}))).clone();
    unready.status = None;
    for (nodes, there, spec, expected) in [
        (vec![], vec![], json!({}), "no nodes available to schedule pods"),
        (
            vec![Arc::new(unready), node("b", "z", json!({"unschedulable": true}))],
            vec![],
            json!({}),
            "0/2 nodes are available: 1 node(s) were not ready, 1 node(s) were unschedulable.",
        ),
        (
            vec![node("a", "z", tainted.clone())],
            vec![],
            json!({}),
            "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.",
        ),
        (
            three(),
            vec![],
            json!({"nodeSelector": {"zone": "z9"}}),
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
        ),
        (
            vec![node("a", "z", json!({}))],
            vec![("a", json!({}))],
            apart(true),
            "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
        ),
        (
            vec![node("a", "z", json!({}))],
            vec![("a", apart(true))],
            json!({}),
            "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
        ),
        (
            vec![node("a", "z", json!({}))],
            vec![],
            spread("missing", "DoNotSchedule"),
            "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints.",
        ),
    ] {
        let chosen = choose(&cluster(nodes, &there), &pod("p", spec), &[], None);
        assert_eq!(chosen, Err(expected.to_owned()));
    }
    for toleration in [
        json!({"key": "k", "value": "v"}),
        json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}),
        json!({"operator": "Exists"}),
    ] {
        let nodes = vec![node("a", "z", tainted.clone())];
        let spec = json!({"tolerations": [toleration]});
        assert_eq!(
            choose(&cluster(nodes, &[]), &pod("p", spec.clone()), &[], None).as_deref(),
            Ok("a"),
            "{spec}"
        );
    }
}

#[test]
fn volumes_bind_a_pod_to_their_place_and_a_choice_is_kept() {
    let place: NodeSelector = serde_json::from_value(json!({"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}]}))
    .unwrap();
    let whole = cluster(three(), &[("b", json!({}))]);
    assert_eq!(choose(&whole, &pod("p", json!({})), &[place], None).as_deref(), Ok("b"));
    assert_eq!(choose(&whole, &pod("p", json!({})), &[], Some("b")).as_deref(), Ok("b"));
    assert_eq!(choose(&whole, &pod("p", json!({})), &[], Some("gone")).as_deref(), Ok("a"));
}
