//! `dbctl agent wal-push` and `wal-fetch`: what PostgreSQL runs for each file of WAL.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;

use super::archive::PUSH_NOTE;
use super::report::ArchiveError;
use crate::backup::archive::{FetchError, Fetched, Purpose, PushError, Pushed, Spool, fetch, push};
use crate::backup::claim::Owner;
use crate::backup::layout::Epoch;
use crate::backup::store::{Destination, DestinationError, Patience, Settings, Store, StoreError};
use crate::backup::wal::{NameError, Segment, SegmentSize, WalFile};

/// PostgreSQL's archiver waits no longer for one file; it is asked for again at once.
const PUSH_LIMIT: Duration = Duration::from_secs(45);
/// A recovery waits this long for one file.
const FETCH_LIMIT: Duration = Duration::from_secs(60);
/// The exit code after which a recovery ends instead of taking it for the end of the WAL: any above 125
/// (<https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-PITR-RECOVERY>).
const STOP_RECOVERY: u8 = 255;

/// Why a file of WAL was not moved.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Not a destination.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// Not an epoch.
    #[error("read {0:?} as an epoch: expected MAJOR-SYSTEM_IDENTIFIER")]
    Epoch(String),
    /// Not a file of WAL.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It was not archived.
    #[error(transparent)]
    Push(#[from] PushError),
    /// It was not fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the data directory's.
    #[error("move the segment into place: {0}")]
    Spool(std::io::Error),
    /// It took too long.
    #[error("{doing} within {} s", .limit.as_secs())]
    Late {
        /// What was tried.
        doing: String,
        /// How long.
        limit: Duration,
    },
}

/// The data directory that a file below its `pg_wal` belongs to. PostgreSQL names it from there, where it is at work; Patroni,
/// before it rewinds, from the root, and is at work elsewhere.
fn data_of(path: &Path) -> PathBuf {
    let above = path.parent().and_then(Path::parent).filter(|_| path.is_absolute());
    above.unwrap_or(Path::new(".")).to_owned()
}

/// Archives a file of WAL; PostgreSQL and Patroni run it.
///
/// # Errors
/// Where it is not certain that the archive has it.
pub async fn wal_push(to: &str, archive: &str, path: &Path) -> Result<Pushed, WalError> {
    let owner = Owner { archive: archive.to_owned(), database: database(|name| std::env::var(name).ok()) };
    let result = bounded_push(to, &owner, path).await;
    let failure = std::env::var_os("SOCKET_DIRECTORY").map(|sockets| PathBuf::from(sockets).join(PUSH_NOTE));
    match (&result, failure) {
        (Ok(_), Some(failure)) => drop(std::fs::remove_file(failure)),
        (Err(error), Some(failure)) => note(&failure, error, path),
        (_, None) => {}
    }
    result
}

/// Namespace and name of the database that this pod is a member of, for people who look at the claim.
pub(super) fn database(var: impl Fn(&str) -> Option<String>) -> String {
    let pod = var("POD_NAME").unwrap_or_default();
    let name = pod.rsplit_once('-').map_or(pod.as_str(), |(name, _)| name);
    format!("{}/{name}", var("POD_NAMESPACE").unwrap_or_default())
}

async fn bounded_push(to: &str, owner: &Owner, path: &Path) -> Result<Pushed, WalError> {
    let store = Store::open(&to.parse()?, &Settings::of_process(), Patience::SENDING)?;
    match tokio::time::timeout(PUSH_LIMIT, push(&store, owner, &data_of(path), path)).await {
        Ok(result) => Ok(result?),
        Err(_) => {
            Err(WalError::Late { doing: format!("archive {} to {to}", path.display()), limit: PUSH_LIMIT })
        }
    }
}

/// For the agent, which tells the controller. That it cannot be written changes nothing: what waits shows all the same.
fn note(file: &Path, error: &WalError, path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failure = ArchiveError { at: Timestamp::now(), error: error.to_string(), file: name };
    let Ok(text) = serde_json::to_vec(&failure) else { return };
    let written = file.with_extension("json.new");
    let _ = std::fs::write(&written, text).and_then(|()| std::fs::rename(&written, file));
}

/// Where WAL is fetched from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The destination.
    pub from: String,
    /// Which cluster's.
    pub epoch: String,
}

impl Source {
    fn parse(&self) -> Result<(Destination, Epoch), WalError> {
        let epoch = self.epoch.parse().map_err(|()| WalError::Epoch(self.epoch.clone()))?;
        Ok((self.from.parse()?, epoch))
    }
}

/// Fetches a file of WAL to `to`; PostgreSQL, `pg_rewind` and Patroni run it.
///
/// # Errors
/// Where it is not known whether the archive has it.
pub async fn wal_fetch(source: &Source, file: &str, to: &Path) -> Result<Fetched, WalError> {
    let (destination, epoch) = source.parse()?;
    let file: WalFile = file.parse()?;
    let data = std::path::absolute(data_of(to)).map_err(WalError::Spool)?;
    let spool = Spool::beside(&data, epoch);
    let segment = match file {
        WalFile::Segment(segment) => Some(segment),
        _ => None,
    };
    if let Some(segment) = segment
        && spool.take(segment, to).map_err(WalError::Spool)?
    {
        prefetch(source, &spool, segment, to);
        return Ok(Fetched::Found);
    }
    let store = Store::open(&destination, &Settings::of_process(), Patience::SHORT)?;
    let fetched =
        match tokio::time::timeout(FETCH_LIMIT, fetch(&store, epoch, file, to, Purpose::Recovery)).await {
            Ok(fetched) => fetched?,
            Err(_) => {
                return Err(WalError::Late {
                    doing: format!("fetch {file} from {destination}"),
                    limit: FETCH_LIMIT,
                });
            }
        };
    if let (Fetched::Found, Some(segment)) = (fetched, segment) {
        prefetch(source, &spool, segment, to);
    }
    Ok(fetched)
}

/// What `wal-fetch` ends with after an error. A recovery must not take it for the end of the WAL and open for writes; a
/// standby asks again, and would be ended by the same code.
pub fn fetch_error_code(to: &Path) -> u8 {
    if data_of(to).join("recovery.signal").exists() { STOP_RECOVERY } else { 1 }
}

/// Starts a process that fetches what will be asked for next; nobody waits for it.
fn prefetch(source: &Source, spool: &Spool, after: Segment, fetched: &Path) {
    let (Ok(found), Ok(program)) = (std::fs::metadata(fetched), std::env::current_exe()) else { return };
    if !spool.is_low(after) {
        return;
    }
    let started = Command::new(program)
        .args(["agent", "wal-prefetch", "--from", &source.from, "--epoch", &source.epoch, "--size"])
        .arg(found.len().to_string())
        .arg(after.to_string())
        .current_dir(data_of(fetched))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    if let Err(error) = started {
        tracing::debug!("failed to fetch ahead: {error}");
    }
}

/// Fetches the segments behind one into the spool.
///
/// # Errors
/// Where one cannot be fetched; whoever needs it then fetches it itself.
pub async fn wal_prefetch(source: &Source, after: &str, size: u64) -> Result<(), WalError> {
    let (destination, epoch) = source.parse()?;
    let (WalFile::Segment(after), Some(size)) = (after.parse()?, SegmentSize::new(size)) else {
        return Err(NameError(after.to_owned()).into());
    };
    let data = std::env::current_dir().map_err(WalError::Spool)?;
    let store = Store::open(&destination, &Settings::of_process(), Patience::SHORT)?;
    Ok(Spool::beside(&data, epoch).fill(&store, epoch, after, size).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_wal_tells_whose_it_is() {
        assert_eq!(data_of(Path::new("pg_wal/00000002.history")), Path::new("."));
        assert_eq!(data_of(Path::new("/v/pgdata/pg_wal/00000002.history")), Path::new("/v/pgdata"));
        assert_eq!(data_of(Path::new("00000002.history")), Path::new("."));
    }

    #[test]
    fn a_member_knows_its_database() {
        let variable = |name: &str| match name {
            "POD_NAME" => Some("orders-db-2".to_owned()),
            "POD_NAMESPACE" => Some("shop".to_owned()),
            _ => None,
        };
        assert_eq!(database(variable), "shop/orders-db");
    }
}
