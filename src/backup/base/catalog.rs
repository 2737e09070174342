//! What a destination has to offer, in the form in which everybody is told.

use jiff::Timestamp;

use super::list::{self, Archive};
use super::record::Record;
use crate::api::{Catalog, CatalogEntry};
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
        if found.iter().any(|found| found.good().is_some()) {
            latest = latest.max(end(&list::archive(store, epoch).await?));
        }
        backups.extend(found);
    }
    backups.retain(|found| found.good().is_some());
    backups.sort_by_key(|found| std::cmp::Reverse(found.committed));
    let entries: Vec<CatalogEntry> = backups.iter().filter_map(|found| found.good()).map(entry).collect();
    let earliest = entries.iter().map(|entry| entry.stopped_at).min();
    Ok(Catalog { at: Some(at), backups: entries, earliest, latest })
}

/// When the newest segment was stored.
fn end(archive: &Archive) -> Option<Timestamp> {
    archive.segments.values().flatten().map(|object| object.modified).max()
}

fn entry(record: &Record) -> CatalogEntry {
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
        verified_at: None,
    }
}
