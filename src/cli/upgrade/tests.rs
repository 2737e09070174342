use super::super::failover::preview::tests::{database, healthy};
use super::follow::{Verdict, summary, verdict};
use super::*;
use crate::plan::{Kind, Observed, assess};
use serde_json::{Value, json};

fn version(text: &str) -> PgVersion {
    text.parse().unwrap()
}

fn at(text: &str) -> jiff::Timestamp {
    text.parse().unwrap()
}

fn of(observed: &Observed) -> Assessment {
    assess("db", observed, at("2026-11-22T10:00:07Z"))
}

/// Three members, with that status.
fn with(spec: Value, status: Value) -> Database {
    let mut whole = serde_json::to_value(database()).unwrap();
    json_patch::merge(&mut whole, &json!({ "spec": spec, "status": status }));
    serde_json::from_value(whole).unwrap()
}

fn render(database: &Database, assessment: &Assessment) -> String {
    let now = at("2026-11-22T10:00:07Z");
    Order::new(database, assessment, version("16.13"), version("16.15"), now).render(database, "shop")
}

#[test]
fn each_step_says_what_it_means_for_sessions() {
    let (assessment, mut observed) = healthy();
    insta::assert_snapshot!(render(&with(json!({}), json!({})), &assessment), @r#"
    Upgrade of database "db" in namespace "shop" from PostgreSQL 16.13 to 16.15:
      1. db-2, a replica, restarts with 16.15: sessions on it end, writes go on; commits wait for
         the others
      2. db-1, a replica, restarts with 16.15: sessions on it end, writes go on; commits wait for
         the others
      3. the primary's role moves from db-0 to db-1, as it stands: sessions on db-0 end, and writes
         are down for about a second
      4. db-0, a replica by then, restarts with 16.15: writes go on
      each member must run 16.15, stream without lag, be listed as a synchronous standby and
      stay well for 10 s before the next one is touched; one that does not within 10 minutes, or
      whose container keeps ending, gets 16.13 back, and nothing else is touched until --resume
      or --abort
    "#);
    let backup = json!({ "backup": { "enabled": true, "schedule": "@daily", "destination": "s3://b/p" } });
    let taken = with(backup.clone(), json!({ "lastBackupTime": "2026-11-22T09:30:00Z" }));
    assert!(!render(&taken, &assessment).contains("base backup"));
    let half = json!({ "instances": [{ "name": "db-2", "version": "16.15" }], "lastBackupTime": "2026-11-21T09:30:00Z" });
    insta::assert_snapshot!(render(&with(backup, half), &assessment), @r#"
    Upgrade of database "db" in namespace "shop" from PostgreSQL 16.13 to 16.15:
      1. a base backup is taken to s3://b/p; sessions go on
      2. db-1, a replica, restarts with 16.15: sessions on it end, writes go on; commits wait for
         the others
      3. the primary's role moves from db-0 to db-1, as it stands: sessions on db-0 end, and writes
         are down for about a second
      4. db-0, a replica by then, restarts with 16.15: writes go on
      each member must run 16.15, stream without lag, be listed as a synchronous standby and
      stay well for 10 s before the next one is touched; one that does not within 10 minutes, or
      whose container keeps ending, gets 16.13 back, and nothing else is touched until --resume
      or --abort
    "#);
    observed.remove(Kind::Pod, "db-2");
    insta::assert_snapshot!(render(&with(json!({ "replicas": 2 }), json!({})), &of(&observed)), @r#"
    Upgrade of database "db" in namespace "shop" from PostgreSQL 16.13 to 16.15:
      1. db-1, a replica, restarts with 16.15: sessions on it end, writes go on; meanwhile commits
         are on the primary alone (SyncDegraded)
      2. the primary's role moves from db-0 to db-1, as it stands: sessions on db-0 end, and writes
         are down for about a second
      3. db-0, a replica by then, restarts with 16.15: writes go on; meanwhile commits are on the
         primary alone
      each member must run 16.15, stream without lag, be listed as a synchronous standby and
      stay well for 10 s before the next one is touched; one that does not within 10 minutes, or
      whose container keeps ending, gets 16.13 back, and nothing else is touched until --resume
      or --abort
    "#);
    observed.remove(Kind::Pod, "db-1");
    insta::assert_snapshot!(render(&with(json!({ "replicas": 1 }), json!({})), &of(&observed)), @r#"
    Upgrade of database "db" in namespace "shop" from PostgreSQL 16.13 to 16.15:
      1. db-0, the only member, restarts with 16.15: all sessions end, and nobody can read or write
         until it runs again
      each member must run 16.15, stream without lag, be listed as a synchronous standby and
      stay well for 10 s before the next one is touched; one that does not within 10 minutes, or
      whose container keeps ending, gets 16.13 back, and nothing else is touched until --resume
      or --abort
    "#);
}

#[test]
fn what_is_unsafe_is_refused_with_the_next_step() {
    let (assessment, mut observed) = healthy();
    let refuse = |status: Value, assessment: &Assessment, to: &str| {
        let database = with(json!({}), status);
        let refusal = refusal(&database, assessment, version("16.13"), version(to))?;
        let error = refusal.into_error(&Context::plain(), "db", "upgrade database \"db\"");
        assert_eq!(error.outcome.code(), 5);
        // The program's name is the test's.
        let hints: Vec<String> =
            error.hints.iter().map(|hint| hint.replace(&Context::plain().invocation(), "dbctl")).collect();
        Some(format!("{}\n{}", error.message, hints.join("\n")))
    };
    let under_way = json!({ "upgrade": { "from": "16.13", "to": "16.14", "step": "Replica" } });
    let mut halted = under_way.clone();
    halted["conditions"] = json!([{ "type": "UpToDate", "status": "False", "reason": "RolloutHalted", "message": "",
        "lastTransitionTime": "2026-11-22T10:00:02Z" }]);
    let mut told = Vec::new();
    for (status, to) in [
        (json!({}), "18.6"),
        (json!({}), "15.19"),
        (json!({}), "17.11"),
        (under_way.clone(), "16.15"),
        (halted, "16.14"),
    ] {
        told.push(refuse(status, &assessment, to).unwrap());
    }
    assert_eq!(refuse(json!({}), &assessment, "16.15"), None);
    assert_eq!(refuse(under_way, &assessment, "16.14"), None, "it goes on, and is followed");
    observed.answers.get_mut("db-1").unwrap().replication_state = None;
    told.push(refuse(json!({}), &of(&observed), "16.15").unwrap());
    let pod = observed.remove(Kind::Pod, "db-1").unwrap();
    told.push(refuse(json!({}), &of(&observed), "16.15").unwrap());
    observed.insert(Kind::Pod, pod);
    observed.answers.get_mut("db-0").unwrap().state = "stopped".into();
    told.push(refuse(json!({}), &of(&observed), "16.15").unwrap());
    insta::assert_snapshot!(told.join("\n\n"), @r#"
    failed to upgrade database "db": from 16.13 to 18.6 is more than one major release; go through 17 and 18, one at a time
    first: dbctl upgrade db --to 17.MINOR --major

    failed to upgrade database "db": it runs 16.13, and PostgreSQL 15 cannot read its data
    a backup of the older release becomes a new database: dbctl restore NEW --from db --backup ID

    failed to upgrade database "db": from 16.13 to 17.11 the data's format changes, which needs --major and is down for a while
    to do it: dbctl upgrade db --to 17.11 --major

    failed to upgrade database "db": an upgrade to 16.14 is under way
    take it back: dbctl upgrade db --abort
    see how it is: dbctl status db

    failed to upgrade database "db": an upgrade to 16.14 has halted
    take it back: dbctl upgrade db --abort
    try again: dbctl upgrade db --resume

    failed to upgrade database "db": every member must be well before it begins, and db-1 is not streaming from the primary
    see dbctl logs db --member db-1
    see how it is: dbctl status db

    failed to upgrade database "db": every member must be well before it begins, and db-1 has no pod
    see dbctl logs db --member db-1
    see how it is: dbctl status db

    failed to upgrade database "db": no primary is running (db-0 is stopped)
    see how it is: dbctl status db
    "#);
}

#[test]
fn only_a_whole_and_well_database_is_done() {
    let is = |status: Value| verdict(&with(json!({ "version": "16.15" }), status), Some(2), version("16.15"));
    let conditions = |up_to_date: (&str, &str), ready: &str| {
        let of = |kind: &str, status: &str, reason: &str| json!({ "type": kind, "status": status, "reason": reason, "message": "m", "lastTransitionTime": "2026-11-22T10:00:02Z" });
        json!([of("UpToDate", up_to_date.0, up_to_date.1), of("Ready", ready, "x")])
    };
    let good = conditions(("True", "PodsUpToDate"), "True");
    let base = json!({ "observedGeneration": 2, "version": "16.15", "conditions": good });
    let changed = |change: Value| {
        let mut status = base.clone();
        json_patch::merge(&mut status, &change);
        is(status)
    };
    assert_eq!(changed(json!({})), Verdict::Done);
    for not_yet in [
        json!({ "observedGeneration": 1 }),
        json!({ "version": "16.13" }),
        json!({ "upgrade": { "from": "16.13", "to": "16.15", "step": "Replica" } }),
        json!({ "conditions": conditions(("False", "PodsOutdated"), "True") }),
        json!({ "conditions": conditions(("True", "PodsUpToDate"), "False") }),
    ] {
        assert_eq!(changed(not_yet.clone()), Verdict::NotYet, "{not_yet}");
    }
    let halted = changed(json!({ "conditions": conditions(("False", "RolloutHalted"), "True") }));
    assert_eq!(halted, Verdict::Halted("m".into()));
}

#[test]
fn the_summary_tells_the_longest_gap_of_this_upgrade() {
    let moved = |at: &str, seconds: f64| json!({ "to": "db-1", "reason": "RollingUpdate", "startedAt": at, "durationSeconds": seconds });
    let failovers = json!([
        moved("2026-11-22T10:00:20Z", 0.6),
        moved("2026-11-22T10:00:10Z", 1.2),
        moved("2026-11-22T09:00:00Z", 9.0)
    ]);
    let database = with(json!({}), json!({ "failovers": failovers }));
    let since = at("2026-11-22T10:00:00Z");
    let text = summary(&database, version("16.15"), std::time::Duration::from_millis(83_400), since);
    insta::assert_snapshot!(text, @r#"database "db": all of 3 members run PostgreSQL 16.15, after 1m 23s; writes were down for 1.2 s while the role moved"#);
}
