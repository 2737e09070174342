//! `dbctl delete`.

use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::create::FIELD_MANAGER;
use super::create::flags::DeletionFlag;
use super::error::{CliError, Result};
use super::progress::{Step, Steps};
use super::session::Session;
use super::{Context, api_error, backup_now, complete, confirm, keeper, members, output, pause, scale};
use crate::api::{Database, DeletionPolicy, Names};

/// How often it is looked whether all is gone.
const INTERVAL: Duration = Duration::from_millis(250);

/// Delete a database
///
/// What happens to its data is the database's deletion policy: with Retain, volumes and credentials stay, and creating
/// the database again by the same name brings it back; with Delete they go too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl delete orders-db --dry-run
  dbctl delete orders-db
  dbctl delete orders-db --final-backup --yes
  dbctl delete orders-db --deletion-policy delete   # its data too")]
pub struct DeleteArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    /// Only show what would go and what would stay
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,

    /// Decide anew what happens to the data. With `delete`, data that an already deleted database left is deleted too
    #[arg(long, value_enum, ignore_case = true, value_name = "POLICY")]
    deletion_policy: Option<DeletionFlag>,

    /// Take a last backup first, and delete only after it has succeeded
    #[arg(long)]
    final_backup: bool,

    /// Return at once, without waiting until everything has gone
    #[arg(long)]
    no_wait: bool,

    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// How long to wait for the last backup
    #[arg(long, value_name = "DURATION", default_value = "4h", requires = "final_backup", value_parser = humantime::parse_duration)]
    backup_timeout: Duration,
}

/// What belongs to a database and outlives its object under Retain.
#[derive(Debug, Default)]
struct Data {
    volumes: Vec<String>,
    /// The same, each with its size.
    sized: Vec<String>,
    /// The PersistentVolumes behind them.
    behind: Vec<String>,
    secrets: Vec<String>,
    config_maps: Vec<String>,
}

impl Data {
    fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.secrets.is_empty() && self.config_maps.is_empty()
    }

    fn lines(&self) -> Vec<String> {
        let line = |noun: &str, names: &[String]| {
            (!names.is_empty()).then(|| format!("{noun} {}", names.join(", ")))
        };
        [line("volumes", &self.sized), line("Secrets", &self.secrets), line("ConfigMaps", &self.config_maps)]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Runs the command.
///
/// # Errors
/// Where it is refused, there is nothing to delete, or it does not go in time.
pub async fn run(context: &Context, args: DeleteArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let doing = format!("delete database {:?}", args.name);
    let data =
        data(&session, &args.name).await.map_err(|error| api_error::explain(&session, &doing, &error))?;
    let purge = matches!(args.deletion_policy, Some(DeletionFlag::Delete));
    let database = match scale::get(context, &session, &api, &args.name, &doing).await {
        Ok(database) => database,
        Err(error) if error.outcome == super::Outcome::NotFound && !data.is_empty() => {
            return if args.final_backup {
                Err(CliError::refused(format!(
                    "failed to {doing}: it is deleted already, and nothing runs that a backup could be taken of"
                ))
                .hint(format!("make it again first: {} create {} --wait", context.invocation(), args.name)))
            } else if purge {
                remove_left_overs(context, &session, &args, &data, &doing).await
            } else {
                Err(left_overs(context, error, &args.name, &data))
            };
        }
        Err(error) => return Err(error),
    };
    let policy = match args.deletion_policy {
        Some(DeletionFlag::Delete) => DeletionPolicy::Delete,
        Some(DeletionFlag::Retain) => DeletionPolicy::Retain,
        None => database.spec.deletion_policy,
    };
    if let Some(paused) = pause::refusal(context, &database, &doing) {
        return Err(paused);
    }
    if args.final_backup {
        backup_now::check(&database, &doing)?;
    }
    announce(context, &session, &database, policy, &data, args.dry_run);
    keeper::warn_of_deletion(context, &database);
    if args.final_backup {
        context.ui.note("  first: a last backup; nothing is deleted unless it succeeds");
    }
    if args.dry_run {
        return Ok(());
    }
    confirm(context, &args)?;
    if args.final_backup {
        backup_now::take(context, &session, &database, args.backup_timeout)
            .await
            .map_err(|error| error.hint(format!("database {:?} is not deleted", args.name)))?;
    }
    if policy != database.spec.deletion_policy {
        let patch = json!({ "spec": { "deletionPolicy": policy } });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
        let patched = api.patch(&args.name, &params, &Patch::Merge(&patch)).await;
        patched.map_err(|error| api_error::explain(&session, &doing, &error))?;
    }
    // Only the very object that was shown.
    let preconditions = Preconditions { uid: database.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
    match api.delete(&args.name, &params).await {
        Ok(_) => {}
        // It was going already, and has gone since it was looked at.
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(error) => return Err(api_error::explain(&session, &doing, &error)),
    }
    if args.no_wait {
        context.ui.note(format_args!("database {:?} is being deleted", args.name));
    } else {
        let volumes = if policy == DeletionPolicy::Delete { data.behind.as_slice() } else { &[] };
        wait(context, &session, &database, volumes, &args).await?;
        context.ui.note(format_args!("database {:?} is deleted", args.name));
    }
    if policy == DeletionPolicy::Retain {
        after_retain(context, &database, &data);
    }
    Ok(())
}

/// What is done, or would be.
fn doing(dry_run: bool) -> &'static str {
    if dry_run { "Would delete" } else { "Deleting" }
}

fn announce(
    context: &Context,
    session: &Session,
    database: &Database,
    policy: DeletionPolicy,
    data: &Data,
    dry_run: bool,
) {
    let ui = &context.ui;
    let name = database.name_any();
    let members = output::count(database.spec.replicas, "member");
    ui.note(format_args!(
        "{} database {name:?} in namespace {:?} (deletion policy {policy:?}):",
        doing(dry_run),
        session.namespace
    ));
    ui.note(format_args!("  goes: {members}, Services {name} and {name}-ro; nobody can connect any more"));
    let (word, gone) = match policy {
        DeletionPolicy::Retain => ("stays", false),
        DeletionPolicy::Delete => ("goes for good", true),
    };
    for line in data.lines() {
        let line = format!("  {word}: {line}");
        ui.note(if gone { ui.paint_err(super::ui::Tone::Bad, line) } else { line });
    }
    if let Some(destination) = destination(database) {
        ui.note(format_args!("  stays: the backups and the WAL in {destination}"));
    }
}

/// Where its backups are, by what is asked for now.
fn destination(database: &Database) -> Option<&str> {
    database.spec.backup.as_ref()?.destination.as_deref()
}

/// What it was asked for besides, as flags: it goes on in its own archive only where it is asked for again.
fn backup_flags(database: &Database) -> String {
    let backup = database.spec.backup.as_ref().filter(|backup| backup.enabled);
    let flags = backup.map(|backup| {
        [
            ("destination", backup.destination.as_ref()),
            ("schedule", backup.schedule.as_ref()),
            ("time-zone", backup.time_zone.as_ref()),
            ("credentials", backup.credentials_secret.as_ref()),
        ]
    });
    let given = flags.into_iter().flatten().filter_map(|(flag, value)| Some((flag, value?)));
    let given = given.map(|(flag, value)| format!(" --backup-{flag} {}", output::shell_word(value)));
    // With fewer than before, the oldest would go.
    given.chain(backup.map(|backup| format!(" --backup-retention {}", backup.retention))).collect()
}

fn after_retain(context: &Context, database: &Database, data: &Data) {
    let (name, spec) = (database.name_any(), &database.spec);
    let command = context.invocation();
    for line in data.lines() {
        context.ui.note(format_args!("kept: {line}"));
    }
    context.ui.note(format_args!(
        "to get it back: {command} create {name} --replicas {} --version {} --storage {}{} --wait",
        spec.replicas,
        spec.version,
        spec.storage.size,
        backup_flags(database)
    ));
    context.ui.note(format_args!("to be rid of the data: {command} delete {name} --deletion-policy delete"));
}

fn left_overs(context: &Context, error: CliError, name: &str, data: &Data) -> CliError {
    let command = context.invocation();
    error
        .details(data.lines().into_iter().map(|line| format!("what it left is still there: {line}")))
        .hint(format!("to get it back: {command} create {name} --wait, with the --version it had"))
        .hint(format!("to be rid of the data: {command} delete {name} --deletion-policy delete"))
}

fn confirm(context: &Context, args: &DeleteArgs) -> Result<()> {
    if args.yes {
        return Ok(());
    }
    confirm::name(context, &args.name, "delete it", &format!("database {:?} is not deleted", args.name))
}

/// The claim's name with its volume's size.
fn sized(claim: &PersistentVolumeClaim) -> String {
    let has = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"));
    let size = has.map(|size| format!(" ({})", size.0)).unwrap_or_default();
    format!("{}{size}", claim.name_any())
}

async fn data(session: &Session, name: &str) -> Result<Data, kube::Error> {
    let names = Names(name);
    let (client, namespace) = (session.client.clone(), &session.namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let config_maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let labelled = ListParams::default().labels(&format!("{}={name}", crate::api::LABEL_DATABASE));
    let everything = ListParams::default();
    let (claims, secrets, config_maps) = tokio::try_join!(
        claims.list(&everything),
        secrets.list_metadata(&labelled),
        config_maps.list_metadata(&labelled)
    )?;
    let is_claim =
        |claim: &str| claim.strip_prefix("data-").is_some_and(|member| names.ordinal(member).is_some());
    let kept: Vec<String> = names.patroni_objects().into_iter().chain([names.backups()]).collect();
    let claims: Vec<_> = claims.into_iter().filter(|claim| is_claim(&claim.name_any())).collect();
    let behind = claims.iter().filter_map(|claim| claim.spec.as_ref()?.volume_name.clone());
    let mut data = Data {
        volumes: claims.iter().map(ResourceExt::name_any).collect(),
        sized: claims.iter().map(sized).collect(),
        behind: behind.collect(),
        secrets: secrets
            .iter()
            .map(ResourceExt::name_any)
            .filter(|secret| names.secrets().contains(secret))
            .collect(),
        config_maps: config_maps.iter().map(ResourceExt::name_any).filter(|map| kept.contains(map)).collect(),
    };
    data.volumes.sort();
    data.sized.sort();
    data.secrets.sort();
    data.config_maps.sort();
    Ok(data)
}

/// Deletes what a database that is gone already left.
async fn remove_left_overs(
    context: &Context,
    session: &Session,
    args: &DeleteArgs,
    data: &Data,
    doing: &str,
) -> Result<()> {
    let name = &args.name;
    let doing_so = self::doing(args.dry_run);
    context.ui.note(format_args!("Database {name:?} is deleted already. {doing_so} what it left:"));
    for line in data.lines() {
        context.ui.note(context.ui.paint_err(super::ui::Tone::Bad, format!("  goes for good: {line}")));
    }
    if args.dry_run {
        return Ok(());
    }
    confirm(context, args)?;
    let (client, namespace) = (session.client.clone(), &session.namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let config_maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    remove_all(&claims, &data.volumes).await.map_err(|error| api_error::explain(session, doing, &error))?;
    remove_all(&config_maps, &data.config_maps)
        .await
        .map_err(|error| api_error::explain(session, doing, &error))?;
    remove_all(&secrets, &data.secrets).await.map_err(|error| api_error::explain(session, doing, &error))?;
    let end = Instant::now() + args.timeout;
    while !args.no_wait && volumes_left(session, &data.behind).await > 0 {
        if Instant::now() >= end {
            return Err(too_late(args, None));
        }
        tokio::time::sleep(INTERVAL).await;
    }
    context.ui.note(format_args!("what database {name:?} left is deleted"));
    Ok(())
}

async fn remove_all<K>(api: &Api<K>, names: &[String]) -> Result<(), kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    for name in names {
        match api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// What is still there of a database that is being deleted.
struct Left {
    object: Option<Database>,
    members: Vec<String>,
    volumes: usize,
}

async fn left(session: &Session, database: &Database, volumes: &[String]) -> Result<Left, kube::Error> {
    let name = database.name_any();
    let databases: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let pods: Api<Pod> = Api::namespaced(session.client.clone(), &session.namespace);
    let of_members = ListParams::default().labels(&members::selector(&name));
    let (object, members, volumes) = tokio::join!(
        databases.get_opt(&name),
        pods.list_metadata(&of_members),
        volumes_left(session, volumes)
    );
    Ok(Left {
        object: object?.filter(|object| object.metadata.uid == database.metadata.uid),
        members: members?.iter().map(ResourceExt::name_any).collect(),
        volumes,
    })
}

/// How many volumes are still to be deleted. Who may not see volumes, which belong to the whole cluster, does not wait
/// for them; nor does anybody wait for those that their storage class keeps.
async fn volumes_left(session: &Session, volumes: &[String]) -> usize {
    let api: Api<PersistentVolume> = Api::all(session.client.clone());
    let found = futures::future::join_all(volumes.iter().map(|volume| api.get_opt(volume))).await;
    let deletes = |volume: &PersistentVolume| {
        volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref())
            == Some("Delete")
    };
    found.into_iter().flatten().flatten().filter(deletes).count()
}

/// Waits until the object and its pods, and under Delete its volumes, are gone.
async fn wait(
    context: &Context,
    session: &Session,
    database: &Database,
    volumes: &[String],
    args: &DeleteArgs,
) -> Result<()> {
    let name = &args.name;
    let mut steps = Steps::new(context.ui);
    let end = Instant::now() + args.timeout;
    loop {
        let left = left(session, database, volumes).await;
        let left = left.map_err(|error| {
            api_error::explain(session, &format!("wait until database {name:?} is gone"), &error)
        })?;
        let text = match (left.members.as_slice(), left.volumes) {
            ([], 0) if left.object.is_none() => return Ok(()),
            ([], 0) => "members have stopped".to_owned(),
            ([], count) => format!("deleting {}", output::count(i64::try_from(count).unwrap_or(0), "volume")),
            (members, _) => format!("stopping {}", members.join(", ")),
        };
        steps.set("members", Step::Working, text);
        if Instant::now() >= end {
            steps.finish();
            return Err(too_late(args, left.object));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn too_late(args: &DeleteArgs, object: Option<Database>) -> CliError {
    let waited = humantime::format_duration(args.timeout);
    let held = object.map(|object| object.finalizers().join(", ")).filter(|held| !held.is_empty());
    let held =
        held.map(|held| format!("its finalizers {held} hold it: a controller must run to release them"));
    CliError::timed_out(format!("database {:?} is not gone after {waited}; it still goes", args.name))
        .details(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_brings_it_back_brings_its_archive_back() {
        let flags = |backup: serde_json::Value| {
            let database: Database = serde_json::from_value(json!({
                "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": { "name": "db" },
                "spec": { "version": "18.6", "storage": { "size": "1Gi" }, "backup": backup },
            }))
            .unwrap();
            backup_flags(&database)
        };
        let backup = json!({ "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/p", "credentialsSecret": "keys",
            "retention": 30 });
        let expected = " --backup-destination s3://b/p --backup-schedule '0 3 * * *' --backup-credentials keys --backup-retention 30";
        assert_eq!(flags(backup), expected);
        assert_eq!(flags(json!({ "enabled": false, "destination": "s3://b/p" })), "");
        assert_eq!(flags(json!(null)), "");
    }
}
