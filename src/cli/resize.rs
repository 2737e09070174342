//! `dbctl resize`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::create::FIELD_MANAGER;
use super::error::{CliError, Result};
use super::progress::{Step, Steps};
use super::session::Session;
use super::{Context, api_error, complete, keeper, pause, scale, wait};
use crate::api::{ConditionType, Database, Names, Quantity, reason};

/// Make the volumes of a database larger
///
/// Each member's volume grows, while members run where the storage can do that, and those of later members are made as large.
/// It works for a full volume too. Nothing can be made smaller: for that, restore a backup into a new database.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl resize orders-db --storage 20Gi --dry-run  # what would grow, and whether it can
  dbctl resize orders-db --storage 20Gi --wait")]
pub struct ResizeArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// Size of each member's volume, for example 20Gi
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    storage: String,

    /// Wait until every volume has grown, and show what happens
    #[arg(long)]
    wait: bool,

    /// Only show what would happen
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Runs the command.
///
/// # Errors
/// Where the size is not allowed, volumes cannot grow, or, with --wait, have not in time.
pub async fn run(context: &Context, args: ResizeArgs) -> Result<()> {
    let name = &args.name;
    let doing = format!("resize database {name:?}");
    let wanted = parse(context, &args)?;
    let session = Session::open(context).await?;
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let database = scale::get(context, &session, &api, name, &doing).await?;
    let claims = claims(&session, name).await;
    let claims = claims.map_err(|error| api_error::explain(&session, &doing, &error))?;
    let plan = preview(&database, &session.namespace, &wanted, &claims);
    if args.dry_run {
        context.ui.data(&plan)?;
    }
    check(context, &database, &wanted, &doing)?;
    if let Some(class) = forbidding(&session, &claims, &wanted).await {
        return Err(class_refuses(context, name, &class, &doing));
    }
    if args.dry_run {
        return Ok(());
    }
    if args.wait
        && let Some(paused) = pause::refusal(context, &database, &doing)
    {
        return Err(paused);
    }
    if database.spec.storage.size == wanted {
        context.ui.note(format_args!("the volumes of database {name:?} are to have {wanted} already"));
    } else {
        context.ui.note(plan.trim_end());
        keeper::warn_of_change(context, &database, &["spec", "storage", "size"]);
        let patch = json!({ "spec": { "storage": { "size": wanted } } });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
        let patched = api.patch(name, &params, &Patch::Merge(&patch)).await;
        patched.map_err(|error| api_error::explain(&session, &doing, &error))?;
        if pause::is_paused(&database) {
            context.ui.warn("dbctl is paused here: they grow once it is resumed");
        }
    }
    if args.wait {
        return until_grown(context, &session, &args, &wanted).await;
    }
    context.ui.note(format_args!("to see how it goes: {} status {name}", context.invocation()));
    Ok(())
}

fn parse(context: &Context, args: &ResizeArgs) -> Result<Quantity> {
    let size: Option<Quantity> = args.storage.parse().ok().filter(|size: &Quantity| size.milli() > 0);
    size.ok_or_else(|| {
        CliError::usage(format!("failed to resize database {:?}: nothing was changed", args.name))
            .details([format!(
                "spec.storage.size (--storage): {:?} is not a size: a number with a unit, as in 20Gi",
                args.storage
            )])
            .hint(format!("for example: {} resize {} --storage 20Gi", context.invocation(), args.name))
    })
}

/// What keeps the wish from being written.
fn check(context: &Context, database: &Database, wanted: &Quantity, doing: &str) -> Result<()> {
    if database.metadata.deletion_timestamp.is_some() {
        return Err(CliError::refused(format!("failed to {doing}: it is being deleted")));
    }
    let has = &database.spec.storage.size;
    if wanted < has {
        let command = context.invocation();
        let name = database.name_any();
        return Err(CliError::refused(format!(
            "failed to {doing}: its volumes have {has}, and volumes never shrink"
        ))
        .hint(format!(
            "to get smaller ones, restore it into a new database: {command} create {name}-small --restore-from {name} --storage {wanted}"
        )));
    }
    Ok(())
}

async fn claims(session: &Session, name: &str) -> Result<Vec<PersistentVolumeClaim>, kube::Error> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(session.client.clone(), &session.namespace);
    let names = Names(name);
    let mut claims = api.list(&Default::default()).await?.items;
    claims.retain(|claim| {
        claim.name_any().strip_prefix("data-").is_some_and(|member| names.ordinal(member).is_some())
    });
    claims.sort_by_key(ResourceExt::name_any);
    Ok(claims)
}

fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage")?.0.parse().ok()
}

fn capacity(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    claim.status.as_ref()?.capacity.as_ref()?.get("storage")?.0.parse().ok()
}

fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.storage_class_name.as_deref()
}

/// The first class that says no. Whoever may not read classes hears of it from the status.
async fn forbidding(
    session: &Session,
    claims: &[PersistentVolumeClaim],
    wanted: &Quantity,
) -> Option<String> {
    let api: Api<StorageClass> = Api::all(session.client.clone());
    let small = claims.iter().filter(|claim| requested(claim).is_some_and(|has| has < *wanted));
    let mut classes: Vec<&str> = small.filter_map(class_of).collect();
    classes.dedup();
    for class in classes {
        let found = api.get_opt(class).await.ok().flatten();
        if found.is_some_and(|found| found.allow_volume_expansion != Some(true)) {
            return Some(class.to_owned());
        }
    }
    None
}

fn class_refuses(context: &Context, name: &str, class: &str, doing: &str) -> CliError {
    CliError::refused(format!(
        "failed to {doing}: StorageClass {class:?} does not let volumes grow (allowVolumeExpansion)"
    ))
    .hint(format!(
        "if its driver can do it: kubectl patch storageclass {class} -p '{{\"allowVolumeExpansion\":true}}'"
    ))
    .hint(format!(
        "or move the data to larger volumes: {} create {name}-2 --restore-from {name} --storage SIZE --storage-class CLASS",
        context.invocation()
    ))
}

fn preview(
    database: &Database,
    namespace: &str,
    wanted: &Quantity,
    claims: &[PersistentVolumeClaim],
) -> String {
    let name = database.name_any();
    let mut text = format!("Volumes of database {name:?} in namespace {namespace:?}, to {wanted} each:\n");
    for claim in claims {
        let has = capacity(claim).or_else(|| requested(claim));
        let has = has.map_or_else(|| "?".to_owned(), |has| has.to_string());
        let class = class_of(claim).map(|class| format!(" ({class})")).unwrap_or_default();
        let ordinal = claim.name_any().strip_prefix("data-").and_then(|member| Names(&name).ordinal(member));
        let later = ordinal.is_some_and(|ordinal| ordinal >= database.spec.replicas);
        let later = if later { "; grows once its member is there again" } else { "" };
        let _ = writeln!(text, "  {}: {has}{class}{later}", claim.name_any());
    }
    text.push_str("members run on meanwhile; one is started anew where its storage cannot grow otherwise\n");
    text
}

/// Shows each claim until all have grown.
async fn until_grown(
    context: &Context,
    session: &Session,
    args: &ResizeArgs,
    wanted: &Quantity,
) -> Result<()> {
    let name = &args.name;
    let doing = format!("wait for the volumes of database {name:?}");
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let mut steps = Steps::new(context.ui);
    let end = Instant::now() + args.timeout;
    loop {
        let database = scale::get(context, session, &api, name, &doing).await?;
        let claims = claims(session, name).await;
        let claims = claims.map_err(|error| api_error::explain(session, &doing, &error))?;
        let mut done = true;
        for claim in claims.iter().take(usize::try_from(database.spec.replicas).unwrap_or(0)) {
            let has = capacity(claim);
            let grown = has.as_ref().is_some_and(|has| has >= wanted);
            done &= grown;
            let step = if grown { Step::Done } else { Step::Working };
            let waits = if grown { "" } else { ", growing" };
            let has = has.map_or_else(|| "no volume".to_owned(), |has| has.to_string());
            steps.set(&claim.name_any(), step, format!("{}: {has}{waits}", claim.name_any()));
        }
        let (over, told) = verdict(&database);
        if let Some(told) = told.filter(|_| over != Some(true)) {
            steps.set("storage", Step::Working, told.clone());
            if over == Some(false) {
                steps.finish();
                return Err(CliError::failed(format!("resize database {name:?}: {told}")));
            }
        }
        if done && over == Some(true) {
            steps.set("storage", Step::Done, format!("every volume of {name} has {wanted}"));
            steps.finish();
            return Ok(());
        }
        wait::check_sandbox(context, session, name)?;
        if Instant::now() >= end {
            steps.finish();
            let waited = humantime::format_duration(args.timeout);
            return Err(CliError::timed_out(format!(
                "the volumes of database {name:?} have not grown after {waited}; it goes on"
            ))
            .hint(format!("see how it goes: {} status {name}", context.invocation())));
        }
        tokio::time::sleep(wait::TICK).await;
    }
}

/// What the controller says of this very spec: grown, never, or not yet; and its words.
fn verdict(database: &Database) -> (Option<bool>, Option<String>) {
    let Some(status) = &database.status else { return (None, None) };
    if status.observed_generation < database.metadata.generation {
        return (None, None);
    }
    let of = |kind: ConditionType| {
        let kind = kind.to_string();
        status.conditions.iter().find(|condition| condition.type_ == kind)
    };
    let storage = of(ConditionType::StorageHealthy);
    let refused = storage.is_some_and(|storage| storage.reason == reason::RESIZE_REFUSED);
    let pending = of(ConditionType::UpToDate).filter(|each| each.reason == reason::RESIZE_PENDING);
    let told = pending.or(storage).map(|condition| condition.message.clone());
    let over = if refused { Some(false) } else { pending.is_none().then_some(true) };
    (over, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(size: &str) -> Database {
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": { "name": "db" },
            "spec": { "replicas": 1, "version": "18.6", "storage": { "size": size } },
        }))
        .unwrap()
    }

    #[test]
    fn what_grows_and_when_is_said_first() {
        let claim = |name: &str| -> PersistentVolumeClaim {
            serde_json::from_value(
                json!({ "metadata": { "name": name }, "spec": { "storageClassName": "fast" },
                "status": { "capacity": { "storage": "10Gi" } } }),
            )
            .unwrap()
        };
        let wanted: Quantity = "20Gi".parse().unwrap();
        let claims = [claim("data-db-0"), claim("data-db-1")];
        insta::assert_snapshot!(preview(&database("10Gi"), "shop", &wanted, &claims), @r#"
        Volumes of database "db" in namespace "shop", to 20Gi each:
          data-db-0: 10Gi (fast)
          data-db-1: 10Gi (fast); grows once its member is there again
        members run on meanwhile; one is started anew where its storage cannot grow otherwise
        "#);
    }

    #[test]
    fn only_the_answer_to_this_spec_counts() {
        let of = |generation: i64, kind: &str, reason: &str| {
            let mut database = database("20Gi");
            database.metadata.generation = Some(2);
            database.status = serde_json::from_value(json!({ "observedGeneration": generation, "conditions": [
                { "type": kind, "status": "False", "reason": reason, "message": "m", "lastTransitionTime": "2026-11-22T10:00:00Z" }] }))
            .unwrap();
            verdict(&database).0
        };
        assert_eq!(of(1, "UpToDate", "PodsUpToDate"), None);
        assert_eq!(of(2, "UpToDate", "ResizePending"), None);
        assert_eq!(of(2, "UpToDate", "PodsUpToDate"), Some(true));
        assert_eq!(of(2, "StorageHealthy", "ResizeRefused"), Some(false));
    }
}
