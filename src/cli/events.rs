//! `dbctl events`.

use clap::Args;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

use super::error::{CliError, Result};
use super::session::Session;
use super::{Context, api_error, complete, output, ui};
use crate::api::{Database, Names};

/// The columns of events, as kubectl has them: the longest is the last, where nothing is behind it.
pub const HEADER: [&str; 5] = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
/// The same for where all are about one thing.
pub const HEADER_OF_ONE: [&str; 4] = ["LAST SEEN", "TYPE", "REASON", "MESSAGE"];

/// Show what happened to a database and its members
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl events orders-db
  dbctl events orders-db --follow")]
pub struct EventsArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// Go on, and print what happens next
    #[arg(short, long)]
    follow: bool,
}

/// Runs the command.
///
/// # Errors
/// Where events cannot be read, or there are none and no such database.
pub async fn run(context: &Context, args: EventsArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let api: Api<Event> = Api::namespaced(session.client.clone(), &session.namespace);
    let doing = format!("read the events of database {:?}", args.name);
    let list = api.list(&Default::default()).await;
    let list = list.map_err(|error| api_error::explain(&session, &doing, &error))?;
    let mut events: Vec<Event> = list.items.into_iter().filter(|event| concerns(&args.name, event)).collect();
    events.sort_by_key(time);
    if events.is_empty() {
        // A deleted database's events stay for a while; without any, the name must be a database's.
        let databases: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
        super::scale::get(context, &session, &databases, &args.name, &doing).await?;
        context.ui.note("no events: the API server keeps them for an hour");
    } else {
        let now = jiff::Timestamp::now();
        let text = ui::table(&HEADER, events.iter().map(|event| row(event, true, now)));
        context.ui.data(text)?;
    }
    if args.follow { follow(context, &session, &args.name).await } else { Ok(()) }
}

/// Prints every further event as it comes.
async fn follow(context: &Context, session: &Session, name: &str) -> Result<()> {
    let api: Api<Event> = Api::namespaced(session.streaming.clone(), &session.namespace);
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    while let Some(news) = stream.next().await {
        match news {
            Ok(watcher::Event::Apply(event)) if concerns(name, &event) => {
                let text = row(&event, true, jiff::Timestamp::now());
                context.ui.data(format_args!("{}\n", text.join("   ")))?;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("watching events: {error}"),
        }
    }
    Err(CliError::failed("follow events: the API server ended the watch"))
}

/// Whether an event is about the database or an object that is made for it.
pub fn concerns(name: &str, event: &Event) -> bool {
    let about = event.involved_object.name.as_deref().unwrap_or_default();
    let names = Names(name);
    let own = [names.main(), names.read_only_service(), names.headless_service(), names.config()];
    own.iter().chain(&names.secrets()).chain(&names.patroni_objects()).any(|own| own == about)
        || names.ordinal(about).is_some()
        || about.strip_prefix("data-").is_some_and(|member| names.ordinal(member).is_some())
}

/// When an event was last seen.
pub fn time(event: &Event) -> jiff::Timestamp {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let micro = series.or(event.event_time.as_ref()).map(|time| time.0);
    let plain = event.last_timestamp.as_ref().or(event.first_timestamp.as_ref()).map(|time| time.0);
    micro.max(plain).or(event.creation_timestamp().map(|time| time.0)).unwrap_or_default()
}

/// The columns of an event.
pub fn row(event: &Event, object: bool, now: jiff::Timestamp) -> Vec<String> {
    let count = event.series.as_ref().and_then(|series| series.count).or(event.count).unwrap_or(1);
    let times = if count > 1 { format!(" (x{count})") } else { String::new() };
    let message = event.message.as_deref().unwrap_or_default().trim().replace('\n', " ");
    let mut row = vec![
        format!("{}{times}", output::age(time(event), now)),
        output::or_dash(event.type_.as_deref()),
        output::or_dash(event.reason.as_deref()),
    ];
    if object {
        let about = &event.involved_object;
        let kind = about.kind.as_deref().unwrap_or_default().to_lowercase();
        row.push(format!("{kind}/{}", about.name.as_deref().unwrap_or_default()));
    }
    row.push(message);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn about(name: &str) -> Event {
        serde_json::from_value(json!({ "metadata": {}, "involvedObject": { "name": name } })).unwrap()
    }

    #[test]
    fn a_databases_own_objects_concern_it_and_its_neighbours_do_not() {
        for (name, expected) in [
            ("db", true),
            ("db-0", true),
            ("data-db-2", true),
            ("db-ro", true),
            ("db-leader", true),
            ("db2", false),
            ("db-x-0", false),
            ("data-db2-0", false),
            ("other", false),
        ] {
            assert_eq!(concerns("db", &about(name)), expected, "{name}");
        }
    }

    #[test]
    fn the_newest_of_an_events_times_counts() {
        let event: Event = serde_json::from_value(json!({
            "metadata": { "creationTimestamp": "2026-11-22T09:00:00Z" }, "involvedObject": {},
            "eventTime": "2026-11-22T10:00:00.000000Z", "type": "Warning", "reason": "NameTaken", "message": "a\nb",
            "series": { "count": 3, "lastObservedTime": "2026-11-22T10:04:00.000000Z" },
        }))
        .unwrap();
        let now = "2026-11-22T10:05:00Z".parse().unwrap();
        assert_eq!(row(&event, false, now), ["60s (x3)", "Warning", "NameTaken", "a b"]);
    }

    #[test]
    fn a_long_message_moves_nothing_aside() {
        let event = |name: &str, message: &str| -> Event {
            serde_json::from_value(json!({
                "metadata": {}, "involvedObject": { "kind": "Pod", "name": name }, "type": "Normal", "reason": "Started",
                "message": message, "lastTimestamp": "2026-11-22T10:04:00Z",
            }))
            .unwrap()
        };
        let now = "2026-11-22T10:05:00Z".parse().unwrap();
        let rows = [event("db-0", "started"), event("db-1", &"long ".repeat(30))];
        let text = ui::table(&HEADER, rows.iter().map(|event| row(event, true, now)));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "LAST SEEN   TYPE     REASON    OBJECT     MESSAGE");
        assert_eq!(lines[1], "60s         Normal   Started   pod/db-0   started");
    }
}
