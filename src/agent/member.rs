//! What the agent's tasks share: who this member is, and what is known of it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::AgentError;
use super::attic::Attic;
use super::children::Children;
use super::major::Told;
use super::render::Environment;
use super::report::Rotations;
use super::store::Store;
use crate::patroni::{Client, Credentials};

/// One member, for as long as its container lives.
#[derive(Debug)]
pub struct Member {
    /// What the pod's environment says.
    pub environment: Environment,
    /// Patroni here and elsewhere.
    pub patroni: Client,
    /// Patroni's ConfigMaps.
    pub store: Store,
    /// The processes below.
    pub children: Children,
    /// Data of before restores in place.
    pub attic: Arc<Attic>,
    /// What is told of a major upgrade.
    pub major: Told,
    /// By which passwords this member goes.
    rotations: Mutex<Rotations>,
    /// The container was told to end.
    ending: AtomicBool,
    /// PostgreSQL's first process is there.
    running: AtomicBool,
}

impl Member {
    /// The member that the environment and the rendered configuration describe.
    pub fn new(environment: Environment, config: &Value) -> Result<Self, AgentError> {
        let scope = config.get("scope").and_then(Value::as_str).unwrap_or_default();
        Ok(Self {
            patroni: Client::new().map_err(|error| AgentError::Client(error.to_string()))?,
            store: Store::new(&environment.namespace, scope),
            children: Children::default(),
            attic: Arc::default(),
            major: Told::default(),
            rotations: Mutex::default(),
            ending: AtomicBool::new(false),
            running: AtomicBool::new(false),
            environment,
        })
    }

    /// Name and password for what changes something at Patroni's REST API, read anew: they may change.
    pub fn credentials(&self) -> Option<Credentials> {
        super::security::credentials(&self.environment)
    }

    /// Whether the container was told to end.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// The container was told to end.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Whether PostgreSQL's first process is there.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// PostgreSQL's first process came or went.
    pub fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::Relaxed);
    }

    /// By which passwords this member goes.
    pub fn rotations(&self) -> Rotations {
        self.rotations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It goes by these from now on.
    pub fn rotated(&self, rotations: Rotations) {
        *self.rotations.lock().unwrap_or_else(PoisonError::into_inner) = rotations;
    }

    /// Where the watchdog notes why it ended the container: it outlives the container, not the pod.
    pub fn fence_note(&self) -> PathBuf {
        self.environment.sockets.join("fenced.json")
    }
}

/// The time since the machine started, and it goes on while the machine sleeps.
pub fn clock() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}
