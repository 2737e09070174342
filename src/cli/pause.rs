//! `dbctl pause` and `dbctl resume`.

use clap::Args;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::create::FIELD_MANAGER;
use super::error::{CliError, Result};
use super::session::Session;
use super::{Context, api_error, complete, scale};
use crate::api::{Database, PAUSED};

/// Have dbctl keep its hands off a database
///
/// The controller goes on looking and says in the status what it sees, but changes nothing: no member comes or goes, no
/// volume grows, schedules of backups rest, and requests (failover, restart, backup) are refused until `dbctl resume`. What is
/// changed in the spec meanwhile is done then. The database itself runs on.
///
/// This is not Patroni's own pause: Patroni goes on electing a new primary where one is lost. But what dbctl does beside it
/// then rests too: the lock of a dead primary is not released early, and the write Service may lead to it a little longer.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl pause orders-db")]
pub struct PauseArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,
}

/// Have dbctl look after a database again
///
/// Whatever its spec asks for by now is done at once. This is not Patroni's own `resume`: a pause of Patroni's stays.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl resume orders-db")]
pub struct ResumeArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,
}

/// Whether dbctl is to keep its hands off.
pub fn is_paused(database: &Database) -> bool {
    database.annotations().get(PAUSED).is_some_and(|value| value == "true")
}

/// That nothing is done for a paused database.
pub fn refusal(context: &Context, database: &Database, doing: &str) -> Option<CliError> {
    is_paused(database).then(|| {
        CliError::refused(format!(
            "failed to {doing}: dbctl is paused here, and does nothing until it is resumed"
        ))
        .hint(format!("resume it: {} resume {}", context.invocation(), database.name_any()))
    })
}

/// Runs `dbctl pause`.
///
/// # Errors
/// Where there is no such database, it is being deleted, or it cannot be written.
pub async fn pause(context: &Context, args: PauseArgs) -> Result<()> {
    let doing = format!("pause database {:?}", args.name);
    let (session, database) = get(context, &args.name, &doing).await?;
    if database.metadata.deletion_timestamp.is_some() {
        return Err(CliError::refused(format!("failed to {doing}: it is being deleted")));
    }
    if is_paused(&database) {
        context.ui.note(format_args!("database {:?} is paused already", args.name));
        return Ok(());
    }
    write(&session, &args.name, json!("true"), &doing).await?;
    context.ui.note(format_args!(
        "dbctl is paused for database {:?}: it looks, and changes nothing; Patroni goes on electing",
        args.name
    ));
    context.ui.note(format_args!("resume it with {} resume {}", context.invocation(), args.name));
    Ok(())
}

/// Runs `dbctl resume`.
///
/// # Errors
/// Where there is no such database, or it cannot be written.
pub async fn resume(context: &Context, args: ResumeArgs) -> Result<()> {
    let doing = format!("resume database {:?}", args.name);
    let (session, database) = get(context, &args.name, &doing).await?;
    if !database.annotations().contains_key(PAUSED) {
        context.ui.note(format_args!("database {:?} is not paused", args.name));
        return Ok(());
    }
    write(&session, &args.name, Value::Null, &doing).await?;
    context.ui.note(format_args!("dbctl looks after database {:?} again", args.name));
    Ok(())
}

async fn get(context: &Context, name: &str, doing: &str) -> Result<(Session, Database)> {
    let session = Session::open(context).await?;
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let database = scale::get(context, &session, &api, name, doing).await?;
    Ok((session, database))
}

async fn write(session: &Session, name: &str, value: Value, doing: &str) -> Result<()> {
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let patch = json!({ "metadata": { "annotations": { PAUSED: value } } });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
    let patched = api.patch_metadata(name, &params, &Patch::Merge(&patch)).await;
    patched.map(drop).map_err(|error| api_error::explain(session, doing, &error))
}
