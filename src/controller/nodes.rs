//! The nodes, as far as they matter to members: whether they are about to be drained, or vouched to be off. Nodes belong
//! to the whole cluster: a controller that may not read them does without.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use super::retry;
use crate::plan::NodeState;

/// All nodes, by name.
#[derive(Debug, Default)]
pub struct Nodes(RwLock<BTreeMap<String, NodeState>>);

impl Nodes {
    /// Those of them that have one of the names.
    pub fn of(&self, names: &[String]) -> BTreeMap<String, NodeState> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.iter().filter_map(|name| Some((name.clone(), all.get(name)?.clone()))).collect()
    }

    /// Takes a node in, or out; whether that is news.
    fn set(&self, name: String, state: Option<NodeState>) -> bool {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = match state.clone() {
            Some(state) => all.insert(name, state),
            None => all.remove(&name),
        };
        before != state
    }

    fn retain(&self, names: &[String]) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name));
    }
}

/// Whether the controller may read nodes.
pub async fn readable(client: &Client) -> bool {
    let nodes: Api<Node> = Api::all(client.clone());
    let one = kube::api::ListParams::default().limit(1);
    match retry::read(|| nodes.list_metadata(&one)).await {
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            tracing::info!(
                "nodes may not be read: a cordoned node moves no primary, and no node's taint proves a death"
            );
            false
        }
        _ => true,
    }
}

/// Keeps them from their watch, for as long as it runs; `changed` is told a node's name.
pub async fn keep(client: Client, nodes: &Nodes, changed: impl Fn(&str), complete: watch::Sender<bool>) {
    let events =
        watcher(Api::<Node>::all(client), watcher::Config::default()).backoff(retry::WatchPauses::default());
    let mut events = std::pin::pin!(events);
    let mut listed = Vec::new();
    let take = |node: &Node| {
        if nodes.set(node.name_any(), Some(NodeState::from(node))) {
            changed(&node.name_any());
        }
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(node)) => take(&node),
            Ok(watcher::Event::Delete(node)) => drop(nodes.set(node.name_any(), None)),
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(node)) => {
                listed.push(node.name_any());
                take(&node);
            }
            Ok(watcher::Event::InitDone) => {
                nodes.retain(&listed);
                complete.send_replace(true);
            }
            Err(error) => tracing::warn!(%error, "the watch of nodes was interrupted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::OUT_OF_SERVICE;
    use serde_json::json;

    #[test]
    fn a_node_is_what_its_spec_says() {
        let node = |spec| {
            serde_json::from_value::<Node>(json!({ "metadata": { "name": "a" }, "spec": spec })).unwrap()
        };
        let off =
            json!({ "taints": [{ "key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute" }] });
        for (spec, cordoned, out_of_service) in [
            (json!({}), false, false),
            (
                json!({ "unschedulable": true, "taints": [{ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" }] }),
                true,
                false,
            ),
            (off, false, true),
        ] {
            assert_eq!(NodeState::from(&node(spec)), NodeState { cordoned, out_of_service });
        }
        let (nodes, plain) = (Nodes::default(), NodeState::default());
        assert!(nodes.set("a".into(), Some(plain.clone())) && !nodes.set("a".into(), Some(plain)));
        assert_eq!(nodes.of(&["a".into(), "b".into()]).len(), 1);
        assert!(nodes.set("a".into(), None) && nodes.of(&["a".into()]).is_empty());
    }
}
