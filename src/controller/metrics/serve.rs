//! Where Prometheus asks.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::controller::health::Health;
use crate::metrics::answer;

/// Listens, and answers `GET /metrics` and the questions for its health until `stop`.
///
/// # Errors
/// Where it cannot listen there.
pub async fn serve(
    metrics: Arc<Metrics>,
    address: SocketAddr,
    health: Health,
    stop: CancellationToken,
) -> std::io::Result<impl Future<Output = std::io::Result<()>>> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tracing::info!("metrics at http://{bound}/metrics");
    let router = Router::new()
        .route("/metrics", get(move || async move { answer(metrics.render()) }))
        .merge(health.routes());
    Ok(axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).into_future())
}
