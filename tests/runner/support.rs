//! What tests stand on: a control plane in this process, and the binary with a home of its own.

use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dbctl::sandbox::{api, controllers, home::Home};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::recording::Target;

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

/// Whole journeys share two cores; one at a time is both faster and easier to read.
static JOURNEY: Mutex<()> = Mutex::new(());

/// The binary with a `DBCTL_HOME` of its own, whose cache is the one the machine already has.
pub struct Sandbox {
    home: TempDir,
    _turn: MutexGuard<'static, ()>,
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

/// Where software is cached: `DBCTL_TEST_CACHE`, else where dbctl itself keeps it.
pub fn cache() -> PathBuf {
    if let Some(cache) = std::env::var_os("DBCTL_TEST_CACHE") {
        return cache.into();
    }
    let home = Home::locate().unwrap();
    std::fs::create_dir_all(home.cache()).unwrap();
    // As dbctl does with its home: pods' user must get through.
    let open = std::fs::metadata(home.root()).unwrap().permissions().mode() | 0o711;
    std::fs::set_permissions(home.root(), Permissions::from_mode(open)).unwrap();
    home.cache()
}

impl Sandbox {
    pub fn new() -> Self {
        let turn = JOURNEY.lock().unwrap_or_else(PoisonError::into_inner);
        // Short, for Unix sockets; open, for the unprivileged user that postgres runs as.
        let home = tempfile::Builder::new().prefix("dbctl-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(cache(), home.path().join("cache")).unwrap();
        Self { home, _turn: turn }
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        Home::at(self.home().to_owned()).unwrap().kubeconfig()
    }

    /// `dbctl --sandbox ARGS`.
    pub fn run(&self, args: &[&str]) -> Answer {
        dbctl(self.home()).arg("--sandbox").args(args).output().unwrap().into()
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
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = kube::config::Kubeconfig::read_from(self.kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
        kube::Client::try_from(config).unwrap()
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
        let answer = self.run(&["sandbox", "down"]);
        if answer.code != 0 || std::thread::panicking() {
            let log = Home::at(self.home().to_owned()).unwrap().state().join("daemon.log");
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(60).collect();
            eprintln!("{}", answer.transcript());
            eprintln!("daemon.log ends:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
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
