//! What a destination holds that can be restored.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::backup::base::{self, BackupId, Record};
use crate::backup::layout::Epoch;
use crate::backup::store::{Store, StoreError};
use crate::backup::timeline::Tree;
use crate::backup::wal::Segment;

/// One cluster's part of a destination.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Its good backups, the oldest first.
    pub backups: Vec<Record>,
    /// Those of them that somebody restored and found damaged.
    pub damaged: BTreeSet<BackupId>,
    /// How its timelines hang together.
    pub tree: Tree,
    /// When the histories of its timelines were written, by the store's clock: about when these began.
    pub histories: BTreeMap<u32, Timestamp>,
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
    /// Backups whose records cannot be read, and why: they are not chosen, and keep nobody from the others.
    pub unreadable: BTreeMap<BackupId, String>,
}

/// Why a destination's content is not known.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The store did not say.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A history is not one: a recovery without it might end on an older timeline, and nobody would know.
    #[error("read the history of timeline {timeline} in {epoch}: {problem}")]
    History {
        /// Whose.
        epoch: Epoch,
        /// The timeline.
        timeline: u32,
        /// What is wrong with it.
        problem: String,
    },
}

/// Looks through a destination.
///
/// # Errors
/// Where it cannot be read, or holds a history that cannot be understood.
pub async fn find(store: &Store) -> Result<Contents, FindError> {
    let mut contents = Contents { destination: store.destination().to_string(), ..Contents::default() };
    for epoch in base::epochs(store).await? {
        let found = base::backups(store, epoch).await?;
        for each in found.iter().filter(|each| !each.deleted) {
            if let Some(problem) = &each.problem {
                contents.unreadable.insert(each.id.clone(), problem.clone());
            }
        }
        let archive = base::archive(store, epoch).await?;
        if let Some((timeline, problem)) = archive.unreadable.first_key_value() {
            return Err(FindError::History { epoch, timeline: *timeline, problem: problem.clone() });
        }
        contents.epochs.insert(epoch, stored(&found, archive));
    }
    Ok(contents)
}

fn stored(found: &[base::Found], archive: base::Archive) -> Stored {
    let good = |each: &&base::Found| each.good().is_some();
    let mut backups: Vec<Record> = found.iter().filter_map(|each| each.good().cloned()).collect();
    backups.sort_by(|one, other| (one.stopped_at, &one.id).cmp(&(other.stopped_at, &other.id)));
    let timelines = archive.timelines().collect();
    let written = |objects: Vec<crate::backup::store::Object>| {
        objects.iter().map(|object| object.modified).max().unwrap_or_default()
    };
    Stored {
        backups,
        damaged: found
            .iter()
            .filter(good)
            .filter(|each| each.is_damaged())
            .map(|each| each.id.clone())
            .collect(),
        timelines,
        histories: archive.histories,
        tree: archive.tree,
        segments: archive
            .segments
            .into_iter()
            .map(|(segment, objects)| (segment, written(objects)))
            .collect(),
    }
}
