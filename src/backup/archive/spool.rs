//! Segments that a recovery will soon ask for, fetched ahead of it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::fetch::{FetchError, Fetched, Purpose, fetch};
use crate::backup::layout::Epoch;
use crate::backup::store::Store;
use crate::backup::wal::{Segment, SegmentSize, WalFile};

/// How many segments are kept ahead: 128 MiB of the usual size.
const AHEAD: usize = 8;

/// A directory on the data's file system, so that what is in it is moved and not copied.
#[derive(Clone, Debug)]
pub struct Spool {
    directory: PathBuf,
}

impl Spool {
    /// The one beside a data directory, for WAL of that epoch.
    pub fn beside(data: &Path, epoch: Epoch) -> Self {
        let directory = data.parent().unwrap_or(data).join("wal-spool").join(epoch.to_string());
        Self { directory }
    }

    /// Moves a segment out of it to `to`; false where it is not there. What is in the spool is whole and was checked.
    ///
    /// # Errors
    /// Where it is there and cannot be moved.
    pub fn take(&self, segment: Segment, to: &Path) -> io::Result<bool> {
        match std::fs::rename(self.directory.join(segment.to_string()), to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The segments in it.
    fn held(&self) -> io::Result<Vec<Segment>> {
        let names = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?,
        };
        let segment = |name: &std::ffi::OsString| match name.to_str()?.parse() {
            Ok(WalFile::Segment(segment)) => Some(segment),
            _ => None,
        };
        Ok(names.iter().filter_map(segment).collect())
    }

    /// Whether it would be filled up behind that segment.
    pub fn is_low(&self, after: Segment) -> bool {
        let ahead = |held: &Segment| held.timeline == after.timeline && *held > after;
        self.held().is_ok_and(|held| held.iter().filter(|held| ahead(held)).count() < AHEAD / 2)
    }

    /// Fetches the segments behind that one, and drops what lies before it or on another timeline. It stops at the first
    /// that the archive does not have, and remembers nothing of that. Where another process does the same, this one leaves it to it.
    ///
    /// # Errors
    /// Where one cannot be fetched.
    pub async fn fill(
        &self,
        store: &Store,
        epoch: Epoch,
        after: Segment,
        size: SegmentSize,
    ) -> Result<(), FetchError> {
        let failed = |source| FetchError::Write { path: self.directory.display().to_string(), source };
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        let lock = File::create(self.directory.join(".lock")).map_err(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let held = self.held().map_err(failed)?;
        let is_ahead = |segment: &&Segment| segment.timeline == after.timeline && **segment > after;
        for old in held.iter().filter(|segment| !is_ahead(segment)) {
            let _ = std::fs::remove_file(self.directory.join(old.to_string()));
        }
        let mut next = after;
        for _ in 0..AHEAD {
            let Some(segment) = next.next(size) else { break };
            next = segment;
            if held.contains(&segment) {
                continue;
            }
            let to = self.directory.join(segment.to_string());
            if fetch(store, epoch, WalFile::Segment(segment), &to, Purpose::Spool).await? == Fetched::Absent {
                break;
            }
        }
        Ok(())
    }
}
