//! The edge: binds pods, marks claims, says why a pod has to wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Binding, Node, NodeSelector, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::events::EventType;
use serde_json::{Value, json};

use super::choose::{Cluster, choose, is_ready};
use crate::sandbox::controllers::cache::{Cache, Change};
use crate::sandbox::controllers::context::Context;
use crate::sandbox::controllers::error::{ReconcileError, absent_is_fine};
use crate::sandbox::controllers::meta::{
    Key, annotation, claims_of, is_deleting, is_finished, name, namespace, node_of, pod_condition, reference,
    uid,
};
use crate::sandbox::controllers::queue::{Outcome, Queue};
use crate::sandbox::controllers::run::{Tasks, feed};
use crate::sandbox::controllers::volumes::{SELECTED_NODE, binds_at_once};
use crate::sandbox::controllers::write;

/// The name pods ask for this scheduler by.
const NAME: &str = "default-scheduler";
/// A pod that waits is looked at anew after this, should no change have told.
const RETRY: Duration = Duration::from_secs(60);

/// Nodes that were given out and do not show in the cache yet, by pod UID.
#[derive(Default)]
struct Placed(Mutex<HashMap<String, String>>);

impl Placed {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the scheduler.
pub(in crate::sandbox::controllers) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let (queue, requests) = Queue::new();
    let caches = &context.caches;
    let placed = Arc::new(Placed::default());
    let (given, pods) = (Arc::clone(&placed), caches.pods.clone());
    feed(&caches.pods, &queue, move |change: &Change<Pod>| match &change.new {
        Some(pod) if waits(pod) => vec![Key::of(&**pod)],
        _ => {
            if let Some(pod) = change.latest() {
                given.lock().remove(uid(&pod.metadata));
            }
            // Who left made room.
            if change.new.as_ref().is_none_or(|pod| is_finished(pod)) { waiting(&pods) } else { Vec::new() }
        }
    });
    let pods = caches.pods.clone();
    feed(&caches.nodes, &queue, move |change: &Change<Node>| match (&change.old, &change.new) {
        (Some(old), Some(new)) if same_to_pods(old, new) => Vec::new(),
        _ => waiting(&pods),
    });
    let pods = caches.pods.clone();
    feed(&caches.claims, &queue, move |change: &Change<PersistentVolumeClaim>| {
        let Some(claim) = change.latest() else { return Vec::new() };
        let users = pods.in_namespace(namespace(&claim.metadata)).into_iter().filter(|pod| waits(pod));
        let users = users.filter(|pod| claims_of(pod).any(|each| each == name(&claim.metadata)));
        users.map(|pod| Key::of(&*pod)).collect()
    });
    let pods = caches.pods.clone();
    feed(&caches.classes, &queue, move |_| waiting(&pods));
    tasks.controller("scheduler", requests, 1, move |context, key| {
        let placed = Arc::clone(&placed);
        async move { reconcile(&context, &placed, &key).await }
    });
}

/// Whether the pod is one to find a node for.
fn waits(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let scheduler = spec.scheduler_name.as_deref().unwrap_or_default();
    node_of(pod).is_none()
        && (scheduler.is_empty() || scheduler == NAME)
        && spec.scheduling_gates.iter().flatten().next().is_none()
        && !is_deleting(&pod.metadata)
        && !is_finished(pod)
}

fn waiting(pods: &Cache<Pod>) -> Vec<Key> {
    pods.all().iter().filter(|pod| waits(pod)).map(|pod| Key::of(&**pod)).collect()
}

/// Whether a node's change makes no difference to where pods go; most are mere signs of life.
fn same_to_pods(old: &Node, new: &Node) -> bool {
    old.spec == new.spec && old.metadata.labels == new.metadata.labels && is_ready(old) == is_ready(new)
}

async fn reconcile(context: &Context, placed: &Placed, key: &Key) -> Outcome {
    let Some(pod) = context.caches.pods.get(key).filter(|pod| waits(pod)) else { return Ok(None) };
    let claims = match claims(context, &pod) {
        Ok(claims) => claims,
        Err(why) => return refuse(context, &pod, &why).await,
    };
    let favourite = placed.lock().get(uid(&pod.metadata)).cloned().or_else(|| {
        claims.unbound.iter().find_map(|claim| annotation(&claim.metadata, SELECTED_NODE).map(str::to_owned))
    });
    let cluster = cluster(context, placed, &pod);
    let node = match choose(&cluster, &pod, &claims.volumes, favourite.as_deref()) {
        Ok(node) => node,
        Err(why) => return refuse(context, &pod, &why).await,
    };
    placed.lock().insert(uid(&pod.metadata).to_owned(), node.clone());
    let result = if claims.unbound.is_empty() {
        bind(context, &pod, &node).await
    } else {
        // The claims' own changes bring the pod back here.
        mark(context, &claims.unbound, &node).await
    };
    if result.is_err() {
        placed.lock().remove(uid(&pod.metadata));
    }
    result.map(|()| None)
}

/// What a pod's claims mean for where it can go.
struct Claims {
    unbound: Vec<Arc<PersistentVolumeClaim>>,
    volumes: Vec<NodeSelector>,
}

fn claims(context: &Context, pod: &Pod) -> Result<Claims, String> {
    let mut claims = Claims { unbound: Vec::new(), volumes: Vec::new() };
    for wanted in claims_of(pod) {
        let key = Key::new(namespace(&pod.metadata), wanted);
        let claim = context
            .caches
            .claims
            .get(&key)
            .ok_or_else(|| format!("persistentvolumeclaim \"{wanted}\" not found"))?;
        if is_deleting(&claim.metadata) {
            return Err(format!("persistentvolumeclaim \"{wanted}\" is being deleted"));
        }
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        match phase {
            Some("Bound") => claims.volumes.extend(place_of(context, &claim)),
            Some("Lost") => {
                return Err(format!(
                    "persistentvolumeclaim \"{wanted}\" bound to non-existent persistentvolume"
                ));
            }
            _ if binds_at_once(context, &claim) => {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
            _ => claims.unbound.push(claim),
        }
    }
    Ok(claims)
}

fn place_of(context: &Context, claim: &PersistentVolumeClaim) -> Option<NodeSelector> {
    let volume = claim.spec.as_ref()?.volume_name.as_deref()?;
    let volume: Arc<PersistentVolume> = context.caches.volumes.get(&Key::new("", volume))?;
    volume.spec.as_ref()?.node_affinity.as_ref()?.required.clone()
}

fn cluster(context: &Context, placed: &Placed, pod: &Pod) -> Cluster {
    let given = placed.lock().clone();
    let pods = context.caches.pods.all().into_iter().filter(|other| other.metadata.uid != pod.metadata.uid);
    let pods = pods.filter_map(|other| {
        let node = node_of(&other).map(str::to_owned).or_else(|| given.get(uid(&other.metadata)).cloned())?;
        Some((other, node))
    });
    let namespaces = context.caches.namespaces.all().into_iter();
    let namespaces = namespaces
        .map(|space| (name(&space.metadata).to_owned(), space.metadata.labels.clone().unwrap_or_default()));
    Cluster { nodes: context.caches.nodes.all(), pods: pods.collect(), namespaces: namespaces.collect() }
}

async fn bind(context: &Context, pod: &Pod, node: &str) -> Result<(), ReconcileError> {
    let (space, pod_name) = (namespace(&pod.metadata), name(&pod.metadata));
    let binding = Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..Default::default()
        },
    };
    let api = context.api::<Pod>(space);
    let done: Result<Value, _> =
        api.create_subresource("binding", pod_name, &PostParams::default(), &binding).await;
    if absent_is_fine(done)?.is_some() {
        let note = format!("Successfully assigned {space}/{pod_name} to {node}");
        context.event(&reference(pod), EventType::Normal, "Scheduled", "Binding", note).await;
    }
    Ok(())
}

async fn mark(
    context: &Context,
    claims: &[Arc<PersistentVolumeClaim>],
    node: &str,
) -> Result<(), ReconcileError> {
    for claim in claims.iter().filter(|claim| annotation(&claim.metadata, SELECTED_NODE) != Some(node)) {
        let api = context.api::<PersistentVolumeClaim>(namespace(&claim.metadata));
        write::merge(&api, &**claim, json!({"metadata": {"annotations": {SELECTED_NODE: node}}})).await?;
    }
    Ok(())
}

/// Says on the pod why it has no node, once for each reason.
async fn refuse(context: &Context, pod: &Pod, why: &str) -> Outcome {
    let old = pod_condition(pod, "PodScheduled");
    let same = old.is_some_and(|old| {
        old.status == "False"
            && old.reason.as_deref() == Some("Unschedulable")
            && old.message.as_deref() == Some(why)
    });
    if !same {
        let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.as_ref());
        let since = since.cloned().unwrap_or_else(|| Time(Timestamp::now()));
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": why, "lastTransitionTime": since});
        let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        let api = context.api::<Pod>(namespace(&pod.metadata));
        let patch = Patch::Strategic(&body);
        absent_is_fine(api.patch_status(name(&pod.metadata), &PatchParams::default(), &patch).await)?;
        context
            .event(&reference(pod), EventType::Warning, "FailedScheduling", "Scheduling", why.to_owned())
            .await;
    }
    Ok(Some(RETRY))
}
