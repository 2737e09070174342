//! `dbctl uninstall`.

use clap::Args;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, ResourceExt};

use super::error::{CliError, Result};
use super::install::found::{self, Found};
use super::install::place;
use super::session::Session;
use super::{Context, api_error, confirm, output};
use crate::api::{Database, Phase, crd};

/// What fails, as errors say it.
const DOING: &str = "uninstall dbctl";
/// Databases that are named one by one.
const NAMED: usize = 10;

/// Take dbctl's controller away; databases go on running
///
/// What `dbctl install` made goes: the Deployment, its rights, and what stands around it. Every database stays as it is, with its
/// definition, pods, volumes, Secrets and backups: Patroni goes on electing primaries. What the controller does beside that, no
/// longer happens, until `dbctl install`: changes of databases, backups that are asked for, upgrades, deletions.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl uninstall --dry-run
  dbctl uninstall --yes")]
pub struct UninstallArgs {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    /// Change nothing, and say what would go
    #[arg(long)]
    dry_run: bool,

    /// Also where databases are in the middle of something, which then waits for the next controller
    #[arg(long)]
    force: bool,

    /// Remove the definition of databases too; refused as long as there are any
    #[arg(long)]
    crd: bool,
}

/// Runs the command.
///
/// # Errors
/// Where nothing is installed, it would do harm, or the API server refuses.
pub async fn run(context: &Context, args: UninstallArgs) -> Result<()> {
    let sandbox = context.global.sandbox;
    if sandbox && args.crd {
        return Err(CliError::usage("the definition is the sandbox's own, and its controller needs it")
            .hint("`dbctl sandbox reset` removes all of a sandbox's state"));
    }
    let session = Session::open(context).await?;
    let namespace = place(context);
    let failed =
        |error: kube::Error| api_error::explain(&session, &format!("{DOING}: see what is there"), &error);
    let found = found::find(&session, &namespace).await.map_err(failed)?;
    let definition = definition(&session).await?.filter(|_| args.crd);
    if found.is_empty() && definition.is_none() {
        return Err(CliError::not_found(format!(
            "failed to {DOING}: nothing of it is in namespace {namespace:?}"
        ))
        .hint("name the controller's namespace with -n, if it has another one"));
    }
    let databases = databases(&session).await?;
    if definition.is_some() {
        keep_databases(context, &databases)?;
    }
    // The sandbox's own controller brings everything to its end.
    if !args.force && !sandbox {
        wait_for_busy(&databases)?;
    }
    announce(context, &session, &found, definition.is_some(), &databases);
    if args.dry_run {
        return Ok(());
    }
    if !args.yes {
        confirm::yes(context, "Take it away?", "nothing is taken away")?;
    }
    for object in &found {
        let doing = format!("{DOING}: delete {}", object.title());
        object.delete(&session).await.map_err(|error| api_error::explain(&session, &doing, &error))?;
        context.ui.data(format!("{} deleted\n", object.title()))?;
    }
    if let Some(definition) = definition {
        remove_definition(context, &session, &definition).await?;
    }
    if sandbox {
        return Ok(());
    }
    context.ui.note(format_args!(
        "kept: namespace {namespace:?}{}; to have a controller again: {} install",
        if databases.is_empty() { "" } else { ", and every database" },
        context.invocation()
    ));
    Ok(())
}

async fn definition(session: &Session) -> Result<Option<CustomResourceDefinition>> {
    let definitions: Api<CustomResourceDefinition> = Api::all(session.client.clone());
    let found = definitions.get_opt(&crd().name_any()).await;
    found.map_err(|error| api_error::explain(session, &format!("{DOING}: read the definition"), &error))
}

/// Those of all namespaces; none where their kind is not known.
async fn databases(session: &Session) -> Result<Vec<Database>> {
    let all: Api<Database> = Api::all(session.client.clone());
    match all.list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(api_error::explain(session, &format!("{DOING}: list databases"), &error)),
    }
}

fn title(database: &Database) -> String {
    format!("{}/{}", database.namespace().unwrap_or_default(), database.name_any())
}

/// Names, as many as fit.
fn listed(databases: &[Database]) -> String {
    let mut names: Vec<String> = databases.iter().take(NAMED).map(title).collect();
    if databases.len() > NAMED {
        names.push(format!("and {} more", databases.len() - NAMED));
    }
    names.join(", ")
}

/// With their definition, all Databases are deleted at once; their finalizers then wait for a controller that is not there, and
/// their pods and Services go by the garbage collector's hand.
fn keep_databases(context: &Context, databases: &[Database]) -> Result<()> {
    if databases.is_empty() {
        return Ok(());
    }
    let command = context.program();
    Err(CliError::refused(format!(
        "failed to {DOING}: with the definition, {} would be deleted",
        output::count(i64::try_from(databases.len()).unwrap_or(i64::MAX), "database")
    ))
    .details([listed(databases)])
    .hint(format!("delete them first, while the controller runs: {command} delete NAME -n NAMESPACE"))
    .hint("or leave --crd away, which keeps them; nothing was changed"))
}

/// What a database is in the middle of that no Patroni brings to its end.
fn busy(database: &Database) -> Option<String> {
    if database.metadata.deletion_timestamp.is_some() {
        return Some("it is being deleted".to_owned());
    }
    let status = database.status.as_ref()?;
    if let Some(operation) = status.operations.iter().find(|operation| operation.phase.is_under_way()) {
        return Some(format!("{} is under way", operation.kind));
    }
    let phase = status.phase?;
    let moving = matches!(
        phase,
        Phase::Creating | Phase::FailingOver | Phase::Upgrading | Phase::Restoring | Phase::Deleting
    );
    moving.then(|| format!("its phase is {phase}"))
}

fn wait_for_busy(databases: &[Database]) -> Result<()> {
    let busy: Vec<String> = databases
        .iter()
        .filter_map(|database| Some(format!("{}: {}", title(database), busy(database)?)))
        .collect();
    if busy.is_empty() {
        return Ok(());
    }
    Err(CliError::refused(format!(
        "failed to {DOING}: databases are in the middle of what the controller does"
    ))
    .details(busy)
    .hint("wait until that is done; `dbctl status NAME` shows how it goes")
    .hint("with --force it stays half done until a controller runs again; nothing was changed"))
}

fn announce(context: &Context, session: &Session, found: &[Found], definition: bool, databases: &[Database]) {
    let ui = &context.ui;
    ui.note("Uninstalling dbctl:");
    for object in found {
        ui.note(format_args!("  goes: {}", object.title()));
    }
    let name = crd().name_any();
    ui.note(format_args!("  {}: the definition {name}", if definition { "goes" } else { "stays" }));
    if session.place.sandbox().is_some() {
        ui.note("  stays: the sandbox's own controller, which goes on working");
        return;
    }
    if databases.is_empty() {
        return;
    }
    let count = output::count(i64::try_from(databases.len()).unwrap_or(i64::MAX), "database");
    ui.note(format_args!("  stays: {count} with pods, volumes, Secrets and backups: {}", listed(databases)));
    ui.note("  goes on: Patroni fails over by itself, and the write Service follows; WAL is archived, schedules of backups run");
    ui.note("  rests until the next install: changes, scaling, upgrades, restores, deletions, metrics");
}

/// Nothing may have been made since it was looked; a Database that appears now is deleted with the definition.
async fn remove_definition(
    context: &Context,
    session: &Session,
    definition: &CustomResourceDefinition,
) -> Result<()> {
    keep_databases(context, &databases(session).await?)?;
    let definitions: Api<CustomResourceDefinition> = Api::all(session.client.clone());
    let (name, uid) = (definition.name_any(), definition.uid());
    let preconditions = Some(Preconditions { uid, resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    match definitions.delete(&name, &params).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(error) => {
            return Err(api_error::explain(
                session,
                &format!("{DOING}: delete the definition {name}"),
                &error,
            ));
        }
    }
    context.ui.data(format!("customresourcedefinition.apiextensions.k8s.io/{name} deleted\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Outcome;
    use serde_json::{Value, json};

    fn database(name: &str, metadata: Value, status: Value) -> Database {
        let mut about = json!({ "name": name, "namespace": "shop" });
        json_patch::merge(&mut about, &metadata);
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": about,
            "spec": { "replicas": 2, "version": "18.6", "storage": { "size": "1Gi" } },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn what_nobody_else_ends_is_waited_for() {
        let operation =
            |phase: &str| json!({ "operations": [{ "id": "i", "kind": "backup", "phase": phase }] });
        let going = json!({ "deletionTimestamp": "2026-11-22T10:00:00Z" });
        for (metadata, status, wanted) in [
            (json!({}), json!({}), None),
            (json!({}), json!({ "phase": "Running" }), None),
            // Patroni, not the controller, brings a degraded one back.
            (json!({}), json!({ "phase": "Degraded" }), None),
            (json!({}), json!({ "phase": "Failed" }), None),
            (json!({}), json!({ "phase": "Restoring" }), Some("its phase is Restoring")),
            (json!({}), json!({ "phase": "Upgrading" }), Some("its phase is Upgrading")),
            (json!({}), operation("Running"), Some("backup is under way")),
            (json!({}), operation("Succeeded"), None),
            (going, json!({ "phase": "Running" }), Some("it is being deleted")),
        ] {
            let database = database("db", metadata.clone(), status.clone());
            assert_eq!(busy(&database).as_deref(), wanted, "{metadata} {status}");
            let answer = wait_for_busy(std::slice::from_ref(&database));
            assert_eq!(answer.err().map(|error| error.outcome), wanted.map(|_| Outcome::Refused));
        }
    }

    #[test]
    fn a_definition_with_databases_stays() {
        let context = Context::plain();
        assert_eq!(keep_databases(&context, &[]), Ok(()));
        let many: Vec<Database> =
            (0..12).map(|n| database(&format!("db{n}"), json!({}), json!({}))).collect();
        let error = keep_databases(&context, &many).unwrap_err();
        assert_eq!(error.outcome, Outcome::Refused);
        let text = error.render("error:", "hint:");
        assert!(text.contains("12 databases") && text.contains("shop/db9, and 2 more"), "{text}");
    }
}
