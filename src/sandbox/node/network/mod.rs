//! How pods are connected: by addresses of the machine's loopback, or each by a network namespace of its own.

mod ip;
mod plan;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::address::{Pool, hash};
use crate::sandbox::home::Home;
use plan::Plan;

pub(super) use plan::{Cut, api as api_address};

/// Why pods cannot be connected.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A tool is missing.
    #[error("run ip: {0}; it is part of the package iproute2")]
    Tool(std::io::Error),
    /// The kernel, or the tool, refuses.
    #[error("set up the network of pods with `ip {command}`: {message}")]
    Refused {
        /// What was asked.
        command: String,
        /// What was answered.
        message: String,
    },
    /// A file of the kernel.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
}

/// How the pods of a node are connected.
#[derive(Debug)]
pub(super) enum Network {
    /// By addresses in 127.X.0.0/16.
    Loopback(u8),
    /// Each by a namespace of its own.
    Namespaces(Namespaces),
}

/// The namespaces of one home's pods.
#[derive(Debug)]
pub(super) struct Namespaces {
    plan: Plan,
    apart: Apart,
}

/// Which pods are cut off from the others, for those who carry connections between them.
#[derive(Clone, Debug)]
pub(super) struct Apart {
    plan: Option<Plan>,
    cut: watch::Sender<BTreeSet<Ipv4Addr>>,
}

impl Apart {
    /// Where nobody is ever cut off.
    pub fn never() -> Self {
        Self { plan: None, cut: watch::Sender::new(BTreeSet::new()) }
    }

    pub fn subscribe(&self) -> watch::Receiver<BTreeSet<Ipv4Addr>> {
        self.cut.subscribe()
    }

    /// Whether a connection from one address to the other would have to cross a cut.
    pub fn divides(&self, cut: &BTreeSet<Ipv4Addr>, from: IpAddr, to: IpAddr) -> bool {
        let (IpAddr::V4(from), IpAddr::V4(to), Some(plan)) = (from, to, &self.plan) else { return false };
        from != to && plan.is_pod(from) && plan.is_pod(to) && (cut.contains(&from) || cut.contains(&to))
    }
}

/// What stands for a home in names.
fn mark(home: &Home) -> String {
    format!("{:08x}", hash(&home.root().to_string_lossy()))
}

impl Network {
    /// Makes the router, after nothing is left of an earlier one.
    pub async fn namespaces(home: &Home, network: u8) -> Result<Self, NetworkError> {
        let plan = Plan::new(mark(home), network);
        let router = plan.router();
        ip::run(None, &[format!("netns add {router}")]).await?;
        ip::run(None, &plan.host_commands()).await?;
        ip::run(Some(&router), &plan.router_commands()).await?;
        ip::forward(&router).await?;
        let apart = Apart { plan: Some(plan.clone()), cut: watch::Sender::new(BTreeSet::new()) };
        Ok(Self::Namespaces(Namespaces { plan, apart }))
    }

    /// The addresses for pods.
    pub fn pool(&self) -> Pool {
        match self {
            Self::Loopback(network) => Pool::new(*network),
            Self::Namespaces(namespaces) => Pool::of_24(namespaces.plan.router_address()),
        }
    }

    /// Where pods reach the API server, if the node has to stand there for it.
    pub fn api(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Loopback(_) => None,
            Self::Namespaces(namespaces) => Some(namespaces.plan.api()),
        }
    }

    /// Which pods are cut off from the others.
    pub fn apart(&self) -> Apart {
        match self {
            Self::Loopback(_) => Apart::never(),
            Self::Namespaces(namespaces) => namespaces.apart.clone(),
        }
    }

    /// The file of a pod's namespace.
    pub fn namespace(&self, uid: &str) -> Option<PathBuf> {
        match self {
            Self::Loopback(_) => None,
            Self::Namespaces(namespaces) => Some(ip::file(&namespaces.plan.namespace(uid))),
        }
    }

    /// Connects a pod; one that is connected stays so.
    pub async fn attach(&self, uid: &str, address: Ipv4Addr) -> Result<(), NetworkError> {
        let Self::Namespaces(Namespaces { plan, .. }) = self else { return Ok(()) };
        let namespace = plan.namespace(uid);
        if ip::file(&namespace).exists() {
            return Ok(());
        }
        ip::run(None, &[format!("netns add {namespace}")]).await?;
        let connect = async {
            ip::run(Some(&plan.router()), &plan.port_commands(uid, address)).await?;
            ip::run(Some(&namespace), &plan.pod_commands(address)).await
        };
        if let Err(error) = connect.await {
            // Half of it would pass for the whole at the next attempt.
            let _ = ip::run(None, &[format!("netns delete {namespace}")]).await;
            return Err(error);
        }
        Ok(())
    }

    /// Takes a pod's network away.
    pub async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        let Self::Namespaces(Namespaces { plan, .. }) = self else { return Ok(()) };
        let namespace = plan.namespace(uid);
        if ip::file(&namespace).exists() {
            ip::run(None, &[format!("netns delete {namespace}")]).await?;
        }
        Ok(())
    }

    /// Cuts a pod off, or connects it again.
    pub async fn cut(&self, address: Ipv4Addr, cut: Cut<'_>, on: bool) -> Result<(), NetworkError> {
        let Self::Namespaces(Namespaces { plan, apart }) = self else { return Ok(()) };
        let commands = if on { plan.cut_commands(address, cut) } else { plan.heal_commands(address, cut) };
        ip::run(Some(&plan.router()), &commands).await?;
        if cut == Cut::Peers {
            apart.cut.send_modify(|set| {
                if on {
                    set.insert(address)
                } else {
                    set.remove(&address)
                };
            });
        }
        Ok(())
    }
}

/// Removes all networks that an earlier run of a home left.
pub(super) fn sweep(home: &Home) -> Result<(), NetworkError> {
    let mark = mark(home);
    let prefix = plan::prefix(&mark);
    for namespace in ip::namespaces().filter(|name| name.starts_with(&prefix)) {
        ip::run_blocking(None, &[format!("netns delete {namespace}")])?;
    }
    let link = plan::link(&mark);
    if Path::new("/sys/class/net").join(&link).exists() {
        match ip::run_blocking(None, &[format!("link delete {link}")]) {
            // The link goes with its other end, in its own time.
            Err(_) if !Path::new("/sys/class/net").join(&link).exists() => {}
            result => result?,
        }
    }
    Ok(())
}

/// What there is of a home's networks.
#[cfg(test)]
pub(super) fn left(home: &Home) -> Vec<String> {
    let mark = mark(home);
    let prefix = plan::prefix(&mark);
    let mut found: Vec<String> = ip::namespaces().filter(|name| name.starts_with(&prefix)).collect();
    found.extend(Some(plan::link(&mark)).filter(|link| Path::new("/sys/class/net").join(link).exists()));
    found
}
