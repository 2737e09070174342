//! Persistent volumes that nobody claims any more: the directory goes first, then the object.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::context::Context;
use super::sources::{VOLUME_DRIVER, is_name};

/// The condition of a claim whose volume has grown, while its file system has not.
const RESIZE_PENDING: &str = "FileSystemResizePending";

/// The directory of a volume that is to be deleted.
fn to_delete(volume: &PersistentVolume) -> Option<&str> {
    let spec = volume.spec.as_ref()?;
    let phase = volume.status.as_ref()?.phase.as_deref();
    let csi = spec.csi.as_ref().filter(|csi| csi.driver == VOLUME_DRIVER)?;
    let unwanted =
        phase == Some("Released") && spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    (unwanted && is_name(&csi.volume_handle)).then_some(csi.volume_handle.as_str())
}

/// Deletes such volumes for ever.
pub(super) async fn reclaim(context: Arc<Context>) {
    let api = Api::<PersistentVolume>::all(context.client.clone());
    let volumes = watcher(api.clone(), watcher::Config::default())
        .default_backoff()
        .inspect_err(|error| tracing::debug!(%error, "the watch of persistent volumes is retried"))
        .applied_objects();
    futures::pin_mut!(volumes);
    while let Some(volume) = volumes.next().await {
        let Ok(volume) = volume else { continue };
        size(&context, &volume).await;
        let Some(handle) = to_delete(&volume) else { continue };
        let lock = context.lock_volume(handle).await;
        if let Err(error) = remove(&context, handle).await {
            tracing::warn!("failed to delete volume {handle}: {error}");
            continue;
        }
        drop(lock);
        let uid = Preconditions { uid: volume.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(uid), ..DeleteParams::default() };
        if let Err(error) = api.delete(&volume.name_any(), &params).await {
            tracing::debug!(%error, "persistent volume {} was not deleted", volume.name_any());
        }
    }
}

/// Lets a volume have the size that its object says.
async fn size(context: &Context, volume: &PersistentVolume) {
    let (Some(bounds), Some(spec)) = (context.bounds.clone(), &volume.spec) else { return };
    let Some(csi) =
        spec.csi.as_ref().filter(|csi| csi.driver == VOLUME_DRIVER && is_name(&csi.volume_handle))
    else {
        return;
    };
    let capacity = spec.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
    let size = capacity.and_then(|size| size.0.parse::<crate::api::Quantity>().ok());
    let Some(size) = size.and_then(|size| u64::try_from(size.value()).ok()) else { return };
    let handle = csi.volume_handle.clone();
    match tokio::task::spawn_blocking(move || bounds.resize(&handle, size)).await {
        Ok(Err(error)) => tracing::warn!("failed to {error}"),
        _ => tracing::debug!(size, "volume {} has its size", volume.name_any()),
    }
}

/// How often it is looked whether a volume that has grown is as large for its pods, while there is one.
const LOOK: Duration = Duration::from_secs(1);

/// Says of claims whose volumes have grown when their file systems have too, for ever.
pub(super) async fn expand(context: Arc<Context>) {
    let claims = Api::<PersistentVolumeClaim>::all(context.client.clone());
    let events = watcher(claims, watcher::Config::default()).default_backoff();
    futures::pin_mut!(events);
    let mut pending: BTreeMap<(String, String), PersistentVolumeClaim> = BTreeMap::new();
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Apply(claim) | watcher::Event::InitApply(claim))) => {
                    let key = (claim.namespace().unwrap_or_default(), claim.name_any());
                    if awaits_node(&claim) { pending.insert(key, claim); } else { pending.remove(&key); }
                }
                Some(Ok(watcher::Event::Delete(claim))) => {
                    pending.remove(&(claim.namespace().unwrap_or_default(), claim.name_any()));
                }
                Some(Ok(watcher::Event::Init)) => pending.clear(),
                Some(Ok(watcher::Event::InitDone)) => {}
                Some(Err(error)) => tracing::debug!(%error, "the watch of claims is retried"),
                None => return,
            },
            _ = tick.tick() => {
                for claim in pending.values() {
                    finish(&context, claim).await;
                }
            }
        }
    }
}

fn awaits_node(claim: &PersistentVolumeClaim) -> bool {
    let conditions = claim.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.into_iter().flatten().any(|each| each.type_ == RESIZE_PENDING && each.status == "True")
}

/// Says that the claim has the size that it was given, if that is so.
async fn finish(context: &Context, claim: &PersistentVolumeClaim) {
    let given = claim.status.as_ref().and_then(|status| status.allocated_resources.as_ref()?.get("storage"));
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let (Some(given), Some(volume)) = (given, volume.filter(|volume| is_name(volume))) else { return };
    let size = given.0.parse::<crate::api::Quantity>().ok().and_then(|size| u64::try_from(size.value()).ok());
    // The sandbox's volumes have their objects' names. A directory is as large as the disk at any time.
    let grown = match (&context.bounds, size) {
        (None, _) => true,
        (Some(bounds), Some(size)) => bounds.is_as_large(volume, size),
        (Some(_), None) => false,
    };
    if !grown {
        return;
    }
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(context.client.clone(), &claim.namespace().unwrap_or_default());
    let patch = json!({
        "metadata": { "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version },
        "status": { "capacity": { "storage": given }, "conditions": null, "allocatedResourceStatuses": null },
    });
    if let Err(error) =
        api.patch_status(&claim.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await
    {
        tracing::debug!(%error, "the growth of claim {} was not reported", claim.name_any());
    }
}

async fn remove(context: &Context, handle: &str) -> Result<(), String> {
    let (directory, handle, bounds) = (context.volume(handle), handle.to_owned(), context.bounds.clone());
    let removed = tokio::task::spawn_blocking(move || match bounds {
        Some(bounds) => bounds.remove(&handle).map_err(|error| error.to_string()),
        None => match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        },
    });
    removed.await.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_released_volumes_of_ours_whose_policy_says_so() {
        let volume = |phase: &str, policy: &str, driver: &str, handle: &str| -> PersistentVolume {
            let csi = json!({"driver": driver, "volumeHandle": handle});
            let spec = json!({"persistentVolumeReclaimPolicy": policy, "csi": csi});
            serde_json::from_value(json!({"spec": spec, "status": {"phase": phase}})).unwrap()
        };
        assert_eq!(to_delete(&volume("Released", "Delete", VOLUME_DRIVER, "x")), Some("x"));
        let kept = [
            ("Bound", "Delete", VOLUME_DRIVER, "x"),
            ("Available", "Delete", VOLUME_DRIVER, "x"),
            ("Released", "Retain", VOLUME_DRIVER, "x"),
            ("Released", "Delete", "other", "x"),
            ("Released", "Delete", VOLUME_DRIVER, ".."),
            ("Released", "Delete", VOLUME_DRIVER, ""),
        ];
        for (phase, policy, driver, handle) in kept {
            assert_eq!(
                to_delete(&volume(phase, policy, driver, handle)),
                None,
                "{phase} {policy} {driver} {handle}"
            );
        }
    }
}
