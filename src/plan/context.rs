//! What every part of a plan starts from.

use serde_json::{Value, json};

use super::compare::{covers, stamp};
use super::view::View;
use super::{Action, Apply, Kind, Observed, Settings};
use crate::api::{Database, DatabaseSpec, GROUP, Names};

/// One Database, what there is of it, and what that means.
pub struct Context<'a> {
    /// The Database.
    pub database: &'a Database,
    /// Names of its objects.
    pub names: Names<'a>,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its uid; empty in a dry run of what does not exist yet.
    pub uid: &'a str,
    /// What there is.
    pub observed: &'a Observed,
    /// What it means.
    pub view: View<'a>,
    /// The controller's settings.
    pub settings: &'a Settings,
}

impl<'a> Context<'a> {
    /// Reads the observed state.
    pub fn new(database: &'a Database, observed: &'a Observed, settings: &'a Settings) -> Self {
        let name = database.metadata.name.as_deref().unwrap_or_default();
        Self {
            database,
            names: Names(name),
            namespace: database.metadata.namespace.as_deref().unwrap_or("default"),
            uid: database.metadata.uid.as_deref().unwrap_or_default(),
            observed,
            view: View::new(name, observed),
            settings,
        }
    }

    /// The spec.
    pub fn spec(&self) -> &'a DatabaseSpec {
        &self.database.spec
    }

    /// Whether a pod is on a node that takes no further pods.
    pub fn on_cordoned_node(&self, pod: &Value) -> bool {
        let node = super::text(pod, "/spec/nodeName").and_then(|node| self.observed.nodes.get(node));
        node.is_some_and(|node| node.cordoned)
    }

    /// An object with name and labels, and nothing that ties it to the Database's life: data, history and keys.
    pub fn retained(&self, kind: Kind, name: &str) -> Value {
        json!({
            "apiVersion": kind.api_version(),
            "kind": kind.as_str(),
            "metadata": { "name": name, "namespace": self.namespace, "labels": self.names.labels() },
        })
    }

    /// An object that goes with the Database; `rest` holds what follows the metadata.
    pub fn owned(&self, kind: Kind, name: &str, rest: Value) -> Value {
        let mut object = self.retained(kind, name);
        object["metadata"]["ownerReferences"] = json!([{
            "apiVersion": format!("{GROUP}/v1alpha1"),
            "kind": "Database",
            "name": self.names.0,
            "uid": self.uid,
            // Not blockOwnerDeletion: a deletion in the foreground would take the members' Role before the members stop, and
            // some clusters let only those who may change a Database's finalizers set it.
            "controller": true,
        }]);
        if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
            object.extend(rest);
        }
        object
    }

    /// The write that brings the live object to `body`, if it lacks anything.
    pub fn apply(&self, kind: Kind, body: Value) -> Option<Apply> {
        let mut body = body;
        stamp(&mut body);
        let live = self.observed.get(kind, super::name_of(&body));
        if live.is_some_and(|live| covers(live, &body)) {
            return None;
        }
        let uid = live.and_then(super::uid_of).map(str::to_owned);
        Some(Apply { kind, body, uid, leader_below: None })
    }

    /// [`Context::apply`], as an action.
    pub fn apply_action(&self, kind: Kind, body: Value) -> Option<Action> {
        self.apply(kind, body).map(Action::Apply)
    }
}
