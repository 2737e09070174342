//! `dbctl agent verify`: what the pod of a verification runs. It restores a backup on a volume of its own that goes with it,
//! and nobody but itself ever reaches what runs there.

use std::path::PathBuf;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::told::{Told, ToldError};
use crate::api::VERIFYING_KEY;
use crate::backup::base::{BackupId, BackupIdError, Verified};
use crate::backup::claim::{self, ClaimError};
use crate::backup::store::{Destination, DestinationError, Patience, Settings, Store, StoreError};
use crate::backup::verification::{Checked, Place, Step, VerificationError, verify as check};
use crate::patroni::SUPERUSER;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The destination.
    pub to: String,
    /// The id of the archive.
    pub archive: String,
    /// The database's name.
    pub database: String,
    /// The backup; without it, the newest good one.
    pub backup: Option<String>,
    /// The request that asked for it.
    pub request: Option<String>,
}

/// Why a backup was not found to be good.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Not a destination.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// Not the name of a backup.
    #[error(transparent)]
    Backup(#[from] BackupIdError),
    /// There is nobody to tell.
    #[error(transparent)]
    Told(#[from] ToldError),
    /// Whose the destination is cannot be read.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// It is another's.
    #[error("verify a backup in {destination}: it is the archive of {database}, not this database's")]
    Another {
        /// The destination.
        destination: String,
        /// Namespace and name of whose it is.
        database: String,
    },
    /// The store could not be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This process.
    #[error("prepare for it: {0}")]
    Process(#[from] std::io::Error),
    /// It is not known.
    #[error(transparent)]
    Verification(#[from] VerificationError),
    /// It is bad.
    #[error("use backup {id}, which is damaged: failed to {problem}")]
    Damaged {
        /// The backup.
        id: BackupId,
        /// What is wrong with it.
        problem: String,
    },
    /// It was told to end.
    #[error("verify the backup: it was told to stop")]
    Stopped,
}

/// Verifies a backup and writes down what came of it, in the destination and where the controller reads it.
///
/// # Errors
/// Where it is damaged, or it cannot be told whether it is.
pub async fn verify(asked: &Verification) -> Result<(), VerifyError> {
    let mut end = signal(SignalKind::terminate())?;
    tokio::select! {
        result = run(asked) => result,
        _ = end.recv() => Err(VerifyError::Stopped),
    }
}

async fn run(asked: &Verification) -> Result<(), VerifyError> {
    let destination: Destination = asked.to.parse()?;
    let backup: Option<BackupId> = asked.backup.as_deref().map(str::parse).transpose()?;
    let told = told(&asked.database).await?;
    let store = Store::open(&destination, &Settings::of_process(), Patience::LONG)?;
    if let Some(claim) = claim::find(&store).await?
        && claim.archive != asked.archive
    {
        return Err(VerifyError::Another { destination: destination.to_string(), database: claim.database });
    }
    let place = place(told.as_ref())?;
    let (report, progress) = watch::channel((String::new(), Step::Restore));
    let noting = told
        .as_ref()
        .map(|told| tokio::spawn(told.note(VERIFYING_KEY, asked.request.clone(), progress, words)));
    let result = check(&store, backup.as_ref(), &place, |record, step| {
        tracing::info!("{}", words(&(record.id.to_string(), step)).0);
        report.send_replace((record.id.to_string(), step));
    })
    .await;
    noting.inspect(tokio::task::JoinHandle::abort);
    match (&result, &told) {
        (Ok(_), Some(told)) => told.catalog(&store, VERIFYING_KEY).await?,
        (Err(_), Some(told)) => told.write(VERIFYING_KEY, Value::Null).await,
        (_, None) => {}
    }
    let Checked { record, verified } = result?;
    let Verified { checked, duration_seconds, .. } = &verified;
    tracing::info!("looked at {} in {duration_seconds} s; well: {}", record.id, checked.join(", "));
    match verified.damage() {
        None => Ok(()),
        Some(problem) => Err(VerifyError::Damaged { id: record.id, problem: problem.to_owned() }),
    }
}

/// Outside of a pod, only the destination hears what came of it.
async fn told(database: &str) -> Result<Option<Told>, ToldError> {
    if std::env::var_os("POD_NAMESPACE").is_none() {
        tracing::warn!("this is no pod: no ConfigMap is written");
        return Ok(None);
    }
    Ok(Some(Told::here(database).await?.1))
}

fn place(told: Option<&Told>) -> Result<Place, VerifyError> {
    let directory = |name: &str| std::env::var_os(name).map_or_else(std::env::temp_dir, PathBuf::from);
    Ok(Place {
        scratch: directory("SCRATCH_DIRECTORY"),
        sockets: directory("SOCKET_DIRECTORY"),
        program: std::env::current_exe()?.display().to_string(),
        user: SUPERUSER.to_owned(),
        major: std::env::var("POSTGRES_MAJOR").ok().and_then(|major| major.parse().ok()),
        by: told.map_or_else(|| format!("process-{}", std::process::id()), |told| told.pod.clone()),
    })
}

fn words((id, step): &(String, Step)) -> (String, u64, Option<u64>) {
    let phase = match step {
        _ if id.is_empty() => "looking for the backup".to_owned(),
        Step::Restore => format!("restoring {id}"),
        Step::Check => format!("checking every table and index of {id}"),
    };
    (phase, 0, None)
}
