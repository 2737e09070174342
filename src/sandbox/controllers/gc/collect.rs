//! The edge: asks the server about owners nobody knows, deletes, releases.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Api;
use kube::api::{
    DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use serde_json::json;
use tokio::sync::Notify;

use super::Observer;
use super::graph::{FOREGROUND, Graph, Node, ORPHAN, Owner, Policy, Verdict, judge};
use super::kinds::{Discovered, Kind};
use crate::sandbox::controllers::context::Context;
use crate::sandbox::controllers::error::{ReconcileError, absent_is_fine, is_not_found};
use crate::sandbox::controllers::meta::{has_finalizer, is_deleting, uid};
use crate::sandbox::controllers::queue::{Outcome, Queue};

/// Pause before looking again while not all kinds have been listed.
const UNLISTED: Duration = Duration::from_millis(200);

/// The graph, and what goes with it.
pub(super) struct Shared {
    graph: Mutex<Graph>,
    /// Kinds whose first list is still to come.
    unlisted: Mutex<HashSet<Arc<Kind>>>,
    queue: Queue<Arc<str>>,
    discovered: Discovered,
    pub(super) definitions: Notify,
}

impl Observer for Shared {
    fn observe(&self, kind: &Arc<Kind>, meta: &ObjectMeta, exists: bool) {
        let look = if exists {
            self.graph().put(uid(meta), Node::of(kind, meta))
        } else {
            self.graph().remove(uid(meta))
        };
        self.look_at(look);
    }
}

impl Shared {
    pub(super) fn new(queue: Queue<Arc<str>>, discovered: Discovered) -> Self {
        let (graph, unlisted) = (Mutex::default(), Mutex::default());
        Self { graph, unlisted, queue, discovered, definitions: Notify::new() }
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unlisted(&self) -> MutexGuard<'_, HashSet<Arc<Kind>>> {
        self.unlisted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_at(&self, uids: Vec<Arc<str>>) {
        for uid in uids {
            self.queue.add(uid);
        }
    }

    /// Resolves after a definition of kinds has changed.
    pub(super) async fn definitions_changed(&self) {
        self.definitions.notified().await;
    }

    /// From now on the graph lacks that kind's objects, until they are listed.
    pub(super) fn expect_list(&self, kind: &Arc<Kind>) {
        self.unlisted().insert(Arc::clone(kind));
    }

    /// The kind's objects are exactly these.
    pub(super) fn listed(&self, kind: &Arc<Kind>, present: &HashSet<String>) {
        let known = self.graph().of_kind(kind);
        for gone in known.into_iter().filter(|uid| !present.contains(&**uid)) {
            let look = self.graph().remove(&gone);
            self.look_at(look);
        }
        self.unlisted().remove(kind);
    }

    /// The kind is no more, or has another version from now on: nothing is known of its objects.
    pub(super) fn forget_kind(&self, kind: &Arc<Kind>) {
        let known = self.graph().of_kind(kind);
        for uid in known {
            let look = self.graph().forget(&uid);
            self.look_at(look);
        }
        self.unlisted().remove(kind);
    }

    /// Looks again at all whose owners could not be told.
    pub(super) fn look_at_doubtful(&self) {
        let doubtful = self.graph().doubtful();
        self.look_at(doubtful);
    }

    /// Whether the graph may be taken for the whole truth.
    fn complete(&self) -> bool {
        !self.discovered.borrow().is_empty() && self.unlisted().is_empty()
    }

    /// The kind an owner reference speaks of, in whatever version.
    fn resolve(&self, owner: &Owner) -> Option<Arc<Kind>> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let kinds = self.discovered.borrow();
        kinds.iter().find(|kind| kind.group == group && kind.kind == owner.kind).cloned()
    }
}

/// Deals with one object.
pub(super) async fn reconcile(context: &Context, shared: &Shared, uid: &Arc<str>) -> Outcome {
    let Some(node) = shared.graph().get(uid).cloned() else { return Ok(None) };
    if node.releases_dependents() || node.awaits_dependents() {
        // A dependent that is not known yet would be overlooked.
        if !shared.complete() {
            return Ok(Some(UNLISTED));
        }
        return if node.releases_dependents() {
            release_dependents(context, shared, uid, &node).await
        } else {
            await_dependents(context, shared, uid, &node).await
        };
    }
    if node.deleting || node.owners.is_empty() {
        return Ok(None);
    }
    let (mut owners, has_dependents) = {
        let graph = shared.graph();
        (graph.owners(&node), graph.dependents(uid).next().is_some())
    };
    let mut gone = std::mem::take(&mut owners.gone);
    for owner in std::mem::take(&mut owners.unknown) {
        match ask(context, shared, &node, &owner).await? {
            Answer::Solid => owners.solid.push(owner.uid),
            Answer::Waiting => owners.waiting.push(owner.uid),
            Answer::Gone => gone.push(owner.uid),
            // Its kind is not known: it is looked at again when kinds change.
            Answer::Unclear => return Ok(None),
        }
    }
    match judge(&node, has_dependents, owners.solid.len(), &owners.waiting, &gone) {
        Verdict::Keep => Ok(None),
        Verdict::Release(former) => release(context, uid, &node, &former).await,
        Verdict::Delete(policy) => delete(context, uid, &node, policy).await,
    }
}

enum Answer {
    Solid,
    Waiting,
    Gone,
    Unclear,
}

/// Asks the server about an owner.
async fn ask(
    context: &Context,
    shared: &Shared,
    node: &Node,
    owner: &Owner,
) -> Result<Answer, ReconcileError> {
    let Some(kind) = shared.resolve(owner) else { return Ok(Answer::Unclear) };
    if kind.namespaced && node.namespace.is_empty() {
        // What belongs to no namespace cannot be owned from within one; the reference says nothing.
        return Ok(Answer::Unclear);
    }
    let found = match kind.api(&context.client, &node.namespace).get_metadata(&owner.name).await {
        Ok(found) => Some(found),
        Err(error) if names_an_object(&error) => None,
        Err(error) => {
            // The kind itself may not be served as it was any more. That says nothing about the object.
            shared.definitions.notify_one();
            return Err(error.into());
        }
    };
    Ok(match found {
        Some(found) if uid(&found.metadata) == &*owner.uid => {
            let waits = is_deleting(&found.metadata) && has_finalizer(&found.metadata, FOREGROUND);
            if waits { Answer::Waiting } else { Answer::Solid }
        }
        _ => Answer::Gone,
    })
}

/// Whether the server says that it knows the kind, but has no such object.
fn names_an_object(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.code == 404 && status.details.as_ref().is_some_and(|details| !details.name.is_empty())
}

/// The object as the server has it now, if it is still the same one.
async fn fresh(
    context: &Context,
    uid_wanted: &str,
    node: &Node,
) -> Result<Option<(Api<DynamicObject>, ObjectMeta)>, ReconcileError> {
    let api = node.kind.api(&context.client, &node.namespace);
    let found = api.get_metadata_opt(&node.name).await?;
    Ok(found.map(|found| found.metadata).filter(|meta| uid(meta) == uid_wanted).map(|meta| (api, meta)))
}

async fn patch(api: &Api<DynamicObject>, meta: &ObjectMeta, key: &str, value: serde_json::Value) -> Outcome {
    let name = meta.name.as_deref().unwrap_or_default();
    let mut body = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}});
    body["metadata"][key] = value;
    absent_is_fine(api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&body)).await)?;
    Ok(None)
}

/// Takes references to owners that are none away from an object that stays.
async fn release(context: &Context, uid: &str, node: &Node, former: &[Arc<str>]) -> Outcome {
    let Some((api, meta)) = fresh(context, uid, node).await? else { return Ok(None) };
    let owners = meta.owner_references.iter().flatten();
    let kept: Vec<_> = owners.filter(|owner| former.iter().all(|gone| **gone != *owner.uid)).collect();
    if kept.len() == meta.owner_references.iter().flatten().count() {
        return Ok(None);
    }
    let kept = json!(kept);
    patch(&api, &meta, "ownerReferences", kept).await
}

async fn delete(context: &Context, uid: &str, node: &Node, policy: Policy) -> Outcome {
    let Some((api, meta)) = fresh(context, uid, node).await? else { return Ok(None) };
    let owners: Vec<Arc<str>> =
        meta.owner_references.iter().flatten().map(|owner| owner.uid.as_str().into()).collect();
    if is_deleting(&meta) || !node.owners.iter().map(|owner| &owner.uid).eq(owners.iter()) {
        // It has changed since it was judged: the watch will tell, and it is judged anew.
        return Ok(None);
    }
    let params = DeleteParams {
        propagation_policy: Some(match policy {
            Policy::Background => PropagationPolicy::Background,
            Policy::Foreground => PropagationPolicy::Foreground,
            Policy::Orphan => PropagationPolicy::Orphan,
        }),
        preconditions: Some(Preconditions {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        }),
        ..Default::default()
    };
    match api.delete(&node.name, &params).await {
        Err(error) if !is_not_found(&error) => Err(error.into()),
        _ => Ok(None),
    }
}

/// Lets an object go that was deleted in the foreground, once nothing blocks it.
async fn await_dependents(context: &Context, shared: &Shared, uid: &Arc<str>, node: &Node) -> Outcome {
    let blocking = shared.graph().blocking(uid);
    if blocking.is_empty() {
        return drop_finalizer(context, uid, node, FOREGROUND).await;
    }
    // Each of them is judged by itself; the last one's end brings this object back here.
    shared.look_at(blocking);
    Ok(None)
}

/// Lets the dependents of an object go on without it, and then the object.
async fn release_dependents(context: &Context, shared: &Shared, uid: &Arc<str>, node: &Node) -> Outcome {
    let dependents: Vec<(Arc<str>, Node)> =
        shared.graph().dependents(uid).map(|(uid, node)| (Arc::clone(uid), node.clone())).collect();
    for (dependent, its) in &dependents {
        release(context, dependent, its, std::slice::from_ref(uid)).await?;
    }
    drop_finalizer(context, uid, node, ORPHAN).await
}

async fn drop_finalizer(context: &Context, uid: &str, node: &Node, finalizer: &str) -> Outcome {
    let Some((api, meta)) = fresh(context, uid, node).await? else { return Ok(None) };
    if !has_finalizer(&meta, finalizer) {
        return Ok(None);
    }
    let kept: Vec<&String> = meta.finalizers.iter().flatten().filter(|each| *each != finalizer).collect();
    let kept = json!(kept);
    patch(&api, &meta, "finalizers", kept).await
}
