//! All objects: in memory for reading, on disk before any write is acknowledged or seen.
//!
//! A write is checked and given its resourceVersion under the lock, then queued; one thread commits the queue in order
//! and publishes each batch once it is durable. Readers and watchers see published writes only; writers build on the
//! newest queued one.

mod collection;
mod disk;
mod file;
mod record;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

pub use collection::{Change, Items, TooOld};
pub use record::{Draft, Record, TypeName};

use collection::Collection;
use disk::Job;
use file::Seen;

/// How far versions jump after an end that was not in order. Clients that resume from before it are told to list anew.
const SKIPPED_VERSIONS: u64 = 1000;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be read or written.
    #[error("use the object store: {0}")]
    Database(#[from] redb::Error),
    /// An object in it cannot be understood.
    #[error("read {0} from the object store: it is damaged")]
    Damaged(String),
    /// A file of it cannot be used.
    #[error("use {}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file's structure is damaged.
    #[error("read the object store {}: it is cut off or damaged beyond its last good state; restore the file from a copy, or give the sandbox and its databases up with `dbctl sandbox reset`", .0.display())]
    Unreadable(PathBuf),
    /// The file is gone.
    #[error("find the object store {}: it is gone, although this sandbox has had one; restore the file from a copy, remove {} to begin with an empty one, or give the sandbox up with `dbctl sandbox reset`", .path.display(), .seen.display())]
    Missing {
        /// The store.
        path: PathBuf,
        /// What remembers it.
        seen: PathBuf,
    },
    /// Acknowledged writes are not in the file.
    #[error("trust the object store {}: its last good state is version {found}, but writes up to version {acknowledged} were acknowledged; restore a newer copy of the file, or remove {} to go on without those writes", .path.display(), .seen.display())]
    Behind {
        /// The store.
        path: PathBuf,
        /// What remembers how far it was.
        seen: PathBuf,
        /// Its version.
        found: u64,
        /// The version it was at.
        acknowledged: u64,
    },
    /// An object's text is not JSON.
    #[error("read an object: {0}")]
    Json(#[from] serde_json::Error),
    /// Something without metadata.
    #[error("store what is not an object")]
    NotAnObject,
    /// The thread that writes has ended or could not start.
    #[error("write to the object store: it is closed")]
    Closed,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object is not what the writer saw.
    #[error("write what has changed meanwhile")]
    Stale,
    /// The object that must be there is not.
    #[error("write into what does not exist")]
    GuardMissing,
    /// The object that must be there is being deleted.
    #[error("write into what is being deleted")]
    GuardDeleting,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
}

/// A write that is to happen if nothing came between.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The resource, as `group/plural`.
    pub collection: &'a Arc<str>,
    /// The object's key in it.
    pub key: &'a str,
    /// The resourceVersion it builds on; none where the object must not exist.
    pub expect: Option<u64>,
    /// The new object; none for a deletion.
    pub draft: Option<&'a Draft>,
    /// An object, by resource and key, that must exist and not be about to go: the namespace.
    pub guard: Option<(&'a str, &'a str)>,
}

/// Objects and the version they are at.
#[derive(Debug)]
pub struct Listing {
    /// The resourceVersion of the whole.
    pub version: u64,
    /// The objects with their keys, in order.
    pub items: Items,
}

/// A resource, and a key in it.
type Id = (Arc<str>, Arc<str>);
/// The resourceVersion that a write will have, and what it leaves.
type Pending = (u64, Option<Arc<Record>>);

#[derive(Debug)]
struct State {
    collections: HashMap<Arc<str>, Collection>,
    /// Writes that are queued but not durable: the newest for each key.
    pending: HashMap<Id, Pending>,
    /// The last resourceVersion given out.
    last: u64,
    /// The last resourceVersion committed.
    visible: u64,
    /// Where new collections' history begins.
    opened: u64,
}

/// What the committing thread shares with everybody else.
#[derive(Debug)]
pub struct Shared {
    state: RwLock<State>,
}

/// All objects.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    queue: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a durable batch to readers.
    fn publish(&self, batch: &[Job]) {
        let mut state = self.write();
        for job in batch {
            state.settle(job);
            state.visible = job.version;
            let collection = state.collection(&job.collection);
            collection.apply(job.version, Arc::clone(&job.key), job.record.clone());
        }
    }

    /// Drops a batch that could not be made durable.
    fn forget(&self, batch: &[Job], error: &StoreError) {
        tracing::error!("failed to {error}");
        let mut state = self.write();
        for job in batch {
            state.settle(job);
        }
    }
}

impl State {
    fn settle(&mut self, job: &Job) {
        let id = (Arc::clone(&job.collection), Arc::clone(&job.key));
        if self.pending.get(&id).is_some_and(|(version, _)| *version == job.version) {
            self.pending.remove(&id);
        }
    }

    fn collection(&mut self, name: &Arc<str>) -> &mut Collection {
        let opened = self.opened;
        self.collections.entry(Arc::clone(name)).or_insert_with(|| Collection::new(opened))
    }

    /// The newest object, durable or not.
    fn latest(&self, collection: &str, key: &str) -> Option<Arc<Record>> {
        // A write is pending for a few milliseconds: there are as many as there are writers at once.
        if !self.pending.is_empty()
            && let Some((_, record)) = self.pending.get(&(Arc::from(collection), Arc::from(key)))
        {
            return record.clone();
        }
        self.collections.get(collection)?.get(key).cloned()
    }
}

impl Store {
    /// Opens the file, or makes it, and reads everything in it.
    ///
    /// # Errors
    /// Where the file cannot be used, something in it is damaged, or acknowledged writes are missing from it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (database, seen) = file::open(path)?;
        let (version, found) = disk::load(&database)?;
        if let Some(seen) = seen.as_ref().filter(|seen| seen.version > version) {
            let (path, remembered) = (path.to_owned(), Seen::path(path));
            return Err(StoreError::Behind {
                path,
                seen: remembered,
                found: version,
                acknowledged: seen.version,
            });
        }
        // Where nothing says that all went in order, no version that a crash may have swallowed is given out again.
        let in_order = seen.as_ref().is_none_or(|seen| seen.closed && seen.version == version);
        let begin = if in_order { version } else { version + SKIPPED_VERSIONS };
        if begin != version {
            disk::set_version(&database, begin)?;
        }
        let seen = Seen::make(path, begin)?;
        Self::start(database, begin, found, Some(seen))
    }

    /// Serves what was found in a database, from a version on.
    fn start(
        database: redb::Database,
        version: u64,
        found: Vec<disk::Found>,
        seen: Option<Seen>,
    ) -> Result<Self, StoreError> {
        let mut state = State {
            collections: HashMap::new(),
            pending: HashMap::new(),
            last: version,
            visible: version,
            opened: version,
        };
        for disk::Found { collection, key, record } in found {
            state.collection(&collection).load(key, Arc::new(record));
        }
        let shared = Arc::new(Shared { state: RwLock::new(state) });
        let (queue, jobs) = mpsc::channel();
        let committer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("api-store".into())
            .spawn(move || disk::commit_all(database, &jobs, &committer, seen.as_ref()))
            .map_err(|_| StoreError::Closed)?;
        Ok(Self { shared, queue: Some(queue), thread: Some(thread) })
    }

    /// The object as everybody may see it.
    pub fn get(&self, collection: &str, key: &str) -> Option<Arc<Record>> {
        self.shared.read().collections.get(collection)?.get(key).cloned()
    }

    /// The object as the next write finds it: also one that is still on its way to disk.
    pub fn latest(&self, collection: &str, key: &str) -> Option<Arc<Record>> {
        self.shared.read().latest(collection, key)
    }

    /// The last committed resourceVersion.
    pub fn version(&self) -> u64 {
        self.shared.read().visible
    }

    /// How many objects a resource has.
    pub fn count(&self, collection: &str) -> usize {
        self.shared.read().collections.get(collection).map_or(0, Collection::len)
    }

    /// The objects whose key begins with `prefix` and comes after `after`.
    pub fn list(&self, collection: &str, prefix: &str, after: Option<&str>) -> Listing {
        let state = self.shared.read();
        let items = state.collections.get(collection).map(|all| all.list(prefix, after));
        Listing { version: state.visible, items: items.unwrap_or_default() }
    }

    /// The same as of an earlier version.
    ///
    /// # Errors
    /// Where that is further back than history goes.
    pub fn list_at(
        &self,
        version: u64,
        collection: &Arc<str>,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Listing, TooOld> {
        let mut state = self.shared.write();
        let items = state.collection(collection).list_at(version, prefix, after)?;
        Ok(Listing { version, items })
    }

    /// What changed after a version, and the version that brings the reader to.
    ///
    /// # Errors
    /// Where that is further back than history goes.
    pub fn changes_since(&self, collection: &Arc<str>, version: u64) -> Result<(u64, Vec<Change>), TooOld> {
        let state = self.shared.read();
        match state.collections.get(collection) {
            Some(all) => Ok((state.visible, all.changes_since(version)?)),
            None if version < state.opened => Err(TooOld { oldest: state.opened }),
            None => Ok((state.visible, Vec::new())),
        }
    }

    /// A receiver that wakes at each change of a resource.
    pub fn subscribe(&self, collection: &Arc<str>) -> watch::Receiver<u64> {
        self.shared.write().collection(collection).subscribe()
    }

    /// Does the write, and returns when it is durable and visible: the object, or for a deletion its last state, at the
    /// new resourceVersion.
    ///
    /// # Errors
    /// Where something came between, or the store failed.
    pub async fn write(&self, write: Write<'_>) -> Result<Arc<Record>, WriteError> {
        let (record, done) = self.enqueue(write)?;
        match done.await {
            Ok(result) => result?,
            Err(_) => return Err(Arc::new(StoreError::Closed).into()),
        }
        Ok(record)
    }

    fn enqueue(&self, write: Write<'_>) -> Result<(Arc<Record>, Committed), WriteError> {
        let closed = || WriteError::Store(Arc::new(StoreError::Closed));
        let mut state = self.shared.write();
        let current = state.latest(write.collection, write.key);
        if current.as_ref().map(|record| record.version()) != write.expect {
            return Err(WriteError::Stale);
        }
        if let Some((collection, key)) = write.guard {
            match state.latest(collection, key) {
                None => return Err(WriteError::GuardMissing),
                Some(guard) if guard.deleting() => return Err(WriteError::GuardDeleting),
                Some(_) => {}
            }
        }
        state.last += 1;
        let version = state.last;
        let record = write.draft.map(|draft| Arc::new(draft.at(version)));
        let answer = record.clone().or_else(|| current.map(|gone| Arc::new(gone.at(version))));
        let key: Arc<str> = write.key.into();
        let id = (Arc::clone(write.collection), Arc::clone(&key));
        let (done, committed) = oneshot::channel();
        let job =
            Job { version, collection: Arc::clone(write.collection), key, record: record.clone(), done };
        self.queue.as_ref().ok_or_else(closed)?.send(job).map_err(|_| closed())?;
        state.pending.insert(id, (version, record));
        Ok((answer.ok_or(WriteError::Stale)?, committed))
    }
}

type Committed = oneshot::Receiver<Result<(), Arc<StoreError>>>;

impl Drop for Store {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It ends as soon as the queue is empty; a panic in it was already reported.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;
