//! `dbctl controller`.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::error::{CliError, Result, failed};
use super::session::Session;
use super::{Context, LogFormat};
use crate::controller::{self, ControllerConfig, LeaseConfig, MetricsConfig, Reached, Terms};
use crate::install::{ACCOUNT, NAMESPACE};

/// The image that members run where nothing else is said.
pub const DEFAULT_IMAGE: &str = "dbctl/postgres:{version}";

/// Run the controller of a cluster
///
/// It makes and keeps what Databases ask for. In a cluster it runs as a Deployment; the sandbox runs it by itself. Of several,
/// the one that holds the Lease works, and the others wait for it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl controller --metrics-address 127.0.0.1:8443 --health-address 127.0.0.1:8080
  dbctl controller -n team-a   # for one namespace")]
pub struct ControllerArgs {
    /// Image of the members; {version} stands for the PostgreSQL release
    #[arg(long, value_name = "IMAGE", default_value = DEFAULT_IMAGE)]
    image: String,

    /// Name of the Secret, in the namespace of each database, with which that image is pulled
    #[arg(long, value_name = "SECRET")]
    image_pull_secret: Option<String>,

    /// Serve metrics at https://ADDRESS/metrics, for example 0.0.0.0:8443 in a pod, to whoever shows a bearer token whose user may
    /// get /metrics: ClusterRole dbctl-metrics-reader allows it [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    metrics_address: Option<SocketAddr>,

    /// Directory with the certificate for that, tls.crt and tls.key, read again when they change [default: one that is made at the
    /// start and signed by itself]
    #[arg(long, value_name = "DIR", requires = "metrics_address")]
    metrics_cert_dir: Option<PathBuf>,

    /// Serve metrics in plain HTTP and to whoever asks: only on one machine, or behind something that knows who may
    #[arg(long, requires = "metrics_address", conflicts_with = "metrics_cert_dir")]
    metrics_insecure: bool,

    /// Answer http://ADDRESS/healthz and /readyz to a kubelet, for example 0.0.0.0:8080 in a pod [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    health_address: Option<SocketAddr>,

    /// What lines of the log look like; how much is logged, RUST_LOG says
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        env = "DBCTL_LOG_FORMAT",
        hide_env_values = true
    )]
    pub log_format: LogFormat,

    /// Namespace of the Lease by which one of several controllers works [default: that of the pod, else dbctl-system]
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "no_leader_election")]
    lease_namespace: Option<String>,

    /// Work at once, without a Lease: only where no other controller can run
    #[arg(long)]
    no_leader_election: bool,
}

/// A taken port is an error of the start.
fn bind(address: Option<SocketAddr>, doing: &str) -> Result<Option<Arc<TcpListener>>> {
    let bound = address.map(|address| {
        let bound = TcpListener::bind(address).map(Arc::new);
        bound.map_err(|error| CliError::failed(format!("{doing} at {address}: {error}")))
    });
    bound.transpose()
}

impl ControllerArgs {
    fn metrics(&self) -> Result<Option<MetricsConfig>> {
        let to = if self.metrics_insecure {
            Reached::ByAnyone
        } else {
            Reached::ByReaders { certificate: self.metrics_cert_dir.clone() }
        };
        let listener = bind(self.metrics_address, "serve metrics")?;
        Ok(listener.map(|listener| MetricsConfig { listener, to }))
    }

    /// The Lease: one for each scope, since controllers of different namespaces do not get in each other's way.
    fn lease(&self, watched: Option<&str>) -> Result<Option<LeaseConfig>> {
        if self.no_leader_election {
            return Ok(None);
        }
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let namespace = self.lease_namespace.clone().or_else(|| set("POD_NAMESPACE"));
        let name = watched.map_or_else(|| ACCOUNT.to_owned(), |watched| format!("{ACCOUNT}-{watched}"));
        let identity = controller::identity(&set("POD_NAME").unwrap_or_else(|| "dbctl".to_owned()));
        Ok(Some(LeaseConfig {
            namespace: namespace.unwrap_or_else(|| NAMESPACE.to_owned()),
            name,
            identity: identity.map_err(|error| CliError::failed(format!("failed to {error}")))?,
            terms: Terms::default(),
        }))
    }
}

/// Runs the command until it is told to stop.
///
/// # Errors
/// Where there is no cluster, or the controller cannot go on.
pub async fn run(context: &Context, args: ControllerArgs) -> Result<()> {
    check_template("--image", &args.image)?;
    if context.global.sandbox {
        return Err(CliError::usage("the sandbox runs a controller already")
            .hint("leave --sandbox away to run the controller of a cluster"));
    }
    let (metrics, health) = (args.metrics()?, bind(args.health_address, "tell how it is")?);
    let session = Session::open(context).await?;
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    let config = ControllerConfig {
        lease: args.lease(context.global.namespace.as_deref())?,
        namespace: context.global.namespace.clone(),
        image: args.image,
        pull_secret: args.image_pull_secret,
        metrics,
        health,
    };
    controller::run(session.streaming, config, stop).await.map_err(failed)
}

/// The members' image must say where the release goes.
///
/// # Errors
/// Where it does not.
pub fn check_template(flag: &str, template: &str) -> Result<()> {
    if template.contains("{version}") {
        return Ok(());
    }
    Err(CliError::usage(format!("{flag} {template:?} does not say where the PostgreSQL release goes"))
        .hint(format!("put {{version}} into it, for example {DEFAULT_IMAGE}")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ControllerArgs,
    }

    /// Whoever says no more than where, lets nobody read without a token.
    #[test]
    fn metrics_are_open_only_where_that_is_said() {
        let address = "--metrics-address=127.0.0.1:0";
        let certificate = Some(PathBuf::from("/c"));
        for (words, wanted) in [
            (&[][..], Some(None)),
            (&[address], Some(Some(Reached::ByReaders { certificate: None }))),
            (&[address, "--metrics-cert-dir=/c"], Some(Some(Reached::ByReaders { certificate }))),
            (&[address, "--metrics-insecure"], Some(Some(Reached::ByAnyone))),
            (&["--health-address=127.0.0.1:0"], Some(None)),
            (&[address, "--metrics-insecure", "--metrics-cert-dir=/c"], None),
            (&["--metrics-insecure"], None),
            (&["--metrics-cert-dir=/c"], None),
        ] {
            let line = Line::try_parse_from(std::iter::once("controller").chain(words.iter().copied()));
            let found = line.ok().map(|line| line.args.metrics().unwrap().map(|config| config.to));
            assert_eq!(found, wanted, "{words:?}");
        }
    }
}
