//! The edge: reads the caches, carries a plan out.

use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod};
use kube::api::PostParams;
use kube::runtime::events::EventType;
use serde_json::json;

use super::claims::Claims;
use super::plan::{Action, Observed, plan};
use super::pod::{NAME_LABEL, ordinal};
use crate::sandbox::controllers::cache::Change;
use crate::sandbox::controllers::context::Context;
use crate::sandbox::controllers::error::{ReconcileError, is_conflict, is_there};
use crate::sandbox::controllers::meta::{
    Key, controller_of, controller_reference, is_controlled_by, is_deleting, label, name, namespace,
    reference, uid,
};
use crate::sandbox::controllers::queue::{Outcome, Queue};
use crate::sandbox::controllers::revision::{self, HASH_LABEL, Write};
use crate::sandbox::controllers::run::{Tasks, feed};
use crate::sandbox::controllers::{selector, write};

/// Starts the controller.
pub(in crate::sandbox::controllers) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let (queue, requests) = Queue::new();
    feed(&context.caches.sets, &queue, |change| change.latest().map(|set| Key::of(&**set)));
    let sets = context.caches.sets.clone();
    feed(&context.caches.pods, &queue, move |change: &Change<Pod>| {
        let mut keys = Vec::new();
        for pod in change.both() {
            match controller_of(&pod.metadata) {
                Some(owner) if owner.kind == "StatefulSet" => {
                    keys.push(Key::new(namespace(&pod.metadata), &owner.name));
                }
                Some(_) => {}
                None => keys.extend(
                    sets.in_namespace(namespace(&pod.metadata))
                        .iter()
                        .filter(|set| adoptable(set, pod))
                        .map(|set| Key::of(&**set)),
                ),
            }
        }
        keys.dedup();
        keys
    });
    tasks.controller(
        "statefulset",
        requests,
        4,
        |context, key| async move { reconcile(&context, &key).await },
    );
}

fn selects(set: &StatefulSet, pod: &Pod) -> bool {
    selector::matches(&set.spec.selector, pod.metadata.labels.as_ref())
}

/// Whether the set would take that pod for its own.
fn adoptable(set: &StatefulSet, pod: &Pod) -> bool {
    controller_of(&pod.metadata).is_none()
        && !is_deleting(&pod.metadata)
        && !is_deleting(&set.metadata)
        && ordinal(name(&set.metadata), name(&pod.metadata)).is_some()
        && selects(set, pod)
}

async fn reconcile(context: &Context, key: &Key) -> Outcome {
    let Some(set) = context.caches.sets.get(key) else { return Ok(None) };
    let pods = context.caches.pods.in_namespace(&key.namespace);
    if settle_ownership(context, &set, &pods).await? {
        // The watch brings the pods back with their new owner.
        return Ok(None);
    }
    let pods: Vec<Arc<Pod>> =
        pods.into_iter().filter(|pod| is_controlled_by(&pod.metadata, uid(&set.metadata))).collect();
    let claims: Claims = context
        .caches
        .claims
        .in_namespace(&key.namespace)
        .into_iter()
        .map(|claim| (name(&claim.metadata).to_owned(), claim))
        .collect();
    let in_use: Vec<&str> = pods.iter().filter_map(|pod| label(&pod.metadata, HASH_LABEL)).collect();
    let stored = context.caches.revisions.in_namespace(&key.namespace);
    let revisions = revision::resolve(&set, &stored, &in_use)?;
    if !is_deleting(&set.metadata) {
        write_revisions(context, &set, &revisions.writes).await?;
    }
    let plan = plan(&Observed {
        set: &set,
        pods: &pods,
        claims: &claims,
        current: &revisions.current,
        update: &revisions.update,
        now: Timestamp::now(),
    });
    let results = join_all(plan.actions.into_iter().map(|action| act(context, &set, action))).await;
    write::status(&context.api(&key.namespace), &*set, set.status.as_ref(), &plan.status).await?;
    results.into_iter().collect::<Result<Vec<()>, _>>()?;
    Ok(plan.recheck)
}

/// Takes matching pods in and lets go of those that match no more. True where something was written.
async fn settle_ownership(
    context: &Context,
    set: &Arc<StatefulSet>,
    pods: &[Arc<Pod>],
) -> Result<bool, ReconcileError> {
    let api = context.api::<Pod>(namespace(&set.metadata));
    let mut wrote = false;
    for pod in pods {
        if adoptable(set, pod) {
            // The cache may be older than the set's deletion: look before taking anything over.
            if !still_there(context, set).await? {
                return Ok(wrote);
            }
            let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
            owners.push(controller_reference(&**set));
            write::merge(&api, &**pod, json!({"metadata": {"ownerReferences": owners}})).await?;
            wrote = true;
        } else if is_controlled_by(&pod.metadata, uid(&set.metadata))
            && !is_deleting(&pod.metadata)
            && !is_deleting(&set.metadata)
            && !selects(set, pod)
        {
            let owners = pod.metadata.owner_references.iter().flatten();
            let owners: Vec<_> = owners.filter(|owner| owner.uid != uid(&set.metadata)).collect();
            write::merge(&api, &**pod, json!({"metadata": {"ownerReferences": owners}})).await?;
            wrote = true;
        }
    }
    Ok(wrote)
}

async fn still_there(context: &Context, set: &StatefulSet) -> Result<bool, ReconcileError> {
    let api = context.api::<StatefulSet>(namespace(&set.metadata));
    let fresh = api.get_opt(name(&set.metadata)).await?;
    Ok(fresh.is_some_and(|fresh| fresh.metadata.uid == set.metadata.uid && !is_deleting(&fresh.metadata)))
}

async fn write_revisions(
    context: &Context,
    set: &StatefulSet,
    writes: &[Write],
) -> Result<(), ReconcileError> {
    let api = context.api::<ControllerRevision>(namespace(&set.metadata));
    for each in writes {
        match each {
            Write::Adopt(revision) if still_there(context, set).await? => {
                let mut owners = revision.metadata.owner_references.clone().unwrap_or_default();
                owners.push(controller_reference(set));
                write::merge(&api, &**revision, json!({"metadata": {"ownerReferences": owners}})).await?;
            }
            Write::Adopt(_) => {}
            Write::Create(revision) => _ = api.create(&PostParams::default(), revision).await?,
            Write::Renumber(revision, number) => {
                write::merge(&api, &**revision, json!({"revision": number})).await?;
            }
            Write::Delete(revision) => write::delete(&api, &**revision).await?,
        }
    }
    Ok(())
}

async fn act(context: &Context, set: &StatefulSet, action: Action) -> Result<(), ReconcileError> {
    let space = namespace(&set.metadata);
    let pods = context.api::<Pod>(space);
    let claims = context.api::<PersistentVolumeClaim>(space);
    match action {
        Action::Start { claims: missing, pod } => {
            for claim in missing {
                match claims.create(&PostParams::default(), &claim).await {
                    Err(error) if !is_there(&error) => return Err(error.into()),
                    _ => {}
                }
            }
            if let Some(pod) = pod {
                let result = pods.create(&PostParams::default(), &pod).await;
                tell(context, set, "Create", name(&pod.metadata), &result).await;
                result?;
            }
        }
        Action::Stop { pod, why } => {
            tracing::debug!(pod = name(&pod.metadata), "delete a pod of a StatefulSet: {why}");
            let result = pods.delete(name(&pod.metadata), &write::delete_only(&*pod)).await;
            tell(context, set, "Delete", name(&pod.metadata), &result).await;
            crate::sandbox::controllers::error::absent_is_fine(result)?;
        }
        Action::Label(pod) => {
            write::merge(&pods, &*pod, json!({"metadata": {"labels": {NAME_LABEL: name(&pod.metadata)}}}))
                .await?;
        }
        Action::Own { claim, owners } => {
            write::merge(&claims, &*claim, json!({"metadata": {"ownerReferences": owners}})).await?;
        }
    }
    Ok(())
}

async fn tell<T>(
    context: &Context,
    set: &StatefulSet,
    verb: &str,
    pod: &str,
    result: &Result<T, kube::Error>,
) {
    let what = format!("{} Pod {pod} in StatefulSet {}", verb.to_lowercase(), name(&set.metadata));
    let (kind, reason, note) = match result {
        Ok(_) => (EventType::Normal, format!("Successful{verb}"), format!("{what} successful")),
        Err(error) if is_conflict(error) => return,
        Err(error) => (EventType::Warning, format!("Failed{verb}"), format!("{what} failed error: {error}")),
    };
    let of = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: set.metadata.namespace.clone(),
        name: Some(pod.to_owned()),
        ..ObjectReference::default()
    };
    context.event_with(&reference(set), Some(of), kind, &reason, verb, note).await;
}
