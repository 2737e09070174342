//! Namespaces on their way out: what is in them goes first.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};

use super::context::Context;
use super::error::{ReconcileError, absent_is_fine};
use super::gc::{Discovered, Kind};
use super::meta::{Key, is_deleting, name};
use super::queue::{Outcome, Queue};
use super::run::{Tasks, feed};

/// The finalizer that this controller answers for.
const FINALIZER: &str = "kubernetes";
/// Pause between looks at what is left.
const RETRY: Duration = Duration::from_millis(500);

/// Starts the controller.
pub(super) fn start(context: &Arc<Context>, tasks: &mut Tasks, discovered: Discovered) {
    let (queue, requests) = Queue::new();
    feed(&context.caches.namespaces, &queue, |change| {
        change.new.iter().filter(|each| is_ending(each)).map(|each| Key::of(&**each)).collect::<Vec<_>>()
    });
    tasks.controller("namespace", requests, 2, move |context, key| {
        let discovered = discovered.clone();
        async move { reconcile(&context, &key, discovered).await }
    });
}

fn is_ending(namespace: &Namespace) -> bool {
    is_deleting(&namespace.metadata)
        && namespace
            .spec
            .iter()
            .flat_map(|spec| spec.finalizers.iter().flatten())
            .any(|each| each == FINALIZER)
}

async fn reconcile(context: &Context, key: &Key, mut discovered: Discovered) -> Outcome {
    let Some(namespace) = context.caches.namespaces.get(key).filter(|each| is_ending(each)) else {
        return Ok(None);
    };
    // An unknown kind's objects would be left behind.
    let Ok(kinds) = discovered.wait_for(|kinds| !kinds.is_empty()).await.map(|kinds| Arc::clone(&kinds))
    else {
        return Ok(None);
    };
    let (pods, others): (Vec<_>, Vec<_>) = kinds
        .iter()
        .filter(|kind| kind.namespaced)
        .partition(|kind| kind.group.is_empty() && kind.plural == "pods");
    // Pods first: their ends may still need the Secrets and claims around them.
    for kinds in [pods, others] {
        let left = join_all(kinds.iter().map(|kind| empty(context, kind, &key.name))).await;
        if left.into_iter().collect::<Result<Vec<bool>, _>>()?.contains(&true) {
            return Ok(Some(RETRY));
        }
    }
    finalize(context, &namespace).await
}

/// Deletes all objects of a kind in the namespace. True where some are left.
async fn empty(context: &Context, kind: &Kind, namespace: &str) -> Result<bool, ReconcileError> {
    let api = kind.api(&context.client, namespace);
    let Some(found) = absent_is_fine(api.list_metadata(&ListParams::default()).await)? else {
        return Ok(false);
    };
    if found.items.is_empty() {
        return Ok(false);
    }
    if found.items.iter().any(|object| !is_deleting(&object.metadata)) {
        if kind.collective {
            absent_is_fine(api.delete_collection(&DeleteParams::background(), &ListParams::default()).await)?;
        } else {
            for object in &found.items {
                absent_is_fine(api.delete(name(&object.metadata), &DeleteParams::background()).await)?;
            }
        }
    }
    remaining(&api).await
}

async fn remaining(api: &Api<DynamicObject>) -> Result<bool, ReconcileError> {
    let found = absent_is_fine(api.list_metadata(&ListParams::default().limit(1)).await)?;
    Ok(found.is_some_and(|found| !found.items.is_empty()))
}

async fn finalize(context: &Context, namespace: &Namespace) -> Outcome {
    let mut done = namespace.clone();
    if let Some(finalizers) = done.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|each| each != FINALIZER);
    }
    let api: Api<Namespace> = context.cluster_api();
    absent_is_fine(
        api.replace_subresource("finalize", name(&namespace.metadata), &PostParams::default(), &done).await,
    )?;
    Ok(None)
}
