//! Members come and go under load.

use std::os::unix::fs::FileExt;
use std::time::Instant;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::DeleteParams;

use super::{Bench, condition};
use crate::journeys::ready_with;
use crate::support::{Sandbox, eventually};

/// Goes through these numbers of members under load, and prints how long nobody was told of a row in each step.
fn through(bench: &Bench, numbers: &[usize], mut between: impl FnMut(&Bench, usize)) {
    let cluster = bench.load("db", numbers[0]);
    println!("| step | took | longest gap between acknowledged rows |\n|---|---|---|");
    for pair in numbers.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let (since, began) = (cluster.notes.now(), Instant::now());
        bench.sandbox.run(&["scale", "db", "--replicas", &to.to_string(), "--wait"]).ok();
        ready_with(&bench.sandbox, "db", to);
        bench.acknowledged(&cluster, "rows after the change");
        let gap = bench.gap(&cluster, since);
        println!("| {from} → {to} | {:.1} s | {:.2} s |", began.elapsed().as_secs_f64(), gap.as_secs_f64());
        eventually("no slot of a removed member is kept", || {
            let slots = bench.sandbox.sql("db", "select count(*) from pg_replication_slots");
            if slots == (to - 1).to_string() { Ok(()) } else { Err(slots) }
        });
        between(bench, to);
    }
    let rows = bench.stop(&cluster);
    assert_eq!(bench.lost(&cluster, &cluster), vec![], "acknowledged rows are lost");
    println!("{rows} acknowledged rows, all of them there");
}

/// The WAL that a removed member would go on from is gone, and another's volume holds another database's data.
fn spoil(bench: &Bench) {
    for _ in 0..4 {
        bench.superuser("db", "create table if not exists more (n int); insert into more values (1)");
        bench.superuser("db", "select pg_switch_wal()");
        bench.superuser("db", "checkpoint");
    }
    let control = bench.volume("data-db-2", false).join("pgdata/global/pg_control");
    let file = std::fs::File::options().write(true).open(control).unwrap();
    file.write_all_at(&4711_u64.to_ne_bytes(), 0).unwrap();
}

/// The refused volume is still as it was; as the message says, its claim is deleted and then its pod.
fn replace(bench: &Bench) {
    let message = eventually("the member with another database's data is refused", || {
        let (_, _, message) = condition(&bench.sandbox, "db", "Ready");
        if message.contains("4711") { Ok(message) } else { Err(message) }
    });
    println!("refused: {message}");
    assert!(bench.volume("data-db-2", false).join("pgdata/PG_VERSION").exists());
    bench.runtime.block_on(async {
        let client = bench.sandbox.client().await;
        let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
        claims.delete("data-db-2", &DeleteParams::default()).await.unwrap();
        let pods: Api<Pod> = Api::default_namespaced(client);
        pods.delete("db-2", &DeleteParams::default()).await.unwrap();
    });
}

#[test]
fn members_come_and_go_under_load_and_stale_or_foreign_data_is_never_taken_up() {
    let bench = Bench::new(Sandbox::own());
    let little = ["--parameter", "wal_keep_size=16MB", "--parameter", "max_slot_wal_keep_size=16MB"];
    let create = ["create", "db", "--replicas", "3", "--storage", "1Gi", "--wait"];
    bench.sandbox.run(&[&create[..], &little].concat()).ok();
    let scaled = |bench: &Bench, to: usize| {
        if to == 1 {
            spoil(bench);
        }
    };
    // Its way up again is not waited for: one of the three is refused at first.
    let cluster = bench.load("db", 3);
    let since = cluster.notes.now();
    bench.sandbox.run(&["scale", "db", "--replicas", "1", "--wait"]).ok();
    ready_with(&bench.sandbox, "db", 1);
    bench.acknowledged(&cluster, "rows of one member alone");
    scaled(&bench, 1);
    bench.sandbox.run(&["scale", "db", "--replicas", "3"]).ok();
    replace(&bench);
    ready_with(&bench.sandbox, "db", 3);
    bench.acknowledged(&cluster, "rows of three members again");
    println!("3 → 1 → 3: longest gap {:.2} s", bench.gap(&cluster, since).as_secs_f64());
    bench.sandbox.run(&["scale", "db", "--replicas", "2", "--wait"]).ok();
    eventually("no slot of a removed member is kept", || {
        let slots = bench.sandbox.sql("db", "select count(*) from pg_replication_slots");
        if slots == "1" { Ok(()) } else { Err(slots) }
    });
    let rows = bench.stop(&cluster);
    assert_eq!(bench.lost(&cluster, &cluster), vec![], "acknowledged rows are lost");
    println!("{rows} acknowledged rows, all of them there");
}

#[test]
#[ignore = "long: 3, 1, 5 and 2 members"]
fn from_three_to_one_to_five_to_two_members_nothing_is_lost() {
    let bench = Bench::new(Sandbox::own());
    bench.sandbox.run(&["create", "db", "--replicas", "3", "--storage", "1Gi", "--wait"]).ok();
    // The primary is one that goes, so that its role moves first.
    bench.sandbox.run(&["failover", "db", "--to", "db-2", "--yes", "--wait"]).ok();
    through(&bench, &[3, 1, 5, 2], |bench, to| {
        if to == 5 {
            bench.sandbox.run(&["failover", "db", "--to", "db-4", "--yes", "--wait"]).ok();
        }
    });
}
