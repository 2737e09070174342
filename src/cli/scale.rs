//! `dbctl scale`.

use std::time::Duration;

use clap::Args;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::error::{CliError, Result};
use super::session::Session;
use super::{Context, api_error, complete, create, output, pause, wait};
use crate::api::{Database, REPLICAS_MAX};

/// Change the number of members
///
/// The primary is never removed: where members go, they go from the highest number down, and the volumes of removed
/// members are kept.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// Number of members, 1 to 9
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    replicas: String,

    /// Wait until it is so, and show what happens
    #[arg(long)]
    wait: bool,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Runs the command.
///
/// # Errors
/// Where the number is not allowed, there is no such database, or, with --wait, it is not ready in time.
pub async fn run(context: &Context, args: ScaleArgs) -> Result<()> {
    let name = &args.name;
    let replicas: i32 =
        args.replicas.parse().ok().filter(|n| (1..=REPLICAS_MAX).contains(n)).ok_or_else(|| {
            CliError::usage(format!("failed to scale database {name:?}: nothing was changed"))
                .details([format!(
                    "spec.replicas (--replicas): {:?} is not allowed: a whole number, 1 to {REPLICAS_MAX}",
                    args.replicas
                )])
                .hint(format!("for example: {} scale {name} --replicas 3", context.invocation()))
        })?;
    create::warn_of_even(context, replicas);
    let session = Session::open(context).await?;
    let doing = format!("scale database {name:?}");
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let before = get(context, &session, &api, name, &doing).await?;
    if before.metadata.deletion_timestamp.is_some() {
        return Err(CliError::refused(format!("failed to {doing}: it is being deleted")));
    }
    if args.wait
        && let Some(paused) = pause::refusal(context, &before, &doing)
    {
        return Err(paused);
    }
    if before.spec.replicas == replicas {
        context.ui.note(format_args!("database {name:?} has {} already", output::count(replicas, "member")));
    } else {
        let patch = json!({ "spec": { "replicas": replicas } });
        let params =
            PatchParams { field_manager: Some(create::FIELD_MANAGER.to_owned()), ..Default::default() };
        let scaled = api.patch_scale(name, &params, &Patch::Merge(&patch)).await;
        scaled.map_err(|error| api_error::explain(&session, &doing, &error))?;
        context.ui.note(format_args!(
            "database {name:?} goes from {} to {replicas}",
            output::count(before.spec.replicas, "member")
        ));
        if pause::is_paused(&before) {
            context.ui.warn("dbctl is paused here: members come or go once it is resumed");
        }
    }
    if args.wait {
        let wanted = get(context, &session, &api, name, &doing).await?;
        wait::until_ready(context, &session, &wanted, args.timeout).await?;
    }
    Ok(())
}

/// The database of that name.
///
/// # Errors
/// Where there is none, with what there is.
pub async fn get(
    context: &Context,
    session: &Session,
    api: &Api<Database>,
    name: &str,
    doing: &str,
) -> Result<Database> {
    match api.get_opt(name).await {
        Ok(Some(database)) => Ok(database),
        Ok(None) => Err(missing(context, session, api, name, doing).await),
        Err(error) => Err(api_error::explain(session, doing, &error)),
    }
}

/// There is no such database, or no such kind: a list tells.
async fn missing(
    context: &Context,
    session: &Session,
    api: &Api<Database>,
    name: &str,
    doing: &str,
) -> CliError {
    let list = match api.list(&Default::default()).await {
        Ok(list) => list,
        Err(error) => return api_error::explain(session, doing, &error),
    };
    let names: Vec<_> = list.iter().take(10).map(ResourceExt::name_any).collect();
    let error = CliError::not_found(format!(
        "failed to {doing}: there is no database {name:?} in namespace {:?}",
        session.namespace
    ));
    let command = context.invocation();
    if names.is_empty() {
        error.hint(format!("there is none at all in this namespace; {command} list -A looks in all"))
    } else {
        error.hint(format!("there is: {}; {command} list -A looks in all namespaces", names.join(", ")))
    }
}
