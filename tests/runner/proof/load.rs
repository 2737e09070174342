//! A database under write load, and what its clients were told: for journeys that strike it themselves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::check::doubles;
use super::cluster::Cluster;
use super::round::lost_at_the_end;
use super::session::Login;
use crate::external::runtime;
use crate::support::Sandbox;

/// Writers on a database, from its start to its end.
pub struct Load {
    cluster: Arc<Cluster>,
    runtime: tokio::runtime::Runtime,
}

impl Load {
    /// Has four clients write to database `name`, which is there.
    pub fn start(sandbox: &Sandbox, name: &str, members: usize) -> Self {
        let runtime = runtime();
        let cluster = runtime.block_on(async {
            let (client, home) = (sandbox.client().await, sandbox.home().to_owned());
            let cluster = Cluster::of_dbctl(client, home, name, members, true, Instant::now()).await;
            let cluster = Arc::new(cluster);
            cluster.begin().await;
            cluster.notes.paused.store(false, Ordering::Relaxed);
            cluster
        });
        Self { cluster, runtime }
    }

    /// Where it writes.
    pub fn service(&self) -> SocketAddr {
        self.cluster.service
    }

    /// As whom.
    pub fn login(&self) -> Login {
        self.cluster.login.clone()
    }

    /// Now, on the clock of all instants.
    pub fn now(&self) -> Duration {
        self.cluster.notes.now()
    }

    /// The longest time between those instants in which nothing was acknowledged.
    pub fn longest_gap(&self, from: Duration, to: Duration) -> Duration {
        self.cluster.notes.history.lock().unwrap().longest_gap(from, to).0
    }

    /// What clients were told since then in the place of an acknowledgement, and how often.
    pub fn told(&self, since: Duration) -> BTreeMap<String, usize> {
        self.cluster.notes.history.lock().unwrap().told(since)
    }

    /// Ends all writers: how many rows were acknowledged, how many of them are missing, and how often two members accepted
    /// writes at once.
    pub fn end(self) -> (usize, usize, usize) {
        let lost = self.runtime.block_on(lost_at_the_end(&self.cluster));
        self.cluster.notes.stopped.store(true, Ordering::Relaxed);
        let history = self.cluster.notes.history.lock().unwrap();
        (history.rows.len(), lost.len(), doubles(&history).len())
    }
}
