//! An API server that is not the sandbox's own, with the sandbox's node and dbctl's controller as processes beside it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tempfile::TempDir;

use dbctl::install::{ACCOUNT, NAMESPACE, Scope, apply, rbac};

use crate::support::{dbctl, eventually};

/// Networks that are set aside for documentation (RFC 5737), and so nobody's: one for the Services of each that runs at once.
const NETWORKS: [&str; 3] = ["192.0.2.0", "198.51.100.0", "203.0.113.0"];
/// The node's name there.
const NODE: &str = "dbctl-test";

/// A process that is told to stop, and waited for, at the end.
pub struct Process(Child);

impl Process {
    pub fn start(mut command: Command, log: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(self.0.id().cast_signed()).unwrap();
        let _ = rustix::process::kill_process(id, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                let _ = self.0.kill();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The sandbox's API server and controllers, as two processes that know nothing of dbctl's own controller.
pub struct Apart {
    controllers: Option<Process>,
    _api: Process,
    _network: Option<File>,
    home: TempDir,
}

/// One of the networks, and the lock on it: Services of two at once would have the same addresses.
fn network() -> (File, &'static str) {
    eventually("a network is free", || {
        let free = NETWORKS.into_iter().find_map(|network| {
            let file = File::create(std::env::temp_dir().join(format!("dbctl-test-{network}"))).ok()?;
            file.try_lock().ok().map(|()| (file, network))
        });
        free.ok_or_else(|| "all are taken".to_owned())
    })
}

impl Apart {
    /// Starts them; Services get addresses that are not the loopback's, where that can be.
    pub fn start() -> Self {
        let home = tempfile::Builder::new().prefix("dbctl-").tempdir_in("/tmp").unwrap();
        let mut command = dbctl(home.path());
        command.args(["sandbox", "api"]);
        let network = rustix::process::geteuid().is_root().then(network);
        command.args(network.iter().flat_map(|(_, network)| ["--services", *network]));
        let network = network.map(|(lock, _)| lock);
        let api = Process::start(command, &home.path().join("api.log"));
        let mut apart = Self { controllers: None, _api: api, _network: network, home };
        let kubeconfig = apart.kubeconfig();
        eventually("the API server is ready", || {
            let answer = dbctl(apart.home.path()).args(["sandbox", "status", "-o", "json"]).output().unwrap();
            let status: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
            if kubeconfig.exists() && status["pid"].is_number() { Ok(()) } else { Err(format!("{answer:?}")) }
        });
        let mut command = dbctl(Path::new("/nonexistent"));
        command.args(["sandbox", "controllers", "--kubeconfig"]).arg(kubeconfig);
        apart.controllers = Some(Process::start(command, &apart.home.path().join("controllers.log")));
        apart
    }

    /// The administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.home.path().join("sandbox/kubeconfig")
    }
}

/// What runs beside the API server.
pub struct External {
    pub namespace: String,
    home: PathBuf,
    given: PathBuf,
    files: TempDir,
    node: Option<Process>,
    controller: Option<Process>,
    /// Another one, that waits for the Lease of the first.
    second: Option<Process>,
}

impl External {
    /// Installs dbctl's definition and roles, and starts the node in that home and the controller with its role.
    pub fn start(given: &Path, home: &Path) -> Self {
        let files = tempfile::tempdir().unwrap();
        let namespace = format!("dbctl-test-{}", ulid::Ulid::new().to_string().to_lowercase());
        let mut external = Self {
            namespace,
            home: home.to_owned(),
            given: given.to_owned(),
            files,
            node: None,
            controller: None,
            second: None,
        };
        external.write("kubeconfig", None);
        external.start_controller();
        external.start_node();
        external
    }

    /// Installs dbctl's definition and roles, where they are not there, and starts the controller.
    pub fn start_controller(&mut self) {
        let token = runtime().block_on(self.install());
        self.write("controller", Some(&token));
        let mut controller = dbctl(Path::new("/nonexistent"));
        // There is no other, and what a killed one held would have the next one wait.
        controller.args(["controller", "--no-leader-election", "--kubeconfig"]);
        controller.arg(self.files.path().join("controller"));
        self.controller = Some(Process::start(controller, &self.log("controller")));
    }

    /// One in its place that holds the Lease, as in a cluster.
    pub fn elect_controller(&mut self) {
        self.stop_controller();
        self.controller = Some(self.elected("controller"));
    }

    /// Another one beside it, that takes over when it is gone.
    pub fn add_controller(&mut self) {
        self.second = Some(self.elected("second"));
    }

    /// The first one ends, in order or not, and the other one is the first from now on.
    pub fn succeed_controller(&mut self, killed: bool) {
        if killed {
            self.kill_controller();
        }
        self.controller = self.second.take();
    }

    fn elected(&self, log: &str) -> Process {
        let mut controller = dbctl(Path::new("/nonexistent"));
        controller.args(["controller", "--kubeconfig"]).arg(self.files.path().join("controller"));
        Process::start(controller, &self.log(log))
    }

    /// Its end, without a word.
    pub fn kill_controller(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.signal(rustix::process::Signal::KILL);
        }
    }

    /// What runs, and its process.
    pub fn processes(&self) -> Vec<(&'static str, u32)> {
        let all = [("controller", &self.controller), ("node", &self.node)];
        all.into_iter().filter_map(|(name, process)| Some((name, process.as_ref()?.0.id()))).collect()
    }

    /// Ends the controller.
    pub fn stop_controller(&mut self) {
        drop(self.controller.take());
    }

    fn log(&self, name: &str) -> PathBuf {
        self.files.path().join(format!("{name}.log"))
    }

    /// What the processes logged.
    pub fn logs(&self) -> String {
        let read = |name| std::fs::read_to_string(self.log(name)).unwrap_or_default();
        format!("node:\n{}\ncontroller:\n{}", read("node"), read("controller"))
    }

    /// The administrator's kubeconfig, with the tests' namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.files.path().join("kubeconfig")
    }

    /// A copy of what was given, with the namespace of the tests and perhaps another user.
    fn write(&self, name: &str, token: Option<&str>) {
        let text = std::fs::read_to_string(&self.given).unwrap();
        let mut config: Value = serde_yaml::from_str(&text).unwrap();
        let current = config["current-context"].clone();
        for context in config["contexts"].as_array_mut().unwrap() {
            if context["name"] == current {
                context["context"]["namespace"] = json!(self.namespace);
            }
        }
        if let Some(token) = token {
            // In every namespace, as in a cluster.
            for user in config["users"].as_array_mut().unwrap() {
                user["user"] = json!({ "token": token });
            }
        }
        std::fs::write(self.files.path().join(name), config.to_string()).unwrap();
    }

    pub fn start_node(&mut self) {
        let mut node = dbctl(&self.home);
        node.args(["sandbox", "node", "--name", NODE, "--kubeconfig"]).arg(self.kubeconfig());
        self.node = Some(Process::start(node, &self.log("node")));
        eventually("the node is ready", || {
            let node = runtime().block_on(async {
                let nodes: Api<Node> = Api::all(client(&self.kubeconfig()).await);
                nodes.get_opt(NODE).await.unwrap()
            });
            let conditions = node.and_then(|node| node.status?.conditions).unwrap_or_default();
            let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
            if ready { Ok(()) } else { Err(self.logs()) }
        });
    }

    /// As a machine that loses power.
    pub fn kill_node(&mut self) {
        if let Some(node) = self.node.take() {
            node.signal(rustix::process::Signal::KILL);
        }
    }

    /// Returns a token of the controller's account.
    async fn install(&self) -> String {
        let client = client(&self.kubeconfig()).await;
        let params = PatchParams::apply("dbctl-test").force();
        let definition = dbctl::api::crd();
        let name = definition.name_any();
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        definitions.patch(&name, &params, &Patch::Apply(&definition)).await.unwrap();
        await_condition(definitions, &name, is_crd_established()).await.unwrap();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        for name in [NAMESPACE, &self.namespace] {
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            namespaces.patch(name, &params, &Patch::Apply(namespace)).await.unwrap();
        }
        for object in rbac(NAMESPACE, Scope::Cluster) {
            apply(&client, "dbctl-test", object).await.unwrap();
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client, NAMESPACE);
        let spec = TokenRequestSpec { expiration_seconds: Some(24 * 3600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token.unwrap()
    }
}

impl Drop for External {
    /// The namespace goes first: what finalizers guard needs the controller, and the pods need the node.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let gone = runtime().block_on(async {
            let client = client(&self.kubeconfig()).await;
            let namespaces: Api<Namespace> = Api::all(client.clone());
            let _ = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
            let deadline = Instant::now() + Duration::from_secs(90);
            while Instant::now() < deadline {
                if matches!(namespaces.get_opt(&self.namespace).await, Ok(None)) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            (Instant::now() < deadline, client)
        });
        drop(self.second.take());
        drop(self.controller.take());
        drop(self.node.take());
        let nodes: Api<Node> = Api::all(gone.1);
        let _ = runtime().block_on(nodes.delete(NODE, &DeleteParams::default()));
        assert!(
            gone.0 || std::thread::panicking(),
            "namespace {} does not go: {}",
            self.namespace,
            self.logs()
        );
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// A client of that kubeconfig's API server.
pub async fn client(kubeconfig: &Path) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    Client::try_from(config).unwrap()
}
