//! The proof that what is listed as a backup is one, and that what was acknowledged is in the archive, whatever dies while it
//! is made: backups and their processes, pushes of WAL, primaries, and the store.
//!
//! - Each backup that `dbctl backups` lists at the end is restored and found to be good by PostgreSQL's own tools.
//! - A restore to the end of the archive holds exactly the rows of the primary, from the oldest backup as from the newest, and
//!   each row that was acknowledged is among them; `pg_amcheck` finds nothing.

mod end;
mod strike;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dbctl::api::Names;
use dbctl::backup::server::{Address, Connection, Limits, Mode, Target};
use dbctl::patroni::SUPERUSER;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use self::strike::{Kind, Step, steps, strike};
use super::bucket::put_secret;
use super::cluster::{NAME, create};
use super::wal::Place;
use crate::external::runtime;
use crate::proof::cluster::Cluster;
use crate::proof::number;
use crate::proof::round::Rounds;
use crate::stores::{FaultProxy, S3sFs};
use crate::support::{Sandbox, eventually};

/// How often a segment ends, full or not: often enough that there is always one on its way.
const SWITCH: Duration = Duration::from_secs(2);
/// How often a member may have been restarted when the next one dies: Kubernetes holds back the second restart.
const RESTARTS: i32 = 1;

/// Rows of a table that makes backups last a while.
const FILLING: usize = 500_000;

/// A step, and what came of it.
struct Round {
    step: Step,
    what: String,
    /// How the backup ended that was under way.
    backup: String,
    seconds: f64,
}

/// The database, its store, and who writes to it.
struct Bench {
    sandbox: Sandbox,
    cluster: Arc<Cluster>,
    runtime: tokio::runtime::Runtime,
    proxy: FaultProxy,
    server: S3sFs,
    members: usize,
}

impl Bench {
    fn start(members: usize, retention: usize, filling: usize) -> Self {
        let server = S3sFs::start();
        let proxy = FaultProxy::before(server.address());
        let sandbox = Sandbox::own();
        sandbox.start();
        put_secret(&sandbox, &proxy.url(), &server.key());
        let retention = retention.to_string();
        let more = ["--backup-credentials", "bucket", "--backup-retention", &retention];
        create(&sandbox, &members.to_string(), "s3://backups/k", &more);
        let filling = format!("from generate_series(1, {filling})");
        sandbox.sql(NAME, &format!("create table filling as select md5(random()::text), random() {filling}"));
        sandbox.sql(NAME, "create table t (n bigint)");
        let runtime = runtime();
        let cluster = runtime.block_on(async {
            let client = sandbox.client().await;
            let home = sandbox.home().to_owned();
            let cluster = Cluster::of_dbctl(client, home, NAME, members, true, Instant::now()).await;
            let cluster = Arc::new(cluster);
            cluster.begin().await;
            tokio::spawn(end_segments(Arc::clone(&cluster), password(&sandbox, NAME).await));
            cluster
        });
        Self { sandbox, cluster, runtime, proxy, server, members }
    }

    fn place(&self) -> Place {
        Place::s3(&self.server.url(), &self.server.key(), "k")
    }

    /// Asks for a backup, strikes, and waits until all is well and the backup has ended.
    fn round(&self, step: Step) -> Round {
        let start = Instant::now();
        self.runtime.block_on(Rounds::new(&self.cluster).ready(RESTARTS));
        let asked = self.sandbox.run(&["backup-now", NAME, "-o", "name"]).ok();
        let what = strike(&self.sandbox, &self.cluster, &self.proxy, step);
        let backup = self.ended(asked.stdout.trim());
        self.runtime.block_on(Rounds::new(&self.cluster).ready(RESTARTS));
        Round { step, what, backup, seconds: start.elapsed().as_secs_f64() }
    }

    /// How that backup ended; waits until none is taken any more.
    fn ended(&self, id: &str) -> String {
        eventually("the backup has ended", || {
            let answer = self.sandbox.run(&["status", NAME, "-o", "json"]);
            let database: serde_json::Value =
                serde_json::from_str(&answer.stdout).map_err(|_| answer.transcript())?;
            let operations = database["status"]["operations"].as_array().cloned().unwrap_or_default();
            let over = |phase: &str| ["Succeeded", "Failed", "Rejected"].contains(&phase);
            if let Some(busy) =
                operations.iter().find(|operation| !operation["phase"].as_str().is_some_and(over))
            {
                return Err(busy.to_string());
            }
            let own = operations.iter().find(|operation| operation["id"] == id);
            let phase = own.and_then(|own| own["phase"].as_str());
            phase.map(str::to_owned).ok_or_else(|| format!("{id} has not been taken up"))
        })
    }
}

/// The superuser's password.
async fn password(sandbox: &Sandbox, database: &str) -> String {
    let secrets = Api::<Secret>::default_namespaced(sandbox.client().await);
    let mut secret = secrets.get(&Names(database).internal_secret()).await.unwrap().data.unwrap();
    String::from_utf8(secret.remove("superuser-password").unwrap().0).unwrap()
}

/// Has the primary, whoever that is, end its segments.
async fn end_segments(cluster: Arc<Cluster>, password: String) {
    while !cluster.notes.stopped.load(Ordering::Relaxed) {
        tokio::time::sleep(SWITCH).await;
        let Some(address) = cluster.roles().and_then(|(leader, _)| leader.address) else { continue };
        let target = Target {
            address: Address::Tcp(SocketAddr::new(address, 5432)),
            user: SUPERUSER.to_owned(),
            password: Some(password.clone()),
            tls: cluster.login.tls.clone(),
            application_name: "test".to_owned(),
        };
        let limits = Limits { open: Duration::from_secs(2), silence: Duration::from_secs(2) };
        let mode = Mode::Sql { database: "postgres".to_owned() };
        if let Ok(mut connection) = Connection::open(&target, &mode, limits).await {
            // There may be no primary just now.
            let _ = connection.query("select pg_switch_wal()").await;
        }
    }
}

/// Goes through the steps, with a table of so many rows beside those that are written, and looks at what is there then.
fn prove(members: usize, retention: usize, filling: usize, steps: impl Iterator<Item = Step>) -> Vec<Round> {
    let bench = Bench::start(members, retention, filling);
    let mut rounds = Vec::new();
    for (number, step) in (1..).zip(steps) {
        let round = bench.round(step);
        let Round { what, backup, seconds, .. } = &round;
        let kind = format!("{:?}", step.kind);
        println!("{number:4}  {kind:12}{what:32} the backup: {backup:10}{seconds:6.1} s");
        rounds.push(round);
    }
    let verdict = bench.end();
    kinds(&rounds);
    verdict.print();
    verdict.judge();
    rounds
}

/// A line for each kind.
fn kinds(rounds: &[Round]) {
    let mut kinds = BTreeMap::<Kind, [usize; 3]>::new();
    for round in rounds {
        let [struck, good, failed] = kinds.entry(round.step.kind).or_default();
        *struck += 1;
        *(if round.backup == "Succeeded" { good } else { failed }) += 1;
    }
    println!("\n{:14}{:>8}{:>22}{:>14}", "killed", "times", "its backup came", "did not");
    for (kind, [struck, good, failed]) in kinds {
        println!("{:14}{struck:8}{good:22}{failed:14}", format!("{kind:?}"));
    }
}

/// One of each of those that differ most.
#[test]
fn what_is_listed_is_good_and_nothing_is_missing_whoever_is_killed() {
    let step = |kind, after, time| Step {
        kind,
        after: Duration::from_millis(after),
        time: Duration::from_millis(time),
        which: 0,
    };
    let chosen = [
        step(Kind::Outage, 1500, 1500),
        step(Kind::Backup, 0, 300),
        step(Kind::Push, 0, 500),
        step(Kind::Promotion, 0, 0),
        step(Kind::Primary, 2000, 0),
    ];
    let rounds = prove(2, 2, 1, chosen.into_iter());
    let failed = |kind| rounds.iter().any(|round| round.step.kind == kind && round.backup == "Failed");
    assert!(failed(Kind::Promotion), "a backup of a replica that was promoted meanwhile is one");
}

/// `KILLS=50 SEED=1 cargo test --test runner -- --ignored --nocapture many_random_kills`; the seed is printed.
#[test]
#[ignore = "long: KILLS says how long"]
fn many_random_kills_leave_only_good_backups() {
    let (kills, seed) = (number("KILLS", 50), number("SEED", fastrand::u64(..)));
    println!("KILLS={kills} SEED={seed}");
    prove(3, 8, FILLING, steps(seed).take(kills));
}
