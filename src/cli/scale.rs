//! `dbctl scale`.

use std::time::Duration;

use clap::Args;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::error::{CliError, Result};
use super::session::Session;
use super::{Context, api_error, complete, create, keeper, namespace, output, pause, retained, wait};
use crate::api::{Database, Names, REPLICAS_MAX};

/// Change the number of members
///
/// The primary is never removed: where members go, they go from the highest number down, and the volumes of removed
/// members are kept.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl scale orders-db --replicas 5 --dry-run
  dbctl scale orders-db --replicas 5 --wait")]
pub struct ScaleArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// Number of members, 1 to 9
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    replicas: String,

    /// Only show who would come or go
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,

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
    if args.dry_run {
        return context.ui.data(preview(name, before.spec.replicas, replicas));
    }
    if args.wait
        && let Some(paused) = pause::refusal(context, &before, &doing)
    {
        return Err(paused);
    }
    if before.spec.replicas == replicas {
        context.ui.note(format_args!("database {name:?} has {} already", output::count(replicas, "member")));
    } else {
        keeper::warn_of_change(context, &before, &["spec", "replicas"]);
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

/// Who would come or go. The primary stays, whatever its number.
fn preview(name: &str, before: i32, after: i32) -> String {
    let members = |from: i32, to: i32| {
        (from..to).map(|ordinal| Names(name).member(ordinal)).collect::<Vec<_>>().join(", ")
    };
    let (was, becomes) = (output::count(before, "member"), output::count(after, "member"));
    match after.cmp(&before) {
        std::cmp::Ordering::Equal => format!("database {name:?} has {was} already\n"),
        std::cmp::Ordering::Greater => {
            format!(
                "database {name:?} would go from {was} to {becomes}: {} would be cloned\n",
                members(before, after)
            )
        }
        std::cmp::Ordering::Less => format!(
            "database {name:?} would go from {was} to {becomes}: {} would go, and their volumes would be kept; the \
             primary's role would move first where it is one of them\n",
            members(after, before)
        ),
    }
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
    if list.items.is_empty()
        && let Err(error) = namespace::check(context, session, doing).await
    {
        return error;
    }
    let names: Vec<_> = list.iter().take(10).map(ResourceExt::name_any).collect();
    let error = CliError::not_found(format!(
        "failed to {doing}: there is no database {name:?} in namespace {:?}",
        session.namespace
    ));
    let command = context.invocation();
    // Whoever may not read claims is not told of them.
    let kept = retained::find(session, false).await.unwrap_or_default();
    if kept.iter().any(|kept| kept.name == name) {
        error.hint(kept_hint(&command, name))
    } else if names.is_empty() {
        error.hint(format!("there is none at all in this namespace; {command} list -A looks in all"))
    } else {
        error.hint(format!("there is: {}; {command} list -A looks in all namespaces", names.join(", ")))
    }
}

/// For a database that is gone, and whose data is not.
fn kept_hint(command: &str, name: &str) -> String {
    format!(
        "it was deleted, and its data is kept: {command} list --retained shows it, and {command} create {name} takes it up, with the version \
         it had"
    )
}

#[cfg(test)]
mod tests {
    use super::super::error::Outcome;
    use super::super::session::Place;
    use super::*;
    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;

    /// A namespace with what is left of database "gone", and nothing else.
    fn session() -> Session {
        let service = tower::service_fn(|request: Request<Body>| async move {
            let path = request.uri().path();
            let none = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                "details": { "name": "x" } });
            let claim = json!({ "metadata": { "name": "data-gone-0", "namespace": "shop",
                "labels": { crate::api::LABEL_DATABASE: "gone" } } });
            let items = if path.ends_with("/persistentvolumeclaims") { json!([claim]) } else { json!([]) };
            let list = json!({ "metadata": {}, "items": items });
            let (code, answer) = match path {
                "/api/v1/namespaces/shop" => (200, json!({ "metadata": { "name": "shop" } })),
                _ if path.contains("/databases/") => (404, none),
                _ => (200, list),
            };
            Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()))
        });
        let client = Client::new(service, "shop");
        let place = Place::Cluster("prod".into());
        Session { client: client.clone(), streaming: client, namespace: "shop".into(), place }
    }

    #[tokio::test]
    async fn a_deleted_database_is_told_from_one_that_never_was() {
        let (context, session) = (Context::plain(), session());
        let api: Api<Database> = Api::namespaced(session.client.clone(), "shop");
        let gone = get(&context, &session, &api, "gone", "read it").await.unwrap_err();
        assert_eq!(gone.outcome, Outcome::NotFound);
        assert!(
            gone.hints[0].contains("list --retained") && gone.hints[0].contains("create gone"),
            "{gone:?}"
        );
        let other = get(&context, &session, &api, "other", "read it").await.unwrap_err();
        assert!(other.hints[0].contains("none at all in this namespace"), "{other:?}");
    }

    #[test]
    fn a_preview_names_who_comes_and_who_goes() {
        assert_eq!(
            preview("db", 1, 3),
            "database \"db\" would go from 1 member to 3 members: db-1, db-2 would be cloned\n"
        );
        assert!(preview("db", 5, 3).contains("5 members to 3 members: db-3, db-4 would go"));
        assert_eq!(preview("db", 3, 3), "database \"db\" has 3 members already\n");
    }
}
