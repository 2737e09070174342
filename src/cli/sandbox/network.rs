//! The addresses that a sandbox owns, and how its pods use them, chosen at its first start and kept: 127.X.0.0/16, and
//! where pods have networks of their own 198.18.X.0/24 and 198.19.X.0/24, which are set aside for tests of networks.

use super::clash::{self, Clash};

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sandbox::node::{Isolation, NodeConfig, VolumeMode};
use crate::sandbox::process;

/// Where the API server listens.
const API_PORT: u16 = 6443;
/// 127.0.x.y is everybody's, and 255 ends in the broadcast address.
const FIRST: u8 = 1;
const LAST: u8 = 254;

/// A sandbox's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The second byte of all its addresses.
    pub network: u8,
    /// How its pods are connected.
    #[serde(default)]
    pub isolation: Isolation,
    /// What its volumes are.
    #[serde(default)]
    pub volumes: VolumeMode,
    /// How many nodes it has.
    #[serde(default = "one")]
    pub nodes: u8,
}

fn one() -> u8 {
    1
}

/// What a start asks for; nothing takes what the sandbox has, or the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// How pods are to be connected.
    pub isolation: Option<Isolation>,
    /// What volumes are to be.
    pub volumes: Option<VolumeMode>,
    /// How many nodes there are to be.
    pub nodes: Option<u8>,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Its file.
    #[error("use {path}: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else has it.
    #[error(
        "use the network 127.{network}.0.0/16 that this sandbox has had: {clash}; stop what uses it, or give this sandbox up with `dbctl sandbox reset`"
    )]
    Taken {
        /// The second byte.
        network: u8,
        /// What cannot be had, and who has it.
        clash: Clash,
    },
    /// The sandbox is of another kind.
    #[error(
        "start the sandbox with --{flag}={wanted}: it was made with --{flag}={has}, which is kept; `dbctl sandbox reset` gives it up"
    )]
    Fixed {
        /// Which flag.
        flag: &'static str,
        /// What is asked for.
        wanted: String,
        /// What it is.
        has: String,
    },
    /// Pods may be bound to any node.
    #[error(
        "start the sandbox with --nodes={wanted}: it has {has}, and pods may be bound to each; nodes can be added, and go with `dbctl sandbox reset` only"
    )]
    Fewer {
        /// What is asked for.
        wanted: u8,
        /// What it has.
        has: u8,
    },
    /// Nodes are there from the start.
    #[error(
        "add nodes to a sandbox that runs: it has {has}; `dbctl sandbox down`, and `dbctl sandbox up --nodes={wanted}`"
    )]
    Running {
        /// What is asked for.
        wanted: u8,
        /// What it has.
        has: u8,
    },
    /// Everybody else has them.
    #[error("find a free network between 127.{FIRST}.0.0/16 and 127.{LAST}.0.0/16: {0}")]
    None(Clash),
}

/// A network that is held for as long as this lives.
#[derive(Debug)]
pub struct Held {
    /// Which.
    pub network: Network,
    /// Bound to the API server's address, though over UDP: two sandboxes that start at once never pick the same.
    _claim: UdpSocket,
}

impl Network {
    /// Where the API server listens.
    pub fn api(self) -> SocketAddr {
        (Ipv4Addr::new(127, self.network, 0, 1), API_PORT).into()
    }

    /// Where the kubelets of its nodes listen.
    pub fn kubelets(self) -> impl Iterator<Item = SocketAddr> {
        (0..self.nodes).map(move |index| NodeConfig::kubelet(self.network, index))
    }

    /// The /24 of Services' addresses.
    pub fn services(self) -> Ipv4Addr {
        match self.isolation {
            Isolation::Loopback => Ipv4Addr::new(127, self.network, 255, 0),
            // On the machine as in the pods.
            Isolation::Namespaces => Ipv4Addr::new(198, 19, self.network, 0),
        }
    }

    /// Takes hold of it; fails where anybody has a part of what it needs.
    fn hold(self, routes: &str) -> Result<Held, Clash> {
        let claim = UdpSocket::bind(self.api()).map_err(|error| Clash::of(self.api(), "udp", &error))?;
        for address in std::iter::once(self.api()).chain(self.kubelets()) {
            std::net::TcpListener::bind(address).map_err(|error| Clash::of(address, "tcp", &error))?;
        }
        if self.isolation == Isolation::Namespaces {
            let blocks = [18, 19].map(|second| Ipv4Addr::new(198, second, self.network, 0));
            let route = blocks.iter().find_map(|block| clash::route(routes, *block));
            if let Some(route) = route {
                return Err(Clash::route(&route));
            }
        }
        Ok(Held { network: self, _claim: claim })
    }

    /// What else the API server is called by: its address for pods with networks of their own.
    pub fn names(self) -> Vec<String> {
        match self.isolation {
            Isolation::Loopback => Vec::new(),
            Isolation::Namespaces => vec![NodeConfig::api_for_pods(self.network).to_string()],
        }
    }

    /// Whether it is as asked for.
    fn check(self, wishes: Wishes) -> Result<(), NetworkError> {
        let differs = |flag, wanted: Option<String>, has: String| match wanted {
            Some(wanted) if wanted != has => Err(NetworkError::Fixed { flag, wanted, has }),
            _ => Ok(()),
        };
        differs("network", wishes.isolation.map(|wish| wish.to_string()), self.isolation.to_string())?;
        differs("volumes", wishes.volumes.map(|wish| wish.to_string()), self.volumes.to_string())?;
        match wishes.nodes {
            Some(wanted) if wanted < self.nodes => Err(NetworkError::Fewer { wanted, has: self.nodes }),
            _ => Ok(()),
        }
    }
}

/// The network of the sandbox whose state is in that directory; chosen now, where it has none yet.
///
/// # Errors
/// Where the one it has had is taken, or none is free.
pub fn hold(state: &Path, wishes: Wishes) -> Result<Held, NetworkError> {
    let path = state.join("network.json");
    let file = |source| NetworkError::File { path: path.clone(), source };
    match std::fs::read(&path) {
        Ok(text) => {
            let kept: Network = serde_json::from_slice(&text).map_err(|error| file(error.into()))?;
            kept.check(wishes)?;
            let grown = Network { nodes: wishes.nodes.unwrap_or(kept.nodes), ..kept };
            let held = grown.hold(&clash::routes(kept.isolation));
            let held = held.map_err(|clash| NetworkError::Taken { network: kept.network, clash })?;
            if grown != kept {
                keep(&path, grown).map_err(file)?;
            }
            Ok(held)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let held = choose(state, wishes)?;
            keep(&path, held.network).map_err(file)?;
            Ok(held)
        }
        Err(error) => Err(file(error)),
    }
}

fn keep(path: &Path, network: Network) -> io::Result<()> {
    process::write_atomically(path, &serde_json::to_vec(&network)?, 0o644)
}

/// Whether a sandbox that there is already is as asked for, or can become so; one that `runs` cannot.
///
/// # Errors
/// Where it is not, or its file cannot be read.
pub fn check(state: &Path, wishes: Wishes, runs: impl FnOnce() -> bool) -> Result<(), NetworkError> {
    let path = state.join("network.json");
    let file = |source| NetworkError::File { path: path.clone(), source };
    match std::fs::read(&path) {
        Ok(text) => {
            let kept: Network = serde_json::from_slice(&text).map_err(|error| file(error.into()))?;
            kept.check(wishes)?;
            match wishes.nodes {
                Some(wanted) if wanted > kept.nodes && runs() => {
                    Err(NetworkError::Running { wanted, has: kept.nodes })
                }
                _ => Ok(()),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(file(error)),
    }
}

/// The first free one, from a place on that the directory's name decides, so that sandboxes that do not run at the same
/// time seldom choose the same.
fn choose(state: &Path, wishes: Wishes) -> Result<Held, NetworkError> {
    let count = u64::from(LAST - FIRST) + 1;
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    let start = hasher.finish() % count;
    let (isolation, volumes) = (wishes.isolation.unwrap_or_default(), wishes.volumes.unwrap_or_default());
    let nodes = wishes.nodes.unwrap_or(one());
    let routes = clash::routes(isolation);
    let mut last = None;
    for step in 0..count {
        let network = u8::try_from((start + step) % count).unwrap_or(0).saturating_add(FIRST);
        match (Network { network, isolation, volumes, nodes }).hold(&routes) {
            Ok(held) => return Ok(held),
            Err(clash) => last = Some(clash),
        }
    }
    Err(NetworkError::None(last.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sandboxes_get_two_networks_and_keep_them() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let none = Wishes::default();
        let first = hold(dirs[0].path(), none).unwrap();
        let second = hold(dirs[1].path(), none).unwrap();
        assert_ne!(first.network, second.network);
        let kept = first.network;
        let refused = hold(dirs[0].path(), none).unwrap_err();
        assert!(
            matches!(refused, NetworkError::Taken { network, .. } if network == kept.network),
            "{refused}"
        );
        let own = std::process::id();
        let text = refused.to_string();
        assert!(text.contains(&format!("127.{}.0.1:6443", kept.network)), "{text}");
        assert!(text.contains(&format!("process {own} ")), "the process is named: {text}");
        drop(first);
        assert_eq!(hold(dirs[0].path(), none).unwrap().network, kept);
        let other = Wishes { isolation: Some(Isolation::Namespaces), ..none };
        let checked = check(dirs[0].path(), other, || false);
        for refused in [hold(dirs[0].path(), other).unwrap_err(), checked.unwrap_err()] {
            assert!(refused.to_string().contains("made with --network=loopback"), "{refused}");
        }
    }

    #[test]
    fn nodes_can_be_added_and_not_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let wish = |nodes| Wishes { nodes, ..Wishes::default() };
        assert_eq!(hold(dir.path(), wish(None)).unwrap().network.nodes, 1);
        check(dir.path(), wish(Some(3)), || false).unwrap();
        let refused = check(dir.path(), wish(Some(3)), || true).unwrap_err().to_string();
        assert!(refused.contains("it has 1; `dbctl sandbox down`"), "{refused}");
        check(dir.path(), wish(Some(1)), || true).unwrap();
        assert_eq!(hold(dir.path(), wish(Some(3))).unwrap().network.nodes, 3);
        let held = hold(dir.path(), wish(None)).unwrap();
        assert_eq!(held.network.nodes, 3, "kept");
        let last = held.network.kubelets().last().unwrap();
        assert_eq!(last.to_string(), format!("127.{}.0.4:10250", held.network.network));
        let refused = check(dir.path(), wish(Some(2)), || false).unwrap_err().to_string();
        assert!(refused.contains("it has 3, and pods may be bound to each"), "{refused}");
    }

    #[test]
    fn addresses_are_within_the_network() {
        let network = Network {
            network: 37,
            isolation: Isolation::Loopback,
            volumes: VolumeMode::Directories,
            nodes: 1,
        };
        assert_eq!(network.api().to_string(), "127.37.0.1:6443");
        assert_eq!(network.kubelets().map(|at| at.to_string()).collect::<Vec<_>>(), ["127.37.0.2:10250"]);
        assert_eq!(network.services().to_string(), "127.37.255.0");
        let network = Network { isolation: Isolation::Namespaces, ..network };
        assert_eq!(network.services().to_string(), "198.19.37.0");
        assert_eq!(network.names(), ["198.18.0.37"]);
        let before: Network = serde_json::from_str(r#"{"network":9}"#).unwrap();
        assert_eq!((before.isolation, before.volumes), (Isolation::Loopback, VolumeMode::Directories));
        assert_eq!(before.nodes, 1);
    }
}
