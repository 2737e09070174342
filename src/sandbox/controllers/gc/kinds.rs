//! The kinds a server has, and a metadata-only watch of each that no cache watches already.

use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Observer;
use super::collect::Shared;
use crate::sandbox::controllers::cache::Pauses;
use crate::sandbox::controllers::meta::uid;

/// Pause between a change of the definitions and the look at what there is now: they come in bursts.
const SETTLE: Duration = Duration::from_millis(100);
/// A server may also come to have kinds without a definition changing, though rarely.
const REFRESH: Duration = Duration::from_secs(600);

/// A kind of object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::sandbox::controllers) struct Kind {
    pub(in crate::sandbox::controllers) group: String,
    pub(in crate::sandbox::controllers) version: String,
    pub(in crate::sandbox::controllers) kind: String,
    pub(in crate::sandbox::controllers) plural: String,
    pub(in crate::sandbox::controllers) namespaced: bool,
    /// Whether all objects of a namespace can be deleted in one request.
    pub(in crate::sandbox::controllers) collective: bool,
}

/// The newest list of kinds; empty until the server has been asked.
pub(in crate::sandbox::controllers) type Discovered = watch::Receiver<Arc<Vec<Arc<Kind>>>>;

impl Kind {
    /// The kind of a Rust type.
    pub(in crate::sandbox::controllers) fn typed<K>() -> Arc<Self>
    where
        K: Resource<DynamicType = ()>,
        K::Scope: 'static,
    {
        Arc::new(Self {
            group: K::group(&()).into_owned(),
            version: K::version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            plural: K::plural(&()).into_owned(),
            namespaced: TypeId::of::<K::Scope>() == TypeId::of::<NamespaceResourceScope>(),
            collective: true,
        })
    }

    fn resource(&self) -> ApiResource {
        let api_version = match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        };
        ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version,
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    /// Access to the objects of this kind in that namespace; the namespace does not matter for what has none.
    pub(in crate::sandbox::controllers) fn api(
        &self,
        client: &Client,
        namespace: &str,
    ) -> Api<DynamicObject> {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.resource())
        } else {
            Api::all_with(client.clone(), &self.resource())
        }
    }

    fn same_resource(&self, other: &Self) -> bool {
        self.group == other.group && self.plural == other.plural
    }

    fn is_definition(&self) -> bool {
        self.group == "apiextensions.k8s.io" && self.kind == "CustomResourceDefinition"
    }
}

/// Keeps the list of kinds and their watches as the server has them.
pub(super) struct Follow {
    pub(super) client: Client,
    pub(super) cached: Vec<Arc<Kind>>,
    pub(super) shared: Arc<Shared>,
    pub(super) sender: watch::Sender<Arc<Vec<Arc<Kind>>>>,
    pub(super) stop: CancellationToken,
}

impl Follow {
    pub(super) async fn run(self) {
        // The watches end with this future.
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        let mut watches = Watches { tasks: JoinSet::new(), running: HashMap::new() };
        let mut pause = SETTLE;
        loop {
            let wait = match discover(&self.client).await {
                Ok(kinds) => {
                    pause = SETTLE;
                    self.take(kinds, &mut watches);
                    REFRESH
                }
                Err(error) => {
                    tracing::debug!("kinds are not known, asking again: {error}");
                    pause = (pause * 2).min(Duration::from_secs(30));
                    pause
                }
            };
            tokio::select! {
                () = self.shared.definitions_changed() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(wait) => {}
            }
            while watches.tasks.try_join_next().is_some() {}
        }
    }

    fn take(&self, kinds: Vec<Arc<Kind>>, watches: &mut Watches) {
        let cached = |kind: &Kind| self.cached.iter().any(|each| each.same_resource(kind));
        let wanted: HashSet<Arc<Kind>> = kinds.iter().filter(|kind| !cached(kind)).cloned().collect();
        watches.running.retain(|kind, token| {
            let stays = wanted.contains(kind);
            if !stays {
                token.cancel();
                self.shared.forget_kind(kind);
            }
            stays
        });
        for kind in wanted {
            if !watches.running.contains_key(&kind) {
                let token = self.stop.child_token();
                self.shared.expect_list(&kind);
                watches.tasks.spawn(monitor(
                    self.client.clone(),
                    Arc::clone(&kind),
                    Arc::clone(&self.shared),
                    token.clone(),
                ));
                watches.running.insert(kind, token);
            }
        }
        let changed = self.sender.send_if_modified(|known| {
            let changed = **known != kinds;
            *known = Arc::new(kinds);
            changed
        });
        if changed {
            self.shared.look_at_doubtful();
        }
    }
}

struct Watches {
    tasks: JoinSet<()>,
    running: HashMap<Arc<Kind>, CancellationToken>,
}

/// Asks for all kinds that can be listed, watched and deleted. Events are no one's property for long.
async fn discover(client: &Client) -> Result<Vec<Arc<Kind>>, kube::Error> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        // Older servers describe one group at a time.
        Err(_) => Discovery::new(client.clone()).run().await?,
    };
    let mut kinds = Vec::new();
    for group in discovery.groups_alphabetical() {
        for (resource, capabilities) in group.recommended_resources() {
            let can = |verb| capabilities.supports_operation(verb);
            if resource.plural == "events" || !(can(verbs::LIST) && can(verbs::WATCH) && can(verbs::DELETE)) {
                continue;
            }
            kinds.push(Arc::new(Kind {
                group: resource.group,
                version: resource.version,
                kind: resource.kind,
                plural: resource.plural,
                namespaced: capabilities.scope == Scope::Namespaced,
                collective: can(verbs::DELETE_COLLECTION),
            }));
        }
    }
    Ok(kinds)
}

/// Shows the metadata of all objects of a kind to the graph until `stop`.
async fn monitor(client: Client, kind: Arc<Kind>, shared: Arc<Shared>, stop: CancellationToken) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &kind.resource());
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).backoff(Pauses::default()));
    let mut listed: HashSet<String> = HashSet::new();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            Some(Ok(watcher::Event::Init)) => listed.clear(),
            Some(Ok(watcher::Event::InitApply(object))) => {
                listed.insert(uid(&object.metadata).to_owned());
                shared.observe(&kind, &object.metadata, true);
            }
            Some(Ok(watcher::Event::InitDone)) => shared.listed(&kind, &std::mem::take(&mut listed)),
            Some(Ok(watcher::Event::Apply(object))) => shared.observe(&kind, &object.metadata, true),
            Some(Ok(watcher::Event::Delete(object))) => shared.observe(&kind, &object.metadata, false),
            Some(Err(error)) => {
                tracing::debug!(kind = kind.plural, "watch broke off, starting again: {error}");
                if refused(&error) {
                    // Nothing will ever come of it: nobody needs to wait.
                    shared.forget_kind(&kind);
                }
            }
            None => return,
        }
        if kind.is_definition() {
            shared.definitions.notify_one();
        }
    }
}

fn refused(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if matches!(status.code, 403..=405))
}
