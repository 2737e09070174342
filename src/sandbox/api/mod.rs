//! A Kubernetes-compatible API server for one machine.
//!
//! Plain HTTP on loopback, every write on disk before it is answered. What objects mean is
//! [`crate::sandbox::object`]'s; this module stores them, serves them and tells watchers.

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
mod filter;
mod hooks;
mod logs;
mod openapi;
mod read;
mod registry;
mod relay;
mod request;
mod scale;
mod server;
mod store;
mod subresource;
mod tokens;
mod update;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use store::StoreError;

/// What the API server needs to know.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Where it keeps objects and keys.
    pub state_dir: PathBuf,
    /// Where it listens; port 0 takes any.
    pub address: SocketAddr,
    /// The /24 that Services get their addresses from.
    pub service_prefix: Ipv4Addr,
    /// The administrator's token: sent as a bearer token, or as the password in the server's URL, which is what kubectl
    /// needs, since it sends no bearer token over plain HTTP.
    pub admin_token: String,
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
    let (address, task) = server::start(config, stop).await?;
    Ok(Running { address, task })
}

#[cfg(test)]
mod tests;
