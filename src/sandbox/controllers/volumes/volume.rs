//! The next step for a volume. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::sandbox::controllers::meta::{has_finalizer, is_deleting, name};

/// The finalizer that keeps a volume while a claim is bound to it.
pub(super) const PROTECTION: &str = "kubernetes.io/pv-protection";

/// One step for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Rest,
    Protect,
    Unprotect,
    /// Write the phase. `Released` must not rest on what a cache says: it ends in the data's deletion.
    Phase(&'static str),
}

/// Decides by the volume and the claim of the name it refers to.
pub(super) fn step(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Step {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let protected = has_finalizer(&volume.metadata, PROTECTION);
    if is_deleting(&volume.metadata) {
        return if protected && phase != Some("Bound") { Step::Unprotect } else { Step::Rest };
    }
    if !protected {
        return Step::Protect;
    }
    let wanted = match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
        None => "Available",
        Some(of) if of.uid.as_deref().unwrap_or_default().is_empty() => "Available",
        Some(of) => match claim.filter(|claim| claim.metadata.uid == of.uid) {
            None => "Released",
            Some(claim) => {
                let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
                if bound != Some(name(&volume.metadata)) {
                    return Step::Rest;
                }
                "Bound"
            }
        },
    };
    // What failed to be reclaimed stays failed.
    if phase == Some(wanted) || (phase == Some("Failed") && wanted == "Released") {
        Step::Rest
    } else {
        Step::Phase(wanted)
    }
}

/// A quantity of storage in bytes, rounded up; nothing sensible counts as zero.
pub(super) fn bytes(quantity: &Quantity) -> i128 {
    quantity.0.parse::<crate::api::Quantity>().map_or(0, |quantity| quantity.value())
}
