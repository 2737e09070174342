//! `wal-push`: one file of WAL goes into the archive.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::origin::{Origin, OriginError};
use crate::backup::claim::{self, ClaimError, Owner};
use crate::backup::layout::{ContentHash, Epoch, StoredWal};
use crate::backup::store::{Object, Store, StoreError, name};
use crate::backup::timeline::History;
use crate::backup::wal::{Cluster, Content, ContentError, NameError, Segment, SegmentSize, WalFile, check};

/// Little work for most of the gain: a segment shrinks to a half or less in 30 ms.
const LEVEL: i32 = 1;

/// What was done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was stored.
    Stored,
    /// It was there before, with the same bytes.
    Present,
    /// It is a segment whose timeline ends in it, and is kept as such: it never stands for the whole one.
    Partial,
    /// It lies in the archive of the database that this one was restored from.
    Foreign,
    /// There is nothing to store: nobody wrote to it before its timeline was left.
    Unwritten,
}

/// Why a file was not archived. PostgreSQL keeps it and tries again.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Not a file of WAL.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It cannot be read.
    #[error("read {path}: {source}")]
    File {
        /// What.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// It is not what its name says.
    #[error("archive {file}: {source}")]
    Content {
        /// The file.
        file: WalFile,
        /// Why not.
        source: ContentError,
    },
    /// Other bytes are stored under its name.
    #[error(
        "archive {file}: {key} holds other bytes for it, and what is archived is never replaced; two servers have written this segment: \
         find out which of them is right"
    )]
    Conflict {
        /// The file.
        file: WalFile,
        /// What is there.
        key: String,
    },
    /// The data directory does not say what it is of.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The destination is not this database's.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Archives the file at `path`, from the data directory `data`. Done twice it changes nothing; after an error nothing is
/// known, and it must be done again.
///
/// # Errors
/// Where it is not certain that the store has it.
pub async fn push(store: &Store, owner: &Owner, data: &Path, path: &Path) -> Result<Pushed, PushError> {
    let file: WalFile = path.file_name().unwrap_or_default().to_string_lossy().parse()?;
    if Origin::read(data)?.is_some_and(|origin| origin.wrote(file)) {
        return Ok(Pushed::Foreign);
    }
    let read =
        |path: PathBuf| std::fs::read(&path).map_err(|source| PushError::File { path: path.clone(), source });
    let raw = read(data.join(path))?;
    let major = read(data.join("PG_VERSION"))?;
    let control = read(data.join("global/pg_control"))?;
    let epoch = epoch(&major, &control).ok_or_else(|| PushError::File {
        path: data.join("global/pg_control"),
        source: io::Error::from(io::ErrorKind::InvalidData),
    })?;
    let file = match stored_as(file, &raw, epoch) {
        Ok(file) => file,
        Err(source) if is_unwritten(data, file, &raw, &source) => return Ok(Pushed::Unwritten),
        Err(source) => return Err(PushError::Content { file, source }),
    };
    let prepared = async {
        let prepared = prepare(file, raw.into()).await;
        prepared.map_err(|source| PushError::File { path: path.to_owned(), source })
    };
    // The store is asked what it has while the file is made ready: the processor works, and the network waits.
    let (claim, present, prepared) =
        tokio::join!(claim::hold(store, owner), contents(store, file, epoch), prepared);
    claim?;
    let (hash, object) = prepared?;
    store_once(store, StoredWal { file, hash }, epoch, &present?, object).await
}

/// A file's hash, and what is stored of it. Each has a thread of its own, and where there are two cores, the hash takes no time.
async fn prepare(file: WalFile, raw: Bytes) -> io::Result<(ContentHash, Bytes)> {
    let same = raw.clone();
    let hash = tokio::task::spawn_blocking(move || ContentHash::of(&same));
    let object = tokio::task::spawn_blocking(move || packed(file, raw));
    let (hash, object) = tokio::join!(hash, object);
    Ok((hash?, object??))
}

/// A cluster's, from `PG_VERSION` and the first bytes of `global/pg_control` (`ControlFileData`: the system identifier).
fn epoch(version: &[u8], control: &[u8]) -> Option<Epoch> {
    let system_identifier = u64::from_le_bytes(control.get(..8)?.try_into().ok()?);
    let major = std::str::from_utf8(version).ok()?.trim().parse().ok()?;
    Some(Epoch { major, system_identifier })
}

/// Whether the file is one that was put aside for a segment that its timeline then never came to. PostgreSQL removes those
/// behind the one in which the next timeline begins, and has that one archived like any other as soon as it is old
/// (`RemoveNonParentXlogFiles`, `XLogArchiveCheckDone`): what it holds is zeros, or what an older segment held.
///
/// That alone could be damage: the member's own history must say that the timeline was left there or before. What was written
/// up to that point is in the next timeline's segment.
fn is_unwritten(data: &Path, file: WalFile, raw: &[u8], problem: &ContentError) -> bool {
    let WalFile::Segment(segment) = file else { return false };
    let is_old = match problem {
        ContentError::Elsewhere { found, expected } => found < expected,
        ContentError::Magic { .. } => raw.iter().all(|byte| *byte == 0),
        _ => false,
    };
    is_old && was_left(data, segment, raw.len()).unwrap_or(false)
}

/// Whether the newest history in a data directory says that a timeline was left before the end of that segment.
fn was_left(data: &Path, segment: Segment, bytes: usize) -> Option<bool> {
    let size = SegmentSize::new(u64::try_from(bytes).ok()?)?;
    let end = segment.start(size)?.checked_add(size.bytes())?;
    let files = std::fs::read_dir(data.join("pg_wal")).ok()?.flatten();
    let histories = files.filter_map(|entry| match entry.file_name().to_str()?.parse() {
        Ok(WalFile::History(timeline)) => Some(timeline),
        _ => None,
    });
    let newest = histories.max()?;
    let text =
        std::fs::read_to_string(data.join("pg_wal").join(WalFile::History(newest).to_string())).ok()?;
    let History(forks) = History::parse(newest, &text).ok()?;
    Some(forks.iter().any(|fork| fork.from == segment.timeline && fork.at < end))
}

/// The name that its content deserves.
fn stored_as(file: WalFile, raw: &[u8], epoch: Epoch) -> Result<WalFile, ContentError> {
    let look = |segment: Segment| {
        let found = u64::try_from(raw.len()).unwrap_or(u64::MAX);
        let segment_size = SegmentSize::new(found)
            .ok_or(ContentError::Length { expected: SegmentSize::DEFAULT.bytes(), found })?;
        let Epoch { major, system_identifier } = epoch;
        check(raw, segment, &Cluster { major, system_identifier, segment_size })
    };
    match file {
        WalFile::Segment(segment) => match look(segment)? {
            Content::Complete => Ok(file),
            Content::Incomplete(_) => Ok(WalFile::Partial(segment)),
        },
        WalFile::Partial(segment) => look(segment).map(|_| file),
        WalFile::Label(..) | WalFile::History(_) => Ok(file),
    }
}

/// What is stored of a file.
fn packed(file: WalFile, raw: Bytes) -> io::Result<Bytes> {
    match file {
        WalFile::History(_) => Ok(raw),
        _ => Ok(zstd::bulk::compress(&raw, LEVEL)?.into()),
    }
}

async fn store_once(
    store: &Store,
    stored: StoredWal,
    epoch: Epoch,
    present: &[Object],
    object: Bytes,
) -> Result<Pushed, PushError> {
    let key = stored.key(epoch);
    let done = if matches!(stored.file, WalFile::Partial(_)) { Pushed::Partial } else { Pushed::Stored };
    if is_there(present, stored, &key)? {
        return Ok(if done == Pushed::Stored { Pushed::Present } else { done });
    }
    let put = store.put(&key, object).await;
    // Whatever was answered: another may have come in between, and a lost answer is not a lost write.
    match (is_there(&contents(store, stored.file, epoch).await?, stored, &key)?, put) {
        (true, _) => Ok(done),
        (false, Err(error)) => Err(error.into()),
        (false, Ok(())) => Err(PushError::Store(StoreError::Damaged {
            key,
            problem: "the store confirmed a write that it then does not show".to_owned(),
        })),
    }
}

/// All that is stored of one file.
pub(super) async fn contents(store: &Store, file: WalFile, epoch: Epoch) -> Result<Vec<Object>, StoreError> {
    let directory = format!("{epoch}/{}", StoredWal::directory(file));
    let mut found = store.list_beginning(&directory, &format!("{file}-")).await?;
    found.retain(|object| StoredWal::parse(name(&object.key)).is_some());
    Ok(found)
}

/// Whether the archive holds it.
///
/// # Errors
/// Where the store does not say.
pub async fn holds(store: &Store, epoch: Epoch, file: WalFile) -> Result<bool, StoreError> {
    Ok(!contents(store, file, epoch).await?.is_empty())
}

/// Whether it is stored already; that other bytes are, is an error. Of an unfilled segment each standby may have its own.
fn is_there(present: &[Object], stored: StoredWal, key: &str) -> Result<bool, PushError> {
    let other = present.iter().find(|object| object.key != key);
    match other {
        Some(other) if !matches!(stored.file, WalFile::Partial(_)) => {
            Err(PushError::Conflict { file: stored.file, key: other.key.clone() })
        }
        _ => Ok(present.iter().any(|object| object.key == key)),
    }
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;
