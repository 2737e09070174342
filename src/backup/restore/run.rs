//! All steps of a restore, one after the other.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use super::choose::{Choice, ChooseError, Wish, choose};
use super::find::{FindError, find};
use super::recover::{RecoverError, Recovered, recover};
use super::settings::{Recovery, altered, restore_command};
use super::unpack::{Place, UnpackError, unpack};
use super::verify::{VerifyError, verify};
use crate::backup::archive::{Origin, OriginError};
use crate::backup::store::{Store, StoreError};

/// How often the log tells how far it is, and the destination that somebody reads it.
const TELL: Duration = Duration::from_secs(60);
/// What `ALTER SYSTEM` writes.
const ALTERED: &str = "postgresql.auto.conf";
/// Where tablespaces are.
const TABLESPACE_MAP: &str = "tablespace_map";
/// PostgreSQL's manifest, by the name that its tools know.
const MANIFEST: &str = "backup_manifest";

/// Where a database comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The destination, opened.
    pub store: Store,
    /// What is asked for.
    pub wish: Wish,
    /// The program that fetches WAL: this one.
    pub program: String,
    /// The new database's settings.
    pub parameters: BTreeMap<String, String>,
    /// A directory for what is needed meanwhile.
    pub scratch: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Restored {
    /// What was chosen.
    pub choice: Choice,
    /// The timeline that the new database begins on.
    pub timeline: u32,
    /// When the last transaction in it was committed, where any was replayed.
    pub last: Option<Timestamp>,
}

/// Why there is no restored database.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The destination's content is not known.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Nothing in it fits.
    #[error(transparent)]
    Choose(#[from] ChooseError),
    /// The backup was not unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The backup is not whole.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// PostgreSQL did not recover.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// Where it comes from cannot be noted.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The store did not give it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file.
    #[error("write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// The same was tried before, and the archive has not changed since.
    #[error("{0}")]
    Again(String),
}

impl RestoreError {
    /// Trying again ends in the same way, for as long as the archive does not change.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Choose(_) | Self::Again(_) => true,
            Self::Recover(RecoverError::Refused { words, .. }) => is_final(words),
            Self::Verify(VerifyError::Refused { .. }) | Self::Unpack(UnpackError::Damaged { .. }) => true,
            _ => false,
        }
    }
}

/// What PostgreSQL says of WAL that does not lead where it should. Anything else may be the machine's.
fn is_final(words: &str) -> bool {
    [
        "before configured recovery target was reached",
        "requested recovery stop point is before consistent recovery point",
        "is not a child of this server's history",
        "recovery target timeline",
        "WAL ends before",
        "invalid value for parameter",
        "could not access file",
        "is damaged",
        "contents for it",
    ]
    .iter()
    .any(|known| words.contains(known))
}

/// Makes a cluster in `place` of what the source holds: promoted, stopped in order, on a timeline of its own. `chosen` is
/// told before anything is written, and may say no.
///
/// # Errors
/// Where that is not possible; what is in `place` by then is of no use.
pub async fn restore(
    source: &Source,
    place: &Place,
    chosen: impl FnOnce(&Choice) -> Result<(), RestoreError>,
) -> Result<Restored, RestoreError> {
    let choice = choose(&find(&source.store).await?, &source.wish)?;
    chosen(&choice)?;
    let Recovered { timeline, last } = {
        let reading = Reading::begin(source, &choice).await;
        let steps = steps(source, place, &choice);
        let recovered = tokio::select! {
            recovered = steps => recovered,
            () = reading.go_on() => Err(RestoreError::Again(String::new())),
        };
        reading.end().await;
        recovered?
    };
    Ok(Restored { choice, timeline, last })
}

async fn steps(source: &Source, place: &Place, choice: &Choice) -> Result<Recovered, RestoreError> {
    let record = &choice.record;
    // The record was checked when it was read.
    let epoch = record.epoch().ok_or_else(|| ChooseError::Empty(source.store.destination().to_string()))?;
    let directory = record.id.directory(epoch);
    let done = Arc::new(AtomicU64::new(0));
    tokio::select! {
        unpacked = unpack(&source.store, &directory, &record.archives, place, &done) => unpacked?,
        () = tell(&done, record.bytes) => {}
    }
    tracing::info!("the backup is unpacked; PostgreSQL checks it");
    let manifest = format!("{directory}/{}", record.manifest.name);
    let manifest = source
        .store
        .get(&manifest)
        .await?
        .ok_or_else(|| UnpackError::Damaged { key: manifest.clone(), problem: "it is gone".to_owned() })?;
    write(&place.data.join(MANIFEST), &manifest)?;
    verify(&place.data).await?;
    if record.archives.iter().any(|archive| archive.tablespace.is_some()) {
        let path = place.data.join(TABLESPACE_MAP);
        let lines = record.archives.iter().filter_map(|archive| archive.tablespace.as_ref());
        let lines: String =
            lines.map(|space| format!("{} {}\n", space.oid, escaped(&place.tablespace(space.oid)))).collect();
        write(&path, lines.as_bytes())?;
    }
    let altered_by_source = place.data.join(ALTERED);
    if let Ok(text) = std::fs::read_to_string(&altered_by_source) {
        write(&altered_by_source, altered(&text).as_bytes())?;
    }
    let mut origin = Origin {
        from: source.store.destination().to_string(),
        archive: record.archive.clone(),
        backup: record.id.to_string(),
        timeline: choice.timeline,
    };
    origin.write(&place.data)?;
    let recovery = Recovery {
        restore_command: restore_command(&source.program, &origin.from, epoch),
        timeline: choice.timeline,
        target: source.wish.target.clone(),
        parameters: source.parameters.clone(),
    };
    tracing::info!("the backup is there and whole; replaying WAL to {}", source.wish.target);
    let recovered = recover(&place.data, &source.scratch, &recovery).await?;
    // PostgreSQL passes over all timelines that the archive knows: they are the source's too.
    origin.timeline = recovered.timeline.saturating_sub(1);
    origin.write(&place.data)?;
    Ok(recovered)
}

/// A path as a line of `tablespace_map` holds it (`read_tablespace_map`).
fn escaped(path: &Path) -> String {
    path.display().to_string().replace('\\', r"\\").replace('\n', "\\\n").replace('\r', "\\\r")
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), RestoreError> {
    std::fs::write(path, bytes).map_err(|source| RestoreError::Write { path: path.to_owned(), source })
}

async fn tell(done: &AtomicU64, all: u64) {
    loop {
        tokio::time::sleep(TELL).await;
        let done = done.load(Ordering::Relaxed);
        tracing::info!("{} of {} are unpacked", bytesize::ByteSize(done), bytesize::ByteSize(all));
    }
}

/// Says in the destination that a backup is being read, so that it is not removed meanwhile. Where that cannot be written,
/// it is restored all the same.
struct Reading {
    store: Store,
    key: Option<String>,
}

impl Reading {
    async fn begin(source: &Source, choice: &Choice) -> Self {
        let random: String = (0..6).map(|_| fastrand::char('a'..='z')).collect();
        let directory = choice.record.epoch().map(|epoch| choice.record.id.directory(epoch));
        let key = directory.map(|directory| format!("{directory}/restoring-{random}.json"));
        let reading = Self { store: source.store.clone(), key };
        reading.say().await;
        reading
    }

    async fn say(&self) {
        let Some(key) = &self.key else { return };
        let text = json!({ "at": Timestamp::now() }).to_string();
        if let Err(error) = self.store.put(key, Bytes::from(text)).await {
            tracing::warn!(
                "failed to say that the backup is being read, and it may be removed meanwhile: {error}"
            );
        }
    }

    async fn go_on(&self) {
        loop {
            tokio::time::sleep(TELL).await;
            self.say().await;
        }
    }

    async fn end(&self) {
        if let Some(key) = &self.key {
            // It grows old and is not heeded any more.
            let _ = self.store.delete(key).await;
        }
    }
}
