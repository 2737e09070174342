//! `wal-fetch`: one file of WAL comes back from the archive.

use std::io::{self, Write as _};
use std::path::Path;

use super::push::contents;
use crate::backup::claim::{self, ClaimError};
use crate::backup::layout::{CLAIM, ContentHash, Epoch, StoredWal};
use crate::backup::store::{Store, StoreError, name};
use crate::backup::wal::{SegmentSize, WalFile};

/// Whether the archive has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// It is there, and now here.
    Found,
    /// The archive answered, and it has none.
    Absent,
}

/// What becomes of a fetched file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// PostgreSQL waits for it. It asks again after a crash, and syncs what it keeps itself (`KeepFileRestoredFromArchive` in its
    /// `xlogarchive.c`).
    Recovery,
    /// It lies there until it is asked for, and is taken as it is then: it must be whole after a crash too.
    Spool,
}

/// Why it is not known whether the archive has a file, or why it could not be had. A recovery must not take this for the end of the WAL.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Two contents under one name.
    #[error(
        "fetch {file}: the archive holds {count} contents for it, and which of them is right cannot be told"
    )]
    Ambiguous {
        /// The file.
        file: WalFile,
        /// How many.
        count: usize,
    },
    /// What is stored is not what was archived.
    #[error("fetch {file}: {key} is damaged: {problem}")]
    Damaged {
        /// The file.
        file: WalFile,
        /// The object.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// There is no archive at all.
    #[error("fetch from {0}: it has no archive (no {CLAIM}), or is not there")]
    Unclaimed(String),
    /// Its claim cannot be read.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// It cannot be written.
    #[error("write {path}: {source}")]
    Write {
        /// Where.
        path: String,
        /// What came of it.
        source: io::Error,
    },
    /// The store did not say.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Fetches a file to `to`: all of it, and checked, or nothing.
///
/// # Errors
/// Where that is not possible although the file may be there.
pub async fn fetch(
    store: &Store,
    epoch: Epoch,
    file: WalFile,
    to: &Path,
    purpose: Purpose,
) -> Result<Fetched, FetchError> {
    let present = contents(store, file, epoch).await?;
    let key = match present.as_slice() {
        [] => return absent(store).await,
        [one] => &one.key,
        // Each standby may have archived what it had of a segment that was never filled: one is as good as another only
        // where there is one.
        more => return Err(FetchError::Ambiguous { file, count: more.len() }),
    };
    let damaged = |problem: &str| FetchError::Damaged { file, key: key.clone(), problem: problem.to_owned() };
    let object = store.get(key).await?.ok_or_else(|| damaged("it is listed, and not there"))?;
    let stored = StoredWal::parse(name(key)).ok_or_else(|| damaged("its name is not one"))?;
    let raw = unpacked(file, &object).map_err(|error| damaged(&error.to_string()))?;
    if ContentHash::of(&raw) != stored.hash {
        return Err(damaged("its bytes are not those that were archived"));
    }
    write(&raw, to, purpose)
        .map_err(|source| FetchError::Write { path: to.display().to_string(), source })?;
    Ok(Fetched::Found)
}

/// A destination that is not there looks empty, such as a directory whose volume is not mounted. One that has an archive has
/// its claim.
async fn absent(store: &Store) -> Result<Fetched, FetchError> {
    match claim::find(store).await? {
        Some(_) => Ok(Fetched::Absent),
        None => Err(FetchError::Unclaimed(store.destination().to_string())),
    }
}

fn unpacked(file: WalFile, object: &[u8]) -> io::Result<Vec<u8>> {
    match file {
        WalFile::History(_) => Ok(object.to_vec()),
        _ => zstd::bulk::decompress(object, capacity(object)?),
    }
}

/// As much as the frame says, and never more than the largest segment.
fn capacity(object: &[u8]) -> io::Result<usize> {
    let stated = zstd::zstd_safe::get_frame_content_size(object).ok().flatten();
    let largest = SegmentSize::LARGEST.bytes();
    let bytes = stated.filter(|bytes| *bytes <= largest).ok_or(io::ErrorKind::InvalidData)?;
    usize::try_from(bytes).map_err(io::Error::other)
}

/// Under another name first, so that a file of that name is always whole.
fn write(raw: &[u8], to: &Path, purpose: Purpose) -> io::Result<()> {
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".wal-fetch-").tempfile_in(directory)?;
    file.write_all(raw)?;
    if purpose == Purpose::Spool {
        file.as_file().sync_data()?;
    }
    file.persist(to).map_err(|error| error.error)?;
    Ok(())
}
