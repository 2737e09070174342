//! What tests stand on: a control plane in this process, and the binary with a home of its own.

use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use dbctl::sandbox::provision::{Provisioner, Silent};
use dbctl::sandbox::{api, controllers, home::Home};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub use crate::cache::cache;
use crate::external::{Apart, External, client};
use crate::recording::Target;
use crate::turns::Turn;

/// How many lines of each pod's log a failure shows.
const LAST_LINES: usize = 40;

/// The longest wait for a condition. Generous: only a failure takes this long.
const PATIENCE: Duration = Duration::from_secs(300);

/// The sandbox's API server and controllers in this process, without a node.
pub struct ControlPlane {
    pub target: Target,
    stop: CancellationToken,
    _state: TempDir,
}

impl ControlPlane {
    pub async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let state = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let token = "test-administrator".to_owned();
        let config = api::ApiConfig::new(
            state.path().to_owned(),
            (Ipv4Addr::LOCALHOST, 0).into(),
            Ipv4Addr::new(127, 254, 255, 0),
            &token,
        );
        let running = api::serve(config, stop.clone()).await.unwrap();
        let url = format!("http://{}", running.address);
        let mut kubeconfig = kube::Config::new(url.parse().unwrap());
        kubeconfig.auth_info.token = Some(token.clone().into());
        let client = kube::Client::try_from(kubeconfig).unwrap();
        tokio::spawn(controllers::run(client, stop.clone()));
        Self { target: Target { http: reqwest::Client::new(), url, token }, stop, _state: state }
    }

    pub async fn stop(self) {
        self.stop.cancel();
    }
}

/// Names a kubeconfig: journeys then go through that API server, and of the sandbox only the node runs.
const KUBECONFIG: &str = "DBCTL_TEST_KUBECONFIG";

/// The binary with a `DBCTL_HOME` of its own, whose cache is the one the machine already has.
pub struct Sandbox {
    // In this order they go.
    external: Option<External>,
    _apart: Option<Apart>,
    home: TempDir,
    /// Whether anybody may have been denied something.
    judged: bool,
    _turn: Turn,
}

/// A line of the API server's count of requests.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Access {
    pub user: String,
    pub verb: String,
    #[serde(default)]
    pub group: String,
    #[serde(default)]
    pub resource: String,
    #[serde(default)]
    pub subresource: String,
    pub allowed: bool,
    pub code: String,
    pub count: u64,
}

impl Access {
    /// Verb and resource.
    pub fn what(&self) -> String {
        format!("{} {}", self.verb, dbctl::install::qualified(&self.group, &self.resource, &self.subresource))
    }
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }
}

impl Answer {
    /// The answer in one text, for snapshots.
    pub fn transcript(&self) -> String {
        format!("exit code {}\n--- stdout\n{}--- stderr\n{}", self.code, self.stdout, self.stderr)
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.transcript());
        self
    }
}

/// The binary under test, deaf to the environment of who runs the tests.
pub fn dbctl(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dbctl"));
    for name in ["DBCTL_SANDBOX", "KUBECONFIG", "RUST_LOG", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command.env("DBCTL_HOME", home).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

impl Sandbox {
    /// The sandbox, or what `DBCTL_TEST_KUBECONFIG` names.
    pub fn new() -> Self {
        let mut sandbox = Self::own();
        if let Some(kubeconfig) = std::env::var_os(KUBECONFIG) {
            sandbox.external = Some(External::start(Path::new(&kubeconfig), sandbox.home.path()));
        }
        sandbox
    }

    /// The same parts, each a process of its own.
    pub fn apart() -> Self {
        let mut sandbox = Self::own();
        let apart = Apart::start();
        sandbox.external = Some(External::start(&apart.kubeconfig(), sandbox.home.path()));
        sandbox._apart = Some(apart);
        sandbox
    }

    /// The sandbox, whatever the environment names: for what only its own API server has.
    pub fn own() -> Self {
        Self::with(Turn::shared())
    }

    /// The same, with nothing else beside it: for what is struck under load.
    pub fn alone() -> Self {
        Self::with(Turn::alone())
    }

    fn with(turn: Turn) -> Self {
        // Short, for Unix sockets; open, for the unprivileged user that postgres runs as.
        let home = tempfile::Builder::new().prefix("dbctl-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(cache(), home.path().join("cache")).unwrap();
        Self { external: None, _apart: None, home, judged: true, _turn: turn }
    }

    /// That somebody is denied something is part of the test.
    pub fn denying_on_purpose(mut self) -> Self {
        self.judged = false;
        self
    }

    /// What the controller and the pods were denied, who have the roles that are installed, and no others. Of an API server
    /// that is gone, or keeps no count, nothing is known.
    fn denied(&self) -> Vec<String> {
        let kubeconfig = self.kubeconfig();
        if !self.judged || !kubeconfig.exists() || std::thread::panicking() {
            return Vec::new();
        }
        let denied = crate::external::runtime().block_on(async {
            let request = http::Request::get("/debug/access").body(Vec::new()).unwrap();
            let asked = async { client(&kubeconfig).await.request::<Vec<Access>>(request).await.ok() };
            tokio::time::timeout(Duration::from_secs(10), asked).await.ok().flatten()
        });
        denied.map(|log| crate::access::denied_to_accounts(&log)).unwrap_or_default()
    }

    /// Whether everything is the sandbox's.
    pub fn is_own(&self) -> bool {
        self.external.is_none()
    }

    /// Starts it, where that is not done by itself.
    #[track_caller]
    pub fn start(&self) {
        if self.is_own() {
            self.run(&["sandbox", "up"]).ok();
        }
    }

    /// What runs beside the API server, where that is not the sandbox's own.
    pub fn external(&mut self) -> &mut External {
        self.external.as_mut().expect("the parts are apart")
    }

    /// Kills what runs the pods, as a machine that loses power does.
    pub fn kill(&mut self) {
        if let Some(external) = &mut self.external {
            return external.kill_node();
        }
        let daemon = self.run(&["sandbox", "status", "-o", "json"]).ok();
        let daemon: serde_json::Value = serde_json::from_str(&daemon.stdout).unwrap();
        let id = i32::try_from(daemon["pid"].as_i64().unwrap()).unwrap();
        let id = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
    }

    /// Kills dbctl's controller alone, and starts another one.
    pub fn replace_controller(&mut self) {
        let external = self.external.as_mut().expect("the sandbox's own controller is part of it");
        external.kill_controller();
        external.start_controller();
    }

    /// Starts again what was killed.
    pub fn revive(&mut self) {
        // The sandbox starts by itself with the next command.
        if let Some(external) = &mut self.external {
            external.start_node();
        }
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        if let Some(external) = &self.external {
            return external.kubeconfig();
        }
        Home::at(self.home().to_owned()).unwrap().kubeconfig()
    }

    /// What was asked of the sandbox's API server so far, and what came of it.
    pub async fn access(&self) -> Vec<Access> {
        let request = http::Request::get("/debug/access").body(Vec::new()).unwrap();
        self.client().await.request(request).await.unwrap()
    }

    /// Orders faults of the sandbox's API server, or ends them.
    pub async fn faults(&self, faults: Option<serde_json::Value>) {
        let request = match &faults {
            Some(_) => http::Request::put("/debug/faults"),
            None => http::Request::delete("/debug/faults"),
        };
        let body = faults.map(|faults| faults.to_string().into_bytes()).unwrap_or_default();
        let request = request.header("content-type", "application/json").body(body).unwrap();
        self.client().await.request_text(request).await.unwrap();
    }

    /// `dbctl --sandbox ARGS`, or `dbctl --kubeconfig FILE ARGS`.
    pub fn run(&self, args: &[&str]) -> Answer {
        let Some(external) = &self.external else {
            return dbctl(self.home()).arg("--sandbox").args(args).output().unwrap().into();
        };
        let mut command = dbctl(self.home());
        // A cluster's user has a psql.
        let image = format!("dbctl/postgres:{}", dbctl::api::PgVersion::DEFAULT);
        let image = Provisioner::new(cache()).ensure(&image, &Silent).unwrap();
        let mut path = vec![image.build.join("bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        command.env("PATH", std::env::join_paths(path).unwrap()).env("LD_LIBRARY_PATH", image.libraries());
        command.arg("--kubeconfig").arg(external.kubeconfig()).args(args).output().unwrap().into()
    }

    /// One value from SQL on the primary.
    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let answer = self.run(&["connect", database, "--", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]).ok();
        answer.stdout.trim().to_owned()
    }

    /// The object as JSON.
    #[track_caller]
    pub fn database(&self, name: &str) -> serde_json::Value {
        // Unhealthy is an answer too.
        let answer = self.run(&["status", name, "-o", "json"]);
        assert!(answer.code == 0 || answer.code == 3, "{}", answer.transcript());
        serde_json::from_str(&answer.stdout).unwrap()
    }

    /// A client for the sandbox's API, as its administrator.
    pub async fn client(&self) -> kube::Client {
        client(&self.kubeconfig()).await
    }

    /// After a failure: what there is, what each pod says of itself, and the end of its log, before all of it goes.
    fn last_words(&self) {
        // Another panic would end the process, and say nothing of the first.
        if !self.kubeconfig().exists() {
            return;
        }
        let list = self.run(&["list", "-o", "name"]);
        for name in list.stdout.lines().filter_map(|line| line.rsplit('/').next()) {
            eprintln!("{}", self.run(&["status", name]).transcript());
            eprintln!("{}", self.run(&["events", name]).transcript());
        }
        crate::external::runtime().block_on(async {
            let pods = kube::Api::<Pod>::default_namespaced(self.client().await);
            for pod in pods.list(&kube::api::ListParams::default()).await.into_iter().flatten() {
                eprintln!("{}: {:?} {:?}", pod.name_any(), pod.labels(), pod.annotations());
            }
        });
        let logs = self.home().join("sandbox/logs");
        let files =
            |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        for container in files(&logs).flat_map(|pod| files(&pod).collect::<Vec<_>>()) {
            let modified = |file: &PathBuf| file.metadata().and_then(|about| about.modified()).ok();
            if let Some(newest) = files(&container).max_by_key(modified) {
                eprintln!("{}", end_of(&newest, LAST_LINES));
            }
        }
    }

    /// The processes that belong to this sandbox: those that name its home in their arguments or environment.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let mark = self.home().as_os_str().as_encoded_bytes();
        let belongs = |id: u32| {
            let file = |name| std::fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
            let (arguments, environment) = (file("cmdline"), file("environ"));
            let named =
                [&arguments, &environment].iter().any(|text| text.windows(mark.len()).any(|w| w == mark));
            let zombie = arguments.is_empty();
            (named && !zombie).then(|| (id, String::from_utf8_lossy(&arguments).replace('\0', " ")))
        };
        let entries = std::fs::read_dir("/proc").unwrap();
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(belongs)
            .collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let denied = self.denied();
        if self.is_own() {
            if std::thread::panicking() {
                self.last_words();
            }
            let answer = self.run(&["sandbox", "down"]);
            if answer.code != 0 || std::thread::panicking() {
                eprintln!("{}", answer.transcript());
                let log = Home::at(self.home().to_owned()).unwrap().state().join("daemon.log");
                eprintln!("{}", end_of(&log, 60));
            }
        }
        // There is none where something has panicked already: a second one would end the process.
        assert!(denied.is_empty(), "the roles that are installed lack something: {denied:?}");
    }
}

/// The last lines of a log.
pub fn end_of(file: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let tail: Vec<&str> = text.lines().rev().take(lines).collect();
    format!("{} ends:\n{}", file.display(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

/// Waits until `check` has an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match check() {
            Ok(answer) => return answer,
            Err(problem) if Instant::now() > deadline => panic!("never {what}: {problem}"),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
