//! A base backup's archives become a data directory.
//!
//! Objects are read one after the other, and checked while they are; decompression has a thread of its own, and so has writing.
//! Between them wait a few parts, so memory is bounded whatever the size.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use ring::digest;
use tokio::sync::mpsc;

use crate::backup::base::{Part, StoredArchive};
use crate::backup::store::{Store, StoreError};

/// Parts that wait to be unpacked, or to be written.
const AHEAD: usize = 16;
/// How often an object that stops coming is asked for again, without anything having come in between.
const TRIES: u32 = 5;
/// After which pause.
const PAUSE: Duration = Duration::from_secs(5);
/// How much is unpacked, and written to a file, at once.
const BUFFER: usize = 256 << 10;

/// Why a backup was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Somebody's data.
    #[error("unpack the backup into {0}: it is not empty")]
    NotEmpty(PathBuf),
    /// The store did not give it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not what was stored.
    #[error("read {key}: {problem}")]
    Damaged {
        /// The object.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It cannot be written, or is no archive.
    #[error("unpack {what} into {path}: {source}")]
    Unpack {
        /// The archive.
        what: String,
        /// Where.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// The disk.
    #[error("write {path}: {source}")]
    Write {
        /// Where.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
}

/// Where a cluster's files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The data directory; it exists, and is empty.
    pub data: PathBuf,
    /// A directory on the same volume, for tablespaces; made where it is needed.
    pub tablespaces: PathBuf,
}

impl Place {
    /// Where a tablespace goes.
    pub fn tablespace(&self, oid: u32) -> PathBuf {
        self.tablespaces.join(oid.to_string())
    }
}

/// Unpacks archives from that directory of the store. Everything is on the disk afterwards. `done` counts bytes of objects.
///
/// # Errors
/// Where anything is not as it was stored, or cannot be written; what is there by then is of no use.
pub async fn unpack(
    store: &Store,
    directory: &str,
    archives: &[StoredArchive],
    place: &Place,
    done: &Arc<AtomicU64>,
) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Write { path: place.data.clone(), source };
    if std::fs::read_dir(&place.data).map_err(failed)?.next().is_some() {
        return Err(UnpackError::NotEmpty(place.data.clone()));
    }
    // Tablespaces first, so that the links to them lead somewhere.
    let (own, spaces): (Vec<_>, Vec<_>) = archives.iter().partition(|archive| archive.tablespace.is_none());
    for archive in spaces.into_iter().chain(own) {
        one(store, directory, archive, place, done).await?;
    }
    for space in archives.iter().filter_map(|archive| archive.tablespace.as_ref()) {
        link(space.oid, place).map_err(failed)?;
    }
    let synced = File::open(&place.data).and_then(|directory| Ok(rustix::fs::syncfs(directory)?));
    synced.map_err(failed)
}

async fn one(
    store: &Store,
    directory: &str,
    archive: &StoredArchive,
    place: &Place,
    done: &Arc<AtomicU64>,
) -> Result<(), UnpackError> {
    let what = archive.parts.first().map(|part| part.name.clone()).unwrap_or_default();
    let into =
        archive.tablespace.as_ref().map_or_else(|| place.data.clone(), |space| place.tablespace(space.oid));
    let (to, from) = mpsc::channel(AHEAD);
    let thread = {
        let (place, into, packed) = (place.clone(), into.clone(), what.ends_with(".zst"));
        tokio::task::spawn_blocking(move || {
            write_all(Pipe { from, part: Bytes::new() }, packed, &into, &place)
        })
    };
    let sent = async {
        for part in &archive.parts {
            send(store, &format!("{directory}/{}", part.name), part, &to, done).await?;
        }
        Ok::<_, UnpackError>(())
    }
    .await;
    let whole = matches!(sent, Ok(()));
    if !whole {
        // An end that looks like one must not be taken for it.
        let _ = to.send(Err(io::ErrorKind::BrokenPipe.into())).await;
    }
    drop(to);
    let written = thread.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    match (sent, written) {
        // It is the writer that stopped: its reason is the cause.
        (Ok(()), Err(source)) | (Err(UnpackError::Damaged { .. }), Err(source)) if !is_echo(&source) => {
            Err(UnpackError::Unpack { what, path: into, source })
        }
        (Err(error), _) => Err(error),
        (Ok(()), Err(source)) => Err(UnpackError::Unpack { what, path: into, source }),
        (Ok(()), Ok(())) => Ok(()),
    }
}

/// The reader's own trouble, come back from the writer.
fn is_echo(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Sends an object's bytes, once and in order, whatever happens to the connection meanwhile.
async fn send(
    store: &Store,
    key: &str,
    part: &Part,
    to: &mpsc::Sender<io::Result<Bytes>>,
    done: &Arc<AtomicU64>,
) -> Result<(), UnpackError> {
    let damaged = |problem: String| UnpackError::Damaged { key: key.to_owned(), problem };
    let mut hash = digest::Context::new(&digest::SHA256);
    let (mut come, mut tries) = (0_u64, 0);
    while come < part.bytes {
        let before = come;
        let read = async {
            let Some(mut stream) = store.read_from(key, come).await? else {
                return Ok(false);
            };
            while let Some(bytes) = stream.try_next().await? {
                come += bytes.len() as u64;
                done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                hash.update(&bytes);
                if come > part.bytes || to.send(Ok(bytes)).await.is_err() {
                    break;
                }
            }
            Ok(true)
        };
        match read.await {
            Ok(false) => return Err(damaged("it is gone".to_owned())),
            Ok(true) if to.is_closed() => return Err(damaged("it could not be unpacked".to_owned())),
            Ok(true) if come >= part.bytes => {}
            Ok(true) => return Err(damaged(format!("it has {come} bytes in place of {}", part.bytes))),
            Err(error) => {
                tries = if come > before { 1 } else { tries + 1 };
                let lasting = matches!(error, StoreError::Settings { .. } | StoreError::Denied { .. });
                if tries > TRIES || lasting {
                    return Err(UnpackError::Store(error));
                }
                tracing::warn!("failed to {error}; asking for it again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    if come != part.bytes {
        return Err(damaged(format!("it has more than its {} bytes", part.bytes)));
    }
    let found: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == part.sha256 {
        Ok(())
    } else {
        Err(damaged(format!("its SHA-256 is {found} in place of {}", part.sha256)))
    }
}

/// The other end of the channel, as a file.
struct Pipe {
    from: mpsc::Receiver<io::Result<Bytes>>,
    part: Bytes,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.from.blocking_recv() {
                Some(part) => self.part = part?,
                None => return Ok(0),
            }
        }
        let length = self.part.len().min(into.len());
        if let (Some(into), Some(from)) = (into.get_mut(..length), self.part.get(..length)) {
            into.copy_from_slice(from);
        }
        self.part.advance(length);
        Ok(length)
    }
}

fn write_all(mut pipe: Pipe, packed: bool, into: &Path, place: &Place) -> io::Result<()> {
    directory(into)?;
    let write = |mut pipe: Pipe| {
        entries(&mut pipe, into, place)?;
        io::copy(&mut pipe, &mut io::sink()).map(drop)
    };
    if !packed {
        return write(pipe);
    }
    std::thread::scope(|scope| {
        let (to, from) = mpsc::channel(AHEAD);
        scope.spawn(move || {
            if let Err(error) = decompress(&mut pipe, &to) {
                let _ = to.blocking_send(Err(error));
            }
        });
        write(Pipe { from, part: Bytes::new() })
    })
}

/// Sends what comes out of it until it ends, or nobody takes it any more. It goes on over the end of a frame, as `zstd -d` does.
fn decompress(pipe: &mut Pipe, to: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut unpacked = zstd::stream::read::Decoder::new(pipe)?;
    loop {
        let mut part = Vec::with_capacity(BUFFER);
        (&mut unpacked).take(BUFFER as u64).read_to_end(&mut part)?;
        if part.is_empty() || to.blocking_send(Ok(part.into())).is_err() {
            return Ok(());
        }
    }
}

/// The files of a tar archive, as PostgreSQL sends them: directories, files, and links to tablespaces. Owner, mode and time
/// are not those of the archive.
fn entries(from: &mut impl Read, into: &Path, place: &Place) -> io::Result<()> {
    let mut archive = tar::Archive::new(from);
    let mut count = 0_u64;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let relative = relative(&entry.path()?)?;
        let path = into.join(&relative);
        count += 1;
        match entry.header().entry_type() {
            tar::EntryType::Directory => directory(&path)?,
            tar::EntryType::Regular => {
                if let Some(parent) = path.parent() {
                    directory(parent)?;
                }
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
                let mut file = io::BufWriter::with_capacity(BUFFER, file);
                let expected = entry.header().entry_size()?;
                let written = io::copy(&mut entry, &mut file)?;
                file.flush()?;
                if written != expected {
                    return Err(io::Error::other(format!("{} ends early", relative.display())));
                }
            }
            tar::EntryType::Symlink => {
                let oid = relative.strip_prefix("pg_tblspc").ok().and_then(Path::to_str);
                let oid: u32 = oid
                    .and_then(|oid| oid.parse().ok())
                    .ok_or_else(|| io::Error::other(format!("{} is a link", relative.display())))?;
                symlink(place.tablespace(oid), &path)?;
            }
            other => return Err(io::Error::other(format!("{} is {other:?}", relative.display()))),
        }
    }
    if count == 0 { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) } else { Ok(()) }
}

/// A path that stays where it is unpacked.
fn relative(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) if !name.as_bytes().contains(&0) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(io::Error::other(format!("{} leads elsewhere", path.display()))),
        }
    }
    Ok(clean)
}

/// What leads to a tablespace. PostgreSQL makes it anew from `tablespace_map`; before, those who check the files need it.
fn link(oid: u32, place: &Place) -> io::Result<()> {
    let directory = place.data.join("pg_tblspc");
    self::directory(&directory)?;
    match symlink(place.tablespace(oid), directory.join(oid.to_string())) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
