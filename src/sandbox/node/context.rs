//! What all of a node's pods share.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use tokio::sync::OwnedMutexGuard;

use super::NodeConfig;
use super::address::Pool;
use super::bounds::Bounds;
use super::cgroup::Cgroups;
use super::env::Capacity;
use super::events::Events;
use super::network::Network;
use super::process::Launcher;
use super::run::Run;
use crate::sandbox::provision::{Identity, Provisioner};

/// What this machine lets nodes do: one machine, however many nodes it is.
pub(super) struct Means {
    pub cgroups: Result<Cgroups, String>,
    pub network: Arc<Network>,
    pub bounds: Option<Bounds>,
    pool: Arc<Mutex<Pool>>,
    volumes: Locks,
}

impl Means {
    pub fn new(cgroups: Result<Cgroups, String>, network: Network, bounds: Option<Bounds>) -> Self {
        let pool = Arc::new(Mutex::new(network.pool()));
        Self { cgroups, network: Arc::new(network), bounds, pool, volumes: Locks::default() }
    }
}

/// One lock per volume: no two pods may work in one directory, however quickly one replaces the other.
type Locks = Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>;

/// The node's tools and registers.
pub(super) struct Context {
    pub client: Client,
    pub config: NodeConfig,
    pub identity: Identity,
    pub launcher: Launcher,
    pub provisioner: Provisioner,
    pub events: Events,
    pub http: reqwest::Client,
    pub capacity: Capacity,
    pool: Arc<Mutex<Pool>>,
    /// Where pods' control groups are made, or why there are none.
    pub cgroups: Result<Cgroups, String>,
    /// How pods are connected.
    pub network: Arc<Network>,
    /// What gives volumes their sizes, if anything does.
    pub bounds: Option<Bounds>,
    volumes: Locks,
    /// The pods that run here, by namespace and name: for those who ask for logs.
    pods: Mutex<HashMap<(String, String), Arc<Run>>>,
}

impl Context {
    pub fn new(
        client: Client,
        config: NodeConfig,
        capacity: Capacity,
        means: &Means,
    ) -> Result<Self, reqwest::Error> {
        let home = &config.home;
        // Probes ask exactly what they are told to, of exactly whom.
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .user_agent("kube-probe/1.36")
            .build()?;
        Ok(Self {
            identity: Identity::of_pods(),
            launcher: Launcher {
                shim: config.shim.clone(),
                home: home.root().to_owned(),
                programs: config.cache.clone(),
            },
            provisioner: Provisioner::new(config.cache.clone()),
            events: Events::start(client.clone(), config.name.clone()),
            pool: Arc::clone(&means.pool),
            cgroups: means.cgroups.clone(),
            network: Arc::clone(&means.network),
            bounds: means.bounds.clone(),
            volumes: Arc::clone(&means.volumes),
            pods: Mutex::default(),
            http,
            capacity,
            client,
            config,
        })
    }

    /// The pod's address, held until it is released.
    pub fn hold_address(&self, pod: &Pod) -> Option<Ipv4Addr> {
        let former = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref());
        let former = former.and_then(|address| address.parse().ok());
        let uid = pod.uid().unwrap_or_default();
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).hold(&uid, former)
    }

    pub fn release_address(&self, uid: &str) {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).release(uid);
    }

    /// Waits until nobody else uses the volume.
    pub async fn lock_volume(&self, handle: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(volumes.entry(handle.to_owned()).or_default())
        };
        lock.lock_owned().await
    }

    pub fn enter(&self, run: &Arc<Run>) {
        let key = (run.namespace.clone(), run.name.clone());
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(run));
    }

    pub fn leave(&self, run: &Run) {
        let key = (run.namespace.clone(), run.name.clone());
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        // A successor of that name may have entered already.
        if pods.get(&key).is_some_and(|found| found.uid == run.uid) {
            pods.remove(&key);
        }
    }

    /// All pods that run here.
    pub fn all_pods(&self) -> Vec<Arc<Run>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Run>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Where a persistent volume lies.
    pub fn volume(&self, handle: &str) -> PathBuf {
        match &self.bounds {
            Some(bounds) => bounds.data(handle),
            None => self.config.home.state().join("volumes").join(handle),
        }
    }

    pub fn pod_directory(&self, uid: &str) -> PathBuf {
        self.config.home.state().join("pods").join(uid)
    }

    /// Short, for the sockets in it.
    pub fn scratch(&self, uid: &str) -> PathBuf {
        let short: String = uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        self.config.home.scratch().join(short)
    }
}
