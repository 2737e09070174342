//! Whether a destination does what backups rely on.

use bytes::Bytes;
use serde::Serialize;

use super::store::{Created, Store, StoreError};

/// More than S3 takes in one part of several, so that it must be written in parts.
const PART: usize = 5 << 20;

/// Something that is relied on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What.
    pub what: &'static str,
    /// Why it does not, in the store's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Backups work without it, with less certainty.
    pub optional: bool,
}

impl Check {
    fn of(what: &'static str, result: Result<(), String>) -> Self {
        Self { what, problem: result.err(), optional: false }
    }

    /// Backups cannot work without it, and it is not there.
    pub fn is_fatal(&self) -> bool {
        self.problem.is_some() && !self.optional
    }
}

/// Writes a small object and removes it: what must be possible before a database is made that writes there.
///
/// # Errors
/// Where one of them is not.
pub async fn writable(store: &Store) -> Result<(), StoreError> {
    store.now().await.map(drop)
}

/// Tries all that is relied on, below `probe/`, and removes what it wrote. What fails does not keep it from the rest.
pub async fn selftest(store: &Store) -> Vec<Check> {
    let directory = format!("probe/{}", ulid::Ulid::new());
    let key = |name: &str| format!("{directory}/{name}");
    let words = |error: StoreError| error.to_string();
    let mut checks = vec![
        Check::of("write an object", store.put(&key("a-1"), "1".into()).await.map_err(words)),
        Check::of("read it back", reads(store, &key("a-1"), b"1").await),
        Check::of("list it at once", lists(store, &directory, "a-").await),
        Check::of("tell what is not there", absent(store, &key("b")).await),
    ];
    checks.push(Check {
        optional: true,
        ..Check::of("refuse to overwrite (If-None-Match)", refuses(store, &key("c")).await)
    });
    checks.push(Check::of("take an object in parts", parts(store, &key("d")).await));
    checks.push(Check::of("delete objects", deletes(store, &directory).await));
    checks
}

async fn reads(store: &Store, key: &str, expected: &[u8]) -> Result<(), String> {
    match store.get(key).await {
        Ok(Some(found)) if found == expected => Ok(()),
        Ok(Some(found)) => Err(format!("{} other bytes came back", found.len())),
        Ok(None) => Err("it is not there".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

async fn lists(store: &Store, directory: &str, beginning: &str) -> Result<(), String> {
    match store.list_beginning(directory, beginning).await {
        Ok(found) if found.len() == 1 => Ok(()),
        Ok(_) => Err("it is not listed".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

async fn absent(store: &Store, key: &str) -> Result<(), String> {
    match store.get(key).await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err("it shows an object that nobody wrote".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Past [`Store::create`]'s own look, since the question is what the store does.
async fn refuses(store: &Store, key: &str) -> Result<(), String> {
    match store.create(key, "1".into()).await {
        Ok(Created::Mine) => {}
        other => return Err(format!("{other:?}")),
    }
    match store.create_blindly(key, "2".into()).await {
        Ok(false) => Ok(()),
        Ok(true) => {
            Err("the store overwrites; dbctl then tells contents apart by their names alone".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn parts(store: &Store, key: &str) -> Result<(), String> {
    let sent = async {
        let mut upload = store.upload(key).await?;
        for part in [Bytes::from(vec![7; PART]), Bytes::from_static(b"end")] {
            upload.put_part(part.into()).await.map_err(|error| store.upload_error(key, &error))?;
        }
        upload.complete().await.map_err(|error| store.upload_error(key, &error))?;
        store.size(key).await
    };
    match sent.await {
        Ok(Some(size)) if usize::try_from(size) == Ok(PART + 3) => Ok(()),
        Ok(found) => Err(format!("it shows {found:?} bytes of {}", PART + 3)),
        Err(error) => Err(error.to_string()),
    }
}

async fn deletes(store: &Store, directory: &str) -> Result<(), String> {
    store.delete_directory(directory).await.map_err(|error| error.to_string())?;
    match store.list(directory).await {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(format!("{} are still listed", left.len())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::store::{Destination, Patience, Settings};

    #[tokio::test]
    async fn a_directory_does_all_of_it_and_is_empty_then() {
        let root = tempfile::tempdir().unwrap();
        let destination = Destination::Directory(root.path().to_owned());
        for store in
            [Store::open(&destination, &Settings::default(), Patience::SHORT).unwrap(), Store::in_memory()]
        {
            let checks = selftest(&store).await;
            assert!(checks.iter().all(|check| check.problem.is_none()), "{checks:#?}");
            assert_eq!((checks.len(), store.list("").await.unwrap()), (7, vec![]));
            writable(&store).await.unwrap();
            assert_eq!(store.list("").await.unwrap(), []);
        }
    }
}
