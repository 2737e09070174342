//! How long nobody can write with a gigabyte, beside `pg_upgrade --copy` of the same data by hand.

use std::time::{Duration, Instant};

use super::data::Bench;
use super::journey::{made, status, well};
use crate::support::{Sandbox, eventually};

/// About a gigabyte.
const FILL: &str =
    "create table big as select g as n, repeat(md5(g::text), 28) as text from generate_series(1, 1000000) g";

/// What is the least that has to be done by hand: stop the old server, make the new directory, pg_upgrade, start the new server.
fn by_hand(from: &str, to: &str) -> (Duration, Duration) {
    let bench = Bench::new(from, to);
    bench.start(&bench.old, "origin");
    bench.sql(&bench.old, FILL);
    bench.sql(&bench.old, "checkpoint");
    let begun = Instant::now();
    bench.stop(&bench.old, "origin");
    // 18 makes directories with checksums by itself, and 17 is told to.
    bench.ok(&bench.new, "initdb", &["-D", "made", "-U", "postgres", "-A", "trust", "--data-checksums"]);
    let directory = |image: &dbctl::sandbox::provision::Image| image.build.join("bin").display().to_string();
    let copied = Instant::now();
    bench.ok(
        &bench.new,
        "pg_upgrade",
        &[
            "-b",
            &directory(&bench.old),
            "-B",
            &directory(&bench.new),
            "-d",
            "origin",
            "-D",
            "made",
            "-U",
            "postgres",
            "--copy",
        ],
    );
    let copied = copied.elapsed();
    bench.start(&bench.new, "made");
    let took = begun.elapsed();
    assert_eq!(bench.sql(&bench.new, "select count(*) from big"), "1000000");
    bench.stop(&bench.new, "made");
    (took, copied)
}

/// The database's own word of it.
fn by_dbctl(from: &str, to: &str) -> String {
    let sandbox = Sandbox::new();
    made(&sandbox, from, "3");
    sandbox.sql("orders", FILL);
    // It is refused for as long as a replica is behind.
    let answer = eventually("it is upgraded", || {
        let answer = sandbox.run(&["upgrade", "orders", "--to", to, "--major", "--yes", "--wait"]);
        if answer.code == 5 { Err(answer.transcript()) } else { Ok(answer.ok()) }
    });
    well(&sandbox, to, 3);
    assert_eq!(sandbox.sql("orders", "select count(*) from big"), "1000000");
    assert_eq!(status(&sandbox)["version"], to);
    let line = answer.stderr.lines().find(|line| line.contains("writes were down for"));
    line.unwrap_or_else(|| panic!("{}", answer.transcript())).to_owned()
}

#[test]
#[ignore = "a measurement"]
fn downtime_with_a_gigabyte() {
    for (from, to) in [("16.15", "17.11"), ("17.11", "18.6")] {
        let (took, copied) = by_hand(from, to);
        println!(
            "{from} to {to} by hand: {:.1} s from stop to start, {:.1} s of it pg_upgrade --copy",
            took.as_secs_f64(),
            copied.as_secs_f64()
        );
        println!("{from} to {to}: {}", by_dbctl(from, to));
    }
}

/// The two ways that are not the usual one: files shared with the old data, and no backup.
#[test]
#[ignore = "a minute and more"]
fn with_links_and_without_backups() {
    let sandbox = Sandbox::new();
    let create = ["create", "orders", "--version", "16.15", "--replicas", "2", "--storage", "1Gi", "--wait"];
    sandbox.run(&create).ok();
    sandbox.sql("orders", "create table t as select md5(g::text) as text from generate_series(1, 5000) g");
    let args = ["upgrade", "orders", "--to", "17.11", "--major", "--link", "--without-backup"];
    let plan = sandbox.run(&[&args[..], &["--dry-run"]].concat()).ok();
    assert!(
        plan.stdout.contains("--link") && !plan.stdout.contains("backup is taken"),
        "{}",
        plan.transcript()
    );
    let answer = sandbox.run(&[&args[..], &["--yes", "--wait"]].concat()).ok();
    well(&sandbox, "17.11", 2);
    assert!(answer.stderr.contains("writes were down for"), "{}", answer.transcript());
    assert_eq!(sandbox.sql("orders", "select count(*), count(distinct text) from t"), "5000|5000");
    assert_eq!(status(&sandbox)["backups"].as_array().map_or(0, Vec::len), 0);
}
