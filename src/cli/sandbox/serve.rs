//! The sandbox's process: every part of it is started here, and talks to the others over the API alone.

use std::fmt::Display;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::AuthInfo;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::identity;
use super::network::{self, Held, Wishes};
use super::together::{Parts, serve_api};
use crate::api::{self, Database, Names};
use crate::cli::controller::{DEFAULT_IMAGE, stop_on_signal};
use crate::cli::error::{CliError, Result};
use crate::cli::session::spare_roots;
use crate::cli::{Context, SERVER_LOG, log_to_stderr, threaded};
use crate::controller::{self, ControllerConfig, MetricsConfig, Reached};
use crate::sandbox::controllers;
use crate::sandbox::daemon::{Claim, Daemon};
use crate::sandbox::home::Home;
use crate::sandbox::node::{self, Access, NodeConfig};

/// How long the parts may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long pods may take to shut down; more than the 30 seconds of grace that they have.
const PODS_LIMIT: Duration = Duration::from_secs(45);
/// How long everything else may take to end.
const PART_LIMIT: Duration = Duration::from_secs(5);
/// How long what an earlier run left in statuses may take to be corrected; longer, and it is shown as it is.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// How often the size of the log is looked at.
const LOG_CHECK: Duration = Duration::from_secs(5);
/// How often readiness is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Is the sandbox until it is told to stop.
///
/// # Errors
/// Where it cannot start, or a part of it ends.
pub fn run(context: &Context, home: &Home, background: bool, wishes: Wishes) -> Result<()> {
    if background {
        // What the terminal that started it sends to its session does not reach it any more. Where this process leads
        // a session already, there is nothing to leave.
        let _ = rustix::process::setsid();
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    log_to_stderr(context, &SERVER_LOG);
    let claim = Daemon::new(home.clone()).claim().map_err(CliError::failed)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), home = %home.root().display(), "the sandbox starts");
    let daemon = Daemon::new(home.clone());
    let result = threaded(async {
        // At a terminal the log is not a file of the sandbox's.
        let _rotation = background.then(|| AbortOnDropHandle::new(tokio::spawn(keep_log_small(daemon))));
        sandbox(home, &claim, wishes).await
    });
    match &result {
        Ok(()) => tracing::info!("the sandbox has stopped"),
        Err(error) => tracing::error!("the sandbox ends: {}", error.message),
    }
    // In the background the log has said it; at a terminal it is said once more, as every command does.
    if background { result.map_err(|error| CliError::silent(error.outcome)) } else { result }
}

/// Sets the log aside whenever it is full.
async fn keep_log_small(daemon: Daemon) {
    let mut ticks = tokio::time::interval(LOG_CHECK);
    loop {
        ticks.tick().await;
        if let Err(error) = daemon.rotate_own_log() {
            tracing::warn!("failed to {error}");
        }
    }
}

/// What stops what: pods shut down while the API still answers, and nothing reacts to their going.
#[derive(Clone, Default)]
struct Stops {
    controllers: CancellationToken,
    node: CancellationToken,
    api: CancellationToken,
}

async fn sandbox(home: &Home, claim: &Claim, wishes: Wishes) -> Result<()> {
    let told = CancellationToken::new();
    stop_on_signal(&told)?;
    let stops = Stops::default();
    // What a killed run left would pass for somebody else's.
    let left = home.clone();
    let swept = tokio::task::spawn_blocking(move || node::sweep(&left)).await;
    swept.map_err(CliError::failed)?.map_err(CliError::failed)?;
    let held = network::hold(&home.state(), wishes).map_err(CliError::failed)?;
    let (running, token) = serve_api(home, &held, None, &stops.api).await?;
    let (address, began) = (running.address, jiff::Timestamp::now());
    let authority = running.authority.clone();
    let client = || client(address, json!({ "token": token }));
    // Beside the API server, on whatever port is free.
    let metrics = TcpListener::bind((address.ip(), 0)).map(Arc::new);
    let metrics = metrics.map_err(|error| CliError::failed(format!("serve metrics: {error}")))?;

    let mut api_server = Parts::default();
    api_server.spawn("API server", running.finished());
    let mut parts = Parts::default();
    let starting = async {
        apply_definition(&client()?).await?;
        let access = Access::new(format!("https://{address}"), authority);
        start_parts(&mut parts, home, &held, access, &stops, &client)?;
        start_controller(&mut parts, home, address, metrics.clone(), &stops, &client()?).await?;
        await_ready(&client()?, held.network.nodes, &mut parts).await?;
        let _ = tokio::time::timeout(SETTLE_LIMIT, settled(&client()?, began)).await;
        Ok(())
    };
    let started = tokio::select! {
        started = tokio::time::timeout(READY_LIMIT, starting) =>
            started.unwrap_or_else(|_| Err(CliError::failed("get every part of the sandbox ready in time"))),
        ended = api_server.ended_early() => Err(ended),
        () = told.cancelled() => Ok(()),
    };
    let result = match started {
        Ok(()) if !told.is_cancelled() => {
            claim.ready(address, metrics.local_addr().ok()).map_err(CliError::failed)?;
            tracing::info!(%address, "the sandbox is ready");
            tokio::select! {
                () = told.cancelled() => Ok(()),
                ended = parts.ended_early() => Err(ended),
                ended = api_server.ended_early() => Err(ended),
            }
        }
        other => other,
    };
    shut_down(&stops, parts, api_server).await;
    result
}

/// A client of this sandbox's own API server; each part has its own, as it would have in a cluster.
fn client(address: SocketAddr, credentials: Value) -> Result<Client> {
    let make = || -> Result<Client, Box<dyn std::error::Error>> {
        let mut config = Config::new(format!("http://{address}").parse()?);
        let auth: AuthInfo = serde_json::from_value(credentials)?;
        config.auth_info = auth;
        spare_roots(&mut config);
        Ok(Client::try_from(config)?)
    };
    make().map_err(|error| CliError::failed(format!("make a client of the API server: {error}")))
}

/// Makes Database known to the API server, and waits until it is served.
async fn apply_definition(client: &Client) -> Result<()> {
    let definition = api::crd();
    let name = definition.name_any();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let failed = |error: &dyn Display| CliError::failed(format!("install the Database definition: {error}"));
    let params = PatchParams::apply(api::FIELD_MANAGER).force();
    definitions.patch(&name, &params, &Patch::Apply(&definition)).await.map_err(|error| failed(&error))?;
    let established = await_condition(definitions, &name, conditions::is_crd_established());
    established.await.map(drop).map_err(|error| failed(&error))
}

fn start_parts(
    parts: &mut Parts,
    home: &Home,
    held: &Held,
    access: Access,
    stops: &Stops,
    client: &impl Fn() -> Result<Client>,
) -> Result<()> {
    let config = controllers::Config { root_ca: access.authority.clone(), ..controllers::Config::default() };
    let running = controllers::run_with(client()?, config, stops.controllers.clone());
    parts.spawn("Kubernetes controllers", running);
    let mut config = NodeConfig::new(home.clone(), held.network.network, access);
    (config.isolation, config.volumes) = (held.network.isolation, held.network.volumes);
    config.nodes = held.network.nodes;
    parts.spawn("node", node::run(client()?, config, stops.node.clone()));
    Ok(())
}

/// Starts dbctl's own controller, which gets to do what it may do in a cluster.
async fn start_controller(
    parts: &mut Parts,
    home: &Home,
    address: SocketAddr,
    metrics: Arc<TcpListener>,
    stops: &Stops,
    admin: &Client,
) -> Result<()> {
    let identity = identity::prepare(admin, &home.state()).await?;
    let own = client(address, json!({ "tokenFile": identity.file() }))?;
    parts.spawn("controller's token", identity.keep(admin.clone(), stops.controllers.clone()));
    let config = ControllerConfig {
        image: DEFAULT_IMAGE.to_owned(),
        // On the loopback, like all of a sandbox: there is nobody to keep out, and no Prometheus with an account.
        metrics: Some(MetricsConfig { listener: metrics, to: Reached::ByAnyone }),
        ..ControllerConfig::default()
    };
    parts.spawn("database controller", controller::run(own, config, stops.controllers.clone()));
    Ok(())
}

/// Waits until pods can be placed and started: all nodes are ready, and controllers have made what every pod needs.
async fn await_ready(client: &Client, count: u8, parts: &mut Parts) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let all = ListParams::default();
    let ready = async {
        loop {
            let (nodes, account) = tokio::join!(nodes.list(&all), accounts.get_opt("default"));
            let nodes = nodes.is_ok_and(|nodes| {
                nodes.iter().filter(|node| node::is_ready(node)).count() >= usize::from(count)
            });
            if nodes && account.is_ok_and(|account| account.is_some()) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::select! {
        () = ready => Ok(()),
        ended = parts.ended_early() => Err(ended),
    }
}

/// Waits until no status says what was so before this process began: a killed run leaves its last words behind.
async fn settled(client: &Client, began: jiff::Timestamp) {
    let pods: Api<Pod> = Api::all(client.clone());
    let databases: Api<Database> = Api::all(client.clone());
    let all = ListParams::default();
    loop {
        if let (Ok(pods), Ok(databases)) = tokio::join!(pods.list(&all), databases.list(&all))
            && !pods.iter().any(|pod| claims_readiness(pod) && started(pod) < Some(began))
            && !databases.iter().any(|database| exaggerates(database, &pods.items))
        {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn claims_readiness(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// When the newest of a pod's containers started.
fn started(pod: &Pod) -> Option<jiff::Timestamp> {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers
        .filter_map(|container| Some(container.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0))
        .max()
}

/// Whether a database's status counts more ready members than there are.
fn exaggerates(database: &Database, pods: &[Pod]) -> bool {
    let name = database.name_any();
    let ready = pods.iter().filter(|pod| {
        pod.namespace() == database.namespace()
            && Names(&name).ordinal(&pod.name_any()).is_some()
            && claims_readiness(pod)
    });
    let counted = database.status.as_ref().map_or(0, |status| status.ready_replicas);
    usize::try_from(counted).unwrap_or(0) > ready.count()
}

/// Stops the parts one after the other, each within its time.
async fn shut_down(stops: &Stops, mut parts: Parts, mut api_server: Parts) {
    stops.controllers.cancel();
    stops.node.cancel();
    parts.drain(PODS_LIMIT).await;
    stops.api.cancel();
    api_server.drain(PART_LIMIT).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ready: &str, started: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "shop" },
            "status": {
                "conditions": [{ "type": "Ready", "status": ready }],
                "containerStatuses": [{
                    "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "state": { "running": { "startedAt": started } },
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_count_of_members_that_are_not_ready_is_an_exaggeration() {
        let database: Database = serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
            "metadata": { "name": "db", "namespace": "shop" },
            "spec": { "replicas": 2, "version": "18.6", "storage": { "size": "1Gi" } },
            "status": { "readyReplicas": 2 },
        }))
        .unwrap();
        let time = "2026-11-22T10:00:00Z";
        let (one, two) = (pod("db-0", "True", time), pod("db-1", "True", time));
        let (other, down) = (pod("dbx-1", "True", time), pod("db-1", "False", time));
        assert!(!exaggerates(&database, &[one.clone(), two]));
        assert!(exaggerates(&database, &[one.clone(), other]));
        assert!(exaggerates(&database, &[one.clone(), down]));
        assert_eq!(started(&one), time.parse().ok());
    }
}
