//! `dbctl backup`.

use std::time::Duration;

use clap::{Args, Subcommand};
use kube::Api;

use super::backup_now::{self, BackupNowArgs, NowFormat};
use super::error::{CliError, Result};
use super::request::{self, Asked};
use super::session::Session;
use super::{Context, complete, scale};
use crate::api::{Catalog, Database, Names, Operation, Progress, Verb, VerifyArguments};

/// Take a backup, or check that one can be restored
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl backup now orders-db --wait
  dbctl backup verify orders-db --wait")]
pub struct BackupArgs {
    #[command(subcommand)]
    command: BackupCommand,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    Now(BackupNowArgs),
    Verify(VerifyArgs),
}

/// Restore a backup aside, and have PostgreSQL check what comes of it
///
/// A Job restores it on a volume of its pod's own, which goes with it: nothing reaches the database. The hashes, PostgreSQL's manifest, the
/// recovery, and then each table and B-tree are checked. A backup that is damaged is reported until a later one is
/// found to be good: BackupsHealthy is False, and this command fails. With spec.backup.verify it is done by a schedule.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl backup verify orders-db --wait             # the newest
  dbctl backup verify orders-db --backup 20261122T030000Z-00000001-0000000003000028-k3x9ab
  dbctl backups orders-db -o wide                  # which were verified, and when")]
struct VerifyArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// The backup, as `dbctl backups` lists it; without it, the newest
    #[arg(long, value_name = "ID", add = complete::backup())]
    backup: Option<String>,

    /// Follow it to its end
    #[arg(long)]
    wait: bool,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// What to print on standard output: with --wait of the backup, without of the request
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<NowFormat>,
}

/// Runs the command.
///
/// # Errors
/// Where it is refused, fails, or does not end in time; a damaged backup is a failure.
pub async fn run(context: &Context, args: BackupArgs) -> Result<()> {
    match args.command {
        BackupCommand::Now(args) => backup_now::run(context, args).await,
        BackupCommand::Verify(args) => verify(context, args).await,
    }
}

async fn verify(context: &Context, args: VerifyArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let name = &args.name;
    let doing = format!("verify a backup of database {name:?}");
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let database = scale::get(context, &session, &api, name, &doing).await?;
    if let Some(why) = refusal(&database) {
        return Err(CliError::refused(format!("failed to {doing}: {why}")));
    }
    if let Some(id) = &args.backup
        && let Some(catalog) = backup_now::map(&session, name).await.and_then(|map| Catalog::of(&map))
        && catalog.backups.iter().all(|entry| entry.id != *id)
    {
        return Err(CliError::not_found(format!("failed to {doing}: {id} is no good backup of it"))
            .hint(format!("see what there is with {} backups {name}", context.invocation())));
    }
    request::check_idle(context, &database, Verb::Verify, &doing)?;
    if let Some(job) = backup_now::running(&session, &Names(name).verify_labels()).await {
        return Err(CliError::refused(format!(
            "failed to {doing}: another one is being verified, by Job {job}"
        ))
        .hint(format!("see when it is done with {} backups {name} -o wide", context.invocation())));
    }
    let arguments = VerifyArguments { backup: args.backup.clone() };
    let id = request::put(context, &session, &database, Verb::Verify, &arguments, &doing).await?;
    if !args.wait {
        request::tell_how_to_follow(context, name, Verb::Verify, &id);
        let asked = Operation { id: id.clone(), kind: Verb::Verify.to_string(), ..Operation::default() };
        return backup_now::print(context, args.output, &id, &asked);
    }
    let asked = Asked { database: &database, verb: Verb::Verify, id: &id, timeout: args.timeout };
    let beside = backup_now::progress(context, &session, name, &id, Progress::of_verification);
    let outcome = request::follow_beside(context, &session, &asked, |_| true, beside).await?;
    let done = outcome.operation.message.clone().unwrap_or_else(|| "the backup is good".to_owned());
    context.ui.note(format_args!("database {name:?}: {done}"));
    let catalog = backup_now::map(&session, name).await.and_then(|map| Catalog::of(&map)).unwrap_or_default();
    let entry = catalog.backups.into_iter().find(|entry| outcome.operation.from.as_ref() == Some(&entry.id));
    match entry {
        Some(entry) => backup_now::print(context, args.output, &entry.id, &entry),
        None => backup_now::print(context, args.output, &id, &outcome.operation),
    }
}

/// Why there is nothing to ask for, as far as the object says; the controller decides.
fn refusal(database: &Database) -> Option<String> {
    if database.metadata.deletion_timestamp.is_some() {
        return Some("it is being deleted".to_owned());
    }
    if !database.spec.backup.as_ref().is_some_and(|backup| backup.enabled) {
        return Some(
            "its backups are off: set spec.backup, with a destination and a schedule, first".to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_is_refused_at_once() {
        let of = |enabled: bool| -> Option<String> {
            let backup = json!({ "enabled": enabled, "schedule": "0 3 * * *", "destination": "s3://b/p" });
            let spec = json!({ "version": "18.6", "storage": { "size": "1Gi" }, "backup": backup });
            let object = json!({ "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
                "metadata": { "name": "db" }, "spec": spec });
            refusal(&serde_json::from_value(object).unwrap())
        };
        assert_eq!(of(true), None);
        assert!(of(false).unwrap().contains("are off"));
    }
}
