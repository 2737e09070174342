//! Processes that stand still, or are killed all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::State;
use super::some::Still;
use crate::sandbox::node::cgroup::Group;
use crate::sandbox::node::context::Context;
use crate::sandbox::node::process::POD_MARK;
use crate::sandbox::node::run::Run;
use crate::sandbox::node::shim::tree;

/// How long processes may take to stop, or to die.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);

pub(super) const NOTHING_RUNS: &str = "no container of the pod runs";

/// Stops all of a pod's processes where they are; their shims go on.
pub(super) async fn freeze(run: &Run, state: &State) -> Result<String, String> {
    let running = run.running();
    if running.is_empty() {
        return Err(NOTHING_RUNS.to_owned());
    }
    // First, so that nothing is started in there any more.
    run.frozen.send_modify(|frozen| frozen.extend(running));
    let frozen = match groups(run) {
        Some(groups) => by_group(groups, true).await,
        None => {
            let shims = shims(&run.uid);
            let stopped = tokio::task::spawn_blocking(move || stop(&shims)).await;
            stopped.unwrap_or_else(|error| Err(error.to_string()))
        }
    };
    match frozen {
        Ok(1) => Ok("1 process stands still".to_owned()),
        Ok(count) => Ok(format!("{count} processes stand still")),
        Err(error) => {
            let _ = thaw(run, state).await;
            Err(format!("its processes cannot be stopped: {error}"))
        }
    }
}

/// Lets them go on, but those that stand still by themselves.
pub(super) async fn thaw(run: &Run, state: &State) -> Result<(), String> {
    let result = match groups(run) {
        Some(groups) => by_group(groups, false).await.map(drop),
        None => {
            let shims = shims(&run.uid);
            let still = state.still.as_ref().map(Still::pids).unwrap_or_default();
            let resumed = tokio::task::spawn_blocking(move || resume(&shims, &still)).await;
            resumed.map_err(|error| error.to_string())
        }
    };
    run.frozen.send_modify(BTreeSet::clear);
    result
}

/// Kills all of a pod's processes.
pub(super) async fn kill(context: &Context, run: &Run) -> Result<String, String> {
    if run.running().is_empty() {
        return Err(NOTHING_RUNS.to_owned());
    }
    let shims = shims(&run.uid);
    let group = context.cgroups.as_ref().ok().map(|cgroups| cgroups.of_pod(&run.uid));
    let killed = tokio::task::spawn_blocking(move || {
        let count = tree::alive_below(&shims).len();
        if let Some(group) = group {
            group.kill().map_err(|error| error.to_string())?;
        }
        // What is not in a group, and all where there is none.
        until(|| {
            let alive = tree::alive_below(&shims);
            alive.keys().for_each(|pid| signal(*pid, Signal::KILL));
            alive.is_empty()
        })?;
        Ok(count)
    });
    let count = killed.await.unwrap_or_else(|error| Err(error.to_string()))?;
    Ok(if count == 1 { "1 process was killed".to_owned() } else { format!("{count} processes were killed") })
}

/// The control groups of all containers, if they can stop processes.
pub(super) fn groups(run: &Run) -> Option<Vec<Group>> {
    let groups: Vec<Group> = run.groups().into_values().collect();
    (!groups.is_empty() && groups.iter().all(Group::freezes)).then_some(groups)
}

async fn by_group(groups: Vec<Group>, frozen: bool) -> Result<usize, String> {
    let done = tokio::task::spawn_blocking(move || {
        groups.iter().try_for_each(|group| group.freeze(frozen))?;
        Ok::<_, std::io::Error>(groups.iter().map(|group| group.processes().len()).sum())
    });
    done.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// The shims of a pod's containers and of what else is run in them.
pub(super) fn shims(uid: &str) -> BTreeSet<i32> {
    tree::children_marked(&format!("{POD_MARK}={uid}"))
}

/// Stops everything below.
pub(super) fn stop(shims: &BTreeSet<i32>) -> Result<usize, String> {
    halt(|| tree::alive_below(shims)).map(|stopped| stopped.len())
}

/// Sends SIGSTOP until everything that is seen stands still, and tells what does. Twice: a process that began while it
/// was looked at is seen by the second look, and nothing begins where everything stands. A process within the kernel
/// (`D`) that has been told stops before it does anything of its own; one that waits in vfork(2) for a stopped child
/// stays there.
pub(super) fn halt(look: impl Fn() -> BTreeMap<i32, char>) -> Result<BTreeSet<i32>, String> {
    let mut still = 0;
    let mut stopped = BTreeSet::new();
    let mut told = BTreeSet::<i32>::new();
    until(|| {
        let alive = look();
        let stands =
            |pid: &i32, state: char| matches!(state, 'T' | 't') || (state == 'D' && told.contains(pid));
        let moving: Vec<i32> =
            alive.iter().filter(|(pid, state)| !stands(pid, **state)).map(|(pid, _)| *pid).collect();
        moving.iter().for_each(|pid| signal(*pid, Signal::STOP));
        told.extend(&moving);
        still = if moving.is_empty() { still + 1 } else { 0 };
        stopped = alive.into_keys().collect();
        still == 2
    })?;
    Ok(stopped)
}

pub(super) fn resume(shims: &BTreeSet<i32>, but: &BTreeSet<i32>) {
    for pid in tree::alive_below(shims).into_keys().filter(|pid| !but.contains(pid)) {
        signal(pid, Signal::CONT);
    }
}

pub(super) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may be gone already.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

pub(super) fn until(mut done: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            return Err(format!("it takes longer than {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
