//! One watch per kind, shared by all controllers: what is there now, and what changed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::is_not_found;
use super::meta::Key;

/// One object before and after; at least one of them is there.
pub(super) struct Change<K> {
    /// What the cache held until now.
    pub(super) old: Option<Arc<K>>,
    /// What it holds from now on.
    pub(super) new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The object in its newest known form.
    pub(super) fn latest(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// Both forms: what a changed label left, and where it arrived.
    pub(super) fn both(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(self.new.iter())
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Inner<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

/// All objects of one kind.
pub(super) struct Cache<K>(Arc<Inner<K>>);

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Cache<K> {
    /// An empty cache that nothing fills yet.
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            objects: RwLock::new(BTreeMap::new()),
            handlers: RwLock::new(Vec::new()),
            synced: watch::Sender::new(false),
        }))
    }

    fn objects(&self) -> RwLockReadGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.0.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn objects_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.0.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `handler` with every change from now on. It must be quick: it holds up the watch.
    pub(super) fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.0.handlers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(handler));
    }

    /// The object of that name.
    pub(super) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects().get(key).cloned()
    }

    /// All objects.
    pub(super) fn all(&self) -> Vec<Arc<K>> {
        self.objects().values().cloned().collect()
    }

    /// All objects of a namespace, by name.
    pub(super) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let start = Bound::Included(Key::new(namespace, ""));
        self.objects()
            .range((start, Bound::Unbounded))
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// Waits until the first full list has arrived, or the server is known not to serve the kind.
    pub(super) async fn synced(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn set(&self, key: Key, new: Option<Arc<K>>) {
        let old = match &new {
            Some(object) => self.objects_mut().insert(key, Arc::clone(object)),
            None => self.objects_mut().remove(&key),
        };
        if old.is_some() || new.is_some() {
            let change = Change { old, new };
            for handler in self.0.handlers.read().unwrap_or_else(PoisonError::into_inner).iter() {
                handler(&change);
            }
        }
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Keeps the cache like the server's objects, as far as `config` selects them, until `stop`.
    pub(super) async fn follow(self, api: Api<K>, config: watcher::Config, stop: CancellationToken) {
        let mut events = std::pin::pin!(watcher(api, config).backoff(Pauses::default()));
        let mut listed = BTreeMap::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => self.apply(event, &mut listed),
                Some(Err(error)) => self.trouble(&error),
                None => return,
            }
        }
    }

    fn apply(&self, event: watcher::Event<K>, listed: &mut BTreeMap<Key, Arc<K>>) {
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => {
                let object = slim(object);
                listed.insert(Key::of(&object), Arc::new(object));
            }
            watcher::Event::InitDone => self.replace(std::mem::take(listed)),
            watcher::Event::Apply(object) => {
                let object = slim(object);
                self.set(Key::of(&object), Some(Arc::new(object)));
            }
            watcher::Event::Delete(object) => self.set(Key::of(&object), None),
        }
    }

    /// Takes over a full list: what it lacks has gone while nobody watched.
    fn replace(&self, listed: BTreeMap<Key, Arc<K>>) {
        let gone: Vec<Key> =
            self.objects().keys().filter(|key| !listed.contains_key(*key)).cloned().collect();
        for key in gone {
            self.set(key, None);
        }
        for (key, object) in listed {
            let known = self.get(&key).and_then(|known| known.meta().resource_version.clone());
            if known.is_none() || known != object.meta().resource_version {
                self.set(key, Some(object));
            }
        }
        self.0.synced.send_replace(true);
    }

    fn trouble(&self, error: &watcher::Error) {
        let kind = K::kind(&());
        match error {
            watcher::Error::InitialListFailed(kube::Error::Api(_)) => {
                tracing::warn!(%kind, "nothing is known of this kind, asking again: {error}");
            }
            _ => tracing::debug!(%kind, "watch broke off, starting again: {error}"),
        }
        // A server without this kind has none of it: nobody needs to wait.
        if matches!(error, watcher::Error::InitialListFailed(error) if is_not_found(error)) {
            self.0.synced.send_replace(true);
        }
    }
}

/// Pauses between attempts to watch again, from a tenth of a second to five: the server is mostly on this machine and
/// soon back.
#[derive(Debug, Default)]
pub(super) struct Pauses(u32);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(100).saturating_mul(1 << self.0.min(10));
        self.0 += 1;
        Some(pause.min(Duration::from_secs(5)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

/// Drops what no controller reads and every object carries.
fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

#[cfg(test)]
pub(super) fn filled<K>(objects: Vec<K>) -> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let cache = Cache::new();
    cache.replace(objects.into_iter().map(|object| (Key::of(&object), Arc::new(object))).collect());
    cache
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    fn object(name: &str, version: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("n".into()),
                resource_version: Some(version.into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn a_new_list_reports_what_went_and_changed_and_nothing_else() {
        let cache = Cache::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        cache.on_change(move |change: &Change<ConfigMap>| {
            let version = |object: &Arc<ConfigMap>| object.metadata.resource_version.clone().unwrap();
            log.lock().unwrap().push((
                change.latest().unwrap().metadata.name.clone().unwrap(),
                change.old.as_ref().map(version),
                change.new.as_ref().map(version),
            ));
        });
        let mut listed = BTreeMap::new();
        let mut list = |objects: &[(&str, &str)]| {
            cache.apply(watcher::Event::Init, &mut listed);
            for (name, version) in objects {
                cache.apply(watcher::Event::InitApply(object(name, version)), &mut listed);
            }
            cache.apply(watcher::Event::InitDone, &mut listed);
            std::mem::take(&mut *seen.lock().unwrap())
        };
        assert_eq!(list(&[("a", "1"), ("b", "2"), ("c", "3")]).len(), 3);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            list(&[("a", "1"), ("c", "9")]),
            [("b".to_owned(), some("2"), None), ("c".to_owned(), some("3"), some("9"))]
        );
        assert_eq!(list(&[("a", "1"), ("c", "9")]), []);
    }

    #[test]
    fn a_namespace_is_told_from_one_whose_name_it_begins() {
        let mut other = object("x", "1");
        other.metadata.namespace = Some("n-2".into());
        let cache = filled(vec![object("a", "1"), object("b", "1"), other]);
        let names: Vec<_> =
            cache.in_namespace("n").iter().map(|object| object.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
