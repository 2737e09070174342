//! All steps of a verification, one after the other.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use super::amcheck::{self, CheckError};
use super::blame::{is_damage, is_machines};
use super::instance::{Instance, InstanceError};
use super::room::needed;
use crate::backup::base::{BackupId, COMMIT, Found, Outcome, RESTORING, Record, Verified, backups, epochs};
use crate::backup::restore::{self, RestoreError, Source, Target, Wish, restore};
use crate::backup::store::{Store, StoreError};

/// Where and as what it is done.
#[derive(Clone, Debug)]
pub struct Place {
    /// A directory with room for the data; what is written there goes at the end.
    pub scratch: PathBuf,
    /// A directory of one's own whose path is short enough for a socket.
    pub sockets: PathBuf,
    /// The program that fetches WAL: this one.
    pub program: String,
    /// The cluster's superuser.
    pub user: String,
    /// PostgreSQL's major version here; a backup of another cannot be looked at.
    pub major: Option<u32>,
    /// Who does it, in one word that names no other: a pod.
    pub by: String,
}

/// What it is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The backup is fetched, checked against its hashes and manifest, and recovered.
    Restore,
    /// Each table and index is looked at.
    Check,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The backup.
    pub record: Record,
    /// What came of it, as it stands in the destination now.
    pub verified: Verified,
}

/// Why it is not known whether a backup is good.
#[derive(Debug, thiserror::Error)]
pub enum VerificationError {
    /// There is none.
    #[error("find a good backup in {0}: there is none yet")]
    None(String),
    /// None of that release.
    #[error("find a good backup of PostgreSQL {major} in {destination}: there is none yet; there are others")]
    Major {
        /// PostgreSQL's major version.
        major: u32,
        /// Where.
        destination: String,
    },
    /// Not that one.
    #[error("find backup {id} in {destination}: it is no good backup, or was removed")]
    Unknown {
        /// Which.
        id: BackupId,
        /// Where.
        destination: String,
    },
    /// The volume is too small.
    #[error(
        "restore backup {id} to check it: {path} has {} free, and {} are needed; give the node more disk, or the pod another", bytesize::ByteSize(*.free), bytesize::ByteSize(*.needed)
    )]
    Room {
        /// Which.
        id: BackupId,
        /// Where.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        needed: u64,
    },
    /// It was removed meanwhile.
    #[error("note what was found of backup {0}: it has been removed meanwhile")]
    Gone(BackupId),
    /// The directory.
    #[error("use {path}: {source}")]
    Scratch {
        /// Which.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// It was not restored, for reasons that are not the backup's.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// PostgreSQL was not started, for reasons that are not the data's.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// It was not looked through.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The store was not read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks the newest good backup, or that one, and writes down what came of it. `tell` hears what it is at.
///
/// # Errors
/// Where it cannot be told whether it is good; that it is damaged is no error.
pub async fn verify(
    store: &Store,
    backup: Option<&BackupId>,
    place: &Place,
    mut tell: impl FnMut(&Record, Step),
) -> Result<Checked, VerificationError> {
    let found = pick(store, backup, place.major).await?;
    // That is why it was picked.
    let Some(record) = found.good().cloned() else { return Err(none(store)) };
    let directory = record.id.directory(found.epoch);
    make_sure_of_room(&record, &place.scratch)?;
    let mark = format!("{directory}/{RESTORING}{}.json", place.by);
    store.put(&mark, Bytes::from(json!({ "at": Timestamp::now() }).to_string())).await?;
    let began = Instant::now();
    let mut checked = Vec::new();
    let looked = look(store, &record, place, &mut checked, |step| tell(&record, step)).await;
    let noted = match looked {
        Err(error) => Err(error),
        Ok(problem) => {
            let outcome = if problem.is_some() { Outcome::Bad } else { Outcome::Good };
            let duration_seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
            let verified = Verified { at: Timestamp::now(), outcome, problem, checked, duration_seconds };
            note(store, &directory, &record, &verified).await.map(|()| verified)
        }
    };
    if let Err(error) = store.delete(&mark).await {
        tracing::warn!("failed to take back that the backup is being read: {error}");
    }
    Ok(Checked { verified: noted?, record })
}

fn none(store: &Store) -> VerificationError {
    VerificationError::None(store.destination().to_string())
}

async fn pick(
    store: &Store,
    backup: Option<&BackupId>,
    major: Option<u32>,
) -> Result<Found, VerificationError> {
    let destination = || store.destination().to_string();
    let mut all = Vec::new();
    for epoch in epochs(store).await? {
        all.extend(backups(store, epoch).await?);
    }
    all.retain(|found| found.good().is_some());
    if let Some(id) = backup {
        let own = all.into_iter().find(|found| found.id == *id);
        return own.ok_or_else(|| VerificationError::Unknown { id: id.clone(), destination: destination() });
    }
    let any = !all.is_empty();
    all.retain(|found| major.is_none_or(|major| found.epoch.major == major));
    match (all.into_iter().max_by_key(|found| found.committed), major) {
        (Some(newest), _) => Ok(newest),
        (None, Some(major)) if any => Err(VerificationError::Major { major, destination: destination() }),
        (None, _) => Err(none(store)),
    }
}

fn make_sure_of_room(record: &Record, scratch: &Path) -> Result<(), VerificationError> {
    let stat = rustix::fs::statvfs(scratch)
        .map_err(|error| VerificationError::Scratch { path: scratch.to_owned(), source: error.into() })?;
    let (free, needed) = (stat.f_bavail.saturating_mul(stat.f_frsize), needed(record));
    if free >= needed {
        return Ok(());
    }
    Err(VerificationError::Room { id: record.id.clone(), path: scratch.to_owned(), free, needed })
}

/// Does it; returns what is wrong with the backup, if anything is.
async fn look(
    store: &Store,
    record: &Record,
    place: &Place,
    checked: &mut Vec<String>,
    mut tell: impl FnMut(Step),
) -> Result<Option<String>, VerificationError> {
    let failed = |path: &Path, source| VerificationError::Scratch { path: path.to_owned(), source };
    let directory = tempfile::Builder::new().prefix("verify-").tempdir_in(&place.scratch);
    let directory = directory.map_err(|source| failed(&place.scratch, source))?;
    let data = directory.path().join("data");
    std::fs::create_dir(&data).map_err(|source| failed(&data, source))?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&data, private).map_err(|source| failed(&data, source))?;
    let sockets = tempfile::Builder::new().prefix("v").tempdir_in(&place.sockets);
    let sockets = sockets.map_err(|source| failed(&place.sockets, source))?;

    tell(Step::Restore);
    let source = Source {
        store: store.clone(),
        wish: Wish { backup: Some(record.id.clone()), target: Target::Immediate, major: place.major },
        program: place.program.clone(),
        parameters: BTreeMap::from([("huge_pages".to_owned(), "off".to_owned())]),
        scratch: sockets.path().to_owned(),
    };
    let into = restore::Place { data: data.clone(), tablespaces: directory.path().join("tablespaces") };
    // Where it was lying says nothing to anybody.
    let here = format!("{}/", directory.path().display());
    if let Err(error) = restore(&source, &into, |_| Ok(())).await {
        let words = error.to_string().replace(&here, "");
        return if is_damage(&error) { Ok(Some(words)) } else { Err(error.into()) };
    }
    checked.extend(["hashes", "pg_verifybackup", "recovery"].map(str::to_owned));

    tell(Step::Check);
    let instance = match Instance::start(&data, sockets.path(), directory.path()).await {
        Err(error @ InstanceError::Ended(_)) if !is_machines(&error.to_string()) => {
            return Ok(Some(error.to_string()));
        }
        other => other?,
    };
    let major = record.epoch().map_or(0, |epoch| epoch.major);
    let found = amcheck::check(sockets.path(), &place.user, major, directory.path()).await;
    let ended = instance.last_words();
    instance.stop().await;
    match (found, ended) {
        (Ok(None), _) => {
            checked.push("pg_amcheck".to_owned());
            Ok(None)
        }
        // What ended a process of the server says more than that it ended.
        (_, Some(words)) if is_machines(&words) => Err(CheckError::Failed(words).into()),
        (Ok(Some(words)), Some(end)) => Ok(Some(problem(&format!("{words} ({end})")))),
        (Ok(Some(words)), None) => Ok(Some(problem(&words))),
        (Err(error), _) => Err(error.into()),
    }
}

fn problem(words: &str) -> String {
    format!("check the restored data with pg_amcheck: {words}")
}

/// Into a directory that retention has emptied meanwhile, nothing is written.
async fn note(
    store: &Store,
    directory: &str,
    record: &Record,
    verified: &Verified,
) -> Result<(), VerificationError> {
    if store.size(&format!("{directory}/{COMMIT}")).await?.is_none() {
        return Err(VerificationError::Gone(record.id.clone()));
    }
    Ok(verified.write(store, directory).await?)
}

#[cfg(test)]
#[path = "run_tests.rs"]
pub(super) mod tests;
