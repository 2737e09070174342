//! What runs: the API server with its own controllers, and dbctl's controller, each a process of its own.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dbctl::install::{ACCOUNT, NAMESPACE, Scope, apply, rbac};
use dbctl::sandbox::api::{ApiConfig, serve};
use dbctl::sandbox::controllers;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::Outcome;

/// The argument that makes this program the API server.
pub const SERVER: &str = "--serve-plane";
const TOKEN: &str = "figures";
/// How long a process may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves until standard input ends. Tells first where, and then the certificate of its authority.
pub fn be_server(directory: &Path) -> Outcome<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        // Each database has two Services with addresses of their own.
        let services = Ipv4Addr::new(127, 252, 0, 0);
        let config = ApiConfig {
            service_length: 18,
            ..ApiConfig::new(directory.to_owned(), address, services, TOKEN)
        };
        let stop = CancellationToken::new();
        let running = serve(config, stop.clone()).await?;
        println!("{}\n{}", running.address, json!(running.authority));
        let mut kubeconfig = kube::Config::new(format!("http://{}", running.address).parse()?);
        kubeconfig.auth_info.token = Some(TOKEN.to_owned().into());
        let controllers = tokio::spawn(controllers::run(Client::try_from(kubeconfig)?, stop.clone()));
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await;
        stop.cancel();
        controllers.await??;
        Ok(running.finished().await?)
    })
}

/// The program whose controller is measured: that of this build, or, to compare, `FIGURES_DBCTL`.
fn program() -> PathBuf {
    std::env::var_os("FIGURES_DBCTL").map_or_else(|| env!("CARGO_BIN_EXE_dbctl").into(), PathBuf::from)
}

/// A process that is told to stop, and waited for, at the end.
pub struct Process(Child);

impl Process {
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
        // The server ends with its input.
        drop(self.0.stdin.take());
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
    kubeconfig: PathBuf,
    /// The API server.
    pub server: Process,
}

impl Plane {
    /// Starts everything but dbctl's controller.
    pub async fn start(directory: &Path) -> Result<Self, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(SERVER).arg(directory.join("state")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let server = Process(child);
        let (address, authority) = (lines.next().ok_or("no address")??, lines.next().ok_or("no authority")??);
        let mut config = kube::Config::new(format!("http://{address}").parse()?);
        config.auth_info.token = Some(TOKEN.to_owned().into());
        let client = Client::try_from(config)?;
        let token = install(&client).await?;
        let kubeconfig = directory.join("kubeconfig");
        let authority: String = serde_json::from_str(&authority)?;
        std::fs::write(&kubeconfig, as_account(&address, &authority, &token))?;
        Ok(Self { client, directory: directory.to_owned(), kubeconfig, server })
    }

    /// dbctl's controller, as its account.
    pub fn controller(&self) -> Result<Process, Error> {
        let log = self.directory.join("controller.log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(program());
        for name in ["DBCTL_SANDBOX", "KUBECONFIG", "POD_NAMESPACE", "POD_NAME"] {
            command.env_remove(name);
        }
        command
            .env("DBCTL_HOME", &self.directory)
            .arg("controller")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig);
        Ok(Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?))
    }
}

/// A kubeconfig by which one speaks TLS, as in a cluster.
fn as_account(address: &str, authority: &str, token: &str) -> String {
    let authority = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, authority);
    let cluster = json!({ "server": format!("https://{address}"), "certificate-authority-data": authority });
    let all = json!({ "apiVersion": "v1", "kind": "Config", "current-context": "figures",
        "clusters": [{ "name": "figures", "cluster": cluster }],
        "users": [{ "name": "figures", "user": { "token": token } }],
        "contexts": [{ "name": "figures", "context": { "cluster": "figures", "user": "figures" } }] });
    all.to_string()
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
