//! How long after a change of a spec the controller has written the last of what follows from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dbctl::api::Database;
use futures::future::join_all;
use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::PatchParams;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use super::node::merge;
use super::{Error, Key, PATIENCE, is_well};
use crate::objects;

/// What follows within this time of another write is of the same change. Nothing that a pass waits for takes as long, but for
/// the pass that looks whether all is well, and what that finds by chance is not of the change.
const QUIET: Duration = Duration::from_secs(3);

/// What was seen of a database.
#[derive(Clone, Copy)]
struct Sight {
    at: Instant,
    /// By its status, all that its generation asks for is done.
    done: Option<i64>,
}

/// What was seen of each database since it was asked.
#[derive(Clone, Default)]
pub struct Writes(Arc<Mutex<HashMap<Key, Vec<Sight>>>>);

impl Writes {
    fn saw(&self, key: Key, done: Option<i64>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key).or_default().push(Sight { at: Instant::now(), done });
    }

    /// The last write of the change that made that generation, once nothing follows.
    fn last(&self, key: &Key, generation: i64) -> Option<Instant> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.get(key)?;
        let done = seen.iter().position(|sight| sight.done >= Some(generation))?;
        let mut last = seen[done].at;
        for sight in &seen[done..] {
            if sight.at.duration_since(last) > QUIET {
                return Some(last);
            }
            last = sight.at;
        }
        (last.elapsed() > QUIET).then_some(last)
    }

    fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes in what watches tell, for as long as it is polled.
    pub async fn follow(self, client: Client) {
        let labelled = watcher::Config::default().labels(dbctl::api::LABEL_DATABASE);
        let all = watcher::Config::default();
        futures::join!(
            self.note_databases(watcher(Api::<Database>::all(client.clone()), all.clone())),
            self.note(watcher(names::<ConfigMap>(&client), labelled.clone())),
            self.note(watcher(names::<StatefulSet>(&client), labelled.clone())),
            self.note(watcher(names::<Service>(&client), labelled.clone())),
            self.note(watcher(names::<PodDisruptionBudget>(&client), labelled)),
            self.note_events(watcher(Api::<Event>::all(client), all)),
        );
    }

    async fn note<K: ResourceExt>(
        &self,
        changes: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    ) {
        let mut changes = std::pin::pin!(changes.default_backoff());
        while let Some(change) = changes.next().await {
            let Ok(watcher::Event::Apply(object)) = change else { continue };
            let database = object.labels().get(dbctl::api::LABEL_DATABASE).cloned();
            // A lock is renewed all the time, and not by the controller.
            if !object.name_any().ends_with("-leader") {
                self.saw((object.namespace().unwrap_or_default(), database.unwrap_or_default()), None);
            }
        }
    }

    async fn note_databases(
        &self,
        changes: impl Stream<Item = Result<watcher::Event<Database>, watcher::Error>>,
    ) {
        let mut changes = std::pin::pin!(changes.default_backoff());
        while let Some(change) = changes.next().await {
            let Ok(watcher::Event::Apply(database)) = change else { continue };
            let done = is_well(&database).then_some(database.metadata.generation).flatten();
            self.saw((database.namespace().unwrap_or_default(), database.name_any()), done);
        }
    }

    async fn note_events(&self, changes: impl Stream<Item = Result<watcher::Event<Event>, watcher::Error>>) {
        let mut changes = std::pin::pin!(changes.default_backoff());
        while let Some(change) = changes.next().await {
            let Ok(watcher::Event::Apply(event)) = change else { continue };
            let about = event.regarding.unwrap_or_default();
            if about.kind.as_deref() == Some("Database") {
                self.saw((about.namespace.unwrap_or_default(), about.name.unwrap_or_default()), None);
            }
        }
    }
}

fn names<K: Resource<DynamicType = ()>>(client: &Client) -> Api<PartialObjectMeta<K>> {
    Api::all(client.clone())
}

/// Changes databases, one each `pause` or all at once; returns how long it took until the last write for each.
pub async fn change(
    client: &Client,
    writes: &Writes,
    numbers: Vec<usize>,
    pause: Option<Duration>,
    value: usize,
) -> Result<Vec<Duration>, Error> {
    writes.forget();
    let mut under_way = Vec::new();
    for number in numbers {
        let client = client.clone();
        under_way.push(tokio::spawn(async move { edit(&client, number, value).await }));
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
    let mut begun = Vec::new();
    for edit in join_all(under_way).await {
        begun.push(edit??);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let took = begun.iter().map(|edit| Some(writes.last(&edit.key, edit.generation)? - edit.at));
        if let Some(took) = took.collect::<Option<Vec<Duration>>>() {
            return Ok(took);
        }
        if Instant::now() > deadline {
            return Err("a change never comes to its end".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

struct Edit {
    key: Key,
    at: Instant,
    generation: i64,
}

/// Changes what takes the whole way: Patroni's configuration, and what PostgreSQL runs with.
async fn edit(client: &Client, number: usize, value: usize) -> Result<Edit, Error> {
    let key = (objects::namespace(number), objects::name(number));
    let databases: Api<Database> = Api::namespaced(client.clone(), &key.0);
    let patch = merge(json!({ "spec": { "parameters": { "work_mem": format!("{value}kB") } } }));
    let at = Instant::now();
    let changed = databases.patch_metadata(&key.1, &PatchParams::default(), &patch).await?;
    Ok(Edit { key, at, generation: changed.metadata.generation.ok_or("no generation")? })
}
