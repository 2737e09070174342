use std::sync::Arc;

use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::graph::{Graph, Node, Policy, Verdict, judge};
use super::kinds::Kind;

fn kind() -> Arc<Kind> {
    Kind::typed::<k8s_openapi::api::core::v1::ConfigMap>()
}

fn node(meta: Value) -> Node {
    let meta: ObjectMeta = serde_json::from_value(meta).unwrap();
    Node::of(&kind(), &meta)
}

fn owned(name: &str, owners: &[&str]) -> Node {
    let owners: Vec<Value> = owners
        .iter()
        .map(|uid| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid, "blockOwnerDeletion": true}))
        .collect();
    node(json!({"name": name, "namespace": "n", "ownerReferences": owners}))
}

fn foreground(name: &str) -> Node {
    node(json!({"name": name, "namespace": "n", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "finalizers": ["foregroundDeletion"]}))
}

fn uids(list: Vec<Arc<str>>) -> Vec<String> {
    let mut list: Vec<String> = list.iter().map(|uid| uid.to_string()).collect();
    list.sort();
    list.dedup();
    list
}

#[test]
fn the_end_of_an_owner_brings_its_dependents_up_whatever_came_first() {
    for owner_first in [true, false] {
        let mut graph = Graph::default();
        if owner_first {
            graph.put("o", owned("o", &[]));
        }
        graph.put("a", owned("a", &["o"]));
        graph.put("b", owned("b", &["o", "p"]));
        if !owner_first {
            graph.put("o", owned("o", &[]));
        }
        assert_eq!(graph.owners(&owned("b", &["o", "p"])).solid.len(), 1);
        assert_eq!(uids(graph.doubtful()), ["b"]);
        assert_eq!(uids(graph.remove("o")), ["a", "b"]);
        assert_eq!(uids(graph.owners(&owned("a", &["o"])).gone), ["o"]);
        graph.remove("a");
        graph.remove("b");
        assert_eq!(graph.owners(&owned("a", &["o"])).gone.len(), 0, "remembered for nobody");
    }
}

#[test]
fn a_change_that_says_nothing_of_owners_costs_nothing() {
    let mut graph = Graph::default();
    assert_eq!(uids(graph.put("a", owned("a", &["o"]))), ["a"]);
    assert_eq!(uids(graph.put("a", owned("a", &["o"]))), Vec::<String>::new());
    assert_eq!(uids(graph.put("a", owned("a", &[]))), ["o"]);
    assert_eq!(uids(graph.remove("o")), Vec::<String>::new());
}

#[test]
fn an_owner_that_waits_is_looked_at_when_a_dependent_goes() {
    let mut graph = Graph::default();
    graph.put("o", owned("o", &[]));
    graph.put("a", owned("a", &["o"]));
    let mut free = owned("b", &["o"]);
    free.owners[0].blocks = false;
    graph.put("b", free);
    assert_eq!(uids(graph.put("o", foreground("o"))), ["a", "b", "o"]);
    assert_eq!(uids(graph.blocking("o")), ["a"]);
    assert_eq!(graph.owners(&owned("a", &["o"])).waiting.len(), 1);
    assert_eq!(uids(graph.remove("a")), ["o"]);
    assert_eq!(uids(graph.blocking("o")), Vec::<String>::new());
}

#[test]
fn an_owner_of_a_kind_that_is_not_served_any_more_is_doubtful_but_not_gone() {
    let mut graph = Graph::default();
    graph.put("o", owned("o", &[]));
    graph.put("a", owned("a", &["o"]));
    assert_eq!(uids(graph.forget("o")), ["a"]);
    let owners = graph.owners(&owned("a", &["o"]));
    assert_eq!((owners.gone.len(), owners.unknown.len()), (0, 1));
    assert_eq!(uids(graph.doubtful()), ["a"]);
}

#[test]
fn an_owner_in_another_namespace_has_to_be_asked_for() {
    let mut graph = Graph::default();
    graph.put("o", node(json!({"name": "o", "namespace": "elsewhere"})));
    let owners = graph.owners(&owned("a", &["o"]));
    assert_eq!((owners.solid.len(), owners.unknown.len()), (0, 1));
    graph.put("o", node(json!({"name": "o"})));
    assert_eq!(graph.owners(&owned("a", &["o"])).solid.len(), 1);
}

#[test]
fn verdicts() {
    let plain = owned("a", &["o"]);
    let mut orphan = plain.clone();
    orphan.orphan = true;
    let list = |uids: &[&str]| -> Vec<Arc<str>> { uids.iter().map(|uid| Arc::from(*uid)).collect() };
    for (case, node, dependents, solid, waiting, gone, expected) in [
        ("owner is there", &plain, false, 1, vec![], vec![], Verdict::Keep),
        ("owner gone", &plain, false, 0, vec![], vec!["o"], Verdict::Delete(Policy::Background)),
        ("one of two gone", &plain, false, 1, vec![], vec!["o"], Verdict::Release(list(&["o"]))),
        ("owner waits", &plain, false, 0, vec!["o"], vec![], Verdict::Delete(Policy::Background)),
        (
            "owner waits, own dependents",
            &plain,
            true,
            0,
            vec!["o"],
            vec![],
            Verdict::Delete(Policy::Foreground),
        ),
        ("one waits, one stays", &plain, true, 1, vec!["o"], vec![], Verdict::Release(list(&["o"]))),
        (
            "its own dependents are to stay",
            &orphan,
            true,
            0,
            vec![],
            vec!["o"],
            Verdict::Delete(Policy::Orphan),
        ),
    ] {
        assert_eq!(judge(node, dependents, solid, &list(&waiting), &list(&gone)), expected, "{case}");
    }
}
