//! What becomes of data when a database grows, shrinks, fills its disks, is deleted and comes back.

mod adoption;
mod full_disk;
mod outlives;
pub(crate) mod refusals;
mod scaling;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::Api;

use crate::proof::clients::WRITERS;
use crate::proof::cluster::Cluster;
use crate::proof::session::{Login, Session};
use crate::support::{Sandbox, eventually};

/// A sandbox, and a database in it that is written to all the time.
struct Bench {
    sandbox: Sandbox,
    runtime: tokio::runtime::Runtime,
    start: Instant,
}

impl Bench {
    fn new(sandbox: Sandbox) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { sandbox, runtime: crate::external::runtime(), start: Instant::now() }
    }

    /// The database, as its clients see it.
    fn look(&self, name: &str, count: usize) -> Arc<Cluster> {
        let home = self.sandbox.home().to_owned();
        let cluster = async {
            let client = self.sandbox.client().await;
            Cluster::of_dbctl(client, home, name, count, true, self.start).await
        };
        Arc::new(self.runtime.block_on(cluster))
    }

    /// Writes to it until its notes are stopped.
    fn load(&self, name: &str, count: usize) -> Arc<Cluster> {
        let cluster = self.look(name, count);
        self.runtime.block_on(cluster.begin());
        cluster.notes.paused.store(false, Ordering::Relaxed);
        self.acknowledged(&cluster, "the first rows");
        cluster
    }

    /// Waits until rows that were sent from now on are acknowledged.
    #[track_caller]
    fn acknowledged(&self, cluster: &Cluster, what: &str) {
        let since = cluster.notes.now();
        eventually(&format!("{what} are acknowledged"), || {
            let history = cluster.notes.history.lock().unwrap();
            let fresh = history.rows.iter().rev().take(100).filter(|row| row.sent > since).count();
            if fresh > 10 { Ok(()) } else { Err(format!("{:?}", history.told(since))) }
        });
    }

    /// Nobody writes any more; returns how many rows were acknowledged.
    fn stop(&self, cluster: &Cluster) -> usize {
        cluster.notes.stopped.store(true, Ordering::Relaxed);
        // What is under way is answered, or never will be.
        std::thread::sleep(Duration::from_secs(3));
        cluster.notes.history.lock().unwrap().rows.len()
    }

    /// Which acknowledged rows of `written` are not there when `now` is asked.
    #[track_caller]
    fn lost(&self, written: &Cluster, now: &Cluster) -> Vec<(u32, u64)> {
        let found: HashSet<(u32, u64)> =
            eventually("the rows can be read", || self.runtime.block_on(now.rows(&[0; WRITERS as usize])))
                .into_iter()
                .collect();
        let history = written.notes.history.lock().unwrap();
        let rows = history.rows.iter().map(|row| (row.writer, row.n));
        rows.filter(|row| !found.contains(row)).collect()
    }

    /// The longest time without an acknowledgement since then.
    fn gap(&self, cluster: &Cluster, since: Duration) -> Duration {
        let history = cluster.notes.history.lock().unwrap();
        history.longest_gap(since, cluster.notes.now()).0
    }

    fn claim(&self, name: &str) -> PersistentVolumeClaim {
        self.runtime.block_on(async {
            let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(self.sandbox.client().await);
            claims.get(name).await.unwrap()
        })
    }

    /// What pods see of a member's volume; `bounded` as the sandbox has it.
    fn volume(&self, claim: &str, bounded: bool) -> PathBuf {
        let volume = self.claim(claim).spec.unwrap().volume_name.unwrap();
        let place = self.sandbox.home().join("sandbox/volumes").join(volume);
        if bounded { place.join("data") } else { place }
    }

    /// The password that a Secret holds.
    fn password(&self, secret: &str, key: &str) -> String {
        self.runtime.block_on(async {
            let secrets: Api<Secret> = Api::default_namespaced(self.sandbox.client().await);
            let data = secrets.get(secret).await.unwrap().data.unwrap();
            String::from_utf8(data[key].0.clone()).unwrap()
        })
    }

    /// SQL as the superuser, with the password of the Secret.
    #[track_caller]
    fn superuser(&self, name: &str, sql: &str) {
        let login = Login {
            user: "postgres".into(),
            password: self.password(&format!("{name}-internal"), "superuser-password"),
            database: "postgres".into(),
            tls: self.look(name, 1).login.tls.clone(),
        };
        let service = self.look(name, 1).service;
        eventually("the superuser is served", || {
            self.runtime.block_on(async {
                let session = Session::open(service, &login).await?;
                session.query(sql, Duration::from_secs(30)).await.map(drop)
            })
        });
    }

    fn primary(&self, name: &str) -> String {
        self.sandbox.database(name)["status"]["primary"].as_str().unwrap_or_default().to_owned()
    }
}

/// Status and reason of a condition.
fn condition(sandbox: &Sandbox, name: &str, kind: &str) -> (String, String, String) {
    let database = sandbox.database(name);
    let conditions = database["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|each| each["type"] == kind).unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}
