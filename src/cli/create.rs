//! `dbctl create`.

pub mod flags;
mod manifest;

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::error::{CliError, Result};
use super::output::{self, Document};
use super::session::Session;
use super::{Context, api_error, sandbox, wait};
use crate::api::Database;

/// The field manager of what the command line writes.
pub const FIELD_MANAGER: &str = "dbctl-cli";

/// Create a database
///
/// The database is described by flags, by a file (-f), or by both: a flag wins over the same field of the file. Without
/// --wait the command returns as soon as the API server has taken the database; the controller does the rest.
///
/// Everything is checked before anything is written. In the sandbox, PostgreSQL of that version is installed first, if
/// it is not there yet.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl --sandbox create orders-db --replicas 3 --wait
  dbctl create orders-db --version 18.6 --storage 50Gi --parameter work_mem=64MB
  dbctl create -f orders-db.yaml --dry-run=server -o yaml")]
pub struct CreateArgs {
    /// Name of the database; may be left out where the file names it
    #[arg(value_name = "NAME", required_unless_present = "file")]
    name: Option<String>,

    /// File with one Database, YAML or JSON; - reads standard input
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,

    #[command(flatten)]
    spec: Box<flags::SpecFlags>,

    /// Check only: `client` sends nothing, `server` asks the API server, which checks and writes nothing
    #[arg(long, value_enum, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    dry_run: Option<DryRun>,

    /// Print the object
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Document>,

    /// Wait until every member is ready, and show what happens
    #[arg(long)]
    wait: bool,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// How far a dry run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DryRun {
    Client,
    Server,
}

impl CreateArgs {
    fn read_file(&self) -> Result<Option<(String, String)>> {
        let Some(path) = &self.file else { return Ok(None) };
        let (name, text) = if path.as_os_str() == "-" {
            let mut text = String::new();
            ("standard input".to_owned(), std::io::stdin().read_to_string(&mut text).map(|_| text))
        } else {
            (path.display().to_string(), std::fs::read_to_string(path))
        };
        match text {
            Ok(text) => Ok(Some((name, text))),
            Err(error) => Err(CliError::usage(format!("failed to read {name}: {error}"))
                .hint("-f takes a file with one Database, or - for standard input")),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Where the database is not made, or, with --wait, not ready in time.
pub async fn run(context: &Context, args: CreateArgs) -> Result<()> {
    let file = args.read_file()?;
    let file = file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let database =
        manifest::build(args.name.as_deref(), &args.spec, file, context.global.namespace.as_deref())?;
    warn_of_even(context, database.spec.replicas);
    if args.dry_run == Some(DryRun::Client) {
        return report(context, &args, &database, "would be created (checked here only)");
    }
    if args.dry_run.is_none() {
        sandbox::software::before_start(context, database.spec.version)?;
    }
    let session = Session::open(context).await?;
    let namespace = database.namespace().unwrap_or_else(|| session.namespace.clone());
    let session = Session { namespace, ..session };
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    refuse_existing(context, &session, &api, &database).await?;
    super::retained::check_adoption(context, &session, &database).await?;
    if let Some(home) = session.place.sandbox()
        && args.dry_run.is_none()
    {
        sandbox::software::install(context, home, database.spec.version)?;
    }
    if args.dry_run.is_none() {
        super::destination::check_new(context, &session, &database).await?;
    }
    let params =
        PostParams { dry_run: args.dry_run.is_some(), field_manager: Some(FIELD_MANAGER.to_owned()) };
    let doing = format!("create database {:?}", database.name_any());
    let created = match api.create(&params, &database).await {
        Ok(created) => created,
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            refuse_existing(context, &session, &api, &database).await?;
            return Err(CliError::failed(format!("{doing}: {}", status.message)));
        }
        Err(error) => return Err(api_error::explain(&session, &doing, &error)),
    };
    if args.dry_run == Some(DryRun::Server) {
        return report(context, &args, &created, "would be created (checked by the API server)");
    }
    report(context, &args, &created, &format!("created in namespace {:?}", session.namespace))?;
    if args.wait {
        let ready = wait::until_ready(context, &session, &created, args.timeout).await?;
        if args.output.is_none() {
            context.ui.data(super::connect::guide(context, &session, &ready).await?)?;
        }
    } else {
        context.ui.note(format_args!(
            "to see how it goes: {} status {}",
            context.invocation(),
            created.name_any()
        ));
    }
    Ok(())
}

/// Says what became of the object, and prints it where that was asked for.
fn report(context: &Context, args: &CreateArgs, database: &Database, what: &str) -> Result<()> {
    context.ui.note(format_args!("database {:?} {what}", database.name_any()));
    match args.output {
        Some(format) => context.ui.data(output::document(format, database)?),
        None => Ok(()),
    }
}

/// An even number of members has no more majority than one member less.
pub fn warn_of_even(context: &Context, replicas: i32) {
    if replicas > 2 && replicas % 2 == 0 {
        context.ui.warn(format_args!(
            "{replicas} members survive the loss of no more members than {} do: an odd number is better",
            replicas - 1
        ));
    }
}

/// Says what there is of that name already.
///
/// # Errors
/// Where there is something.
pub async fn refuse_existing(
    context: &Context,
    session: &Session,
    api: &Api<Database>,
    database: &Database,
) -> Result<()> {
    let name = database.name_any();
    let existing = api.get_opt(&name).await;
    let existing = existing
        .map_err(|error| api_error::explain(session, &format!("create database {name:?}"), &error))?;
    let Some(existing) = existing else { return Ok(()) };
    let command = context.invocation();
    let error = CliError::failed(format!(
        "create database {name:?}: it already exists in namespace {:?}",
        session.namespace
    ));
    if existing.metadata.deletion_timestamp.is_some() {
        return Err(
            error.hint(format!("it is being deleted: wait until `{command} status {name}` does not find it"))
        );
    }
    let phase = existing.status.and_then(|status| status.phase);
    let phase = phase.map_or_else(String::new, |phase| format!(", {phase}"));
    let members = output::count(existing.spec.replicas, "member");
    Err(error
        .details([format!("there is: PostgreSQL {}, {members}{phase}", existing.spec.version)])
        .hint(format!("look at it: {command} status {name}"))
        .hint(format!("change its size: {command} scale {name} --replicas N"))
        .hint("or choose another name; nothing was changed"))
}
