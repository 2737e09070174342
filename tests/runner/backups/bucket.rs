//! Backups in a bucket whose credentials end, and are renewed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use dbctl::api::Names;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::Stops;
use super::cluster::{
    Contents, NAME, SIZE, archived_up_to_now, as_superuser, back_up, backups_are, create, data_directories,
    waiting,
};
use super::wal::Place;
use crate::external::runtime;
use crate::journeys::ready_with;
use crate::stores::{FaultProxy, Key, Moto, REGION, S3sFs};
use crate::support::{Sandbox, dbctl, eventually};

/// The Secret of the destination's credentials.
pub const SECRET: &str = "bucket";

/// Makes the Secret, or puts another key into it.
pub fn put_secret(sandbox: &Sandbox, url: &str, key: &Key) {
    put_settings(
        sandbox,
        &json!({
            "AWS_ENDPOINT_URL": url, "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret,
        }),
    );
}

/// The same with whatever a store needs.
pub fn put_settings(sandbox: &Sandbox, settings: &Value) {
    runtime().block_on(async {
        let secrets: Api<Secret> = Api::default_namespaced(sandbox.client().await);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": SECRET }, "stringData": settings,
        });
        let apply = PatchParams::apply("test").force();
        secrets.patch(SECRET, &apply, &Patch::Apply(secret)).await.unwrap();
    });
}

/// Each pod of the database: its uid, and how often its containers were started anew.
fn lives(sandbox: &Sandbox) -> BTreeMap<String, (String, i32)> {
    runtime().block_on(async {
        let pods: Api<Pod> = Api::default_namespaced(sandbox.client().await);
        let selector = Names(NAME).selector();
        let selector: Vec<_> = selector.iter().map(|(label, value)| format!("{label}={value}")).collect();
        let members = ListParams::default().labels(&selector.join(","));
        let life = |pod: Pod| {
            let states = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let restarts = states.map(|state| state.restart_count).sum();
            (pod.name_any(), (pod.uid().unwrap(), restarts))
        };
        pods.list(&members).await.unwrap().into_iter().map(life).collect()
    })
}

/// Writes a row at a time until it is told to stop; counts those that were acknowledged.
fn write_until_told(sandbox: &Sandbox, acknowledged: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let number = acknowledged.load(Ordering::Relaxed) + 1;
        sandbox.sql(NAME, &format!("insert into t values ({number})"));
        acknowledged.store(number, Ordering::Relaxed);
    }
}

/// The lines of a second controller's metrics that hold the word.
fn metrics(sandbox: &Sandbox, word: &str) -> Vec<String> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = dbctl(sandbox.home());
    command.arg("--kubeconfig").arg(sandbox.kubeconfig()).args(["controller", "--metrics-insecure"]);
    let mut controller =
        command.arg(format!("--metrics-address={port}")).stderr(Stdio::null()).spawn().unwrap();
    let found = eventually("the metrics tell", || {
        let text =
            runtime().block_on(async { reqwest::get(format!("http://{port}/metrics")).await?.text().await });
        let text = text.map_err(|error| error.to_string())?;
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with(word)).map(str::to_owned).collect();
        if lines.is_empty() { Err(text) } else { Ok(lines) }
    });
    controller.kill().unwrap();
    controller.wait().unwrap();
    found
}

/// Waits until so many pods that have the Secret mounted have this key.
fn mounted(sandbox: &Sandbox, key: &Key, pods: usize) {
    eventually("the pods have the key", || {
        let volumes =
            fs::read_dir(sandbox.home().join("sandbox/pods")).unwrap().map(|pod| pod.unwrap().path());
        let read = |pod: std::path::PathBuf| {
            fs::read_to_string(pod.join("volumes/backup-credentials/AWS_ACCESS_KEY_ID")).ok()
        };
        let keys: Vec<String> = volumes.filter_map(read).collect();
        let right = keys.iter().filter(|id| **id == key.id).count();
        if right >= pods { Ok(()) } else { Err(format!("{keys:?}")) }
    });
}

/// Waits for an event with these words: it comes after the condition.
fn told_of(sandbox: &Sandbox, words: &[&str]) {
    eventually("an event tells", || {
        let events = sandbox.run(&["events", NAME]).ok();
        let tells = |line: &str| words.iter().all(|word| line.contains(word));
        if events.stdout.lines().any(tells) { Ok(()) } else { Err(events.transcript()) }
    });
}

/// Dates what waits to be archived back, so that nobody has to wait for as long as it takes to be told of.
pub fn age(sandbox: &Sandbox) {
    let long_ago = SystemTime::now() - Duration::from_secs(120);
    for file in data_directories(sandbox).iter().flat_map(|data| waiting(data)) {
        // It may just have been archived.
        if let Ok(file) = File::options().write(true).open(file) {
            file.set_modified(long_ago).unwrap();
        }
    }
}

#[test]
fn archiving_catches_up_when_credentials_that_ended_are_renewed() {
    // The servers outlive the sandbox, whose last WAL is archived when it stops.
    let moto = Moto::start();
    let proxy = FaultProxy::before(moto.address());
    let sandbox = Sandbox::own();
    sandbox.start();
    put_secret(&sandbox, &proxy.url(), &moto.key());
    create(&sandbox, "2", "s3://backups/shop/db", &["--backup-credentials", SECRET]);
    sandbox.sql(NAME, "create table t (n bigint)");
    let first = back_up(&sandbox);
    backups_are(&sandbox, "True", "BackupsCurrent");
    let before = lives(&sandbox);
    assert_eq!(before.len(), 2);

    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let fresh = std::thread::scope(|scope| {
        let stops = Stops(&stop);
        let writer = scope.spawn(|| write_until_told(&sandbox, &acknowledged, &stop));
        let fresh = moto.rotate();
        for _ in 0..3 {
            as_superuser(
                &sandbox,
                "insert into t select -n from generate_series(1, 1000) n; select pg_switch_wal()",
            );
        }
        eventually("WAL waits on both members", || {
            let counts: Vec<usize> =
                data_directories(&sandbox).iter().map(|data| waiting(data).len()).collect();
            if counts.len() == 2 && counts.iter().all(|count| *count >= 3) {
                Ok(())
            } else {
                Err(format!("{counts:?}"))
            }
        });
        age(&sandbox);
        let told = backups_are(&sandbox, "False", "ArchivingFailing");
        assert!(told.contains("InvalidAccessKeyId"), "{told}");
        told_of(&sandbox, &["Warning", "ArchivingFailing", "InvalidAccessKeyId"]);
        let files = metrics(&sandbox, "database_wal_archive_waiting_files{");
        assert!(files.len() == 2 && files.iter().all(|line| !line.ends_with("} 0")), "{files:?}");

        put_secret(&sandbox, &proxy.url(), &fresh);
        mounted(&sandbox, &fresh, 2);
        // A new file wakes the archiver, which else looks again after a minute.
        archived_up_to_now(&sandbox, &Place::s3(&moto.url(), &fresh, "shop/db"));
        drop(stops);
        writer.join().unwrap();
        fresh
    });
    backups_are(&sandbox, "True", "BackupsCurrent");
    told_of(&sandbox, &["ArchivingRecovered"]);
    assert_eq!(lives(&sandbox), before);

    let place = Place::s3(&moto.url(), &fresh, "shop/db");
    let last = archived_up_to_now(&sandbox, &place);
    let contents = Contents::of(&place);
    let start = contents.backups[0].good().unwrap().start_lsn;
    assert_eq!((contents.gaps(start, last), contents.conflicts()), (vec![], vec![]));
    let rows = sandbox.sql(NAME, "select count(*), max(n) from t where n > 0");
    let acknowledged = acknowledged.into_inner();
    assert_eq!(rows, format!("{acknowledged}|{acknowledged}"));
    let second = back_up(&sandbox);
    assert_eq!(Contents::of(&place).good(), [&first, &second].map(|entry| entry["id"].as_str().unwrap()));
}

/// Its last WAL cannot be archived when a primary is shut down, and nobody waits for that.
#[test]
fn a_store_that_hangs_does_not_keep_the_primarys_role_from_moving() {
    let server = S3sFs::start();
    let proxy = FaultProxy::before(server.address());
    let sandbox = Sandbox::own();
    sandbox.start();
    put_secret(&sandbox, &proxy.url(), &server.key());
    create(&sandbox, "2", "s3://backups/h", &["--backup-credentials", SECRET]);
    sandbox.sql(NAME, "create table t (n bigint)");
    proxy.black_hole();
    as_superuser(&sandbox, "insert into t values (1); select pg_switch_wal()");
    let moved = sandbox.run(&["failover", NAME, "--yes", "--wait"]).ok();
    eprintln!("{}", moved.stderr);
    assert_eq!(sandbox.sql(NAME, "insert into t values (2); select count(*) from t"), "2");
    proxy.restore();
    let place = Place::s3(&server.url(), &server.key(), "h");
    ready_with(&sandbox, NAME, 2);
    let last = archived_up_to_now(&sandbox, &place);
    let contents = Contents::of(&place);
    let first = contents.archive.segments.keys().next().unwrap().start(SIZE).unwrap();
    assert_eq!((contents.gaps(first, last), contents.conflicts()), (vec![], vec![]));
}
