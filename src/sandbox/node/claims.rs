//! Persistent volumes that nobody claims any more: the directory goes first, then the object.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

use super::context::Context;
use super::sources::{VOLUME_DRIVER, is_name};

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
