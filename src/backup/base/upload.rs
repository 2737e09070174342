//! Bytes that come one after the other, as objects of a backup.

use std::io::Write as _;

use bytes::Bytes;
use object_store::{MultipartUpload, WriteMultipart};
use ring::digest::{Context, SHA256};

use super::record::Part;
use crate::backup::store::{Store, StoreError};

/// Bytes of a request: 64 GiB in the 10,000 parts that S3 allows are parts of 6.9 MB.
const CHUNK: usize = 8 << 20;
/// An object behind which the next one begins.
const OBJECT: u64 = 64 << 30;
/// Requests under way at the same time, each with a chunk in memory.
const IN_FLIGHT: usize = 3;
/// How strongly is compressed what the server could not compress.
const LEVEL: i32 = 1;

/// One or more objects `STEM.0000SUFFIX`, `STEM.0001SUFFIX`, …, or one of a fixed name.
pub(super) struct Objects<'a> {
    store: &'a Store,
    directory: String,
    naming: Naming,
    limit: u64,
    done: Vec<Part>,
    open: Option<Open>,
}

enum Naming {
    Numbered { stem: String, suffix: &'static str },
    Fixed(String),
}

struct Open {
    name: String,
    upload: WriteMultipart,
    bytes: u64,
    hash: Context,
}

impl<'a> Objects<'a> {
    /// As many objects as it takes.
    pub(super) fn numbered(store: &'a Store, directory: &str, stem: &str, suffix: &'static str) -> Self {
        let naming = Naming::Numbered { stem: stem.to_owned(), suffix };
        Self::new(store, directory, naming, OBJECT)
    }

    /// One object.
    pub(super) fn one(store: &'a Store, directory: &str, name: &str) -> Self {
        Self::new(store, directory, Naming::Fixed(name.to_owned()), u64::MAX)
    }

    fn new(store: &'a Store, directory: &str, naming: Naming, limit: u64) -> Self {
        Self { store, directory: directory.to_owned(), naming, limit, done: Vec::new(), open: None }
    }

    fn next_name(&self) -> String {
        match &self.naming {
            Naming::Numbered { stem, suffix } => format!("{stem}.{:04}{suffix}", self.done.len()),
            Naming::Fixed(name) => name.clone(),
        }
    }

    /// Takes more bytes; waits while too many are under way.
    ///
    /// # Errors
    /// Where the store does not take them.
    pub(super) async fn put(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let name = match &self.naming {
                    Naming::Numbered { stem, suffix } => format!("{stem}.{:04}{suffix}", self.done.len()),
                    Naming::Fixed(name) => name.clone(),
                };
                none.insert(Open::begin(self.store, &self.directory, name).await?)
            }
        };
        open.put(self.store, &self.directory, bytes).await?;
        if open.bytes >= self.limit { self.close().await } else { Ok(()) }
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        if let Some(open) = self.open.take() {
            self.done.push(open.finish(self.store, &self.directory).await?);
        }
        Ok(())
    }

    /// Completes the last object. Each was looked at in the store: it is there, with as many bytes as were sent.
    ///
    /// # Errors
    /// Where the store does not have all of it.
    pub(super) async fn finish(mut self) -> Result<Vec<Part>, StoreError> {
        if self.open.is_none() && self.done.is_empty() {
            let name = self.next_name();
            self.open = Some(Open::begin(self.store, &self.directory, name).await?);
        }
        self.close().await?;
        Ok(self.done)
    }

    /// Gives up what is under way, so that the store does not keep its parts.
    pub(super) async fn abort(self) {
        if let Some(open) = self.open {
            let _ = open.upload.abort().await;
        }
    }
}

impl Open {
    async fn begin(store: &Store, directory: &str, name: String) -> Result<Self, StoreError> {
        let upload: Box<dyn MultipartUpload> = store.upload(&format!("{directory}/{name}")).await?;
        let upload = WriteMultipart::new_with_chunk_size(upload, CHUNK);
        Ok(Self { name, upload, bytes: 0, hash: Context::new(&SHA256) })
    }

    async fn put(&mut self, store: &Store, directory: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.hash.update(&bytes);
        self.bytes += u64::try_from(bytes.len()).unwrap_or_default();
        self.upload.write(&bytes);
        let ready = self.upload.wait_for_capacity(IN_FLIGHT).await;
        ready.map_err(|error| store.upload_error(&format!("{directory}/{}", self.name), &error))
    }

    async fn finish(self, store: &Store, directory: &str) -> Result<Part, StoreError> {
        let key = format!("{directory}/{}", self.name);
        let finished = self.upload.finish().await;
        // A lost answer is not a lost object.
        match (store.size(&key).await?, finished) {
            (Some(size), _) if size == self.bytes => {}
            (_, Err(error)) => return Err(store.upload_error(&key, &error)),
            (found, Ok(_)) => {
                let found = found.map_or_else(|| "nothing".to_owned(), |size| format!("{size} bytes"));
                let problem = format!("{} bytes were written, and the store shows {found}", self.bytes);
                return Err(StoreError::Damaged { key, problem });
            }
        }
        let digest = self.hash.finish();
        let sha256 = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Part { name: self.name, bytes: self.bytes, sha256 })
    }
}

/// Compresses what the server sends as it is; passes on what it has compressed.
pub(super) enum Packer {
    /// The server has done it.
    Packed,
    /// Here.
    Here(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
}

impl Packer {
    pub(super) fn new(by_server: bool) -> std::io::Result<Self> {
        if by_server {
            return Ok(Self::Packed);
        }
        Ok(Self::Here(Box::new(zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?)))
    }

    /// What there is to store after these bytes.
    pub(super) fn put(&mut self, bytes: Bytes) -> std::io::Result<Bytes> {
        match self {
            Self::Packed => Ok(bytes),
            Self::Here(encoder) => {
                encoder.write_all(&bytes)?;
                Ok(std::mem::take(encoder.get_mut()).into())
            }
        }
    }

    /// What is left at the end.
    pub(super) fn finish(self) -> std::io::Result<Bytes> {
        match self {
            Self::Packed => Ok(Bytes::new()),
            Self::Here(encoder) => Ok(encoder.finish()?.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_streams_go_into_several_objects() {
        let store = Store::in_memory();
        let mut objects = Objects::numbered(&store, "d", "base", ".tar.zst");
        objects.limit = 10;
        for part in ["12345", "67890", "abc"] {
            objects.put(part.into()).await.unwrap();
        }
        let parts = objects.finish().await.unwrap();
        let names: Vec<_> = parts.iter().map(|part| (part.name.as_str(), part.bytes)).collect();
        assert_eq!(names, [("base.0000.tar.zst", 10), ("base.0001.tar.zst", 3)]);
        assert_eq!(store.get("d/base.0001.tar.zst").await.unwrap().unwrap(), "abc");
        // printf abc | sha256sum
        assert_eq!(parts[1].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[tokio::test]
    async fn what_is_given_up_is_not_there() {
        let store = Store::in_memory();
        let mut objects = Objects::one(&store, "d", "backup_manifest");
        objects.put("x".into()).await.unwrap();
        objects.abort().await;
        assert_eq!(store.list("").await.unwrap(), []);
        let parts = Objects::one(&store, "d", "empty").finish().await.unwrap();
        assert_eq!((parts.len(), parts[0].bytes), (1, 0));
    }

    #[test]
    fn what_the_server_did_not_compress_is_compressed_here() {
        let mut packer = Packer::new(false).unwrap();
        let mut packed = packer.put(vec![1; 100_000].into()).unwrap().to_vec();
        packed.extend(packer.put(vec![2; 100_000].into()).unwrap());
        packed.extend(packer.finish().unwrap());
        let raw = zstd::stream::decode_all(packed.as_slice()).unwrap();
        assert_eq!((raw.len(), raw[0], raw[199_999], packed.len() < 1000), (200_000, 1, 2, true));
    }
}
