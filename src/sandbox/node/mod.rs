//! The node of a sandbox: pods as local processes (kubelet), and Services as TCP proxies (kube-proxy).
//!
//! Pods have no mount or network namespace. Each has a loopback address of its own, which its programs are told in
//! `LISTEN_ADDRESS`, and directories for its volumes, to which paths in arguments and environment are translated.

mod access;
mod address;
mod attach;
mod backoff;
mod bounds;
mod cgroup;
mod check;
mod claims;
mod container;
mod context;
mod ending;
mod env;
mod events;
mod exec;
mod execution;
mod faults;
mod forward;
mod frontier;
mod guard;
mod http;
mod https;
mod local;
mod logs;
mod network;
mod paths;
mod pod;
mod probe;
mod probing;
mod process;
mod proxy;
mod register;
mod remote;
mod run;
mod setup;
mod shim;
mod sources;
mod spdy;
mod status;
mod token;
mod volumes;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::sandbox::home::Home;
pub use access::Access;
use bounds::Bounds;
pub use bounds::BoundsError;
use cgroup::Cgroups;
use context::{Context, Means};
use frontier::Frontier;
pub use local::{LocalError, Locals, keep as keep_local};
use network::Network;
pub use network::NetworkError;
pub use setup::sweep;
pub use shim::shim_main;
pub use sources::VOLUME_DRIVER;

/// The port at which a node tells logs, as kubelets have it.
const KUBELET_PORT: u16 = 10250;
/// The port at which pods with networks of their own reach the API server.
const API_PORT: u16 = 6443;
/// The annotation that tells what control groups do for this node's pods.
const CGROUPS_ANNOTATION: &str = "sandbox.dbctl/cgroups";
/// Those that tell how pods are connected, and what volumes are.
const NETWORK_ANNOTATION: &str = "sandbox.dbctl/network";
const VOLUMES_ANNOTATION: &str = "sandbox.dbctl/volumes";
/// How soon a node that cannot register tries again.
const REGISTER_RETRY: Duration = Duration::from_secs(1);

/// How pods are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// By addresses of this machine's loopback.
    #[default]
    Loopback,
    /// Each by a network namespace of its own, whose connections can be cut.
    Namespaces,
}

/// What persistent volumes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum VolumeMode {
    /// Directories, as large as the disk.
    #[default]
    Directories,
    /// File systems of the size that is asked for.
    Bounded,
}

impl fmt::Display for Isolation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Loopback => "loopback",
            Self::Namespaces => "namespaces",
        })
    }
}

impl fmt::Display for VolumeMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Directories => "directories",
            Self::Bounded => "bounded",
        })
    }
}

/// What a node is and where it works.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name, and that of its Node object.
    pub name: String,
    /// Its zone, for spreading.
    pub zone: String,
    /// Where volumes, logs and pods' directories lie.
    pub home: Home,
    /// Where software is installed; the home's own cache unless tests share one.
    pub cache: PathBuf,
    /// The X of the network 127.X.0.0/16.
    pub network: u8,
    /// Where it tells logs: 127.X.0.2:10250; port 0 takes any.
    pub address: SocketAddr,
    /// How pods reach the API server.
    pub access: Access,
    /// How pods are connected.
    pub isolation: Isolation,
    /// What persistent volumes are.
    pub volumes: VolumeMode,
    /// The shim's command line; empty means the copy of this program that pods get too.
    pub shim: Vec<String>,
}

impl NodeConfig {
    /// The one node of a sandbox.
    pub fn new(home: Home, network: u8, access: Access) -> Self {
        Self {
            name: "sandbox".to_owned(),
            zone: "local".to_owned(),
            cache: home.cache(),
            home,
            network,
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, network, 0, 2)), KUBELET_PORT),
            access,
            isolation: Isolation::default(),
            volumes: VolumeMode::default(),
            shim: Vec::new(),
        }
    }

    /// Where pods with networks of their own reach the API server of a sandbox: its certificate has to say so.
    pub fn api_for_pods(network: u8) -> Ipv4Addr {
        network::api_address(network)
    }

    /// The directory of the program that pods find on their PATH.
    fn programs(&self) -> PathBuf {
        self.home.state().join("bin")
    }
}

/// Why a node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Pods cannot be connected.
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    /// Volumes cannot have bounds.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
    /// Nothing can stand between pods and the API server.
    #[error("{0}")]
    Frontier(String),
    /// Its directories cannot be made.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Processes of an earlier run cannot be killed.
    #[error("kill processes that an earlier run left: {0:?}")]
    LeftOvers(Vec<i32>),
    /// Its address is taken.
    #[error("listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The client for probes cannot be made.
    #[error("make a client for probes: {0}")]
    Probes(#[from] reqwest::Error),
    /// Pods run as a user who cannot enter a directory above the home.
    #[error("let user {user} into {directory}: it is closed to others; set DBCTL_HOME to a directory that everybody may enter, such as /var/lib/dbctl", directory = directory.display())]
    Closed {
        /// Who cannot enter.
        user: String,
        /// What is closed.
        directory: PathBuf,
    },
    /// A part of the node ended by itself.
    #[error("go on: {0}")]
    Ended(String),
}

/// Runs a node until it is told to stop; then all its pods are stopped too, and are taken up again by the next run.
///
/// # Errors
/// When it cannot begin, or a part of it fails.
pub async fn run(client: Client, mut config: NodeConfig, stop: CancellationToken) -> Result<(), NodeError> {
    let program = setup::prepare(&config)?;
    if config.shim.is_empty() {
        config.shim = vec![program.to_string_lossy().into_owned(), "sandbox".to_owned(), "shim".to_owned()];
    }
    let home = config.home.clone();
    let swept = tokio::task::spawn_blocking(move || sweep(&home)).await;
    if swept.map_err(|error| NodeError::Ended(error.to_string()))?? > 0 {
        tracing::warn!("killed processes that an earlier run left");
    }
    let listen = |error| NodeError::Listen(config.address, error);
    let listener = TcpListener::bind(config.address).await.map_err(listen)?;
    config.address = listener.local_addr().map_err(listen)?;
    let capacity = register::capacity(config.home.root());
    let cgroups = open_cgroups(&config.home.state()).await;
    let bounds = match config.volumes {
        VolumeMode::Directories => None,
        VolumeMode::Bounded => Some(Bounds::open(config.home.state().join("volumes"))?),
    };
    let network = match config.isolation {
        Isolation::Loopback => Network::Loopback(config.network),
        Isolation::Namespaces => Network::namespaces(&config.home, config.network).await?,
    };
    // Held for as long as pods may use it.
    let _entrance = match network.api() {
        Some(address) => {
            let frontier = Frontier::at((address, API_PORT).into(), &config.access.server).await;
            let frontier = frontier.map_err(NodeError::Frontier)?;
            config.access.server.clone_from(&frontier.server);
            Some(frontier)
        }
        None => None,
    };
    let features = features(&cgroups, &config);
    while let Err(error) = register::register(&client, &config, capacity, &features).await {
        tracing::warn!(%error, "failed to register the node, trying again");
        tokio::select! {
            () = tokio::time::sleep(REGISTER_RETRY) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
    let context =
        Arc::new(Context::new(client.clone(), config, capacity, Means { cgroups, network, bounds })?);
    let mut parts = JoinSet::new();
    parts.spawn({
        let (context, stop) = (Arc::clone(&context), stop.clone());
        async move { http::serve(context, listener, stop).await.map_err(|error| error.to_string()) }
    });
    let lease = register::keep_lease(client.clone(), context.config.name.clone());
    parts.spawn(forever("the lease", lease));
    parts.spawn(forever("the volumes' keeper", claims::reclaim(Arc::clone(&context))));
    parts.spawn(forever("the proxy", proxy::run(client.clone(), context.network.apart())));
    let mut pods = JoinSet::new();
    pods.spawn(follow_pods(Arc::clone(&context), stop.clone()));
    let result = tokio::select! {
        _ = pods.join_next() => Ok(()),
        Some(part) = parts.join_next() => match part {
            Ok(Ok(())) if stop.is_cancelled() => Ok(()),
            Ok(Ok(())) => Err(NodeError::Ended("the log server ended".to_owned())),
            Ok(Err(message)) => Err(NodeError::Ended(message)),
            Err(error) => Err(NodeError::Ended(error.to_string())),
        },
    };
    // Pods end before the proxy does: their last words go through it.
    stop.cancel();
    while pods.join_next().await.is_some() {}
    let home = context.config.home.clone();
    match tokio::task::spawn_blocking(move || sweep(&home)).await {
        Ok(Err(error)) => tracing::warn!("failed to {error}"),
        _ => tracing::debug!("nothing of the pods is left"),
    }
    result
}

/// Control groups where they can be made; where not, the log says why, once.
async fn open_cgroups(state: &std::path::Path) -> Result<Cgroups, String> {
    let state = state.to_owned();
    let opened = tokio::task::spawn_blocking(move || Cgroups::open(&state)).await;
    let opened = opened.map_err(|error| error.to_string());
    let opened = opened.and_then(|opened| opened.map_err(|error| format!("failed to {error}")));
    if let Err(why) = &opened {
        tracing::warn!("pods run without limits of memory and CPU: {why}");
    }
    opened
}

/// What this node can do, for its object's annotations.
fn features(cgroups: &Result<Cgroups, String>, config: &NodeConfig) -> BTreeMap<String, String> {
    let cgroups = match cgroups {
        Ok(cgroups) => cgroups.controllers().into_iter().collect::<Vec<_>>().join(","),
        Err(why) => format!("none: {why}"),
    };
    let (network, volumes) = (config.isolation.to_string(), config.volumes.to_string());
    [(CGROUPS_ANNOTATION, cgroups), (NETWORK_ANNOTATION, network), (VOLUMES_ANNOTATION, volumes)]
        .map(|(name, text)| (name.to_owned(), text))
        .into()
}

async fn forever(what: &str, part: impl Future<Output = ()>) -> Result<(), String> {
    part.await;
    Err(format!("{what} ended"))
}

type Worker = watch::Sender<Option<Arc<Pod>>>;

/// Keeps a worker for each pod that is bound to this node, and waits for them at the end.
async fn follow_pods(context: Arc<Context>, stop: CancellationToken) {
    let selector = format!("spec.nodeName={}", context.config.name);
    let events =
        watcher(Api::<Pod>::all(context.client.clone()), watcher::Config::default().fields(&selector))
            .default_backoff()
            .inspect_err(|error| tracing::debug!(%error, "the watch of pods is retried"));
    futures::pin_mut!(events);
    let mut crew = Crew { context, stop: stop.clone(), workers: HashMap::new(), tasks: JoinSet::new() };
    let mut listed = Vec::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(done) = crew.tasks.join_next() => {
                crew.dismiss(done);
                continue;
            }
            () = stop.cancelled() => break,
        };
        match event {
            Some(Ok(watcher::Event::Init)) => listed.clear(),
            Some(Ok(watcher::Event::InitApply(pod))) => listed.push(pod),
            Some(Ok(watcher::Event::InitDone)) => crew.relist(std::mem::take(&mut listed)),
            Some(Ok(watcher::Event::Apply(pod))) => crew.tell(pod),
            Some(Ok(watcher::Event::Delete(pod))) => crew.forget(&pod.uid().unwrap_or_default()),
            Some(Err(_)) => {}
            None => break,
        }
    }
    while let Some(done) = crew.tasks.join_next().await {
        crew.dismiss(done);
    }
}

struct Crew {
    context: Arc<Context>,
    stop: CancellationToken,
    workers: HashMap<String, Worker>,
    tasks: JoinSet<String>,
}

impl Crew {
    fn tell(&mut self, pod: Pod) {
        let uid = pod.uid().unwrap_or_default();
        let pod = Some(Arc::new(pod));
        if let Some(worker) = self.workers.get(&uid) {
            worker.send_replace(pod);
            return;
        }
        let (worker, updates) = watch::channel(pod);
        let work = pod::work(Arc::clone(&self.context), updates, self.stop.clone());
        self.workers.insert(uid.clone(), worker);
        self.tasks.spawn(async move {
            work.await;
            uid
        });
    }

    fn forget(&mut self, uid: &str) {
        if let Some(worker) = self.workers.get(uid) {
            worker.send_replace(None);
        }
    }

    /// After a fresh list: who is not in it is gone.
    fn relist(&mut self, pods: Vec<Pod>) {
        if self.workers.is_empty() {
            let uids = pods.iter().filter_map(ResourceExt::uid).collect();
            setup::remove_strangers(&self.context, &uids);
        }
        let known: Vec<String> = self.workers.keys().cloned().collect();
        for uid in known {
            if !pods.iter().any(|pod| pod.uid().as_deref() == Some(uid.as_str())) {
                self.forget(&uid);
            }
        }
        // Those that have addresses keep them, before any new one is given out.
        for pod in &pods {
            if pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some()) && !pod::finished(pod) {
                self.context.hold_address(pod);
            }
        }
        pods.into_iter().for_each(|pod| self.tell(pod));
    }

    fn dismiss(&mut self, done: Result<String, tokio::task::JoinError>) {
        match done {
            Ok(uid) => {
                self.workers.remove(&uid);
            }
            Err(error) => tracing::error!(%error, "a pod's worker failed"),
        }
    }
}

#[cfg(test)]
mod tests;
