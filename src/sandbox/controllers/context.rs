//! What every controller is given: the client, the shared caches, a way to tell events.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    Endpoints, Namespace, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};

use super::cache::Cache;

/// How the controllers behave where clusters differ.
#[derive(Clone, Debug)]
pub struct Config {
    /// Provision claims of any storage class, also of one that does not exist here: people paste manifests with
    /// their own cluster's class.
    pub any_storage_class: bool,
    /// The certificate of the API server's authority, as PEM, to tell every namespace. None leaves that to others.
    pub root_ca: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { any_storage_class: true, root_ca: None }
    }
}

macro_rules! caches {
    ($($field:ident: $kind:ty),* $(,)?) => {
        /// One cache per watched kind.
        pub(super) struct Caches {
            $(pub(super) $field: Cache<$kind>,)*
        }

        impl Caches {
            pub(super) fn new() -> Self {
                Self { $($field: Cache::new(),)* }
            }

            /// Waits until every cache has its first full list.
            pub(super) async fn synced(&self) {
                $(self.$field.synced().await;)*
            }

            /// Starts the watches.
            pub(super) fn follow(&self, client: &Client, tasks: &mut super::run::Tasks) {
                $(tasks.watch(self.$field.clone(), Api::<$kind>::all(client.clone()));)*
            }

            /// Shows the metadata of every change of every cached kind to `observer`.
            pub(super) fn observe(&self, observer: &Arc<dyn super::gc::Observer>) {
                $({
                    let observer = Arc::clone(observer);
                    let kind = super::gc::Kind::typed::<$kind>();
                    self.$field.on_change(move |change| {
                        if let Some(old) = change.latest() {
                            observer.observe(&kind, old.meta(), change.new.is_some());
                        }
                    });
                })*
            }

            /// The plural and group of every cached kind.
            pub(super) fn kinds() -> Vec<Arc<super::gc::Kind>> {
                vec![$(super::gc::Kind::typed::<$kind>(),)*]
            }
        }
    };
}

caches! {
    namespaces: Namespace,
    nodes: Node,
    pods: Pod,
    claims: PersistentVolumeClaim,
    volumes: PersistentVolume,
    classes: StorageClass,
    services: Service,
    endpoints: Endpoints,
    slices: EndpointSlice,
    accounts: ServiceAccount,
    sets: StatefulSet,
    revisions: ControllerRevision,
    jobs: Job,
    cronjobs: CronJob,
    budgets: PodDisruptionBudget,
}

/// Shared by all controllers.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) caches: Caches,
    pub(super) config: Config,
    recorder: Recorder,
}

impl Context {
    pub(super) fn new(client: Client, config: Config) -> Self {
        let reporter = Reporter { controller: "sandbox-controllers".to_owned(), instance: None };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, caches: Caches::new(), config, recorder }
    }

    pub(super) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(super) fn cluster_api<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Tells what happened to an object. Events are for people: one that is lost is only logged.
    pub(super) async fn event(
        &self,
        about: &ObjectReference,
        type_: EventType,
        reason: &str,
        action: &str,
        note: String,
    ) {
        self.event_with(about, None, type_, reason, action, note).await;
    }

    /// The same, of one of several objects that it has to do with: otherwise what is told of the next one would take the place
    /// of what was told of this one.
    pub(super) async fn event_with(
        &self,
        about: &ObjectReference,
        secondary: Option<ObjectReference>,
        type_: EventType,
        reason: &str,
        action: &str,
        note: String,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::debug!(reason, "event was lost: {error}");
        }
    }
}
