//! Where Prometheus asks.

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::controller::health::Health;
use crate::metrics::answer;

/// Answers `GET /metrics` there, and the questions for its health, until `stop`.
///
/// # Errors
/// Where nobody can connect to it.
pub fn serve(
    metrics: Arc<Metrics>,
    listener: &TcpListener,
    health: Health,
    stop: CancellationToken,
) -> std::io::Result<impl Future<Output = std::io::Result<()>> + use<>> {
    let listener = listener.try_clone()?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let bound = listener.local_addr()?;
    tracing::info!("metrics at http://{bound}/metrics");
    let router = Router::new()
        .route("/metrics", get(move || async move { answer(metrics.render()) }))
        .merge(health.routes());
    Ok(axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).into_future())
}
