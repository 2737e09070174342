//! Patroni's ConfigMaps at the Kubernetes API, as this pod's Role allows them: read and patched by name.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::patroni::LEADER;

/// An API server that takes longer is as good as gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// Patroni's annotation of `NAME-config`: the system identifier; empty while the database is made.
const INITIALIZE: &str = "initialize";
/// Ours beside it: who makes it.
const BEGUN_BY: &str = "db.example.com/begun-by";

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No client could be made of the pod's credentials.
    #[error("use the pod's credentials: {0}")]
    Config(String),
    /// The API server says no, or cannot be reached.
    #[error("reach the Kubernetes API: {0}")]
    Api(Box<kube::Error>),
    /// It did not answer in time.
    #[error("reach the Kubernetes API: no answer in {} s", PATIENCE.as_secs())]
    Late,
}

impl StoreError {
    /// Somebody else wrote the object meanwhile.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(error) if matches!(error.as_ref(), kube::Error::Api(status) if status.code == 409))
    }
}

/// The objects of one database.
pub struct Store {
    namespace: String,
    scope: String,
    /// Made at first use: few members ever need it.
    maps: OnceCell<Api<ConfigMap>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Store {
    /// The objects of the database that Patroni calls `scope`.
    pub fn new(namespace: &str, scope: &str) -> Self {
        Self { namespace: namespace.to_owned(), scope: scope.to_owned(), maps: OnceCell::new() }
    }

    async fn maps(&self) -> Result<&Api<ConfigMap>, StoreError> {
        let make = || async {
            let config =
                kube::Config::infer().await.map_err(|error| StoreError::Config(error.to_string()))?;
            let client =
                kube::Client::try_from(config).map_err(|error| StoreError::Config(error.to_string()))?;
            Ok(Api::namespaced(client, &self.namespace))
        };
        self.maps.get_or_try_init(make).await
    }

    /// The ConfigMap `SCOPE-SUFFIX`; null where there is none.
    pub async fn read(&self, suffix: &str) -> Result<Value, StoreError> {
        let name = format!("{}-{suffix}", self.scope);
        let found = within(async { self.maps().await?.get_opt(&name).await.map_err(api) }).await?;
        Ok(found.map_or(Value::Null, |map| json!(map)))
    }

    /// Gives up the leader lock, if it is still as it was in that version. The position is where the primary's WAL ends.
    pub async fn release(&self, version: &str, position: i64) -> Result<(), StoreError> {
        let patch = json!({ "metadata": {
            "resourceVersion": version,
            "annotations": { LEADER: null, "optime": position.to_string() },
        } });
        let name = format!("{}-leader", self.scope);
        let patch = Patch::Merge(patch);
        let write =
            async { self.maps().await?.patch(&name, &PatchParams::default(), &patch).await.map_err(api) };
        within(write).await.map(drop)
    }

    /// Notes which member makes the database.
    pub async fn begin(&self, pod: &str) -> Result<(), StoreError> {
        self.patch_config(json!({ "metadata": { "annotations": { BEGUN_BY: pod } } })).await
    }

    /// Takes back that the database is being made, if it was this member that made it: Patroni would wait for it for ever.
    pub async fn end_begun(&self, pod: &str) -> Result<(), StoreError> {
        let map = self.read("config").await?;
        let annotation = |key: &str| map["metadata"]["annotations"].get(key).and_then(Value::as_str);
        if annotation(INITIALIZE) != Some("") || annotation(BEGUN_BY) != Some(pod) {
            return Ok(());
        }
        let version = &map["metadata"]["resourceVersion"];
        let patch =
            json!({ "metadata": { "resourceVersion": version, "annotations": { INITIALIZE: null } } });
        self.patch_config(patch).await
    }

    async fn patch_config(&self, patch: Value) -> Result<(), StoreError> {
        let name = format!("{}-config", self.scope);
        let patch = Patch::Merge(patch);
        let write =
            async { self.maps().await?.patch(&name, &PatchParams::default(), &patch).await.map_err(api) };
        within(write).await.map(drop)
    }
}

fn api(error: kube::Error) -> StoreError {
    StoreError::Api(Box::new(error))
}

async fn within<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(StoreError::Late))
}
