//! Who looks after which pod.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::{pod, setup};

type Worker = watch::Sender<Option<Arc<Pod>>>;

/// Keeps a worker for each pod that is bound to one of these nodes, and waits for them at the end.
pub(super) async fn follow_pods(client: Client, nodes: Vec<Arc<Context>>, stop: CancellationToken) {
    let config = match nodes.as_slice() {
        [only] => watcher::Config::default().fields(&format!("spec.nodeName={}", only.config.name)),
        // A field can be compared with one value only.
        _ => watcher::Config::default(),
    };
    let events = watcher(Api::<Pod>::all(client), config)
        .default_backoff()
        .inspect_err(|error| tracing::debug!(%error, "the watch of pods is retried"));
    futures::pin_mut!(events);
    let mut crew = Crew { nodes, stop: stop.clone(), workers: HashMap::new(), tasks: JoinSet::new() };
    let mut listed = Vec::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(done) = crew.tasks.join_next() => {
                crew.dismiss(done);
                continue;
            }
            () = stop.cancelled() => break,
        };
        match event {
            Some(Ok(watcher::Event::Init)) => listed.clear(),
            Some(Ok(watcher::Event::InitApply(pod))) => listed.push(pod),
            Some(Ok(watcher::Event::InitDone)) => crew.relist(std::mem::take(&mut listed)),
            Some(Ok(watcher::Event::Apply(pod))) => crew.tell(pod),
            Some(Ok(watcher::Event::Delete(pod))) => crew.forget(&pod.uid().unwrap_or_default()),
            Some(Err(_)) => {}
            None => break,
        }
    }
    while let Some(done) = crew.tasks.join_next().await {
        crew.dismiss(done);
    }
}

struct Crew {
    nodes: Vec<Arc<Context>>,
    stop: CancellationToken,
    workers: HashMap<String, Worker>,
    tasks: JoinSet<String>,
}

impl Crew {
    /// The node that a pod is bound to, if it is one of these.
    fn node(&self, pod: &Pod) -> Option<&Arc<Context>> {
        let name = pod.spec.as_ref()?.node_name.as_deref()?;
        self.nodes.iter().find(|node| node.config.name == name)
    }

    fn tell(&mut self, pod: Pod) {
        let Some(node) = self.node(&pod).cloned() else { return };
        let uid = pod.uid().unwrap_or_default();
        let pod = Some(Arc::new(pod));
        if let Some(worker) = self.workers.get(&uid) {
            worker.send_replace(pod);
            return;
        }
        let (worker, updates) = watch::channel(pod);
        let work = pod::work(node, updates, self.stop.clone());
        self.workers.insert(uid.clone(), worker);
        self.tasks.spawn(async move {
            work.await;
            uid
        });
    }

    fn forget(&mut self, uid: &str) {
        if let Some(worker) = self.workers.get(uid) {
            worker.send_replace(None);
        }
    }

    /// After a fresh list: who is not in it is gone.
    fn relist(&mut self, pods: Vec<Pod>) {
        if let (true, Some(any)) = (self.workers.is_empty(), self.nodes.first()) {
            let own = pods.iter().filter(|pod| self.node(pod).is_some());
            setup::remove_strangers(any, &own.filter_map(ResourceExt::uid).collect());
        }
        let known: Vec<String> = self.workers.keys().cloned().collect();
        for uid in known {
            if !pods.iter().any(|pod| pod.uid().as_deref() == Some(uid.as_str())) {
                self.forget(&uid);
            }
        }
        // Those that have addresses keep them, before any new one is given out.
        for pod in &pods {
            if let Some(node) = self.node(pod)
                && pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some())
                && !pod::finished(pod)
            {
                node.hold_address(pod);
            }
        }
        pods.into_iter().for_each(|pod| self.tell(pod));
    }

    fn dismiss(&mut self, done: Result<String, tokio::task::JoinError>) {
        match done {
            Ok(uid) => {
                self.workers.remove(&uid);
            }
            Err(error) => tracing::error!(%error, "a pod's worker failed"),
        }
    }
}

#[cfg(test)]
mod tests;
