//! `dbctl sandbox up` and `dbctl sandbox status`.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::network::Wishes;
use super::start;
use crate::api::Database;
use crate::cli::error::{CliError, Outcome, Result};
use crate::cli::output::Document;
use crate::cli::session::Session;
use crate::cli::ui::Tone;
use crate::cli::{Context, api_error, output, single};
use crate::sandbox::daemon::{Build, Daemon, Record, State};
use crate::sandbox::home::Home;
use crate::sandbox::provision::Provisioner;

/// Starts the sandbox, and says what runs.
///
/// # Errors
/// Where it does not start.
pub fn up(context: &Context, home: &Home, wishes: Wishes) -> Result<()> {
    let record = start::ensure_as(context, home, wishes)?;
    single(show(context, home, &record))
}

/// Says whether the sandbox runs, and what runs in it; the exit code is 3 where it does not.
///
/// # Errors
/// Where it does not run, or does not answer.
pub fn run(context: &Context, home: &Home, format: Option<Document>) -> Result<()> {
    let state = Daemon::new(home.clone()).state().map_err(CliError::failed)?;
    if let Some(format) = format {
        return document(context, home, &state, format);
    }
    match state {
        State::Ready(record) => single(show(context, home, &record)),
        State::Starting => {
            context.ui.data(format_args!("sandbox    starting\nhome       {}\n", home.root().display()))?;
            Err(CliError::silent(Outcome::Unhealthy))
        }
        State::Stopped => {
            context.ui.data(format_args!("sandbox    stopped\nhome       {}\n", home.root().display()))?;
            context.ui.note("any command with --sandbox starts it, and so does dbctl sandbox up");
            Err(CliError::silent(Outcome::Unhealthy))
        }
    }
}

/// What programs want to know, without a question to the API server.
fn document(context: &Context, home: &Home, state: &State, format: Document) -> Result<()> {
    let (word, record) = match state {
        State::Ready(record) => ("running", Some(record)),
        State::Starting => ("starting", None),
        State::Stopped => ("stopped", None),
    };
    let about = serde_json::json!({
        "state": word,
        "home": home.root(),
        "kubeconfig": home.kubeconfig(),
        "pid": record.map(|record| record.pid),
        "version": record.map(|record| &record.version),
        "server": record.map(|record| &record.server),
        "metrics": record.and_then(|record| record.metrics).map(|at| format!("http://{at}/metrics")),
        "started": record.map(|record| record.started),
    });
    context.ui.data(output::document(format, &about)?)?;
    if record.is_some() { Ok(()) } else { Err(CliError::silent(Outcome::Unhealthy)) }
}

async fn show(context: &Context, home: &Home, record: &Record) -> Result<()> {
    let session = Session::of_sandbox(context, home.clone()).await?;
    let databases: Api<Database> = Api::all(session.client.clone());
    let pods: Api<Pod> = Api::all(session.client.clone());
    let params = ListParams::default();
    let (databases, pods) = tokio::join!(databases.list(&params), pods.list(&params));
    let explain = |error| api_error::explain(&session, "read what runs in the sandbox", &error);
    let (databases, pods) = (databases.map_err(explain)?, pods.map_err(explain)?);
    let running =
        pods.iter().filter(|pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running"));
    let mut page = String::new();
    let age = output::age(record.started, jiff::Timestamp::now());
    let _ = writeln!(
        page,
        "sandbox    {} for {age}, process {}",
        context.ui.paint(Tone::Good, "running"),
        record.pid
    );
    let _ = writeln!(page, "version    dbctl {}{}", record.version, build_note(record));
    let _ = writeln!(page, "home       {}", home.root().display());
    let _ = writeln!(page, "api        https://{}", record.server);
    if let Some(at) = record.metrics {
        let _ = writeln!(page, "metrics    http://{at}/metrics");
    }
    let _ = writeln!(page, "kubeconfig {}", home.kubeconfig().display());
    let _ = writeln!(page, "pods       {} of {} running", running.count(), pods.items.len());
    let names: Vec<_> = databases
        .iter()
        .map(|database| {
            let phase = database.status.as_ref().and_then(|status| status.phase);
            let phase = phase.map_or_else(|| "Pending".to_owned(), |phase| phase.to_string());
            format!("{}/{} ({phase})", database.namespace().unwrap_or_default(), database.name_any())
        })
        .collect();
    let _ =
        writeln!(page, "databases  {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    let installed: Vec<_> =
        Provisioner::new(home.cache()).installed().iter().map(ToString::to_string).collect();
    let _ = writeln!(
        page,
        "installed  {}",
        if installed.is_empty() {
            "nothing yet".to_owned()
        } else {
            format!("PostgreSQL {}", installed.join(", "))
        }
    );
    context.ui.data(page)
}

/// A process that runs another program than this one behaves as that one does.
fn build_note(record: &Record) -> &'static str {
    if record.build == Build::current() {
        ""
    } else {
        " (another build than this command's: dbctl sandbox down lets the next command start this one)"
    }
}
