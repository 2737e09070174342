//! Composition: which controllers there are, and that all of them keep going.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::cache::{Cache, Change};
use super::context::{Config, Context};
use super::error::ControllersError;
use super::queue::{Outcome, Queue, Requests, work};
use super::{
    accounts, aggregation, cronjob, disruption, endpoints, gc, job, namespace, nodes, podgc, root_ca,
    scheduler, statefulset, volumes,
};

/// Runs all controllers as the sandbox wants them until `stop`.
///
/// # Errors
/// Where one of them ends before that, which is a defect.
pub async fn run(client: Client, stop: CancellationToken) -> Result<(), ControllersError> {
    run_with(client, Config::default(), stop).await
}

/// Runs all controllers until `stop`.
///
/// # Errors
/// Where one of them ends before that, which is a defect.
pub async fn run_with(
    client: Client,
    config: Config,
    stop: CancellationToken,
) -> Result<(), ControllersError> {
    let context = Arc::new(Context::new(client, config));
    let mut tasks = Tasks::new(Arc::clone(&context), stop.child_token());
    let discovery = gc::start(&context, &mut tasks);
    namespace::start(&context, &mut tasks, discovery);
    statefulset::start(&context, &mut tasks);
    endpoints::start(&context, &mut tasks);
    scheduler::start(&context, &mut tasks);
    volumes::start(&context, &mut tasks);
    accounts::start(&context, &mut tasks);
    disruption::start(&context, &mut tasks);
    job::start(&context, &mut tasks);
    cronjob::start(&context, &mut tasks);
    podgc::start(&context, &mut tasks);
    nodes::start(&context, &mut tasks);
    root_ca::start(&context, &mut tasks);
    aggregation::start(&context, &mut tasks);
    context.caches.follow(&context.client, &mut tasks);
    tasks.supervise().await
}

/// Makes the volumes of the sandbox's own storage class, and nothing else, until `stop`: for the sandbox's node in a
/// cluster that has all other controllers itself.
///
/// # Errors
/// Where a part of it ends before that, which is a defect.
pub async fn provision(client: Client, stop: CancellationToken) -> Result<(), ControllersError> {
    let context = Arc::new(Context::new(client, Config { any_storage_class: false, ..Config::default() }));
    let mut tasks = Tasks::new(Arc::clone(&context), stop.child_token());
    volumes::start_provisioner(&context, &mut tasks);
    context.caches.follow(&context.client, &mut tasks);
    tasks.supervise().await
}

/// Everything that runs, by name.
pub(super) struct Tasks {
    context: Arc<Context>,
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
}

impl Tasks {
    fn new(context: Arc<Context>, stop: CancellationToken) -> Self {
        Self { context, set: JoinSet::new(), names: HashMap::new(), stop }
    }

    /// The token that ends all tasks.
    pub(super) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs a part of the whole.
    pub(super) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Keeps a cache filled.
    pub(super) fn watch<K>(&mut self, cache: Cache<K>, api: Api<K>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let stop = self.stop();
        self.spawn("watch", cache.follow(api, watcher::Config::default(), stop));
    }

    /// Keeps a cache filled with the objects of one name.
    pub(super) fn watch_named<K>(&mut self, cache: Cache<K>, api: Api<K>, name: &str)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let stop = self.stop();
        self.spawn("watch", cache.follow(api, config, stop));
    }

    /// Runs a controller: `reconcile` for each requested key, once all caches have been filled.
    pub(super) fn controller<K, Fut>(
        &mut self,
        name: &'static str,
        requests: Requests<K>,
        limit: usize,
        reconcile: impl Fn(Arc<Context>, K) -> Fut + Send + Sync + 'static,
    ) where
        K: Ord + Clone + Debug + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send,
    {
        let (context, stop) = (Arc::clone(&self.context), self.stop());
        self.spawn(name, async move {
            tokio::select! {
                () = stop.cancelled() => return,
                () = context.caches.synced() => {}
            }
            work(name, requests, limit, stop, |key| reconcile(Arc::clone(&context), key)).await;
        });
    }

    async fn supervise(mut self) -> Result<(), ControllersError> {
        let mut result = Ok(());
        while let Some(ended) = self.set.join_next_with_id().await {
            if let Err(source) = ended {
                let part = self.names.get(&source.id()).copied().unwrap_or("unnamed");
                self.stop.cancel();
                result = Err(ControllersError::Ended { part, source });
            }
        }
        result
    }
}

/// Sends the keys that `keys` makes of a change to a queue.
pub(super) fn feed<K, T, I>(
    cache: &Cache<K>,
    queue: &Queue<T>,
    keys: impl Fn(&Change<K>) -> I + Send + Sync + 'static,
) where
    I: IntoIterator<Item = T>,
    T: Send + 'static,
{
    let queue = queue.clone();
    cache.on_change(move |change| {
        for key in keys(change) {
            queue.add(key);
        }
    });
}
