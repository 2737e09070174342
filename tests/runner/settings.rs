//! Settings that need a restart, and then another release, of a database with backups and under write load.

use dbctl::api::Database;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::backups::cluster::{Contents, NAME, directory};
use crate::backups::wal::Place;
use crate::external::runtime;
use crate::proof::load::Load;
use crate::support::{Sandbox, eventually};

/// Changes settings as an editor of the object does, and waits until every server has them.
fn set(sandbox: &Sandbox, load: &Load, settings: &[(&str, &str)]) {
    let parameters: serde_json::Map<_, _> =
        settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let began = load.now();
    runtime().block_on(async {
        let databases: Api<Database> = Api::default_namespaced(sandbox.client().await);
        let spec = json!({ "spec": { "parameters": parameters } });
        databases.patch(NAME, &PatchParams::default(), &Patch::Merge(spec)).await.unwrap();
    });
    let waits = "select count(*) from pg_settings where pending_restart";
    eventually("every server has the settings", || {
        let status = sandbox.database(NAME)["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let holds = |kind: &str| {
            conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
        };
        let has = |(name, value): &(&str, &str)| sandbox.sql(NAME, &format!("show {name}")) == *value;
        let done = holds("Ready") && holds("UpToDate") && settings.iter().all(has);
        if done && sandbox.sql(NAME, waits) == "0" { Ok(()) } else { Err(status.to_string()) }
    });
    let gap = load.longest_gap(began, load.now());
    let took = load.now() - began;
    println!("{settings:?}: the longest gap in {:.0} s was {:.3} s", took.as_secs_f64(), gap.as_secs_f64());
}

#[test]
#[ignore = "long: a server rests a minute between restarts"]
fn settings_and_an_upgrade_reach_a_database_with_backups_and_lose_nothing() {
    // It outlives the sandbox, whose last WAL is archived when it stops.
    let store = directory();
    let place = Place::directory(store.path());
    let sandbox = Sandbox::own();
    let schedule = ["--backup-to", &place.url, "--backup-schedule", "0 0 29 2 *"];
    let create = ["create", NAME, "--replicas", "2", "--version", "16.13", "--storage", "1Gi", "--wait"];
    sandbox.run(&[&create[..], &schedule].concat()).ok();
    let load = Load::start(&sandbox, NAME, 2);
    // A standby must have as many as its primary: raised there first, and lowered on the primary first.
    set(&sandbox, &load, &[("max_connections", "150"), ("work_mem", "5MB")]);
    set(&sandbox, &load, &[("max_connections", "80"), ("work_mem", "6MB")]);
    assert_eq!(Contents::of(&place).good(), Vec::<String>::new());
    let began = load.now();
    sandbox.run(&["upgrade", NAME, "--to", "16.15", "--yes", "--wait"]).ok();
    println!("upgrade: the longest gap was {:.3} s", load.longest_gap(began, load.now()).as_secs_f64());
    assert_eq!(sandbox.sql(NAME, "show server_version"), "16.15");
    // It was taken before any member got the other release.
    let contents = Contents::of(&place);
    assert_eq!(contents.good().len(), 1);
    assert_eq!(contents.backups[0].good().unwrap().version, "16.13");
    let (rows, lost, doubles) = load.end();
    println!("{rows} rows acknowledged, {lost} lost, {doubles} times two primaries");
    assert!(rows > 100, "nobody wrote");
    assert_eq!((lost, doubles), (0, 0));
}
