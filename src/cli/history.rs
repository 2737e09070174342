//! `dbctl history`.

use clap::Args;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};
use serde::Serialize;

use super::error::{Outcome, Result};
use super::output::{self, Document};
use super::session::Session;
use super::{Context, api_error, complete, scale, ui};
use crate::api::{Database, DatabaseStatus, Failover, Names};
use crate::backup::wal::position_text;
use crate::patroni::{DynamicConfig, TimelineEnd};

/// The two records of one change differ by less: one is the controller's, the other the new primary's own.
const APART: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Show when the primary changed, from where to where, why, and for how long nobody could write
///
/// The oldest change comes first, as in `kubectl rollout history`. Patroni keeps every change of timeline; why it came to
/// it and how long nobody could write is known of the last ten that the controller saw. Times are UTC.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl history orders-db
  dbctl history orders-db -o json | jq '.items[-1].durationSeconds'")]
pub struct HistoryArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// How to print it, in place of a table
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Document>,
}

/// A change of primary, from both records.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    /// When the old primary was last seen to lead, or else when the new timeline began.
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writable_at: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<f64>,
    /// The timeline that it opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<i64>,
    /// Where the timeline before it ended, in PostgreSQL's notation.
    #[serde(skip_serializing_if = "Option::is_none")]
    lsn: Option<String>,
}

#[derive(Debug, Serialize)]
struct Changes<'a> {
    items: &'a [Change],
}

/// Runs the command.
///
/// # Errors
/// Where there is neither such a database nor anything left of it, or it cannot be read.
pub async fn run(context: &Context, args: HistoryArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let doing = format!("read the history of database {:?}", args.name);
    let databases: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let maps: Api<ConfigMap> = Api::namespaced(session.client.clone(), &session.namespace);
    let kept_in = Names(&args.name).dynamic_config();
    let (database, kept) = tokio::join!(
        scale::get(context, &session, &databases, &args.name, &doing),
        maps.get_metadata_opt(&kept_in)
    );
    let timelines = match kept {
        Ok(kept) => kept.map(|map| timelines(&map)).unwrap_or_default(),
        // The controller's own record is the better half.
        Err(kube::Error::Api(status)) if status.code == 403 => {
            context.ui.warn(format_args!(
                "you may not read ConfigMap {kept_in:?}: changes before the last ten are not shown"
            ));
            Vec::new()
        }
        Err(error) => return Err(api_error::explain(&session, &doing, &error)),
    };
    let status = match database {
        Ok(database) => database.status.unwrap_or_default(),
        Err(error) if error.outcome == Outcome::NotFound && !timelines.is_empty() => {
            context
                .ui
                .note(format_args!("database {:?} is deleted; its history is kept with its data", args.name));
            DatabaseStatus::default()
        }
        Err(error) => return Err(error),
    };
    let changes = join(&timelines, &status.failovers, current(&status));
    match args.output {
        Some(format) => context.ui.data(output::document(format, &Changes { items: &changes })?),
        None if changes.is_empty() => {
            context.ui.note(format_args!("the primary of database {:?} has never changed", args.name));
            Ok(())
        }
        None => context.ui.data(render(&changes)),
    }
}

fn timelines<K: ResourceExt>(map: &K) -> Vec<TimelineEnd> {
    DynamicConfig::of(&serde_json::json!({ "metadata": { "annotations": map.annotations() } })).history
}

/// The timeline that the primary is on.
fn current(status: &DatabaseStatus) -> Option<i64> {
    let primary = status.primary.as_deref()?;
    status.instances.iter().find(|instance| instance.name == primary)?.timeline
}

/// Both records of each change, oldest first. `current`: the timeline of today, where that is known.
fn join(timelines: &[TimelineEnd], failovers: &[Failover], current: Option<i64>) -> Vec<Change> {
    let mut rest: Vec<&Failover> = failovers.iter().collect();
    let mut changes = Vec::new();
    for (index, end) in timelines.iter().enumerate() {
        let opened = match timelines.get(index + 1) {
            Some(next) => next.timeline,
            // Patroni dates the last one where the next number followed it. After a restore, it did not: others have had it.
            None if end.at.is_none() => {
                current.filter(|current| *current > end.timeline).unwrap_or(end.timeline + 1)
            }
            None => end.timeline + 1,
        };
        let told =
            rest.iter().position(|failover| same(failover, end, opened)).map(|found| rest.remove(found));
        let before = index.checked_sub(1).and_then(|before| timelines[before].leader.clone());
        let base = told.map(of_controller).unwrap_or_default();
        changes.push(Change {
            when: base.when.or(end.at),
            from: base.from.or(before),
            to: base.to.or_else(|| end.leader.clone()),
            timeline: Some(opened),
            lsn: Some(position_text(end.lsn.unsigned_abs())),
            ..base
        });
    }
    // What Patroni has not written yet, or no longer keeps.
    changes.extend(rest.into_iter().map(of_controller));
    in_order(changes)
}

/// By time. What has none follows the newest change that led to a timeline below its own, or else goes before the first one
/// above: timelines are counted up, but for a major upgrade, which begins anew.
fn in_order(changes: Vec<Change>) -> Vec<Change> {
    let (mut all, mut untimed): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|change| change.when.is_some());
    all.sort_by_key(|change| (change.when, change.timeline));
    untimed.sort_by_key(|change| change.timeline);
    for change in untimed {
        let known = || all.iter().enumerate().filter(|(_, other)| other.timeline.is_some());
        let before = known().filter(|(_, other)| other.timeline < change.timeline);
        let before = before.max_by_key(|(index, other)| (other.timeline, *index)).map(|(index, _)| index + 1);
        let above = || known().find(|(_, other)| other.timeline > change.timeline).map(|(index, _)| index);
        let place = before.or_else(above).unwrap_or(all.len());
        all.insert(place, change);
    }
    all
}

fn same(failover: &Failover, end: &TimelineEnd, opened: i64) -> bool {
    if let Some(timeline) = failover.timeline {
        return timeline == opened;
    }
    let around = failover.writable_at.as_ref().or(failover.started_at.as_ref()).zip(end.at);
    end.leader.as_deref() == Some(failover.to.as_str())
        && around.is_some_and(|(told, at)| told.0.duration_since(at).abs() < APART)
}

fn of_controller(failover: &Failover) -> Change {
    let time = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.as_ref().map(|time| time.0)
    };
    Change {
        when: time(&failover.started_at).or(time(&failover.writable_at)),
        from: failover.from.clone(),
        to: Some(failover.to.clone()),
        reason: Some(failover.reason.clone()),
        writable_at: time(&failover.writable_at),
        duration_seconds: failover.duration_seconds,
        timeline: failover.timeline,
        lsn: None,
    }
}

fn render(changes: &[Change]) -> String {
    let row = |change: &Change| {
        vec![
            change.when.map_or_else(|| "-".into(), |when| when.strftime("%Y-%m-%d %H:%M:%S").to_string()),
            output::or_dash(change.from.as_deref()),
            output::or_dash(change.to.as_deref()),
            output::or_dash(change.reason.as_deref()),
            change.duration_seconds.map_or_else(|| "-".into(), output::seconds),
            change.timeline.map_or_else(|| "-".into(), |timeline| timeline.to_string()),
        ]
    };
    ui::table(&["WHEN", "FROM", "TO", "WHY", "WRITES DOWN", "TIMELINE"], changes.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn map(history: Value) -> ConfigMap {
        serde_json::from_value(json!({ "metadata": { "annotations": { "history": history.to_string() } } }))
            .unwrap()
    }

    fn failovers(value: Value) -> Vec<Failover> {
        serde_json::from_value(value).unwrap()
    }

    /// Timeline 4 was opened by a change that the controller did not see; 5 is one that Patroni has yet to write down.
    fn changes() -> Vec<Change> {
        let history = json!([
            [1, 50_332_040, "no recovery target specified", "2026-11-22T07:11:38.047059+00:00", "db-1"],
            [2, 67_109_024, "no recovery target specified", "2026-11-22T08:00:02.5+00:00", "db-2"],
            [3, 5_000_000_000_i64, "no recovery target specified", "2026-11-22T08:30:00+00:00", "db-0"],
        ]);
        let seen = failovers(json!([
            { "from": "db-0", "to": "db-1", "reason": "PrimaryLost", "startedAt": "2026-11-22T09:00:00Z",
              "writableAt": "2026-11-22T09:00:21Z", "durationSeconds": 20.6, "timeline": 5 },
            { "from": "db-1", "to": "db-2", "reason": "Switchover", "startedAt": "2026-11-22T08:00:01Z",
              "writableAt": "2026-11-22T08:00:02Z", "durationSeconds": 0.84 },
        ]));
        join(&timelines(&map(history)), &seen, None)
    }

    #[test]
    fn both_records_make_one_history_oldest_first() {
        insta::assert_snapshot!(render(&changes()), @"
        WHEN                  FROM   TO     WHY           WRITES DOWN   TIMELINE
        2026-11-22 07:11:38   -      db-1   -             -             2
        2026-11-22 08:00:01   db-1   db-2   Switchover    0.8 s         3
        2026-11-22 08:30:00   db-2   db-0   -             -             4
        2026-11-22 09:00:00   db-0   db-1   PrimaryLost   21 s          5
        ");
    }

    #[test]
    fn programs_get_everything() {
        let all = changes();
        insta::assert_snapshot!(output::document(Document::Yaml, &Changes { items: &all[1..3] }).unwrap(), @"
        items:
        - durationSeconds: 0.84
          from: db-1
          lsn: 0/40000A0
          reason: Switchover
          timeline: 3
          to: db-2
          when: 2026-11-22T08:00:01Z
          writableAt: 2026-11-22T08:00:02Z
        - from: db-2
          lsn: 1/2A05F200
          timeline: 4
          to: db-0
          when: 2026-11-22T08:30:00Z
        ");
    }

    fn numbers(changes: &[Change]) -> Vec<i64> {
        changes.iter().filter_map(|change| change.timeline).collect()
    }

    /// A restore went back to timeline 3 when 4 to 8 had been there, and opened 9: Patroni knows of 9 that it came from 3, and
    /// neither when nor who led it.
    #[test]
    fn what_has_no_time_stays_beside_its_neighbours() {
        let moved = |timeline: i64, at: &str| json!({ "to": "db-1", "reason": "Switchover", "startedAt": at, "timeline": timeline });
        let seen = failovers(json!([
            moved(10, "2026-11-22T11:00:00Z"),
            moved(8, "2026-11-22T10:40:00Z"),
            moved(5, "2026-11-22T10:20:00Z"),
            moved(4, "2026-11-22T10:10:00Z"),
        ]));
        let history =
            json!([[1, 1, "x"], [2, 1, "x"], [3, 1, "x"], [9, 1, "x", "2026-11-22T11:00:01+00:00", "db-1"],]);
        assert_eq!(numbers(&join(&timelines(&map(history)), &seen, Some(10))), [2, 3, 4, 5, 8, 9, 10]);
        // The same before the role moved again: 4 was opened long ago.
        let history = json!([[1, 1, "x"], [2, 1, "x"], [3, 1, "x"]]);
        let all = join(&timelines(&map(history)), &seen[1..], Some(9));
        assert_eq!(numbers(&all), [2, 3, 4, 5, 8, 9]);
        assert_eq!(
            (all[2].reason.as_deref(), all[5].when, all[5].reason.as_deref()),
            (Some("Switchover"), None, None)
        );
    }

    /// After a major upgrade, timelines are counted from one again.
    #[test]
    fn a_new_count_of_timelines_follows_the_old_one() {
        let seen = failovers(json!([
            { "to": "db-0", "reason": "MajorUpgrade", "startedAt": "2026-11-22T12:00:00Z", "timeline": 1 },
            { "to": "db-0", "reason": "Switchover", "startedAt": "2026-11-22T11:00:00Z", "timeline": 7 },
        ]));
        let all = join(&timelines(&map(json!([[1, 1, "x"]]))), &seen, Some(2));
        assert_eq!(numbers(&all), [7, 1, 2]);
    }

    #[test]
    fn one_record_alone_is_a_history_too() {
        let history = json!([[1, 1, "x"], [2, 1, "x", "2026-11-22T08:00:00+00:00", "db-2"]]);
        let old = join(&timelines(&map(history)), &[], None);
        assert_eq!((old.len(), old[0].timeline, old[1].to.as_deref()), (2, Some(2), Some("db-2")));
        let told = failovers(json!([{ "to": "db-1", "reason": "PrimaryLost" }]));
        assert_eq!(join(&[], &told, None)[0].to.as_deref(), Some("db-1"));
        assert!(join(&[], &[], None).is_empty());
    }
}
