//! What a member notes beside its data while it restores, so that what is left of a restore that was cut short is never
//! taken for a database.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::gone::gone;
use crate::backup::restore::Place;

/// The note's name, on the data's volume.
const FILE: &str = "dbctl-restore.json";
/// Begins the container's last line where a restore cannot succeed as it was asked for.
pub const FAILED: &str = "restore failed: ";
/// The same where it is tried again.
pub const INTERRUPTED: &str = "restore interrupted: ";

/// A restore that is not over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// What was chosen, and how far the archive reached then.
    #[serde(default)]
    pub chosen: Option<String>,
    /// Why it ended.
    #[serde(default)]
    pub failure: Option<Reason>,
}

/// Why a restore ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// In words, that fit after "failed to".
    pub words: String,
    /// Whether to try again would end in the same way.
    pub last: bool,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let begin = if self.last { FAILED } else { INTERRUPTED };
        write!(f, "{begin}failed to {}", self.words)
    }
}

fn file(data: &Path) -> PathBuf {
    data.parent().unwrap_or(data).join(FILE)
}

/// The places of a member's files.
pub fn place(data: &Path) -> Place {
    Place { data: data.to_owned(), tablespaces: data.parent().unwrap_or(data).join("tablespaces") }
}

impl Note {
    /// Reads it; `None` where no restore is under way. One that cannot be understood is one all the same.
    ///
    /// # Errors
    /// Where the volume cannot be read.
    pub fn read(data: &Path) -> io::Result<Option<Self>> {
        match fs::read(file(data)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it, and it is on the disk then.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        let path = file(data);
        let directory = path.parent().unwrap_or(data);
        let mut new = tempfile::Builder::new().prefix(".dbctl-restore-").tempfile_in(directory)?;
        serde_json::to_writer(new.as_file_mut(), self)?;
        new.as_file().sync_all()?;
        new.persist(&path).map_err(|error| error.error)?;
        fs::File::open(directory)?.sync_all()
    }

    /// The restore is over, and there is a database.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(data: &Path) -> io::Result<()> {
        gone(fs::remove_file(file(data)))
    }
}

/// Removes what a restore has left: the content of the data directory, and what belongs to it. Nobody ever wrote to that
/// as a database.
///
/// # Errors
/// Where something cannot be removed.
pub fn clear(data: &Path) -> io::Result<()> {
    let listed = match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    for entry in listed.into_iter().flatten() {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    let beside = data.parent().unwrap_or(data);
    // Patroni puts the data of a database that it gave up there.
    let mut given_up = data.as_os_str().to_owned();
    given_up.push(".failed");
    for path in [place(data).tablespaces, beside.join("wal-spool"), PathBuf::from(given_up)] {
        gone(fs::remove_dir_all(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_restore_goes() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("pgdata");
        clear(&data).unwrap();
        assert_eq!(Note::read(&data).unwrap(), None);
        for path in ["pgdata/base/1", "pgdata/.hidden", "tablespaces/7", "wal-spool/x", "pgdata.failed/base"]
        {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        fs::write(root.path().join("pgdata/PG_VERSION"), "16").unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("pgdata/link")).unwrap();
        let note = Note {
            chosen: Some("x".to_owned()),
            failure: Some(Reason { words: "do".to_owned(), last: true }),
        };
        note.write(&data).unwrap();
        clear(&data).unwrap();
        let left: Vec<_> =
            fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
        assert!(Path::new("/etc/passwd").exists());
        assert_eq!(Note::read(&data).unwrap(), Some(note));
        fs::write(root.path().join(FILE), "gar").unwrap();
        assert_eq!(Note::read(&data).unwrap(), Some(Note::default()));
        Note::remove(&data).unwrap();
        Note::remove(&data).unwrap();
        assert_eq!(Note::read(&data).unwrap(), None);
    }
}
