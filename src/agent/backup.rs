//! `dbctl agent backup`: what the pod of a backup runs. It holds no data: a fit member sends it, and the store takes it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::security;
use super::source::{Heard, choose};
use super::told::{Told, ToldError};
use crate::api::{Names, PROGRESS_KEY};
use crate::backup::base::{self, PruneError, Record, Source, Step, TakeError};
use crate::backup::claim::Owner;
use crate::backup::server::{Address, ServerError, Target, Tls};
use crate::backup::store::{Destination, DestinationError, Patience, Settings, Store, StoreError};
use crate::patroni::{Lock, PatroniError, REPLICATION_USER, SUPERUSER};
use crate::plan::POSTGRES_PORT;

/// A member that does not say in time how it is, is not asked for its data.
const ASK: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Job {
    /// The destination.
    pub to: String,
    /// The id of the archive.
    pub archive: String,
    /// The database's name.
    pub database: String,
    /// How many good backups stay.
    pub keep: usize,
    /// The request that asked for it.
    pub request: Option<String>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Not a destination.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// There is nobody to tell.
    #[error(transparent)]
    Told(#[from] ToldError),
    /// The API server said no.
    #[error("reach the Kubernetes API: {0}")]
    Api(String),
    /// No client for Patroni.
    #[error(transparent)]
    Patroni(#[from] PatroniError),
    /// Whom to trust is not known.
    #[error("read {0}: {1}")]
    Trusted(String, #[source] std::io::Error),
    /// Nobody could prove who they are.
    #[error(transparent)]
    Tls(#[from] ServerError),
    /// Nobody to take it from.
    #[error("find a primary: {0}")]
    NoPrimary(String),
    /// It was not taken.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// The store could not be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A pod's view of the cluster.
struct Cluster {
    pods: Api<Pod>,
    told: Told,
}

/// Takes a backup, lets old ones go, and writes down what there is then.
///
/// # Errors
/// Where there is no good backup then. That old ones could not be removed is only logged: the next one tries again.
pub async fn backup(job: &Job) -> Result<Record, BackupError> {
    let destination: Destination = job.to.parse()?;
    let cluster = Cluster::here(&job.database).await?;
    let store = Store::open(&destination, &Settings::of_process(), Patience::LONG)?;
    let owner = Owner {
        archive: job.archive.clone(),
        database: format!("{}/{}", cluster.told.namespace, job.database),
    };
    let source = cluster.source(&job.database).await?;
    tracing::info!("take a base backup of {} to {destination}", source.member);
    let (report, progress) = watch::channel(Step::Checkpoint);
    let noting = tokio::spawn(cluster.told.note(PROGRESS_KEY, job.request.clone(), progress, words));
    let report = |step| {
        report.send_replace(step);
    };
    let record = base::take(&store, &owner, &source, job.request.clone(), report).await;
    noting.abort();
    let record = match record {
        Ok(record) => record,
        Err(error) => {
            cluster.told.write(PROGRESS_KEY, Value::Null).await;
            return Err(error.into());
        }
    };
    tracing::info!("{} is whole: {} bytes in the store", record.id, record.bytes);
    match base::prune(&store, job.keep, false).await {
        Ok(pruned) => tracing::info!("removed {pruned:?}"),
        Err(error) => warn_of_prune(&error),
    }
    cluster.told.catalog(&store, PROGRESS_KEY).await?;
    Ok(record)
}

fn warn_of_prune(error: &PruneError) {
    tracing::warn!("failed to remove old backups: {error}");
}

impl Cluster {
    async fn here(database: &str) -> Result<Self, BackupError> {
        let (client, told) = Told::here(database).await?;
        Ok(Self { pods: Api::namespaced(client, &told.namespace), told })
    }

    /// Whom to take it from.
    async fn source(&self, database: &str) -> Result<Source, BackupError> {
        let names = Names(database);
        let api = |error: kube::Error| BackupError::Api(error.to_string());
        let selector: Vec<String> =
            names.selector().iter().map(|(label, value)| format!("{label}={value}")).collect();
        let pods = self.pods.list(&ListParams::default().labels(&selector.join(","))).await.map_err(api)?;
        let lock = self.told.maps.get(&names.leader()).await.map_err(api)?;
        let lock = Lock::of(&json!(lock));
        let patroni = crate::patroni::Client::new()?;
        let mut heard = Vec::new();
        for pod in pods {
            let address =
                pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok());
            let Some(address) = address else { continue };
            if let Ok(answer) = patroni.ask(address, ASK).await {
                heard.push(Heard { name: pod.name_any(), address, answer });
            }
        }
        let (from, primary) = choose(&heard, lock.holder.as_deref()).map_err(BackupError::NoPrimary)?;
        let tls = tls()?;
        let replication = target(from.address, REPLICATION_USER, "PATRONI_REPLICATION_PASSWORD", tls.clone());
        let primary = target(primary.address, SUPERUSER, "PATRONI_SUPERUSER_PASSWORD", tls);
        Ok(Source { member: from.name.clone(), replication, primary })
    }
}

fn words(step: &Step) -> (String, u64, Option<u64>) {
    match step {
        Step::Checkpoint => ("waiting for PostgreSQL's checkpoint".to_owned(), 0, None),
        Step::Copy { done, total, .. } => ("copying".to_owned(), *done, Some(*total)),
        Step::Wal(segment) => (format!("waiting for segment {segment} in the archive"), 0, None),
    }
}

/// How members prove themselves; `None` while not all of them speak TLS.
fn tls() -> Result<Option<Tls>, BackupError> {
    let Some(path) = security::trusted() else { return Ok(None) };
    let read =
        std::fs::read(&path).map_err(|error| BackupError::Trusted(path.display().to_string(), error))?;
    Ok(Some(Tls::trusting(&read)?))
}

fn target(address: IpAddr, user: &str, password: &str, tls: Option<Tls>) -> Target {
    Target {
        address: Address::Tcp(SocketAddr::new(address, POSTGRES_PORT)),
        user: user.to_owned(),
        password: std::env::var(password).ok(),
        tls,
        application_name: "dbctl backup".to_owned(),
    }
}
