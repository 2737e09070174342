//! Where the data of a restored database comes from: a file in the data directory, which replicas copy with it.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::backup::wal::WalFile;

/// The file's name in the data directory.
const FILE: &str = "dbctl-origin.json";

/// What a database was restored from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The destination.
    pub from: String,
    /// The id of the archive there.
    pub archive: String,
    /// The base backup.
    pub backup: String,
    /// The timeline that was recovered along. The database's own are higher.
    pub timeline: u32,
}

/// The file is there and is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// It cannot be read or written.
    #[error("use {FILE}: {0}")]
    File(#[from] io::Error),
    /// It is not what dbctl writes.
    #[error("read {FILE}: {0}")]
    Content(#[from] serde_json::Error),
}

impl Origin {
    /// Reads it; `None` for a database that was not restored.
    ///
    /// # Errors
    /// Where it is there and cannot be read.
    pub fn read(data: &Path) -> Result<Option<Self>, OriginError> {
        match std::fs::read(data.join(FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, data: &Path) -> Result<(), OriginError> {
        Ok(std::fs::write(data.join(FILE), serde_json::to_vec_pretty(self)?)?)
    }

    /// Whether that file of WAL was written by the source, and lies in its archive.
    pub fn wrote(&self, file: WalFile) -> bool {
        file.timeline() <= self.timeline
    }
}
