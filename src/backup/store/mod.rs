//! A destination as a flat set of objects: what dbctl needs of it, on the `object_store` crate.
//!
//! Nothing relies on a store's conditional writes alone, since some ignore the condition. After any error of a write the
//! store is looked at, because the answer may have been lost, and not the write.

mod destination;
mod error;
mod settings;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload,
};

pub use destination::{Destination, DestinationError, Provider};
pub use error::StoreError;
pub use settings::{CREDENTIALS, Patience, Settings};

/// An object, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key, from the destination's root on.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// What came of an attempt to be the first to write an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there, with these bytes: by this attempt, or by an earlier one.
    Mine,
    /// It is there, with other bytes.
    Other(Bytes),
}

/// An opened destination.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: String,
    destination: Destination,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.destination.to_string()).finish()
    }
}

impl Store {
    /// Opens a destination. Nothing is asked of it yet, but for a directory, which is made where it is missing.
    ///
    /// # Errors
    /// Where the settings do not make a store.
    pub fn open(
        destination: &Destination,
        settings: &Settings,
        patience: Patience,
    ) -> Result<Self, StoreError> {
        let (inner, prefix) = settings::open(destination, settings, patience)?;
        Ok(Self { inner, prefix, destination: destination.clone() })
    }

    /// What was opened.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Another store behind the same names, for tests.
    #[cfg(test)]
    pub fn in_memory() -> Self {
        let destination = Destination::Bucket {
            provider: Provider::S3,
            bucket: "memory".to_owned(),
            prefix: "p".to_owned(),
        };
        Self { inner: Arc::new(object_store::memory::InMemory::new()), prefix: "p".to_owned(), destination }
    }

    fn path(&self, key: &str) -> Path {
        match self.prefix.as_str() {
            "" => Path::from(key),
            prefix => Path::from(format!("{prefix}/{key}")),
        }
    }

    fn doing(&self, what: &str, key: &str) -> String {
        let between = if key.is_empty() { "" } else { "/" };
        format!("{what} {}{between}{key}", self.destination)
    }

    fn failed(&self, what: &str, key: &str) -> impl FnOnce(object_store::Error) -> StoreError {
        let doing = self.doing(what, key);
        move |error| StoreError::of(doing, &error)
    }

    fn object(&self, meta: &ObjectMeta) -> Option<Object> {
        let key = meta.location.as_ref();
        let key = match self.prefix.as_str() {
            "" => key,
            // Written as the library writes it.
            prefix => key.strip_prefix(Path::from(prefix).as_ref())?.strip_prefix('/')?,
        };
        Some(Object { key: key.to_owned(), size: meta.size, modified: modified(meta)? })
    }

    /// All objects below a directory (no slash at its end; empty for all), by key.
    ///
    /// # Errors
    /// Where the store does not list them.
    pub async fn list(&self, directory: &str) -> Result<Vec<Object>, StoreError> {
        let path = self.path(directory);
        let listed = self.inner.list(Some(&path)).try_collect::<Vec<_>>().await;
        let listed = match listed {
            // A directory that nobody has made yet.
            Err(object_store::Error::NotFound { .. })
                if matches!(self.destination, Destination::Directory(_)) =>
            {
                Vec::new()
            }
            other => other.map_err(self.failed("list", directory))?,
        };
        let mut objects: Vec<Object> = listed.iter().filter_map(|meta| self.object(meta)).collect();
        objects.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(objects)
    }

    /// The names of the directories in a directory.
    ///
    /// # Errors
    /// Where the store does not list them.
    pub async fn directories(&self, directory: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(directory);
        let listed =
            self.inner.list_with_delimiter(Some(&path)).await.map_err(self.failed("list", directory))?;
        Ok(listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// The objects of a directory whose names begin so, by key: one request, where few others follow them.
    ///
    /// # Errors
    /// Where the store does not list them.
    pub async fn list_beginning(&self, directory: &str, beginning: &str) -> Result<Vec<Object>, StoreError> {
        if matches!(self.destination, Destination::Directory(_)) {
            let mut all = self.list(directory).await?;
            all.retain(|object| name(&object.key).starts_with(beginning));
            return Ok(all);
        }
        // A listing starts behind its offset, and no key is the beginning without the character that follows it.
        let offset = self.path(&format!("{directory}/{beginning}"));
        let mut listing = self.inner.list_with_offset(Some(&self.path(directory)), &offset);
        let mut objects = Vec::new();
        while let Some(meta) = listing.try_next().await.map_err(self.failed("list", directory))? {
            let Some(object) = self.object(&meta) else { continue };
            let found = name(&object.key);
            if found.starts_with(beginning) {
                objects.push(object);
            } else if found > beginning && !self.is_unordered() {
                break;
            }
        }
        objects.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(objects)
    }

    /// Whether a listing may be in any order; all but directories list by key.
    fn is_unordered(&self) -> bool {
        matches!(self.destination, Destination::Directory(_))
    }

    /// An object's bytes; `None` where there is none of that key.
    ///
    /// # Errors
    /// Where the store does not say.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let read = async { self.inner.get(&self.path(key)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", key)(error)),
        }
    }

    /// An object's bytes as they come; `None` where there is none of that key.
    ///
    /// # Errors
    /// Where the store does not say. The stream ends with an error where it breaks.
    pub async fn read(
        &self,
        key: &str,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, StoreError>>>, StoreError> {
        self.read_from(key, 0).await
    }

    /// The same, but for the first bytes, of which there must be that many and one more.
    ///
    /// # Errors
    /// Where the store does not say. The stream ends with an error where it breaks.
    pub async fn read_from(
        &self,
        key: &str,
        offset: u64,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, StoreError>>>, StoreError> {
        let range = (offset > 0).then_some(GetRange::Offset(offset));
        let options = GetOptions { range, ..GetOptions::default() };
        match self.inner.get_opts(&self.path(key), options).await {
            Ok(found) => {
                let doing = self.doing("read", key);
                let stream = found.into_stream();
                Ok(Some(stream.map_err(move |error| StoreError::of(doing.clone(), &error)).boxed()))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", key)(error)),
        }
    }

    /// An object's size in bytes; `None` where there is none of that key.
    ///
    /// # Errors
    /// Where the store does not say.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, StoreError> {
        match self.inner.head(&self.path(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look at", key)(error)),
        }
    }

    /// Writes an object, over one that is there: for keys whose content their name determines, and for what is read by people.
    ///
    /// # Errors
    /// Where the store did not confirm that it has all of it.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let put = self.inner.put(&self.path(key), PutPayload::from_bytes(bytes)).await;
        put.map(drop).map_err(self.failed("write", key))
    }

    /// Writes an object unless there is one. Where a store ignores the condition, two writers at the same time may both be
    /// told `Mine`: whoever relies on it looks again later.
    ///
    /// # Errors
    /// Where the store neither took it nor shows one.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        // First, for those that would overwrite it.
        if let Some(found) = self.get(key).await? {
            return Ok(whose(found, &bytes));
        }
        let put = self.create_blindly(key, bytes.clone()).await;
        // Whatever was answered: the request may have been carried out twice, or not be the only one.
        match (self.get(key).await?, put) {
            (Some(found), _) => Ok(whose(found, &bytes)),
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => Err(StoreError::Damaged {
                key: key.to_owned(),
                problem: "the store confirmed a write that it then does not show".to_owned(),
            }),
        }
    }

    /// Asks for an object to be written unless there is one, and returns whether the store says that it did: what it does
    /// with a condition, for those who want to know that and nothing else.
    ///
    /// # Errors
    /// Where it says something else.
    pub async fn create_blindly(&self, key: &str, bytes: Bytes) -> Result<bool, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.inner.put_opts(&self.path(key), PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(false)
            }
            Err(error) => Err(self.failed("write", key)(error)),
        }
    }

    /// The time by the store's own clock: that of an object that is written for it, and removed again.
    ///
    /// # Errors
    /// Where the store does not take it, or does not let it go.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        let key = format!("probe/{}", ulid::Ulid::new());
        self.put(&key, Bytes::from_static(b"dbctl\n")).await?;
        let meta = self.inner.head(&self.path(&key)).await.map_err(self.failed("look at", &key))?;
        self.delete(&key).await?;
        let problem = "its time is not one".to_owned();
        modified(&meta).ok_or(StoreError::Damaged { key, problem })
    }

    /// Begins to write an object in parts; it is there once that is completed, and not before.
    ///
    /// # Errors
    /// Where the store does not take it.
    pub async fn upload(&self, key: &str) -> Result<Box<dyn MultipartUpload>, StoreError> {
        self.inner.put_multipart(&self.path(key)).await.map_err(self.failed("write", key))
    }

    /// Removes all objects of a directory, and what interrupted writes have left of it on a file system, where no listing
    /// shows it.
    ///
    /// # Errors
    /// Where the store does not do it.
    pub async fn delete_directory(&self, directory: &str) -> Result<(), StoreError> {
        for object in self.list(directory).await? {
            self.delete(&object.key).await?;
        }
        let Destination::Directory(root) = &self.destination else { return Ok(()) };
        match tokio::fs::remove_dir_all(root.join(directory)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::Failed { doing: self.doing("delete", directory), words: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// What an upload's own methods say, in this module's words.
    pub fn upload_error(&self, key: &str, error: &object_store::Error) -> StoreError {
        StoreError::of(self.doing("write", key), error)
    }

    /// Removes an object; that it was not there is success.
    ///
    /// # Errors
    /// Where the store does not do it.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self.inner.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", key)(error)),
        }
    }
}

fn modified(meta: &ObjectMeta) -> Option<Timestamp> {
    let at = meta.last_modified;
    Timestamp::new(at.timestamp(), i32::try_from(at.timestamp_subsec_nanos()).ok()?).ok()
}

fn whose(found: Bytes, mine: &Bytes) -> Created {
    if found == mine { Created::Mine } else { Created::Other(found) }
}

/// The part of a key behind its last slash.
pub fn name(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn behaves(store: &Store) {
        assert_eq!(store.get("a/x").await.unwrap(), None);
        assert_eq!(store.list("a").await.unwrap(), []);
        assert_eq!(store.create("a/x", "1".into()).await.unwrap(), Created::Mine);
        assert_eq!(store.create("a/x", "1".into()).await.unwrap(), Created::Mine);
        assert_eq!(store.create("a/x", "2".into()).await.unwrap(), Created::Other("1".into()));
        for key in ["a/10-z", "a/1-b", "a/1-a", "a/1.partial-c", "a/2-a", "ab/1-x"] {
            store.put(key, key.into()).await.unwrap();
        }
        let keys = |objects: Vec<Object>| objects.into_iter().map(|object| object.key).collect::<Vec<_>>();
        assert_eq!(keys(store.list_beginning("a", "1-").await.unwrap()), ["a/1-a", "a/1-b"]);
        assert_eq!(keys(store.list_beginning("a", "3").await.unwrap()), [""; 0]);
        assert_eq!(
            keys(store.list("a").await.unwrap()),
            ["a/1-a", "a/1-b", "a/1.partial-c", "a/10-z", "a/2-a", "a/x"]
        );
        assert_eq!(keys(store.list("").await.unwrap()).len(), 7);
        assert_eq!(store.size("a/2-a").await.unwrap(), Some(5));
        let parts: Vec<Bytes> = store.read("a/2-a").await.unwrap().unwrap().try_collect().await.unwrap();
        assert_eq!(parts.concat(), b"a/2-a");
        let parts: Vec<Bytes> =
            store.read_from("a/2-a", 2).await.unwrap().unwrap().try_collect().await.unwrap();
        assert_eq!(parts.concat(), b"2-a");
        store.delete("a/x").await.unwrap();
        store.delete("a/x").await.unwrap();
        assert_eq!(store.size("a/x").await.unwrap(), None);
        let mut upload = store.upload("b/big").await.unwrap();
        upload.put_part("12".into()).await.unwrap();
        assert_eq!(store.size("b/big").await.unwrap(), None);
        upload.complete().await.unwrap();
        assert_eq!(store.get("b/big").await.unwrap(), Some("12".into()));
    }

    #[tokio::test]
    async fn stores_behave_alike() {
        behaves(&Store::in_memory()).await;
        let root = tempfile::tempdir().unwrap();
        let destination = Destination::Directory(root.path().join("made/when needed"));
        behaves(&Store::open(&destination, &Settings::default(), Patience::SHORT).unwrap()).await;
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_said_in_words() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let destination = Destination::Directory(file.path().join("below"));
        let error = Store::open(&destination, &Settings::default(), Patience::SHORT).unwrap_err();
        assert!(
            matches!(&error, StoreError::Settings { problem, .. } if problem.contains("Not a directory")),
            "{error}"
        );
    }
}
