//! The edge: brings a Service's slices and Endpoints to what they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;

use super::{legacy, slices};
use crate::sandbox::controllers::cache::Change;
use crate::sandbox::controllers::context::Context;
use crate::sandbox::controllers::error::ReconcileError;
use crate::sandbox::controllers::meta::{Key, contains, is_deleting, label, name, namespace};
use crate::sandbox::controllers::queue::{Outcome, Queue};
use crate::sandbox::controllers::run::{Tasks, feed};
use crate::sandbox::controllers::write;

/// Starts the controller.
pub(in crate::sandbox::controllers) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let (queue, requests) = Queue::new();
    let caches = &context.caches;
    feed(&caches.services, &queue, |change| change.latest().map(|service| Key::of(&**service)));
    feed(&caches.slices, &queue, |change| {
        change.both().filter_map(|slice| service_of(slice)).collect::<BTreeSet<Key>>()
    });
    feed(&caches.endpoints, &queue, |change| change.latest().map(|endpoints| Key::of(&**endpoints)));
    let services = caches.services.clone();
    feed(&caches.pods, &queue, move |change: &Change<Pod>| {
        let mut keys = BTreeSet::new();
        for pod in change.both() {
            keys.extend(
                services
                    .in_namespace(namespace(&pod.metadata))
                    .iter()
                    .filter(|service| selects(service, pod))
                    .map(|service| Key::of(&**service)),
            );
        }
        keys
    });
    // A node that appears, goes or moves to another zone concerns every Service with a pod on it.
    let services = caches.services.clone();
    feed(&caches.nodes, &queue, move |change: &Change<Node>| {
        let zone = |node: &Arc<Node>| label(&node.metadata, "topology.kubernetes.io/zone").map(str::to_owned);
        let same = match (&change.old, &change.new) {
            (Some(old), Some(new)) => zone(old) == zone(new),
            _ => false,
        };
        let services = if same { Vec::new() } else { services.all() };
        services.iter().map(|service| Key::of(&**service)).collect::<Vec<_>>()
    });
    tasks.controller("endpoints", requests, 4, |context, key| async move { reconcile(&context, &key).await });
}

fn selects(service: &Service, pod: &Pod) -> bool {
    slices::selector(service).is_some_and(|selector| contains(pod.metadata.labels.as_ref(), Some(selector)))
}

fn is_ours(slice: &EndpointSlice) -> bool {
    label(&slice.metadata, slices::MANAGER_LABEL) == Some(slices::MANAGER)
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let service = label(&slice.metadata, slices::SERVICE_LABEL).filter(|_| is_ours(slice))?;
    Some(Key::new(namespace(&slice.metadata), service))
}

async fn reconcile(context: &Context, key: &Key) -> Outcome {
    let caches = &context.caches;
    let service = caches.services.get(key).filter(|service| !is_deleting(&service.metadata));
    let Some(service) = service else {
        // The slices go with their owner; the Endpoints object has none.
        if let Some(endpoints) = caches.endpoints.get(key).filter(|each| is_our_endpoints(each)) {
            write::delete(&context.api(&key.namespace), &*endpoints).await?;
        }
        return Ok(None);
    };
    let pods = caches.pods.in_namespace(&key.namespace);
    let nodes: BTreeMap<String, Arc<Node>> =
        caches.nodes.all().into_iter().map(|node| (name(&node.metadata).to_owned(), node)).collect();
    let selects = slices::selector(&service).is_some();
    let members = slices::members(&service, &pods, &nodes);
    let desired = if selects { slices::desired(&service, &members, &nodes) } else { Vec::new() };
    write_slices(context, key, desired).await?;
    if selects {
        write_endpoints(context, key, legacy::desired(&service, &members)).await?;
    }
    Ok(None)
}

async fn write_slices(
    context: &Context,
    key: &Key,
    desired: Vec<EndpointSlice>,
) -> Result<(), ReconcileError> {
    let api = context.api::<EndpointSlice>(&key.namespace);
    let cached = context.caches.slices.in_namespace(&key.namespace);
    let existing: Vec<&Arc<EndpointSlice>> =
        cached.iter().filter(|slice| service_of(slice).as_ref() == Some(key)).collect();
    for mut slice in desired.clone() {
        match existing.iter().find(|old| old.metadata.name == slice.metadata.name) {
            None => _ = api.create(&PostParams::default(), &slice).await?,
            Some(old) if differs(old, &slice) => {
                slice.metadata.resource_version = old.metadata.resource_version.clone();
                api.replace(name(&old.metadata), &PostParams::default(), &slice).await?;
            }
            Some(_) => {}
        }
    }
    for old in existing {
        if !is_deleting(&old.metadata) && desired.iter().all(|slice| slice.metadata.name != old.metadata.name)
        {
            write::delete(&api, &**old).await?;
        }
    }
    Ok(())
}

/// Whether the slice needs to be written. A server may leave out an empty list or write it as none.
fn differs(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    old.endpoints.clone().unwrap_or_default() != new.endpoints.clone().unwrap_or_default()
        || old.ports.clone().unwrap_or_default() != new.ports.clone().unwrap_or_default()
        || old.metadata.labels != new.metadata.labels
        || old.metadata.owner_references != new.metadata.owner_references
}

fn is_our_endpoints(endpoints: &Endpoints) -> bool {
    label(&endpoints.metadata, legacy::MANAGER_LABEL) == Some(legacy::MANAGER)
}

async fn write_endpoints(context: &Context, key: &Key, mut desired: Endpoints) -> Result<(), ReconcileError> {
    let api = context.api::<Endpoints>(&key.namespace);
    match context.caches.endpoints.get(key) {
        None => _ = api.create(&PostParams::default(), &desired).await?,
        Some(old) if old.subsets != desired.subsets || !has_labels(&old, &desired) => {
            // Somebody's own labels and annotations stay.
            let mut labels = old.metadata.labels.clone().unwrap_or_default();
            labels.extend(desired.metadata.labels.take().unwrap_or_default());
            desired.metadata = old.metadata.clone();
            desired.metadata.labels = Some(labels);
            api.replace(&key.name, &PostParams::default(), &desired).await?;
        }
        Some(_) => {}
    }
    Ok(())
}

fn has_labels(old: &Endpoints, new: &Endpoints) -> bool {
    contains(old.metadata.labels.as_ref(), new.metadata.labels.as_ref())
}
