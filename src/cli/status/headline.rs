//! What is said at the top of the page: what is wrong, in one line, and what is going on.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::api::{
    ConditionType, Database, DatabaseStatus, Failover, Operation, OperationPhase, Phase, ROLE_PRIMARY, reason,
};
use crate::cli::ui::Tone;
use crate::cli::{output, pause};

/// A line, and what it is about.
#[derive(Debug, PartialEq)]
pub struct Headline {
    /// How it is coloured.
    pub tone: Tone,
    /// What it says.
    pub text: String,
    /// The condition that it tells of, which then need not be told again.
    pub tells: Option<ConditionType>,
}

fn line(tone: Tone, text: String) -> Headline {
    Headline { tone, text, tells: None }
}

/// The lines, the worst first.
pub fn lines(database: &Database, status: &DatabaseStatus, now: jiff::Timestamp) -> Vec<Headline> {
    let mut lines: Vec<Headline> = worst(status, now).into_iter().collect();
    lines.extend(paused(database));
    lines.extend(full(status, now));
    lines.extend(upgrade(status, now));
    lines.extend(status.operations.iter().filter_map(|operation| under_way(operation, now)));
    lines.extend(cordoned(database, status));
    lines.extend(kept(database, status));
    lines.extend(status.last_failover.as_ref().map(|last| last_failover(last, now)));
    lines
}

fn condition(status: &DatabaseStatus, kind: ConditionType) -> Option<&Condition> {
    let kind = kind.to_string();
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// What is wrong most: that nobody can write, or else that it is not ready.
fn worst(status: &DatabaseStatus, now: jiff::Timestamp) -> Option<Headline> {
    // What is being made or deleted is not sick.
    if matches!(status.phase, None | Some(Phase::Pending | Phase::Creating | Phase::Deleting)) {
        return None;
    }
    let since = |condition: &Condition| output::age(condition.last_transition_time.0, now);
    let writable = condition(status, ConditionType::Writable)?;
    if writable.status != "True" {
        let outage = status.outage.as_ref();
        let began = outage.and_then(|outage| outage.started_at.as_ref());
        let since = began.map_or_else(|| since(writable), |began| output::age(began.0, now));
        let reason = outage.map_or(&writable.reason, |outage| &outage.reason);
        let was = outage.and_then(|outage| outage.from.as_ref()).map(|from| format!(", was {from}"));
        let text = format!(
            "nobody can write since {since} ({reason}{}): {}",
            was.unwrap_or_default(),
            writable.message
        );
        return Some(Headline { tone: Tone::Bad, text, tells: Some(ConditionType::Writable) });
    }
    let ready = condition(status, ConditionType::Ready).filter(|ready| ready.status != "True")?;
    let text = format!(
        "writes work, but not all is well since {} ({}): {}",
        since(ready),
        ready.reason,
        ready.message
    );
    // What the user asked for is no sickness.
    let tone = if matches!(status.phase, Some(Phase::Progressing | Phase::Upgrading)) {
        Tone::Warning
    } else {
        Tone::Bad
    };
    Some(Headline { tone, text, tells: Some(ConditionType::Ready) })
}

/// Nothing is done here, whatever is asked for.
fn paused(database: &Database) -> Option<Headline> {
    pause::is_paused(database).then(|| Headline {
        tone: Tone::Warning,
        text: format!(
            "dbctl is paused here, and changes nothing until `dbctl resume {}`; Patroni goes on electing",
            database.name_any()
        ),
        tells: Some(ConditionType::UpToDate),
    })
}

/// What says that room runs out.
const ROOM: [&str; 3] = [reason::VOLUME_FULL, reason::VOLUME_NEARLY_FULL, reason::VOLUME_FILLING];

/// PostgreSQL runs on for a while on a full volume: neither of the conditions above has to tell.
fn full(status: &DatabaseStatus, now: jiff::Timestamp) -> Option<Headline> {
    let storage = condition(status, ConditionType::StorageHealthy)
        .filter(|storage| storage.status == "False" && ROOM.contains(&storage.reason.as_str()))?;
    let since = output::age(storage.last_transition_time.0, now);
    let word = if storage.reason == reason::VOLUME_FULL { "no room" } else { "little room" };
    let text = format!("{word} since {since} ({}): {}", storage.reason, storage.message);
    Some(Headline { tone: Tone::Bad, text, tells: Some(ConditionType::StorageHealthy) })
}

/// An upgrade under way, or halted: then somebody has to say how it goes on.
fn upgrade(status: &DatabaseStatus, now: jiff::Timestamp) -> Option<Headline> {
    let upgrade = status.upgrade.as_ref()?;
    let halted = condition(status, ConditionType::UpToDate)
        .is_some_and(|condition| condition.reason == reason::ROLLOUT_HALTED);
    let (tone, word) = if halted { (Tone::Bad, "began") } else { (Tone::Warning, "is under way since") };
    let since = upgrade.started_at.as_ref().map(|began| format!(" {word} {}", output::age(began.0, now)));
    let since = since.map(|since| if halted { format!("{since} ago") } else { since }).unwrap_or_default();
    let what = upgrade.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    let text = format!("the upgrade from {} to {}{since}{what}", upgrade.from, upgrade.to);
    Some(Headline { tone, text, tells: Some(ConditionType::UpToDate) })
}

fn under_way(operation: &Operation, now: jiff::Timestamp) -> Option<Headline> {
    let word = match operation.phase {
        OperationPhase::Accepted => "waits",
        OperationPhase::Running => "is under way",
        OperationPhase::Succeeded | OperationPhase::Rejected | OperationPhase::Failed => return None,
    };
    let since = operation.started_at.as_ref().map(|began| format!(" since {}", output::age(began.0, now)));
    let what = operation.message.as_ref().map(|message| format!(": {message}"));
    let text = format!(
        "a {} {word}{} ({}){}",
        operation.kind,
        since.unwrap_or_default(),
        operation.id,
        what.unwrap_or_default()
    );
    Some(line(Tone::Warning, text))
}

/// A cordoned node is about to be drained.
fn cordoned(database: &Database, status: &DatabaseStatus) -> Option<Headline> {
    let on = status.instances.iter().filter(|instance| instance.node_cordoned);
    let names: Vec<String> = on
        .map(|instance| match instance.role.as_deref() {
            Some(ROLE_PRIMARY) => format!("{} (the primary)", instance.name),
            _ => instance.name.clone(),
        })
        .collect();
    let leads = names.iter().any(|name| name.ends_with(')'));
    let moves = if leads && database.spec.replicas > 1 {
        "; the primary's role moves to another node where somebody there is fit"
    } else {
        ""
    };
    (!names.is_empty())
        .then(|| line(Tone::Warning, format!("on a cordoned node: {}{moves}", names.join(", "))))
}

/// Data of before a restore in place, which takes room until somebody says that it is not needed.
fn kept(database: &Database, status: &DatabaseStatus) -> Option<Headline> {
    let mut ids: Vec<&str> =
        status.instances.iter().flat_map(|instance| &instance.kept).map(|kept| kept.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    let sizes: Vec<String> = status
        .instances
        .iter()
        .filter(|instance| !instance.kept.is_empty())
        .map(|instance| {
            let sizes: Option<Vec<i64>> = instance.kept.iter().map(|kept| kept.size_bytes).collect();
            let size = sizes.map(|sizes| format!(" {}", output::bytes(sizes.into_iter().sum())));
            format!("{}{}", instance.name, size.unwrap_or_default())
        })
        .collect();
    let name = database.metadata.name.as_deref().unwrap_or_default();
    (!ids.is_empty()).then(|| {
        let text = format!(
            "kept from before restore {}: {}; `dbctl restore {name} --discard-old` removes it",
            ids.join(" and "),
            sizes.join(", ")
        );
        line(Tone::Warning, text)
    })
}

fn last_failover(last: &Failover, now: jiff::Timestamp) -> Headline {
    let Failover { from, to, reason, .. } = last;
    let at = last.writable_at.as_ref().or(last.started_at.as_ref());
    let when = at.map_or_else(String::new, |at| format!(" {} ago", output::age(at.0, now)));
    let from = from.as_ref().map_or_else(String::new, |from| format!("{from} → "));
    let down = last.duration_seconds.map(|seconds| format!(", writes down for {}", output::seconds(seconds)));
    line(Tone::Plain, format!("last failover{when}: {from}{to} ({reason}){}", down.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(status: Value) -> String {
        let database: Database = serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": { "name": "db" },
            "spec": { "replicas": 3, "version": "18.6", "storage": { "size": "1Gi" } }, "status": status,
        }))
        .unwrap();
        let now = "2026-11-22T10:00:12Z".parse().unwrap();
        let lines = lines(&database, database.status.as_ref().unwrap(), now);
        lines.iter().map(|line| format!("{:?}: {}", line.tone, line.text)).collect::<Vec<_>>().join("\n")
    }

    fn conditions(writable: (&str, &str, &str), ready: (&str, &str, &str)) -> Value {
        let of = |kind: &str, (status, reason, message): (&str, &str, &str)| {
            json!({ "type": kind, "status": status,
            "reason": reason, "message": message, "lastTransitionTime": "2026-11-22T10:00:02Z" })
        };
        json!([of("Ready", ready), of("Writable", writable)])
    }

    const WRITABLE: (&str, &str, &str) = ("True", "PrimaryAcceptsWrites", "db-0 accepts writes");
    const READY: (&str, &str, &str) = ("True", "AllMembersReady", "all is well");

    #[test]
    fn each_sickness_is_one_line() {
        let silent = ("False", "PrimarySuspect", "db-0 holds the leader lock but does not answer");
        let outage =
            json!({ "from": "db-0", "reason": "PrimarySilent", "startedAt": "2026-11-22T10:00:00Z" });
        insta::assert_snapshot!(of(json!({ "phase": "FailingOver", "outage": outage, "conditions": conditions(silent, silent) })), @"Bad: nobody can write since 12s (PrimarySilent, was db-0): db-0 holds the leader lock but does not answer");
        insta::assert_snapshot!(of(json!({ "phase": "Degraded", "conditions": conditions(silent, silent) })), @"Bad: nobody can write since 10s (PrimarySuspect): db-0 holds the leader lock but does not answer");
        let degraded = ("False", "SyncDegraded", "no replica confirms commits: they exist on db-0 alone");
        insta::assert_snapshot!(of(json!({ "phase": "Degraded", "conditions": conditions(WRITABLE, degraded) })), @"Bad: writes work, but not all is well since 10s (SyncDegraded): no replica confirms commits: they exist on db-0 alone");
        let mut full = conditions(WRITABLE, READY);
        full[0] = json!({ "type": "StorageHealthy", "status": "False", "reason": "VolumeFull",
            "message": "hardly any room is left on the volume of db-0", "lastTransitionTime": "2026-11-22T10:00:02Z" });
        insta::assert_snapshot!(of(json!({ "phase": "Running", "conditions": full })), @"Bad: no room since 10s (VolumeFull): hardly any room is left on the volume of db-0");
        assert_eq!(of(json!({ "phase": "Running", "conditions": conditions(WRITABLE, READY) })), "");
        assert_eq!(of(json!({ "phase": "Creating", "conditions": conditions(silent, silent) })), "");
        assert_eq!(of(json!({})), "");
    }

    #[test]
    fn an_upgrade_says_what_it_is_at() {
        let upgrade = json!({ "from": "16.13", "to": "16.15", "step": "Replica", "pod": "db-2",
            "message": "replacing db-2, which is a replica", "startedAt": "2026-11-22T09:59:12Z" });
        let text = of(
            json!({ "phase": "Upgrading", "conditions": conditions(WRITABLE, READY), "upgrade": upgrade }),
        );
        assert_eq!(
            text,
            "Warning: the upgrade from 16.13 to 16.15 is under way since 60s: replacing db-2, which is a replica"
        );
        let mut halted = conditions(WRITABLE, READY);
        halted[0] = json!({ "type": "UpToDate", "status": "False", "reason": "RolloutHalted", "message": "m",
            "lastTransitionTime": "2026-11-22T10:00:02Z" });
        let text = of(json!({ "phase": "Degraded", "conditions": halted, "upgrade": upgrade }));
        assert!(text.starts_with("Bad: the upgrade from 16.13 to 16.15 began 60s ago: "), "{text}");
    }

    #[test]
    fn what_is_going_on_follows() {
        let running = json!({ "id": "01ARZ", "kind": "failover", "phase": "Running", "startedAt": "2026-11-22T10:00:09Z",
            "message": "the primary's role moves from db-0 to db-1" });
        let done = json!({ "id": "01AAA", "kind": "restart", "phase": "Succeeded" });
        let last = json!({ "from": "db-2", "to": "db-0", "reason": "PrimaryDied", "startedAt": "2026-11-22T08:00:00Z",
            "writableAt": "2026-11-22T08:00:03Z", "durationSeconds": 2.61 });
        let instances =
            json!([{ "name": "db-0", "role": "primary", "nodeCordoned": true }, { "name": "db-1" }]);
        insta::assert_snapshot!(of(json!({ "phase": "Running", "conditions": conditions(WRITABLE, READY),
            "operations": [running, done], "lastFailover": last, "instances": instances })), @"
        Warning: a failover is under way since 3s (01ARZ): the primary's role moves from db-0 to db-1
        Warning: on a cordoned node: db-0 (the primary); the primary's role moves to another node where somebody there is fit
        Plain: last failover 120m ago: db-2 → db-0 (PrimaryDied), writes down for 2.6 s
        ");
    }
}
