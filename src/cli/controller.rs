//! `dbctl controller`.

use std::net::SocketAddr;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::error::{CliError, Result, failed};
use super::session::Session;
use crate::controller::{self, ControllerConfig};

/// The image that members run where nothing else is said.
pub const DEFAULT_IMAGE: &str = "dbctl/postgres:{version}";

/// Run the controller of a cluster
///
/// It makes and keeps what Databases ask for. In a cluster it runs as a Deployment; the sandbox runs it by itself.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// Image of the members; {version} stands for the PostgreSQL release
    #[arg(long, value_name = "IMAGE", default_value = DEFAULT_IMAGE)]
    image: String,

    /// Serve metrics to Prometheus at http://ADDRESS/metrics, for example 0.0.0.0:8080 in a pod [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    metrics_address: Option<SocketAddr>,
}

/// Runs the command until it is told to stop.
///
/// # Errors
/// Where there is no cluster, or the controller cannot go on.
pub async fn run(context: &Context, args: ControllerArgs) -> Result<()> {
    if !args.image.contains("{version}") {
        return Err(CliError::usage(format!(
            "--image {:?} does not say where the PostgreSQL release goes",
            args.image
        ))
        .hint(format!("put {{version}} into it, for example {DEFAULT_IMAGE}")));
    }
    if context.global.sandbox {
        return Err(CliError::usage("the sandbox runs a controller already")
            .hint("leave --sandbox away to run the controller of a cluster"));
    }
    let session = Session::open(context).await?;
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    let config = ControllerConfig {
        namespace: context.global.namespace.clone(),
        image: args.image,
        metrics: args.metrics_address,
    };
    controller::run(session.streaming, config, stop).await.map_err(failed)
}

/// Cancels the token when the process is told to end.
///
/// # Errors
/// Where signals cannot be received.
pub fn stop_on_signal(stop: &CancellationToken) -> Result<()> {
    let handler = |kind| signal(kind).map_err(|error| CliError::failed(format!("wait for signals: {error}")));
    let (mut terminate, mut interrupt) =
        (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("told to stop by SIGTERM"),
            _ = interrupt.recv() => tracing::info!("told to stop by SIGINT"),
        }
        stop.cancel();
    });
    Ok(())
}
