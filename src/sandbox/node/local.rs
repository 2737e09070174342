//! Services' addresses as addresses of this machine. A sandbox's own API server allots them from the loopback, where they
//! are; another one allots them from a network that is nobody's, and then each becomes a local route.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::sandbox::home::Home;
use crate::sandbox::process;

/// Why Services cannot be reached from this machine.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The tool is missing.
    #[error("run ip: {0}; it is part of the package iproute2")]
    Tool(io::Error),
    /// The kernel refuses.
    #[error("make {address}, a Service's address, one of this machine's: {message}")]
    Refused {
        /// The address.
        address: IpAddr,
        /// The tool's words.
        message: String,
    },
    /// The list of what was made.
    #[error("use {0}: {1}")]
    File(PathBuf, io::Error),
}

/// The local routes of one home's node, each noted in a file before it is made, so that none outlives a killed run.
#[derive(Debug)]
pub struct Locals {
    file: PathBuf,
    made: BTreeSet<IpAddr>,
}

impl Locals {
    /// Removes what an earlier run left.
    ///
    /// # Errors
    /// Where the list cannot be read or the routes not be removed.
    pub async fn open(home: &Home) -> Result<Self, LocalError> {
        let file = home.state().join("service-addresses");
        let noted = match std::fs::read_to_string(&file) {
            Ok(text) => text.lines().filter_map(|line| line.parse().ok()).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(LocalError::File(file, error)),
        };
        let mut locals = Self { file, made: noted };
        locals.keep_only(&BTreeSet::new()).await?;
        Ok(locals)
    }

    /// Makes an address local, where it is not by itself.
    ///
    /// # Errors
    /// Where it cannot be.
    pub async fn make(&mut self, address: IpAddr) -> Result<(), LocalError> {
        if self.made.contains(&address) || is_local(address) {
            return Ok(());
        }
        self.made.insert(address);
        self.note()?;
        let made = route("replace", address).await;
        if made.is_err() {
            self.made.remove(&address);
            self.note()?;
        }
        made
    }

    /// Removes the routes of all other addresses.
    ///
    /// # Errors
    /// Where one cannot be removed.
    pub async fn keep_only(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<(), LocalError> {
        for address in self.made.difference(wanted).copied().collect::<Vec<_>>() {
            // Noted and not made, or removed and still noted: it is not local then.
            if is_local(address) {
                route("delete", address).await?;
            }
            self.made.remove(&address);
            self.note()?;
        }
        Ok(())
    }

    fn note(&self) -> Result<(), LocalError> {
        let text: String = self.made.iter().map(|address| format!("{address}\n")).collect();
        process::write_atomically(&self.file, text.as_bytes(), 0o600)
            .map_err(|error| LocalError::File(self.file.clone(), error))
    }
}

/// Whether a server could listen there.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

async fn route(what: &str, address: IpAddr) -> Result<(), LocalError> {
    let target = address.to_string();
    let output = Command::new("ip").args(["route", what, "local", &target, "dev", "lo"]).output().await;
    let output = output.map_err(LocalError::Tool)?;
    if output.status.success() {
        return Ok(());
    }
    Err(LocalError::Refused { address, message: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

/// Follows the Services until told to stop; then all routes go.
///
/// # Errors
/// Where the routes cannot be removed at the end.
pub async fn keep(client: Client, mut locals: Locals, stop: CancellationToken) -> Result<(), LocalError> {
    let (store, writer) = reflector::store::<Service>();
    let events = watcher(Api::<Service>::all(client), watcher::Config::default())
        .default_backoff()
        .inspect_err(|error| tracing::debug!(%error, "the watch of Services is retried"))
        .reflect(writer);
    futures::pin_mut!(events);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = stop.cancelled() => break,
        };
        if !matches!(
            event,
            Some(Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone))
        ) {
            continue;
        }
        let wanted: BTreeSet<IpAddr> = store.state().iter().filter_map(|service| address(service)).collect();
        if let Err(error) = locals.keep_only(&wanted).await {
            tracing::warn!("failed to {error}");
        }
        for address in wanted {
            if let Err(error) = locals.make(address).await {
                tracing::warn!("failed to {error}");
            }
        }
    }
    locals.keep_only(&BTreeSet::new()).await
}

/// A Service's address; headless ones have none.
fn address(service: &Service) -> Option<IpAddr> {
    service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_local_by_itself_needs_no_route() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().to_owned()).unwrap();
        std::fs::create_dir(home.state()).unwrap();
        let mut locals = Locals::open(&home).await.unwrap();
        locals.make("127.77.255.1".parse().unwrap()).await.unwrap();
        assert!(locals.made.is_empty() && !locals.file.exists());
    }

    #[tokio::test]
    async fn a_foreign_address_becomes_local_until_it_is_given_up_or_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().to_owned()).unwrap();
        std::fs::create_dir(home.state()).unwrap();
        // One of those set aside for tests of networks (RFC 2544).
        let address: IpAddr = "198.18.255.7".parse().unwrap();
        let mut locals = Locals::open(&home).await.unwrap();
        match locals.make(address).await {
            Ok(()) => {
                assert!(is_local(address));
                drop(locals);
                // As after a kill: the next run removes what the list holds.
                let locals = Locals::open(&home).await.unwrap();
                assert!(!is_local(address) && locals.made.is_empty());
            }
            // Without the right to it, or the tool.
            Err(error) => {
                assert!(
                    !rustix::process::geteuid().is_root()
                        || matches!(error, LocalError::Tool(_))
                        || error.to_string().contains("permitted"),
                    "{error}"
                );
                assert!(locals.made.is_empty());
            }
        }
    }

    #[test]
    fn headless_services_have_no_address() {
        for (given, expected) in [("10.96.0.1", Some("10.96.0.1")), ("None", None), ("", None)] {
            let service: Service =
                serde_json::from_value(serde_json::json!({ "metadata": {}, "spec": { "clusterIP": given } }))
                    .unwrap();
            assert_eq!(address(&service).map(|a| a.to_string()).as_deref(), expected);
        }
    }
}
