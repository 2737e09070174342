//! The next step for a claim. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeClaimCondition, PersistentVolumeClaimStatus, PersistentVolumeSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ObjectMeta;

use super::class::{Class, Found, PROVISIONER};
use super::volume;
use crate::sandbox::controllers::meta::{annotation, has_finalizer, is_deleting, name, namespace, uid};

/// The annotation by which the scheduler says where a claim's first pod will be.
pub(in crate::sandbox::controllers) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The finalizer that keeps a claim while a pod uses it.
pub(super) const PROTECTION: &str = "kubernetes.io/pvc-protection";
/// The annotation on a bound claim.
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The annotation on a claim whose volume this controller chose.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// The condition of a claim whose volume has grown, while its file system has not.
const RESIZE_PENDING: &str = "FileSystemResizePending";

/// One step; its effect shows in the caches and leads to the next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing is to be done, or somebody else has to move first.
    Rest,
    /// Put the protecting finalizer on.
    Protect,
    /// Take it off, if really no pod uses the claim.
    Unprotect,
    /// Make a volume for the claim.
    Provision(Box<PersistentVolume>),
    /// Name the claim's UID in a volume that was meant for it.
    Reserve(Arc<PersistentVolume>),
    /// Write the volume's name into the claim.
    Bind(String),
    /// Let the volume grow to what the claim asks for.
    Grow(Arc<PersistentVolume>, Quantity),
    /// Write the status.
    Report(Box<PersistentVolumeClaimStatus>),
    /// Say that the claim waits in vain.
    Complain(&'static str, String),
}

/// Decides by the claim, its class and the volumes there are.
pub(super) fn step(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], found: &Found) -> Step {
    let protected = has_finalizer(&claim.metadata, PROTECTION);
    if is_deleting(&claim.metadata) {
        return if protected { Step::Unprotect } else { Step::Rest };
    }
    if !protected {
        return Step::Protect;
    }
    let Some(spec) = &claim.spec else { return Step::Rest };
    match spec.volume_name.as_deref().filter(|volume| !volume.is_empty()) {
        None => find(claim, volumes, found),
        Some(wanted) => match volumes.iter().find(|volume| name(&volume.metadata) == wanted) {
            None => lose(claim),
            Some(volume) => keep(claim, volume, found),
        },
    }
}

fn find(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], found: &Found) -> Step {
    let mine = volumes.iter().filter(|volume| !is_deleting(&volume.metadata));
    if let Some(volume) = mine.clone().find(|volume| belongs(volume, claim)) {
        return Step::Bind(name(&volume.metadata).to_owned());
    }
    if let Some(volume) = mine.clone().find(|volume| is_meant_for(volume, claim)) {
        return Step::Reserve(Arc::clone(volume));
    }
    let pending = PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..Default::default() };
    match found {
        Found::Here(class) if class.at_once || annotation(&claim.metadata, SELECTED_NODE).is_some() => {
            Step::Provision(Box::new(build(claim, class)))
        }
        Found::Missing(class) => {
            Step::Complain("ProvisioningFailed", format!("storageclass.storage.k8s.io \"{class}\" not found"))
        }
        _ => report(claim, pending),
    }
}

/// Looks after a claim that names a volume that is there.
fn keep(claim: &PersistentVolumeClaim, volume: &Arc<PersistentVolume>, found: &Found) -> Step {
    let of = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if of.is_none() || is_meant_for(volume, claim) {
        return Step::Reserve(Arc::clone(volume));
    }
    if !belongs(volume, claim) {
        return if phase(claim) == Some("Bound") {
            lose(claim)
        } else {
            let volume = name(&volume.metadata);
            Step::Complain(
                "FailedBinding",
                format!("volume \"{volume}\" already bound to a different claim."),
            )
        };
    }
    if annotation(&claim.metadata, BIND_COMPLETED).is_none() {
        return Step::Bind(name(&volume.metadata).to_owned());
    }
    let has =
        volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()).and_then(|size| size.get("storage"));
    if let (Found::Here(class), Some(wanted)) = (found, requested(claim))
        && class.expands
        && has.is_none_or(|has| volume::bytes(has) < volume::bytes(wanted))
    {
        return Step::Grow(Arc::clone(volume), wanted.clone());
    }
    let spec = volume.spec.clone().unwrap_or_default();
    let status = PersistentVolumeClaimStatus {
        phase: Some("Bound".to_owned()),
        access_modes: spec.access_modes,
        capacity: spec.capacity,
        ..claim.status.clone().unwrap_or_default()
    };
    report(claim, awaiting_node(claim, status))
}

/// A volume that has grown is no larger for its pods until their node has let its file system grow too: until then the claim
/// has the capacity that it had. The node takes all of this back.
fn awaiting_node(
    claim: &PersistentVolumeClaim,
    status: PersistentVolumeClaimStatus,
) -> PersistentVolumeClaimStatus {
    let old = claim.status.clone().unwrap_or_default();
    let size = |status: &PersistentVolumeClaimStatus| {
        status.capacity.as_ref().and_then(|capacity| capacity.get("storage")).map(volume::bytes)
    };
    if size(&old).is_none_or(|had| size(&status).is_none_or(|has| has <= had)) {
        return status;
    }
    let condition = || PersistentVolumeClaimCondition {
        type_: RESIZE_PENDING.to_owned(),
        status: "True".to_owned(),
        message: Some(
            "Waiting for user to (re-)start a pod to finish file system resize of volume on node.".to_owned(),
        ),
        ..Default::default()
    };
    let known = old.conditions.filter(|all| all.iter().any(|each| each.type_ == RESIZE_PENDING));
    PersistentVolumeClaimStatus {
        capacity: old.capacity,
        allocated_resources: status.capacity,
        allocated_resource_statuses: Some(BTreeMap::from([(
            "storage".to_owned(),
            "NodeResizePending".to_owned(),
        )])),
        conditions: known.or_else(|| Some(vec![condition()])),
        ..status
    }
}

fn lose(claim: &PersistentVolumeClaim) -> Step {
    // A volume that is yet to come is waited for; one that was there and is not takes the data with it.
    if phase(claim) == Some("Pending") {
        return Step::Rest;
    }
    let lost = PersistentVolumeClaimStatus { phase: Some("Lost".to_owned()), ..Default::default() };
    report(claim, lost)
}

fn report(claim: &PersistentVolumeClaim, status: PersistentVolumeClaimStatus) -> Step {
    if claim.status.as_ref() == Some(&status) { Step::Rest } else { Step::Report(Box::new(status)) }
}

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

fn requested(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")
}

fn claim_of(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether the volume is this very claim's.
fn belongs(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_of(volume).and_then(|of| of.uid.as_deref()) == claim.metadata.uid.as_deref()
}

/// Whether the volume was set aside for a claim of this name.
fn is_meant_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_of(volume).is_some_and(|of| {
        of.uid.as_deref().unwrap_or_default().is_empty()
            && of.name == claim.metadata.name
            && of.namespace == claim.metadata.namespace
    })
}

/// A reference from a volume to its claim.
pub(super) fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: Some(namespace(&claim.metadata).to_owned()),
        name: Some(name(&claim.metadata).to_owned()),
        uid: claim.metadata.uid.clone(),
        ..Default::default()
    }
}

fn build(claim: &PersistentVolumeClaim, class: &Class) -> PersistentVolume {
    let volume = format!("pvc-{}", uid(&claim.metadata));
    let spec = claim.spec.as_ref();
    let size = requested(claim).cloned().unwrap_or_else(|| Quantity("1Gi".to_owned()));
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume.clone()),
            annotations: Some(
                [("pv.kubernetes.io/provisioned-by".to_owned(), PROVISIONER.to_owned())].into(),
            ),
            finalizers: Some(vec![volume::PROTECTION.to_owned()]),
            ..Default::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.and_then(|spec| spec.access_modes.clone()),
            capacity: Some(BTreeMap::from([("storage".to_owned(), size)])),
            claim_ref: Some(reference(claim)),
            csi: Some(CSIPersistentVolumeSource {
                driver: PROVISIONER.to_owned(),
                volume_handle: volume,
                ..Default::default()
            }),
            persistent_volume_reclaim_policy: Some(class.reclaim.clone()),
            storage_class_name: Some(class.name.clone()),
            volume_mode: Some(
                spec.and_then(|spec| spec.volume_mode.clone()).unwrap_or_else(|| "Filesystem".to_owned()),
            ),
            ..Default::default()
        }),
        status: None,
    }
}
