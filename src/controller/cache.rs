//! The objects that carry a Database's label, kept by watches and found by Database.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::channel::mpsc::UnboundedSender;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use kube::runtime::watcher;
use serde_json::Value;
use tokio::sync::watch;

use super::noise::gist;
use super::packed::{Packed, Packer};
use crate::api::{LABEL_DATABASE, Names};
use crate::patroni::Lock;
use crate::plan::{Kind, label, name_of, text, uid_of};

/// Namespace and name of a Database.
pub type Key = (String, String);

/// An object, and when it was last seen to change.
#[derive(Debug)]
struct Entry {
    kind: Kind,
    name: Box<str>,
    object: Packed,
    /// A hash of its version.
    version: u64,
    /// What a change of is a reason for a pass.
    gist: Option<u64>,
    more: Option<Box<More>>,
    /// By this process's own clock.
    changed: Instant,
}

impl Entry {
    fn is(&self, kind: Kind, name: &str) -> bool {
        self.kind == kind && *self.name == *name
    }
}

/// What is asked of all objects of a kind at once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum More {
    /// A pod's node.
    Node(Box<str>),
    /// Who holds a leader lock, and since when.
    Held(String, Option<Timestamp>),
}

impl More {
    fn of(key: &Key, kind: Kind, object: &Value) -> Option<Self> {
        match kind {
            Kind::Pod => Some(Self::Node(text(object, "/spec/nodeName")?.into())),
            Kind::ConfigMap if name_of(object) == Names(&key.1).leader() => {
                let lock = Lock::of(object);
                Some(Self::Held(lock.holder?, lock.acquired))
            }
            _ => None,
        }
    }
}

/// An object as a pass reads it.
#[derive(Debug)]
pub struct Seen {
    /// Its kind.
    pub kind: Kind,
    /// The object.
    pub object: Value,
    /// When it was last seen to change, by this process's own clock.
    pub changed: Instant,
}

/// A Database has about twenty-five.
type Objects = Vec<Entry>;

/// Kind, namespace and name of an object.
type Id = (Kind, String, String);

/// The objects by Database, and the Database by object: a label may change, or go.
#[derive(Debug, Default)]
struct Index {
    objects: HashMap<Arc<Key>, Objects>,
    /// By kind and namespace, then by name: a namespace has many.
    homes: HashMap<(Kind, String), HashMap<Box<str>, Arc<Key>>>,
    /// The uid of the pod that was seen to take each Database's lock; empty where there was no such pod.
    takers: HashMap<Arc<Key>, String>,
}

impl Index {
    /// Files an object under a Database; returns the one that it was filed under before, where that is another.
    fn home(&mut self, id: &Id, key: &Arc<Key>) -> Option<Arc<Key>> {
        let of_namespace = self.homes.entry((id.0, id.1.clone())).or_default();
        let before = of_namespace.insert(id.2.as_str().into(), key.clone())?;
        if before == *key {
            return None;
        }
        self.drop_object(id, &before);
        Some(before)
    }

    /// Forgets an object; returns the Database that it was filed under.
    fn forget(&mut self, id: &Id) -> Option<Arc<Key>> {
        let place = (id.0, id.1.clone());
        let of_namespace = self.homes.get_mut(&place)?;
        let key = of_namespace.remove(id.2.as_str())?;
        if of_namespace.is_empty() {
            self.homes.remove(&place);
        }
        self.drop_object(id, &key);
        Some(key)
    }

    fn drop_object(&mut self, id: &Id, key: &Arc<Key>) {
        if let Some(objects) = self.objects.get_mut(key) {
            objects.retain(|entry| !entry.is(id.0, &id.2));
            if objects.is_empty() {
                self.objects.remove(key);
                self.takers.remove(key);
            }
        }
    }

    /// The key as it is kept, so that all that name it share one.
    fn shared(&self, key: Key) -> Arc<Key> {
        self.objects.get_key_value(&key).map_or_else(|| Arc::new(key), |(kept, _)| kept.clone())
    }

    fn entry(&self, key: &Key, kind: Kind, name: &str) -> Option<&Entry> {
        self.objects.get(key)?.iter().find(|entry| entry.is(kind, name))
    }

    fn insert(&mut self, key: &Arc<Key>, new: Entry) {
        let objects = self.objects.entry(key.clone()).or_default();
        match objects.iter_mut().find(|entry| entry.is(new.kind, &new.name)) {
            Some(entry) => *entry = new,
            None => {
                // Room for twice as many would be room for a thousand times as many.
                objects.reserve_exact(1);
                objects.push(new);
            }
        }
    }
}

/// All objects that are watched.
#[derive(Debug, Default)]
pub struct Cache {
    index: RwLock<Index>,
    packers: [Packer; Kind::ALL.len()],
}

impl Cache {
    /// The objects of one Database.
    ///
    /// # Errors
    /// Where one cannot be unpacked.
    pub fn of(&self, key: &Key) -> Result<Vec<Seen>, serde_json::Error> {
        let packed: Vec<(Kind, Packed, Instant)> = {
            let all = self.index.read().unwrap_or_else(PoisonError::into_inner);
            let objects = all.objects.get(key).into_iter().flatten();
            objects.map(|entry| (entry.kind, entry.object.clone(), entry.changed)).collect()
        };
        let unpacked = packed.into_iter();
        unpacked
            .map(|(kind, packed, changed)| Ok(Seen { kind, object: self.unpack(kind, &packed)?, changed }))
            .collect()
    }

    fn unpack(&self, kind: Kind, packed: &Packed) -> Result<Value, serde_json::Error> {
        self.packers[kind as usize].unpack(packed)
    }

    /// The uid of the pod that takes the lock, where that is seen as it happens: an old pod of the same name may still run,
    /// and the name alone does not tell the two apart.
    fn taker(&self, all: &Index, key: &Key, before: Option<&More>, now: Option<&More>) -> Option<String> {
        let Some(More::Held(holder, _)) = now.filter(|_| before != now) else { return None };
        let pod = all.entry(key, Kind::Pod, holder);
        let pod = pod.and_then(|pod| self.unpack(Kind::Pod, &pod.object).ok());
        Some(pod.as_ref().and_then(uid_of).unwrap_or_default().to_owned())
    }

    /// The Databases whose leader lock is held and has not been renewed for that long.
    pub fn stale_locks(&self, age: Duration, now: Instant) -> Vec<Key> {
        let all = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let held = |entry: &Entry| matches!(entry.more.as_deref(), Some(More::Held(..)));
        let stale = |entry: &Entry| held(entry) && now.duration_since(entry.changed) > age;
        let stale = all.objects.iter().filter(|(_, objects)| objects.iter().any(stale));
        stale.map(|(key, _)| key.as_ref().clone()).collect()
    }

    /// The Databases that have a pod on that node.
    pub fn on_node(&self, node: &str) -> BTreeSet<Key> {
        let all = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let on = |entry: &Entry| matches!(entry.more.as_deref(), Some(More::Node(on)) if **on == *node);
        let on = all.objects.iter().filter(|(_, objects)| objects.iter().any(on));
        on.map(|(key, _)| key.as_ref().clone()).collect()
    }

    /// The uid of the pod that was seen to take the lock; empty where there was no such pod, `None` where nobody was seen.
    pub fn lock_pod(&self, key: &Key) -> Option<String> {
        let all = self.index.read().unwrap_or_else(PoisonError::into_inner);
        all.takers.get(key).cloned()
    }

    /// Takes an object in; returns the Databases for which a pass is due.
    fn put(&self, kind: Kind, object: &Value) -> Vec<Key> {
        let Some(key) = key_of(object) else { return self.remove(kind, object) };
        let id = id_of(kind, object);
        // What takes time first: nobody else waits for that.
        let mut new = Entry {
            kind,
            name: id.2.as_str().into(),
            object: self.packers[kind as usize].pack(object),
            version: version(object),
            gist: gist(kind, object),
            more: More::of(&key, kind, object).map(Box::new),
            changed: Instant::now(),
        };
        let mut all = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let key = all.shared(key);
        let mut due: Vec<Key> = all.home(&id, &key).map(|key| key.as_ref().clone()).into_iter().collect();
        let old = all.entry(&key, kind, &id.2);
        let news = old.is_none_or(|old| old.gist.is_none() || old.gist != new.gist);
        if let Some(old) = old.filter(|old| old.version == new.version) {
            // It was listed once more.
            new.changed = old.changed;
        }
        let taker = old.and_then(|old| self.taker(&all, &key, old.more.as_deref(), new.more.as_deref()));
        if let Some(taker) = taker {
            all.takers.insert(key.clone(), taker);
        }
        all.insert(&key, new);
        due.extend(news.then(|| key.as_ref().clone()));
        due
    }

    fn remove(&self, kind: Kind, object: &Value) -> Vec<Key> {
        let mut all = self.index.write().unwrap_or_else(PoisonError::into_inner);
        all.forget(&id_of(kind, object)).map(|key| key.as_ref().clone()).into_iter().collect()
    }

    /// Removes the objects of a kind that a complete list did not hold.
    fn retain(&self, kind: Kind, listed: &BTreeSet<Id>) -> Vec<Key> {
        let mut all = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let of_kind = all.homes.iter().filter(|((of, _), _)| *of == kind);
        let ids = of_kind.flat_map(|((_, namespace), names)| {
            names.keys().map(move |name| (kind, namespace.clone(), name.to_string()))
        });
        let gone: Vec<Id> = ids.filter(|id| !listed.contains(id)).collect();
        let touched: BTreeSet<Arc<Key>> = gone.iter().filter_map(|id| all.forget(id)).collect();
        touched.into_iter().map(|key| key.as_ref().clone()).collect()
    }
}

fn version(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    text(object, "/metadata/resourceVersion").hash(&mut hasher);
    hasher.finish()
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
            Ok(watcher::Event::Apply(object)) => cache.put(kind, &object),
            Ok(watcher::Event::Delete(object)) => cache.remove(kind, &object),
            Ok(watcher::Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(id_of(kind, &object));
                cache.put(kind, &object)
            }
            Ok(watcher::Event::InitDone) => {
                complete.send_replace(true);
                cache.retain(kind, &std::mem::take(&mut listed))
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
        assert_eq!(cache.of(&key("a")).unwrap().len(), 1);
        let again = vec![Init, InitApply(object("b", "b", "1")), InitDone];
        assert_eq!(feed(&cache, again).await, (vec![key("a")], true));
        assert!(cache.of(&key("a")).unwrap().is_empty());
        let rest =
            vec![Apply(object("b", "b", "2")), Apply(object("b", "b", "2")), Delete(object("b", "b", "3"))];
        assert_eq!(feed(&cache, rest).await, (vec![key("b"), key("b")], false));
        assert!(cache.of(&key("b")).unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_object_that_changes_hands_is_forgotten_where_it_was() {
        use watcher::Event::{Apply, Delete};
        let cache = Cache::default();
        let key = |name: &str| ("n".to_owned(), name.to_owned());
        let moved = vec![Apply(object("s", "a", "1")), Apply(object("s", "b", "2"))];
        assert_eq!(feed(&cache, moved).await.0, vec![key("a"), key("a"), key("b")]);
        assert!(cache.of(&key("a")).unwrap().is_empty() && cache.of(&key("b")).unwrap().len() == 1);
        let mut bare = object("s", "b", "3");
        bare["metadata"]["labels"] = json!({});
        assert_eq!(feed(&cache, vec![Delete(bare)]).await.0, vec![key("b")]);
        assert!(cache.of(&key("b")).unwrap().is_empty());
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
        cache.put(Kind::Pod, &pod("1"));
        cache.put(Kind::ConfigMap, &lock("a-0", "1", first));
        assert_eq!(cache.lock_pod(&key), None);
        cache.put(Kind::Pod, &pod("2"));
        cache.put(Kind::ConfigMap, &lock("a-0", "2", first));
        assert_eq!(cache.lock_pod(&key), None);
        cache.put(Kind::ConfigMap, &lock("a-0", "3", "2026-11-22T07:10:00+00:00"));
        assert_eq!(cache.lock_pod(&key).as_deref(), Some("2"));
        cache.put(Kind::Pod, &pod("3"));
        assert_eq!(cache.lock_pod(&key).as_deref(), Some("2"));
        cache.put(Kind::ConfigMap, &lock("a-1", "4", "2026-11-22T07:20:00+00:00"));
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
        assert_eq!(cache.put(Kind::ConfigMap, &lock("1")).len(), 1);
        let key = ("n".to_owned(), "a".to_owned());
        let seen = |cache: &Cache| cache.of(&key).unwrap().into_iter().next().map(|seen| seen.changed);
        let (age, now) = (Duration::from_secs(7), Instant::now());
        assert_eq!(cache.stale_locks(age, now), Vec::<Key>::new());
        assert_eq!(cache.stale_locks(age, now + age * 2), vec![key.clone()]);
        let before = seen(&cache);
        assert_eq!(cache.put(Kind::ConfigMap, &lock("2")), vec![]);
        assert!(seen(&cache) > before);
    }
}
