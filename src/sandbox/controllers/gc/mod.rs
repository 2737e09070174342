//! Garbage collection: what an object owned goes with it.
//!
//! [`graph`] knows every object's owners; [`kinds`] keeps it fed, also with kinds that appear later; [`collect`]
//! acts on what it says.

mod collect;
mod graph;
mod kinds;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kube::api::ObjectMeta;

use super::context::{Caches, Context};
use super::queue::Queue;
use super::run::Tasks;
pub(super) use kinds::{Discovered, Kind};

/// Is shown the metadata of every object as it changes.
pub(super) trait Observer: Send + Sync {
    /// The object is as `meta` says, or is gone.
    fn observe(&self, kind: &Arc<Kind>, meta: &ObjectMeta, exists: bool);
}

/// Starts the collector, and returns what it learns of the kinds there are.
pub(super) fn start(context: &Arc<Context>, tasks: &mut Tasks) -> Discovered {
    let (queue, requests) = Queue::new();
    let (sender, discovered) = tokio::sync::watch::channel(Arc::new(Vec::new()));
    let shared = Arc::new(collect::Shared::new(queue, discovered.clone()));
    let observer: Arc<dyn Observer> = shared.clone();
    context.caches.observe(&observer);
    let kinds = kinds::Follow {
        client: context.client.clone(),
        cached: Caches::kinds(),
        shared: Arc::clone(&shared),
        sender,
        stop: tasks.stop(),
    };
    tasks.spawn("discovery", kinds.run());
    tasks.controller("garbage-collector", requests, 4, move |context, uid: Arc<str>| {
        let shared = Arc::clone(&shared);
        async move { collect::reconcile(&context, &shared, &uid).await }
    });
    discovered
}
