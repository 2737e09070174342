//! A Kubernetes-compatible API server for one machine.
//!
//! HTTP and HTTPS at one port, every write on disk before it is answered. What objects mean is
//! [`crate::sandbox::object`]'s; this module stores them, serves them and tells watchers.

mod access_log;
mod answer;
mod auth;
mod body;
mod call;
mod cluster_ip;
mod connect;
mod crd;
mod create;
mod delete;
mod discovery;
mod events;
mod failure;
pub mod faults;
mod filter;
mod gate;
mod hooks;
mod logs;
mod node_port;
mod openapi;
mod options;
mod protobuf;
mod rbac;
mod read;
mod registry;
mod relay;
mod request;
mod reviews;
mod scale;
mod server;
mod store;
mod strict;
mod subresource;
mod tls;
mod tokens;
mod update;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use server::LOCAL_SOCKET;
pub use store::StoreError;
pub use tls::TlsError;

/// What the API server needs to know.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Where it keeps objects and keys.
    pub state_dir: PathBuf,
    /// Where it listens; port 0 takes any.
    pub address: SocketAddr,
    /// The first address of the network that Services get theirs from.
    pub service_prefix: Ipv4Addr,
    /// How many bits of it are the network's: 24, but for who needs more than 254 of them.
    pub service_length: u8,
    /// The administrator's bearer token.
    pub admin_token: String,
    /// Names and addresses, beside its own and those every cluster has, by which clients may call it over TLS.
    pub names: Vec<String>,
}

impl ApiConfig {
    /// A server without further names.
    pub fn new(state_dir: PathBuf, address: SocketAddr, service_prefix: Ipv4Addr, admin_token: &str) -> Self {
        let (admin_token, names) = (admin_token.to_owned(), Vec::new());
        Self { state_dir, address, service_prefix, service_length: 24, admin_token, names }
    }
}

/// Why the API server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Its files cannot be used.
    #[error("use {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
    /// Its objects cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object that must always be there cannot be made.
    #[error("make the built-in objects: {0}")]
    Bootstrap(String),
    /// Its address cannot be had.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What is wrong.
        source: std::io::Error,
    },
    /// It has no certificates.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// It could not go on.
    #[error("serve the API: {0}")]
    Serve(std::io::Error),
    /// One of its tasks panicked.
    #[error("serve the API: a task ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// An API server that answers.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// The certificate of the authority that its clients trust, as PEM.
    pub authority: String,
    task: JoinHandle<Result<(), ApiError>>,
}

impl Running {
    /// Waits until it has stopped; its files are closed then.
    ///
    /// # Errors
    /// Where it stopped because of a failure.
    pub async fn finished(self) -> Result<(), ApiError> {
        self.task.await?
    }
}

/// Starts the API server; it answers when this returns, until `stop` is cancelled.
///
/// # Errors
/// Where its files or its address cannot be used.
pub async fn serve(config: ApiConfig, stop: CancellationToken) -> Result<Running, ApiError> {
    let server::Started { address, authority, task } = server::start(config, stop).await?;
    Ok(Running { address, authority, task })
}

#[cfg(test)]
mod tests;
