//! The controller against the sandbox's API server. Pods are played by the test.

mod access;
mod lease;
mod metrics;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::runtime::events::Reporter;
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::act::Actor;
use super::resource::{namespaced, plain};
use super::{ControllerConfig, LeaseConfig, MetricsConfig, Reached, Terms, run};
use crate::api::{Database, crd};
use crate::install::{ACCOUNT, NAMESPACE, Scope, apply, rbac};
use crate::plan::{APPLIED, Action, Kind, Observed, Settings, TEMPLATE, name_of, needed, plan};
use crate::sandbox::api::{ApiConfig, Running, serve};

/// A client's configuration with a bearer token, read as a kubeconfig is.
async fn token_config(server: &str, token: &str) -> Config {
    let kubeconfig = serde_json::from_value(json!({
        "clusters": [{ "name": "c", "cluster": { "server": server } }],
        "users": [{ "name": "u", "user": { "token": token } }],
        "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u", "namespace": "default" } }],
        "current-context": "x",
    }))
    .unwrap();
    Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap()
}

/// Long enough for a busy machine; nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    client: Client,
    stop: CancellationToken,
    api: Running,
    /// Where the controller's metrics are, for those who may read them.
    metrics: SocketAddr,
    controller: tokio::task::JoinHandle<Result<(), super::ControllerError>>,
    _state: tempfile::TempDir,
}

/// A controller that is one of several, and renews often.
fn elected(identity: &str) -> ControllerConfig {
    let millis = std::time::Duration::from_millis;
    let terms =
        Terms { lease: millis(12_000), give_up: millis(9000), renew: millis(500), retry: millis(1000) };
    let lease = LeaseConfig {
        namespace: NAMESPACE.to_owned(),
        name: ACCOUNT.to_owned(),
        identity: identity.to_owned(),
        terms,
    };
    ControllerConfig { lease: Some(lease), ..ControllerConfig::default() }
}

impl Cluster {
    /// The controller with the role that it has in a cluster.
    async fn start(definition: CustomResourceDefinition) -> Self {
        Self::start_with(definition, &rbac(NAMESPACE, Scope::Cluster)).await
    }

    async fn start_with(definition: CustomResourceDefinition, role: &[Value]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let _ =
            tracing_subscriber::fmt().with_env_filter("dbctl=debug,kube=info").with_test_writer().try_init();
        let state = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let config = ApiConfig::new(
            state.path().to_owned(),
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            Ipv4Addr::new(127, 98, 255, 0),
            "admin",
        );
        let api = serve(config, stop.clone()).await.unwrap();
        let config: Config = token_config(&format!("http://{}", api.address), "admin").await;
        let client = Client::try_from(config).unwrap();
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        definitions.create(&PostParams::default(), &definition).await.unwrap();
        let databases: Api<Database> = Api::default_namespaced(client.clone());
        eventually("the definition is served", || async {
            databases.list_metadata(&ListParams::default()).await.is_ok()
        })
        .await;
        let token = Self::install(&client, role).await;
        let own = token_config(&format!("http://{}", api.address), &token).await;
        let own = Client::try_from(own).unwrap();
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let metrics = listener.local_addr().unwrap();
        let config = MetricsConfig { listener, to: Reached::ByReaders { certificate: None } };
        let config = ControllerConfig { metrics: Some(config), ..elected("first") };
        let controller = tokio::spawn(run(own, config, stop.clone()));
        Self { client, stop, api, metrics, controller, _state: state }
    }

    /// As `kubectl apply -f manifests/rbac.yaml`; returns a token of the controller's account.
    async fn install(client: &Client, role: &[Value]) -> String {
        let namespace = json!({ "metadata": { "name": NAMESPACE } });
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
        for object in role {
            apply(client, "test", object.clone()).await.unwrap();
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
        let request = TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
        let answer = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.controller.await.unwrap().unwrap();
        drop(self.client);
        self.api.finished().await.unwrap();
    }

    fn databases(&self) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: "db.example.com".into(),
            version: "v1alpha1".into(),
            api_version: "db.example.com/v1alpha1".into(),
            kind: "Database".into(),
            plural: "databases".into(),
        };
        Api::default_namespaced_with(self.client.clone(), &resource)
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        namespaced(&self.client, "default", kind)
    }

    async fn create_database(&self, name: &str, spec: Value) {
        let mut base = json!({ "replicas": 2, "version": "16.15", "storage": { "size": "1Gi" } });
        json_patch::merge(&mut base, &spec);
        self.post(&self.databases(), json!({ "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": { "name": name }, "spec": base })).await;
    }

    async fn post(&self, api: &Api<DynamicObject>, object: Value) {
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    async fn has(&self, kind: Kind, name: &str) -> bool {
        self.api(kind).get_opt(name).await.unwrap().is_some()
    }

    async fn annotate(&self, kind: Kind, name: &str, annotations: Value) {
        let patch = json!({ "metadata": { "annotations": annotations } });
        self.api(kind).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Status and reason of a Database's condition.
    async fn says(&self, name: &str, kind: &str) -> Option<(String, String)> {
        let database = self.databases().get_opt(name).await.unwrap()?;
        let conditions = database.data["status"]["conditions"].as_array()?.clone();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind)?;
        Some((found["status"].as_str()?.to_owned(), found["reason"].as_str()?.to_owned()))
    }

    async fn wait_for(&self, name: &str, kind: &str, status: &str, reason: &str) {
        let start = Instant::now();
        loop {
            let said = self.says(name, kind).await;
            if said == Some((status.to_owned(), reason.to_owned())) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{kind} of {name} is {said:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Plays the StatefulSet controller, the node, Patroni and the EndpointSlice controller.
    async fn play(&self, name: &str, replicas: i32) {
        let set = plain(self.api(Kind::StatefulSet).get(name).await.unwrap());
        for ordinal in 0..replicas {
            self.play_member(name, ordinal, &set).await;
        }
        let config = json!({ "initialize": "77", "config": self.dynamic_config(name).await });
        self.annotate(Kind::ConfigMap, &format!("{name}-config"), config).await;
        let standbys: Vec<String> = (1..replicas).map(|ordinal| format!("{name}-{ordinal}")).collect();
        let sync = json!({ "leader": format!("{name}-0"), "sync_standby": standbys.join(",") });
        self.annotate(Kind::ConfigMap, &format!("{name}-sync"), sync).await;
        self.annotate(Kind::ConfigMap, &format!("{name}-leader"), json!({ "leader": format!("{name}-0") }))
            .await;
        let labels = json!({ "db.example.com/database": name, "kubernetes.io/service-name": name });
        let slice = json!({
            "metadata": { "name": format!("{name}-x"), "labels": labels },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": ["127.98.1.1"], "conditions": { "ready": true }, "targetRef": { "kind": "Pod", "name": format!("{name}-0") } }],
        });
        self.post(&self.api(Kind::EndpointSlice), slice).await;
    }

    async fn play_member(&self, name: &str, ordinal: i32, set: &Value) {
        let claim = json!({
            "metadata": { "name": format!("data-{name}-{ordinal}"), "labels": set["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"] },
            "spec": set["spec"]["volumeClaimTemplates"][0]["spec"],
        });
        self.post(&self.api(Kind::PersistentVolumeClaim), claim).await;
        self.status(
            Kind::PersistentVolumeClaim,
            &format!("data-{name}-{ordinal}"),
            json!({ "phase": "Bound" }),
        )
        .await;
        // Nothing here takes the protection away that a claim is made with.
        let bare = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        let claims = self.api(Kind::PersistentVolumeClaim);
        claims.patch(&format!("data-{name}-{ordinal}"), &PatchParams::default(), &bare).await.unwrap();
        let status = if ordinal == 0 {
            json!({ "role": "primary", "state": "running", "timeline": 1 })
        } else {
            json!({ "role": "replica", "state": "running", "replication_state": "streaming", "timeline": 1 })
        };
        let template = &set["spec"]["template"]["metadata"]["annotations"][TEMPLATE];
        let mut spec = set["spec"]["template"]["spec"].clone();
        spec["nodeName"] = json!("node");
        spec["volumes"].as_array_mut().unwrap().push(json!({ "name": "data", "emptyDir": {} }));
        let pod = format!("{name}-{ordinal}");
        let owner = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "uid": set["metadata"]["uid"], "controller": true });
        let metadata = json!({
            "name": pod, "labels": set["spec"]["template"]["metadata"]["labels"], "ownerReferences": [owner],
            "annotations": { "status": status.to_string(), TEMPLATE: template },
        });
        self.post(&self.api(Kind::Pod), json!({ "metadata": metadata, "spec": spec })).await;
        let ready = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] });
        self.status(Kind::Pod, &pod, ready).await;
    }

    async fn status(&self, kind: Kind, name: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        self.api(kind).patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// What Patroni would copy from the file.
    async fn dynamic_config(&self, name: &str) -> String {
        let map = self.api(Kind::ConfigMap).get(&format!("{name}-patroni")).await.unwrap();
        let file: Value = serde_json::from_str(map.data["data"]["patroni.yml"].as_str().unwrap()).unwrap();
        file["bootstrap"]["dcs"].to_string()
    }

    /// Every object's version.
    async fn versions(&self) -> Vec<(String, Option<String>)> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            for object in self.api(kind).list(&ListParams::default()).await.unwrap() {
                all.push((format!("{kind} {}", object.name_any()), object.resource_version()));
            }
        }
        for database in self.databases().list(&ListParams::default()).await.unwrap() {
            all.push((format!("Database {}", database.name_any()), database.resource_version()));
        }
        all
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_database_comes_up_rests_and_goes() {
    let cluster = Cluster::start(crd()).await;
    cluster.create_database("db", json!({ "deletionPolicy": "Delete" })).await;
    eventually("the StatefulSet is made", || cluster.has(Kind::StatefulSet, "db")).await;
    for (kind, name) in needed("db", 0) {
        assert!(cluster.has(kind, &name).await, "{kind} {name}");
    }
    let secrets: Api<Secret> = Api::default_namespaced(cluster.client.clone());
    let app = secrets.get("db-app").await.unwrap().data.unwrap();
    let text = |key: &str| String::from_utf8(app[key].0.clone()).unwrap();
    assert_eq!(
        text("uri"),
        format!("postgresql://app:{}@db.default.svc:5432/app?sslmode=require", text("password"))
    );

    cluster.play("db", 2).await;
    cluster.wait_for("db", "Ready", "True", "AllMembersReady").await;

    // Others' changes call for passes, which find nothing to do.
    cluster.annotate(Kind::Service, "db", json!({ "else": "1" })).await;
    let before = cluster.versions().await;
    cluster.annotate(Kind::Service, "db", json!({ "else": "2" })).await;
    cluster.annotate(Kind::Service, "db", json!({ "else": "3" })).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let changed: Vec<_> = cluster
        .versions()
        .await
        .into_iter()
        .filter(|version| !before.contains(version))
        .map(|(what, _)| what)
        .collect();
    assert_eq!(changed, ["Service db"]);

    cluster.databases().delete("db", &DeleteParams::default()).await.unwrap();
    eventually("the StatefulSet is deleted", || async { !cluster.has(Kind::StatefulSet, "db").await }).await;
    assert!(cluster.has(Kind::PersistentVolumeClaim, "data-db-0").await, "its pods still run");
    for pod in ["db-0", "db-1"] {
        cluster.api(Kind::Pod).delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
    eventually("the Database is gone", || async {
        cluster.databases().get_opt("db").await.unwrap().is_none()
    })
    .await;
    for kind in [Kind::PersistentVolumeClaim, Kind::Secret] {
        assert!(cluster.api(kind).list(&ListParams::default()).await.unwrap().items.is_empty(), "{kind}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn an_object_of_another_is_not_touched() {
    let cluster = Cluster::start(crd()).await;
    let service = json!({ "metadata": { "name": "db-ro" }, "spec": { "ports": [{ "port": 80 }], "selector": { "app": "shop" } } });
    cluster.post(&cluster.api(Kind::Service), service).await;
    let before = plain(cluster.api(Kind::Service).get("db-ro").await.unwrap());
    cluster.create_database("db", json!({})).await;
    cluster.wait_for("db", "Ready", "False", "NameTaken").await;
    assert_eq!(plain(cluster.api(Kind::Service).get("db-ro").await.unwrap()), before);
    assert!(!cluster.has(Kind::StatefulSet, "db").await && !cluster.has(Kind::Secret, "db-app").await);
    cluster.stop().await;
}

/// A pass looks, then writes; what appears in between, or is another Database's work of the same moment, is not ours.
#[tokio::test]
async fn what_appears_between_look_and_write_is_not_taken_over() {
    let cluster = Cluster::start(crd()).await;
    let database: Database = serde_json::from_value(json!({
        "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
        "metadata": { "name": "late", "namespace": "default", "uid": "1" },
        "spec": { "replicas": 3, "version": "16.15", "storage": { "size": "1Gi" } },
    }))
    .unwrap();
    let observed = Observed::default();
    let plan = plan(&database, &observed, &Settings::default(), jiff::Timestamp::now());
    let patroni = crate::patroni::Client::new().unwrap();
    let reporter = Reporter { controller: "test".into(), instance: None };
    let mut actor = Actor::new(&cluster.client, &patroni, &reporter, &database, &observed);
    let mut tried = 0;
    for action in &plan.actions {
        let Action::Apply(apply) = action else { continue };
        let name = name_of(&apply.body);
        let mut theirs = apply.body.clone();
        theirs["metadata"]["ownerReferences"][0]["uid"] = json!("2");
        let mut manager = "dbctl";
        if apply.kind == Kind::StatefulSet {
            // No two Databases make one of the same name.
            manager = "kubectl";
            theirs["spec"]["replicas"] = json!(7);
        }
        let api = cluster.api(apply.kind);
        api.patch(name, &PatchParams::apply(manager), &Patch::Apply(&theirs)).await.unwrap();
        let before = plain(api.get(name).await.unwrap());
        let failed = actor.act(action).await.unwrap_err();
        assert!(failed.is_conflict(), "{}: {failed}", apply.kind);
        assert_eq!(plain(api.get(name).await.unwrap()), before);
        tried += 1;
    }
    assert_eq!(tried, 9);
    cluster.stop().await;
}

/// As an older definition, or a hand in the store, may leave them.
fn lax_definition() -> CustomResourceDefinition {
    let mut definition = serde_json::to_value(crd()).unwrap();
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    *schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    serde_json::from_value(definition).unwrap()
}

#[tokio::test]
async fn an_unreadable_database_does_not_stop_the_others() {
    let cluster = Cluster::start(lax_definition()).await;
    cluster.create_database("bad", json!({ "replicas": "many" })).await;
    for (name, spec) in [
        ("bad-version", json!({ "version": "sixteen" })),
        ("bad-storage", json!({ "storage": null })),
        ("bad-everything", json!(null)),
        ("bad-parameters", json!({ "parameters": [1, { "a": null }] })),
    ] {
        cluster.create_database(name, spec).await;
    }
    let long = "x".repeat(60);
    cluster.create_database(&long, json!({})).await;
    cluster.create_database("odd.name", json!({})).await;
    cluster.create_database("scribbled", json!({ "replicas": 1 })).await;
    let scribble = Patch::Merge(json!({ "status": { "phase": 5, "conditions": "none" } }));
    cluster.databases().patch_status("scribbled", &PatchParams::default(), &scribble).await.unwrap();
    cluster.create_database("good", json!({ "replicas": 1 })).await;
    eventually("the other one is made", || cluster.has(Kind::StatefulSet, "good")).await;
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::default_namespaced(cluster.client.clone());
    eventually("it is said", || async {
        let all = events.list(&ListParams::default()).await.unwrap();
        all.iter().any(|event| {
            event.reason.as_deref() == Some("Malformed")
                && event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some("bad")
        })
    })
    .await;
    for name in ["bad", "bad-version", "bad-storage", "bad-everything", "bad-parameters", &long, "odd.name"] {
        assert!(!cluster.has(Kind::StatefulSet, name).await, "{name}");
    }
    cluster.wait_for(&long, "Ready", "False", "InvalidSpec").await;
    cluster.stop().await;
}

#[tokio::test]
async fn without_its_definition_it_says_so() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let state = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let config = ApiConfig::new(
        state.path().to_owned(),
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        Ipv4Addr::new(127, 97, 255, 0),
        "admin",
    );
    let api = serve(config, stop.clone()).await.unwrap();
    let client = Client::try_from(token_config(&format!("http://{}", api.address), "admin").await).unwrap();
    let ended = run(client, ControllerConfig::default(), stop.clone()).await;
    assert!(matches!(ended, Err(super::ControllerError::NoDefinition)), "{ended:?}");
    stop.cancel();
}
