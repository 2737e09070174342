//! What a destination holds: base backups, good or not, and the timelines and segments of each cluster.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::record::{BackupId, COMMIT, FORMAT, Record};
use super::verified::{VERIFIED, Verified};
use crate::backup::layout::{Epoch, StoredWal};
use crate::backup::store::{Object, Store, StoreError, name};
use crate::backup::timeline::{History, Tree};
use crate::backup::wal::{Segment, WalFile};

/// Who takes it, written again while it is taken.
pub const STARTED: &str = "started.json";
/// It goes.
pub const DELETED: &str = "deleted.json";
/// What the names of objects begin with by which somebody says that it is being read.
pub const RESTORING: &str = "restoring-";

/// A base backup's directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its name.
    pub id: BackupId,
    /// Which cluster's.
    pub epoch: Epoch,
    /// Its record, where it is whole: written last, and not to be deleted.
    pub record: Option<Record>,
    /// Why a record that is there cannot be read.
    pub problem: Option<String>,
    /// When its record was written, by the store's clock.
    pub committed: Option<Timestamp>,
    /// When any of its objects was written last, by the store's clock.
    pub touched: Timestamp,
    /// When somebody last said that it is being restored, by the store's clock.
    pub restoring: Option<Timestamp>,
    /// What was found when it was last restored and checked; `None` where nobody did, or it cannot be understood.
    pub verified: Option<Verified>,
    /// It is marked as one that goes.
    pub deleted: bool,
    /// All of its objects.
    pub objects: Vec<Object>,
}

impl Found {
    /// Its record, if it can be restored.
    pub fn good(&self) -> Option<&Record> {
        self.record.as_ref().filter(|_| !self.deleted)
    }

    /// Somebody restored it, and found it damaged.
    pub fn is_damaged(&self) -> bool {
        self.verified.as_ref().is_some_and(|verified| verified.damage().is_some())
    }
}

/// The WAL of one cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Archive {
    /// How its timelines hang together.
    pub tree: Tree,
    /// The timelines that have a history there, and when it was written, by the store's clock.
    pub histories: BTreeMap<u32, Timestamp>,
    /// The timelines whose history cannot be understood, and why.
    pub unreadable: BTreeMap<u32, String>,
    /// Whole segments, and the objects that hold them: more than one is a conflict.
    pub segments: BTreeMap<Segment, Vec<Object>>,
    /// What else lies there: unfilled segments and labels, by their segment.
    pub others: Vec<(Segment, Object)>,
}

impl Archive {
    /// The timelines that it knows of, some more than once.
    pub fn timelines(&self) -> impl Iterator<Item = u32> {
        self.histories.keys().copied().chain(self.segments.keys().map(|segment| segment.timeline))
    }
}

/// All clusters that a destination knows.
///
/// # Errors
/// Where the store does not list them.
pub async fn epochs(store: &Store) -> Result<BTreeSet<Epoch>, StoreError> {
    Ok(store.directories("").await?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The base backups of a cluster, oldest first. One that is being taken, was interrupted or is going away is among them.
///
/// # Errors
/// Where the store cannot be read.
pub async fn backups(store: &Store, epoch: Epoch) -> Result<Vec<Found>, StoreError> {
    let root = format!("{epoch}/base");
    let mut directories: BTreeMap<BackupId, Vec<Object>> = BTreeMap::new();
    for object in store.list(&root).await? {
        let directory =
            object.key.strip_prefix(&root).and_then(|rest| rest.strip_prefix('/')?.split('/').next());
        if let Some(Ok(id)) = directory.map(str::parse) {
            directories.entry(id).or_default().push(object);
        }
    }
    let mut found = Vec::new();
    for (id, objects) in directories {
        found.push(look(store, epoch, id, objects).await?);
    }
    Ok(found)
}

async fn look(store: &Store, epoch: Epoch, id: BackupId, objects: Vec<Object>) -> Result<Found, StoreError> {
    let named = |wanted: &str| objects.iter().find(|object| name(&object.key) == wanted);
    let commit = named(COMMIT);
    let restoring = objects.iter().filter(|object| name(&object.key).starts_with(RESTORING));
    let (record, problem) = match commit {
        None => (None, None),
        // Between the listing and now it may have been deleted.
        Some(object) => match store.get(&object.key).await?.map(|bytes| parse(&bytes, epoch, &id)) {
            None => (None, None),
            Some(Ok(record)) => (Some(record), None),
            Some(Err(problem)) => (None, Some(problem)),
        },
    };
    let verified = match named(VERIFIED) {
        Some(object) => store.get(&object.key).await?.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        None => None,
    };
    Ok(Found {
        epoch,
        verified,
        record,
        problem,
        committed: commit.map(|object| object.modified),
        touched: objects.iter().map(|object| object.modified).max().unwrap_or_default(),
        restoring: restoring.map(|object| object.modified).max(),
        deleted: named(DELETED).is_some(),
        id,
        objects,
    })
}

fn parse(bytes: &[u8], epoch: Epoch, id: &BackupId) -> Result<Record, String> {
    let record: Record = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if record.format != FORMAT {
        return Err(format!("it is of format {}, and this release knows {FORMAT}", record.format));
    }
    if record.id != *id {
        return Err(format!("it is the record of {}", record.id));
    }
    if record.epoch() != Some(epoch) || record.wal_segment_size().is_none() {
        return Err("it is another cluster's, or damaged".to_owned());
    }
    Ok(record)
}

/// The WAL of a cluster.
///
/// # Errors
/// Where the store cannot be read.
pub async fn archive(store: &Store, epoch: Epoch) -> Result<Archive, StoreError> {
    let mut archive = Archive::default();
    let mut histories = Vec::new();
    for object in store.list(&format!("{epoch}/history")).await? {
        let Some(StoredWal { file: WalFile::History(timeline), .. }) = StoredWal::parse(name(&object.key))
        else {
            continue;
        };
        let text = store.get(&object.key).await?.unwrap_or_default();
        // One that cannot be read tells nothing; what hangs on it counts as reachable.
        match History::parse(timeline, &String::from_utf8_lossy(&text)) {
            Ok(history) => {
                archive.histories.entry(timeline).or_insert(object.modified);
                histories.push((timeline, history));
            }
            Err(problem) => drop(archive.unreadable.insert(timeline, problem.to_string())),
        }
    }
    archive.tree = Tree::new(histories.iter().map(|(timeline, history)| (*timeline, history)));
    for object in store.list(&format!("{epoch}/wal")).await? {
        match StoredWal::parse(name(&object.key)).map(|stored| stored.file) {
            Some(WalFile::Segment(segment)) => archive.segments.entry(segment).or_default().push(object),
            Some(WalFile::Partial(segment) | WalFile::Label(segment, _)) => {
                archive.others.push((segment, object));
            }
            _ => {}
        }
    }
    Ok(archive)
}
