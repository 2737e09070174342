//! Disks that are slow, or full.

use std::collections::BTreeSet;
use std::path::Path;

use super::{SlowDisk, State};
use crate::sandbox::node::cgroup::{Group, Throttle};
use crate::sandbox::node::context::Context;
use crate::sandbox::node::run::Run;

impl SlowDisk {
    fn throttle(self) -> Throttle {
        Throttle { bytes_per_second: self.bytes_per_second, operations_per_second: self.iops }
    }
}

/// Slows down the devices of all of a pod's volumes, for this pod alone.
pub(super) fn slow(
    context: &Context,
    run: &Run,
    state: &mut State,
    slow: SlowDisk,
) -> Result<String, String> {
    let cgroups = context.cgroups.as_ref().map_err(|why| format!("needs control groups: {why}"))?;
    if !cgroups.of_pod(&run.uid).throttles() {
        return Err("needs the control group controller \"io\" (\"blkio\" in version 1)".to_owned());
    }
    let groups = run.groups();
    if groups.is_empty() {
        return Err("no container of the pod runs".to_owned());
    }
    let volumes = run.volumes();
    let mut devices = BTreeSet::new();
    for (volume, place) in &volumes {
        devices.insert(device(&place.directory).map_err(|why| format!("volume {volume}: {why}"))?);
    }
    if devices.is_empty() {
        return Err("the pod has no volume that it writes to".to_owned());
    }
    state.devices = devices.into_iter().collect();
    if let Err(error) = throttle_all(run, &state.devices, slow.throttle()) {
        let _ = quicken(run, state);
        return Err(format!("the kernel refuses it: {error}"));
    }
    // For what starts while this is so.
    state.wanted.slow_disk = Some(slow);
    let (bytes, operations) = (slow.bytes_per_second, slow.iops);
    let parts = bytes.map(|bytes| format!("{bytes} bytes")).into_iter();
    let parts = parts.chain(operations.map(|count| format!("{count} operations"))).collect::<Vec<_>>();
    Ok(format!("at most {} a second on device {}", parts.join(" and "), state.devices.join(", ")))
}

fn throttle_all(run: &Run, devices: &[String], throttle: Throttle) -> std::io::Result<()> {
    run.groups().values().try_for_each(|group| throttle_group(group, devices, throttle))
}

fn throttle_group(group: &Group, devices: &[String], throttle: Throttle) -> std::io::Result<()> {
    devices.iter().try_for_each(|device| group.throttle(device, throttle))
}

/// As fast as ever.
pub(super) fn quicken(run: &Run, state: &mut State) -> Result<(), String> {
    let devices = std::mem::take(&mut state.devices);
    throttle_all(run, &devices, Throttle::default()).map_err(|error| error.to_string())
}

/// A container starts while its pod's disk is slow.
pub(super) fn begins(state: &State, group: &Group) {
    let Some(slow) = state.wanted.slow_disk else { return };
    if let Err(error) = throttle_group(group, &state.devices, slow.throttle()) {
        tracing::warn!(%error, "failed to slow down the disk of a container");
    }
}

/// The device that a directory's file system lies on, `MAJOR:MINOR`: the whole one, since parts have no limits.
fn device(directory: &Path) -> Result<String, String> {
    use std::os::unix::fs::MetadataExt;
    let number = std::fs::metadata(directory).map_err(|error| error.to_string())?.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let known = Path::new("/sys/dev/block").join(format!("{major}:{minor}")).canonicalize();
    let Ok(known) = known else {
        return Err("its file system has no block device of its own, whose speed could be limited".to_owned());
    };
    let whole = match known.parent() {
        Some(parent) if known.join("partition").exists() => parent,
        _ => known.as_path(),
    };
    let text = std::fs::read_to_string(whole.join("dev")).map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
}

/// Leaves no room in the pod's volumes.
pub(super) async fn fill(context: &Context, run: &Run, state: &mut State) -> Result<String, String> {
    let bounds =
        context.bounds.clone().ok_or("needs --volumes=bounded: a directory is as large as the disk")?;
    let handles: Vec<String> = run.volumes().into_values().filter_map(|place| place.handle).collect();
    if handles.is_empty() {
        return Err("the pod has no persistent volume".to_owned());
    }
    for handle in handles {
        let (bounds, of) = (bounds.clone(), handle.clone());
        let filled = tokio::task::spawn_blocking(move || bounds.fill(&of)).await;
        let filled = filled
            .map_err(|error| error.to_string())
            .and_then(|done| done.map_err(|error| error.to_string()));
        match filled {
            Ok(ballast) => state.ballast.push(ballast),
            Err(error) => {
                let _ = empty(state).await;
                return Err(format!("volume {handle} cannot be filled: {error}"));
            }
        }
    }
    Ok("its persistent volumes have no room left".to_owned())
}

/// Gives the room back.
pub(super) async fn empty(state: &mut State) -> Result<(), String> {
    for ballast in std::mem::take(&mut state.ballast) {
        match std::fs::remove_file(&ballast) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", ballast.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
