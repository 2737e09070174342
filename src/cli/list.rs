//! `dbctl list`.

use clap::{Args, ValueEnum};
use kube::api::ListParams;
use kube::core::Status;
use kube::{Api, ResourceExt};

use super::error::{CliError, Result};
use super::output::{self, Document};
use super::session::Session;
use super::{Context, api_error, namespace, retained, ui};
use crate::api::Database;

/// List databases
#[derive(Debug, Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:
  dbctl list
  dbctl list -A -o wide
  dbctl list --retained            # deleted, with their data still there")]
pub struct ListArgs {
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,

    /// Only those whose labels match
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,

    /// Those that are deleted and whose data was kept, in place of those that there are; `create` by the same name takes it up
    #[arg(long, conflicts_with = "selector")]
    retained: bool,

    /// How to print them
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<ListFormat>,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    /// With more columns
    Wide,
    /// As JSON
    Json,
    /// As YAML
    Yaml,
    /// Names only
    Name,
}

/// Runs the command.
///
/// # Errors
/// Where the databases cannot be read.
pub async fn run(context: &Context, args: ListArgs) -> Result<()> {
    let session = Session::open(context).await?;
    if args.retained {
        return list_retained(context, &session, &args).await;
    }
    let api: Api<Database> = if args.all_namespaces {
        Api::all(session.client.clone())
    } else {
        Api::namespaced(session.client.clone(), &session.namespace)
    };
    let params = ListParams { label_selector: args.selector.clone(), ..Default::default() };
    let list = api.list(&params).await;
    let mut list = list.map_err(|error| match (&error, &args.selector) {
        (kube::Error::Api(status), Some(selector)) if status.code == 400 => wrong_selector(selector, status),
        _ => api_error::explain(&session, "list databases", &error),
    })?;
    if list.items.is_empty() && !args.all_namespaces {
        namespace::check(context, &session, "list databases").await?;
    }
    list.items.sort_by_key(|database| (database.namespace(), database.name_any()));
    match args.output {
        Some(ListFormat::Json) => return context.ui.data(output::document(Document::Json, &list)?),
        Some(ListFormat::Yaml) => return context.ui.data(output::document(Document::Yaml, &list)?),
        Some(ListFormat::Name) => {
            let names: String = list.items.iter().map(|database| database.name_any() + "\n").collect();
            return context.ui.data(names);
        }
        Some(ListFormat::Wide) | None => {}
    }
    if list.items.is_empty() {
        let place = if args.all_namespaces {
            "any namespace".to_owned()
        } else {
            format!("namespace {:?}", session.namespace)
        };
        context.ui.note(nothing(&place, args.selector.as_deref(), &context.invocation()));
        return Ok(());
    }
    let wide = args.output == Some(ListFormat::Wide);
    context.ui.data(render(&list.items, args.all_namespaces, wide, jiff::Timestamp::now()))
}

/// The server reads selectors, and says of one that it cannot read why.
fn wrong_selector(selector: &str, status: &Status) -> CliError {
    CliError::usage(format!("failed to list databases: --selector {selector:?} cannot be read"))
        .details([status.message.trim().to_owned()])
        .hint("for example: -l team=orders, -l 'team!=orders', -l 'team in (orders, billing)'")
}

/// There may be others than those that were asked for.
fn nothing(place: &str, selector: Option<&str>, command: &str) -> String {
    match selector {
        Some(selector) => format!("no databases in {place} have labels that match {selector:?}"),
        None => format!("no databases in {place}; make one with `{command} create NAME`"),
    }
}

async fn list_retained(context: &Context, session: &Session, args: &ListArgs) -> Result<()> {
    let all = retained::find(session, args.all_namespaces).await;
    let all = all.map_err(|error| api_error::explain(session, "list retained databases", &error))?;
    if all.is_empty() && !args.all_namespaces {
        namespace::check(context, session, "list retained databases").await?;
    }
    match args.output {
        Some(ListFormat::Json) => return context.ui.data(output::document(Document::Json, &all)?),
        Some(ListFormat::Yaml) => return context.ui.data(output::document(Document::Yaml, &all)?),
        Some(ListFormat::Name) => {
            let names: String = all.iter().map(|each| format!("{}\n", each.name)).collect();
            return context.ui.data(names);
        }
        Some(ListFormat::Wide) | None => {}
    }
    if all.is_empty() {
        context.ui.note("no deleted database has left its data");
        return Ok(());
    }
    let wide = args.output == Some(ListFormat::Wide);
    context.ui.data(retained::render(&all, args.all_namespaces, wide, jiff::Timestamp::now()))?;
    let command = context.invocation();
    context.ui.note(format_args!("to have one back: {command} create NAME, with the version it had"));
    context.ui.note(format_args!("to be rid of one: {command} delete NAME --deletion-policy delete"));
    Ok(())
}

/// The columns of the definition, as kubectl prints them.
fn render(databases: &[Database], namespaces: bool, wide: bool, now: jiff::Timestamp) -> String {
    let mut header = vec!["NAME", "PHASE", "READY", "PRIMARY", "VERSION", "LAST BACKUP", "AGE"];
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    if wide {
        header.extend(["STORAGE", "SYNCHRONOUS", "DELETION", "PROBLEM"]);
    }
    let row = |database: &Database| {
        let status = database.status.clone().unwrap_or_default();
        let age =
            |time: Option<jiff::Timestamp>| time.map_or_else(|| "-".into(), |time| output::age(time, now));
        let mut row = vec![
            database.name_any(),
            status.phase.map_or_else(|| "-".into(), |phase| phase.to_string()),
            output::or_dash(status.ready.as_deref()),
            output::or_dash(status.primary.as_deref()),
            output::or_dash(status.version.as_deref()),
            age(status.last_backup_time.as_ref().map(|time| time.0)),
            age(database.creation_timestamp().map(|time| time.0)),
        ];
        if namespaces {
            row.insert(0, database.namespace().unwrap_or_default());
        }
        if wide {
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
            row.extend([
                database.spec.storage.size.to_string(),
                database.spec.synchronous.to_string(),
                format!("{:?}", database.spec.deletion_policy),
                ready
                    .filter(|condition| condition.status != "True")
                    .map_or_else(|| "-".into(), |condition| condition.reason.clone()),
            ]);
        }
        row
    };
    ui::table(&header, databases.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::super::error::Outcome;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_selector_is_told_from_there_being_nothing() {
        let status = Status::failure("unable to parse requirement: found '' instead of ')'", "BadRequest");
        let error = wrong_selector("team in (", &status.with_code(400));
        assert_eq!(error.outcome, Outcome::Usage);
        let text = error.render("error:", "hint:");
        assert!(text.contains("\"team in (\"") && text.contains("found '' instead of ')'"), "{text}");
        let all = nothing("namespace \"shop\"", None, "dbctl");
        assert_eq!(all, "no databases in namespace \"shop\"; make one with `dbctl create NAME`");
        let some = nothing("namespace \"shop\"", Some("team=orders"), "dbctl");
        assert_eq!(some, "no databases in namespace \"shop\" have labels that match \"team=orders\"");
    }

    #[test]
    fn columns_are_those_of_the_definition() {
        let database: Database = serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
            "metadata": { "name": "orders-db", "namespace": "shop", "creationTimestamp": "2026-11-22T10:00:00Z" },
            "spec": { "replicas": 3, "version": "18.6", "storage": { "size": "10Gi" } },
            "status": {
                "phase": "Degraded", "ready": "2/3", "primary": "orders-db-1", "version": "18.6",
                "conditions": [{ "type": "Ready", "status": "False", "reason": "MemberNotReady", "message": "", "lastTransitionTime": "2026-11-22T10:00:00Z" }],
            },
        }))
        .unwrap();
        let bare = Database { status: None, ..database.clone() };
        let now = "2026-11-22T10:05:00Z".parse().unwrap();
        insta::assert_snapshot!(render(&[database.clone(), bare], false, false, now), @"
        NAME        PHASE      READY   PRIMARY       VERSION   LAST BACKUP   AGE
        orders-db   Degraded   2/3     orders-db-1   18.6      -             5m
        orders-db   -          -       -             -         -             5m
        ");
        insta::assert_snapshot!(render(&[database], true, true, now), @"
        NAMESPACE   NAME        PHASE      READY   PRIMARY       VERSION   LAST BACKUP   AGE   STORAGE   SYNCHRONOUS   DELETION   PROBLEM
        shop        orders-db   Degraded   2/3     orders-db-1   18.6      -             5m    10Gi      true          Retain     MemberNotReady
        ");
    }
}
