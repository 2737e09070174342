//! Disks that are filled to the last byte under load, and then made larger.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};

use super::{Bench, condition};
use crate::support::{Sandbox, eventually};

/// A sandbox with volumes that can be full; none, and why in print, where this machine cannot have it.
fn bounded() -> Option<Bench> {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
        eprintln!("SKIPPED full disks: they need root and loop devices");
        return None;
    }
    let sandbox = Sandbox::own();
    sandbox.run(&["sandbox", "up", "--volumes=bounded"]).ok();
    Some(Bench::new(sandbox))
}

/// A file of somebody's, as large as all the room that is left. It stays, whatever becomes of the pod.
fn fill(volume: &Path) {
    let file = File::options().create(true).append(true).open(volume.join("filler")).unwrap();
    let room = fstatvfs(&file).unwrap();
    let mut piece = (room.f_bavail * room.f_frsize).max(room.f_frsize);
    while piece >= room.f_frsize {
        let end = file.metadata().unwrap().len();
        if fallocate(&file, FallocateFlags::empty(), end, piece).is_err() {
            piece /= 2;
        }
    }
}

/// Fills the volumes until nobody is told of a row any more.
fn fill_until_nobody_can_write(bench: &Bench, name: &str, members: usize) {
    eventually("nobody can write", || {
        for ordinal in 0..members {
            fill(&bench.volume(&format!("data-{name}-{ordinal}"), true));
        }
        // What was set aside for WAL is used up.
        let more = "create table if not exists more (t text); insert into more select repeat(md5(n::text), 30) from generate_series(1, 20000) n";
        let answer =
            bench.sandbox.run(&["connect", name, "--", "-XAtqc", more, "-c", "select pg_switch_wal()"]);
        if answer.code == 0 { Err("rows are still written".to_owned()) } else { Ok(()) }
    });
}

fn grows_and_is_written_to_again(members: usize) {
    let Some(bench) = bounded() else { return };
    let count = members.to_string();
    bench.sandbox.run(&["create", "db", "--replicas", &count, "--storage", "512Mi", "--wait"]).ok();
    let cluster = bench.load("db", members);
    fill_until_nobody_can_write(&bench, "db", members);
    let (status, reason, message) = eventually("it is said that there is no room", || {
        match condition(&bench.sandbox, "db", "StorageHealthy") {
            told if told.1 == "VolumeFull" => Ok(told),
            told => Err(format!("{told:?}")),
        }
    });
    println!("StorageHealthy={status} ({reason}): {message}");
    let began = cluster.notes.now();
    let answer = bench.sandbox.run(&["resize", "db", "--storage", "1Gi", "--wait"]).ok();
    println!("{}", answer.stderr);
    bench.acknowledged(&cluster, "rows after the growth");
    println!("writable {:.1} s after `dbctl resize` was asked", (cluster.notes.now() - began).as_secs_f64());
    crate::journeys::ready_with(&bench.sandbox, "db", members);
    let rows = bench.stop(&cluster);
    assert_eq!(bench.lost(&cluster, &cluster), vec![], "acknowledged rows are lost");
    println!("{rows} acknowledged rows, all of them there");
    let told = |kind: &str| condition(&bench.sandbox, "db", kind).0;
    assert_eq!((told("StorageHealthy"), told("UpToDate")), ("True".into(), "True".into()));
    let capacity = bench.claim("data-db-0").status.unwrap().capacity.unwrap()["storage"].0.clone();
    assert_eq!(capacity, "1Gi");
    let events = bench.sandbox.run(&["events", "db"]).ok().stdout;
    assert!(events.contains("VolumeFull") && events.contains("Resized"), "{events}");
}

#[test]
fn a_full_disk_is_made_larger_and_written_to_again_without_a_hand_on_it() {
    grows_and_is_written_to_again(1);
}

#[test]
#[ignore = "long: the same with three members, all of whose disks are full"]
fn three_full_disks_are_made_larger_and_written_to_again() {
    grows_and_is_written_to_again(3);
}
