//! Pods for real: a node, an API server, and programs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{
    ConfigMap, ContainerStatus, Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{
    AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, TerminalSize,
};
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::process::HOME_MARK;
use super::shim::tests::launcher;
use super::shim::tree::Mark;
use super::*;
use crate::sandbox::api::{ApiConfig, Running, serve};
use crate::sandbox::provision::{Identity, test_cache};

const ADMIN: &str = "an administrator's token";
const IMAGE: &str = "dbctl/postgres:16.15";

/// A cluster of one node, or several, without controllers; objects are made by hand.
pub(super) struct Cluster {
    home: tempfile::TempDir,
    pub(super) client: Client,
    network: u8,
    isolation: Isolation,
    volumes: VolumeMode,
    pub(super) nodes: u8,
    _api: Running,
    stop: CancellationToken,
    node: Option<(CancellationToken, JoinHandle<Result<(), NodeError>>)>,
}

impl Cluster {
    pub(super) async fn start() -> Self {
        Self::start_as(Isolation::Loopback, VolumeMode::Directories).await
    }

    pub(super) async fn start_as(isolation: Isolation, volumes: VolumeMode) -> Self {
        Self::start_with(isolation, volumes, 1).await
    }

    pub(super) async fn start_with(isolation: Isolation, volumes: VolumeMode, nodes: u8) -> Self {
        // In a test binary nobody else does it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        static NEXT: AtomicU8 = AtomicU8::new(0);
        // Several test processes run at once; within one, each test has a network of its own.
        let base = std::process::id() * 16 % 96;
        let next = || 100 + u8::try_from(base).unwrap() + NEXT.fetch_add(1, Ordering::Relaxed) % 16;
        // What a killed test process leaves on the machine stays there.
        let is_free = |network: &u8| isolation == Isolation::Loopback || !is_routed(*network);
        let network = (0..16).map(|_| next()).find(is_free).unwrap();
        let home = tempfile::Builder::new().prefix("n").tempdir_in("/tmp").unwrap();
        let stop = CancellationToken::new();
        let services = match isolation {
            Isolation::Loopback => Ipv4Addr::new(127, network, 255, 0),
            Isolation::Namespaces => Ipv4Addr::new(198, 19, network, 0),
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = ApiConfig::new(home.path().join("sandbox"), address, services, ADMIN);
        config.names = vec![NodeConfig::api_for_pods(network).to_string()];
        std::fs::create_dir_all(&config.state_dir).unwrap();
        let api = serve(config, stop.clone()).await.unwrap();
        let mut config = kube::Config::new(format!("http://{}", api.address).parse().unwrap());
        config.auth_info = serde_json::from_value(json!({ "token": ADMIN })).unwrap();
        let client = Client::try_from(config).unwrap();
        let mut cluster =
            Self { home, client, network, isolation, volumes, nodes, _api: api, stop, node: None };
        cluster.start_node().await;
        let account = json!({"metadata": {"name": "default"}});
        let accounts = cluster.api::<ServiceAccount>();
        if accounts.get_opt("default").await.unwrap().is_none() {
            accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
        }
        cluster
    }

    pub(super) async fn start_node(&mut self) {
        let home = Home::at(self.home.path().to_owned()).unwrap();
        let server = format!("https://{}", self._api.address);
        let access = Access::new(server, self._api.authority.clone());
        let mut config = NodeConfig::new(home, self.network, access);
        config.address.set_port(0);
        config.cache = test_cache();
        config.shim = launcher(self.home.path()).shim;
        (config.isolation, config.volumes, config.nodes) = (self.isolation, self.volumes, self.nodes);
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(self.client.clone(), config, stop.clone()));
        self.node = Some((stop, task));
    }

    /// As `kill -9` would end it: nothing is said to anybody.
    pub(super) async fn crash_node(&mut self) {
        let (_, task) = self.node.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    pub(super) async fn stop_node(&mut self) {
        let (stop, task) = self.node.take().unwrap();
        stop.cancel();
        task.await.unwrap().unwrap();
    }

    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(super) async fn make<K>(&self, object: Value) -> K
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        self.api::<K>()
            .create(&PostParams::default(), &serde_json::from_value(object).unwrap())
            .await
            .unwrap()
    }

    /// A pod with one container that runs a shell script.
    pub(super) async fn pod(&self, name: &str, script: &str, spec: Value, container: Value) -> Pod {
        let mut one = json!({"name": "main", "image": IMAGE, "command": ["sh", "-c", script]});
        merge(&mut one, container);
        let mut whole =
            json!({"nodeName": "sandbox", "containers": [one], "terminationGracePeriodSeconds": 5});
        merge(&mut whole, spec);
        self.make(json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": whole})).await
    }

    /// The pod once it is as wanted.
    pub(super) async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let mut last = None;
        for _ in 0..1500 {
            last = self.api::<Pod>().get_opt(name).await.unwrap();
            if let Some(pod) = last.as_ref().filter(|pod| wanted(pod)) {
                return pod.clone();
            }
            self.check_node();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{name} did not become {what}: {}", serde_json::to_string_pretty(&last).unwrap());
    }

    pub(super) async fn until_gone(&self, name: &str) {
        for _ in 0..1500 {
            if self.api::<Pod>().get_opt(name).await.unwrap().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{name} stays");
    }

    /// Asks the node something through the API server, as administrators do.
    pub(super) async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        self.ask_node("sandbox", method, path, body).await
    }

    pub(super) async fn ask_node(&self, node: &str, method: &str, path: &str, body: Value) -> Value {
        let request = ::http::Request::builder().method(method);
        let request = request.uri(format!("/api/v1/nodes/{node}/proxy{path}"));
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let text = self.client.request_text(request.body(body).unwrap()).await.unwrap();
        serde_json::from_str(&text).unwrap_or_else(|_| json!(text))
    }

    pub(super) fn api_for_pods(&self) -> Ipv4Addr {
        NodeConfig::api_for_pods(self.network)
    }

    /// The namespaces and links of this home's pods.
    pub(super) fn network_names(&self) -> Vec<String> {
        network::left(&Home::at(self.home.path().to_owned()).unwrap())
    }

    /// The home's directory.
    pub(super) fn root(&self) -> &std::path::Path {
        self.home.path()
    }

    fn check_node(&self) {
        if let Some((_, task)) = &self.node {
            assert!(!task.is_finished(), "the node ended");
        }
    }

    pub(super) async fn logs(&self, name: &str) -> String {
        self.api::<Pod>().logs(name, &LogParams::default()).await.unwrap()
    }

    pub(super) async fn until_logged(&self, name: &str, text: &str) -> String {
        self.until(name, "started", |pod| status(pod).container_id.is_some()).await;
        for _ in 0..1500 {
            let logs = self.logs(name).await;
            if logs.contains(text) {
                return logs;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{name} never said {text:?} but {:?}", self.logs(name).await);
    }

    /// The processes of this home.
    pub(super) fn processes(&self) -> usize {
        let entry = format!("{HOME_MARK}={}", self.home.path().display());
        Mark::new(entry, vec![self.home.path().to_owned()], vec![test_cache()]).processes().len()
    }

    async fn until_no_process(&self) {
        for _ in 0..1000 {
            if self.processes() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} processes are left", self.processes());
    }

    /// The node's directories for pods.
    fn leftovers(&self) -> usize {
        let count = |path: &str| std::fs::read_dir(self.home.path().join(path)).unwrap().count();
        count("sandbox/pods") + count("sandbox/logs") + count("v")
    }

    pub(super) async fn end(mut self) {
        if self.node.is_some() {
            self.stop_node().await;
        }
        self.until_no_process().await;
        self.stop.cancel();
    }
}

/// Whether somebody's pods have the addresses 198.18.X.0/24.
fn is_routed(network: u8) -> bool {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap();
    // As the kernel writes addresses: the last byte first.
    let target = format!("00{network:02X}12C6");
    routes.lines().any(|line| line.split_whitespace().nth(1) == Some(target.as_str()))
}

fn merge(target: &mut Value, more: Value) {
    let Value::Object(more) = more else { return };
    for (key, value) in more {
        target[key] = value;
    }
}

pub(super) fn status(pod: &Pod) -> ContainerStatus {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
    statuses.and_then(|statuses| statuses.into_iter().next()).unwrap_or_default()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn waits_because(pod: &Pod) -> String {
    let waiting = status(pod).state.and_then(|state| state.waiting);
    waiting.and_then(|waiting| waiting.reason).unwrap_or_default()
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_to_its_end_and_is_deleted_without_a_trace() {
    let cluster = Cluster::start().await;
    let script = "echo the end > \"$MESSAGE\"; exec postgres --version";
    let container = json!({"env": [{"name": "MESSAGE", "value": "/dev/termination-log"}]});
    cluster.pod("p", script, json!({"restartPolicy": "Never"}), container).await;
    let pod = cluster.until("p", "succeeded", |pod| phase(pod) == "Succeeded").await;
    let ended = status(&pod).state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (0, Some("Completed")));
    assert_eq!(ended.message.as_deref(), Some("the end\n"));
    assert!(ended.container_id.unwrap().starts_with("sandbox://"));
    assert_eq!(cluster.logs("p").await, "postgres (PostgreSQL) 16.15\n");
    let address: Ipv4Addr = pod.status.unwrap().pod_ip.unwrap().parse().unwrap();
    assert_eq!(address.octets()[..2], [127, cluster.network]);

    let node = Api::<Node>::all(cluster.client.clone()).get("sandbox").await.unwrap();
    assert_eq!(node.labels()["topology.kubernetes.io/zone"], "local");
    let events = cluster.api::<Event>().list(&ListParams::default()).await.unwrap();
    let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.as_deref()).collect();
    assert!(reasons.contains(&"Pulled") && reasons.contains(&"Started"), "{reasons:?}");

    cluster.api::<Pod>().delete("p", &DeleteParams::default()).await.unwrap();
    cluster.until_gone("p").await;
    for _ in 0..500 {
        if cluster.leftovers() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(cluster.leftovers(), 0);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_fails_is_started_again_at_once_and_then_later() {
    let cluster = Cluster::start().await;
    let script = "echo once more; exit 3";
    let container = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    cluster.pod("p", script, json!({}), container).await;
    let pod = cluster.until("p", "backing off", |pod| waits_because(pod) == "CrashLoopBackOff").await;
    let status = status(&pod);
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!((status.restart_count, last.exit_code, last.reason.as_deref()), (1, 3, Some("Error")));
    assert_eq!(
        last.message.as_deref(),
        Some("once more\n"),
        "no mount leads /dev/termination-log to the host"
    );
    assert_eq!(phase(&pod), "Running");
    let previous = LogParams { previous: true, ..LogParams::default() };
    assert_eq!(cluster.api::<Pod>().logs("p", &previous).await.unwrap(), "once more\n");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_had_is_said_so_with_those_that_can() {
    let cluster = Cluster::start().await;
    cluster.pod("p", "", json!({}), json!({"image": "nginx:1.27"})).await;
    let pod = cluster.until("p", "refused", |pod| waits_because(pod).starts_with("ErrImagePull")).await;
    let message = status(&pod).state.unwrap().waiting.unwrap().message.unwrap();
    assert!(message.contains("images named postgres only") && message.contains("16.15"), "{message}");
    cluster.until("p", "backing off", |pod| waits_because(pod) == "ImagePullBackOff").await;
    cluster.api::<Pod>().delete("p", &DeleteParams::default()).await.unwrap();
    cluster.until_gone("p").await;
    cluster.end().await;
}

/// A shell that ignores SIGTERM, and one that has run away from it.
const STUBBORN: &str = "trap '' TERM; setsid -f sh -c 'trap \"\" TERM; while :; do sleep 0.05; done'; \
                        echo up; while :; do sleep 0.05; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_waits_for_the_grace_period_and_force_does_not() {
    let cluster = Cluster::start().await;
    let polite = "trap 'echo bye > $OUT; exit 0' TERM; echo up; while :; do sleep 0.02; done";
    let out = cluster.home.path().join("polite");
    std::fs::write(&out, "").unwrap();
    Identity::of_pods().own(&out).unwrap();
    let env = json!({"env": [{"name": "OUT", "value": out}]});
    cluster.pod("polite", polite, json!({"terminationGracePeriodSeconds": 30}), env).await;
    cluster.pod("stubborn", STUBBORN, json!({"terminationGracePeriodSeconds": 1}), json!({})).await;
    cluster.pod("forced", STUBBORN, json!({"terminationGracePeriodSeconds": 300}), json!({})).await;
    for name in ["polite", "stubborn", "forced"] {
        cluster.until_logged(name, "up").await;
    }
    let pods = cluster.api::<Pod>();
    let begun = std::time::Instant::now();
    pods.delete("polite", &DeleteParams::default()).await.unwrap();
    pods.delete("stubborn", &DeleteParams::default()).await.unwrap();
    pods.delete("forced", &DeleteParams::default().grace_period(0)).await.unwrap();
    for name in ["polite", "stubborn", "forced"] {
        cluster.until_gone(name).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "bye\n");
    cluster.until_no_process().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_and_environment_reach_programs_by_translated_paths() {
    let cluster = Cluster::start().await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Delete", "csi": {"driver": VOLUME_DRIVER, "volumeHandle": "handle-1"},
    }});
    let volumes = Api::<PersistentVolume>::all(cluster.client.clone());
    volumes.create(&PostParams::default(), &serde_json::from_value(volume).unwrap()).await.unwrap();
    let claim = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "storageClassName": "",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let spec = json!({"volumes": [
        {"name": "data", "persistentVolumeClaim": {"claimName": "c"}},
        {"name": "conf", "configMap": {"name": "m"}},
        {"name": "run", "emptyDir": {}},
    ]});
    let container = json!({
        "command": ["sh", "-c", "echo kept > \"$DATA/file\"; echo \"$PASSWORD at $LISTEN_ADDRESS: $0 $1\"; \
            stat -c %a \"$DATA\"; ls \"$RUN\" | wc -l; grep -c token \"$KUBECONFIG\"; \
            while ! grep second \"$0\"; do sleep 0.02; done; exec sleep 1000"],
        "args": ["/etc/conf/key", "--data=$(DATA)"],
        "env": [
            {"name": "DATA", "value": "/data/sub"}, {"name": "RUN", "value": "/run/x"},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
        ],
        "volumeMounts": [
            {"name": "data", "mountPath": "/data/sub", "subPath": "inner"},
            {"name": "conf", "mountPath": "/etc/conf"}, {"name": "run", "mountPath": "/run/x"},
        ],
    });
    let pod = cluster.pod("p", "", spec, container).await;
    // What the pod refers to comes after it.
    cluster.make::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"p": "secret"}})).await;
    cluster.make::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"key": "first"}})).await;
    cluster.make::<PersistentVolumeClaim>(claim).await;
    let bound = Patch::Merge(json!({"status": {"phase": "Bound"}}));
    cluster.api::<PersistentVolumeClaim>().patch_status("c", &PatchParams::default(), &bound).await.unwrap();

    let logs = cluster.until_logged("p", "secret at").await;
    let uid = pod.uid().unwrap();
    let state = cluster.home.path().join("sandbox");
    let (conf, data) =
        (state.join(format!("pods/{uid}/volumes/conf/key")), state.join("volumes/handle-1/inner"));
    let address = cluster.until("p", "addressed", |_| true).await.status.unwrap().pod_ip.unwrap();
    let expected = format!("secret at {address}: {} --data={}\n", conf.display(), data.display());
    assert!(logs.starts_with(&expected), "{logs}\nis not\n{expected}");
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "kept\n");
    assert_eq!(cluster.home.path().join("v").join(&uid[..8]).join("run").read_dir().unwrap().count(), 0);

    let change = Patch::Merge(json!({"data": {"key": "second"}}));
    cluster.api::<ConfigMap>().patch("m", &PatchParams::default(), &change).await.unwrap();
    cluster.until_logged("p", "second").await;

    // A released volume is deleted with its directory, but not under a running pod.
    let released = Patch::Merge(json!({"status": {"phase": "Released"}}));
    volumes.patch_status("v", &PatchParams::default(), &released).await.unwrap();
    assert!(data.join("file").exists());
    cluster.api::<Pod>().delete("p", &DeleteParams::default()).await.unwrap();
    cluster.until_gone("p").await;
    for _ in 0..500 {
        if volumes
            .get_opt("v")
            .await
            .unwrap()
            .is_none_or(|volume| volume.metadata.deletion_timestamp.is_some())
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!state.join("volumes/handle-1").exists());
    cluster.end().await;
}

/// A server that answers 200 while a file says so, and serves its name on another port.
const SERVER: &str = r#"
import http.server, os, socketserver, threading
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if open(os.environ['HEALTH']).read().strip() == self.path[1:] or self.path == '/always' else 503)
        self.end_headers()
    def log_message(self, *_): pass
class Name(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(os.environ['HOSTNAME'].encode()); self.request.recv(1)
class Threads(socketserver.ThreadingTCPServer): allow_reuse_address = True
address = os.environ['LISTEN_ADDRESS']
threading.Thread(target=Threads((address, 7001), Name).serve_forever, daemon=True).start()
print('up', flush=True)
http.server.HTTPServer((address, 7000), Health).serve_forever()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_decide_who_is_ready_and_who_is_started_again() {
    let cluster = Cluster::start().await;
    let health = cluster.home.path().join("health");
    std::fs::write(&health, "starting").unwrap();
    let probe = |path: &str, failures: u32| json!({"httpGet": {"path": path, "port": "health"}, "periodSeconds": 1, "failureThreshold": failures});
    let container = json!({
        "command": ["/usr/bin/python3", "-c", SERVER], "ports": [{"name": "health", "containerPort": 7000}],
        "env": [{"name": "HEALTH", "value": health}],
        "startupProbe": probe("/always", 30), "readinessProbe": probe("/ready", 1),
        "livenessProbe": {"exec": {"command": ["sh", "-c", "! grep dead \"$HEALTH\""]}, "periodSeconds": 1, "failureThreshold": 2},
    });
    cluster.pod("p", "", json!({}), container).await;
    let pod = cluster.until("p", "started", |pod| status(pod).started == Some(true)).await;
    assert!(!is_ready(&pod));
    std::fs::write(&health, "ready").unwrap();
    let pod = cluster.until("p", "ready", is_ready).await;
    let conditions = pod.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().all(|each| each.status == "True" && each.reason.is_none()), "{conditions:?}");
    // As is said of a node that was not heard of for a while.
    let unknown = json!({"type": "Ready", "status": "False", "reason": "NodeNotReady", "message": "m"});
    let body = Patch::Strategic(json!({"status": {"conditions": [unknown]}}));
    let patched = cluster.api::<Pod>().patch_status("p", &PatchParams::default(), &body).await.unwrap();
    assert!(!is_ready(&patched));
    cluster.until("p", "ready again", is_ready).await;
    std::fs::write(&health, "dead").unwrap();
    let pod = cluster.until("p", "unready", |pod| !is_ready(pod)).await;
    assert_eq!(status(&pod).restart_count, 0);
    let pod = cluster.until("p", "restarted", |pod| status(pod).restart_count == 1).await;
    assert_eq!(status(&pod).last_state.unwrap().terminated.unwrap().exit_code, 143);
    cluster.end().await;
}

async fn greeting(address: &str) -> Option<(TcpStream, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let mut buffer = [0; 64];
    let length = stream.read(&mut buffer).await.ok()?;
    (length > 0).then(|| (stream, String::from_utf8_lossy(&buffer[..length]).into_owned()))
}

async fn until_greeted(address: &str) -> (TcpStream, String) {
    for _ in 0..1500 {
        if let Some(found) = greeting(address).await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody answers at {address}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_leads_to_pods_and_away_from_them() {
    let cluster = Cluster::start().await;
    let container = json!({"command": ["/usr/bin/python3", "-c", SERVER]});
    cluster.pod("p", "", json!({}), container).await;
    cluster.until_logged("p", "up").await;
    let pod = cluster.until("p", "ready", is_ready).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 70, "targetPort": 7001}]}});
    let service: Service = cluster.make(service).await;
    let front = format!("{}:70", service.spec.unwrap().cluster_ip.unwrap());
    assert!(greeting(&front).await.is_none());
    let slice = json!({
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [pod.status.unwrap().pod_ip.unwrap()], "conditions": {"ready": true}}],
        "ports": [{"port": 7001}],
    });
    cluster.make::<EndpointSlice>(slice).await;
    let (mut stream, name) = until_greeted(&front).await;
    assert_eq!(name, "p");
    let empty = Patch::Merge(json!({"endpoints": []}));
    cluster.api::<EndpointSlice>().patch("s-1", &PatchParams::default(), &empty).await.unwrap();
    let cut = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0])).await.unwrap();
    assert!(cut.is_err(), "a reset, not silence");
    while TcpStream::connect(&front).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_killed_takes_its_pods_up_again() {
    let mut cluster = Cluster::start().await;
    cluster.pod("p", STUBBORN, json!({}), json!({})).await;
    cluster.pod("done", "true", json!({"restartPolicy": "Never"}), json!({})).await;
    cluster.until_logged("p", "up").await;
    cluster.until("done", "succeeded", |pod| phase(pod) == "Succeeded").await;
    let before = cluster.until("p", "running", |pod| phase(pod) == "Running").await;
    cluster.crash_node().await;
    cluster.until_no_process().await;
    let stranger = cluster.home.path().join("sandbox/pods/00000000-0000-0000-0000-000000000000");
    std::fs::create_dir_all(stranger.join("volumes")).unwrap();
    cluster.start_node().await;
    let after = cluster.until("p", "restarted", |pod| status(pod).restart_count == 1).await;
    assert_eq!(after.status.as_ref().unwrap().pod_ip, before.status.as_ref().unwrap().pod_ip);
    let after = cluster
        .until("p", "running", |pod| status(pod).state.is_some_and(|state| state.running.is_some()))
        .await;
    let last = status(&after).last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.container_id), (137, status(&before).container_id));
    assert_ne!(status(&after).container_id, status(&before).container_id);

    assert!(!stranger.exists(), "what a pod left that was deleted meanwhile");

    // Stopped in order, it leaves the pods to the next run too.
    cluster.stop_node().await;
    cluster.until_no_process().await;
    assert_eq!(phase(&cluster.api::<Pod>().get("p").await.unwrap()), "Running");
    cluster.start_node().await;
    cluster.until("p", "restarted", |pod| status(pod).restart_count == 2).await;
    assert_eq!(status(&cluster.api::<Pod>().get("done").await.unwrap()).restart_count, 0);
    cluster.end().await;
}

/// As the node controller does after an outage of the API server that was long enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_given_up_says_that_it_is_ready() {
    let cluster = Cluster::start().await;
    let nodes = Api::<Node>::all(cluster.client.clone());
    until_ready(&nodes).await;
    let unknown = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    nodes.patch_status("sandbox", &PatchParams::default(), &Patch::Strategic(unknown)).await.unwrap();
    until_ready(&nodes).await;
}

async fn until_ready(nodes: &Api<Node>) {
    for _ in 0..1500 {
        if nodes.get_opt("sandbox").await.unwrap().as_ref().is_some_and(super::register::is_ready) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the node is not ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_run_first_and_logs_are_followed() {
    let cluster = Cluster::start().await;
    let init = |name: &str, script: &str| {
        json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
               "env": [{"name": "V", "value": "/v"}]})
    };
    let spec = json!({
        "restartPolicy": "Never",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [init("one", "echo 1 >> $V/f"), init("two", "echo 2 >> $V/f")],
    });
    let container =
        json!({"env": [{"name": "V", "value": "/v"}], "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    cluster.pod("p", "cat $V/f; while [ ! -e $V/go ]; do sleep 0.02; done; echo last", spec, container).await;
    cluster.until_logged("p", "2").await;
    let pods = cluster.api::<Pod>();
    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = futures::AsyncBufReadExt::lines(pods.log_stream("p", &follow).await.unwrap());
    assert_eq!(lines.next().await.unwrap().unwrap(), "1");
    assert_eq!(lines.next().await.unwrap().unwrap(), "2");
    let uid = pods.get("p").await.unwrap().uid().unwrap();
    std::fs::write(cluster.home.path().join("v").join(&uid[..8]).join("v/go"), "").unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "last");
    assert!(lines.next().await.is_none(), "the stream ends with the container");
    let pod = cluster.until("p", "succeeded", |pod| phase(pod) == "Succeeded").await;
    assert!(pod.status.unwrap().init_container_statuses.unwrap().iter().all(|status| status.ready));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_answers_the_api_server_and_nobody_without_a_right() {
    let cluster = Cluster::start().await;
    let nodes = Api::<Node>::all(cluster.client.clone());
    let mut node = None;
    while node.as_ref().is_none_or(|node: &Node| node.status.is_none()) {
        cluster.check_node();
        node = nodes.get_opt("sandbox").await.unwrap();
    }
    let node = node.unwrap();
    let proxied = ::http::Request::get("/api/v1/nodes/sandbox/proxy/healthz").body(Vec::new()).unwrap();
    assert_eq!(cluster.client.request_text(proxied).await.unwrap(), "ok");
    let port = node.status.unwrap().daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port;
    let url = format!("http://127.{}.0.2:{port}/healthz", cluster.network);
    let http = reqwest::Client::new();
    let code = async |token: Option<&str>| {
        let request = http.get(&url);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(code(None).await, 401);
    assert_eq!(code(Some("no token")).await, 401);
    assert_eq!(code(Some(ADMIN)).await, 200);
    cluster.end().await;
}

/// Runs a command in a pod's container; what it wrote, and the status.
async fn exec(
    cluster: &Cluster,
    pod: &str,
    command: &[&str],
    input: Option<&str>,
) -> (String, String, Value) {
    let params = AttachParams::default().stdin(input.is_some()).stdout(true).stderr(true);
    let mut process = cluster.api::<Pod>().exec(pod, command.iter().copied(), &params).await.unwrap();
    let status = process.take_status().unwrap();
    let stdin = process.stdin();
    let typing = async {
        if let (Some(input), Some(mut stdin)) = (input, stdin) {
            stdin.write_all(input.as_bytes()).await.unwrap();
            stdin.shutdown().await.unwrap();
        }
    };
    let (mut stdout, mut stderr) = (process.stdout().unwrap(), process.stderr().unwrap());
    let (mut out, mut err) = (String::new(), String::new());
    let (one, two) = (stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
    let (one, two, ()) = tokio::join!(one, two, typing);
    one.unwrap();
    two.unwrap();
    (out, err, serde_json::to_value(status.await).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_in_a_container_and_end_with_it() {
    let cluster = Cluster::start().await;
    let container = json!({"env": [{"name": "GREETING", "value": "hello"}],
        "volumeMounts": [{"name": "v", "mountPath": "/data"}]});
    let spec = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    // As many processes at all times.
    cluster.pod("p", "trap 'exit 0' TERM; sleep 1000 & echo up; wait", spec, container).await;
    cluster.until_logged("p", "up").await;

    let script = "echo $GREETING; echo oops >&2; id -u; echo kept > $0/file; exit 3";
    let (out, err, status) = exec(&cluster, "p", &["sh", "-c", script, "/data"], None).await;
    let user = Identity::of_pods().ids.map_or_else(|| rustix::process::getuid().as_raw(), |(user, _)| user);
    assert_eq!((out.as_str(), err.as_str()), (format!("hello\n{user}\n").as_str(), "oops\n"));
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));

    let long = "0123456789abcdef".repeat(20_000);
    let (out, _, status) = exec(&cluster, "p", &["sh", "-c", "cat; cat $0", "/data/file"], Some(&long)).await;
    assert!(out == format!("{long}kept\n"), "{} bytes", out.len());
    assert_eq!(status["status"], "Success");
    let (_, _, status) = exec(&cluster, "p", &["no-such-program"], None).await;
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("exec: \"no-such-program\": executable file not found in $PATH"), "{message}");

    // What is left behind by one command is still there for the next, and gone with the container.
    let processes = cluster.processes();
    exec(&cluster, "p", &["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo started"], None).await;
    assert_eq!(cluster.processes(), processes + 1);
    let sleeper = tokio::spawn({
        let api = cluster.api::<Pod>();
        async move {
            let params = AttachParams::default().stderr(false);
            let mut process = api.exec("p", ["sleep", "1000"], &params).await.unwrap();
            process.take_status().unwrap().await
        }
    });
    while cluster.processes() < processes + 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.api::<Pod>().delete("p", &DeleteParams::default()).await.unwrap();
    cluster.until_gone("p").await;
    sleeper.await.unwrap();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_a_size_and_ends_with_its_client() {
    let cluster = Cluster::start().await;
    cluster.pod("p", "echo up; exec sleep 1000", json!({}), json!({})).await;
    cluster.until_logged("p", "up").await;
    let params = AttachParams::interactive_tty();
    let mut process = cluster.api::<Pod>().exec("p", ["sh"], &params).await.unwrap();
    let mut size = process.terminal_size().unwrap();
    size.try_send(TerminalSize { height: 33, width: 99 }).unwrap();
    let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
    let mut seen = String::new();
    let mut until = async |text: &str| {
        let mut bytes = [0; 1024];
        while !seen.contains(text) {
            let count = stdout.read(&mut bytes).await.unwrap();
            assert!(count > 0, "no {text:?} in {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    stdin.write_all(b"until stty size | grep '33 99'; do :; done; tty; echo $((6 * 7))=\n").await.unwrap();
    until("33 99\r\n").await;
    until("/dev/pts/").await;
    until("42=").await;
    // The terminal is a controlling one: an interrupt reaches what runs in it, and not the shell's end.
    // What says that it runs is in the foreground already: an interrupt before that would be the shell's.
    stdin.write_all(b"sh -c 'echo run; exec sleep 1000'; echo interrupted=$?\n").await.unwrap();
    until("run\r\n").await;
    stdin.write_all(b"\x03").await.unwrap();
    stdin.write_all(b"echo still $((1 + 1))\n").await.unwrap();
    until("still 2").await;
    let before = cluster.processes();
    drop((stdin, stdout, size));
    process.abort();
    drop(process);
    while cluster.processes() >= before {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.api::<Pod>().delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_port_is_a_stream() {
    let cluster = Cluster::start().await;
    let script = "import os, socketserver\n\
        class Echo(socketserver.StreamRequestHandler):\n    \
            def handle(self):\n        \
                self.wfile.write(self.rfile.readline().upper())\n\
        with socketserver.TCPServer((os.environ['LISTEN_ADDRESS'], 9999), Echo) as server:\n    \
            print('up', flush=True)\n    \
            server.serve_forever()\n";
    let container = json!({"command": ["python3", "-c", script]});
    cluster.pod("p", "", json!({}), container).await;
    cluster.until_logged("p", "up").await;
    let mut forwarder = cluster.api::<Pod>().portforward("p", &[9999]).await.unwrap();
    let mut stream = forwarder.take_stream(9999).unwrap();
    stream.write_all(b"hello\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "HELLO\n");
    let mut forwarder = cluster.api::<Pod>().portforward("p", &[9998]).await.unwrap();
    let message = forwarder.take_error(9998).unwrap().await.unwrap();
    assert!(message.contains("error forwarding port 9998 to pod p"), "{message}");
    cluster.api::<Pod>().delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    cluster.end().await;
}
