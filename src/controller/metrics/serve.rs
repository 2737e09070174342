//! Where Prometheus asks.

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::get;
use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Metrics;
use super::certificate::{Certificate, CertificateError, Source};
use super::port;
use super::readers::{ApiServer, PATH, Readers};
use crate::controller::lease;
use crate::metrics::answer;

/// Where metrics are served, and to whom.
#[derive(Clone, Debug)]
pub struct MetricsConfig {
    /// Where.
    pub listener: Arc<TcpListener>,
    /// To whom, and how.
    pub to: Reached,
}

/// Who gets metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Whoever asks, in plain HTTP: on one machine, or behind something that knows who may.
    ByAnyone,
    /// Whom the API server lets, over TLS. A token would be everybody's without, and TLS without a token keeps nobody out, so
    /// neither goes alone.
    ByReaders {
        /// The directory of the certificate and its key; without it, one is made.
        certificate: Option<PathBuf>,
    },
}

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nobody can connect.
    #[error(transparent)]
    Port(#[from] io::Error),
    /// There is no certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Answers `GET /metrics` there until `stop`. Whom to let in is asked with that client.
///
/// # Errors
/// Where nobody can connect to it, or there is no certificate.
pub fn serve(
    metrics: Arc<Metrics>,
    client: Client,
    config: &MetricsConfig,
    stop: CancellationToken,
) -> Result<impl Future<Output = io::Result<()>> + Send + use<>, ServeError> {
    let listener = listening(&config.listener)?;
    let address = listener.local_addr()?;
    let (certificate, router) = match &config.to {
        Reached::ByAnyone => {
            tracing::info!("metrics at http://{address}{PATH}");
            (None, Router::new().route(PATH, get(move || async move { answer(metrics.render()) })))
        }
        Reached::ByReaders { certificate } => {
            let source = certificate.clone().map_or(Source::Made(address.ip()), Source::Directory);
            let certificate = Arc::new(Certificate::open(source, SystemTime::now())?);
            tracing::info!("metrics at https://{address}{PATH}");
            (Some(certificate), guarded(metrics, Readers::new(ApiServer(client), lease::now)))
        }
    };
    let tls = certificate.as_ref().map(Certificate::server_config).transpose()?;
    Ok(async move {
        let fresh = certificate.map(Certificate::keep_fresh);
        let _fresh = fresh.map(|fresh| AbortOnDropHandle::new(tokio::spawn(fresh)));
        port::serve(listener, tls, router, stop).await
    })
}

/// The page for those who may read it.
pub fn guarded<R: super::readers::Reviewer>(metrics: Arc<Metrics>, readers: Readers<R>) -> Router {
    let readers = Arc::new(readers);
    let page = async move |headers: HeaderMap| match readers.admit(&headers).await {
        Ok(()) => answer(metrics.render()),
        Err(refusal) => refusal.into_response(),
    };
    Router::new().route(PATH, get(page))
}

/// That listener for this runtime; one that is kept serves the next controller of this process, too.
///
/// # Errors
/// Where it is none any more.
pub fn listening(listener: &TcpListener) -> io::Result<tokio::net::TcpListener> {
    let listener = listener.try_clone()?;
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}
