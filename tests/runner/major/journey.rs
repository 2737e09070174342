//! Whole databases go to the next major version, and back.

use std::process::Command;
use std::time::Instant;

use dbctl::sandbox::provision::{Identity, Provisioner, Silent};

use crate::support::{Answer, Sandbox, cache, eventually};

const NAME: &str = "orders";

pub(super) fn made(sandbox: &Sandbox, version: &str, replicas: &str) {
    let backups = sandbox.home().join("archive");
    std::fs::create_dir_all(&backups).unwrap();
    Identity::of_pods().own(&backups).unwrap();
    let destination = format!("file://{}", backups.display());
    sandbox
        .run(&[
            "create",
            NAME,
            "--version",
            version,
            "--replicas",
            replicas,
            "--storage",
            "1Gi",
            "--backup-to",
            &destination,
            "--wait",
        ])
        .ok();
    sandbox.sql(NAME, "create table t (n serial primary key, text text)");
    sandbox.sql(NAME, "insert into t (text) select md5(g::text) from generate_series(1, 5000) g");
}

/// As the superuser, on the primary.
fn admin(sandbox: &Sandbox, sql: &str) -> String {
    let primary = sandbox.database(NAME)["status"]["primary"].as_str().unwrap().to_owned();
    let script =
        format!("psql -XAtq -h \"$SOCKET_DIRECTORY\" -U postgres -d app -v ON_ERROR_STOP=1 -c \"{sql}\"");
    let output = Command::new("kubectl")
        .env("KUBECONFIG", sandbox.kubeconfig())
        .args(["exec", &primary, "-c", "postgres", "--", "sh", "-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(super) fn status(sandbox: &Sandbox) -> serde_json::Value {
    sandbox.database(NAME)["status"].clone()
}

/// All members run that release and are well.
pub(super) fn well(sandbox: &Sandbox, version: &str, members: usize) {
    eventually("all members are well", || {
        let status = status(sandbox);
        let versions = status["instances"].as_array().cloned().unwrap_or_default();
        let all = versions.len() == members
            && versions.iter().all(|instance| instance["version"] == version)
            && status["phase"] == "Running"
            && status["upgrade"].is_null();
        if all { Ok(()) } else { Err(status.to_string()) }
    });
}

fn upgraded(answer: &Answer) {
    assert!(answer.stderr.contains("writes were down for"), "{}", answer.transcript());
    let line = answer.stderr.lines().find(|line| line.contains("writes were down for")).unwrap_or_default();
    eprintln!("{line}");
}

#[test]
fn a_database_goes_to_the_next_major_version_with_all_that_is_in_it() {
    for version in ["16.15", "17.11"] {
        Provisioner::new(cache()).ensure(&format!("dbctl/postgres:{version}"), &Silent).unwrap();
    }
    let sandbox = Sandbox::new();
    made(&sandbox, "16.15", "3");
    admin(&sandbox, "create extension pg_trgm");
    admin(&sandbox, "create role reader login password 'secret'; grant select on t to reader");
    admin(&sandbox, "select pg_create_physical_replication_slot('own')");

    let refused = sandbox.run(&["upgrade", NAME, "--to", "18.6", "--major", "--yes"]);
    assert!(refused.code != 0 && refused.stderr.contains("go through 17 and 18"), "{}", refused.transcript());
    let begun = Instant::now();
    let answer = sandbox.run(&["upgrade", NAME, "--to", "17.11", "--major", "--yes", "--wait"]).ok();
    eprintln!("all of it took {:?}", begun.elapsed());
    upgraded(&answer);
    well(&sandbox, "17.11", 3);

    assert_eq!(sandbox.sql(NAME, "select count(*), count(distinct text) from t"), "5000|5000");
    assert_eq!(sandbox.sql(NAME, "insert into t (text) values ('new') returning n"), "5001");
    assert!(admin(&sandbox, "show server_version").starts_with("17.11"));
    let kept = "select (select count(*) from pg_extension where extname = 'pg_trgm'), \
                (select count(*) from pg_authid where rolname = 'reader' and rolpassword like 'SCRAM%'), \
                (select count(*) > 0 from pg_stats where tablename = 't'), \
                (select count(*) from pg_stat_replication where state = 'streaming'), has_table_privilege('reader', 't', 'select')";
    assert_eq!(admin(&sandbox, kept), "1|1|t|2|t");
    // Backups of both releases are listed.
    let backups = status(&sandbox)["backups"].as_array().map(Vec::len);
    assert!(backups >= Some(2), "{backups:?}");
}

#[test]
#[ignore = "a minute and more"]
fn an_upgrade_that_is_aborted_leaves_every_row() {
    let sandbox = Sandbox::new();
    made(&sandbox, "16.15", "3");
    sandbox.run(&["upgrade", NAME, "--to", "17.11", "--major", "--yes"]).ok();
    eventually("the members stop", || {
        let upgrade = status(&sandbox)["upgrade"].clone();
        if ["Stopping", "Upgrading"].iter().any(|step| upgrade["step"] == *step) {
            Ok(())
        } else {
            Err(upgrade.to_string())
        }
    });
    sandbox.run(&["upgrade", NAME, "--major", "--abort", "--yes", "--wait"]).ok();
    well(&sandbox, "16.15", 3);
    assert_eq!(sandbox.sql(NAME, "select count(*), count(distinct text) from t"), "5000|5000");
    assert_eq!(sandbox.database(NAME)["spec"]["version"], "16.15");

    // And then it goes on after all, and once more.
    for to in ["17.11", "18.6"] {
        let answer = sandbox.run(&["upgrade", NAME, "--to", to, "--major", "--yes", "--wait"]).ok();
        upgraded(&answer);
        well(&sandbox, to, 3);
        assert_eq!(sandbox.sql(NAME, "select count(*), count(distinct text) from t"), "5000|5000");
    }
}
