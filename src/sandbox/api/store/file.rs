//! The file: made whole or not at all, checked before it is believed, and refused where acknowledged writes are gone.
//!
//! redb commits with one fsync: pages are never changed in place, each carries a checksum, and a commit that a crash
//! tore is rolled back to the one before it. What redb cannot know is whether the commit it rolls back had been
//! acknowledged, or whether an empty file was ever more than that. A second file remembers: the last acknowledged
//! version, written after each commit without waiting for the disk. It is never ahead of what is durable, so an object
//! store that is behind it has lost something.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::{Builder, Database};

use super::StoreError;
use super::disk;

/// Pages that redb keeps. Everything is read once at start and only written afterwards.
const CACHE_BYTES: usize = 1024 * 1024;
/// What a file of redb begins with.
const MAGIC: &[u8] = b"redb";

/// How a redb file is opened: the checksum of every page is verified each time, not only after a crash.
pub fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// Opens the store's file, and what remembers how far it was.
///
/// # Errors
/// Where the file is missing, cut off or damaged beyond its last good commit, although there once was one.
pub fn open(path: &Path) -> Result<(Database, Option<Seen>), StoreError> {
    let failed = |source| StoreError::File { path: path.to_owned(), source };
    let seen = Seen::read(path)?;
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && seen.is_some() => {
            return Err(StoreError::Missing { path: path.to_owned(), seen: Seen::path(path) });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => make(path)?,
        Err(error) => return Err(failed(error)),
        Ok(_) => check_head(path)?,
    }
    // A copy that a first start could not finish.
    let _ = std::fs::remove_file(unfinished(path));
    // The library panics at some pages that are none.
    let opened = std::panic::catch_unwind(|| builder().open(path));
    let database = match opened {
        Ok(Ok(database)) => database,
        Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(source)))) => return Err(failed(source)),
        Ok(Err(redb::DatabaseError::DatabaseAlreadyOpen)) => {
            return Err(failed(io::Error::other("another process has it open")));
        }
        Ok(Err(_)) | Err(_) => return Err(StoreError::Unreadable(path.to_owned())),
    };
    Ok((database, seen))
}

/// What is empty or something else is never taken for a new store.
fn check_head(path: &Path) -> Result<(), StoreError> {
    let mut head = [0; MAGIC.len()];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut head, 0));
    match read {
        Ok(()) if head == MAGIC => Ok(()),
        Ok(()) => Err(StoreError::Unreadable(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(StoreError::Unreadable(path.to_owned()))
        }
        Err(source) => Err(StoreError::File { path: path.to_owned(), source }),
    }
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Makes a file beside it, and gives it its name once it is whole and on disk.
fn make(path: &Path) -> Result<(), StoreError> {
    let new = unfinished(path);
    let failed = |source| StoreError::File { path: new.clone(), source };
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let database = builder().create(&new).map_err(redb::Error::from)?;
    disk::make_tables(&database)?;
    drop(database);
    File::open(&new).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&new, path).and_then(|()| sync_directory(path)).map_err(failed)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// The last acknowledged version, kept beside the store.
#[derive(Debug)]
pub struct Seen {
    file: File,
    /// What it was when the store was opened.
    pub version: u64,
    /// Whether the store was closed in order since.
    pub closed: bool,
}

impl Seen {
    /// Where it is kept.
    pub fn path(store: &Path) -> PathBuf {
        store.with_extension("seen")
    }

    /// What is remembered, where there ever was a store.
    fn read(store: &Path) -> Result<Option<Self>, StoreError> {
        let path = Self::path(store);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::File { path, source }),
        };
        let text = io::read_to_string(&file).unwrap_or_default();
        // After a power failure it may be empty: then it says only that there was a store.
        let (version, state) = text.trim().split_once(' ').unwrap_or_default();
        let version = version.parse().unwrap_or(0);
        Ok(Some(Self { file, version, closed: state == "closed" }))
    }

    /// Begins to remember.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn make(store: &Path, version: u64) -> Result<Self, StoreError> {
        let path = Self::path(store);
        let make = || -> io::Result<Self> {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            let seen = Self { file, version, closed: false };
            seen.write(version, "open")?;
            seen.file.sync_all()?;
            sync_directory(&path)?;
            Ok(seen)
        };
        make().map_err(|source| StoreError::File { path: path.clone(), source })
    }

    /// Notes what is acknowledged from now on. It outlives this process at once, and the machine some seconds later.
    pub fn note(&self, version: u64) {
        // Without it nothing is lost but a check.
        let _ = self.write(version, "open");
    }

    /// Notes that the store is closed in order.
    pub fn close(&self, version: u64) {
        let _ = self.write(version, "closed");
    }

    /// In the same length always, so that it is one write of one sector.
    fn write(&self, version: u64, state: &str) -> io::Result<()> {
        self.file.write_all_at(format!("{version:020} {state:<6}\n").as_bytes(), 0)
    }
}
