//! What runs: the API server, its controllers and dbctl's controller, each a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dbctl::install::{ACCOUNT, NAMESPACE, Scope, apply, rbac};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::Error;

/// How long a process may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is told to stop, and waited for, at the end.
pub struct Process(Child);

impl Process {
    fn start(directory: &Path, log: &str, args: &[&str]) -> Result<Self, Error> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join(log))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbctl"));
        for name in ["DBCTL_SANDBOX", "KUBECONFIG", "POD_NAMESPACE", "POD_NAME"] {
            command.env_remove(name);
        }
        command.env("DBCTL_HOME", directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(Self(command.args(args).spawn()?))
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The processor time that it has used.
    pub fn processor(&self) -> Result<Duration, Error> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        let fields = stat.rsplit_once(')').ok_or("no name")?.1.split_whitespace();
        // utime and stime: the fourteenth and fifteenth of all, in hundredths of a second.
        let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// A field of its status, in megabytes.
    pub fn memory(&self, field: &str) -> Result<f64, Error> {
        let kilobytes = crate::status_field(self.id().into(), field).map_err(|error| error.to_string())?;
        Ok(kilobytes as f64 / 1e3)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(id) = rustix::process::Pid::from_raw(self.id().cast_signed()) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                let _ = self.0.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The API server with what belongs to a cluster, and dbctl's definition and role.
pub struct Plane {
    /// As its administrator.
    pub client: Client,
    directory: PathBuf,
    controller: String,
    _controllers: Process,
    /// The API server.
    pub api: Process,
}

impl Plane {
    /// Starts everything but dbctl's controller, in a home of its own.
    pub async fn start(directory: &Path) -> Result<Self, Error> {
        let api = Process::start(directory, "api.log", &["sandbox", "api"])?;
        let kubeconfig = directory.join("sandbox/kubeconfig");
        let client = reach(&kubeconfig).await?;
        let path = kubeconfig.to_string_lossy().into_owned();
        let controllers =
            Process::start(directory, "controllers.log", &["sandbox", "controllers", "--kubeconfig", &path])?;
        let token = install(&client).await?;
        let controller = directory.join("controller.kubeconfig");
        let mut config: Value = serde_yaml::from_str(&std::fs::read_to_string(&kubeconfig)?)?;
        config["users"][0]["user"] = json!({ "token": token });
        std::fs::write(&controller, config.to_string())?;
        Ok(Self {
            client,
            directory: directory.to_owned(),
            controller: controller.to_string_lossy().into_owned(),
            _controllers: controllers,
            api,
        })
    }

    /// dbctl's controller, as its account.
    pub fn controller(&self) -> Result<Process, Error> {
        Process::start(
            &self.directory,
            "controller.log",
            &["controller", "--kubeconfig", self.controller.as_str()],
        )
    }
}

/// A client, once the server answers.
async fn reach(kubeconfig: &Path) -> Result<Client, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = connect(kubeconfig).await;
        if found.is_ok() || Instant::now() > deadline {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn connect(kubeconfig: &Path) -> Result<Client, Error> {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    let client = Client::try_from(config)?;
    client.apiserver_version().await?;
    Ok(client)
}

/// Returns a token of the controller's account.
async fn install(client: &Client) -> Result<String, Error> {
    let params = PatchParams::apply("figures").force();
    let definition = dbctl::api::crd();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.patch(&definition.name_any(), &params, &Patch::Apply(&definition)).await?;
    await_condition(definitions, &definition.name_any(), is_crd_established()).await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    namespaces.patch(NAMESPACE, &params, &Patch::Apply(namespace)).await?;
    for object in rbac(NAMESPACE, Scope::Cluster) {
        apply(client, "figures", object).await.map_err(|error| error.to_string())?;
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let spec = TokenRequestSpec { expiration_seconds: Some(24 * 3600), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await?;
    Ok(answer.status.and_then(|status| status.token).ok_or("no token")?)
}
