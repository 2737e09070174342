//! The page that `dbctl status` prints.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;

use super::{Snapshot, is_ready};
use crate::api::{ConditionType, Database, DatabaseStatus, Phase, reason};
use crate::cli::connect::Addresses;
use crate::cli::members::{self, Member};
use crate::cli::session::Session;
use crate::cli::ui::{self, Tone};
use crate::cli::{Context, events, output};

/// How many events are shown.
const EVENTS: usize = 5;

/// The whole page.
pub fn status(
    context: &Context,
    session: &Session,
    snapshot: &Snapshot,
    wide: bool,
    now: jiff::Timestamp,
) -> String {
    let Some(database) = &snapshot.database else { return String::new() };
    let none = DatabaseStatus::default();
    let status = database.status.as_ref().unwrap_or(&none);
    let mut page = String::new();
    header(&mut page, context, database, status, now);
    let members = members::members(database, &snapshot.pods);
    let _ = writeln!(page, "\n{}", member_table(&members, wide, now).trim_end());
    conditions(&mut page, context, status, wide, now);
    let name = database.name_any();
    let addresses = Addresses::of(&session.place, &session.namespace, &name, &snapshot.services);
    let _ = writeln!(page, "\n{}", addresses.render().trim_end());
    let _ = writeln!(page, "connect    {} connect {name}", context.invocation());
    recent_events(&mut page, &snapshot.events, now);
    page
}

fn header(
    page: &mut String,
    context: &Context,
    database: &Database,
    status: &DatabaseStatus,
    now: jiff::Timestamp,
) {
    let ui = &context.ui;
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
                ui.paint(Tone::Warning, "no controller has answered yet: is one running (dbctl controller)?")
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

/// The conditions that are not as they should be; all of them where more is asked for.
fn conditions(
    page: &mut String,
    context: &Context,
    status: &DatabaseStatus,
    wide: bool,
    now: jiff::Timestamp,
) {
    let fine = |status: &str, reason: &str| status == "True" || reason == reason::BACKUPS_DISABLED;
    let mut first = true;
    for kind in ConditionType::ALL {
        let kind = kind.to_string();
        let Some(condition) = status.conditions.iter().find(|condition| condition.type_ == kind) else {
            continue;
        };
        let fine = fine(&condition.status, &condition.reason);
        if fine && !wide {
            continue;
        }
        if std::mem::take(&mut first) {
            page.push('\n');
        }
        let since = output::age(condition.last_transition_time.0, now);
        let head = format!("{kind}={} ({}, for {since})", condition.status, condition.reason);
        let tone = if fine { Tone::Good } else { Tone::Bad };
        let _ = writeln!(page, "{}: {}", context.ui.paint(tone, head), condition.message);
    }
}

fn recent_events(page: &mut String, all: &[Event], now: jiff::Timestamp) {
    let mut sorted: Vec<&Event> = all.iter().collect();
    sorted.sort_by_key(|event| events::time(event));
    let last = &sorted[sorted.len().saturating_sub(EVENTS)..];
    if !last.is_empty() {
        let rows = last.iter().map(|event| events::row(event, false, now));
        let _ = write!(page, "\n{}", ui::table(&events::HEADER[..4], rows));
    }
}
