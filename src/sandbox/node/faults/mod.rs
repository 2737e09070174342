//! What is done to pods for a test's sake: the failures that real machines, disks and networks have.
//!
//! Each either takes effect or is refused with the reason; none is pretended. They last until they are cleared or their
//! pod ends, and are not remembered over a restart of the node.

mod disk;
pub(super) mod http;
mod processes;
mod some;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use super::cgroup::Group;
use super::context::Context;
use super::events::Kind as EventKind;
use super::network::{Cut, Network};
use super::run::{Run, Stop};

/// The faults that a pod is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Wanted {
    /// Its processes stand still.
    #[serde(skip_serializing_if = "is_off")]
    pub freeze: bool,
    /// Its processes are killed, once.
    #[serde(skip_serializing_if = "is_off")]
    pub kill: bool,
    /// Those of its processes stand still whose command line contains this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_processes: Option<String>,
    /// Those are killed, once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill_processes: Option<String>,
    /// Its disk is slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_disk: Option<SlowDisk>,
    /// Its volumes have no room left.
    #[serde(skip_serializing_if = "is_off")]
    pub full_disk: bool,
    /// It cannot reach the API server.
    #[serde(skip_serializing_if = "is_off")]
    pub cut_api: bool,
    /// It cannot reach other pods.
    #[serde(skip_serializing_if = "is_off")]
    pub cut_peers: bool,
    /// When all of them are cleared, in milliseconds from now; otherwise they stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// The longest time after which faults are cleared: a year.
const MAX_MILLIS: u64 = 365 * 24 * 60 * 60 * 1000;

fn is_off(fault: &bool) -> bool {
    !fault
}

/// How slow a disk is; nothing is as fast as it can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct SlowDisk {
    /// Bytes that may be read, and that may be written, in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Operations of each kind in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops: Option<u64>,
}

impl Wanted {
    /// What is wrong with it.
    fn check(&self) -> Result<(), &'static str> {
        if self.duration_ms.is_some_and(|millis| !(1..=MAX_MILLIS).contains(&millis)) {
            return Err("durationMs: must be from 1 to 31536000000: a year");
        }
        let texts = [&self.freeze_processes, &self.kill_processes];
        if texts.into_iter().flatten().any(|text| text.trim().is_empty()) {
            return Err("freezeProcesses and killProcesses: must not be empty");
        }
        match self.slow_disk {
            Some(SlowDisk { bytes_per_second: None, iops: None }) => {
                Err("slowDisk: needs bytesPerSecond, iops, or both")
            }
            Some(SlowDisk { bytes_per_second: Some(0), .. } | SlowDisk { iops: Some(0), .. }) => {
                Err("slowDisk: bytesPerSecond and iops must be greater than 0")
            }
            _ => Ok(()),
        }
    }
}

/// What became of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Applied,
    Refused,
}

/// One fault of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Told {
    name: &'static str,
    status: Outcome,
    /// Why it was refused, or what it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

/// The faults that a pod has.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Those that took effect.
    wanted: Wanted,
    /// What each of them does, by its name.
    effects: BTreeMap<&'static str, String>,
    /// Single processes that stand still.
    still: Option<some::Still>,
    /// The devices that are slow, as the kernel numbers them.
    devices: Vec<String>,
    /// The addresses of the API server that the pod is cut off from.
    api: Vec<Ipv4Addr>,
    /// What fills volumes.
    ballast: Vec<PathBuf>,
    /// What clears all of it, and when.
    timer: Option<(Timestamp, AbortOnDropHandle<()>)>,
}

/// Makes a pod's faults what is wanted, for as long as that is wanted.
async fn put(context: &Arc<Context>, run: &Arc<Run>, wanted: &Wanted) -> Vec<Told> {
    let mut state = run.faults.lock().await;
    // The time of what was there before is counted no more.
    state.timer = None;
    state.wanted.duration_ms = None;
    let told = make(context, run, &mut state, wanted).await;
    if let Some(millis) = wanted.duration_ms
        && !state.effects.is_empty()
    {
        state.wanted.duration_ms = Some(millis);
        state.timer = clear_after(context, run, millis);
    }
    told
}

fn clear_after(
    context: &Arc<Context>,
    run: &Arc<Run>,
    millis: u64,
) -> Option<(Timestamp, AbortOnDropHandle<()>)> {
    let time = Duration::from_millis(millis);
    let until = Timestamp::now().checked_add(SignedDuration::try_from(time).ok()?).ok()?;
    let (context, pod) = (Arc::clone(context), Arc::downgrade(run));
    let task = tokio::spawn(async move {
        tokio::time::sleep(time).await;
        let Some(run) = pod.upgrade() else { return };
        // Whoever changes the faults meanwhile holds the lock, and ends this task before giving it back.
        let mut state = run.faults.lock().await;
        state.wanted.duration_ms = None;
        make(&context, &run, &mut state, &Wanted::default()).await;
    });
    Some((until, AbortOnDropHandle::new(task)))
}

/// Makes a pod's faults what is wanted: others are cleared.
async fn make(context: &Context, run: &Run, state: &mut State, wanted: &Wanted) -> Vec<Told> {
    let mut told = Vec::new();
    if let Some(text) = &wanted.kill_processes {
        let result = some::kill(context, run, state, text).await;
        told.push(tell(context, run, "killProcesses", result));
    }
    if wanted.kill {
        let result = processes::kill(context, run).await;
        told.push(tell(context, run, "kill", result));
    }
    let had = state.wanted.clone();
    for name in ["freeze", "freezeProcesses", "slowDisk", "fullDisk", "cutApi", "cutPeers"] {
        let (before, after) = (is_in(&had, name), is_in(wanted, name));
        let changed = match name {
            "slowDisk" => had.slow_disk != wanted.slow_disk,
            "freezeProcesses" => had.freeze_processes != wanted.freeze_processes,
            _ => false,
        };
        if before && (!after || changed) {
            clear(context, run, state, name).await;
        }
        if !after {
            continue;
        }
        if before && !changed {
            let reason = state.effects.get(name).cloned().unwrap_or_default();
            told.push(Told { name, status: Outcome::Applied, reason });
            continue;
        }
        let result = inject(context, run, state, name, wanted).await;
        if let Ok(effect) = &result {
            state.effects.insert(name, effect.clone());
            set(&mut state.wanted, name, wanted);
        }
        told.push(tell(context, run, name, result));
    }
    told
}

fn is_in(wanted: &Wanted, name: &str) -> bool {
    match name {
        "freeze" => wanted.freeze,
        "freezeProcesses" => wanted.freeze_processes.is_some(),
        "slowDisk" => wanted.slow_disk.is_some(),
        "fullDisk" => wanted.full_disk,
        "cutApi" => wanted.cut_api,
        _ => wanted.cut_peers,
    }
}

fn set(state: &mut Wanted, name: &str, wanted: &Wanted) {
    match name {
        "freeze" => state.freeze = wanted.freeze,
        "freezeProcesses" => state.freeze_processes.clone_from(&wanted.freeze_processes),
        "slowDisk" => state.slow_disk = wanted.slow_disk,
        "fullDisk" => state.full_disk = wanted.full_disk,
        "cutApi" => state.cut_api = wanted.cut_api,
        _ => state.cut_peers = wanted.cut_peers,
    }
}

/// An answer and, where something was done, an event.
fn tell(context: &Context, run: &Run, name: &'static str, result: Result<String, String>) -> Told {
    match result {
        Ok(reason) => {
            context.events.say(
                &run.pod(),
                None,
                EventKind::Warning,
                "FaultInjected",
                format!("{name}: {reason}"),
            );
            Told { name, status: Outcome::Applied, reason }
        }
        Err(reason) => Told { name, status: Outcome::Refused, reason },
    }
}

/// Makes one fault take effect: what it does, or why it cannot be had.
async fn inject(
    context: &Context,
    run: &Run,
    state: &mut State,
    name: &str,
    wanted: &Wanted,
) -> Result<String, String> {
    if *run.stop.borrow() != Stop::No {
        return Err("the pod is ending".to_owned());
    }
    match name {
        "freeze" => processes::freeze(run, state).await,
        "freezeProcesses" => {
            let text = wanted.freeze_processes.as_deref().unwrap_or_default();
            some::freeze(context, run, state, text).await
        }
        "slowDisk" => disk::slow(context, run, state, wanted.slow_disk.unwrap_or_default()),
        "fullDisk" => disk::fill(context, run, state).await,
        "cutApi" => cut_api(context, run, state).await,
        _ => cut_peers(context, run).await,
    }
}

async fn clear(context: &Context, run: &Run, state: &mut State, name: &'static str) {
    let result = match name {
        "freeze" => processes::thaw(run, state).await,
        "freezeProcesses" => some::thaw(run, state).await,
        "slowDisk" => disk::quicken(run, state),
        "fullDisk" => disk::empty(state).await,
        "cutApi" => heal_api(context, run, state).await,
        _ => heal(context, run, Cut::Peers).await,
    };
    state.effects.remove(name);
    set(&mut state.wanted, name, &Wanted::default());
    if state.effects.is_empty() {
        state.wanted.duration_ms = None;
    }
    match result {
        Ok(()) => {
            context.events.say(&run.pod(), None, EventKind::Normal, "FaultCleared", name.to_owned());
        }
        Err(error) => tracing::warn!("failed to clear fault {name} of pod {}: {error}", run.name),
    }
}

fn address(run: &Run) -> Result<Ipv4Addr, String> {
    let address = run.facts.borrow().address.clone();
    address.and_then(|address| address.parse().ok()).ok_or_else(|| "the pod has no address".to_owned())
}

async fn cut_api(context: &Context, run: &Run, state: &mut State) -> Result<String, String> {
    let Some(entrance) = context.network.api() else {
        let frontier = run.frontier.get().ok_or("the pod does not reach the API server through this node")?;
        frontier.as_ref().map_err(Clone::clone)?.cut(true);
        return Ok("its connections to the API server stand still".to_owned());
    };
    let service = Api::<Service>::namespaced(context.client.clone(), "default").get_opt("kubernetes").await;
    let service =
        service.map_err(|error| format!("the address of the API server's Service is not known: {error}"))?;
    let address_of = |service: Service| service.spec?.cluster_ip?.parse().ok();
    state.api = std::iter::once(entrance).chain(service.and_then(address_of)).collect();
    let cut = context.network.cut(address(run)?, Cut::Api(&state.api), true).await;
    cut.map_err(|error| format!("failed to {error}"))?;
    Ok("packets between it and the API server are dropped".to_owned())
}

async fn heal_api(context: &Context, run: &Run, state: &mut State) -> Result<(), String> {
    if let Some(Ok(frontier)) = run.frontier.get() {
        frontier.cut(false);
    }
    heal(context, run, Cut::Api(&state.api)).await
}

async fn cut_peers(context: &Context, run: &Run) -> Result<String, String> {
    if matches!(*context.network, Network::Loopback(_)) {
        return Err("needs --network=namespaces: on the loopback nothing stands between pods".to_owned());
    }
    let cut = context.network.cut(address(run)?, Cut::Peers, true).await;
    cut.map_err(|error| format!("failed to {error}"))?;
    Ok("packets between it and other pods are dropped".to_owned())
}

async fn heal(context: &Context, run: &Run, cut: Cut<'_>) -> Result<(), String> {
    context.network.cut(address(run)?, cut, false).await.map_err(|error| error.to_string())
}

/// A container starts in that group: what its pod has, it has too.
pub(super) async fn begins(run: &Run, group: &Group) {
    disk::begins(&*run.faults.lock().await, group);
}

/// A container has ended. When the last frozen one has, nothing stands still any more: what is started anew runs.
pub(super) fn ended(context: &Arc<Context>, run: &Arc<Run>, container: &str) {
    if !run.frozen.send_if_modified(|frozen| frozen.remove(container)) || !run.frozen.borrow().is_empty() {
        return;
    }
    let (context, run) = (Arc::clone(context), Arc::clone(run));
    tokio::spawn(async move {
        let mut state = run.faults.lock().await;
        if state.wanted.freeze && run.frozen.borrow().is_empty() {
            clear(&context, &run, &mut state, "freeze").await;
        }
    });
}

/// Clears all faults of a pod that has ended.
pub(super) async fn end(context: &Context, run: &Run) {
    let mut state = run.faults.lock().await;
    state.timer = None;
    make(context, run, &mut state, &Wanted::default()).await;
}
