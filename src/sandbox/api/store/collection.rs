//! The objects of one resource, and what lately happened to them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::Record;

/// Most changes kept for watchers that come back, and for lists that are read in pages.
const MAX_CHANGES: usize = 1024;
/// Most bytes of superseded objects kept for the same purpose.
const MAX_BYTES: usize = 512 * 1024;

/// Changes whose documents are kept.
const KEPT_DOCUMENTS: usize = 64;

/// Objects with their keys, in order.
pub type Items = Vec<(Arc<str>, Arc<Record>)>;

/// One committed write.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its resourceVersion.
    pub version: u64,
    /// Name, with the namespace in front where there is one.
    pub key: Arc<str>,
    /// The object before, if there was one.
    pub old: Option<Arc<Record>>,
    /// The object after, if there is one.
    pub new: Option<Arc<Record>>,
    /// What watches have made of it.
    pub documents: Arc<Documents>,
}

/// What a document is: the kind of event, the form it is in, and the version of the API.
pub type DocumentKind = (&'static str, &'static str, Arc<str>);

/// The documents that watches send of a change: the first watch that needs one makes it for all.
#[derive(Debug, Default)]
pub struct Documents(Mutex<Vec<(DocumentKind, Bytes)>>);

impl Documents {
    fn lock(&self) -> MutexGuard<'_, Vec<(DocumentKind, Bytes)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The document of that kind; made where there is none.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn get<E>(&self, kind: DocumentKind, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let mut documents = self.lock();
        if let Some((_, document)) = documents.iter().find(|(known, _)| *known == kind) {
            return Ok(document.clone());
        }
        let document = make()?;
        documents.push((kind, document.clone()));
        Ok(document)
    }
}

/// What is older than the history that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOld {
    /// The oldest version that can still be asked for.
    pub oldest: u64,
}

/// The objects of one resource.
#[derive(Debug)]
pub struct Collection {
    objects: BTreeMap<Arc<str>, Arc<Record>>,
    changes: VecDeque<Change>,
    bytes: usize,
    /// Every change after this version is in `changes`.
    oldest: u64,
    changed: watch::Sender<u64>,
}

impl Collection {
    /// An empty one whose history begins at that version.
    pub fn new(oldest: u64) -> Self {
        let changed = watch::Sender::new(oldest);
        Self { objects: BTreeMap::new(), changes: VecDeque::new(), bytes: 0, oldest, changed }
    }

    /// Puts an object in without history: at start.
    pub fn load(&mut self, key: Arc<str>, record: Arc<Record>) {
        self.objects.insert(key, record);
    }

    /// The object of that key.
    pub fn get(&self, key: &str) -> Option<&Arc<Record>> {
        self.objects.get(key)
    }

    /// A receiver that sees the version of each later change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Commits a write; `new` is absent for a deletion.
    pub fn apply(&mut self, version: u64, key: Arc<str>, new: Option<Arc<Record>>) {
        let old = match &new {
            Some(record) => self.objects.insert(Arc::clone(&key), Arc::clone(record)),
            None => self.objects.remove(&key),
        };
        self.bytes += old.as_ref().map_or(0, |record| record.size());
        self.changes.push_back(Change { version, key, old, new, documents: Arc::default() });
        // Watches that have not sent them yet are far behind, and make them anew.
        if let Some(index) = self.changes.len().checked_sub(1 + KEPT_DOCUMENTS) {
            self.changes[index].documents.lock().clear();
        }
        while self.changes.len() > MAX_CHANGES || self.bytes > MAX_BYTES {
            let Some(gone) = self.changes.pop_front() else { break };
            self.bytes -= gone.old.map_or(0, |record| record.size());
            self.oldest = gone.version;
        }
        self.changed.send_replace(version);
    }

    /// The changes after a version, in order.
    ///
    /// # Errors
    /// Where some of them are forgotten.
    pub fn changes_since(&self, version: u64) -> Result<Vec<Change>, TooOld> {
        self.check(version)?;
        let first = self.changes.partition_point(|change| change.version <= version);
        Ok(self.changes.range(first..).cloned().collect())
    }

    fn check(&self, version: u64) -> Result<(), TooOld> {
        if version < self.oldest { Err(TooOld { oldest: self.oldest }) } else { Ok(()) }
    }

    /// The objects whose key begins with `prefix` and comes after `after`, now.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> Items {
        self.range(prefix, after).map(|(key, record)| (Arc::clone(key), Arc::clone(record))).collect()
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Record>)> {
        let start = after.map_or(Bound::Included(prefix), Bound::Excluded);
        self.objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The same as of an earlier version: today's objects with the later changes undone.
    ///
    /// # Errors
    /// Where some of those changes are forgotten.
    pub fn list_at(&self, version: u64, prefix: &str, after: Option<&str>) -> Result<Items, TooOld> {
        self.check(version)?;
        let mut objects: BTreeMap<Arc<str>, Arc<Record>> = self.list(prefix, after).into_iter().collect();
        let wanted = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let later = self.changes.iter().rev().take_while(|change| change.version > version);
        for change in later.filter(|change| wanted(&change.key)) {
            match &change.old {
                Some(record) => objects.insert(Arc::clone(&change.key), Arc::clone(record)),
                None => objects.remove(&change.key),
            };
        }
        Ok(objects.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Draft;
    use super::*;
    use serde_json::json;

    fn record(version: u64) -> Option<Arc<Record>> {
        let draft = Draft::new(&json!({"metadata": {"name": "a"}, "v": version})).unwrap();
        Some(Arc::new(draft.at(version)))
    }

    fn versions(list: &[(Arc<str>, Arc<Record>)]) -> Vec<(String, u64)> {
        list.iter().map(|(key, record)| (key.to_string(), record.version())).collect()
    }

    #[test]
    fn a_snapshot_undoes_what_came_later() {
        let mut all = Collection::new(0);
        all.apply(1, "n/a".into(), record(1));
        all.apply(2, "n/b".into(), record(2));
        all.apply(3, "n/a".into(), record(3));
        all.apply(4, "n/b".into(), None);
        all.apply(5, "n/c".into(), record(5));
        all.apply(6, "m/z".into(), record(6));
        let at = |version, after| versions(&all.list_at(version, "n/", after).unwrap());
        assert_eq!(at(2, None), [("n/a".to_owned(), 1), ("n/b".to_owned(), 2)]);
        assert_eq!(at(2, Some("n/a")), [("n/b".to_owned(), 2)]);
        assert_eq!(at(4, None), [("n/a".to_owned(), 3)]);
        assert_eq!(versions(&all.list("", None)).len(), 3);
        assert_eq!(all.changes_since(4).unwrap().len(), 2);
    }

    #[test]
    fn history_is_bounded_and_says_so() {
        let mut all = Collection::new(10);
        assert_eq!(all.changes_since(9).unwrap_err(), TooOld { oldest: 10 });
        for version in 11..11 + 2 * MAX_CHANGES as u64 {
            all.apply(version, "a".into(), record(version));
        }
        assert_eq!(all.changes.len(), MAX_CHANGES);
        assert!(all.changes_since(11).is_err());
        assert!(all.list_at(11, "", None).is_err());
        assert_eq!(all.changes_since(all.oldest).unwrap().len(), MAX_CHANGES);
    }
}
