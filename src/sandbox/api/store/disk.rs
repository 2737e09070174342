//! Where objects survive: one redb file, written by one thread that commits what has queued up in one transaction.

use std::sync::{Arc, mpsc};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;

use super::file::Seen;
use super::{Draft, Record, Shared, StoreError};

/// Key: `group/resource/[namespace/]name`. Value: the resourceVersion in eight bytes, then the object's text.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Single numbers: `version`, the last resourceVersion that was committed.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const VERSION: &str = "version";

/// What a new store begins with. Nobody can have seen an earlier version, so that asking for one is asking for history
/// that is gone, as in a cluster.
const FIRST_VERSION: u64 = 100;

/// Most writes in one transaction.
const MAX_BATCH: usize = 256;

/// A write on its way to disk.
pub struct Job {
    /// Its resourceVersion.
    pub version: u64,
    /// The resource it belongs to.
    pub collection: Arc<str>,
    /// The object's key in it.
    pub key: Arc<str>,
    /// The object, or nothing for a deletion.
    pub record: Option<Arc<Record>>,
    /// Told when the write is durable and visible.
    pub done: oneshot::Sender<Result<(), Arc<StoreError>>>,
}

/// One object as it was found.
pub struct Found {
    /// The resource it belongs to.
    pub collection: Arc<str>,
    /// Its key in it.
    pub key: Arc<str>,
    /// The object.
    pub record: Record,
}

/// Makes what a new file holds.
///
/// # Errors
/// Where it cannot be written.
pub fn make_tables(database: &Database) -> Result<(), StoreError> {
    let write = database.begin_write().map_err(redb::Error::from)?;
    write.open_table(OBJECTS).map_err(redb::Error::from)?;
    write.open_table(NUMBERS).map_err(redb::Error::from)?;
    write.commit().map_err(redb::Error::from)?;
    Ok(())
}

/// Notes a version without a write that has it.
///
/// # Errors
/// Where it cannot be written.
pub fn set_version(database: &Database, version: u64) -> Result<(), StoreError> {
    let write = database.begin_write().map_err(redb::Error::from)?;
    write
        .open_table(NUMBERS)
        .map_err(redb::Error::from)?
        .insert(VERSION, version)
        .map_err(redb::Error::from)?;
    write.commit().map_err(redb::Error::from)?;
    Ok(())
}

/// Everything in it, and the last resourceVersion.
pub fn load(database: &Database) -> Result<(u64, Vec<Found>), StoreError> {
    let read = database.begin_read().map_err(redb::Error::from)?;
    let numbers = read.open_table(NUMBERS).map_err(redb::Error::from)?;
    let version =
        numbers.get(VERSION).map_err(redb::Error::from)?.map_or(FIRST_VERSION, |number| number.value());
    let objects = read.open_table(OBJECTS).map_err(redb::Error::from)?;
    let mut found = Vec::new();
    for entry in objects.iter().map_err(redb::Error::from)? {
        let (key, value) = entry.map_err(redb::Error::from)?;
        found.push(decode(key.value(), value.value())?);
    }
    Ok((version, found))
}

fn decode(key: &str, value: &[u8]) -> Result<Found, StoreError> {
    let damaged = || StoreError::Damaged(key.to_owned());
    let split = key.match_indices('/').nth(1).ok_or_else(damaged)?.0;
    let (collection, name) = (&key[..split], &key[split + 1..]);
    let (version, text) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
    let draft = Draft::parse(text.into()).map_err(|_| damaged())?;
    Ok(Found {
        collection: collection.into(),
        key: name.into(),
        record: draft.at(u64::from_be_bytes(*version)),
    })
}

/// Commits jobs until the queue is closed. After a failure nothing more is written: what is on disk stays true.
pub fn commit_all(database: Database, queue: &mpsc::Receiver<Job>, shared: &Shared, seen: Option<&Seen>) {
    let mut failure: Option<Arc<StoreError>> = None;
    let mut last = None;
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(job) = queue.try_recv()
        {
            batch.push(job);
        }
        if failure.is_none() {
            failure = commit(&database, &batch).err().map(Arc::new);
        }
        match &failure {
            None => {
                last = batch.last().map(|job| job.version).or(last);
                if let (Some(seen), Some(version)) = (seen, last) {
                    seen.note(version);
                }
                shared.publish(&batch);
            }
            Some(error) => shared.forget(&batch, error),
        }
        for job in batch {
            // A client that has gone away needs no answer.
            let _ = job.done.send(failure.clone().map_or(Ok(()), Err));
        }
    }
    drop(database);
    if let (Some(seen), None) = (seen, failure) {
        seen.close(last.unwrap_or(seen.version));
    }
}

fn commit(database: &Database, batch: &[Job]) -> Result<(), StoreError> {
    let write = database.begin_write().map_err(redb::Error::from)?;
    {
        let mut objects = write.open_table(OBJECTS).map_err(redb::Error::from)?;
        let mut numbers = write.open_table(NUMBERS).map_err(redb::Error::from)?;
        let mut value = Vec::new();
        for job in batch {
            let key = format!("{}/{}", job.collection, job.key);
            if let Some(record) = &job.record {
                value.clear();
                value.extend_from_slice(&job.version.to_be_bytes());
                value.extend_from_slice(record.draft().text());
                objects.insert(key.as_str(), value.as_slice()).map_err(redb::Error::from)?;
            } else {
                objects.remove(key.as_str()).map_err(redb::Error::from)?;
            }
        }
        if let Some(last) = batch.last() {
            numbers.insert(VERSION, last.version).map_err(redb::Error::from)?;
        }
    }
    write.commit().map_err(redb::Error::from)?;
    Ok(())
}
