//! Some of a pod's processes stand still, or are killed: those whose command line contains a text, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio_util::task::AbortOnDropHandle;

use super::State;
use super::processes::{NOTHING_RUNS, groups, halt, shims, signal, until};
use crate::sandbox::node::cgroup::Group;
use crate::sandbox::node::context::Context;
use crate::sandbox::node::run::Run;
use crate::sandbox::node::shim::tree;

/// How often new processes are looked for.
const POLL: Duration = Duration::from_millis(50);
/// How many command lines are named where none is meant, and how much of each.
const MAX_LINES: usize = 5;
const MAX_LINE: usize = 40;

/// Which processes are meant.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub uid: String,
    /// The pod's control group: it holds the containers, and not their shims.
    pub group: Option<Group>,
    pub text: String,
    /// The shims' command line.
    pub shim: Vec<String>,
}

impl Choice {
    fn new(context: &Context, run: &Run, text: &str) -> Self {
        let group = context.cgroups.as_ref().ok().map(|cgroups| cgroups.of_pod(&run.uid));
        Self { uid: run.uid.clone(), group, text: text.to_owned(), shim: context.launcher.shim.clone() }
    }

    /// The pod's processes that are alive, with their states.
    fn all(&self) -> BTreeMap<i32, char> {
        let grouped = self.group.as_ref().map(Group::processes).unwrap_or_default();
        if grouped.is_empty() {
            return tree::alive_below(&shims(&self.uid));
        }
        grouped.into_iter().filter_map(|pid| Some((pid, tree::alive(pid)?))).collect()
    }

    fn matching(&self) -> BTreeMap<i32, char> {
        let means = |pid: i32| self.words(pid).is_some_and(|words| words.join(" ").contains(&self.text));
        self.all().into_iter().filter(|(pid, _)| means(*pid)).collect()
    }

    /// A process's program and arguments; none where it is a shim, or a shim's child that has not become another program
    /// yet: its shim waits for it, and nobody waits for a shim in vain.
    fn words(&self, pid: i32) -> Option<Vec<String>> {
        let words = tree::command_line(pid);
        let (program, arguments) = words.split_first()?;
        let (shim, own) = self.shim.split_first()?;
        let is_shim = arguments == own && (program == shim || program == "/proc/self/exe");
        (!is_shim).then_some(words)
    }

    /// Stops them all; without waiting for it, where the whole pod stands still anyway.
    pub fn stop(&self, rests: bool) -> Result<BTreeSet<i32>, String> {
        let found: BTreeSet<i32> = if rests {
            let found = self.matching().into_keys().collect();
            give(&found, Signal::STOP);
            found
        } else {
            halt(|| self.matching()).map_err(|error| {
                give(&self.matching().into_keys().collect(), Signal::CONT);
                format!("its processes cannot be stopped: {error}")
            })?
        };
        if found.is_empty() { Err(self.nothing()) } else { Ok(found) }
    }

    /// Why nothing is done.
    fn nothing(&self) -> String {
        let lines: BTreeSet<String> = self.all().into_keys().filter_map(|pid| self.line(pid)).collect();
        let mut named: Vec<String> = lines.iter().take(MAX_LINES).cloned().collect();
        if lines.len() > named.len() {
            named.push("…".to_owned());
        }
        format!(
            "no process of the pod has {:?} in its command line; there are: {}",
            self.text,
            named.join(", ")
        )
    }

    fn line(&self, pid: i32) -> Option<String> {
        let line = self.words(pid)?.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = line.chars().take(MAX_LINE).collect();
        Some(if short.len() < line.len() { format!("{short}…") } else { short })
    }

    fn tell(&self, count: usize, [one, many]: [&str; 2]) -> String {
        let what = if count == 1 { format!("1 process {one}") } else { format!("{count} processes {many}") };
        format!("{what}: {:?}", self.text)
    }
}

fn give(pids: &BTreeSet<i32>, order: Signal) {
    pids.iter().for_each(|pid| signal(*pid, order));
}

/// What stands still, and what keeps it so.
#[derive(Debug)]
pub(super) struct Still {
    choice: Choice,
    stopped: Arc<Mutex<Stopped>>,
    _watch: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Stopped {
    pids: BTreeSet<i32>,
    over: bool,
}

impl Still {
    fn start(choice: Choice, pids: BTreeSet<i32>) -> Self {
        let stopped = Arc::new(Mutex::new(Stopped { pids, over: false }));
        let task = tokio::spawn(watch(choice.clone(), Arc::clone(&stopped)));
        Self { choice, stopped, _watch: AbortOnDropHandle::new(task) }
    }

    /// The processes that were stopped.
    pub fn pids(&self) -> BTreeSet<i32> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).pids.clone()
    }
}

/// Stops those that begin later, too.
async fn watch(choice: Choice, stopped: Arc<Mutex<Stopped>>) {
    loop {
        tokio::time::sleep(POLL).await;
        let (choice, stopped) = (choice.clone(), Arc::clone(&stopped));
        let look = move || {
            // Held all the while: what is let go must not be stopped again by an earlier look.
            let mut stopped = stopped.lock().unwrap_or_else(PoisonError::into_inner);
            if stopped.over {
                return;
            }
            let moving = choice.matching().into_iter().filter(|(_, state)| !matches!(state, 'T' | 't'));
            let moving: BTreeSet<i32> = moving.map(|(pid, _)| pid).collect();
            give(&moving, Signal::STOP);
            stopped.pids.extend(moving);
        };
        let _ = tokio::task::spawn_blocking(look).await;
    }
}

/// Stops processes until they are let go, and those that begin meanwhile.
pub(super) async fn freeze(
    context: &Context,
    run: &Run,
    state: &mut State,
    text: &str,
) -> Result<String, String> {
    if run.running().is_empty() {
        return Err(NOTHING_RUNS.to_owned());
    }
    let choice = Choice::new(context, run, text);
    let (chosen, rests) = (choice.clone(), state.wanted.freeze);
    let stopped = tokio::task::spawn_blocking(move || chosen.stop(rests)).await;
    let pids = stopped.unwrap_or_else(|error| Err(error.to_string()))?;
    let told = choice.tell(pids.len(), ["stands still, and new ones will", "stand still, and new ones will"]);
    state.still = Some(Still::start(choice, pids));
    Ok(told)
}

/// Lets them go on, unless the whole pod stands still by the same means.
pub(super) async fn thaw(run: &Run, state: &mut State) -> Result<(), String> {
    let Some(still) = state.still.take() else { return Ok(()) };
    let stays = state.wanted.freeze && groups(run).is_none();
    let resumed = tokio::task::spawn_blocking(move || {
        let mut stopped = still.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.over = true;
        if !stays {
            // A number may belong to a stranger by now.
            let own = still.choice.all();
            give(&stopped.pids.iter().filter(|pid| own.contains_key(pid)).copied().collect(), Signal::CONT);
        }
    });
    resumed.await.map_err(|error| error.to_string())
}

/// Kills processes, all at once: none of them sees another one's end.
pub(super) async fn kill(context: &Context, run: &Run, state: &State, text: &str) -> Result<String, String> {
    if run.running().is_empty() {
        return Err(NOTHING_RUNS.to_owned());
    }
    let choice = Choice::new(context, run, text);
    let rests = state.wanted.freeze;
    let killed = tokio::task::spawn_blocking(move || {
        let pids = choice.stop(rests)?;
        give(&pids, Signal::KILL);
        // In a frozen control group the signal may wait until it is let go.
        if !rests {
            until(|| pids.iter().all(|pid| !choice.all().contains_key(pid)))?;
        }
        Ok(choice.tell(pids.len(), ["was killed", "were killed"]))
    });
    killed.await.unwrap_or_else(|error| Err(error.to_string()))
}
