//! Archiving through changes of primary: nothing blocks it, nothing is archived twice in two ways, and nothing is missing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;

use super::cluster::{
    Contents, NAME, archived_up_to_now, back_up, create, data_directories, directory, waiting,
};
use super::local::by_hand;
use super::wal::Place;
use super::{Stops, cluster::as_superuser};
use crate::external::runtime;
use crate::journeys::ready_with;
use crate::support::{Sandbox, eventually};

/// After this long, what still waits to be archived is stuck.
const STUCK: Duration = Duration::from_secs(60);

#[test]
fn archiving_goes_on_through_switchovers_and_crashes() {
    through(3);
}

/// `ROUNDS=40 cargo test --test runner -- --ignored --nocapture archiving_goes_on_for_long`
#[test]
#[ignore = "takes half a minute a round"]
fn archiving_goes_on_for_long() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    through(rounds.unwrap_or(20));
}

/// How long the writer rests after each of its inserts.
const REST: Duration = Duration::from_millis(200);

/// Fills a segment every few seconds, whoever is the primary, until it is told to stop. Not more: a member that comes back must
/// find its WAL on the primary.
fn write(sandbox: &Sandbox, stop: &AtomicBool) {
    let sql = "insert into t select n, repeat(md5(random()::text), 8) from generate_series(1, 4000) n";
    while !stop.load(Ordering::Relaxed) {
        // While there is no primary it fails; what was acknowledged is counted in the end.
        sandbox.run(&["connect", NAME, "--", "-XAtqc", sql]);
        std::thread::sleep(REST);
    }
}

/// Moves the primary's role away, or kills it where it stands, in turns.
fn change(sandbox: &Sandbox, round: usize) {
    let primary = || sandbox.database(NAME)["status"]["primary"].as_str().unwrap_or_default().to_owned();
    let before = primary();
    if round.is_multiple_of(2) {
        sandbox.run(&["failover", NAME, "--yes", "--wait"]).ok();
    } else {
        sandbox.run(&["sandbox", "fault", "pod", &before, "--kill"]).ok();
    }
    eventually("another primary", || match primary() {
        name if !name.is_empty() && name != before => Ok(()),
        name => Err(name),
    });
    if !round.is_multiple_of(2) {
        // A container that is killed again and again is held back for up to five minutes; a new pod's is not.
        runtime().block_on(async {
            let pods: Api<Pod> = Api::default_namespaced(sandbox.client().await);
            pods.delete(&before, &DeleteParams::default().grace_period(0)).await.unwrap();
        });
    }
    ready_with(sandbox, NAME, 3);
}

fn through(rounds: usize) {
    let store = directory();
    let place = Place::directory(store.path());
    let sandbox = Sandbox::own();
    // Segments are soon used again, so an unfilled one has old WAL behind its end.
    let small = ["--parameter", "max_wal_size=64MB", "--parameter", "min_wal_size=32MB"];
    create(&sandbox, "3", &place.url, &small);
    sandbox.sql(NAME, "create table t (n bigint, filling text)");
    back_up(&sandbox);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        scope.spawn(|| write(&sandbox, &stop));
        for round in 0..rounds {
            change(&sandbox, round);
            let told = as_superuser(&sandbox, "select pg_walfile_name(pg_current_wal_lsn())");
            eprintln!("round {round}: the primary writes {told}");
        }
    });
    let last = archived_up_to_now(&sandbox, &place);
    assert!(usize::try_from(last.timeline).unwrap() > rounds, "{last}");
    let stuck = data_directories(&sandbox).into_iter().flat_map(|data| waiting(&data)).filter(|file| {
        // One that is gone was archived.
        let made = file.metadata().and_then(|about| about.modified()).unwrap_or_else(|_| SystemTime::now());
        made.elapsed().is_ok_and(|age| age > STUCK)
    });
    assert_eq!(stuck.collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());

    // Patroni has what waits archived before it rewinds.
    let logs = sandbox.run(&["logs", NAME]).ok().stdout;
    let failed: Vec<&str> = logs.lines().filter(|line| line.contains("error: failed to")).collect();
    assert_eq!(failed, Vec::<&str>::new());

    let contents = Contents::of(&place);
    let record = contents.backups[0].good().unwrap();
    assert_eq!((contents.gaps(record.start_lsn, last), contents.conflicts()), (vec![], vec![]));
    // And PostgreSQL itself finds the way, over all timelines.
    let epoch = store.path().join(contents.epoch.to_string());
    let count = "select count(*), sum(n) from t";
    let rows = sandbox.sql(NAME, count);
    assert_eq!(by_hand(&epoch, &store.path().join(record.id.directory(contents.epoch)), count), rows);
}
