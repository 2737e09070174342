//! The page that `dbctl status` prints.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;

use super::headline::{self, Headline};
use super::{Snapshot, is_ready};
use crate::api::{ConditionType, Database, DatabaseStatus, Phase, reason};
use crate::cli::connect::Addresses;
use crate::cli::members::{self, Member};
use crate::cli::ui::{self, Tone, Ui};
use crate::cli::{events, output};

/// How many events are shown.
const EVENTS: usize = 5;

/// What the page is made of.
pub struct Page<'a> {
    /// How it is coloured.
    pub ui: Ui,
    /// How this program is run again.
    pub command: String,
    /// Where the database is reached.
    pub addresses: Addresses,
    /// Everything that was read.
    pub snapshot: &'a Snapshot,
    /// Whether more columns and all conditions are shown.
    pub wide: bool,
    /// What ages are counted to.
    pub now: jiff::Timestamp,
}

impl Page<'_> {
    /// The whole page.
    pub fn render(&self) -> String {
        let Some(database) = &self.snapshot.database else { return String::new() };
        let none = DatabaseStatus::default();
        let status = database.status.as_ref().unwrap_or(&none);
        let mut page = String::new();
        let headlines = headline::lines(database, status, self.now);
        header(&mut page, &self.ui, database, status, &headlines, self.now);
        let members = members::members(database, &self.snapshot.pods);
        let _ = writeln!(page, "\n{}", member_table(&members, self.wide, self.now).trim_end());
        let told = headlines.iter().filter_map(|line| line.tells).filter(|_| !self.wide).collect::<Vec<_>>();
        conditions(&mut page, &self.ui, status, &told, self.wide, self.now);
        let _ = writeln!(page, "\n{}", self.addresses.render().trim_end());
        let _ = writeln!(page, "connect    {} connect {}", self.command, database.name_any());
        let _ = writeln!(page, "backups    {}", backups_line(database, status, self.now));
        recent_events(&mut page, &self.snapshot.events, self.now);
        page
    }
}

fn header(
    page: &mut String,
    ui: &Ui,
    database: &Database,
    status: &DatabaseStatus,
    headlines: &[Headline],
    now: jiff::Timestamp,
) {
    let phase = match status.phase {
        Some(phase) => phase.to_string(),
        None => "Pending".to_owned(),
    };
    let tone = match status.phase {
        _ if is_ready(database) => Tone::Good,
        Some(Phase::Failed | Phase::Degraded) => Tone::Bad,
        _ => Tone::Warning,
    };
    let spec = &database.spec;
    let ready = status.ready.clone().unwrap_or_else(|| format!("0/{}", spec.replicas));
    let age = database.creation_timestamp().map(|time| output::age(time.0, now)).unwrap_or_default();
    let version = match &status.version {
        Some(running) if *running != spec.version.to_string() => {
            format!("{running} (asked for: {})", spec.version)
        }
        _ => spec.version.to_string(),
    };
    let _ = writeln!(page, "{}  {}", ui.paint(Tone::Strong, database.name_any()), ui.paint(tone, phase));
    for line in headlines {
        let _ = writeln!(page, "{}", ui.paint(line.tone, &line.text));
    }
    let commits = if spec.replicas < 2 {
        "one member, no replica"
    } else if spec.synchronous {
        "synchronous: no failover loses an acknowledged commit"
    } else {
        "asynchronous: a failover may lose the last commits"
    };
    let _ =
        writeln!(page, "PostgreSQL {version}, {ready} members ready, {} each, age {age}", spec.storage.size);
    let _ = writeln!(page, "{commits}; deletion policy {:?}", spec.deletion_policy);
    match status.observed_generation {
        None => {
            let _ = writeln!(
                page,
                "{}",
                ui.paint(
                    Tone::Warning,
                    "the controller has not answered yet; in a cluster: is one running (dbctl controller)?"
                )
            );
        }
        Some(seen) if Some(seen) < database.metadata.generation => {
            let _ = writeln!(
                page,
                "{}",
                ui.paint(Tone::Warning, "the controller has not answered the newest change yet")
            );
        }
        Some(_) => {}
    }
}

fn member_table(members: &[Member], wide: bool, now: jiff::Timestamp) -> String {
    let mut header = vec!["MEMBER", "ROLE", "STATE", "READY", "TIMELINE", "LAG", "NODE"];
    if wide {
        header.extend(["VERSION", "IP", "RESTARTS", "AGE"]);
    }
    let row = |member: &Member| {
        let instance = &member.instance;
        let mut row = vec![
            member.name.clone(),
            output::or_dash(instance.role.as_deref()),
            member.state(),
            if member.ready { "yes".into() } else { "no".into() },
            instance.timeline.map_or_else(|| "-".into(), |timeline| timeline.to_string()),
            instance.lag_bytes.map_or_else(|| "-".into(), output::bytes),
            output::or_dash(member.node.as_deref()),
        ];
        if wide {
            row.extend([
                output::or_dash(instance.version.as_deref()),
                output::or_dash(member.ip.as_deref()),
                member.restarts.to_string(),
                member.created.map_or_else(|| "-".into(), |time| output::age(time, now)),
            ]);
        }
        row
    };
    ui::table(&header, members.iter().map(row))
}

/// The conditions that are not as they should be and were not told at the top; all of them where more is asked for.
fn conditions(
    page: &mut String,
    ui: &Ui,
    status: &DatabaseStatus,
    told: &[ConditionType],
    wide: bool,
    now: jiff::Timestamp,
) {
    let message = |kind: ConditionType| {
        let kind = kind.to_string();
        status.conditions.iter().find(|condition| condition.type_ == kind).map(|condition| &condition.message)
    };
    let said: Vec<&String> = told.iter().filter_map(|kind| message(*kind)).collect();
    let fine = |status: &str, reason: &str| status == "True" || reason == reason::BACKUPS_DISABLED;
    let mut first = true;
    for kind in ConditionType::ALL {
        let kind = kind.to_string();
        let Some(condition) = status.conditions.iter().find(|condition| condition.type_ == kind) else {
            continue;
        };
        let fine = fine(&condition.status, &condition.reason);
        // Where nobody can write, Ready says the same once more.
        let said = said.contains(&&condition.message);
        if (fine || said) && !wide {
            continue;
        }
        if std::mem::take(&mut first) {
            page.push('\n');
        }
        let since = output::age(condition.last_transition_time.0, now);
        let head = format!("{kind}={} ({}, for {since})", condition.status, condition.reason);
        let tone = if fine { Tone::Good } else { Tone::Bad };
        let _ = writeln!(page, "{}: {}", ui.paint(tone, head), condition.message);
    }
}

/// When the last backup was, from when on all can be restored, and whether WAL is archived.
fn backups_line(database: &Database, status: &DatabaseStatus, now: jiff::Timestamp) -> String {
    let on = database.spec.backup.as_ref().is_some_and(|backup| backup.enabled);
    let last = status.backups.first().and_then(|last| Some((last, last.finished_at.as_ref()?.0)));
    let mut parts = Vec::new();
    match last {
        Some((last, ended)) => {
            let size = last.size_bytes.map(|size| format!(" ({})", output::bytes(size)));
            parts.push(format!("the last {} ago{}", output::age(ended, now), size.unwrap_or_default()));
        }
        None if on => parts.push("none yet".to_owned()),
        None => {}
    }
    parts.extend(verified(status, now));
    let kind = ConditionType::BackupsHealthy.to_string();
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
    let fails = condition.is_some_and(|condition| condition.reason == reason::ARCHIVING_FAILING);
    if let Some(earliest) = &status.earliest_recovery_time {
        let until = if on && !fails { " on" } else { "" };
        parts.push(format!("restorable from {} UTC{until}", output::instant(earliest.0)));
    }
    if !on {
        parts.push("off".to_owned());
    } else if fails {
        parts.push("WAL is not archived".to_owned());
    } else if condition.is_some() && status.is_true(ConditionType::Writable) {
        // While nobody leads, nothing is heard of it.
        parts.push("WAL is archived".to_owned());
    }
    parts.join("; ")
}

/// What was found of the newest backup that was looked at.
fn verified(status: &DatabaseStatus, now: jiff::Timestamp) -> Option<String> {
    let mut all = status.backups.iter().enumerate();
    let (number, backup, at) =
        all.find_map(|(n, backup)| Some((n, backup, backup.verified_at.as_ref()?.0)))?;
    let which = match number {
        0 => "it".to_owned(),
        _ => format!("the one of {} ago", output::age(backup.finished_at.as_ref()?.0, now)),
    };
    let found = if backup.verify_problem.is_some() { "DAMAGED" } else { "good" };
    Some(format!("{which} was found to be {found} {} ago", output::age(at, now)))
}

fn recent_events(page: &mut String, all: &[Event], now: jiff::Timestamp) {
    let mut sorted: Vec<&Event> = all.iter().collect();
    sorted.sort_by_key(|event| events::time(event));
    let last = &sorted[sorted.len().saturating_sub(EVENTS)..];
    if !last.is_empty() {
        let rows = last.iter().map(|event| events::row(event, false, now));
        let _ = write!(page, "\n{}", ui::table(&events::HEADER_OF_ONE, rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::session::Place;
    use crate::cli::ui::ColorChoice;
    use crate::sandbox::home::Home;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn read<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod(name: &str, ready: bool) -> Value {
        json!({
            "metadata": { "name": name, "creationTimestamp": "2026-11-22T10:00:10Z" },
            "spec": { "nodeName": "sandbox", "containers": [] },
            "status": {
                "phase": "Running", "podIP": "127.9.1.1",
                "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
            },
        })
    }

    fn snapshot() -> Snapshot {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-22T10:01:00Z" });
        Snapshot {
            database: Some(read(json!({
                "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
                "metadata": { "name": "orders-db", "generation": 2, "creationTimestamp": "2026-11-22T10:00:00Z" },
                "spec": { "replicas": 3, "version": "18.6", "storage": { "size": "10Gi" } },
                "status": {
                    "observedGeneration": 2, "phase": "Degraded", "ready": "2/3", "replicas": 3, "version": "18.6",
                    "instances": [
                        { "name": "orders-db-0", "role": "primary", "state": "running", "timeline": 1 },
                        { "name": "orders-db-1", "role": "replica", "state": "streaming", "timeline": 1, "lagBytes": 2048 },
                    ],
                    "conditions": [
                        condition("Ready", "False", "MemberNotReady", "orders-db-2 is not ready"),
                        condition("Writable", "True", "PrimaryAcceptsWrites", "orders-db-0 accepts writes"),
                        condition("BackupsHealthy", "False", "BackupsDisabled", "backups are off"),
                    ],
                },
            }))),
            pods: vec![
                read(pod("orders-db-0", true)),
                read(pod("orders-db-1", true)),
                read(pod("orders-db-2", false)),
            ],
            services: vec![read(
                json!({ "metadata": { "name": "orders-db" }, "spec": { "clusterIP": "127.9.255.1" } }),
            )],
            events: vec![read(json!({
                "metadata": {}, "involvedObject": { "kind": "Database", "name": "orders-db" },
                "lastTimestamp": "2026-11-22T10:00:30Z", "type": "Normal", "reason": "Created", "message": "made the StatefulSet",
            }))],
        }
    }

    fn render(wide: bool) -> String {
        let snapshot = snapshot();
        let place = Place::Sandbox(Home::at("/h".into()).unwrap());
        Page {
            ui: Ui::new(ColorChoice::Never),
            command: "dbctl --sandbox".into(),
            addresses: Addresses::of(&place, "default", "orders-db", &snapshot.services),
            snapshot: &snapshot,
            wide,
            now: "2026-11-22T10:05:00Z".parse().unwrap(),
        }
        .render()
    }

    #[test]
    fn the_page_says_what_is_wrong_and_how_to_connect() {
        insta::assert_snapshot!(render(false), @"
        orders-db  Degraded
        writes work, but not all is well since 4m (MemberNotReady): orders-db-2 is not ready
        PostgreSQL 18.6, 2/3 members ready, 10Gi each, age 5m
        synchronous: no failover loses an acknowledged commit; deletion policy Retain

        MEMBER        ROLE      STATE       READY   TIMELINE   LAG       NODE
        orders-db-0   primary   running     yes     1          -         sandbox
        orders-db-1   replica   streaming   yes     1          2.0 KiB   sandbox
        orders-db-2   -         starting    no      -          -         sandbox

        write      127.9.255.1:5432
        read-only  -
        connect    dbctl --sandbox connect orders-db
        backups    off

        LAST SEEN   TYPE     REASON    MESSAGE
        4m30s       Normal   Created   made the StatefulSet
        ");
    }

    #[test]
    fn one_line_tells_of_backups() {
        let line = |enabled: bool, reason: &str, rest: Value| {
            let mut database = serde_json::to_value(snapshot().database.unwrap()).unwrap();
            let condition = json!({ "type": "BackupsHealthy", "status": "False", "reason": reason, "message": "",
                "lastTransitionTime": "2026-11-22T10:01:00Z" });
            database["spec"]["backup"] =
                json!({ "enabled": enabled, "schedule": "0 3 * * *", "destination": "s3://b" });
            let mut writable = condition.clone();
            (writable["type"], writable["status"]) = (json!("Writable"), json!("True"));
            database["status"]["conditions"] = json!([condition, writable]);
            json_patch::merge(&mut database["status"], &rest);
            let database: Database = read(database);
            backups_line(
                &database,
                database.status.as_ref().unwrap(),
                "2026-11-22T10:05:00Z".parse().unwrap(),
            )
        };
        let there = json!({ "earliestRecoveryTime": "2026-11-20T03:00:06Z",
            "backups": [{ "id": "a", "finishedAt": "2026-11-22T03:00:00Z", "sizeBytes": 12_897_484 }] });
        insta::assert_snapshot!(line(true, "BackupsCurrent", there.clone()), @"the last 7h5m ago (12.3 MiB); restorable from 2026-11-20 03:00:06 UTC on; WAL is archived");
        insta::assert_snapshot!(line(true, "ArchivingFailing", there.clone()), @"the last 7h5m ago (12.3 MiB); restorable from 2026-11-20 03:00:06 UTC; WAL is not archived");
        insta::assert_snapshot!(line(false, "BackupsDisabled", there), @"the last 7h5m ago (12.3 MiB); restorable from 2026-11-20 03:00:06 UTC; off");
        insta::assert_snapshot!(line(true, "NoBackup", json!({})), @"none yet; WAL is archived");
        insta::assert_snapshot!(line(false, "BackupsDisabled", json!({})), @"off");
    }

    #[test]
    fn the_wide_page_has_every_condition_and_more_columns() {
        insta::assert_snapshot!(render(true), @"
        orders-db  Degraded
        writes work, but not all is well since 4m (MemberNotReady): orders-db-2 is not ready
        PostgreSQL 18.6, 2/3 members ready, 10Gi each, age 5m
        synchronous: no failover loses an acknowledged commit; deletion policy Retain

        MEMBER        ROLE      STATE       READY   TIMELINE   LAG       NODE      VERSION   IP          RESTARTS   AGE
        orders-db-0   primary   running     yes     1          -         sandbox   -         127.9.1.1   0          4m50s
        orders-db-1   replica   streaming   yes     1          2.0 KiB   sandbox   -         127.9.1.1   0          4m50s
        orders-db-2   -         starting    no      -          -         sandbox   -         127.9.1.1   0          4m50s

        Ready=False (MemberNotReady, for 4m): orders-db-2 is not ready
        Writable=True (PrimaryAcceptsWrites, for 4m): orders-db-0 accepts writes
        BackupsHealthy=False (BackupsDisabled, for 4m): backups are off

        write      127.9.255.1:5432
        read-only  -
        connect    dbctl --sandbox connect orders-db
        backups    off

        LAST SEEN   TYPE     REASON    MESSAGE
        4m30s       Normal   Created   made the StatefulSet
        ");
    }
}
