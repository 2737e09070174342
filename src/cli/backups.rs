//! `dbctl backups`.

mod check;

use clap::{Args, Subcommand, ValueEnum};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde::Serialize;

use super::error::{Outcome, Result, failed};
use super::output::{self, Document};
use super::session::Session;
use super::{Context, api_error, complete, destination, scale, ui};
use crate::api::{
    Catalog, CatalogEntry, ConditionType, Database, DatabaseStatus, Names, StoredBackup, reason,
};
use crate::backup::{base, store::Store};

/// List a database's backups, and from when on it can be restored
///
/// They are listed as the last backup left them: what was removed from the destination by hand since is still shown, unless
/// the destination itself is asked, with --from or --check. Times are UTC.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  dbctl backups orders-db
  dbctl backups orders-db -o name | head -1        # the newest
  dbctl backups orders-db --check                  # is the archive of WAL whole?
  dbctl backups --from s3://my-backups/orders-db   # a destination, without its database
  dbctl backups selftest --to s3://my-backups/new  # does a bucket do what backups rely on?
  dbctl backups orders-db -o json | jq '.recoveryWindow'"
)]
pub struct BackupsArgs {
    #[command(subcommand)]
    command: Option<BackupsCommand>,

    /// Name of the database
    #[arg(value_name = "NAME", required_unless_present = "from", add = complete::database())]
    name: Option<String>,

    /// Read this destination, whoever's it is, with the credentials in the environment
    #[arg(long, value_name = "URL", conflicts_with = "name")]
    from: Option<String>,

    /// Read the destination itself, and follow the WAL from each backup to its end
    #[arg(long)]
    check: bool,

    /// How to print them
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<BackupsFormat>,
}

#[derive(Debug, Subcommand)]
enum BackupsCommand {
    /// Try everything at a destination that backups rely on
    ///
    /// It writes a few objects below probe/ with the credentials in the environment, and removes them.
    #[command(after_help = "Examples:
  dbctl backups selftest --to s3://my-backups/new")]
    Selftest {
        /// The destination
        #[arg(long, value_name = "URL")]
        to: String,
    },
}

/// How backups are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackupsFormat {
    /// With more columns
    Wide,
    /// As JSON
    Json,
    /// As YAML
    Yaml,
    /// Ids only
    Name,
}

/// What there is in a destination, wherever that was read, and how it goes on from there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// The destination, where it is known.
    pub destination: Option<String>,
    /// What is in it.
    pub catalog: Catalog,
    /// Whether WAL goes on reaching it.
    pub archiving: Archiving,
}

/// Whether WAL goes on reaching a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Archiving {
    /// Nobody says.
    #[default]
    Unknown,
    /// It does.
    Works,
    /// It does not get there.
    Fails,
    /// Nobody sends any.
    Off,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Items<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<jiff::Timestamp>,
    items: &'a [CatalogEntry],
    recovery_window: Window,
}

#[derive(Serialize)]
struct Window {
    earliest: Option<jiff::Timestamp>,
    latest: Option<jiff::Timestamp>,
}

/// Runs the command.
///
/// # Errors
/// Where there is neither such a database nor anything left of it, or it cannot be read.
pub async fn run(context: &Context, args: BackupsArgs) -> Result<()> {
    if let Some(BackupsCommand::Selftest { to }) = &args.command {
        return check::selftest(context, to).await;
    }
    let Some(name) = &args.name else {
        let store = destination::open(&destination::parse(args.from.as_deref().unwrap_or_default())?)?;
        return of_store(context, &args, &store).await;
    };
    let session = Session::open(context).await?;
    let listing = of_database(context, &session, name).await?;
    if args.check {
        let store = check::store(context, &session, name).await?;
        return of_store(context, &args, &store).await;
    }
    if listing.catalog.backups.is_empty()
        && !matches!(args.output, Some(BackupsFormat::Json | BackupsFormat::Yaml))
    {
        context.ui.note(none(context, name, listing.archiving));
        return Ok(());
    }
    context.ui.data(listing.print(args.output)?)
}

/// What a destination itself holds.
async fn of_store(context: &Context, args: &BackupsArgs, store: &Store) -> Result<()> {
    let catalog = base::catalog(store, jiff::Timestamp::now()).await.map_err(failed)?;
    let destination = store.destination().to_string();
    if catalog.backups.is_empty() {
        context.ui.note(format_args!("{destination} holds no backup"));
    }
    let listing = Listing { destination: Some(destination), catalog, archiving: Archiving::Unknown };
    if !listing.catalog.backups.is_empty() || args.output.is_some() {
        context.ui.data(listing.print(args.output)?)?;
    }
    if args.check { check::run(context, store).await } else { Ok(()) }
}

fn none(context: &Context, name: &str, archiving: Archiving) -> String {
    if archiving == Archiving::Off {
        format!("database {name:?} has no backups, and they are off: set spec.backup to have them")
    } else {
        format!(
            "database {name:?} has no backups yet; take one with `{} backup-now {name}`",
            context.invocation()
        )
    }
}

/// What the controller and the last backup say of a database's backups.
///
/// # Errors
/// Where there is neither such a database nor anything left of it, or it cannot be read.
pub async fn of_database(context: &Context, session: &Session, name: &str) -> Result<Listing> {
    let doing = format!("list the backups of database {name:?}");
    let databases: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let maps: Api<ConfigMap> = Api::namespaced(session.client.clone(), &session.namespace);
    let kept_in = Names(name).backups();
    let (database, kept) =
        tokio::join!(scale::get(context, session, &databases, name, &doing), maps.get_opt(&kept_in));
    let catalog = match kept {
        Ok(kept) => kept.and_then(|map| Catalog::of(&serde_json::to_value(map).ok()?)),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            context.ui.warn(format_args!("you may not read ConfigMap {kept_in:?}: not everything is known"));
            None
        }
        Err(error) => return Err(api_error::explain(session, &doing, &error)),
    };
    let database = match database {
        Ok(database) => database,
        Err(error) if error.outcome == Outcome::NotFound && catalog.is_some() => {
            context
                .ui
                .note(format_args!("database {name:?} is deleted; what was noted of its backups is kept"));
            let catalog = catalog.unwrap_or_default();
            return Ok(Listing { catalog, archiving: Archiving::Off, destination: None });
        }
        Err(error) => return Err(error),
    };
    Ok(listing(&database, catalog))
}

fn listing(database: &Database, catalog: Option<Catalog>) -> Listing {
    let none = DatabaseStatus::default();
    let status = database.status.as_ref().unwrap_or(&none);
    let kind = ConditionType::BackupsHealthy.to_string();
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
    let backup = database.spec.backup.as_ref();
    let archiving = match condition.map(|condition| condition.reason.as_str()) {
        _ if !backup.is_some_and(|backup| backup.enabled) => Archiving::Off,
        Some(reason::ARCHIVING_FAILING) => Archiving::Fails,
        Some(reason::BACKUPS_DISABLED) | None => Archiving::Unknown,
        // While nobody leads, nothing is heard of it.
        Some(_) if status.is_true(ConditionType::Writable) => Archiving::Works,
        Some(_) => Archiving::Unknown,
    };
    Listing {
        destination: backup.and_then(|backup| backup.destination.clone()),
        catalog: catalog.unwrap_or_else(|| of_status(status)),
        archiving,
    }
}

/// The lesser part of it, for whoever may read no more.
fn of_status(status: &DatabaseStatus) -> Catalog {
    let entry = |stored: &StoredBackup| {
        let stopped_at = stored.finished_at.as_ref()?.0;
        Some(CatalogEntry {
            id: stored.id.clone(),
            started_at: stored.started_at.as_ref().map_or(stopped_at, |started| started.0),
            stopped_at,
            from: stored.from.clone().unwrap_or_default(),
            timeline: 0,
            start_lsn: String::new(),
            stop_lsn: String::new(),
            bytes: stored.size_bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default(),
            size: 0,
            version: String::new(),
            request: None,
            verified_at: stored.verified_at.as_ref().map(|time| time.0),
            verify_problem: stored.verify_problem.clone(),
        })
    };
    let earliest = status.earliest_recovery_time.as_ref().map(|time| time.0);
    Catalog { at: None, backups: status.backups.iter().filter_map(entry).collect(), earliest, latest: None }
}

impl Listing {
    fn print(&self, format: Option<BackupsFormat>) -> Result<String> {
        let document = |format| {
            let Catalog { at, earliest, latest, .. } = self.catalog;
            let destination = self.destination.as_deref();
            let items = self.catalog.backups.as_slice();
            output::document(
                format,
                &Items { destination, at, items, recovery_window: Window { earliest, latest } },
            )
        };
        match format {
            Some(BackupsFormat::Json) => document(Document::Json),
            Some(BackupsFormat::Yaml) => document(Document::Yaml),
            Some(BackupsFormat::Name) => {
                Ok(self.catalog.backups.iter().map(|entry| format!("{}\n", entry.id)).collect())
            }
            Some(BackupsFormat::Wide) => Ok(self.render(true)),
            None => Ok(self.render(false)),
        }
    }

    fn render(&self, wide: bool) -> String {
        let mut header = vec!["ID", "WHEN", "FROM", "SIZE", "TOOK", "WAL"];
        if wide {
            header.extend(["TIMELINE", "DATA", "VERSION", "VERIFIED", "REQUEST"]);
        }
        let mut text = ui::table(&header, self.catalog.backups.iter().map(|entry| row(entry, wide)));
        if let Some(window) = self.window() {
            text.push_str(&format!("\n{window}\n"));
        }
        text
    }

    /// From when to when all can be restored.
    fn window(&self) -> Option<String> {
        let earliest = output::instant(self.catalog.earliest?);
        let latest = self.catalog.latest.map(output::instant);
        let least = latest.map_or_else(String::new, |latest| format!(" to {latest} at least"));
        // How far the archive goes now, only it can tell: while nothing is written, nothing is archived.
        let later = match self.archiving {
            Archiving::Works => {
                "; what is written later is archived within about a minute (--check says up to when)"
            }
            Archiving::Fails => "; what came later waits to be archived",
            Archiving::Unknown | Archiving::Off => "",
        };
        Some(format!("restorable from {earliest}{least}{later}"))
    }
}

fn row(entry: &CatalogEntry, wide: bool) -> Vec<String> {
    let bytes = |amount: u64| i64::try_from(amount).ok().filter(|amount| *amount > 0).map(output::bytes);
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let took = entry.stopped_at.duration_since(entry.started_at).as_secs_f64();
    let wal = format!("{} - {}", entry.start_lsn, entry.stop_lsn);
    let mut row = vec![
        entry.id.clone(),
        output::instant(entry.started_at),
        output::or_dash(Some(&entry.from)),
        dash(bytes(entry.bytes)),
        dash((took > 0.0).then(|| output::seconds(took))),
        output::or_dash(Some(&wal).filter(|_| !entry.start_lsn.is_empty()).map(String::as_str)),
    ];
    if wide {
        row.extend([
            dash((entry.timeline > 0).then(|| entry.timeline.to_string())),
            dash(bytes(entry.size)),
            output::or_dash(Some(&entry.version)),
            dash(entry.verified_at.map(|at| {
                let damaged = if entry.verify_problem.is_some() { " DAMAGED" } else { "" };
                format!("{}{damaged}", output::instant(at))
            })),
            output::or_dash(entry.request.as_deref()),
        ]);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn database(status: Value) -> Database {
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": { "name": "db" },
            "spec": { "replicas": 3, "version": "18.6", "storage": { "size": "1Gi" },
                "backup": { "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/p" } },
            "status": status,
        }))
        .unwrap()
    }

    fn condition(reason: &str) -> Value {
        let of = |kind: &str, reason: &str| json!({ "type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2026-11-22T10:00:00Z" });
        json!([of("BackupsHealthy", reason), of("Writable", "PrimaryAcceptsWrites")])
    }

    fn catalog() -> Catalog {
        serde_json::from_value(json!({
            "at": "2026-11-22T03:00:09Z",
            "backups": [
                { "id": "20261122T030002Z-00000001-0000000005000028-9f0c1a", "startedAt": "2026-11-22T03:00:02Z",
                  "stoppedAt": "2026-11-22T03:00:06.4Z", "from": "db-1", "timeline": 1, "startLsn": "0/5000028",
                  "stopLsn": "0/5000158", "bytes": 12_897_484, "size": 31_457_280, "version": "18.6",
                  "request": "01JD6Z2V6E8K3Q4R5T6Y7W8X9Z", "verifiedAt": "2026-11-22T04:00:00Z" },
                { "id": "20261121T030002Z-00000001-0000000003000028-77ab02", "startedAt": "2026-11-21T03:00:02Z",
                  "stoppedAt": "2026-11-21T03:04:02Z" },
            ],
            "earliest": "2026-11-21T03:04:02Z", "latest": "2026-11-22T03:00:08Z",
        }))
        .unwrap()
    }

    #[test]
    fn the_table_tells_what_can_be_restored() {
        let with = |reason| listing(&database(json!({ "conditions": condition(reason) })), Some(catalog()));
        insta::assert_snapshot!(with("BackupsCurrent").print(None).unwrap(), @"
        ID                                                  WHEN                  FROM   SIZE       TOOK    WAL
        20261122T030002Z-00000001-0000000005000028-9f0c1a   2026-11-22 03:00:02   db-1   12.3 MiB   4.4 s   0/5000028 - 0/5000158
        20261121T030002Z-00000001-0000000003000028-77ab02   2026-11-21 03:00:02   -      -          4m      -

        restorable from 2026-11-21 03:04:02 to 2026-11-22 03:00:08 at least; what is written later is archived within about a minute (--check says up to when)
        ");
        insta::assert_snapshot!(with("ArchivingFailing").print(Some(BackupsFormat::Wide)).unwrap(), @"
        ID                                                  WHEN                  FROM   SIZE       TOOK    WAL                     TIMELINE   DATA       VERSION   VERIFIED              REQUEST
        20261122T030002Z-00000001-0000000005000028-9f0c1a   2026-11-22 03:00:02   db-1   12.3 MiB   4.4 s   0/5000028 - 0/5000158   1          30.0 MiB   18.6      2026-11-22 04:00:00   01JD6Z2V6E8K3Q4R5T6Y7W8X9Z
        20261121T030002Z-00000001-0000000003000028-77ab02   2026-11-21 03:00:02   -      -          4m      -                       -          -          -         -                     -

        restorable from 2026-11-21 03:04:02 to 2026-11-22 03:00:08 at least; what came later waits to be archived
        ");
        let old = Listing { catalog: catalog(), ..Listing::default() };
        assert!(
            old.print(None)
                .unwrap()
                .ends_with("restorable from 2026-11-21 03:04:02 to 2026-11-22 03:00:08 at least\n")
        );
    }

    #[test]
    fn programs_get_everything() {
        let listing = listing(&database(json!({})), Some(catalog()));
        let names = listing.print(Some(BackupsFormat::Name)).unwrap();
        assert_eq!(names.lines().count(), 2);
        let document: Value =
            serde_json::from_str(&listing.print(Some(BackupsFormat::Json)).unwrap()).unwrap();
        assert_eq!(document["items"][0], serde_json::to_value(&catalog().backups[0]).unwrap());
        assert_eq!(document["destination"], "s3://b/p");
        let window = json!({ "earliest": "2026-11-21T03:04:02Z", "latest": "2026-11-22T03:00:08Z" });
        assert_eq!(document["recoveryWindow"], window);
        let empty: Value =
            serde_json::from_str(&Listing::default().print(Some(BackupsFormat::Json)).unwrap()).unwrap();
        assert_eq!(empty, json!({ "items": [], "recoveryWindow": { "earliest": null, "latest": null } }));
    }

    #[test]
    fn the_status_is_better_than_nothing() {
        let status = json!({ "backups": [{ "id": "a", "finishedAt": "2026-11-22T03:00:00Z", "sizeBytes": 2048, "from": "db-2" }] });
        insta::assert_snapshot!(listing(&database(status), None).print(None).unwrap(), @"
        ID   WHEN                  FROM   SIZE      TOOK   WAL
        a    2026-11-22 03:00:00   db-2   2.0 KiB   -      -
        ");
    }
}
