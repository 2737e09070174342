//! One destination, one database: any other is refused there before it writes anything, a clone of the owner too.

use dbctl::api::Database;
use dbctl::backup::store::Object;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::bucket::{age, put_secret};
use super::cluster::{NAME, archived_up_to_now, as_superuser_of, back_up, create};
use super::wal::{Place, Wal};
use crate::external::runtime;
use crate::stores::{FaultProxy, Key, Moto, S3sFs};
use crate::support::{Sandbox, eventually};

/// What the refusals say.
const WORDS: &str = "is the archive of";

/// All that is there: keys, sizes and the times of their last writing.
fn contents(place: &Place) -> Vec<Object> {
    let mut all = runtime().block_on(place.open().list("")).unwrap();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

#[test]
fn wal_of_another_database_and_of_a_clone_is_refused_before_anything_is_written() {
    let (wal, other, moto) = (Wal::of(2), Wal::of(1), Moto::start());
    let place = Place::s3(&moto.url(), &moto.key(), "owned");
    let (first, second) = (wal.segments[0].as_str(), wal.segments[1].as_str());
    assert_eq!(place.push(&wal.data(), first).code, 0);
    let before = contents(&place);
    // The same cluster by its system identifier: a clone. It may push nothing, not even what is there already.
    for (data, file) in
        [(wal.data(), second), (wal.data(), first), (other.data(), other.segments[0].as_str())]
    {
        let answer = place.push_as("a-clone", &data, file);
        assert!(answer.code == 1 && answer.stderr.contains(WORDS), "{}", answer.transcript());
    }
    assert_eq!(contents(&place), before);
    assert_eq!(place.push(&wal.data(), second).code, 0);
    assert_ne!(contents(&place), before);
}

/// Makes a Database as somebody does who does not look.
fn make(sandbox: &Sandbox, name: &str, spec: &Value) {
    let object = json!({ "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
        "metadata": { "name": name }, "spec": spec });
    let object: Database = serde_json::from_value(object).unwrap();
    runtime().block_on(async {
        let databases = Api::default_namespaced(sandbox.client().await);
        databases.create(&PostParams::default(), &object).await.unwrap();
    });
}

#[test]
fn a_second_database_and_a_clone_write_nothing_where_anothers_backups_are() {
    let moto = Moto::start();
    let sandbox = Sandbox::own();
    sandbox.start();
    put_secret(&sandbox, &moto.url(), &moto.key());
    let (url, secret) = ("s3://backups/one", ["--backup-credentials", "bucket"]);
    create(&sandbox, "1", url, &secret);
    sandbox.sql(NAME, "create table t (n int)");
    back_up(&sandbox);
    let place = Place::s3(&moto.url(), &moto.key(), "one");
    archived_up_to_now(&sandbox, &place);
    // The owner itself writes no more.
    sandbox.run(&["sandbox", "fault", "pod", "db-0", "--freeze", "--only", "archive"]).ok();
    let before = contents(&place);
    assert!(before.len() > 5, "{before:?}");

    // On the command line.
    let small = ["--replicas", "1", "--storage", "1Gi"];
    let thief = sandbox.run(&[&["create", "thief", "--backup-to", url][..], &secret, &small].concat());
    assert!(thief.code == 5 && thief.stderr.contains(WORDS), "{}", thief.transcript());
    let clone =
        sandbox.run(&[&["restore", "clone", "--from", NAME, "--backup-to", url][..], &small].concat());
    assert!(clone.code == 2 && clone.stderr.contains("cannot go where"), "{}", clone.transcript());

    // By objects, and by a change of one that runs.
    let mut spec = sandbox.database(NAME)["spec"].clone();
    make(&sandbox, "thief", &spec);
    spec["restoreFrom"] = json!({ "destination": url });
    make(&sandbox, "clone", &spec);
    let elsewhere = ["create", "other", "--wait", "--backup-to", "s3://backups/other"];
    sandbox.run(&[&elsewhere[..], &secret, &small].concat()).ok();
    runtime().block_on(async {
        let databases: Api<Database> = Api::default_namespaced(sandbox.client().await);
        let backup = json!({ "spec": { "backup": { "destination": url } } });
        databases.patch("other", &PatchParams::default(), &Patch::Merge(backup)).await.unwrap();
    });
    for (name, words) in [("thief", WORDS), ("clone", "two databases must never write to one")] {
        eventually(&format!("{name} is refused"), || {
            let status = sandbox.run(&["status", name]).stdout;
            if status.contains(words) { Ok(()) } else { Err(status) }
        });
    }
    let answer = sandbox.run(&["backup-now", "other", "--wait"]);
    assert!(answer.code != 0 && answer.stderr.contains(WORDS), "{}", answer.transcript());
    as_superuser_of(&sandbox, "other", "create table t (n int); select pg_switch_wal()");
    eventually("its WAL is refused", || {
        age(&sandbox);
        let status = sandbox.run(&["status", "other"]).stdout;
        if status.contains("ArchivingFailing") && status.contains(WORDS) { Ok(()) } else { Err(status) }
    });
    assert_eq!(contents(&place), before);
}

/// `selftest` says what a store can do, without leaving anything there; that conditions are ignored is no reason to refuse it.
#[test]
fn a_destination_is_tried_and_told_of() {
    let (s3s, moto) = (S3sFs::start(), Moto::start());
    let hostile = FaultProxy::before(s3s.address());
    hostile.ignore_conditions(s3s.key());
    let plain = Place::s3(&moto.url(), &moto.key(), "probe-me");
    let good = plain.selftest();
    let all = good.stdout.lines().count() > 5 && good.stdout.lines().all(|line| line.ends_with(" yes"));
    assert!(good.code == 0 && all, "{}", good.transcript());
    let careless = Place::s3(&hostile.url(), &s3s.key(), "probe-me").selftest();
    let line = careless.stdout.lines().find(|line| line.contains("If-None-Match")).unwrap_or_default();
    assert!(careless.code == 0 && line.contains("no, and not needed"), "{}", careless.transcript());
    moto.deny(&["s3:PutObject"]);
    let denied = plain.selftest();
    assert!(denied.code == 3 && denied.stdout.contains("AccessDenied"), "{}", denied.transcript());
    moto.allow();
    let unknown = Place::s3(&moto.url(), &Key::new("AKIANOBODY", "x"), "probe-me").selftest();
    assert!(unknown.code == 3 && unknown.stdout.contains("InvalidAccessKeyId"), "{}", unknown.transcript());
    assert_eq!(contents(&plain), []);
}
