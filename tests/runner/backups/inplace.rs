//! Restores in place, on real PostgreSQL: exactly what was committed by the target, on every member, and a way back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::cluster::{
    Contents, NAME, archived_up_to_now, back_up, create, data_directories, directory, names,
};
use super::wal::Place;
use crate::journeys::ready_with;
use crate::support::{Sandbox, eventually};

/// An instant that is later than all that was committed, and earlier than what comes.
fn now(sandbox: &Sandbox) -> String {
    let sql = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') from pg_sleep(0.01)";
    sandbox.sql(NAME, sql)
}

fn rows(sandbox: &Sandbox) -> String {
    sandbox.sql(NAME, "select string_agg(n::text, ' ' order by n) from t")
}

/// What each member's volume keeps, by its name.
fn kept(sandbox: &Sandbox) -> Vec<BTreeSet<String>> {
    let volumes: Vec<PathBuf> =
        data_directories(sandbox).iter().map(|data| data.parent().unwrap().to_owned()).collect();
    let old = |volume: &PathBuf| names(volume).into_iter().filter(|name| name.contains(".before-")).collect();
    volumes.iter().map(old).collect()
}

fn operation(sandbox: &Sandbox, kind: &str) -> Value {
    let database = sandbox.database(NAME);
    let operations = database["status"]["operations"].as_array().cloned().unwrap_or_default();
    operations.into_iter().find(|operation| operation["kind"] == kind).unwrap_or_default()
}

fn goes_back(version: &str) {
    let store = directory();
    let sandbox = Sandbox::own();
    let place = Place::directory(store.path());
    create(&sandbox, "3", &place.url, &["--version", version]);
    sandbox.sql(NAME, "create table t (n int); insert into t values (1)");
    let early = now(&sandbox);
    back_up(&sandbox);
    sandbox.sql(NAME, "insert into t values (2)");
    let target = now(&sandbox);
    sandbox.sql(NAME, "insert into t values (3); create table late (n int)");
    archived_up_to_now(&sandbox, &place);
    let restore = |more: &[&str]| sandbox.run(&[&["restore", NAME], more].concat());

    // What cannot be is said before anything is stopped.
    let before = restore(&["--in-place", "--to-time", &early, "--yes"]);
    assert_eq!(before.code, 5, "{}", before.transcript());
    assert!(before.stderr.contains("it can be restored to any time from"), "{}", before.transcript());
    let shown = restore(&["--in-place", "--to-time", &target, "--dry-run"]).ok();
    assert!(shown.stdout.contains("stops:   3 members"), "{}", shown.transcript());
    let unasked = restore(&["--in-place", "--to-time", &target]);
    assert_eq!(unasked.code, 2, "{}", unasked.transcript());
    for (args, code) in [(&["--undo", "--yes", "--wait"][..], 5), (&["--discard-old", "--yes"], 5)] {
        assert_eq!(restore(args).code, code, "{args:?}");
    }
    assert_eq!(rows(&sandbox), "0 1 2 3");

    let done = restore(&["--in-place", "--to-time", &target, "--yes", "--wait", "--timeout", "5m"]).ok();
    assert!(done.stderr.contains("its last transaction is of "), "{}", done.transcript());
    assert_eq!(rows(&sandbox), "1 2");
    assert_eq!(sandbox.sql(NAME, "select to_regclass('late') is null"), "t");
    let id = operation(&sandbox, "restore")["id"].as_str().unwrap().to_owned();
    assert!(done.stderr.contains(&format!("pgdata.before-{id}")), "{}", done.transcript());
    let database = ready_with(&sandbox, NAME, 3);
    assert_eq!(sandbox.sql(NAME, "select count(*) from pg_stat_replication"), "2");
    let replica = sandbox.run(&["connect", NAME, "--replica", "--", "-XAtqc", "select count(*) from t"]).ok();
    assert_eq!(replica.stdout.trim(), "2");
    // Nobody was rewound: each has what it had, whole.
    assert_eq!(kept(&sandbox), vec![BTreeSet::from([format!("pgdata.before-{id}")]); 3]);
    for data in data_directories(&sandbox) {
        let old = data.with_file_name(format!("pgdata.before-{id}"));
        assert!(
            old.join("PG_VERSION").exists() && old.join("global/pg_control").exists(),
            "{}",
            old.display()
        );
    }
    assert_eq!(database["status"]["instances"][2]["kept"][0]["id"], id.as_str());
    let status = sandbox.run(&["status", NAME]).ok().stdout;
    assert!(status.contains(&format!("kept from before restore {id}: db-0")), "{status}");

    // The archive goes on, on a timeline of its own, and through a change of primary.
    eventually("the backup at the end of the restore is there", || match Contents::of(&place).good() {
        good if good.len() == 2 => Ok(()),
        good => Err(format!("{good:?}")),
    });
    sandbox.sql(NAME, "insert into t values (4)");
    sandbox.run(&["failover", NAME, "--yes", "--wait"]).ok();
    ready_with(&sandbox, NAME, 3);
    sandbox.sql(NAME, "insert into t values (5)");
    archived_up_to_now(&sandbox, &place);
    assert_eq!(Contents::of(&place).conflicts(), []);
    // What was committed behind the last segment is not in the archive yet.
    let copy = ["restore", "copy", "--from", NAME, "--replicas", "1", "--wait", "--timeout", "5m"];
    sandbox.run(&copy).ok();
    assert_eq!(sandbox.sql("copy", "select string_agg(n::text, ' ' order by n) from t"), "1 2 4 5");
    sandbox.run(&["delete", "copy", "--yes", "--deletion-policy", "delete"]).ok();

    let shown = restore(&["--discard-old", "--yes", "--wait"]).ok();
    assert!(
        shown.stderr.contains(&format!("db-2: data from before restore {id}, ")),
        "{}",
        shown.transcript()
    );
    assert_eq!(kept(&sandbox), vec![BTreeSet::new(); 3]);
    assert_eq!(rows(&sandbox), "0 1 2 4 5");
}

#[test]
fn postgres_16_goes_back_in_place() {
    goes_back("16.15");
}

/// `cargo test --test runner -- --ignored goes_back_in_place`
#[test]
#[ignore = "long: the same on another release"]
fn postgres_17_goes_back_in_place() {
    goes_back("17.11");
}

#[test]
#[ignore = "long: the same on another release"]
fn postgres_18_goes_back_in_place() {
    goes_back("18.6");
}

/// The parts are processes, of which the controller is killed again and again.
#[test]
fn a_restore_in_place_comes_to_its_end_whoever_goes_on_with_it_and_a_failed_one_is_undone() {
    let store = directory();
    let mut sandbox = Sandbox::apart();
    let place = Place::directory(store.path());
    create(&sandbox, "2", &place.url, &[]);
    sandbox.sql(NAME, "create table t (n int); insert into t values (1)");
    back_up(&sandbox);
    sandbox.sql(NAME, "insert into t values (2)");
    let target = now(&sandbox);
    sandbox.sql(NAME, "insert into t values (3)");
    archived_up_to_now(&sandbox, &place);

    // Only recovery can tell that there is no such point: by then the old data has been moved.
    let failed = sandbox.run(&["restore", NAME, "--in-place", "--to-name", "nowhere", "--yes", "--wait"]);
    assert_eq!(failed.code, 1, "{}", failed.transcript());
    assert!(failed.stderr.contains("recovery ended before"), "{}", failed.transcript());
    assert!(failed.stderr.contains("`dbctl restore db --undo` puts it back"), "{}", failed.transcript());
    assert_eq!(sandbox.database(NAME)["status"]["phase"], "Failed");
    sandbox.run(&["restore", NAME, "--undo", "--yes", "--wait", "--timeout", "5m"]).ok();
    ready_with(&sandbox, NAME, 2);
    assert_eq!(rows(&sandbox), "0 1 2 3");
    assert_eq!(kept(&sandbox), vec![BTreeSet::new(); 2]);
    sandbox.sql(NAME, "insert into t values (9)");

    sandbox.run(&["restore", NAME, "--in-place", "--to-time", &target, "--yes"]).ok();
    let mut replaced = 0;
    let done = eventually("the restore is over", || {
        sandbox.replace_controller();
        replaced += 1;
        // Long enough for some passes, and short enough to be in the midst of most steps once.
        std::thread::sleep(Duration::from_millis(1200 + 700 * (replaced % 4)));
        let operation = operation(&sandbox, "restore");
        match operation["phase"].as_str() {
            Some("Running" | "Accepted") => Err(operation.to_string()),
            _ => Ok(operation),
        }
    });
    assert_eq!(done["phase"], "Succeeded", "{done}");
    assert!(replaced > 3, "{replaced}");
    ready_with(&sandbox, NAME, 2);
    assert_eq!(rows(&sandbox), "1 2");
    let id = done["id"].as_str().unwrap();
    assert_eq!(kept(&sandbox), vec![BTreeSet::from([format!("pgdata.before-{id}")]); 2]);
}
