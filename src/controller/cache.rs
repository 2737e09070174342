//! The objects that carry a Database's label, kept by watches and found by Database.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use futures::channel::mpsc::UnboundedSender;
use futures::{Stream, StreamExt};
use kube::runtime::watcher;
use serde_json::Value;
use tokio::sync::watch;

use super::noise::significant;
use crate::api::LABEL_DATABASE;
use crate::plan::{Kind, label, name_of, text};

/// Namespace and name of a Database.
pub type Key = (String, String);

/// An object, and when it was last seen to change.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The object.
    pub object: Arc<Value>,
    /// By this process's own clock.
    pub changed: Instant,
}

type Objects = BTreeMap<(Kind, String), Entry>;

/// All objects that are watched.
#[derive(Debug, Default)]
pub struct Cache(RwLock<HashMap<Key, Objects>>);

impl Cache {
    /// The objects of one Database.
    pub fn of(&self, key: &Key) -> Objects {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned().unwrap_or_default()
    }

    /// Takes an object in; returns its Database where a pass is due.
    fn put(&self, kind: Kind, object: Value) -> Option<Key> {
        let key = key_of(&object)?;
        let id = (kind, name_of(&object).to_owned());
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let objects = all.entry(key.clone()).or_default();
        let old = objects.get(&id);
        let same = old.is_some_and(|old| {
            text(&old.object, "/metadata/resourceVersion") == text(&object, "/metadata/resourceVersion")
        });
        let news = old.is_none_or(|old| significant(kind, &old.object, &object));
        if !same {
            objects.insert(id, Entry { object: Arc::new(object), changed: Instant::now() });
        }
        news.then_some(key)
    }

    fn remove(&self, kind: Kind, object: &Value) -> Option<Key> {
        let key = key_of(object)?;
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let objects = all.get_mut(&key)?;
        objects.remove(&(kind, name_of(object).to_owned()));
        if objects.is_empty() {
            all.remove(&key);
        }
        Some(key)
    }

    /// Removes the objects of a kind that a complete list did not hold.
    fn retain(&self, kind: Kind, listed: &BTreeSet<(Key, String)>) -> Vec<Key> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut touched = Vec::new();
        for (key, objects) in all.iter_mut() {
            let before = objects.len();
            objects.retain(|(of, name), _| *of != kind || listed.contains(&(key.clone(), name.clone())));
            if objects.len() != before {
                touched.push(key.clone());
            }
        }
        all.retain(|_, objects| !objects.is_empty());
        touched
    }
}

fn key_of(object: &Value) -> Option<Key> {
    let namespace = text(object, "/metadata/namespace")?.to_owned();
    Some((namespace, label(object, LABEL_DATABASE)?.to_owned()))
}

/// Keeps the objects of one kind from their watch, for as long as it runs, and asks for passes.
pub async fn keep<E: std::fmt::Display>(
    cache: &Cache,
    kind: Kind,
    events: impl Stream<Item = Result<watcher::Event<Value>, E>>,
    passes: UnboundedSender<Key>,
    complete: watch::Sender<bool>,
) {
    let mut events = std::pin::pin!(events);
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        let due: Vec<Key> = match event {
            Ok(watcher::Event::Apply(object)) => cache.put(kind, object).into_iter().collect(),
            Ok(watcher::Event::Delete(object)) => cache.remove(kind, &object).into_iter().collect(),
            Ok(watcher::Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(watcher::Event::InitApply(object)) => {
                if let Some(key) = key_of(&object) {
                    listed.insert((key, name_of(&object).to_owned()));
                }
                cache.put(kind, object).into_iter().collect()
            }
            Ok(watcher::Event::InitDone) => {
                complete.send_replace(true);
                cache.retain(kind, &listed)
            }
            Err(error) => {
                tracing::warn!(%kind, %error, "a watch was interrupted");
                Vec::new()
            }
        };
        for key in due {
            // Nobody listens any more only while the controller stops.
            let _ = passes.unbounded_send(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::channel::mpsc::unbounded;
    use futures::stream;
    use serde_json::json;

    fn object(name: &str, database: &str, version: &str) -> Value {
        json!({ "metadata": { "name": name, "namespace": "n", "resourceVersion": version, "labels": { LABEL_DATABASE: database } } })
    }

    async fn feed(cache: &Cache, events: Vec<watcher::Event<Value>>) -> (Vec<Key>, bool) {
        let (passes, due) = unbounded();
        let (complete, completed) = watch::channel(false);
        let events = stream::iter(events.into_iter().map(Ok::<_, std::io::Error>));
        keep(cache, Kind::Service, events, passes, complete).await;
        (due.collect().await, *completed.borrow())
    }

    #[tokio::test]
    async fn a_relist_forgets_what_is_gone() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let cache = Cache::default();
        let key = |name: &str| ("n".to_owned(), name.to_owned());
        let first = vec![Init, InitApply(object("a", "a", "1")), InitApply(object("b", "b", "1")), InitDone];
        assert_eq!(feed(&cache, first).await, (vec![key("a"), key("b")], true));
        assert_eq!(cache.of(&key("a")).len(), 1);
        let again = vec![Init, InitApply(object("b", "b", "1")), InitDone];
        assert_eq!(feed(&cache, again).await, (vec![key("a")], true));
        assert!(cache.of(&key("a")).is_empty());
        let rest =
            vec![Apply(object("b", "b", "2")), Apply(object("b", "b", "2")), Delete(object("b", "b", "3"))];
        assert_eq!(feed(&cache, rest).await, (vec![key("b"), key("b")], false));
        assert!(cache.of(&key("b")).is_empty());
    }

    #[tokio::test]
    async fn a_renewal_moves_the_time_without_a_pass() {
        let cache = Cache::default();
        let lock = |time: &str| {
            let mut lock = object("a-leader", "a", time);
            lock["metadata"]["annotations"] = json!({ "leader": "a-0", "renewTime": time });
            lock
        };
        assert!(cache.put(Kind::ConfigMap, lock("1")).is_some());
        let key = ("n".to_owned(), "a".to_owned());
        let seen = |cache: &Cache| cache.of(&key).into_values().next().map(|entry| entry.changed);
        let before = seen(&cache);
        assert_eq!(cache.put(Kind::ConfigMap, lock("2")), None);
        assert!(seen(&cache) > before);
    }
}
