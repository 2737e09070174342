//! `dbctl status`.

mod headline;
mod render;
mod screen;

use std::time::Duration;

use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::connect::Addresses;
use super::error::{CliError, Outcome, Result};
use super::output::{self, Document};
use super::session::Session;
use super::{Context, api_error, complete, members, scale, ui};
use crate::api::{ConditionType, Database, LABEL_DATABASE};

/// How often --watch looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Show how a database is
///
/// The exit code is 3 where it is not ready.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl status orders-db
  dbctl status orders-db --watch
  dbctl status orders-db -o json | jq .status.primary")]
pub struct StatusArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// How to print it; yaml and json print the object
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<StatusFormat>,

    /// Go on, and redraw when something changes
    #[arg(short, long, conflicts_with = "output")]
    watch: bool,
}

/// How a status is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StatusFormat {
    /// With more columns, and all conditions
    Wide,
    /// The object as JSON
    Json,
    /// The object as YAML
    Yaml,
}

/// All that is shown, read at one time.
#[derive(Debug, Default)]
pub struct Snapshot {
    database: Option<Database>,
    pods: Vec<Pod>,
    services: Vec<Service>,
    events: Vec<Event>,
}

/// Runs the command.
///
/// # Errors
/// Where it cannot be read, or is not ready.
pub async fn run(context: &Context, args: StatusArgs) -> Result<()> {
    let session = Session::open(context).await?;
    if args.watch {
        return watch(context, &session, &args.name).await;
    }
    let format = match args.output {
        Some(StatusFormat::Json) => Some(Document::Json),
        Some(StatusFormat::Yaml) => Some(Document::Yaml),
        Some(StatusFormat::Wide) | None => None,
    };
    if let Some(format) = format {
        let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
        let database = scale::get(context, &session, &api, &args.name, "read its status").await?;
        context.ui.data(output::document(format, &database)?)?;
        return verdict(&database);
    }
    let snapshot = snapshot(context, &session, &args.name).await?;
    let wide = args.output == Some(StatusFormat::Wide);
    context.ui.data(page(context, &session, &snapshot, wide).render())?;
    snapshot.database.as_ref().map_or(Ok(()), verdict)
}

fn page<'a>(context: &Context, session: &Session, snapshot: &'a Snapshot, wide: bool) -> render::Page<'a> {
    let name = snapshot.database.as_ref().map(ResourceExt::name_any).unwrap_or_default();
    render::Page {
        ui: context.ui,
        command: context.invocation(),
        addresses: Addresses::of(&session.place, &session.namespace, &name, &snapshot.services),
        snapshot,
        wide,
        now: jiff::Timestamp::now(),
    }
}

/// Ends with 3 where the database is not ready; the output has said why.
fn verdict(database: &Database) -> Result<()> {
    if is_ready(database) { Ok(()) } else { Err(CliError::silent(Outcome::Unhealthy)) }
}

/// Whether the controller says so, of this very spec.
pub fn is_ready(database: &Database) -> bool {
    database.status.as_ref().is_some_and(|status| {
        status.observed_generation >= database.metadata.generation && status.is_true(ConditionType::Ready)
    })
}

/// Reads everything at once: four requests side by side.
async fn snapshot(context: &Context, session: &Session, name: &str) -> Result<Snapshot> {
    let client = || session.client.clone();
    let namespace = &session.namespace;
    let databases: Api<Database> = Api::namespaced(client(), namespace);
    let pods: Api<Pod> = Api::namespaced(client(), namespace);
    let services: Api<Service> = Api::namespaced(client(), namespace);
    let events: Api<Event> = Api::namespaced(client(), namespace);
    let of_members = ListParams::default().labels(&members::selector(name));
    let of_database = ListParams::default().labels(&format!("{LABEL_DATABASE}={name}"));
    let about =
        ListParams::default().fields(&format!("involvedObject.kind=Database,involvedObject.name={name}"));
    let doing = format!("read the status of database {name:?}");
    let (database, pods, services, events) = tokio::join!(
        databases.get_opt(name),
        pods.list(&of_members),
        services.list(&of_database),
        events.list(&about),
    );
    let database = match database {
        Ok(Some(database)) => database,
        Ok(None) => {
            return Err(scale::get(context, session, &databases, name, &doing)
                .await
                .err()
                .unwrap_or_else(|| CliError::failed(doing)));
        }
        Err(error) => return Err(api_error::explain(session, &doing, &error)),
    };
    let explain = |error| api_error::explain(session, &doing, &error);
    let uid = database.metadata.uid.clone();
    let mut snapshot = Snapshot {
        database: Some(database),
        pods: pods.map_err(explain)?.items,
        services: services.map_err(explain)?.items,
        // Events are the least of it: whoever may not read them sees the rest.
        events: events.map(|events| events.items).unwrap_or_default(),
    };
    snapshot.events.retain(|event| event.involved_object.uid.is_none() || event.involved_object.uid == uid);
    snapshot.services.retain(|service| service.metadata.deletion_timestamp.is_none());
    snapshot.pods.sort_by_key(ResourceExt::name_any);
    Ok(snapshot)
}

/// Redraws until it is interrupted.
async fn watch(context: &Context, session: &Session, name: &str) -> Result<()> {
    use std::io::IsTerminal as _;
    let redraws = std::io::stdout().is_terminal();
    let mut shown = String::new();
    let mut broken = String::new();
    loop {
        let snapshot = match snapshot(context, session, name).await {
            Ok(snapshot) => snapshot,
            // Whoever watches wants to see what becomes of it: an API server that fails may come back.
            Err(error) if !shown.is_empty() && error.outcome == Outcome::Failed => {
                if broken != error.message {
                    context.ui.warn(&error.message);
                    broken = error.message;
                }
                tokio::time::sleep(INTERVAL).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        broken.clear();
        // It may have become another size.
        let size = ui::fit_to_terminal();
        let text = page(context, session, &snapshot, false).render();
        if redraws {
            context.ui.data(screen::redrawn(&text, size))?;
        } else if without_ages(&text) != without_ages(&shown) {
            context.ui.data(&text)?;
        }
        shown = text;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Ages change all the time without anything having happened.
fn without_ages(text: &str) -> String {
    text.split_whitespace()
        .filter(|word| !word.starts_with(|c: char| c.is_ascii_digit()) || word.contains(['.', '/', ':']))
        .collect::<Vec<_>>()
        .join(" ")
}
