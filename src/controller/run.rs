//! The wiring: every watch, and the queue that they feed.

use std::future::{pending, ready};
use std::net::TcpListener;
use std::sync::Arc;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use kube::api::{Api, ListParams};
use kube::runtime::controller::{self, applier};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, Lookup, ObjectRef};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::asks::Asks;
use super::backoff::Backoff;
use super::cache::{Cache, Key, keep};
use super::health::Health;
use super::known::Known;
use super::lease::{Claim, LeaseConfig, LeaseError, Tenure};
use super::metrics::{self, Metrics, MetricsConfig, ServeError};
use super::nodes;
use super::reconcile::{Guarded, PassError, Shared, after_error, reconcile};
use super::resource::{listed, scoped};
use super::retry;
use super::silence::Silence;
use crate::api::{FIELD_MANAGER, LABEL_DATABASE};
use crate::patroni::{self, PatroniError};
use crate::plan::{Kind, Settings};

/// Databases that are worked on at a time.
const CONCURRENCY: u16 = 16;
/// A lock is renewed every five seconds; one that is older than this is looked into.
const LOCK_LATE: std::time::Duration = std::time::Duration::from_secs(7);
const STALE_CHECK: std::time::Duration = std::time::Duration::from_secs(2);
/// Objects of a list that are read at a time: a page of them takes more memory than all of them do once they are kept.
const PAGE: u32 = 250;
/// Several watches tell of one change; a pass waits this long for the others.
const DEBOUNCE: std::time::Duration = std::time::Duration::from_millis(100);

/// How the controller is set up.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// The one namespace to work in; all without it.
    pub namespace: Option<String>,
    /// Image of a member's pod; `{version}` stands for the PostgreSQL release.
    pub image: String,
    /// Name of the Secret with which that is pulled, in each Database's namespace.
    pub pull_secret: Option<String>,
    /// Where Prometheus may ask; nowhere without it.
    pub metrics: Option<MetricsConfig>,
    /// Where a kubelet may ask how it is; nowhere without it.
    pub health: Option<Arc<TcpListener>>,
    /// Which of several controllers works; without it, this one does.
    pub lease: Option<LeaseConfig>,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            namespace: None,
            image: Settings::default().image,
            pull_secret: None,
            metrics: None,
            health: None,
            lease: None,
        }
    }
}

/// Why the controller does not run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The definition of Databases is not installed.
    #[error("find the Database resource: install it with `dbctl install`")]
    NoDefinition,
    /// The API server does not answer, or forbids what the controller needs.
    #[error("list Databases: {0}")]
    Api(#[from] Box<kube::Error>),
    /// The client for Patroni cannot be made.
    #[error(transparent)]
    Patroni(#[from] PatroniError),
    /// Nobody can ask for metrics.
    #[error("serve metrics: {0}")]
    Metrics(#[from] ServeError),
    /// Nobody can ask how it is.
    #[error("tell how it is: {0}")]
    Health(#[source] std::io::Error),
    /// Another controller works, or may.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Every watch ended, which none does by itself.
    #[error("keep its watches open")]
    WatchesEnded,
}

/// Runs until `stop`; then passes under way are finished.
///
/// # Errors
/// Where it cannot start.
pub async fn run(
    client: Client,
    config: ControllerConfig,
    stop: CancellationToken,
) -> Result<(), ControllerError> {
    let metrics = Arc::<Metrics>::default();
    let client = metrics::counted(client, metrics.clone());
    let databases = databases(&client, config.namespace.as_deref());
    check_definition(&client, config.namespace.as_deref()).await?;
    let reporter =
        Reporter { controller: FIELD_MANAGER.to_owned(), instance: std::env::var("POD_NAME").ok() };
    let (passes, due) = unbounded();
    let mut tenure = config.lease.map(|lease| Tenure::begin(client.clone(), lease));
    let shared = Arc::new(Shared {
        client: client.clone(),
        cache: Arc::default(),
        known: Known::default(),
        patroni: patroni::Client::new()?,
        recorder: Recorder::new(client.clone(), reporter.clone()),
        reporter,
        settings: Settings { image: config.image, pull_secret: config.pull_secret },
        backoff: Backoff::default(),
        asks: Asks::default(),
        silence: Silence::default(),
        nodes: Arc::default(),
        passes: passes.clone(),
        metrics: metrics.clone(),
        claim: tenure.as_ref().map_or_else(Claim::always, Tenure::claim),
    });
    let (mut watches, mut complete) = watches(&client, config.namespace.as_deref(), &shared.cache, &passes);
    if nodes::readable(&client).await {
        let (watch, listed) = watch_nodes(&client, &shared, passes);
        watches.push(watch);
        complete.push(listed);
    }
    let health = Health::new(complete.clone(), tenure.as_ref());
    let served = serve_metrics(metrics.clone(), &client, config.metrics.as_ref(), &stop)?;
    let told = tell_health(config.health.as_deref(), health, &stop)?;
    let (store, writer) = reflector::store();
    let idle = stopped_idle(stop.clone(), store.clone());
    let changed = watcher(databases, watcher::Config::default().page_size(PAGE))
        .backoff(retry::WatchPauses::default())
        .modify(|database: &mut Guarded| drop(database.managed_fields_mut().drain(..)))
        .reflect(writer)
        .applied_objects()
        .filter_map(|event| {
            if let Err(error) = &event {
                tracing::warn!(%error, "the watch of Databases was interrupted");
            }
            ready(event.ok().map(|database| ObjectRef::from_obj(&database)))
        });
    let suspicious = stale_locks(shared.cache.clone());
    let related = stream::select(due, suspicious)
        .map(|(namespace, name): Key| ObjectRef::new(&name).within(&namespace));
    // One that waits for the Lease keeps its caches warm meanwhile.
    complete.extend(tenure.as_ref().map(Tenure::held));
    // Before the first lists are complete, everything would have to be looked up by name.
    let (work, claim) = (metrics.work.clone(), shared.claim.clone());
    let begins = move |_| {
        work.begin(&claim);
        ready(None)
    };
    let work = metrics.work.clone();
    let queue = stream::once(join_all(complete.into_iter().map(completed)))
        .filter_map(begins)
        .chain(stream::select(changed, related))
        .inspect(move |database| work.heard(key_of(database)))
        .map(Ok::<ObjectRef<Guarded>, std::convert::Infallible>)
        .take_until(stop.clone().cancelled_owned());
    let passes = applier(
        |database, shared| reconcile(database, shared).boxed(),
        |database, error, shared| after_error(&database, error, &shared),
        shared,
        store,
        Box::pin(queue),
        controller::Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE),
    );
    let work = passes.for_each(|pass| {
        left(pass.err(), &metrics);
        ready(())
    });
    let ended = tokio::select! {
        () = work => Ok(()),
        () = idle => Ok(()),
        error = served => Err(error),
        error = told => Err(error),
        error = lost(tenure.as_mut()) => Err(error.into()),
        () = join_all(watches).map(drop) => Err(ControllerError::WatchesEnded),
    };
    // Whatever the end was, nothing acts any more.
    if let Some(tenure) = tenure {
        tenure.give_back().await;
    }
    ended
}

fn key_of<K: Lookup>(database: &ObjectRef<K>) -> Key {
    (database.namespace.clone().unwrap_or_default(), database.name.clone())
}

/// A Database that is gone without a last pass, because somebody removed its finalizer, is not told of any more.
fn left(error: Option<PassFailed>, metrics: &Metrics) {
    if let Some(controller::Error::ObjectNotFound(gone)) = error {
        let key = key_of(&gone);
        metrics.work.taken(&key);
        metrics.databases.forget(&key);
    }
}

/// Ends when it is told to stop before it knows any Database, as one that stands by does: passes wait for the first list, which
/// does not come any more, and nothing is under way that would have to be finished.
async fn stopped_idle(stop: CancellationToken, databases: reflector::Store<Guarded>) {
    stop.cancelled().await;
    if databases.wait_until_ready().now_or_never().is_some() {
        pending::<()>().await;
    }
}

/// Ends with the tenure, if there is one to end.
async fn lost(tenure: Option<&mut Tenure>) -> LeaseError {
    match tenure {
        Some(tenure) => tenure.lost().await,
        None => pending().await,
    }
}

/// What is returned ends only where serving fails.
fn serve_metrics(
    metrics: Arc<Metrics>,
    client: &Client,
    config: Option<&MetricsConfig>,
    stop: &CancellationToken,
) -> Result<BoxFuture<'static, ControllerError>, ControllerError> {
    let Some(config) = config else { return Ok(pending().boxed()) };
    let served = metrics::serve(metrics, client.clone(), config, stop.clone())?;
    Ok(failed(served, |source| ServeError::Port(source).into()))
}

/// The same.
fn tell_health(
    listener: Option<&TcpListener>,
    health: Health,
    stop: &CancellationToken,
) -> Result<BoxFuture<'static, ControllerError>, ControllerError> {
    let Some(listener) = listener else { return Ok(pending().boxed()) };
    let told = health.tell(listener, stop.clone()).map_err(ControllerError::Health)?;
    Ok(failed(told, ControllerError::Health))
}

/// Its failure. Where it was told to stop there is none, and the passes end by themselves.
fn failed(
    served: impl Future<Output = std::io::Result<()>> + Send + 'static,
    as_error: impl FnOnce(std::io::Error) -> ControllerError + Send + 'static,
) -> BoxFuture<'static, ControllerError> {
    let failed = async move {
        match served.await {
            Err(source) => as_error(source),
            Ok(()) => pending().await,
        }
    };
    failed.boxed()
}

fn databases(client: &Client, namespace: Option<&str>) -> Api<Guarded> {
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

async fn check_definition(client: &Client, namespace: Option<&str>) -> Result<(), ControllerError> {
    let (api, one) = (databases(client, namespace), ListParams::default().limit(1));
    match retry::read(|| api.list(&one)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Err(ControllerError::NoDefinition),
        Err(error) => Err(Box::new(error).into()),
    }
}

type PassFailed = controller::Error<PassError, std::convert::Infallible>;

type Watches = (Vec<BoxFuture<'static, ()>>, Vec<watch::Receiver<bool>>);

/// One watch for each kind, of the objects that carry a Database's label. Secrets are looked up by name.
fn watches(
    client: &Client,
    namespace: Option<&str>,
    cache: &Arc<Cache>,
    passes: &UnboundedSender<Key>,
) -> Watches {
    let watched = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Secret);
    watched
        .map(|kind| {
            let (complete, completed) = watch::channel(false);
            let (cache, passes) = (cache.clone(), passes.clone());
            let events = events(client, namespace, kind);
            (async move { keep(&cache, kind, events, passes, complete).await }.boxed(), completed)
        })
        .unzip()
}

/// The watch of nodes: a pass for every Database with a member on one that changes.
fn watch_nodes(
    client: &Client,
    shared: &Arc<Shared>,
    passes: UnboundedSender<Key>,
) -> (BoxFuture<'static, ()>, watch::Receiver<bool>) {
    let (complete, completed) = watch::channel(false);
    let (client, nodes, cache) = (client.clone(), shared.nodes.clone(), shared.cache.clone());
    let changed = move |node: &str| {
        for key in cache.on_node(node) {
            let _ = passes.unbounded_send(key);
        }
    };
    (async move { nodes::keep(client, &nodes, changed, complete).await }.boxed(), completed)
}

/// Databases whose lock is late, now and then: that something does not happen is told by no watch.
fn stale_locks(cache: Arc<Cache>) -> impl Stream<Item = Key> + Send {
    let mut interval = tokio::time::interval(STALE_CHECK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold(interval, |mut interval| async move {
        interval.tick().await;
        Some(((), interval))
    })
    .flat_map(move |()| stream::iter(cache.stale_locks(LOCK_LATE, std::time::Instant::now())))
}

fn events(
    client: &Client,
    namespace: Option<&str>,
    kind: Kind,
) -> impl Stream<Item = Result<watcher::Event<Value>, watcher::Error>> + Send + use<> {
    let config = watcher::Config::default().labels(LABEL_DATABASE).page_size(PAGE);
    watcher(scoped(client, namespace, kind), config)
        .backoff(retry::WatchPauses::default())
        .map_ok(move |event| map(event, |object| listed(kind, object)))
}

fn map<A, B>(event: watcher::Event<A>, with: impl FnOnce(A) -> B) -> watcher::Event<B> {
    match event {
        watcher::Event::Apply(object) => watcher::Event::Apply(with(object)),
        watcher::Event::Delete(object) => watcher::Event::Delete(with(object)),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(with(object)),
        watcher::Event::InitDone => watcher::Event::InitDone,
    }
}

async fn completed(mut complete: watch::Receiver<bool>) {
    // The sender is dropped only when the controller ends.
    let _ = complete.wait_for(|complete| *complete).await;
}
