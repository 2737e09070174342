//! The objects that carry a Database's label, kept by watches and found by Database.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::channel::mpsc::UnboundedSender;
use futures::{Stream, StreamExt};
use kube::runtime::watcher;
use serde_json::Value;
use tokio::sync::watch;

use super::noise::significant;
use crate::api::{LABEL_DATABASE, Names};
use crate::patroni::Lock;
use crate::plan::{Kind, label, name_of, text, uid_of};

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

/// Kind, namespace and name of an object.
type Id = (Kind, String, String);

/// The objects by Database, and the Database by object: a label may change, or go.
#[derive(Debug, Default)]
struct Index {
    objects: HashMap<Key, Objects>,
    homes: HashMap<Id, Key>,
    /// The uid of the pod that was seen to take each Database's lock; empty where there was no such pod.
    takers: HashMap<Key, String>,
}

impl Index {
    /// Forgets an object; returns the Database that it was filed under.
    fn forget(&mut self, id: &Id) -> Option<Key> {
        let key = self.homes.remove(id)?;
        if let Some(objects) = self.objects.get_mut(&key) {
            objects.remove(&(id.0, id.2.clone()));
            if objects.is_empty() {
                self.objects.remove(&key);
                self.takers.remove(&key);
            }
        }
        Some(key)
    }

    /// Notes which pod takes the lock, where that is seen as it happens: an old pod of the same name may still run, and
    /// the name alone does not tell the two apart.
    fn note_taker(&mut self, key: &Key, before: Option<&Value>, now: &Value) {
        let (Some(before), Some(holder)) = (before, Lock::of(now).holder) else { return };
        let since = |lock: &Value| (Lock::of(lock).holder, Lock::of(lock).acquired);
        if since(before) == since(now) {
            return;
        }
        let pod = self.objects.get(key).and_then(|objects| objects.get(&(Kind::Pod, holder)));
        let uid = pod.and_then(|pod| uid_of(&pod.object)).unwrap_or_default().to_owned();
        self.takers.insert(key.clone(), uid);
    }
}

/// All objects that are watched.
#[derive(Debug, Default)]
pub struct Cache(RwLock<Index>);

impl Cache {
    /// The objects of one Database.
    pub fn of(&self, key: &Key) -> Objects {
        self.0.read().unwrap_or_else(PoisonError::into_inner).objects.get(key).cloned().unwrap_or_default()
    }

    /// The Databases whose leader lock is held and has not been renewed for that long.
    pub fn stale_locks(&self, age: Duration, now: Instant) -> Vec<Key> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let stale = |(key, objects): (&Key, &Objects)| {
            let lock = objects.get(&(Kind::ConfigMap, Names(&key.1).leader()))?;
            let held = Lock::of(&lock.object).holder.is_some();
            (held && now.duration_since(lock.changed) > age).then(|| key.clone())
        };
        all.objects.iter().filter_map(stale).collect()
    }

    /// The Databases that have a pod on that node.
    pub fn on_node(&self, node: &str) -> BTreeSet<Key> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let on = |objects: &Objects| {
            objects.iter().any(|((kind, _), entry)| {
                *kind == Kind::Pod && text(&entry.object, "/spec/nodeName") == Some(node)
            })
        };
        all.objects.iter().filter(|(_, objects)| on(objects)).map(|(key, _)| key.clone()).collect()
    }

    /// The uid of the pod that was seen to take the lock; empty where there was no such pod, `None` where nobody was seen.
    pub fn lock_pod(&self, key: &Key) -> Option<String> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.takers.get(key).cloned()
    }

    /// Takes an object in; returns the Databases for which a pass is due.
    fn put(&self, kind: Kind, object: Value) -> Vec<Key> {
        let Some(key) = key_of(&object) else { return self.remove(kind, &object) };
        let id = id_of(kind, &object);
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        if all.homes.get(&id).is_some_and(|home| *home != key) {
            due.extend(all.forget(&id));
        }
        all.homes.insert(id.clone(), key.clone());
        let objects = all.objects.entry(key.clone()).or_default();
        let id = (kind, id.2);
        let old = objects.get(&id);
        let same = old.is_some_and(|old| {
            text(&old.object, "/metadata/resourceVersion") == text(&object, "/metadata/resourceVersion")
        });
        let news = old.is_none_or(|old| significant(kind, &old.object, &object));
        if kind == Kind::ConfigMap && id.1 == Names(&key.1).leader() {
            let before = old.map(|old| old.object.clone());
            all.note_taker(&key, before.as_deref(), &object);
        }
        let objects = all.objects.entry(key.clone()).or_default();
        if !same {
            objects.insert(id, Entry { object: Arc::new(object), changed: Instant::now() });
        }
        due.extend(news.then_some(key));
        due
    }

    fn remove(&self, kind: Kind, object: &Value) -> Vec<Key> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.forget(&id_of(kind, object)).into_iter().collect()
    }

    /// Removes the objects of a kind that a complete list did not hold.
    fn retain(&self, kind: Kind, listed: &BTreeSet<Id>) -> Vec<Key> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<Id> =
            all.homes.keys().filter(|id| id.0 == kind && !listed.contains(*id)).cloned().collect();
        let touched: BTreeSet<Key> = gone.iter().filter_map(|id| all.forget(id)).collect();
        touched.into_iter().collect()
    }
}

fn id_of(kind: Kind, object: &Value) -> Id {
    let namespace = text(object, "/metadata/namespace").unwrap_or_default();
    (kind, namespace.to_owned(), name_of(object).to_owned())
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
            Ok(watcher::Event::Apply(object)) => cache.put(kind, object),
            Ok(watcher::Event::Delete(object)) => cache.remove(kind, &object),
            Ok(watcher::Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(id_of(kind, &object));
                cache.put(kind, object)
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
    async fn an_object_that_changes_hands_is_forgotten_where_it_was() {
        use watcher::Event::{Apply, Delete};
        let cache = Cache::default();
        let key = |name: &str| ("n".to_owned(), name.to_owned());
        let moved = vec![Apply(object("s", "a", "1")), Apply(object("s", "b", "2"))];
        assert_eq!(feed(&cache, moved).await.0, vec![key("a"), key("a"), key("b")]);
        assert!(cache.of(&key("a")).is_empty() && cache.of(&key("b")).len() == 1);
        let mut bare = object("s", "b", "3");
        bare["metadata"]["labels"] = json!({});
        assert_eq!(feed(&cache, vec![Delete(bare)]).await.0, vec![key("b")]);
        assert!(cache.of(&key("b")).is_empty());
    }

    #[tokio::test]
    async fn who_takes_the_lock_is_known_by_the_pod() {
        let (cache, key) = (Cache::default(), ("n".to_owned(), "a".to_owned()));
        let lock = |holder: &str, version: &str, acquired: &str| {
            let mut lock = object("a-leader", "a", version);
            lock["metadata"]["annotations"] = json!({ "leader": holder, "acquireTime": acquired });
            lock
        };
        let pod = |uid: &str| {
            let mut pod = object("a-0", "a", uid);
            pod["metadata"]["uid"] = json!(uid);
            pod
        };
        let first = "2026-11-22T07:00:00+00:00";
        cache.put(Kind::Pod, pod("1"));
        cache.put(Kind::ConfigMap, lock("a-0", "1", first));
        assert_eq!(cache.lock_pod(&key), None);
        cache.put(Kind::Pod, pod("2"));
        cache.put(Kind::ConfigMap, lock("a-0", "2", first));
        assert_eq!(cache.lock_pod(&key), None);
        cache.put(Kind::ConfigMap, lock("a-0", "3", "2026-11-22T07:10:00+00:00"));
        assert_eq!(cache.lock_pod(&key).as_deref(), Some("2"));
        cache.put(Kind::Pod, pod("3"));
        assert_eq!(cache.lock_pod(&key).as_deref(), Some("2"));
        cache.put(Kind::ConfigMap, lock("a-1", "4", "2026-11-22T07:20:00+00:00"));
        assert_eq!(cache.lock_pod(&key).as_deref(), Some(""));
    }

    #[tokio::test]
    async fn a_renewal_moves_the_time_without_a_pass() {
        let cache = Cache::default();
        let lock = |time: &str| {
            let mut lock = object("a-leader", "a", time);
            lock["metadata"]["annotations"] = json!({ "leader": "a-0", "renewTime": time });
            lock
        };
        assert_eq!(cache.put(Kind::ConfigMap, lock("1")).len(), 1);
        let key = ("n".to_owned(), "a".to_owned());
        let seen = |cache: &Cache| cache.of(&key).into_values().next().map(|entry| entry.changed);
        let (age, now) = (Duration::from_secs(7), Instant::now());
        assert_eq!(cache.stale_locks(age, now), Vec::<Key>::new());
        assert_eq!(cache.stale_locks(age, now + age * 2), vec![key.clone()]);
        let before = seen(&cache);
        assert_eq!(cache.put(Kind::ConfigMap, lock("2")), vec![]);
        assert!(seen(&cache) > before);
    }
}
