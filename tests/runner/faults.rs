//! A database's life while the API server fails, answers late and drops watches.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::access::{CONTROLLER, denied};
use crate::external::runtime;
use crate::journeys::ready_with;
use crate::support::{Answer, Sandbox, eventually};

/// The longest that the whole may take; without faults it takes half a minute.
const LIMIT: Duration = Duration::from_secs(240);
/// The most requests that dbctl's controller may make in that time.
const MOST: u64 = 3000;

/// The command until it is answered: what it asks for is said once more where the server failed to answer.
fn insist(sandbox: &Sandbox, args: &[&str], done: impl Fn(&Answer) -> bool) {
    eventually(&args.join(" "), || match sandbox.run(args) {
        answer if done(&answer) => Ok(()),
        answer => Err(answer.transcript()),
    });
}

#[test]
fn under_faults_a_database_is_made_scaled_and_deleted_in_bounded_time_and_with_bounded_calls() {
    let sandbox = Sandbox::own();
    sandbox.start();
    runtime().block_on(sandbox.faults(Some(json!({
        "latencyMs": 200,
        "errors": [{ "status": 409, "rate": 0.05 }, { "status": 500, "rate": 0.05 }],
        "watchDropRate": 0.05,
        "seed": 20_261_122,
    }))));
    let start = Instant::now();
    let create = ["create", "rough", "--replicas", "3", "--storage", "1Gi", "--deletion-policy", "Delete"];
    insist(&sandbox, &create, |answer| answer.code == 0 || answer.stderr.contains("already exists"));
    insist(&sandbox, &["status", "rough"], |answer| answer.code == 0);
    insist(&sandbox, &["scale", "rough", "--replicas", "5"], |answer| answer.code == 0);
    eventually("five members are ready", || match sandbox.run(&["status", "rough"]) {
        answer if answer.code == 0 && answer.stdout.contains("5/5") => Ok(()),
        answer => Err(answer.transcript()),
    });
    let up = start.elapsed();
    insist(&sandbox, &["delete", "rough", "--yes"], |answer| answer.code == 0 || answer.code == 6);
    insist(&sandbox, &["status", "rough"], |answer| answer.code == 6);
    let took = start.elapsed();
    runtime().block_on(sandbox.faults(None));

    let volumes = sandbox.home().join("sandbox/volumes");
    eventually("the data directories are gone", || {
        let left = std::fs::read_dir(&volumes).unwrap().count();
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    });
    let log = runtime().block_on(sandbox.access());
    let calls: u64 = log.iter().filter(|line| line.user == CONTROLLER).map(|line| line.count).sum();
    let failed: u64 =
        log.iter().filter(|line| line.user == CONTROLLER && line.code != "2xx").map(|line| line.count).sum();
    eprintln!(
        "under faults: ready after {up:?}, gone after {took:?}, {calls} calls of the controller, {failed} failed"
    );
    assert_eq!(denied(&log, &[CONTROLLER]), Vec::<String>::new());
    assert!(took < LIMIT, "it took {took:?}");
    assert!(calls < MOST, "the controller made {calls} calls");

    // And a quiet server is a quiet life again.
    sandbox.run(&["create", "calm", "--replicas", "1", "--storage", "1Gi", "--wait"]).ok();
    ready_with(&sandbox, "calm", 1);
}
