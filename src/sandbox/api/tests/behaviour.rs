//! What the recordings do not touch.

use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{finalizer, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{ADMIN, Server};

const SOON: Duration = Duration::from_secs(10);

impl Server {
    fn client(&self) -> Client {
        let mut config = Config::new(self.url("").parse().unwrap());
        config.auth_info.token = Some(ADMIN.to_owned().into());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let response = self.request(method, path).json(&body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.request("GET", path).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

async fn server() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    (dir, server)
}

fn map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": "x"}}, "data": {"k": value}}))
        .unwrap()
}

async fn watched(config: watcher::Config) {
    let (_dir, server) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    let mut events = std::pin::pin!(watcher(maps.clone(), config));
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let event = timeout(SOON, events.next()).await.unwrap().unwrap().unwrap();
        seen.push(match event {
            watcher::Event::Init => "init".to_owned(),
            watcher::Event::InitApply(object) => format!("first {}", object.name_any()),
            watcher::Event::InitDone => {
                maps.create(&PostParams::default(), &map("b", "1")).await.unwrap();
                maps.delete("a", &Default::default()).await.unwrap();
                "listed".to_owned()
            }
            watcher::Event::Apply(object) => format!("made {}", object.name_any()),
            watcher::Event::Delete(object) => format!("gone {}", object.name_any()),
        });
    }
    assert_eq!(seen, ["init", "first a", "listed", "made b", "gone a"]);
    server.stop().await;
}

#[tokio::test]
async fn kube_watches_after_a_list() {
    watched(watcher::Config::default().labels("app=x")).await;
}

#[tokio::test]
async fn kube_watches_with_a_streaming_list() {
    watched(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn kube_adds_and_removes_its_finalizer() {
    let (_dir, server) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let mut object = maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    let mut steps = Vec::new();
    for round in 0..3 {
        if round == 2 {
            maps.delete("a", &Default::default()).await.unwrap();
        }
        let Some(current) = maps.get_opt("a").await.unwrap() else { break };
        object = current;
        let seen = std::sync::Mutex::new("added");
        finalizer(&maps, "example.com/hold", object.clone().into(), |event| {
            *seen.lock().unwrap() = match event {
                finalizer::Event::Apply(_) => "applied",
                finalizer::Event::Cleanup(_) => "cleaned",
            };
            async { Ok::<_, std::io::Error>(kube::runtime::controller::Action::await_change()) }
        })
        .await
        .unwrap();
        steps.push(*seen.lock().unwrap());
    }
    assert_eq!(steps, ["added", "applied", "cleaned"]);
    assert!(object.meta().deletion_timestamp.is_some());
    assert!(maps.get_opt("a").await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn kube_records_events_and_repeats_them() {
    let (_dir, server) = server().await;
    let client = server.client();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let object = maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    let recorder = Recorder::new(client, Reporter { controller: "dbctl".into(), instance: None });
    for _ in 0..2 {
        let event = Event {
            type_: EventType::Normal,
            reason: "Tested".into(),
            note: Some("all is well".into()),
            action: "Test".into(),
            secondary: None,
        };
        recorder.publish(&event, &object.object_ref(&())).await.unwrap();
    }
    let (_, events) = server.get("/api/v1/namespaces/default/events").await;
    assert_eq!(events["items"].as_array().unwrap().len(), 1);
    assert_eq!(events["items"][0]["message"], "all is well");
    let (_, events) = server.get("/apis/events.k8s.io/v1/namespaces/default/events").await;
    assert_eq!(events["items"][0]["series"]["count"], 2, "{events}");
    server.stop().await;
}

#[tokio::test]
async fn an_apply_that_changes_nothing_writes_nothing() {
    let (_dir, server) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let apply = || async {
        let applied =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "1"}});
        let patch = Patch::Apply(applied);
        maps.patch("a", &PatchParams::apply("dbctl").force(), &patch).await.unwrap().resource_version()
    };
    assert_eq!(apply().await, apply().await);
    server.stop().await;
}

#[tokio::test]
async fn a_manager_that_gives_up_all_it_has_owns_nothing() {
    let (_dir, server) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let apply = async |data: Value| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
        maps.patch("a", &PatchParams::apply("m"), &Patch::Apply(body)).await.unwrap()
    };
    assert!(!apply(json!({"k": "1"})).await.managed_fields().is_empty());
    let given_up = apply(json!({})).await;
    assert_eq!((given_up.data.clone(), given_up.managed_fields()), (None, &[][..]));
    server.stop().await;
}

#[tokio::test]
async fn long_prefixes_of_made_up_names_are_cut() {
    let (_dir, server) = server().await;
    let body = json!({"metadata": {"generateName": "x".repeat(240)}});
    let (code, made) = server.send("POST", "/api/v1/namespaces/default/configmaps", body).await;
    assert_eq!((code, made["metadata"]["name"].as_str().map(str::len)), (201, Some(63)), "{made}");
    server.stop().await;
}

#[tokio::test]
async fn options_that_do_not_fit_are_refused() {
    let (_dir, server) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    for name in ["a", "b"] {
        maps.create(&PostParams::default(), &map(name, "1")).await.unwrap();
    }
    let path = "/api/v1/namespaces/default/configmaps";
    let (_, page) = server.get(&format!("{path}?limit=1")).await;
    let next = page["metadata"]["continue"].as_str().unwrap();
    assert_eq!(server.get(&format!("{path}?limit=1&continue={next}&resourceVersion=1")).await.0, 400);
    assert_eq!(server.get(&format!("{path}/a?resourceVersion=999999")).await.0, 504);
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    assert_eq!(server.send("DELETE", &format!("{path}/a"), both).await.0, 422);
    assert!(maps.get_opt("a").await.unwrap().is_some());
    server.stop().await;
}

#[tokio::test]
async fn an_evicted_pod_says_so() {
    let (_dir, server) = server().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(server.send("POST", pods, pod).await.0, 201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    assert_eq!(server.send("POST", &format!("{pods}/p/eviction"), eviction).await.0, 201);
    let (_, evicted) = server.get(&format!("{pods}/p")).await;
    let conditions = evicted["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|condition| condition["reason"] == "EvictionByEvictionAPI"), "{evicted}");
    server.stop().await;
}

#[tokio::test]
async fn evictions_at_once_share_a_budget() {
    let (_dir, server) = server().await;
    let namespace = "/api/v1/namespaces/default/pods";
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    assert_eq!(server.send("POST", budgets, budget).await.0, 201);
    let patch = |path: String, status: Value| {
        let request = server.request("PATCH", &path).body(json!({"status": status}).to_string());
        request.header("content-type", "application/merge-patch+json").send()
    };
    let status = json!({"observedGeneration": 1, "disruptionsAllowed": 3, "currentHealthy": 8, "desiredHealthy": 5,
        "expectedPods": 8});
    assert_eq!(patch(format!("{budgets}/b/status"), status).await.unwrap().status(), 200);
    for n in 0..8 {
        let pod = json!({"metadata": {"name": format!("p{n}"), "labels": {"app": "x"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(server.send("POST", namespace, pod).await.0, 201);
        let running = json!({"phase": "Running"});
        assert_eq!(patch(format!("{namespace}/p{n}/status"), running).await.unwrap().status(), 200);
    }
    let evictions = (0..8).map(|n| {
        let eviction =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": format!("p{n}")}});
        let (server, path) = (&server, format!("{namespace}/p{n}/eviction"));
        async move { server.send("POST", &path, eviction).await.0 }
    });
    let mut codes = futures::future::join_all(evictions).await;
    codes.sort_unstable();
    assert_eq!(codes, [201, 201, 201, 429, 429, 429, 429, 429]);
    server.stop().await;
}

#[tokio::test]
async fn what_typed_clients_could_not_read_is_refused() {
    let (_dir, server) = server().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let (code, answer) =
        server.send("POST", path, json!({"metadata": {"name": "a"}, "data": {"k": 1}})).await;
    assert_eq!((code, &answer["reason"]), (400, &json!("BadRequest")), "{answer}");
    let nulls = json!({"metadata": {"name": "a", "creationTimestamp": null, "labels": null}, "data": null});
    assert_eq!(server.send("POST", path, nulls).await.0, 201);
    let patch =
        server.request("PATCH", &format!("{path}/a")).header("content-type", "application/merge-patch+json");
    assert_eq!(patch.body("{\"data\": {\"k\": [1]}}").send().await.unwrap().status(), 422);
    server.stop().await;
}

#[tokio::test]
async fn unknown_fields_are_warned_of_or_refused() {
    let (_dir, server) = server().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let body = json!({"metadata": {"name": "a"}, "nope": 1});
    let strict = server.send("POST", &format!("{path}?fieldValidation=Strict"), body.clone()).await;
    assert_eq!(strict.0, 400);
    assert!(strict.1["message"].as_str().unwrap().contains("unknown field \"nope\""), "{}", strict.1);
    let warned = server.request("POST", path).json(&body).send().await.unwrap();
    assert_eq!(warned.headers()["warning"], "299 - \"unknown field \\\"nope\\\"\"");
    assert_eq!(warned.status(), 201);
    server.stop().await;
}

#[tokio::test]
async fn pages_of_a_list_are_one_snapshot() {
    let (_dir, server) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    for name in ["a", "b", "c", "d"] {
        maps.create(&PostParams::default(), &map(name, "1")).await.unwrap();
    }
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(2));
    maps.delete("c", &Default::default()).await.unwrap();
    maps.create(&PostParams::default(), &map("e", "1")).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let second = maps.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
    let names: Vec<_> = first.items.iter().chain(&second.items).map(ResourceExt::name_any).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    assert_eq!(second.metadata.continue_, None);
    server.stop().await;
}

#[tokio::test]
async fn a_selector_shows_objects_come_and_go() {
    let (_dir, server) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let made = maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    let (wanted, version) = (WatchParams::default().labels("role=primary"), made.resource_version().unwrap());
    let mut events = maps.watch(&wanted, &version).await.unwrap().boxed();
    for role in [json!("primary"), json!("primary"), json!("replica"), json!("primary")] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"role": role}}, "data": {"k": "2"}}));
        maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut last = 0;
    while seen.len() < 3 {
        let (kind, object) = match timeout(SOON, events.try_next()).await.unwrap().unwrap().unwrap() {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Modified(object) => ("MODIFIED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            other => panic!("{other:?}"),
        };
        let version: u64 = object.resource_version().unwrap().parse().unwrap();
        assert!(version > last, "versions grow, that of a deletion too");
        last = version;
        seen.push((kind, object.labels()["role"].clone()));
    }
    let expected = [("ADDED", "primary"), ("DELETED", "primary"), ("ADDED", "primary")];
    assert_eq!(seen, expected.map(|(kind, role)| (kind, role.to_owned())));
    server.stop().await;
}

async fn first_document(server: &Server, path: &str) -> Value {
    let mut response = server.request("GET", path).send().await.unwrap();
    serde_json::from_slice(&timeout(SOON, response.chunk()).await.unwrap().unwrap().unwrap()).unwrap()
}

#[tokio::test]
async fn objects_survive_a_restart_and_old_watches_are_told() {
    let (dir, server) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let old = maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    let new = maps.create(&PostParams::default(), &map("b", "1")).await.unwrap();
    server.stop().await;

    let server = Server::start(dir.path()).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let (_, list) = server.get(path).await;
    assert_eq!(list["items"][0]["metadata"]["uid"], old.uid().unwrap());
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let watch = |version: String| format!("{path}?watch=True&resourceVersion={version}");
    let event = first_document(&server, &watch(old.resource_version().unwrap())).await;
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    // The last version is not too old: nothing was missed.
    let request = server.request("GET", &watch(new.resource_version().unwrap()));
    let mut response = request.send().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    maps.delete("a", &Default::default()).await.unwrap();
    let event = timeout(SOON, response.chunk()).await.unwrap().unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&event).unwrap()["type"], "DELETED");
    server.stop().await;
}

#[tokio::test]
async fn stopping_ends_watches_at_once() {
    let (_dir, server) = server().await;
    let request = server.request("GET", "/api/v1/configmaps?watch=true&resourceVersion=0&timeoutSeconds=600");
    let mut response = request.send().await.unwrap();
    server.stop.cancel();
    assert!(timeout(Duration::from_secs(2), response.chunk()).await.unwrap().unwrap().is_none());
    timeout(Duration::from_secs(2), server.stop()).await.unwrap();
}

#[tokio::test]
async fn patroni_is_understood() {
    let (_dir, server) = server().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let post = |body: Value| {
        let request = server.request("POST", path).body(body.to_string());
        async move { request.send().await.unwrap() }
    };
    // Neither Content-Type nor Accept nor apiVersion nor kind.
    let leader = json!({"metadata": {"name": "demo-leader", "labels": {"application": "patroni"},
        "annotations": {"leader": "demo-0", "ttl": "20"}}});
    let made: Value = post(leader).await.json().await.unwrap();
    assert_eq!(made["kind"], "ConfigMap");
    let patch = |body: Value| {
        let request = server.request("PATCH", &format!("{path}/demo-leader"));
        let request =
            request.header("content-type", "application/strategic-merge-patch+json").body(body.to_string());
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let version = &made["metadata"]["resourceVersion"];
    let take =
        |leader: Value| json!({"metadata": {"resourceVersion": version, "annotations": {"leader": leader}}});
    let (one, two) = tokio::join!(patch(take(json!("demo-1"))), patch(take(json!("demo-2"))));
    let mut codes = [one, two];
    codes.sort_unstable();
    assert_eq!(codes, [200, 409], "only one of two takes the lock");
    assert_eq!(patch(json!({"metadata": {"annotations": {"leader": null}}})).await, 200);
    let selected = format!("{path}?labelSelector=application%3Dpatroni%2Ccluster-name%3Ddemo");
    assert_eq!(server.get(&selected).await.1["items"], json!([]));
    let event =
        first_document(&server, &format!("{path}?labelSelector=application%3Dpatroni&watch=True")).await;
    assert_eq!(event["object"]["metadata"]["annotations"], json!({"ttl": "20"}));
    server.stop().await;
}

async fn token(server: &Server, account: &str, spec: Value) -> (u16, Value) {
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
    server.send("POST", &path, json!({"spec": spec})).await
}

async fn code_with(server: &Server, token: &str) -> u16 {
    let request = server.http.get(server.url("/api"));
    request.bearer_auth(token).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn tokens_die_with_what_they_are_bound_to() {
    let (dir, server) = server().await;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(server.client());
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "app"}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(server.client());
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "app", "containers": [{"name": "one", "image": "i:1"}]}}),
    )
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();

    let (code, made) = token(&server, "app", json!({})).await;
    assert_eq!(code, 201, "{made}");
    let own = made["status"]["token"].as_str().unwrap().to_owned();
    let (_, bound) = token(&server, "app", json!({"boundObjectRef": {"kind": "Pod", "name": "p"}})).await;
    let bound = bound["status"]["token"].as_str().unwrap().to_owned();
    let (_, other) = token(&server, "app", json!({"audiences": ["somebody-else"]})).await;
    assert_eq!(code_with(&server, &own).await, 200);
    assert_eq!(code_with(&server, &bound).await, 200);
    assert_eq!(code_with(&server, other["status"]["token"].as_str().unwrap()).await, 401);
    assert_eq!(code_with(&server, "nonsense").await, 401);
    assert_eq!(code_with(&server, &format!("{own}x")).await, 401);
    assert_eq!(token(&server, "app", json!({"expirationSeconds": 5})).await.0, 422);
    assert_eq!(token(&server, "nobody", json!({})).await.0, 404);
    server.stop().await;

    let server = Server::start(dir.path()).await;
    assert_eq!(code_with(&server, &own).await, 200, "tokens survive a restart");
    let pods: Api<Pod> = Api::default_namespaced(server.client());
    pods.delete("p", &Default::default()).await.unwrap();
    assert_eq!((code_with(&server, &bound).await, code_with(&server, &own).await), (401, 200));
    let accounts: Api<ServiceAccount> = Api::default_namespaced(server.client());
    accounts.delete("app", &Default::default()).await.unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    assert_eq!(code_with(&server, &own).await, 401, "an account of the same name is another one");
    server.stop().await;
}

#[tokio::test]
async fn the_port_speaks_tls_by_the_authority_that_is_kept() {
    let (dir, server) = server().await;
    let authority = server.running.authority.clone();
    let trusting = |server: &Server, authority: &str, token: Option<&str>| {
        let url = format!("https://{}", server.running.address);
        let mut config = Config::new(url.parse().unwrap());
        let der = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
        config.root_cert = Some(vec![der.to_vec()]);
        config.auth_info.token = token.map(|token| token.to_owned().into());
        Client::try_from(config).unwrap()
    };
    let list = async |client: Client| {
        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        maps.list(&ListParams::default()).await
    };
    list(trusting(&server, &authority, Some(ADMIN))).await.unwrap();
    let refused = list(trusting(&server, &authority, None)).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));
    // A client that says nothing, and one that speaks TLS badly, keep nobody waiting.
    let silent = tokio::net::TcpStream::connect(server.running.address).await.unwrap();
    let mut broken = tokio::net::TcpStream::connect(server.running.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut broken, &[22, 0, 0]).await.unwrap();
    list(trusting(&server, &authority, Some(ADMIN))).await.unwrap();
    drop((silent, broken));
    server.stop().await;

    let again = Server::start(dir.path()).await;
    assert_eq!(again.running.authority, authority);
    list(trusting(&again, &authority, Some(ADMIN))).await.unwrap();
    again.stop().await;

    let elsewhere = tempfile::tempdir().unwrap();
    let other = Server::start(elsewhere.path()).await;
    assert!(list(trusting(&other, &authority, Some(ADMIN))).await.is_err(), "another server's authority");
    other.stop().await;
}

#[tokio::test]
async fn service_addresses_are_unique_and_come_back() {
    let (dir, server) = server().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["ports"] = json!([{"port": 80}]);
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let address =
        |answer: &(u16, Value)| answer.1["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let first = server.send("POST", path, service("a", json!({}))).await;
    let second = server.send("POST", path, service("b", json!({}))).await;
    assert_eq!((address(&first), address(&second)), ("127.99.255.1".to_owned(), "127.99.255.2".to_owned()));
    let taken = server.send("POST", path, service("c", json!({"clusterIP": "127.99.255.1"}))).await;
    assert_eq!(taken.0, 422);
    let outside = server.send("POST", path, service("c", json!({"clusterIP": "10.0.0.1"}))).await;
    assert_eq!(outside.0, 422);
    let dry = server.send("POST", &format!("{path}?dryRun=All"), service("c", json!({}))).await;
    assert_eq!((dry.0, address(&dry)), (201, "127.99.255.3".to_owned()));
    // A replacement that does not name the address keeps it.
    let replaced = server.send("PUT", &format!("{path}/b"), service("b", json!({}))).await;
    assert_eq!(address(&replaced), address(&second), "{}", replaced.1);
    server.stop().await;

    let server = Server::start(dir.path()).await;
    server.request("DELETE", &format!("{path}/a")).send().await.unwrap();
    let third = server.send("POST", path, service("c", json!({}))).await;
    assert_eq!(address(&third), "127.99.255.3", "what is in use is known after a restart");
    let again = server.send("POST", path, service("d", json!({"clusterIP": "127.99.255.1"}))).await;
    assert_eq!(again.0, 201, "a deleted Service's address is free");
    server.stop().await;
}

fn definition(group: &str) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"n": {"type": "integer"}}}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("widgets.{group}")},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": schema},
                {"name": "v1beta1", "served": true, "storage": false, "schema": schema, "deprecated": true}]}})
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

#[tokio::test]
async fn a_definition_is_served_in_all_versions_and_takes_its_objects_along() {
    let (dir, server) = server().await;
    let (code, made) = server.send("POST", DEFINITIONS, definition("example.com")).await;
    assert_eq!(code, 201, "{made}");
    let path = |version: &str| format!("/apis/example.com/{version}/namespaces/default/widgets");
    let widget = json!({"metadata": {"name": "w", "finalizers": ["example.com/hold"]}, "spec": {"n": 1}});
    assert_eq!(server.send("POST", &path("v1"), widget).await.0, 201);
    server.stop().await;

    let server = Server::start(dir.path()).await;
    let response = server.request("GET", &format!("{}/w", path("v1beta1"))).send().await.unwrap();
    assert_eq!(response.headers()["warning"], "299 - \"example.com/v1beta1 Widget is deprecated\"");
    let seen: Value = response.json().await.unwrap();
    assert_eq!((&seen["apiVersion"], &seen["spec"]["n"]), (&json!("example.com/v1beta1"), &json!(1)));
    let mut watch = server.request("GET", &format!("{}?watch=true", path("v1"))).send().await.unwrap();
    let mut next = async || timeout(SOON, watch.chunk()).await.unwrap().unwrap();
    assert!(next().await.is_some());

    let one = format!("{DEFINITIONS}/widgets.example.com");
    let (code, going) = server.send("DELETE", &one, json!({})).await;
    assert_eq!((code, going["kind"].as_str()), (200, Some("CustomResourceDefinition")));
    let marked: Value = serde_json::from_slice(&next().await.unwrap()).unwrap();
    assert!(marked["object"]["metadata"]["deletionTimestamp"].is_string(), "the object is deleted first");
    let late = server.send("POST", &path("v1"), json!({"metadata": {"name": "late"}})).await;
    assert_eq!(late.0, 405, "nothing new is made meanwhile");
    let release = json!({"metadata": {"finalizers": null}});
    let request = server.request("PATCH", &format!("{}/w", path("v1")));
    request
        .header("content-type", "application/merge-patch+json")
        .body(release.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&next().await.unwrap()).unwrap()["type"], "DELETED");
    assert!(next().await.is_none(), "the watch ends with the definition");
    assert_eq!(server.get(&one).await.0, 404);
    assert_eq!(server.get(&path("v1")).await.0, 404);
    server.stop().await;
}

#[tokio::test]
async fn a_younger_schema_shows_in_older_objects() {
    let (_dir, server) = server().await;
    let mut definition = definition("example.com");
    server.send("POST", DEFINITIONS, definition.clone()).await;
    let path = "/apis/example.com/v1/namespaces/default/widgets";
    assert_eq!(server.send("POST", path, json!({"metadata": {"name": "w"}, "spec": {"n": 1}})).await.0, 201);
    for index in [0, 1] {
        let fields =
            &mut definition["spec"]["versions"][index]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        fields["properties"] = json!({"m": {"type": "string", "default": "new"}});
    }
    let one = format!("{DEFINITIONS}/widgets.example.com");
    definition["metadata"]["resourceVersion"] =
        server.get(&one).await.1["metadata"]["resourceVersion"].clone();
    let (code, changed) = server.send("PUT", &one, definition).await;
    assert_eq!((code, &changed["metadata"]["generation"]), (200, &json!(2)), "{changed}");
    let (_, seen) = server.get(&format!("{path}/w")).await;
    assert_eq!(seen["spec"], json!({"m": "new"}));
    let (_, list) = server.get(path).await;
    assert_eq!(list["items"][0]["spec"], json!({"m": "new"}));
    server.stop().await;
}

#[tokio::test]
async fn a_pod_with_a_node_waits_for_the_node_to_end_it() {
    let (_dir, server) = server().await;
    let path = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "one", "image": "i:1"}]}});
    server.send("POST", path, pod).await;
    let binding = json!({"target": {"kind": "Node", "name": "n"}});
    assert_eq!(server.send("POST", &format!("{path}/p/binding"), binding.clone()).await.0, 201);
    assert_eq!(server.send("POST", &format!("{path}/p/binding"), binding).await.0, 409);
    let (_, bound) = server.get(&format!("{path}/p")).await;
    assert_eq!(bound["spec"]["nodeName"], "n");
    let (_, going) = server.send("DELETE", &format!("{path}/p"), json!({"gracePeriodSeconds": 20})).await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 20);
    let (_, longer) = server.send("DELETE", &format!("{path}/p"), json!({"gracePeriodSeconds": 30})).await;
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 20, "it only gets sooner");
    let wrong = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "another"}});
    assert_eq!(server.send("DELETE", &format!("{path}/p"), wrong).await.0, 409);
    let uid = &bound["metadata"]["uid"];
    let end = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
    assert_eq!(server.send("DELETE", &format!("{path}/p"), end).await.0, 200);
    assert_eq!(server.get(&format!("{path}/p")).await.0, 404);
    server.stop().await;
}

#[tokio::test]
async fn logs_come_from_the_node() {
    let (_dir, server) = server().await;
    let kubelet =
        axum::Router::new().fallback(async |request: axum::extract::Request| request.uri().to_string());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move { axum::serve(listener, kubelet).await });
    let node = json!({"metadata": {"name": "n"}});
    server.send("POST", "/api/v1/nodes", node).await;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    let patch = server.request("PATCH", "/api/v1/nodes/n/status");
    patch
        .header("content-type", "application/merge-patch+json")
        .body(status.to_string())
        .send()
        .await
        .unwrap();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n",
        "containers": [{"name": "one", "image": "i:1"}]}});
    server.send("POST", "/api/v1/namespaces/default/pods", pod).await;
    let path = "/api/v1/namespaces/default/pods/p/log";
    let response = server.request("GET", &format!("{path}?tailLines=5")).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "/containerLogs/default/p/one?tailLines=5");
    assert_eq!(server.get(&format!("{path}?container=two")).await.0, 400);
    serving.abort();
    server.stop().await;
}

#[tokio::test]
async fn many_writers_are_committed_together() {
    let (dir, server) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let made = (0..200).map(|number| {
        let maps = maps.clone();
        async move { maps.create(&PostParams::default(), &map(&format!("m{number}"), "1")).await.unwrap() }
    });
    let made = futures::future::join_all(made).await;
    let mut versions: Vec<u64> =
        made.iter().map(|map| map.resource_version().unwrap().parse().unwrap()).collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 200);
    server.stop().await;
    let server = Server::start(dir.path()).await;
    let (_, list) = server.get("/api/v1/namespaces/default/configmaps").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 200);
    server.stop().await;
    assert!(Path::new(dir.path()).join("store.redb").exists());
}
