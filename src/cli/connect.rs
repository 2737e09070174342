//! `dbctl connect`, and how a database is reached.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::error::{CliError, Outcome, Result};
use super::session::{Place, Session};
use super::{Context, api_error, complete, members, output, sandbox, scale};
use crate::api::{Database, LABEL_DATABASE, LABEL_ROLE, Names, ROLE_PRIMARY, ROLE_REPLICA};
use crate::plan::{POSTGRES_PORT as PORT, TRUSTED};
use crate::sandbox::home::Home;

/// How long a database that does not answer is waited for: as long as one takes that the sandbox has just brought back.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two looks at it.
const INTERVAL: Duration = Duration::from_millis(250);

/// Connect to a database with psql
///
/// In the sandbox, psql is the one that the database's own PostgreSQL came with, and the exit code is psql's; a database
/// that is just starting is waited for. In a cluster, the connection is forwarded to a member's pod, and psql is yours.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl connect orders-db
  dbctl connect orders-db --replica -- -c 'select now()'
  psql \"$(dbctl --sandbox connect orders-db --uri)\"")]
pub struct ConnectArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// To a replica, which can only be read
    #[arg(long)]
    replica: bool,

    /// Print a URI with the password, in place of connecting
    #[arg(long, conflicts_with = "args")]
    uri: bool,

    /// What psql is given
    #[arg(last = true, value_name = "PSQL ARGS")]
    args: Vec<OsString>,
}

/// Who connects, and to which database.
struct Login {
    user: String,
    password: String,
    database: String,
    /// Every member speaks TLS: users are told whom to trust.
    tls: bool,
}

/// Where a database is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    write: Option<String>,
    read_only: Option<String>,
}

impl Addresses {
    /// Those of its Services: in the sandbox by address, since nothing resolves a cluster's names here.
    pub fn of(place: &Place, namespace: &str, name: &str, services: &[Service]) -> Self {
        let names = Names(name);
        let address = |service: String| {
            let found = services.iter().find(|candidate| candidate.name_any() == service)?;
            match place {
                Place::Cluster(_) => Some(format!("{service}.{namespace}.svc:{PORT}")),
                Place::Sandbox(_) => {
                    let ip = found.spec.as_ref()?.cluster_ip.as_deref()?;
                    (!ip.is_empty() && ip != "None").then(|| format!("{ip}:{PORT}"))
                }
            }
        };
        Self { write: address(names.main()), read_only: address(names.read_only_service()) }
    }

    /// One line each.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (label, address) in [("write     ", &self.write), ("read-only ", &self.read_only)] {
            let _ = writeln!(text, "{label} {}", address.as_deref().unwrap_or("-"));
        }
        text
    }

    fn host(&self, replica: bool) -> Option<&str> {
        let address = if replica { &self.read_only } else { &self.write };
        address.as_deref()?.rsplit_once(':').map(|(host, _)| host)
    }
}

/// How to reach a new database: what `create --wait` ends with.
///
/// # Errors
/// Where its Services cannot be read.
pub async fn guide(context: &Context, session: &Session, database: &Database) -> Result<String> {
    let name = database.name_any();
    let addresses = addresses(session, &name).await?;
    let command = context.invocation();
    let mut text = addresses.render();
    let _ = writeln!(text, "\n{command} connect {name}");
    if database.spec.replicas > 1 {
        let _ = writeln!(text, "{command} connect {name} --replica");
    }
    if let Some(home) = session.place.sandbox() {
        let psql = if on_path("psql") {
            "psql".to_owned()
        } else {
            output::shell_word(&psql_of(context, home, database)?.0.to_string_lossy())
        };
        let _ = writeln!(text, "{psql} \"$({command} connect {name} --uri)\"");
    }
    Ok(text)
}

/// Whether a shell would find a program of that name.
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

async fn addresses(session: &Session, name: &str) -> Result<Addresses> {
    let api: Api<Service> = Api::namespaced(session.client.clone(), &session.namespace);
    let services = api.list(&ListParams::default().labels(&format!("{LABEL_DATABASE}={name}"))).await;
    let services = services.map_err(|error| {
        api_error::explain(session, &format!("read the Services of database {name:?}"), &error)
    })?;
    Ok(Addresses::of(&session.place, &session.namespace, name, &services.items))
}

/// Runs the command: in the sandbox this process becomes psql.
///
/// # Errors
/// Where there is no such database, or it cannot be reached.
pub async fn run(context: &Context, args: ConnectArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let doing = format!("connect to database {:?}", args.name);
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let database = scale::get(context, &session, &api, &args.name, &doing).await?;
    if args.replica && database.spec.replicas == 1 {
        return Err(CliError::not_found(format!("failed to {doing}: it has one member, and no replica"))
            .hint(format!("to have one: {} scale {} --replicas 3", context.invocation(), args.name)));
    }
    let login = login(context, &session, &args.name, &doing).await?;
    if args.uri {
        let addresses = addresses(&session, &args.name).await?;
        let host = addresses.host(args.replica).ok_or_else(|| no_address(context, &args, &doing))?;
        return context.ui.data(format_args!("{}\n", login.uri(host)));
    }
    match &session.place {
        Place::Sandbox(home) => {
            let addresses = addresses(&session, &args.name).await?;
            let host = addresses.host(args.replica).ok_or_else(|| no_address(context, &args, &doing))?;
            wait_for_answer(context, &session, &args, &doing, host).await?;
            become_psql(context, home, &database, &login, host, &args)
        }
        Place::Cluster(_) => forward(context, &session, &login, &args, &doing).await,
    }
}

fn no_address(context: &Context, args: &ConnectArgs, doing: &str) -> CliError {
    CliError::unhealthy(format!("failed to {doing}: its Service has no address yet")).hint(format!(
        "see how far it is: {} status {}",
        context.invocation(),
        args.name
    ))
}

async fn login(context: &Context, session: &Session, name: &str, doing: &str) -> Result<Login> {
    let api: Api<Secret> = Api::namespaced(session.client.clone(), &session.namespace);
    let secret_name = Names(name).app_secret();
    let secret =
        api.get_opt(&secret_name).await.map_err(|error| api_error::explain(session, doing, &error))?;
    let Some(secret) = secret else {
        return Err(CliError::unhealthy(format!(
            "failed to {doing}: there is no Secret {secret_name:?} yet"
        ))
        .hint(format!("see how far it is: {} status {name}", context.invocation())));
    };
    Login::read(secret.data.unwrap_or_default())
        .map_err(|key| CliError::failed(format!("{doing}: Secret {secret_name:?} has no {key:?}")))
}

impl Login {
    fn read(mut data: BTreeMap<String, k8s_openapi::ByteString>) -> Result<Self, &'static str> {
        let tls = data.contains_key(TRUSTED);
        let mut take =
            |key: &'static str| data.remove(key).and_then(|bytes| String::from_utf8(bytes.0).ok()).ok_or(key);
        Ok(Self { user: take("username")?, password: take("password")?, database: take("dbname")?, tls })
    }

    fn uri(&self, host: &str) -> String {
        let quote = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        format!(
            "postgresql://{}:{}@{host}:{PORT}/{}{}",
            quote(&self.user),
            quote(&self.password),
            quote(&self.database),
            if self.tls { "?sslmode=require" } else { "" }
        )
    }

    /// psql with everything in its environment, where others cannot read it as they can its arguments.
    fn psql(&self, program: OsString, host: &str, port: u16, args: &[OsString]) -> Command {
        let mut command = Command::new(program);
        for inherited in ["PGSERVICE", "PGHOSTADDR", "PGPASSFILE", "PGTARGETSESSIONATTRS", "PGOPTIONS"] {
            command.env_remove(inherited);
        }
        command
            .env("PGHOST", host)
            .env("PGPORT", port.to_string())
            .env("PGUSER", &self.user)
            .env("PGPASSWORD", &self.password)
            .env("PGDATABASE", &self.database)
            .args(args);
        // Whoever has set something stricter has set it for a reason.
        if self.tls && std::env::var_os("PGSSLMODE").is_none() {
            command.env("PGSSLMODE", "require");
        }
        command
    }
}

/// What a client that would like TLS sends first; any PostgreSQL answers it with one byte, and without a log line.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Whether PostgreSQL answers there: what only accepts connections may be a proxy whose other side is just going.
async fn ask(host: &str, port: u16) -> std::io::Result<()> {
    let answer = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_u8().await.map(drop)
    };
    let in_time = tokio::time::timeout(ANSWER, answer).await;
    in_time.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Waits a little until PostgreSQL answers at an address: a Service that leads nowhere refuses connections.
async fn wait_for_answer(
    context: &Context,
    session: &Session,
    args: &ConnectArgs,
    doing: &str,
    host: &str,
) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut told = false;
    while let Err(error) = ask(host, PORT).await {
        if Instant::now() >= end {
            let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
            let database = api.get_opt(&args.name).await.ok().flatten();
            return Err(CliError::unhealthy(format!(
                "failed to {doing}: {host}:{PORT} does not answer ({error})"
            ))
            .details(database.as_ref().and_then(what_is_wrong))
            .hint(format!("see how it is: {} status {}", context.invocation(), args.name)));
        }
        if !told {
            let role = if args.replica { ROLE_REPLICA } else { ROLE_PRIMARY };
            context
                .ui
                .note(format_args!("waiting for a {role} of database {:?} at {host}:{PORT}", args.name));
            told = true;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}

/// Why a database is not ready, in its own words.
fn what_is_wrong(database: &Database) -> Option<String> {
    let conditions = &database.status.as_ref()?.conditions;
    let ready =
        conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status != "True")?;
    Some(format!("{}: {}", ready.reason, ready.message))
}

/// The psql that a database's own PostgreSQL came with, and the directory of its libraries.
fn psql_of(context: &Context, home: &Home, database: &Database) -> Result<(PathBuf, PathBuf)> {
    let running = database.status.as_ref().and_then(|status| status.version.as_deref());
    let version = running.and_then(|text| text.parse().ok()).unwrap_or(database.spec.version);
    let image = sandbox::software::install(context, home, version)?;
    Ok((image.build.join("bin/psql"), image.libraries()))
}

fn become_psql(
    context: &Context,
    home: &Home,
    database: &Database,
    login: &Login,
    host: &str,
    args: &ConnectArgs,
) -> Result<()> {
    let (program, libraries) = psql_of(context, home, database)?;
    let error =
        login.psql(program.clone().into(), host, PORT, &args.args).env("LD_LIBRARY_PATH", libraries).exec();
    Err(CliError::failed(format!("run {}: {error}", program.display())))
}

/// Forwards a local port to a member, and runs psql on it.
async fn forward(
    context: &Context,
    session: &Session,
    login: &Login,
    args: &ConnectArgs,
    doing: &str,
) -> Result<()> {
    let pod = pick_pod(context, session, args, doing).await?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await;
    let listener = listener.map_err(|error| CliError::failed(format!("listen on 127.0.0.1: {error}")))?;
    let port = listener
        .local_addr()
        .map_err(|error| CliError::failed(format!("listen on 127.0.0.1: {error}")))?
        .port();
    let pods: Api<Pod> = Api::namespaced(session.streaming.clone(), &session.namespace);
    let forwarding = tokio::spawn(serve(listener, pods, pod));
    let mut command = tokio::process::Command::from(login.psql("psql".into(), "127.0.0.1", port, &args.args));
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => CliError::failed(format!("{doing}: there is no psql on PATH"))
            .hint("install it: the Debian package is postgresql-client"),
        _ => CliError::failed(format!("run psql: {error}")),
    })?;
    // An interrupt is psql's to handle: it ends a query, not the session.
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    forwarding.abort();
    let status = status.map_err(|error| CliError::failed(format!("run psql: {error}")))?;
    if status.success() { Ok(()) } else { Err(CliError::silent(Outcome::Failed)) }
}

async fn pick_pod(context: &Context, session: &Session, args: &ConnectArgs, doing: &str) -> Result<String> {
    let role = if args.replica { ROLE_REPLICA } else { ROLE_PRIMARY };
    let pods: Api<Pod> = Api::namespaced(session.client.clone(), &session.namespace);
    let selector = format!("{},{LABEL_ROLE}={role}", members::selector(&args.name));
    let list = pods.list(&ListParams::default().labels(&selector)).await;
    let list = list.map_err(|error| api_error::explain(session, doing, &error))?;
    list.iter().find(|pod| members::is_ready(pod)).map(ResourceExt::name_any).ok_or_else(|| {
        CliError::unhealthy(format!("failed to {doing}: no member is a ready {role}")).hint(format!(
            "see how it is: {} status {}",
            context.invocation(),
            args.name
        ))
    })
}

/// Each connection is forwarded by a stream of its own.
async fn serve(listener: TcpListener, pods: Api<Pod>, pod: String) {
    while let Ok((mut local, _)) = listener.accept().await {
        let (pods, pod) = (pods.clone(), pod.clone());
        tokio::spawn(async move {
            let mut forwarder = match pods.portforward(&pod, &[PORT]).await {
                Ok(forwarder) => forwarder,
                Err(error) => return tracing::error!("cannot forward to {pod}: {error}"),
            };
            if let Some(mut remote) = forwarder.take_stream(PORT) {
                let _ = tokio::io::copy_bidirectional(&mut local, &mut remote).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_ips_in_the_sandbox_and_names_in_a_cluster() {
        let service = |name: &str, ip: &str| -> Service {
            serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "clusterIP": ip } }))
                .unwrap()
        };
        let services = [service("db", "127.9.255.1"), service("db-headless", "None")];
        let sandbox = Place::Sandbox(Home::at("/h".into()).unwrap());
        let addresses = Addresses::of(&sandbox, "shop", "db", &services);
        assert_eq!(addresses.render(), "write      127.9.255.1:5432\nread-only  -\n");
        assert_eq!((addresses.host(false), addresses.host(true)), (Some("127.9.255.1"), None));
        let cluster = Addresses::of(&Place::Cluster("prod".into()), "shop", "db", &services);
        assert_eq!(cluster.write.as_deref(), Some("db.shop.svc:5432"));
    }

    #[tokio::test]
    async fn accepting_is_not_answering() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (silent, _) = listener.accept().await.unwrap();
            drop(silent);
            let (mut talking, _) = listener.accept().await.unwrap();
            let mut asked = [0; 8];
            talking.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked, SSL_REQUEST);
            talking.write_all(b"N").await.unwrap();
        };
        let client = async { (ask("127.0.0.1", port).await, ask("127.0.0.1", port).await) };
        let ((), (first, second)) = tokio::join!(server, client);
        assert!(first.is_err() && second.is_ok(), "{first:?}, {second:?}");
    }

    #[test]
    fn a_database_that_does_not_answer_says_why() {
        let database = |status: &str| -> Database {
            serde_json::from_value(json!({
                "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": { "name": "db" },
                "spec": { "replicas": 1, "version": "18.6", "storage": { "size": "1Gi" } },
                "status": { "conditions": [{ "type": "Ready", "status": status, "reason": "PrimaryNotRunning",
                    "message": "db-0 is starting", "lastTransitionTime": "2026-11-22T10:00:00Z" }] },
            }))
            .unwrap()
        };
        assert_eq!(what_is_wrong(&database("False")).as_deref(), Some("PrimaryNotRunning: db-0 is starting"));
        assert_eq!(what_is_wrong(&database("True")), None);
    }

    #[test]
    fn uris_quote_and_passwords_stay_out_of_arguments() {
        let login =
            Login { user: "app".into(), password: "p@ss/1".into(), database: "app".into(), tls: false };
        assert_eq!(login.uri("127.9.255.1"), "postgresql://app:p%40ss%2F1@127.9.255.1:5432/app");
        let login = Login { tls: true, ..login };
        assert!(login.uri("127.9.255.1").ends_with(":5432/app?sslmode=require"));
        let command = login.psql("psql".into(), "h", 1, &["-c".into(), "select 1".into()]);
        assert!(command.get_args().all(|arg| !arg.to_string_lossy().contains("p@ss")));
        assert!(
            command.get_envs().any(|(key, value)| key == "PGPASSWORD" && value == Some("p@ss/1".as_ref()))
        );
    }
}
