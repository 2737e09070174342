//! What a destination holds that can be restored.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::backup::base::{BackupId, COMMIT, FORMAT, Record};
use crate::backup::layout::{Epoch, StoredWal};
use crate::backup::store::{Store, StoreError, name};
use crate::backup::timeline::{History, HistoryError, Tree};
use crate::backup::wal::{Segment, WalFile};

/// An object that says that a backup is being removed.
const DELETED: &str = "deleted.json";

/// One cluster's part of a destination.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Its good backups, the oldest first.
    pub backups: Vec<Record>,
    /// How its timelines hang together.
    pub tree: Tree,
    /// The timelines that have a history, or WAL.
    pub timelines: BTreeSet<u32>,
    /// The whole segments, and when each was written, by the store's clock.
    pub segments: BTreeMap<Segment, Timestamp>,
}

/// A destination's content.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Where it lies.
    pub destination: String,
    /// By cluster.
    pub epochs: BTreeMap<Epoch, Stored>,
}

/// Why a destination's content is not known.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The store did not say.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A history is not one.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A record is not one that this release can read.
    #[error("read {key}: {problem}")]
    Record {
        /// The object.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Where an object belongs.
enum Place {
    Wal(StoredWal),
    Commit(BackupId),
    Deleted(BackupId),
}

fn place(key: &str) -> Option<(Epoch, Place)> {
    let (epoch, rest) = key.split_once('/')?;
    let epoch = epoch.parse().ok()?;
    if let Some(rest) = rest.strip_prefix("base/") {
        let (id, object) = rest.split_once('/')?;
        let id = id.parse().ok()?;
        return match object {
            COMMIT => Some((epoch, Place::Commit(id))),
            DELETED => Some((epoch, Place::Deleted(id))),
            _ => None,
        };
    }
    let stored = StoredWal::parse(name(key))?;
    (stored.key(epoch) == key).then_some((epoch, Place::Wal(stored)))
}

/// Looks through a destination.
///
/// # Errors
/// Where it cannot be read, or holds a record or history that cannot be understood.
pub async fn find(store: &Store) -> Result<Contents, FindError> {
    let mut contents = Contents { destination: store.destination().to_string(), ..Contents::default() };
    let mut committed: BTreeSet<(Epoch, BackupId)> = BTreeSet::new();
    let mut deleted = BTreeSet::new();
    let mut histories: BTreeMap<(Epoch, u32), String> = BTreeMap::new();
    for object in store.list("").await? {
        let Some((epoch, place)) = place(&object.key) else { continue };
        match place {
            Place::Commit(id) => drop(committed.insert((epoch, id))),
            Place::Deleted(id) => drop(deleted.insert((epoch, id))),
            Place::Wal(StoredWal { file: WalFile::Segment(segment), .. }) => {
                let stored = contents.epochs.entry(epoch).or_default();
                stored.timelines.insert(segment.timeline);
                stored.segments.insert(segment, object.modified);
            }
            Place::Wal(StoredWal { file: WalFile::History(timeline), .. }) => {
                histories.insert((epoch, timeline), object.key);
            }
            Place::Wal(_) => {}
        }
    }
    for (epoch, id) in committed.difference(&deleted) {
        let record = record(store, *epoch, id).await?;
        contents.epochs.entry(*epoch).or_default().backups.extend(record);
    }
    let mut read: BTreeMap<Epoch, Vec<(u32, History)>> = BTreeMap::new();
    for ((epoch, timeline), key) in histories {
        let Some(text) = store.get(&key).await? else { continue };
        let history = History::parse(timeline, &String::from_utf8_lossy(&text))?;
        read.entry(epoch).or_default().push((timeline, history));
    }
    for (epoch, histories) in read {
        let stored = contents.epochs.entry(epoch).or_default();
        stored.timelines.extend(histories.iter().map(|(timeline, _)| *timeline));
        stored.tree = Tree::new(histories.iter().map(|(timeline, history)| (*timeline, history)));
    }
    for stored in contents.epochs.values_mut() {
        stored.backups.sort_by(|one, other| (one.stopped_at, &one.id).cmp(&(other.stopped_at, &other.id)));
    }
    Ok(contents)
}

/// A backup's record; `None` where it has gone meanwhile.
async fn record(store: &Store, epoch: Epoch, id: &BackupId) -> Result<Option<Record>, FindError> {
    let key = format!("{}/{COMMIT}", id.directory(epoch));
    let Some(bytes) = store.get(&key).await? else { return Ok(None) };
    let wrong = |problem: String| FindError::Record { key: key.clone(), problem };
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    if record.format != FORMAT {
        return Err(wrong(format!("it is of format {}, and this release knows {FORMAT}", record.format)));
    }
    let own = record.id == *id && record.epoch() == Some(epoch) && record.wal_segment_size().is_some();
    if own { Ok(Some(record)) } else { Err(wrong("it is another backup's, or damaged".to_owned())) }
}
