//! Of which data a member's volume is, and what becomes of data that a restore in place replaces: it is moved aside by
//! renames within the volume, and removed only when somebody says so. Done before Patroni starts, each time.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::restoring::{Note, clear, place};
use crate::agent::gone::gone;
use crate::api::{Kept, Mark, Recovered};

/// The note's name, on the data's volume.
const FILE: &str = "dbctl-data.json";
/// Stands between a directory's name and the id of the request that moved it aside.
const BEFORE: &str = ".before-";

/// What a member notes beside its data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Beside {
    /// The last restore in place that the volume has followed; none before the first.
    #[serde(default)]
    pub restore: Option<Ulid>,
    /// How the data was restored, on the member that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovered>,
}

impl Beside {
    /// Reads it; without one, nothing was ever restored in place.
    ///
    /// # Errors
    /// Where it cannot be read, or is not one: then it is not known what the data is.
    pub fn read(data: &Path) -> io::Result<Self> {
        match fs::read(beside(data).join(FILE)) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes it, and it is on the disk then.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        let directory = beside(data);
        let mut new = tempfile::Builder::new().prefix(".dbctl-data-").tempfile_in(directory)?;
        serde_json::to_writer(new.as_file_mut(), self)?;
        new.as_file().sync_all()?;
        new.persist(directory.join(FILE)).map_err(|error| error.error)?;
        sync(directory)
    }
}

fn beside(data: &Path) -> &Path {
    data.parent().unwrap_or(data)
}

fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

/// Where a directory lies once it was moved aside.
fn before(path: &Path, id: Ulid) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("{BEFORE}{id}"));
    name.into()
}

/// Makes the volume one that the mark's data can be on. Cut short anywhere, it goes on from there at the next call: the note
/// is written last, and until then every step is told by what is there.
///
/// # Errors
/// Where the volume cannot be read or written, or is as nothing of dbctl's can have left it.
pub fn follow(data: &Path, mark: &Mark) -> io::Result<()> {
    if Beside::read(data)?.restore == Some(mark.id) {
        return Ok(());
    }
    // What an earlier restore did not bring to its end was never a database.
    if Note::read(data)?.is_some() {
        clear(data)?;
        Note::remove(data)?;
    }
    if mark.undo {
        put_back(data, mark)?;
    } else {
        move_aside(data, mark)?;
    }
    // The renames are on the disk before the note that says so.
    sync(beside(data))?;
    Beside { restore: Some(mark.id), recovered: None }.write(data)
}

/// The directories that hold data: PostgreSQL's own, and that of the tablespaces of a restored database.
fn directories(data: &Path) -> [PathBuf; 2] {
    [data.to_owned(), place(data).tablespaces]
}

fn move_aside(data: &Path, mark: &Mark) -> io::Result<()> {
    let id = free_id(data, mark)?;
    for path in directories(data) {
        if is_empty(&path)? {
            continue;
        }
        let to = before(&path, id);
        if to.exists() {
            return Err(taken(&to));
        }
        tracing::info!("moving {} to {}", path.display(), to.display());
        fs::rename(&path, &to)?;
    }
    if mark.discard {
        for path in directories(data) {
            gone(fs::remove_dir_all(before(&path, mark.id)))?;
            gone(fs::remove_dir_all(before(&path, mark.old)))?;
        }
    }
    Ok(())
}

/// Under which id the data is kept. That of the old data is taken where an earlier restore, which did not come to its end, has
/// left it there: then what lies here now is that restore's.
fn free_id(data: &Path, mark: &Mark) -> io::Result<Ulid> {
    let there = |id: Ulid| before(data, id).exists();
    if is_empty(data)? {
        // It has been moved already, or there never was any.
        return Ok(if there(mark.id) { mark.id } else { mark.old });
    }
    let free = [mark.old, mark.id].into_iter().find(|id| !there(*id));
    free.ok_or_else(|| taken(&before(data, mark.id)))
}

fn taken(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::AlreadyExists, format!("{} is there already", path.display()))
}

fn put_back(data: &Path, mark: &Mark) -> io::Result<()> {
    for path in directories(data) {
        let old = before(&path, mark.old);
        if !old.exists() {
            // It never left, or is back already.
            continue;
        }
        if !is_empty(&path)? {
            let to = before(&path, mark.id);
            tracing::info!("moving {} to {}", path.display(), to.display());
            fs::rename(&path, &to)?;
        }
        tracing::info!("moving {} back to {}", old.display(), path.display());
        // Over an empty directory, too.
        fs::rename(&old, &path)?;
    }
    Ok(())
}

fn is_empty(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// The data that is kept, oldest first, without sizes.
pub fn kept(data: &Path) -> Vec<Kept> {
    let all = directories(data);
    let mut ids: Vec<Ulid> = all.iter().flat_map(|path| ids_beside(path)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| Kept { id, bytes: None }).collect()
}

fn ids_beside(path: &Path) -> Vec<Ulid> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let prefix = format!("{name}{BEFORE}");
    let entries = fs::read_dir(beside(path)).into_iter().flatten().flatten();
    let id = |entry: fs::DirEntry| Ulid::from_string(entry.file_name().to_str()?.strip_prefix(&prefix)?).ok();
    entries.filter_map(id).collect()
}

/// What kept data takes on the volume, in bytes. Reads every directory of it.
pub fn size(data: &Path, id: Ulid) -> u64 {
    directories(data).iter().map(|path| below(&before(path, id))).sum()
}

fn below(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    let inside = if found.is_dir() {
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| below(&entry.path())).sum()
    } else {
        0
    };
    // Blocks are of 512 bytes, whatever the file system's are: stat(2).
    found.blocks() * 512 + inside
}

/// Removes kept data of that id, and nothing else.
///
/// # Errors
/// Where it cannot be removed.
pub fn discard(data: &Path, id: Ulid) -> io::Result<()> {
    directories(data).iter().try_for_each(|path| gone(fs::remove_dir_all(before(path, id))))
}

#[cfg(test)]
#[path = "aside_tests.rs"]
mod tests;
