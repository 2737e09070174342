//! `dbctl restore`.

mod inplace;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::create::{FIELD_MANAGER, refuse_existing, warn_of_even};
use super::error::{CliError, Result};
use super::session::Session;
use super::{Context, api_error, complete, output, sandbox, wait};
use crate::api::{Database, PgVersion, check_spec};
use crate::backup::base::BackupId;
use crate::backup::restore::{Choice, ChooseError, FindError, Target, Wish, choose, find};
use crate::backup::store::{Destination, Patience, Settings, Store, StoreError};
use crate::backup::wal::{position, position_text};

/// The volume of a database of which nothing else is known.
const STORAGE: &str = "1Gi";
/// When backups are taken, unless it is said.
const SCHEDULE: &str = "0 3 * * *";

/// What only a new database has.
const NEW_ONLY: [&str; 6] =
    ["replicas", "version", "storage", "storage_class", "backup_to", "backup_credentials"];

/// Make a new database of a backup and the WAL behind it, or put an existing one back in place
///
/// With --from, the new database begins with the source's data as it was at the target, or at the end of the archive, and then goes its
/// own way: its passwords are new, and the source stays as it is. Where the source is a Database, its spec is taken over, but for
/// where its backups go: that must be another place, which --backup-to names.
///
/// With --in-place, an existing database goes back to an earlier state from its own backups. All members stop, and nobody can read
/// or write until it is over. The data of before stays beside the new on every member's volume: --undo puts it back where the restore
/// does not come to its end, and --discard-old removes it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl restore orders-copy --from orders-db --dry-run
  dbctl restore orders-copy --from orders-db --to-time 2026-11-22T03:00:00Z --backup-to s3://backups/orders-copy --wait
  dbctl restore orders-db --from s3://backups/orders-db --version 18.6 --storage 50Gi
  dbctl restore orders-db --in-place --to-time 2026-11-22T03:00:00Z --dry-run
  dbctl restore orders-db --in-place --to-time 2026-11-22T03:00:00Z --wait
  dbctl restore orders-db --discard-old")]
#[command(group(clap::ArgGroup::new("what").required(true).args(["from", "in_place", "undo", "discard_old"]).multiple(true)))]
pub struct RestoreArgs {
    /// Name of the new database, or of the one that is put back
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// The database whose backups are used, or a backup destination
    #[arg(long, value_name = "DATABASE|URL", add = complete::database())]
    from: Option<String>,

    /// Put the database itself back, from its own backups
    #[arg(long, conflicts_with_all = NEW_ONLY)]
    in_place: bool,

    /// With --in-place: remove the old data before the new is made. For volumes without room for both; there is no way back
    #[arg(long, requires = "in_place")]
    without_old: bool,

    /// Put the old data back, after a restore in place that did not come to its end
    #[arg(long, conflicts_with_all = ["from", "in_place", "discard_old", "backup", "to"], conflicts_with_all = NEW_ONLY)]
    undo: bool,

    /// Remove what is kept of before restores in place
    #[arg(long, conflicts_with_all = ["from", "in_place", "backup", "to"], conflicts_with_all = NEW_ONLY)]
    discard_old: bool,

    /// The base backup to begin with [default: the newest that fits]
    #[arg(long, value_name = "ID", add = complete::backup())]
    backup: Option<BackupId>,

    #[command(flatten)]
    target: TargetArgs,

    /// Number of members, 1 to 9 [default: the source's]
    #[arg(long, value_name = "N")]
    replicas: Option<i32>,

    /// PostgreSQL release, of the backup's major version [default: the source's]
    #[arg(long, value_name = "RELEASE")]
    version: Option<PgVersion>,

    /// Size of each member's volume [default: the source's]
    #[arg(long, value_name = "SIZE")]
    storage: Option<String>,

    /// Storage class of the volumes [default: the source's]
    #[arg(long, value_name = "NAME")]
    storage_class: Option<String>,

    /// Where the new database's own backups go; without it, it has none
    #[arg(long, value_name = "URL")]
    backup_to: Option<String>,

    /// Secret with the credentials of both destinations [default: the source's]
    #[arg(long, value_name = "NAME")]
    backup_credentials: Option<String>,

    /// Say what would be restored, and make nothing
    #[arg(long)]
    dry_run: bool,

    /// Wait until every member is ready, and show what happens
    #[arg(long)]
    wait: bool,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Debug, Args)]
#[group(id = "to", multiple = false)]
struct TargetArgs {
    /// Everything that was committed by then: RFC 3339, with its zone [default: the end of the archive]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    to_time: Option<jiff::Timestamp>,
    /// Up to this WAL position
    #[arg(long, value_name = "LSN", value_parser = lsn)]
    to_lsn: Option<u64>,
    /// Up to this restore point, which pg_create_restore_point made
    #[arg(long, value_name = "NAME")]
    to_name: Option<String>,
}

fn instant(text: &str) -> std::result::Result<jiff::Timestamp, String> {
    text.parse().map_err(|_| {
        "expected an instant with its zone, as 2026-11-22T03:00:00Z or 2026-11-22T04:00:00+01:00".to_owned()
    })
}

fn lsn(text: &str) -> std::result::Result<u64, String> {
    position(text).ok_or_else(|| "expected a WAL position, as 0/3000148".to_owned())
}

impl TargetArgs {
    fn target(&self) -> Target {
        match (self.to_time, self.to_lsn, &self.to_name) {
            (Some(at), _, _) => Target::Time(at),
            (_, Some(lsn), _) => Target::Lsn(lsn),
            (_, _, Some(name)) => Target::Name(name.clone()),
            _ => Target::End,
        }
    }
}

/// The new Database: the source's spec, but for where its backups go and what was given.
fn build(args: &RestoreArgs, namespace: &str, source: Option<&Database>, from: &str) -> Result<Database> {
    let mut spec = match source {
        Some(source) => json!(source.spec),
        None => json!({ "version": PgVersion::DEFAULT, "storage": { "size": STORAGE } }),
    };
    let given = [
        ("/replicas", args.replicas.map(|replicas| json!(replicas))),
        ("/version", args.version.map(|version| json!(version))),
    ];
    for (field, value) in given.into_iter().filter_map(|(field, value)| Some((field, value?))) {
        spec[field.trim_start_matches('/')] = value;
    }
    if let Some(size) = &args.storage {
        spec["storage"]["size"] = json!(size);
    }
    if let Some(class) = &args.storage_class {
        spec["storage"]["storageClassName"] = json!(class);
    }
    let mut backup = spec.get("backup").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    if let Some(secret) = &args.backup_credentials {
        backup["credentialsSecret"] = json!(secret);
    }
    backup["enabled"] = json!(args.backup_to.is_some());
    backup["destination"] = json!(args.backup_to);
    if backup.get("schedule").is_none_or(Value::is_null) {
        backup["schedule"] = json!(SCHEDULE);
    }
    spec["backup"] = backup;
    let mut restore = json!({ "destination": from });
    let target = match args.target.target() {
        Target::Time(at) => Some(("targetTime", at.to_string())),
        Target::Lsn(lsn) => Some(("targetLsn", position_text(lsn))),
        Target::Name(name) => Some(("targetName", name)),
        Target::End | Target::Immediate => None,
    };
    if let Some((field, value)) = target {
        restore[field] = json!(value);
    }
    if let Some(backup) = &args.backup {
        restore["backup"] = json!(backup);
    }
    spec["restoreFrom"] = restore;
    let object = json!({
        "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
        "metadata": { "name": args.name, "namespace": namespace },
        "spec": spec,
    });
    let refused = |lines: Vec<String>| {
        CliError::usage(format!(
            "failed to restore database {:?}: it is not valid, and nothing was made",
            args.name
        ))
        .details(lines)
    };
    let database: Database =
        serde_json::from_value(object).map_err(|error| refused(vec![error.to_string()]))?;
    let wrong = check_spec(&args.name, &database.spec);
    if wrong.is_empty() {
        Ok(database)
    } else {
        Err(refused(wrong.iter().map(ToString::to_string).collect()))
    }
}

/// Runs the command.
///
/// # Errors
/// Where what is asked for cannot be had, the database is not made, or, with --wait, not ready in time.
pub async fn run(context: &Context, args: RestoreArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let given = match &args.from {
        Some(from) if !args.in_place => from.clone(),
        _ => return inplace::run(context, &session, &args).await,
    };
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let doing = format!("restore database {:?}", args.name);
    let (source, from) = if given.contains("://") {
        (None, given)
    } else {
        let source = super::scale::get(context, &session, &api, &given, &doing).await?;
        let from = source.spec.backup.as_ref().and_then(|backup| backup.destination.clone());
        let from = from.ok_or_else(|| {
            CliError::failed(format!("{doing}: database {given:?} has no backup destination"))
                .hint("--from takes the URL of a destination, too")
        })?;
        (Some(source), from)
    };
    let database = build(&args, &session.namespace, source.as_ref(), &from)?;
    if args.backup_to.as_deref().is_some_and(|to| to.trim_end_matches('/') == from.trim_end_matches('/')) {
        return Err(CliError::usage(format!(
            "failed to {doing}: its backups cannot go where it is restored from"
        ))
        .hint("two databases must never write to one destination: choose another with --backup-to"));
    }
    refuse_existing(context, &session, &api, &database).await?;
    match look(&session, &database, &from, &args).await {
        Ok(choice) => {
            let preview = preview(&choice, &args.target.target(), &from);
            let preview = format!("{preview}\n{}", made(&database, &session.namespace));
            if args.dry_run { context.ui.data(format!("{preview}\n"))? } else { context.ui.note(preview) }
        }
        Err(Unseen::Impossible(error)) => {
            return Err(impossible(&error, &listed(&context.invocation(), source.as_ref(), &from)));
        }
        Err(Unseen::Unknown(error)) => {
            context
                .ui
                .warn(format_args!("what is in {from} could not be looked at from here: failed to {error}"));
        }
    }
    if args.backup_to.is_none() {
        context.ui.warn("the new database has no backups of its own: --backup-to says where they go");
    }
    warn_of_even(context, database.spec.replicas);
    if args.dry_run {
        context.ui.note("nothing was made");
        return Ok(());
    }
    super::destination::check_new(context, &session, &database).await?;
    if let Some(home) = session.place.sandbox() {
        sandbox::software::install(context, home, database.spec.version)?;
    }
    let params = PostParams { dry_run: false, field_manager: Some(FIELD_MANAGER.to_owned()) };
    let created = api.create(&params, &database).await;
    let created = created.map_err(|error| api_error::explain(&session, &doing, &error))?;
    context.ui.note(format_args!("database {:?} created in namespace {:?}", args.name, session.namespace));
    if args.wait {
        let ready = wait::until_ready(context, &session, &created, args.timeout).await?;
        context.ui.data(super::connect::guide(context, &session, &ready).await?)?;
    } else {
        context.ui.note(format_args!("to see how it goes: {} status {}", context.invocation(), args.name));
    }
    Ok(())
}

/// The command that lists what can be restored.
fn listed(command: &str, source: Option<&Database>, from: &str) -> String {
    match source {
        Some(source) => format!("{command} backups {} --check", source.name_any()),
        None => format!("{command} backups --from {}", output::shell_word(from)),
    }
}

/// What is not there to be restored, and what is.
fn impossible(error: &ChooseError, listed: &str) -> CliError {
    let refused = CliError::refused(format!("failed to {error}"));
    let refused = match error {
        ChooseError::Outside { .. } => refused.hint(
            "a time counts only once WAL from behind it is archived, about a minute after it was written; without --to-time, all that \
             is archived is restored",
        ),
        ChooseError::Major { .. } => refused.hint("that is what --version RELEASE sets here"),
        _ => refused,
    };
    refused.hint(format!("nothing was made; see what there is with {listed}"))
}

/// The new database.
fn made(database: &Database, namespace: &str) -> String {
    let spec = &database.spec;
    let class = spec.storage.storage_class_name.as_deref();
    let class = class.map_or_else(String::new, |class| format!(" of class {class}"));
    let backup = spec.backup.as_ref().filter(|backup| backup.enabled);
    let destination = backup.and_then(|backup| backup.destination.as_deref());
    format!(
        "  makes:   database {:?} in namespace {namespace:?}: {}, PostgreSQL {}, {}{class} each, {}",
        database.name_any(),
        output::count(spec.replicas, "member"),
        spec.version,
        spec.storage.size,
        destination.map_or_else(|| "without backups".to_owned(), |to| format!("with backups in {to}"))
    )
}

/// Why nothing is known of what would be restored.
enum Unseen {
    /// There is nothing of the kind.
    Impossible(ChooseError),
    /// The destination cannot be read from here.
    Unknown(FindError),
}

impl From<StoreError> for Unseen {
    fn from(error: StoreError) -> Self {
        Self::Unknown(error.into())
    }
}

/// Looks into the destination, with the credentials of this process and, where they may be read, those of the Secret.
async fn look(
    session: &Session,
    database: &Database,
    from: &str,
    args: &RestoreArgs,
) -> std::result::Result<Choice, Unseen> {
    let settings = |problem: String| StoreError::Settings { destination: from.to_owned(), problem };
    let destination: Destination =
        from.parse().map_err(|error: crate::backup::store::DestinationError| settings(error.to_string()))?;
    if let Destination::Directory(path) = &destination {
        // To open it would make it; and it may be another machine's.
        std::fs::metadata(path).map_err(|error| settings(error.to_string()))?;
    }
    let secret = credentials(session, database).await;
    let store = Store::open(&destination, &Settings::of_process().with_secret(secret), Patience::SHORT)?;
    let contents = find(&store).await.map_err(Unseen::Unknown)?;
    let wish = Wish {
        backup: args.backup.clone(),
        target: args.target.target(),
        major: Some(u32::from(database.spec.version.major())),
    };
    choose(&contents, &wish).map_err(Unseen::Impossible)
}

async fn credentials(session: &Session, database: &Database) -> BTreeMap<String, String> {
    let name = database.spec.backup.as_ref().and_then(|backup| backup.credentials_secret.as_deref());
    let Some(name) = name else { return BTreeMap::new() };
    let secrets: Api<Secret> = Api::namespaced(session.client.clone(), &session.namespace);
    // Whoever may not read it may have credentials of their own.
    let secret = secrets.get_opt(name).await.ok().flatten().and_then(|secret| secret.data);
    let text =
        |(name, value): (String, k8s_openapi::ByteString)| Some((name, String::from_utf8(value.0).ok()?));
    secret.into_iter().flatten().filter_map(text).collect()
}

/// What would be restored.
fn preview(choice: &Choice, target: &Target, from: &str) -> String {
    let Choice { record, timeline, chain, until } = choice;
    let mut text = format!("restoring {from} to {target}\n");
    let _ = writeln!(
        text,
        "  backup:  {} of {}, PostgreSQL {}, complete at {}, {} of files",
        record.id,
        record.database,
        record.version,
        record.stopped_at,
        ByteSize(record.size)
    );
    let last = chain.last().map_or_else(|| "-".to_owned(), |last| last.to_string());
    let until = until.map_or_else(String::new, |until| format!(", archived at {until}"));
    let _ = write!(
        text,
        "  WAL:     {} segments on the way to timeline {timeline}, from {} to {last}{until}",
        chain.segments.len(),
        position_text(record.start_lsn)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::super::error::Outcome;
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RestoreArgs,
    }

    fn parse(args: &[&str]) -> std::result::Result<RestoreArgs, String> {
        read(&[&["copy", "--from", "orders-db"], args].concat())
    }

    fn read(args: &[&str]) -> std::result::Result<RestoreArgs, String> {
        let line = Line::try_parse_from([&["x"], args].concat());
        line.map(|line| line.args).map_err(|error| error.to_string())
    }

    fn source() -> Database {
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": { "name": "orders-db" },
            "spec": {
                "replicas": 3, "version": "16.15", "storage": { "size": "50Gi", "storageClassName": "fast" },
                "parameters": { "work_mem": "8MB" },
                "backup": { "enabled": true, "schedule": "5 4 * * *", "destination": "s3://b/orders", "credentialsSecret": "keys" },
                "restoreFrom": { "database": "older" },
            },
        }))
        .unwrap()
    }

    fn spec(args: &[&str]) -> Value {
        json!(build(&parse(args).unwrap(), "ns", Some(&source()), "s3://b/orders").unwrap().spec)
    }

    #[test]
    fn the_sources_spec_is_taken_over_but_not_its_destination() {
        let plain = spec(&[]);
        assert_eq!(plain["storage"], json!({ "size": "50Gi", "storageClassName": "fast" }));
        assert_eq!((&plain["replicas"], &plain["parameters"]["work_mem"]), (&json!(3), &json!("8MB")));
        assert_eq!(plain["restoreFrom"], json!({ "destination": "s3://b/orders" }));
        let backup = &plain["backup"];
        assert_eq!(
            (&backup["enabled"], backup.get("destination"), &backup["credentialsSecret"]),
            (&json!(false), None, &json!("keys"))
        );
        let own = spec(&["--backup-to", "s3://b/copy", "--replicas", "1", "--storage", "60Gi"]);
        assert_eq!(
            (&own["backup"]["destination"], &own["backup"]["schedule"]),
            (&json!("s3://b/copy"), &json!("5 4 * * *"))
        );
        assert_eq!((&own["replicas"], &own["storage"]["size"]), (&json!(1), &json!("60Gi")));
    }

    #[test]
    fn what_is_made_is_said_first() {
        let database =
            |args: &[&str]| build(&parse(args).unwrap(), "shop", Some(&source()), "s3://b/orders").unwrap();
        assert_eq!(
            made(&database(&[]), "shop"),
            "  makes:   database \"copy\" in namespace \"shop\": 3 members, PostgreSQL 16.15, 50Gi of class fast each, without backups"
        );
        let own = made(&database(&["--replicas", "1", "--backup-to", "s3://b/copy"]), "shop");
        assert!(own.contains("1 member,") && own.ends_with("with backups in s3://b/copy"), "{own}");
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_is() {
        let outside = ChooseError::Outside {
            destination: "s3://b/orders".into(),
            target: "2030-01-01T00:00:00Z".into(),
            from: "2026-11-22T03:00:00Z".into(),
            until: "2026-11-22T04:00:00Z".into(),
        };
        let source = source();
        let refused = impossible(&outside, &listed("dbctl", Some(&source), "s3://b/orders"));
        assert_eq!(refused.outcome, Outcome::Refused);
        let text = refused.render("error:", "hint:");
        assert!(
            text.contains("dbctl backups orders-db --check") && text.contains("without --to-time"),
            "{text}"
        );
        let major =
            ChooseError::Major { wanted: 17, found: "16".into(), destination: "s3://b/orders".into() };
        let text = impossible(&major, &listed("dbctl", None, "s3://b/orders")).render("error:", "hint:");
        assert!(
            text.contains("--version RELEASE") && text.contains("backups --from s3://b/orders"),
            "{text}"
        );
    }

    #[test]
    fn what_is_put_back_is_not_made_anew() {
        for args in [
            &["db", "--in-place"][..],
            &[
                "db",
                "--in-place",
                "--from",
                "db",
                "--to-lsn",
                "0/1",
                "--backup",
                "20261122T030000Z-00000001-0000000002000028-abcdef",
            ],
            &["db", "--in-place", "--without-old"],
            &["db", "--undo"],
            &["db", "--discard-old", "--yes", "--wait"],
        ] {
            let read = read(args);
            assert!(
                read.is_ok() || read.as_ref().unwrap_err().contains("as a backup's id"),
                "{args:?}: {read:?}"
            );
        }
        for (args, said) in [
            (&["db"][..], "required"),
            (&["db", "--in-place", "--replicas", "3"], "cannot be used with"),
            (&["db", "--in-place", "--backup-to", "s3://b/p"], "cannot be used with"),
            (&["db", "--undo", "--in-place"], "cannot be used with"),
            (&["db", "--undo", "--to-lsn", "0/1"], "cannot be used with"),
            (&["db", "--discard-old", "--from", "x"], "cannot be used with"),
            (&["db", "--from", "x", "--without-old"], "required"),
        ] {
            let error = read(args).unwrap_err();
            assert!(error.contains(said), "{args:?}: {error}");
        }
    }

    #[test]
    fn targets_are_one_and_complete() {
        let restore = |args: &[&str]| spec(args)["restoreFrom"].clone();
        assert_eq!(
            restore(&["--to-time", "2026-11-22T04:00:00+01:00"])["targetTime"],
            "2026-11-22T03:00:00Z"
        );
        assert_eq!(restore(&["--to-lsn", "1/3000148"])["targetLsn"], "1/3000148");
        assert_eq!(restore(&["--to-name", "before"])["targetName"], "before");
        for (args, said) in [
            (&["--to-time", "2026-11-22 03:00"][..], "with its zone"),
            (&["--to-time", "2026-11-22T03:00:00"], "with its zone"),
            (&["--to-lsn", "3000148"], "expected a WAL position"),
            (&["--to-lsn", "0/1", "--to-name", "x"], "cannot be used with"),
            (&["--backup", "newest"], "as a backup's id"),
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let wrong = build(&parse(&["--replicas", "12"]).unwrap(), "ns", Some(&source()), "s3://b/orders")
            .unwrap_err();
        assert!(wrong.render("error", "hint").contains("spec.replicas"));
    }
}
