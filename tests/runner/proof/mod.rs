//! The proof that failover can be trusted: clients that write and note what they were told, faults by chance, and a
//! checker of what must hold.
//!
//! - With `synchronous` no acknowledged row is ever missing.
//! - At no instant do two members accept writes.
//! - Every fault ends in a database that can be written to, with all its members.
//!
//! Faults of networks and disks need root on Linux.

mod alone;
mod chance;
pub mod check;
pub mod clients;
pub mod cluster;
mod faults;
mod gaps;
pub mod history;
pub mod load;
mod report;
pub mod round;
pub mod session;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chance::{Fault, Role, Step, steps};
use cluster::Cluster;
use faults::Kind;
use report::Verdict;
use round::Rounds;

use crate::external::runtime;
use crate::support::Sandbox;

/// Members of each cluster.
const MEMBERS: usize = 3;
/// Of each member's volume. Each change of primary leaves a segment of the old timeline behind until WAL has moved on by
/// more than is kept: changes every few seconds fill a small one.
const ROOM: &str = "8Gi";
/// How often a member may have been restarted when the next fault comes: the second restart is held back for 10 s.
const RESTARTS: i32 = 1;
/// The seed of the short run.
const SEED: u64 = 20_261_122;

/// A sandbox whose pods have networks and disks of their own.
struct Bench {
    start: Instant,
    client: kube::Client,
    runtime: tokio::runtime::Runtime,
    sandbox: Sandbox,
}

impl Bench {
    /// None, and why in print, where this machine cannot have it.
    fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            eprintln!("SKIPPED the proof of failover: networks and disks of pods need root and loop devices");
            return None;
        }
        let sandbox = Sandbox::alone();
        sandbox.run(&["sandbox", "up", "--network=namespaces", "--volumes=bounded"]).ok();
        let runtime = runtime();
        let client = runtime.block_on(sandbox.client());
        Some(Self { start: Instant::now(), client, runtime, sandbox })
    }

    /// A Database that is written to.
    async fn database(&self, name: &str, synchronous: bool) -> Arc<Cluster> {
        let (members, mode) =
            (MEMBERS.to_string(), if synchronous { "--synchronous" } else { "--no-synchronous" });
        let args = ["create", name, "--replicas", &members, "--storage", ROOM, "--wait", mode];
        tokio::task::block_in_place(|| self.sandbox.run(&args).ok());
        let home = self.sandbox.home().to_owned();
        let cluster = Cluster::of_dbctl(self.client.clone(), home, name, MEMBERS, synchronous, self.start);
        let cluster = Arc::new(cluster.await);
        cluster.begin().await;
        cluster
    }

    /// Goes through the steps while `more` says so, and checks.
    fn prove(&self, synchronous: bool, steps: impl Iterator<Item = Step>, more: impl Fn(usize) -> bool) {
        self.runtime.block_on(async {
            let cluster = self.database("proof", synchronous).await;
            let mut rounds = Rounds::new(&cluster);
            let mut all = Vec::new();
            for (number, step) in (1..).zip(steps) {
                if !more(number) {
                    break;
                }
                rounds.ready(RESTARTS).await;
                tokio::time::sleep(step.pause).await;
                let round = rounds.one(step.fault, step.second).await;
                report::round(&cluster.notes, number, &round);
                all.push(round);
            }
            rounds.ready(RESTARTS).await;
            cluster.notes.stopped.store(true, Ordering::Relaxed);
            let lost = round::lost_at_the_end(&cluster).await;
            report::kinds(&all);
            let verdict = report::sums(&cluster.notes, &all, lost);
            judge(&verdict, synchronous);
        });
    }
}

/// Fails where something that must hold does not.
#[track_caller]
fn judge(verdict: &Verdict, synchronous: bool) {
    assert_eq!(verdict.doubles, [], "two members accepted writes");
    assert_eq!(verdict.unwritable, 0, "nobody could write after a fault");
    assert_eq!(verdict.never_whole, 0, "not all members came back after a fault");
    if synchronous {
        let lost: Vec<_> = verdict.lost.iter().filter(|lost| !lost.degraded).collect();
        assert!(lost.is_empty(), "{} acknowledged rows are lost", lost.len());
    }
}

/// A number from the environment.
pub fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A few faults that differ much, one of which lasts longer than the lock, and some by chance.
#[test]
fn faults_lose_nothing_and_leave_one_primary() {
    let Some(bench) = Bench::start() else { return };
    let step = |kind: Kind, seconds: u64| Step {
        fault: Fault { kind, on: Role::Primary, time: Duration::from_secs(seconds) },
        second: None,
        pause: Duration::ZERO,
    };
    let chosen = [step(Kind::CutAll, 26), step(Kind::KillPod, 0), step(Kind::Switchover, 0)];
    let short = steps(SEED).filter(|step| step.fault.time < Duration::from_secs(10)).take(3);
    bench.prove(true, chosen.into_iter().chain(short), |_| true);
}

/// `FAULTS=200 MINUTES=30 SEED=1 cargo test --test runner -- --ignored --nocapture many_random_faults`: at least so many
/// faults, and at least so long. `SYNCHRONOUS=false` counts what an asynchronous database loses.
#[test]
#[ignore = "long: FAULTS and MINUTES say how long"]
fn many_random_faults_lose_nothing_and_leave_one_primary() {
    let Some(bench) = Bench::start() else { return };
    let (faults, minutes) = (number("FAULTS", 200), number("MINUTES", 30));
    let (seed, synchronous) = (number("SEED", fastrand::u64(..)), number("SYNCHRONOUS", true));
    println!("SEED={seed} FAULTS={faults} MINUTES={minutes} SYNCHRONOUS={synchronous}");
    let start = bench.start;
    let more = |number: usize| number <= faults || start.elapsed() < Duration::from_secs(60 * minutes);
    bench.prove(synchronous, steps(seed), more);
}
