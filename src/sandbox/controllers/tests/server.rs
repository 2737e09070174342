//! A server and controllers of a test's own, and a few words to talk to them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::sandbox::api::{self, ApiConfig, Running};
use crate::sandbox::controllers::{Config, ControllersError, run_with};

const ADMIN: &str = "an administrator's token";
/// Only a failure takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Plane {
    pub(super) client: Client,
    address: SocketAddr,
    state: TempDir,
    server: Option<(Running, CancellationToken)>,
    stop: CancellationToken,
    controllers: JoinHandle<Result<(), ControllersError>>,
}

async fn serve(state: &TempDir, address: SocketAddr) -> (Running, CancellationToken) {
    let stop = CancellationToken::new();
    let services = Ipv4Addr::new(127, 98, 255, 0);
    let config = ApiConfig::new(state.path().to_owned(), address, services, ADMIN);
    (api::serve(config, stop.clone()).await.unwrap(), stop)
}

impl Plane {
    pub(super) async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    pub(super) async fn start_with(config: Config) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let state = tempfile::tempdir().unwrap();
        let (running, server_stop) = serve(&state, (Ipv4Addr::LOCALHOST, 0).into()).await;
        let address = running.address;
        let mut access = kube::Config::new(format!("http://{address}").parse().unwrap());
        access.auth_info.token = Some(ADMIN.to_owned().into());
        let client = Client::try_from(access).unwrap();
        let stop = CancellationToken::new();
        let controllers = tokio::spawn(run_with(client.clone(), config, stop.clone()));
        let plane = Self { client, address, state, server: Some((running, server_stop)), stop, controllers };
        plane
            .eventually("/apis/storage.k8s.io/v1/storageclasses/standard", |class| {
                class["kind"] == "StorageClass"
            })
            .await;
        plane
    }

    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        self.controllers.await.unwrap().unwrap();
        if let Some((running, stop)) = self.server.take() {
            stop.cancel();
            drop(self.client);
            running.finished().await.unwrap();
        }
    }

    /// The server goes away and comes back with the same objects at the same address.
    pub(super) async fn restart_server(&mut self) {
        let (running, stop) = self.server.take().unwrap();
        stop.cancel();
        running.finished().await.unwrap();
        self.server = Some(serve(&self.state, self.address).await);
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Option<Value>,
    ) -> Result<Value, kube::Error> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request =
            http::Request::builder().method(method).uri(path).header("content-type", kind).body(body);
        self.client.request(request.unwrap()).await
    }

    pub(super) async fn get(&self, path: &str) -> Option<Value> {
        self.send("GET", path, "application/json", None).await.ok()
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Value {
        self.send("POST", path, "application/json", Some(body)).await.unwrap()
    }

    pub(super) async fn merge(&self, path: &str, body: Value) -> Value {
        self.send("PATCH", path, "application/merge-patch+json", Some(body)).await.unwrap()
    }

    pub(super) async fn status(&self, path: &str, status: Value) -> Value {
        let body = json!({ "status": status });
        let path = format!("{path}/status");
        self.send("PATCH", &path, "application/strategic-merge-patch+json", Some(body)).await.unwrap()
    }

    pub(super) async fn delete(&self, path: &str) {
        self.send("DELETE", path, "application/json", None).await.unwrap();
    }

    pub(super) async fn delete_with(&self, path: &str, options: Value) {
        self.send("DELETE", path, "application/json", Some(options)).await.unwrap();
    }

    /// The object once it is as asked.
    #[track_caller]
    pub(super) fn eventually(
        &self,
        path: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        let path = path.to_owned();
        async move {
            let end = Instant::now() + PATIENCE;
            loop {
                let found = self.get(&path).await.unwrap_or_default();
                if holds(&found) {
                    return found;
                }
                assert!(Instant::now() < end, "{caller}: {path} is never as it should be: {found:#}");
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Waits until there is nothing at that path.
    #[track_caller]
    pub(super) fn gone(&self, path: &str) -> impl Future<Output = Value> {
        self.eventually(path, Value::is_null)
    }

    pub(super) async fn node(&self, name: &str) {
        self.post("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
            .await;
        self.status(
            &format!("/api/v1/nodes/{name}"),
            json!({"conditions": [{"type": "Ready", "status": "True"}]}),
        )
        .await;
    }

    /// The version of everything there is: it moves with every write.
    pub(super) async fn version(&self) -> String {
        let list = self.get("/api/v1/namespaces").await.unwrap();
        list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    }

    /// Waits until nothing has been written for a while.
    pub(super) async fn settled(&self) {
        let end = Instant::now() + PATIENCE;
        let mut last = (self.version().await, Instant::now());
        while last.1.elapsed() < Duration::from_millis(700) {
            assert!(Instant::now() < end, "writes never end");
            sleep(Duration::from_millis(50)).await;
            let version = self.version().await;
            if version != last.0 {
                last = (version, Instant::now());
            }
        }
    }
}

pub(super) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(super) const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
pub(super) const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
pub(super) const CONFIGS: &str = "/api/v1/namespaces/default/configmaps";
pub(super) const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

/// A pod's or template's spec.
pub(super) fn containers() -> Value {
    json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "one", "image": "i:1"}]})
}

pub(super) fn stateful_set(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "serviceName": name, "replicas": replicas, "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": containers()},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
        },
    })
}

pub(super) fn running() -> Value {
    json!({"phase": "Running", "podIP": "127.98.1.1", "podIPs": [{"ip": "127.98.1.1"}],
           "conditions": [{"type": "Ready", "status": "True"}]})
}
