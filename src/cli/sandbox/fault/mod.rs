//! `dbctl sandbox fault`.

mod api;
mod local;
mod pod;
mod show;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::cli::Context;
use crate::cli::complete;
use crate::cli::error::{CliError, Result};
use crate::cli::output::{self, Document};
use crate::sandbox::home::Home;

use local::Local;

/// Break things on purpose: what real clusters do to their clients and pods
///
/// Faults are kept in memory: they end when they are cleared, when their time is over, and when the sandbox stops. The
/// command itself works whatever is broken.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct FaultArgs {
    #[command(subcommand)]
    command: FaultCommand,
}

const EXAMPLES: &str = "Examples:
  dbctl sandbox fault api --latency 200ms --error 409=10% --error 500=10% --drop-watches 5%
  dbctl sandbox fault api --outage --for 30s
  dbctl sandbox fault pod orders-db-1 --freeze --for 1m
  dbctl sandbox fault list
  dbctl sandbox fault clear";

#[derive(Debug, Subcommand)]
enum FaultCommand {
    Api(Box<api::ApiArgs>),
    Pod(pod::PodArgs),
    /// List the faults that there are, and how often they struck
    #[command(
        visible_alias = "ls",
        after_help = "Examples:
  dbctl sandbox fault list
  dbctl sandbox fault list -o json"
    )]
    List {
        /// Print them for programs
        #[arg(short, long, value_enum, value_name = "FORMAT")]
        output: Option<Document>,
    },
    /// End faults: all of them, those of the API server, or those of one pod
    #[command(after_help = "Examples:
  dbctl sandbox fault clear
  dbctl sandbox fault clear api
  dbctl sandbox fault clear pod orders-db-1")]
    Clear {
        /// Whose
        #[arg(value_enum)]
        target: Option<Target>,
        /// The pod
        #[arg(required_if_eq("target", "pod"), add = complete::pod())]
        name: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The API server's
    Api,
    /// One pod's
    Pod,
}

/// Runs the command.
///
/// # Errors
/// Where the sandbox does not run, or a fault cannot be.
pub async fn run(context: &Context, home: &Home, args: FaultArgs) -> Result<()> {
    let local = Local::connect(home)?;
    match args.command {
        FaultCommand::Api(args) => api::set(context, &local, &args).await,
        FaultCommand::Pod(args) => pod::set(context, &local, &args).await,
        FaultCommand::List { output } => list(context, &local, output).await,
        FaultCommand::Clear { target: None, .. } => {
            local.send("DELETE", FAULTS, None).await?;
            for found in pod::all(&local).await? {
                pod::clear(&local, &found).await?;
            }
            context.ui.note("nothing is broken any more");
            Ok(())
        }
        FaultCommand::Clear { target: Some(Target::Api), name } => {
            if name.is_some() {
                return Err(CliError::usage("the API server has no name: dbctl sandbox fault clear api"));
            }
            local.send("DELETE", FAULTS, None).await?;
            context.ui.note("the API server has no faults any more");
            Ok(())
        }
        FaultCommand::Clear { target: Some(Target::Pod), name } => {
            let namespace = namespace(context);
            let found = pod::find(&local, namespace, name.as_deref().unwrap_or_default()).await?;
            pod::clear(&local, &found).await?;
            context.ui.note(format_args!("pod {} has no faults any more", found.name));
            Ok(())
        }
    }
}

/// The API server's own endpoint.
const FAULTS: &str = crate::sandbox::api::faults::PATH;

fn namespace(context: &Context) -> &str {
    context.global.namespace.as_deref().unwrap_or("default")
}

async fn list(context: &Context, local: &Local, format: Option<Document>) -> Result<()> {
    let api = local.send("GET", FAULTS, None).await?;
    let mut pods = Vec::new();
    for node in pod::nodes(local).await? {
        pods.extend(pod::on_node(local, &node).await?);
    }
    if let Some(format) = format {
        let is_on = api.as_object().is_some_and(|fields| !fields.is_empty());
        let all = json!({"api": if is_on { api } else { Value::Null }, "pods": pods});
        return context.ui.data(output::document(format, &all)?);
    }
    match show::table(&api, &pods) {
        Some(table) => context.ui.data(table),
        None => {
            context.ui.note("nothing is broken");
            Ok(())
        }
    }
}
