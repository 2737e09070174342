//! Namespaces on their way out: what is in them goes first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};

use super::context::Context;
use super::error::{ReconcileError, absent_is_fine};
use super::gc::{Discovered, Kind};
use super::meta::{Key, is_deleting, name};
use super::queue::{Outcome, Queue};
use super::run::{Tasks, feed};
use super::write;

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
        let left: Vec<Left> = left.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
        if !left.is_empty() {
            report(context, &namespace, &left).await?;
            return Ok(Some(RETRY));
        }
    }
    finalize(context, &namespace).await
}

/// The objects of a kind that are still there.
struct Left {
    resource: String,
    count: usize,
    finalizers: Vec<String>,
}

/// Deletes all objects of a kind in the namespace; what is left of them.
async fn empty(context: &Context, kind: &Kind, namespace: &str) -> Result<Option<Left>, ReconcileError> {
    let api = kind.api(&context.client, namespace);
    let list = async || absent_is_fine(api.list_metadata(&ListParams::default()).await);
    let Some(found) = list().await?.filter(|found| !found.items.is_empty()) else { return Ok(None) };
    if found.items.iter().any(|object| !is_deleting(&object.metadata)) {
        if kind.collective {
            absent_is_fine(api.delete_collection(&DeleteParams::background(), &ListParams::default()).await)?;
        } else {
            for object in &found.items {
                absent_is_fine(api.delete(name(&object.metadata), &DeleteParams::background()).await)?;
            }
        }
    }
    let left = list().await?.filter(|found| !found.items.is_empty());
    Ok(left.map(|found| Left {
        resource: format!("{}.{}", kind.plural, kind.group),
        count: found.items.len(),
        finalizers: found
            .items
            .into_iter()
            .flat_map(|object| object.metadata.finalizers.unwrap_or_default())
            .collect(),
    }))
}

/// Says in the status what the end of the namespace waits for.
async fn report(context: &Context, namespace: &Namespace, left: &[Left]) -> Result<(), ReconcileError> {
    let old = namespace.status.as_ref();
    let known = old.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let new = NamespaceStatus {
        conditions: Some(conditions(known, left)),
        phase: old.and_then(|status| status.phase.clone()),
    };
    write::status(&context.cluster_api::<Namespace>(), namespace, old, &new).await?;
    Ok(())
}

fn conditions(old: &[NamespaceCondition], left: &[Left]) -> Vec<NamespaceCondition> {
    let resources: Vec<_> =
        left.iter().map(|left| format!("{} has {} resource instances", left.resource, left.count)).collect();
    let mut holding = BTreeMap::<&str, usize>::new();
    for finalizer in left.iter().flat_map(|left| &left.finalizers) {
        *holding.entry(finalizer).or_default() += 1;
    }
    let finalizers: Vec<_> =
        holding.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    let discovered = "All resources successfully discovered";
    let parsed = "All legacy kube types successfully parsed";
    let deleted = "All content successfully deleted, may be waiting on finalization";
    let mut all = vec![
        ("NamespaceDeletionDiscoveryFailure", false, "ResourcesDiscovered", discovered.to_owned()),
        ("NamespaceDeletionGroupVersionParsingFailure", false, "ParsedGroupVersions", parsed.to_owned()),
        ("NamespaceDeletionContentFailure", false, "ContentDeleted", deleted.to_owned()),
    ];
    let remain = format!("Some resources are remaining: {}", resources.join(", "));
    all.push(("NamespaceContentRemaining", true, "SomeResourcesRemain", remain));
    all.push(if finalizers.is_empty() {
        let finished = "All content-preserving finalizers finished".to_owned();
        ("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", finished)
    } else {
        let remain =
            format!("Some content in the namespace has finalizers remaining: {}", finalizers.join(", "));
        ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", remain)
    });
    all.into_iter().map(|(kind, is, reason, message)| condition(old, kind, is, reason, message)).collect()
}

/// A condition, with the time of the old one where it says the same.
fn condition(
    old: &[NamespaceCondition],
    kind: &str,
    is: bool,
    reason: &str,
    message: String,
) -> NamespaceCondition {
    let status = if is { "True" } else { "False" };
    let same = old.iter().find(|old| old.type_ == kind && old.status == status);
    NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: same
            .and_then(|old| old.last_transition_time.clone())
            .or_else(|| Some(Time(Timestamp::now()))),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_what_is_waited_for() {
        let left = |finalizers: &[&str]| Left {
            resource: "configmaps.".to_owned(),
            count: 2,
            finalizers: finalizers.iter().map(|name| (*name).to_owned()).collect(),
        };
        let held = conditions(&[], &[left(&["x.io/a", "x.io/b", "x.io/a"])]);
        let message = |index: usize| held[index].message.clone().unwrap();
        assert_eq!(message(3), "Some resources are remaining: configmaps. has 2 resource instances");
        assert_eq!(
            message(4),
            "Some content in the namespace has finalizers remaining: x.io/a in 2 resource instances, x.io/b in 1 \
             resource instances"
        );
        assert_eq!(conditions(&held, &[left(&["x.io/a", "x.io/b", "x.io/a"])]), held, "nothing changed");
        let free = conditions(&held, &[left(&[])]);
        assert_eq!((&*free[3].status, &*free[4].status), ("True", "False"));
    }
}
