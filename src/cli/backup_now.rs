//! `dbctl backup-now`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::{Stream, stream};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::error::{CliError, Result};
use super::output::{self, Document};
use super::request::{self, Asked};
use super::session::Session;
use super::{Context, complete, scale, wait};
use crate::api::{
    BackupArguments, Catalog, CatalogEntry, ConditionType, Database, Names, Operation, Progress, Verb,
};

/// Take a backup of a database now, beside those of its schedule
///
/// A Job takes it from a replica where one is fit for it, else from the primary; nobody has to stop writing. What is kept
/// afterwards is what spec.backup.retention says. See what there is with `dbctl backups`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl backup-now orders-db --dry-run             # where it would go, and what would be kept
  dbctl backup-now orders-db --wait
  id=$(dbctl backup-now orders-db --wait -o name)")]
pub struct BackupNowArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// Follow it to its end
    #[arg(long)]
    wait: bool,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Only show what would happen
    #[arg(long, conflicts_with_all = ["wait", "output"])]
    dry_run: bool,

    /// What to print on standard output: with --wait of the backup, without of the request
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<NowFormat>,
}

/// How the outcome is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum NowFormat {
    /// As JSON
    Json,
    /// As YAML
    Yaml,
    /// Its id only
    Name,
}

/// Runs the command.
///
/// # Errors
/// Where it is refused, fails, or does not end in time.
pub async fn run(context: &Context, args: BackupNowArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let doing = format!("back up database {:?}", args.name);
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let database = scale::get(context, &session, &api, &args.name, &doing).await?;
    if let Some(why) = refusal(&database) {
        return Err(CliError::refused(format!("failed to {doing}: {why}")));
    }
    if args.dry_run {
        context.ui.data(preview(&database, &session.namespace))?;
    }
    request::check_idle(context, &database, Verb::Backup, &doing)?;
    if let Some(job) = running(&session, &Names(&args.name).backup_labels()).await {
        return Err(CliError::refused(format!(
            "failed to {doing}: another backup is being taken, by Job {job}"
        ))
        .hint(format!("see when it is done with {} backups {}", context.invocation(), args.name)));
    }
    if args.dry_run {
        return Ok(());
    }
    let id = request::put(context, &session, &database, Verb::Backup, &BackupArguments {}, &doing).await?;
    if !args.wait {
        request::tell_how_to_follow(context, &args.name, Verb::Backup, &id);
        let asked = Operation { id: id.clone(), kind: Verb::Backup.to_string(), ..Operation::default() };
        return print(context, args.output, &id, &asked);
    }
    let asked = Asked { database: &database, verb: Verb::Backup, id: &id, timeout: args.timeout };
    let beside = progress(context, &session, &args.name, &id, Progress::of);
    let outcome = request::follow_beside(context, &session, &asked, |_| true, beside).await?;
    let done = outcome.operation.message.clone().unwrap_or_else(|| "backed up".to_owned());
    context.ui.note(format_args!("database {:?}: {done}", args.name));
    match entry(&session, &args.name, &id).await {
        Some(entry) => print(context, args.output, &entry.id, &entry),
        None => print(context, args.output, &id, &outcome.operation),
    }
}

pub(super) fn print(
    context: &Context,
    format: Option<NowFormat>,
    id: &str,
    whole: &impl serde::Serialize,
) -> Result<()> {
    match format {
        None => Ok(()),
        Some(NowFormat::Name) => context.ui.data(format_args!("{id}\n")),
        Some(NowFormat::Json) => context.ui.data(output::document(Document::Json, whole)?),
        Some(NowFormat::Yaml) => context.ui.data(output::document(Document::Yaml, whole)?),
    }
}

/// Before anything else is done: that a backup can be asked for.
///
/// # Errors
/// Where it cannot.
pub(super) fn check(database: &Database, doing: &str) -> Result<()> {
    match refusal(database) {
        Some(why) => Err(CliError::refused(format!("failed to {doing}: no last backup can be taken: {why}"))),
        None => Ok(()),
    }
}

/// Takes one, and follows it to its end.
///
/// # Errors
/// Where it is refused, fails, or does not end in time.
pub(super) async fn take(
    context: &Context,
    session: &Session,
    database: &Database,
    timeout: Duration,
) -> Result<()> {
    let name = database.name_any();
    let doing = format!("back up database {name:?}");
    let id = request::put(context, session, database, Verb::Backup, &BackupArguments {}, &doing).await?;
    let asked = Asked { database, verb: Verb::Backup, id: &id, timeout };
    let beside = progress(context, session, &name, &id, Progress::of);
    let outcome = request::follow_beside(context, session, &asked, |_| true, beside).await?;
    let done = outcome.operation.message.unwrap_or_else(|| "backed up".to_owned());
    context.ui.note(format_args!("database {name:?}: {done}"));
    Ok(())
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
    let kind = ConditionType::Writable.to_string();
    let conditions = database.status.iter().flat_map(|status| &status.conditions);
    let writable = conditions.into_iter().find(|condition| condition.type_ == kind)?;
    (writable.status == "False").then(|| format!("a backup needs a primary, and {}", writable.message))
}

fn preview(database: &Database, namespace: &str) -> String {
    let name = database.name_any();
    let mut text = format!("Backup of database {name:?} in namespace {namespace:?}:\n");
    let backup = database.spec.backup.clone().unwrap_or_default();
    let from = if database.spec.replicas > 1 {
        "a replica that is fit for it, else the primary"
    } else {
        "the primary, the only member"
    };
    let last = database.status.as_ref().and_then(|status| status.backups.first());
    let last = last.and_then(|last| Some((last.finished_at.as_ref()?.0, last.size_bytes)));
    let last = match last {
        Some((at, size)) => {
            let size = size.map(|size| format!(", {}", output::bytes(size)));
            format!("{} UTC{}", output::instant(at), size.unwrap_or_default())
        }
        None => "none".to_owned(),
    };
    let kept = output::count(backup.retention, "good backup");
    let _ = writeln!(text, "  to:    {}", backup.destination.unwrap_or_default());
    let _ = writeln!(text, "  from:  {from}");
    let _ = writeln!(text, "  kept:  {kept}, and the WAL that is needed for what lies between and after");
    let _ = writeln!(text, "  last:  {last}");
    text
}

/// The Job of those labels that is not at its end. Whoever may not list Jobs hears of it from the controller.
pub(super) async fn running(session: &Session, labels: &BTreeMap<String, String>) -> Option<String> {
    let jobs: Api<Job> = Api::namespaced(session.client.clone(), &session.namespace);
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let jobs = jobs.list(&ListParams::default().labels(&labels.join(","))).await.ok()?;
    jobs.items.iter().find(|job| !is_over(job)).map(ResourceExt::name_any)
}

fn is_over(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|each| matches!(each.type_.as_str(), "Complete" | "Failed") && each.status == "True")
}

pub(super) async fn map(session: &Session, name: &str) -> Option<serde_json::Value> {
    let maps: Api<ConfigMap> = Api::namespaced(session.client.clone(), &session.namespace);
    let map = maps.get_opt(&Names(name).backups()).await.ok()??;
    serde_json::to_value(map).ok()
}

/// What the request led to.
async fn entry(session: &Session, name: &str, id: &str) -> Option<CatalogEntry> {
    Catalog::of(&map(session, name).await?)?.for_request(id).cloned()
}

/// How far the backup is, or its verification, each second; where lines do not redraw themselves, only what it is at.
pub(super) fn progress<'s>(
    context: &Context,
    session: &'s Session,
    name: &'s str,
    id: &'s str,
    read: fn(&serde_json::Value) -> Option<Progress>,
) -> impl Stream<Item = String> + 's {
    let live = context.ui.is_live();
    stream::unfold(Pace::default(), move |mut pace| async move {
        loop {
            tokio::time::sleep(wait::TICK).await;
            let told = map(session, name).await.and_then(|map| read(&map));
            let Some(told) = told.filter(|told| told.request.as_deref() == Some(id)) else { continue };
            let line = pace.line(&told, Timestamp::now());
            return Some((if live { line } else { told.phase }, pace));
        }
    })
}

/// How fast it goes, from the first that was heard of what it is at.
#[derive(Debug, Default)]
struct Pace(Option<(String, u64, Timestamp)>);

impl Pace {
    /// What it is at, how much of it is done, how fast, and how long the rest takes at that rate.
    fn line(&mut self, told: &Progress, now: Timestamp) -> String {
        let bytes = |amount: u64| bytesize::ByteSize::b(amount).display().iec().to_string();
        let same =
            self.0.as_ref().is_some_and(|(phase, from, _)| *phase == told.phase && *from <= told.bytes);
        if !same {
            self.0 = Some((told.phase.clone(), told.bytes, now));
        }
        let mut line = told.phase.clone();
        let total = told.total.filter(|total| *total > 0);
        match total {
            Some(total) => {
                // An estimate may fall short of what comes.
                let percent = (u128::from(told.bytes) * 100 / u128::from(total)).min(100);
                let _ = write!(line, ": {} of {} ({percent} %)", bytes(told.bytes), bytes(total));
            }
            None if told.bytes > 0 => {
                let _ = write!(line, ": {}", bytes(told.bytes));
            }
            None => return line,
        }
        let Some((_, from, since)) = &self.0 else { return line };
        let seconds = now.duration_since(*since).as_secs_f64();
        let done = told.bytes.saturating_sub(*from);
        if done == 0 || seconds < 0.5 {
            return line;
        }
        let rate = done as f64 / seconds;
        let _ = write!(line, ", {}/s", bytes(rate as u64));
        if let Some(left) = total.and_then(|total| total.checked_sub(told.bytes)).filter(|left| *left > 0) {
            let _ = write!(line, ", {} left", output::seconds(left as f64 / rate));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn database(spec: Value, status: Value) -> Database {
        let mut base = json!({ "replicas": 3, "version": "18.6", "storage": { "size": "1Gi" },
            "backup": { "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/p" } });
        json_patch::merge(&mut base, &spec);
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
            "metadata": { "name": "db" }, "spec": base, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn what_cannot_be_is_refused_at_once() {
        let writable = |status: &str| {
            json!({ "conditions": [{ "type": "Writable", "status": status, "reason": "NoLeader",
            "message": "no member holds the leader lock", "lastTransitionTime": "2026-11-22T10:00:00Z" }] })
        };
        assert_eq!(refusal(&database(json!({}), writable("True"))), None);
        assert_eq!(refusal(&database(json!({}), json!({}))), None);
        let lost = refusal(&database(json!({}), writable("False"))).unwrap();
        assert_eq!(lost, "a backup needs a primary, and no member holds the leader lock");
        let off = refusal(&database(json!({ "backup": { "enabled": false } }), writable("True"))).unwrap();
        assert!(off.contains("are off"), "{off}");
    }

    #[test]
    fn a_dry_run_says_where_it_goes_and_what_stays() {
        let status = json!({ "backups": [{ "id": "a", "finishedAt": "2026-11-22T03:00:00Z", "sizeBytes": 12_897_484 }] });
        insta::assert_snapshot!(preview(&database(json!({}), status), "shop"), @r#"
        Backup of database "db" in namespace "shop":
          to:    s3://b/p
          from:  a replica that is fit for it, else the primary
          kept:  14 good backups, and the WAL that is needed for what lies between and after
          last:  2026-11-22 03:00:00 UTC, 12.3 MiB
        "#);
        let one = database(json!({ "replicas": 1, "backup": { "retention": 1 } }), json!({}));
        insta::assert_snapshot!(preview(&one, "shop"), @r#"
        Backup of database "db" in namespace "shop":
          to:    s3://b/p
          from:  the primary, the only member
          kept:  1 good backup, and the WAL that is needed for what lies between and after
          last:  none
        "#);
    }

    #[test]
    fn progress_tells_how_fast_and_how_long() {
        let mut pace = Pace::default();
        let mut lines = Vec::new();
        for (second, phase, bytes, total) in [
            (0, "waiting for a checkpoint", 0, None),
            (3, "sending", 0, Some(400 << 20)),
            (5, "sending", 100 << 20, Some(400 << 20)),
            (13, "sending", 500 << 20, Some(400 << 20)),
            (14, "checking", 0, None),
            (15, "checking", 5 << 20, None),
            (17, "checking", 25 << 20, None),
        ] {
            let at = Timestamp::from_second(second).unwrap();
            let told = Progress {
                request: None,
                pod: "p".into(),
                phase: phase.into(),
                bytes,
                total,
                started_at: at,
            };
            lines.push(pace.line(&told, at));
        }
        insta::assert_snapshot!(lines.join("\n"), @"
        waiting for a checkpoint
        sending: 0 B of 400.0 MiB (0 %)
        sending: 100.0 MiB of 400.0 MiB (25 %), 50.0 MiB/s, 6.0 s left
        sending: 500.0 MiB of 400.0 MiB (100 %), 50.0 MiB/s
        checking
        checking: 5.0 MiB, 5.0 MiB/s
        checking: 25.0 MiB, 8.3 MiB/s
        ");
    }

    #[test]
    fn a_job_is_over_by_its_condition() {
        let job = |kind: &str, status: &str| -> Job {
            serde_json::from_value(
                json!({ "status": { "conditions": [{ "type": kind, "status": status }] } }),
            )
            .unwrap()
        };
        assert!(is_over(&job("Complete", "True")) && is_over(&job("Failed", "True")));
        assert!(
            !is_over(&job("FailureTarget", "True"))
                && !is_over(&job("Failed", "False"))
                && !is_over(&Job::default())
        );
    }
}
