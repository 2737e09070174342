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
use super::{Error, Key};
use crate::objects;

/// How long nothing must be heard for a write to have been the last.
const QUIET: Duration = Duration::from_secs(4);

/// When each object of a database was last seen to change.
#[derive(Clone, Default)]
pub struct Writes(Arc<Mutex<HashMap<Key, Vec<Instant>>>>);

impl Writes {
    fn saw(&self, key: Key) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key).or_default().push(Instant::now());
    }

    fn last(&self, key: &Key) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key)?.last().copied()
    }

    fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes in what watches tell, for as long as it is polled.
    pub async fn follow(self, client: Client) {
        let labelled = watcher::Config::default().labels(dbctl::api::LABEL_DATABASE);
        let all = watcher::Config::default();
        futures::join!(
            self.note(watcher(names::<Database>(&client), all.clone())),
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
            let name = object.name_any();
            let database = object.labels().get(dbctl::api::LABEL_DATABASE).cloned();
            // A lock is renewed all the time, and not by the controller.
            if !name.ends_with("-leader") {
                self.saw((object.namespace().unwrap_or_default(), database.unwrap_or(name)));
            }
        }
    }

    async fn note_events(&self, changes: impl Stream<Item = Result<watcher::Event<Event>, watcher::Error>>) {
        let mut changes = std::pin::pin!(changes.default_backoff());
        while let Some(change) = changes.next().await {
            let Ok(watcher::Event::Apply(event)) = change else { continue };
            let about = event.regarding.unwrap_or_default();
            if about.kind.as_deref() == Some("Database") {
                self.saw((about.namespace.unwrap_or_default(), about.name.unwrap_or_default()));
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
    let quiet = |key: &Key| writes.last(key).is_some_and(|last| last.elapsed() > QUIET);
    while !begun.iter().all(|(key, _)| quiet(key)) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(begun.iter().filter_map(|(key, begun)| Some(writes.last(key)?.duration_since(*begun))).collect())
}

/// Changes what takes the whole way: Patroni's configuration, and what PostgreSQL runs with.
async fn edit(client: &Client, number: usize, value: usize) -> Result<(Key, Instant), Error> {
    let key = (objects::namespace(number), objects::name(number));
    let databases: Api<Database> = Api::namespaced(client.clone(), &key.0);
    let patch = merge(json!({ "spec": { "parameters": { "work_mem": format!("{value}MB") } } }));
    let begun = Instant::now();
    databases.patch_metadata(&key.1, &PatchParams::default(), &patch).await?;
    Ok((key, begun))
}
