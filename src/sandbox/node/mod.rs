//! The nodes of a sandbox: pods as local processes (kubelet), and Services as TCP proxies (kube-proxy).
//!
//! One process serves all nodes of one machine. They have objects, leases, endpoints and pods of their own, and share what
//! there is of the machine: addresses, control groups, and volumes, which can be attached to any of them.
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
mod crew;
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

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use kube::Client;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
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
pub use register::is_ready;
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
    /// How many nodes this process serves: the others are called NAME-1, NAME-2 and so on.
    pub nodes: u8,
    /// Its zone, for spreading.
    pub zone: String,
    /// Where volumes, logs and pods' directories lie.
    pub home: Home,
    /// Where software is installed; the home's own cache unless tests share one.
    pub cache: PathBuf,
    /// The X of the network 127.X.0.0/16.
    pub network: u8,
    /// Where it tells logs: 127.X.0.2:10250, and the others at the addresses that follow; port 0 takes any.
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
    /// The first node of a sandbox, and the only one.
    pub fn new(home: Home, network: u8, access: Access) -> Self {
        Self {
            name: "sandbox".to_owned(),
            nodes: 1,
            zone: "local".to_owned(),
            cache: home.cache(),
            home,
            network,
            address: Self::kubelet(network, 0),
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

    /// Where the nth node of a sandbox is asked.
    pub fn kubelet(network: u8, index: u8) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(127, network, 0, 2 + index).into(), KUBELET_PORT)
    }

    /// The nth of the nodes.
    fn nth(&self, index: u8) -> Self {
        let mut own = self.clone();
        if index > 0 {
            own.name = format!("{}-{index}", self.name);
            let port = self.address.port();
            own.address = Self::kubelet(self.network, index);
            own.address.set_port(port);
        }
        own
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

/// Runs nodes until they are told to stop; then all their pods are stopped too, and are taken up again by the next run.
///
/// # Errors
/// When they cannot begin, or a part of them fails.
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
    let mut sites = listen(&config).await?;
    let means = means(&config).await?;
    // Held for as long as pods may use it.
    let _entrance = match means.network.api() {
        Some(address) => {
            let frontier = Frontier::at((address, API_PORT).into(), &config.access.server).await;
            let frontier = frontier.map_err(NodeError::Frontier)?;
            sites.iter_mut().for_each(|(own, _)| own.access.server.clone_from(&frontier.server));
            Some(frontier)
        }
        None => None,
    };
    let features = features(&means.cgroups, &config);
    let capacity = register::capacity(config.home.root());
    for (own, _) in &sites {
        while let Err(error) = register::register(&client, own, capacity, &features).await {
            tracing::warn!(%error, node = own.name, "failed to register the node, trying again");
            tokio::select! {
                () = tokio::time::sleep(REGISTER_RETRY) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
    let mut parts = JoinSet::new();
    let mut contexts = Vec::new();
    for (own, listener) in sites {
        let context = Arc::new(Context::new(client.clone(), own, capacity, &means)?);
        let (shared, stop) = (Arc::clone(&context), stop.clone());
        parts.spawn(
            async move { http::serve(shared, listener, stop).await.map_err(|error| error.to_string()) },
        );
        let lease = register::keep(client.clone(), context.config.clone(), capacity, features.clone());
        parts.spawn(forever("the lease", lease));
        contexts.push(context);
    }
    // These are the machine's, whichever node has a pod.
    parts.spawn(forever("the proxy", proxy::run(client.clone(), means.network.apart())));
    if let Some(first) = contexts.first() {
        parts.spawn(forever("the volumes' keeper", claims::reclaim(Arc::clone(first))));
        parts.spawn(forever("the growth of volumes", claims::expand(Arc::clone(first))));
    }
    let mut pods = JoinSet::new();
    pods.spawn(crew::follow_pods(client, contexts, stop.clone()));
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
    match tokio::task::spawn_blocking(move || sweep(&config.home)).await {
        Ok(Err(error)) => tracing::warn!("failed to {error}"),
        _ => tracing::debug!("nothing of the pods is left"),
    }
    result
}

/// All nodes, each with the listener that it is asked at.
async fn listen(config: &NodeConfig) -> Result<Vec<(NodeConfig, TcpListener)>, NodeError> {
    let mut sites = Vec::new();
    for index in 0..config.nodes.max(1) {
        let mut own = config.nth(index);
        let failed = |error| NodeError::Listen(own.address, error);
        let listener = TcpListener::bind(own.address).await.map_err(failed)?;
        own.address = listener.local_addr().map_err(failed)?;
        sites.push((own, listener));
    }
    Ok(sites)
}

/// What all nodes share.
async fn means(config: &NodeConfig) -> Result<Means, NodeError> {
    let cgroups = open_cgroups(&config.home.state()).await;
    let bounds = match config.volumes {
        VolumeMode::Directories => None,
        VolumeMode::Bounded => Some(Bounds::open(config.home.state().join("volumes"))?),
    };
    let network = match config.isolation {
        Isolation::Loopback => Network::Loopback(config.network),
        Isolation::Namespaces => Network::namespaces(&config.home, config.network).await?,
    };
    Ok(Means::new(cgroups, network, bounds))
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

#[cfg(test)]
mod tests;
