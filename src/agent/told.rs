//! What the pods of backups and of verifications tell: ConfigMap `NAME-backups`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::api::{CATALOG_KEY, Names, Progress};
use crate::backup::base;
use crate::backup::store::{Store, StoreError};

/// How often the progress is written down.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Why nobody can be told.
#[derive(Debug, thiserror::Error)]
pub enum ToldError {
    /// The pod lacks something.
    #[error("find {0} in the environment")]
    Missing(&'static str),
    /// No way to the API server.
    #[error("reach the Kubernetes API: {0}")]
    Api(String),
}

/// The ConfigMap, and who writes to it.
pub(super) struct Told {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) maps: Api<ConfigMap>,
    name: String,
}

impl Told {
    /// That of a database in the pod's own namespace.
    pub(super) async fn here(database: &str) -> Result<(Client, Self), ToldError> {
        let variable = |name: &'static str| std::env::var(name).map_err(|_| ToldError::Missing(name));
        let (namespace, pod) = (variable("POD_NAMESPACE")?, variable("POD_NAME")?);
        let config = kube::Config::infer().await.map_err(|error| ToldError::Api(error.to_string()))?;
        let client = Client::try_from(config).map_err(|error| ToldError::Api(error.to_string()))?;
        let maps = Api::namespaced(client.clone(), &namespace);
        Ok((client, Self { namespace, pod, maps, name: Names(database).backups() }))
    }

    /// Writes the progress down, as often as it changes.
    pub(super) fn note<S: Clone + Send + Sync + 'static>(
        &self,
        key: &'static str,
        request: Option<String>,
        mut progress: watch::Receiver<S>,
        words: impl Fn(&S) -> (String, u64, Option<u64>) + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (maps, name, pod, started_at) =
            (self.maps.clone(), self.name.clone(), self.pod.clone(), Timestamp::now());
        async move {
            loop {
                let step = progress.borrow_and_update().clone();
                let (phase, bytes, total) = words(&step);
                let (request, pod) = (request.clone(), pod.clone());
                let value = Progress { request, pod, phase, bytes, total, started_at };
                patch(&maps, &name, key, json!(value)).await;
                tokio::time::sleep(PROGRESS_EVERY).await;
                if progress.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Writes one of its keys; `null` takes it away.
    pub(super) async fn write(&self, key: &str, value: Value) {
        patch(&self.maps, &self.name, key, value).await;
    }

    /// Writes down what the destination holds, and that what was told of by that key is over.
    pub(super) async fn catalog(&self, store: &Store, over: &str) -> Result<(), StoreError> {
        let catalog = base::catalog(store, Timestamp::now()).await?;
        self.write(over, Value::Null).await;
        self.write(CATALOG_KEY, json!(catalog)).await;
        Ok(())
    }
}

/// That nobody can read of it does not make what was done worse.
async fn patch(maps: &Api<ConfigMap>, name: &str, key: &str, value: Value) {
    let text = if value.is_null() { Value::Null } else { json!(value.to_string()) };
    let patch = Patch::Merge(json!({ "data": { key: text } }));
    if let Err(error) = maps.patch(name, &PatchParams::default(), &patch).await {
        tracing::warn!("failed to write {key} into {name}: {error}");
    }
}
