//! Removes what retention lets go, and what interruptions left.
//!
//! A mark comes first: what bears it is no backup any more, and whoever comes next goes on. WAL goes last. What is being
//! taken or restored stays, by the store's clock, the only one that all who use it share.

use std::collections::BTreeSet;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::list::{self, Archive, DELETED, Found};
use crate::backup::layout::Epoch;
use crate::backup::retention::{Candidate, RetentionError, expired, is_needed};
use crate::backup::store::{Store, StoreError};
use crate::backup::wal::SegmentSize;

/// Whoever takes a backup says so each minute; after that long nobody does any more.
const ABANDONED: SignedDuration = SignedDuration::from_hours(2);
/// A restore says once that it begins, and has this long to read the backup and its WAL.
const RESTORE: SignedDuration = SignedDuration::from_hours(24);

/// Why nothing more was removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// What is old cannot be told.
    #[error(transparent)]
    Retention(#[from] RetentionError),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What goes, or would go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pruned {
    /// Backups that retention lets go.
    pub expired: Vec<String>,
    /// What interrupted ones have left.
    pub leftovers: Vec<String>,
    /// Files of WAL that nobody needs any more.
    pub wal: usize,
    /// Bytes of all that.
    pub bytes: u64,
}

/// What is to be done for one cluster of an archive.
#[derive(Debug)]
struct Work<'a> {
    going: Vec<&'a Found>,
    wal: Vec<(String, u64)>,
}

/// Removes what is beyond the newest `keep` good backups, and the WAL that none of those that stay needs; with `dry` it only
/// says so.
///
/// # Errors
/// Where the store's clock contradicts itself, or the store does not do it: what is left then goes the next time.
pub async fn prune(store: &Store, keep: usize, dry: bool) -> Result<Pruned, PruneError> {
    let now = store.now().await?;
    let mut all = Vec::new();
    for epoch in list::epochs(store).await? {
        all.push((epoch, list::backups(store, epoch).await?));
    }
    let candidates: Vec<Candidate> =
        all.iter().flat_map(|(_, found)| found).map(|found| candidate(found, now)).collect();
    let expired: BTreeSet<&str> = expired(&candidates, keep, now)?;
    let mut pruned = Pruned::default();
    for (epoch, found) in &all {
        // Listed before anything goes, and after the backups: one that began since then needs only newer WAL.
        let archive = list::archive(store, *epoch).await?;
        let work = plan(found, &expired, &archive, now);
        for found in &work.going {
            let list = if found.good().is_some() { &mut pruned.expired } else { &mut pruned.leftovers };
            list.push(found.id.to_string());
            pruned.bytes += found.objects.iter().map(|object| object.size).sum::<u64>();
        }
        pruned.wal += work.wal.len();
        pruned.bytes += work.wal.iter().map(|(_, size)| size).sum::<u64>();
        if !dry {
            carry_out(store, *epoch, &work).await?;
        }
    }
    Ok(pruned)
}

fn candidate(found: &Found, now: Timestamp) -> Candidate {
    let start = found.id.start();
    let good = found.good();
    let age = |at: Timestamp| now.duration_since(at);
    Candidate {
        id: found.id.to_string(),
        timeline: start.map_or(1, |start| start.timeline),
        start: start.map_or(0, |start| start.position),
        stop: good.map(|record| record.stop_lsn),
        committed: good.and(found.committed),
        pinned: found.restoring.is_some_and(|at| age(at) < RESTORE),
        damaged: found.is_damaged(),
        running: found.record.is_none() && !found.deleted && age(found.touched) < ABANDONED,
    }
}

fn plan<'a>(found: &'a [Found], expired: &BTreeSet<&str>, archive: &Archive, now: Timestamp) -> Work<'a> {
    let (going, staying): (Vec<&Found>, Vec<&Found>) = found.iter().partition(|found| {
        let candidate = candidate(found, now);
        let is_leftover = found.good().is_none() && found.problem.is_none() && !candidate.running;
        found.deleted || is_leftover || expired.contains(found.id.to_string().as_str())
    });
    let size =
        found.iter().find_map(|found| found.good()?.wal_segment_size()).unwrap_or(SegmentSize::DEFAULT);
    // One whose record cannot be read may be a newer release's: it stays, and so does its WAL, as that of one being taken.
    let stay: Vec<Candidate> = staying
        .iter()
        .map(|found| Candidate { running: found.good().is_none(), ..candidate(found, now) })
        .collect();
    let stay: Vec<&Candidate> = stay.iter().collect();
    let segments = archive
        .segments
        .iter()
        .flat_map(|(segment, objects)| objects.iter().map(move |object| (segment, object)));
    let others = archive.others.iter().map(|(segment, object)| (segment, object));
    let wal = segments
        .chain(others)
        .filter(|(segment, _)| !is_needed(**segment, &stay, &archive.tree, size))
        .map(|(_, object)| (object.key.clone(), object.size))
        .collect();
    Work { going, wal }
}

async fn carry_out(store: &Store, epoch: Epoch, work: &Work<'_>) -> Result<(), StoreError> {
    for found in &work.going {
        let mark = format!("{}/{DELETED}", found.id.directory(epoch));
        if !found.deleted {
            let text = json!({ "at": Timestamp::now() });
            store.put(&mark, Bytes::from(format!("{text}\n"))).await?;
        }
        for object in found.objects.iter().filter(|object| object.key != mark) {
            store.delete(&object.key).await?;
        }
        store.delete_directory(&found.id.directory(epoch)).await?;
    }
    for (key, _) in &work.wal {
        store.delete(key).await?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "prune_lives.rs"]
mod lives;

#[cfg(test)]
#[path = "prune_reach.rs"]
mod reach;
