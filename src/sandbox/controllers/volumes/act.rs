//! The edge: one step at a time for each claim and volume.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{ListParams, PostParams};
use kube::runtime::events::EventType;
use serde_json::json;

use super::class::{self, Found};
use super::{claim, volume};
use crate::sandbox::controllers::cache::Change;
use crate::sandbox::controllers::context::Context;
use crate::sandbox::controllers::error::{ReconcileError, is_there};
use crate::sandbox::controllers::meta::{Key, claims_of, name, namespace, node_of, reference};
use crate::sandbox::controllers::queue::{Outcome, Queue, Requests};
use crate::sandbox::controllers::run::{Tasks, feed};
use crate::sandbox::controllers::write;

/// Starts the controllers of classes, claims and volumes.
pub(in crate::sandbox::controllers) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let claims = claim_requests(context);
    tasks.controller("claim", claims, 4, |context, key| async move { reconcile_claim(&context, &key).await });
    start_volumes(context, tasks);
    start_class(context, tasks);
}

/// Starts no more than what makes volumes of the sandbox's own class: for a cluster that has the other controllers.
pub(in crate::sandbox::controllers) fn start_provisioner(context: &Arc<Context>, tasks: &mut Tasks) {
    let claims = claim_requests(context);
    tasks.controller("claim", claims, 4, |context, key| async move { provision_claim(&context, &key).await });
    start_class(context, tasks);
}

fn start_class(context: &Arc<Context>, tasks: &mut Tasks) {
    let (queue, requests) = Queue::new();
    queue.add(());
    feed(&context.caches.classes, &queue, |_| Some(()));
    tasks.controller("storageclass", requests, 1, |context, ()| async move { provide_class(&context).await });
}

fn claim_requests(context: &Arc<Context>) -> Requests<Key> {
    let (queue, requests) = Queue::new();
    let caches = &context.caches;
    feed(&caches.claims, &queue, |change| change.new.as_ref().map(|claim| Key::of(&**claim)));
    feed(&caches.volumes, &queue, |change: &Change<PersistentVolume>| {
        change.both().filter_map(|volume| claim_key(volume)).collect::<Vec<_>>()
    });
    // A pod that goes, or that is placed, may be the last that a claim waited for.
    feed(&caches.pods, &queue, |change: &Change<Pod>| {
        let gone = change.old.as_ref().filter(|_| change.new.is_none());
        let claims = gone.into_iter().flat_map(|pod| {
            claims_of(pod).map(|claim| Key::new(namespace(&pod.metadata), claim)).collect::<Vec<_>>()
        });
        claims.collect::<Vec<_>>()
    });
    let claims = caches.claims.clone();
    feed(&caches.classes, &queue, move |_| {
        claims.all().iter().map(|claim| Key::of(&**claim)).collect::<Vec<_>>()
    });
    requests
}

fn start_volumes(context: &Arc<Context>, tasks: &mut Tasks) {
    let (queue, requests) = Queue::new();
    feed(&context.caches.volumes, &queue, |change| change.new.as_ref().map(|each| Key::of(&**each)));
    let volumes = context.caches.volumes.clone();
    feed(&context.caches.claims, &queue, move |change: &Change<PersistentVolumeClaim>| {
        let Some(claim) = change.latest() else { return Vec::new() };
        let key = Key::of(&**claim);
        let own = volumes.all().into_iter().filter(|volume| claim_key(volume).as_ref() == Some(&key));
        own.map(|volume| Key::of(&*volume)).collect()
    });
    tasks.controller(
        "volume",
        requests,
        4,
        |context, key| async move { reconcile_volume(&context, &key).await },
    );
}

fn claim_key(volume: &PersistentVolume) -> Option<Key> {
    let of = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(of.namespace.as_deref()?, of.name.as_deref()?))
}

fn class_of(context: &Context, claim: &PersistentVolumeClaim) -> Found {
    class::of(claim, &context.caches.classes.all(), context.config.any_storage_class)
}

/// Whether the claim gets its volume without waiting for a pod.
pub(in crate::sandbox::controllers) fn binds_at_once(
    context: &Context,
    claim: &PersistentVolumeClaim,
) -> bool {
    // A claim that nobody makes a volume for has to be bound before a pod can go anywhere, too.
    match class_of(context, claim) {
        Found::Here(class) => class.at_once,
        Found::Missing(_) | Found::Nobody => true,
    }
}

async fn provide_class(context: &Context) -> Outcome {
    let Some(class) = class::standard(&context.caches.classes.all()) else { return Ok(None) };
    let api: Api<StorageClass> = context.cluster_api();
    match api.create(&PostParams::default(), &class).await {
        Err(error) if !is_there(&error) => Err(error.into()),
        _ => Ok(None),
    }
}

async fn reconcile_claim(context: &Context, key: &Key) -> Outcome {
    let Some(claim) = context.caches.claims.get(key) else { return Ok(None) };
    let api = context.api::<PersistentVolumeClaim>(&key.namespace);
    let volumes: Api<PersistentVolume> = context.cluster_api();
    let found = class_of(context, &claim);
    match claim::step(&claim, &context.caches.volumes.all(), &found) {
        claim::Step::Rest => {}
        claim::Step::Protect => {
            write::merge(&api, &*claim, write::with_finalizer(&*claim, claim::PROTECTION)).await?;
        }
        claim::Step::Unprotect => {
            if !in_use(context, key).await? {
                write::merge(&api, &*claim, write::without_finalizer(&*claim, claim::PROTECTION)).await?;
            }
        }
        claim::Step::Provision(volume) => make_volume(context, &claim, &volume).await?,
        claim::Step::Reserve(volume) => {
            let patch = json!({"spec": {"claimRef": claim::reference(&claim)}});
            write::merge(&volumes, &*volume, patch).await?;
        }
        claim::Step::Bind(volume) => bind(&api, &claim, &volume, &found).await?,
        claim::Step::Grow(volume, size) => {
            write::merge(&volumes, &*volume, json!({"spec": {"capacity": {"storage": size}}})).await?;
        }
        claim::Step::Report(mut status) => {
            for condition in status.conditions.iter_mut().flatten() {
                condition.last_transition_time.get_or_insert_with(|| Time(Timestamp::now()));
            }
            write::status(&api, &*claim, claim.status.as_ref(), &*status).await?;
        }
        claim::Step::Complain(reason, note) => {
            context.event(&reference(&*claim), EventType::Warning, reason, "Binding", note).await;
        }
    }
    Ok(None)
}

/// Leaves all but a missing volume to the cluster's own controllers.
async fn provision_claim(context: &Context, key: &Key) -> Outcome {
    let Some(claim) = context.caches.claims.get(key) else { return Ok(None) };
    let found = class_of(context, &claim);
    if let claim::Step::Provision(volume) = claim::step(&claim, &context.caches.volumes.all(), &found) {
        make_volume(context, &claim, &volume).await?;
    }
    Ok(None)
}

async fn make_volume(
    context: &Context,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> Result<(), ReconcileError> {
    let volumes: Api<PersistentVolume> = context.cluster_api();
    match volumes.create(&PostParams::default(), volume).await {
        Err(error) if is_there(&error) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => {
            let note = format!("Successfully provisioned volume {}", name(&volume.metadata));
            let about = reference(claim);
            context.event(&about, EventType::Normal, "ProvisioningSucceeded", "Provisioning", note).await;
            Ok(())
        }
    }
}

async fn bind(
    api: &Api<PersistentVolumeClaim>,
    claim: &PersistentVolumeClaim,
    volume: &str,
    found: &Found,
) -> Result<(), ReconcileError> {
    let spec = claim.spec.as_ref();
    let mut annotations = BTreeMap::from([(claim::BIND_COMPLETED, "yes")]);
    let mut patch = json!({});
    if spec.and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default().is_empty() {
        annotations.insert(claim::BOUND_BY_CONTROLLER, "yes");
        patch["spec"]["volumeName"] = json!(volume);
        // A claim that named no class is of the default one from now on.
        if let (None, Found::Here(class)) = (spec.and_then(|spec| spec.storage_class_name.as_ref()), found) {
            patch["spec"]["storageClassName"] = json!(class.name);
        }
    }
    patch["metadata"]["annotations"] = json!(annotations);
    write::merge(api, claim, patch).await
}

/// Whether a pod that has a node uses the claim. Asked of the server: a claim let go too early is data lost.
async fn in_use(context: &Context, key: &Key) -> Result<bool, ReconcileError> {
    let pods = context.api::<Pod>(&key.namespace).list(&ListParams::default()).await?;
    Ok(pods.items.iter().any(|pod| node_of(pod).is_some() && claims_of(pod).any(|claim| claim == key.name)))
}

async fn reconcile_volume(context: &Context, key: &Key) -> Outcome {
    let Some(volume) = context.caches.volumes.get(key) else { return Ok(None) };
    let api: Api<PersistentVolume> = context.cluster_api();
    let claim = claim_key(&volume).and_then(|key| context.caches.claims.get(&key));
    match volume::step(&volume, claim.as_deref()) {
        volume::Step::Rest => {}
        volume::Step::Protect => {
            write::merge(&api, &*volume, write::with_finalizer(&*volume, volume::PROTECTION)).await?;
        }
        volume::Step::Unprotect => {
            write::merge(&api, &*volume, write::without_finalizer(&*volume, volume::PROTECTION)).await?;
        }
        volume::Step::Phase(phase) => {
            if phase == "Released" && claim_is_there(context, &volume).await? {
                // The cache was behind; its next change brings the volume back here.
                return Ok(Some(std::time::Duration::from_secs(1)));
            }
            let old = volume.status.clone().unwrap_or_default();
            let last_phase_transition_time = old.last_phase_transition_time.clone();
            let new =
                PersistentVolumeStatus { phase: Some(phase.to_owned()), last_phase_transition_time, ..old };
            write::status(&api, &*volume, volume.status.as_ref(), &new).await?;
        }
    }
    Ok(None)
}

async fn claim_is_there(context: &Context, volume: &PersistentVolume) -> Result<bool, ReconcileError> {
    let Some(key) = claim_key(volume) else { return Ok(false) };
    let claim = context.api::<PersistentVolumeClaim>(&key.namespace).get_opt(&key.name).await?;
    let of = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).and_then(|of| of.uid.as_ref());
    Ok(claim.is_some_and(|claim| claim.metadata.uid.as_ref() == of))
}
