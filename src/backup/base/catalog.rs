//! What a destination has to offer, in the form in which everybody is told.

use jiff::Timestamp;

use super::list::{self, Archive, Found};
use super::record::Record;
use super::verified::Verified;
use crate::api::{Catalog, CatalogEntry};
use crate::backup::chain::{Chain, newest};
use crate::backup::store::{Store, StoreError};
use crate::backup::wal::position_text;

/// The good backups of all clusters in the destination, newest first, and the recovery window.
///
/// # Errors
/// Where the store cannot be read.
pub async fn catalog(store: &Store, at: Timestamp) -> Result<Catalog, StoreError> {
    let (mut backups, mut latest) = (Vec::new(), None);
    for epoch in list::epochs(store).await? {
        let found = list::backups(store, epoch).await?;
        if let Some(newest) = found.iter().filter_map(Found::good).max_by_key(|record| record.stopped_at) {
            latest = latest.max(end(newest, &list::archive(store, epoch).await?));
        }
        backups.extend(found);
    }
    backups.retain(|found| found.good().is_some());
    backups.sort_by_key(|found| std::cmp::Reverse(found.committed));
    let good = backups.iter().filter_map(|found| Some((found.good()?, found.verified.as_ref())));
    let entries: Vec<CatalogEntry> = good.map(|(record, verified)| entry(record, verified)).collect();
    let earliest = entries.iter().map(|entry| entry.stopped_at).min();
    Ok(Catalog { at: Some(at), backups: entries, earliest, latest })
}

/// When the last segment was stored that a recovery from that backup gets to: a transaction that is in it was committed before.
fn end(record: &Record, archive: &Archive) -> Option<Timestamp> {
    let size = record.wal_segment_size()?;
    let to = newest(&archive.tree, archive.timelines(), record.timeline, record.stop_lsn);
    let chain = Chain::follow(record.start(), to, &archive.tree, &archive.segments, size);
    archive.segments.get(&chain.last()?)?.iter().map(|object| object.modified).max()
}

fn entry(record: &Record, verified: Option<&Verified>) -> CatalogEntry {
    CatalogEntry {
        id: record.id.to_string(),
        started_at: record.started_at,
        stopped_at: record.stopped_at,
        from: record.from.clone(),
        timeline: record.timeline,
        start_lsn: position_text(record.start_lsn),
        stop_lsn: position_text(record.stop_lsn),
        bytes: record.bytes,
        size: record.size,
        version: record.version.clone(),
        request: record.request.clone(),
        verified_at: verified.map(|verified| verified.at),
        verify_problem: verified.and_then(Verified::damage).map(str::to_owned),
    }
}
