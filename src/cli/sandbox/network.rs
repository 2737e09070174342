//! The part of loopback that a sandbox owns: 127.X.0.0/16, chosen at its first start and kept.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sandbox::process;

/// Where the API server listens.
const API_PORT: u16 = 6443;
/// Where the node's kubelet listens.
const KUBELET_PORT: u16 = 10250;
/// 127.0.x.y is everybody's, and 255 ends in the broadcast address.
const FIRST: u8 = 1;
const LAST: u8 = 254;

/// A sandbox's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The second byte of all its addresses.
    pub network: u8,
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
        "use the network 127.{network}.0.0/16 that this sandbox has had: {address} is in use; stop what uses it, or give this sandbox up with `dbctl sandbox reset`"
    )]
    Taken {
        /// The second byte.
        network: u8,
        /// What cannot be had.
        address: SocketAddr,
    },
    /// Everybody else has them.
    #[error("find a free network between 127.{FIRST}.0.0/16 and 127.{LAST}.0.0/16: {0}")]
    None(io::Error),
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

    /// Where the kubelet listens.
    pub fn kubelet(self) -> SocketAddr {
        (Ipv4Addr::new(127, self.network, 0, 2), KUBELET_PORT).into()
    }

    /// The /24 of Services' addresses.
    pub fn services(self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.network, 255, 0)
    }

    /// Takes hold of it; fails where anybody has a part of what it needs.
    fn hold(self) -> Result<Held, (SocketAddr, io::Error)> {
        let claim = UdpSocket::bind(self.api()).map_err(|error| (self.api(), error))?;
        for address in [self.api(), self.kubelet()] {
            std::net::TcpListener::bind(address).map_err(|error| (address, error))?;
        }
        Ok(Held { network: self, _claim: claim })
    }
}

/// The network of the sandbox whose state is in that directory; chosen now, where it has none yet.
///
/// # Errors
/// Where the one it has had is taken, or none is free.
pub fn hold(state: &Path) -> Result<Held, NetworkError> {
    let path = state.join("network.json");
    let file = |source| NetworkError::File { path: path.clone(), source };
    match std::fs::read(&path) {
        Ok(text) => {
            let kept: Network = serde_json::from_slice(&text).map_err(|error| file(error.into()))?;
            kept.hold().map_err(|(address, _)| NetworkError::Taken { network: kept.network, address })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let held = choose(state)?;
            let text = serde_json::to_vec(&held.network).map_err(|error| file(error.into()))?;
            process::write_atomically(&path, &text, 0o644).map_err(file)?;
            Ok(held)
        }
        Err(error) => Err(file(error)),
    }
}

/// The first free one, from a place on that the directory's name decides, so that sandboxes that do not run at the same
/// time seldom choose the same.
fn choose(state: &Path) -> Result<Held, NetworkError> {
    let count = u64::from(LAST - FIRST) + 1;
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    let start = hasher.finish() % count;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for step in 0..count {
        let network = u8::try_from((start + step) % count).unwrap_or(0).saturating_add(FIRST);
        match (Network { network }).hold() {
            Ok(held) => return Ok(held),
            Err((_, error)) => last = error,
        }
    }
    Err(NetworkError::None(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sandboxes_get_two_networks_and_keep_them() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let first = hold(dirs[0].path()).unwrap();
        let second = hold(dirs[1].path()).unwrap();
        assert_ne!(first.network, second.network);
        let kept = first.network;
        let refused = hold(dirs[0].path()).unwrap_err();
        assert!(
            matches!(refused, NetworkError::Taken { network, .. } if network == kept.network),
            "{refused}"
        );
        drop(first);
        assert_eq!(hold(dirs[0].path()).unwrap().network, kept);
    }

    #[test]
    fn addresses_are_within_the_network() {
        let network = Network { network: 37 };
        assert_eq!(network.api().to_string(), "127.37.0.1:6443");
        assert_eq!(network.kubelet().to_string(), "127.37.0.2:10250");
        assert_eq!(network.services().to_string(), "127.37.255.0");
    }
}
