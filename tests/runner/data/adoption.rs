//! A database is deleted with its data kept, and made again: whoever held the newest rows, they are there.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::DeleteParams;

use super::Bench;
use crate::journeys::ready_with;
use crate::proof::number;
use crate::support::{Sandbox, eventually};

/// How long a pod that is late stands still.
const LATE: Duration = Duration::from_secs(8);

/// How one run goes.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Members of the database that is made again.
    members: usize,
    /// Members that stand still when they have just started.
    late: [bool; 3],
    /// The Secrets are lost in between.
    secrets_lost: bool,
}

/// Stops a pod's processes as soon as it runs.
fn delay(bench: &Bench, pod: &str, time: Duration) {
    let time = format!("{}s", time.as_secs());
    let args = ["sandbox", "fault", "pod", pod, "--freeze", "--for", &time];
    let deadline = Instant::now() + Duration::from_secs(60);
    while bench.sandbox.run(&args).code != 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One run; returns how many rows were acknowledged and how long it took until the last of them could be read.
fn run(bench: &Bench, run: Run, late: Duration) -> (usize, Duration) {
    let sandbox = &bench.sandbox;
    sandbox.run(&["create", "db", "--replicas", "3", "--storage", "1Gi", "--wait"]).ok();
    if bench.primary("db") != "db-2" {
        sandbox.run(&["failover", "db", "--to", "db-2", "--yes", "--wait"]).ok();
    }
    ready_with(sandbox, "db", 3);
    let cluster = bench.load("db", 3);
    // From here on db-0 hears of nothing.
    sandbox.run(&["sandbox", "fault", "pod", "db-0", "--freeze"]).ok();
    std::thread::sleep(Duration::from_secs(2));
    bench.acknowledged(&cluster, "rows that db-0 does not have");
    let rows = bench.stop(&cluster);
    sandbox.run(&["delete", "db", "--yes", "--no-wait"]).ok();
    // It stands still, and would do so for as long as a pod may take.
    bench.runtime.block_on(async {
        let pods: Api<Pod> = Api::default_namespaced(sandbox.client().await);
        pods.delete("db-0", &DeleteParams::default().grace_period(0)).await.unwrap();
    });
    eventually("it is deleted", || match sandbox.run(&["status", "db"]) {
        answer if answer.code == 6 => Ok(()),
        answer => Err(answer.transcript()),
    });
    let listed = sandbox.run(&["list", "--retained"]).ok();
    assert!(listed.stdout.contains("db") && listed.stdout.contains("3.0 GiB"), "{}", listed.transcript());
    if run.secrets_lost {
        bench.runtime.block_on(async {
            let secrets: Api<Secret> = Api::default_namespaced(sandbox.client().await);
            for name in ["db-app", "db-internal"] {
                secrets.delete(name, &DeleteParams::default()).await.unwrap();
            }
        });
    }
    let began = Instant::now();
    sandbox.run(&["create", "db", "--replicas", &run.members.to_string(), "--storage", "1Gi"]).ok();
    for (ordinal, _) in run.late.iter().enumerate().filter(|(_, late)| **late) {
        delay(bench, &format!("db-{ordinal}"), late);
    }
    ready_with(sandbox, "db", run.members);
    let again = bench.look("db", run.members);
    assert_eq!(bench.lost(&cluster, &again), vec![], "acknowledged rows are lost: {run:?}");
    let took = began.elapsed();
    // The app's password has just worked; the superuser's does, and that of replicas, since they stream.
    bench.superuser("db", "select 1");
    sandbox.run(&["delete", "db", "--yes", "--deletion-policy", "delete"]).ok();
    (rows, took)
}

/// Runs that number of times, by chance, and prints each.
fn runs(count: usize, seed: u64, late: Duration) {
    println!("SEED={seed} RUNS={count}");
    println!("| run | members | late | Secrets | rows | back after |\n|---|---|---|---|---|---|");
    let bench = Bench::new(Sandbox::own());
    let mut chance = fastrand::Rng::with_seed(seed);
    for number in 1..=count {
        let how = Run {
            members: if number % 2 == 0 { 1 } else { 3 },
            late: std::array::from_fn(|_| chance.bool()),
            secrets_lost: number % 2 == 0,
        };
        let (rows, took) = run(&bench, how, late);
        let late: Vec<usize> = (0..3).filter(|ordinal| how.late[*ordinal]).collect();
        let secrets = if how.secrets_lost { "lost" } else { "kept" };
        println!(
            "| {number} | {} | {late:?} | {secrets} | {rows} | {:.1} s |",
            how.members,
            took.as_secs_f64()
        );
    }
}

#[test]
fn the_newest_rows_come_back_whoever_held_them_and_every_password_works() {
    runs(2, 20_261_123, LATE);
}

/// `RUNS=50 SEED=1 LATE=30 cargo test --test runner -- --ignored --nocapture databases_come_back_again_and_again`
#[test]
#[ignore = "long: RUNS says how often"]
fn databases_come_back_again_and_again() {
    runs(number("RUNS", 50), number("SEED", fastrand::u64(..)), Duration::from_secs(number("LATE", 30)));
}
