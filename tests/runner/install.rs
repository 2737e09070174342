//! Installing dbctl with the program itself, and with kubectl, at an API server that knows nothing of it.

use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tempfile::TempDir;

use dbctl::api::{Database, VERSION};

use crate::external::{Apart, Process, client, runtime};
use crate::kubectl::kubectl_at;
use crate::support::{Answer, Sandbox, dbctl, eventually};

/// An API server and the controllers of Kubernetes that the sandbox has: no dbctl in it, and nobody who runs Deployments.
pub struct Cluster {
    apart: Apart,
    home: TempDir,
}

/// A controller beside it.
pub struct Controller {
    /// Where its metrics are.
    pub metrics: std::net::SocketAddr,
    /// What it logs.
    pub log: PathBuf,
    _process: Process,
}

impl Cluster {
    pub fn start() -> Self {
        Self { apart: Apart::start(), home: tempfile::tempdir().unwrap() }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.apart.kubeconfig()
    }

    pub fn dbctl(&self, words: &str) -> Answer {
        let mut command = dbctl(Path::new("/nonexistent"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(words.split(' '));
        command.output().unwrap().into()
    }

    pub fn kubectl(&self, words: &str) -> Answer {
        kubectl_at(&self.kubeconfig(), words)
    }

    fn with<T>(&self, work: impl AsyncFnOnce(Client) -> T) -> T {
        runtime().block_on(async { work(client(&self.kubeconfig()).await).await })
    }

    /// What is there of a kind, by names with namespaces.
    fn names(&self, kind: &str) -> Vec<String> {
        let format = "custom-columns=A:.metadata.namespace,B:.metadata.name";
        let answer = self.kubectl(&format!("get {kind} -A --no-headers -o {format}")).ok();
        let line = |line: &str| {
            line.split_whitespace().filter(|word| *word != "<none>").collect::<Vec<_>>().join("/")
        };
        let ours = |name: &String| name.contains("dbctl") || name.contains("db.example.com");
        answer.stdout.lines().map(line).filter(ours).collect()
    }

    /// Plays the part of those who run Deployments.
    fn make_ready(&self) {
        self.with(async |client| {
            let deployments: Api<Deployment> = Api::namespaced(client, "dbctl-system");
            let generation = deployments.get("dbctl-controller").await.unwrap().metadata.generation;
            let status = json!({ "status": {
                "observedGeneration": generation, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2,
                "availableReplicas": 2,
            } });
            let params = PatchParams::default();
            deployments.patch_status("dbctl-controller", &params, &Patch::Merge(status)).await.unwrap();
        });
    }

    pub fn make_namespace(&self, name: &str) {
        self.with(async |client| {
            let namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
            Api::<Namespace>::all(client).create(&PostParams::default(), &namespace).await.unwrap();
        });
    }

    /// Starts a controller with the rights that an installation gives and nothing else, and waits until it works. The arguments are
    /// the Deployment's, as far as they are the same outside of a pod.
    pub fn controller(&self, more: &str) -> Controller {
        let token = self.kubectl("create token dbctl-controller -n dbctl-system").ok().stdout;
        let text = std::fs::read_to_string(self.kubeconfig()).unwrap();
        let mut config: Value = serde_yaml::from_str(&text).unwrap();
        config["users"][0]["user"] = json!({ "token": token.trim() });
        let file = self.home.path().join("controller");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = dbctl(Path::new("/nonexistent"));
        command
            .env("POD_NAMESPACE", "dbctl-system")
            .env("POD_NAME", "dbctl-controller-1")
            .env("RUST_LOG", "trace")
            .arg("--kubeconfig")
            .arg(file);
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (metrics, health) = (free(), free());
        command.args(["controller", "--image=dbctl/postgres:{version}"]);
        command.args([format!("--metrics-address={metrics}"), format!("--health-address={health}")]);
        command.args(more.split_whitespace());
        let log = self.home.path().join("controller.log");
        let controller = Controller { metrics, _process: Process::start(command, &log), log };
        eventually("it is ready", || {
            let answer = runtime().block_on(async {
                let answer = reqwest::get(format!("http://{health}/readyz")).await;
                answer.map_err(|error| error.to_string())?.text().await.map_err(|error| error.to_string())
            })?;
            if answer == "working\n" { Ok(()) } else { Err(answer) }
        });
        controller
    }

    fn annotate_definition(&self, version: &str) {
        let name = "crd/databases.db.example.com";
        self.kubectl(&format!("annotate --overwrite {name} db.example.com/dbctl-version={version}")).ok();
    }
}

/// The last word of each line, which says what became of an object.
fn changes(answer: &Answer) -> Vec<&str> {
    answer.stdout.lines().filter_map(|line| line.split_whitespace().nth(1)).collect()
}

const DATABASE: &str = "apiVersion: db.example.com/v1alpha1
kind: Database
metadata: {name: orders-db}
spec: {replicas: 3, version: '16.15', storage: {size: 1Gi}}
";

fn make_database(cluster: &Cluster) -> String {
    cluster.with(async |client| {
        let database: Database = serde_yaml::from_str(DATABASE).unwrap();
        let made =
            Api::<Database>::default_namespaced(client).create(&PostParams::default(), &database).await;
        made.unwrap().metadata.uid.unwrap()
    })
}

fn uid(cluster: &Cluster) -> Option<String> {
    cluster.with(async |client| {
        let found = Api::<Database>::default_namespaced(client).get_opt("orders-db").await.unwrap();
        found?.metadata.uid
    })
}

#[test]
fn an_installation_comes_and_goes_and_a_database_stays() {
    let cluster = Cluster::start();
    let none = cluster.dbctl("version").ok();
    assert!(none.stdout.contains("databases.db.example.com is not in the cluster"), "{}", none.transcript());
    assert_eq!(cluster.dbctl("uninstall --yes").code, 6);

    // Nothing is made by a look.
    let dry = cluster.dbctl("install --dry-run").ok();
    assert!(changes(&dry).iter().all(|change| *change == "created"), "{}", dry.transcript());
    assert_eq!(cluster.names("namespaces"), Vec::<String>::new());

    let first = cluster.dbctl("install").ok();
    insta::assert_snapshot!(first.stdout, @r"
    namespace/dbctl-system created
    customresourcedefinition.apiextensions.k8s.io/databases.db.example.com created
    serviceaccount/dbctl-controller created
    clusterrole.rbac.authorization.k8s.io/dbctl-controller created
    clusterrolebinding.rbac.authorization.k8s.io/dbctl-controller created
    role.rbac.authorization.k8s.io/dbctl-controller-lease created
    rolebinding.rbac.authorization.k8s.io/dbctl-controller-lease created
    clusterrole.rbac.authorization.k8s.io/dbctl-metrics-reader created
    networkpolicy.networking.k8s.io/dbctl-controller created
    service/dbctl-controller-metrics created
    poddisruptionbudget.policy/dbctl-controller created
    deployment.apps/dbctl-controller created
    ");
    let again = cluster.dbctl("install").ok();
    assert_eq!(changes(&again), ["unchanged"; 12], "{}", again.transcript());
    // What `manifests/` holds is the same.
    // (but for the port of this very API server, which is not where one mostly is).
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests");
    let kustomized = cluster.kubectl(&format!("apply --server-side --force-conflicts -k {manifests}"));
    assert_eq!(
        kustomized.ok().stdout.lines().filter(|line| line.ends_with("serverside-applied")).count(),
        12
    );
    let third = cluster.dbctl("install").ok();
    assert_eq!(
        changes(&third).iter().filter(|change| **change == "created").count(),
        0,
        "{}",
        third.transcript()
    );

    // Nobody runs the Deployment; then somebody does.
    let late = cluster.dbctl("install --wait --timeout 1s");
    assert_eq!(late.code, 4, "{}", late.transcript());
    cluster.make_ready();
    let ready = cluster.dbctl("install --wait --timeout 60s").ok();
    assert!(ready.stderr.contains("2 controllers in namespace \"dbctl-system\""), "{}", ready.transcript());

    let made = make_database(&cluster);
    let refused = cluster.dbctl("uninstall --crd --yes");
    assert_eq!(refused.code, 5, "{}", refused.transcript());
    assert!(refused.stderr.contains("default/orders-db"), "{}", refused.transcript());
    let dry = cluster.dbctl("uninstall --dry-run").ok();
    assert!(
        dry.stdout.is_empty() && dry.stderr.contains("goes: deployment.apps/dbctl-controller"),
        "{}",
        dry.transcript()
    );
    assert_eq!(cluster.dbctl("uninstall").code, 2, "nobody was asked");

    let gone = cluster.dbctl("uninstall --yes").ok();
    insta::assert_snapshot!(gone.stdout, @r"
    deployment.apps/dbctl-controller -n dbctl-system deleted
    poddisruptionbudget.policy/dbctl-controller -n dbctl-system deleted
    service/dbctl-controller-metrics -n dbctl-system deleted
    networkpolicy.networking.k8s.io/dbctl-controller -n dbctl-system deleted
    clusterrolebinding.rbac.authorization.k8s.io/dbctl-controller deleted
    clusterrole.rbac.authorization.k8s.io/dbctl-controller deleted
    rolebinding.rbac.authorization.k8s.io/dbctl-controller-lease -n dbctl-system deleted
    role.rbac.authorization.k8s.io/dbctl-controller-lease -n dbctl-system deleted
    clusterrole.rbac.authorization.k8s.io/dbctl-metrics-reader deleted
    serviceaccount/dbctl-controller -n dbctl-system deleted
    ");
    for kind in
        ["deployments", "clusterroles", "clusterrolebindings", "roles", "rolebindings", "networkpolicies"]
    {
        eventually(&format!("no {kind} are left"), || match cluster.names(kind) {
            names if names.is_empty() => Ok(()),
            names => Err(names.join(", ")),
        });
    }
    assert_eq!(uid(&cluster), Some(made.clone()), "the Database is the very same");

    // And back.
    let back = cluster.dbctl("install").ok();
    assert_eq!(
        changes(&back).iter().filter(|change| **change == "created").count(),
        10,
        "{}",
        back.transcript()
    );
    assert_eq!(uid(&cluster), Some(made));
    cluster.with(async |client| {
        Api::<Database>::default_namespaced(client).delete("orders-db", &Default::default()).await.unwrap();
    });
    cluster.dbctl("uninstall --crd --yes").ok();
    eventually("the definition is gone", || match cluster.names("crd") {
        names if names.is_empty() => Ok(()),
        names => Err(names.join(", ")),
    });
}

#[test]
fn fewer_rights_take_the_others_away_and_nothing_newer_is_replaced() {
    let cluster = Cluster::start();
    assert_eq!(cluster.dbctl("install --watch-namespace shop").code, 6);
    cluster.make_namespace("shop");
    cluster.dbctl("install").ok();
    let narrow = cluster.dbctl("install --watch-namespace shop --image-pull-secret pull").ok();
    for removed in ["clusterrole.", "clusterrolebinding."] {
        let line = format!("{removed}rbac.authorization.k8s.io/dbctl-controller removed");
        assert!(narrow.stdout.contains(&line), "{}", narrow.transcript());
    }
    // What is asked about readers of metrics belongs to no namespace.
    assert_eq!(cluster.names("clusterroles"), ["dbctl-controller-shop", "dbctl-metrics-reader"]);
    assert_eq!(cluster.names("clusterrolebindings"), ["dbctl-controller-shop"]);
    assert_eq!(cluster.names("roles"), ["dbctl-system/dbctl-controller-lease", "shop/dbctl-controller"]);
    assert_eq!(cluster.names("networkpolicies"), ["dbctl-system/dbctl-controller", "shop/dbctl-databases"]);
    let same = cluster.dbctl("install --watch-namespace shop --image-pull-secret pull").ok();
    assert!(changes(&same).iter().all(|change| *change == "unchanged"), "{}", same.transcript());

    // Another one for other databases is beside it; one for the same is refused.
    cluster.make_namespace("team");
    let beside = cluster.dbctl("install -n team --watch-namespace team").ok();
    assert!(beside.stderr.contains("its labels stay as they are"), "{}", beside.transcript());
    for words in ["install -n other", "install -n other --watch-namespace shop"] {
        let refused = cluster.dbctl(words);
        assert_eq!(refused.code, 5, "{}", refused.transcript());
    }
    assert_eq!(cluster.names("namespaces"), ["dbctl-system"]);
    assert_eq!(cluster.names("clusterrolebindings"), ["dbctl-controller-shop", "dbctl-controller-team"]);
    cluster.dbctl("uninstall -n team --yes").ok();
    // Those who read the other one's metrics still may.
    assert_eq!(cluster.names("clusterroles"), ["dbctl-controller-shop", "dbctl-metrics-reader"]);
    assert_eq!(cluster.names("clusterrolebindings"), ["dbctl-controller-shop"]);
    assert_eq!(cluster.names("deployments"), ["dbctl-system/dbctl-controller"]);
    assert_eq!(cluster.names("networkpolicies"), ["dbctl-system/dbctl-controller", "shop/dbctl-databases"]);

    cluster.annotate_definition("99.0.0");
    let refused = cluster.dbctl("install --watch-namespace shop");
    assert_eq!(refused.code, 5, "{}", refused.transcript());
    assert!(
        refused.stderr.contains(&format!("is of dbctl 99.0.0, and this is dbctl {VERSION}")),
        "{}",
        refused.stderr
    );
    let told = cluster.dbctl("version").ok();
    assert!(
        told.stdout.contains("99.0.0") && told.stderr.contains("use dbctl 99.0.0 here"),
        "{}",
        told.transcript()
    );
    cluster.annotate_definition("0.0.1");
    let told = cluster.dbctl("version -o json").ok();
    let json: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(json["definition"]["version"], "0.0.1");
    assert!(json["skew"][0].as_str().unwrap().contains("install"), "{json}");
    let updated = cluster.dbctl("install --watch-namespace shop --image-pull-secret pull").ok();
    let definition = "customresourcedefinition.apiextensions.k8s.io/databases.db.example.com configured";
    assert!(updated.stdout.contains(definition), "{}", updated.transcript());
}

/// With the rights that an installation gives, the controller works; and what it says of itself is what `version` tells.
#[test]
fn the_controller_that_is_installed_tells_its_version() {
    let cluster = Cluster::start();
    cluster.dbctl("install").ok();
    let _controller = cluster.controller("");
    let told = cluster.dbctl("version -o json").ok();
    let json: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(json["controller"]["version"], VERSION, "{json}");
    let note = json["controller"]["note"].as_str().unwrap();
    assert!(note.starts_with("dbctl-controller-1 in namespace \"dbctl-system\" works"), "{note}");
    assert_eq!(json.get("skew"), None, "{}", told.transcript());
}

/// In the sandbox everything can be installed too; what it needs itself stays.
#[test]
fn the_sandbox_keeps_what_is_its_own() {
    let sandbox = Sandbox::own();
    assert!(sandbox.run(&["version"]).ok().stdout.contains("the sandbox does not run"));
    assert_eq!(sandbox.run(&["install", "--wait"]).code, 2);
    let first = sandbox.run(&["install"]).ok();
    let created = changes(&first).iter().filter(|change| **change == "created").count();
    assert_eq!(created, 4, "{}", first.transcript());
    let again = sandbox.run(&["install"]).ok();
    assert_eq!(changes(&again), ["unchanged"; 12], "{}", again.transcript());
    let told = sandbox.run(&["version", "-o", "json"]).ok();
    let json: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(json["controller"]["version"], VERSION, "{json}");
    assert_eq!(sandbox.run(&["uninstall", "--crd", "--yes"]).code, 2);
    let gone = sandbox.run(&["uninstall", "--yes"]).ok();
    assert_eq!(gone.stdout.lines().count(), 4, "{}", gone.transcript());
    // Its controller still may do what it does.
    let right = [
        "auth",
        "can-i",
        "create",
        "statefulsets.apps",
        "--as=system:serviceaccount:dbctl-system:dbctl-controller",
    ];
    assert_eq!(kubectl_at(&sandbox.kubeconfig(), &right.join(" ")).ok().stdout, "yes\n");
}
