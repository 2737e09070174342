//! `dbctl sandbox node`, `sandbox controllers` and `sandbox api`: one part of the sandbox in the foreground, for any API
//! server.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, Config};
use tokio_util::sync::CancellationToken;

use super::network::{self, Wishes};
use super::together::{Parts, serve_api};
use crate::cli::controller::stop_on_signal;
use crate::cli::error::{CliError, Result};
use crate::cli::session::{cluster_config, spare_roots};
use crate::cli::{Context, SERVER_LOG, log_to_stderr, threaded};
use crate::sandbox::controllers;
use crate::sandbox::daemon::{Claim, Daemon};
use crate::sandbox::home::Home;
use crate::sandbox::node::{self, Access, Isolation, Locals, NodeConfig};

/// How long an API server may take to answer the first request.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long ago a lease's holder may have renewed it and still count as there.
const LEASE_LIMIT: i64 = 30;

/// Runs the node until it is told to stop.
///
/// # Errors
/// Where the API server cannot be used, or the node not run.
pub fn node(context: &Context, home: &Home, name: &str, wishes: Wishes) -> Result<()> {
    check_name(name)?;
    log_to_stderr(context, &SERVER_LOG);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let _claim = claim(home)?;
    threaded(async {
        let stop = CancellationToken::new();
        stop_on_signal(&stop)?;
        let (config, client) = connect(context, "node").await?;
        let held = network::hold(&home.state(), wishes).map_err(CliError::failed)?;
        check_network(held.network.isolation, &config)?;
        let locals = services(&client, home).await?;
        let config = NodeConfig {
            name: name.to_owned(),
            isolation: held.network.isolation,
            volumes: held.network.volumes,
            ..NodeConfig::new(home.clone(), held.network.network, Access::of(&config))
        };
        tracing::info!(name, server = %config.access.server, "the node starts");
        let mut parts = Parts::default();
        // Pods end before what carries their last words.
        let after = CancellationToken::new();
        parts.spawn("volumes' provisioner", controllers::provision(client.clone(), after.clone()));
        parts.spawn("keeper of Services' addresses", node::keep_local(client.clone(), locals, after.clone()));
        parts.spawn("node", node::run(client, config, stop));
        parts.until_one_ends(&after).await
    })
}

/// Runs Kubernetes' controllers until they are told to stop.
///
/// # Errors
/// Where the API server cannot be used, or has controllers of its own.
pub fn controllers(context: &Context) -> Result<()> {
    log_to_stderr(context, &SERVER_LOG);
    threaded(async {
        let stop = CancellationToken::new();
        stop_on_signal(&stop)?;
        let (config, client) = connect(context, "controllers").await?;
        refuse_second(&client).await?;
        tracing::info!(server = %config.cluster_url, "the controllers start");
        controllers::run(client, stop).await.map_err(CliError::failed)
    })
}

/// Runs the API server until it is told to stop; its kubeconfig is that of the home.
///
/// # Errors
/// Where it cannot run.
pub fn api(context: &Context, home: &Home, services: Option<Ipv4Addr>) -> Result<()> {
    log_to_stderr(context, &SERVER_LOG);
    let claim = claim(home)?;
    threaded(async {
        let stop = CancellationToken::new();
        stop_on_signal(&stop)?;
        let held = network::hold(&home.state(), Wishes::default()).map_err(CliError::failed)?;
        let (running, _) = serve_api(home, &held, services, &stop).await?;
        claim.ready(running.address, None).map_err(CliError::failed)?;
        tracing::info!(address = %running.address, "the API server is ready");
        running.finished().await.map_err(CliError::failed)
    })
}

/// One home, one process.
fn claim(home: &Home) -> Result<Claim> {
    let daemon = Daemon::new(home.clone());
    daemon.prepare().map_err(CliError::failed)?;
    daemon.claim().map_err(|error| {
        CliError::failed(error).hint("give this part a home of its own: set DBCTL_HOME to another directory")
    })
}

/// A node's name is that of its object.
fn check_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if bytes.len() <= 63 && bytes.iter().all(|b| plain(*b)) && ends(bytes.first()) && ends(bytes.last()) {
        return Ok(());
    }
    Err(CliError::usage(format!(
        "--name {name:?} is not the name of a node: at most 63 characters of a-z, 0-9, '-' and '.', the first and the last \
         a letter or a digit"
    )))
}

/// Pods with networks of their own reach the API server through an address of the node's.
fn check_network(isolation: Isolation, config: &Config) -> Result<()> {
    let checked = config.cluster_url.scheme_str() == Some("https") && !config.accept_invalid_certs;
    if isolation == Isolation::Loopback || !checked {
        return Ok(());
    }
    Err(CliError::usage(
        "--network=namespaces needs an API server whose certificate names the node's address for it, and only the sandbox's \
         own does: leave it away, or take --network=loopback",
    ))
}

/// The API server that the command line names. Only an explicit one: whoever forgets it must not change the cluster that
/// happens to be the current one.
async fn connect(context: &Context, part: &str) -> Result<(Config, Client)> {
    if context.global.sandbox || context.global.kubeconfig.is_none() {
        return Err(CliError::usage(format!("sandbox {part} needs an API server: name its kubeconfig"))
            .hint(format!("{} sandbox {part} --kubeconfig FILE [--context NAME]", context.program())));
    }
    let (mut config, _) = cluster_config(context).await?;
    spare_roots(&mut config);
    config.connect_timeout = Some(ANSWER_LIMIT);
    config.read_timeout = None;
    let server = config.cluster_url.to_string();
    let failed = |error: &dyn Display| CliError::failed(format!("reach the API server at {server}: {error}"));
    let client = Client::try_from(config.clone()).map_err(|error| failed(&error))?;
    match tokio::time::timeout(ANSWER_LIMIT, client.apiserver_version()).await {
        Ok(Ok(_)) => Ok((config, client)),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"it does not answer")),
    }
}

/// Services must be reached from here, and the first one tells where they are.
async fn services(client: &Client, home: &Home) -> Result<Locals> {
    let mut locals = Locals::open(home).await.map_err(CliError::failed)?;
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let first = services.get_opt("kubernetes").await;
    let first = first.map_err(|error| CliError::failed(format!("read Service \"kubernetes\": {error}")))?;
    let address = first.and_then(|service| service.spec?.cluster_ip?.parse().ok());
    if let Some(address) = address {
        locals.make(address).await.map_err(|error| {
            CliError::failed(error)
                .details([
                    "this API server allots Services addresses that are not on this machine's loopback"
                        .to_owned(),
                ])
                .hint("run the node as root, which may make them local, and with iproute2 installed")
        })?;
    }
    Ok(locals)
}

/// Two sets of controllers would undo each other's work.
async fn refuse_second(client: &Client) -> Result<()> {
    const MANAGER: &str = "kube-controller-manager";
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let lease = leases.get_opt(MANAGER).await;
    let lease = lease.map_err(|error| CliError::failed(format!("read Lease {MANAGER:?}: {error}")))?;
    let Some(spec) = lease.and_then(|lease| lease.spec) else { return Ok(()) };
    let age = spec.renew_time.map(|time| Timestamp::now().as_second() - time.0.as_second());
    if age.is_none_or(|age| age > LEASE_LIMIT) {
        return Ok(());
    }
    let holder = spec.holder_identity.unwrap_or_default();
    Err(CliError::failed(format!(
        "run controllers: that cluster has its own ({holder}), and two would undo each other's work"
    ))
    .hint("run only the node there: dbctl sandbox node --kubeconfig FILE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_name_is_one_of_an_object() {
        for good in ["sandbox", "node-1.example", "7"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "Node", "a b", &"x".repeat(64)] {
            let error = check_name(bad).unwrap_err();
            assert!(error.message.contains("--name"), "{bad}");
        }
    }
}
