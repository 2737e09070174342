//! Control groups for real, where this machine and this user can make them.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Container;
use serde_json::json;

use super::*;

/// The groups of a new home, or nothing, said aloud, where there can be none.
fn open(test: &str, controllers: &[&str]) -> Option<(tempfile::TempDir, Cgroups)> {
    let state = tempfile::tempdir().unwrap();
    match Cgroups::open(state.path()) {
        Ok(cgroups) => {
            let missing: Vec<_> =
                controllers.iter().filter(|name| !cgroups.controllers().contains(**name)).collect();
            if missing.is_empty() {
                return Some((state, cgroups));
            }
            eprintln!("SKIPPED {test}: control groups here lack {missing:?}");
            sweep(state.path()).unwrap();
        }
        Err(error) => eprintln!("SKIPPED {test}: failed to {error}"),
    }
    None
}

fn limits(limits: serde_json::Value) -> Limits {
    let container = json!({"name": "c", "resources": {"limits": limits}});
    Limits::of(&serde_json::from_value::<Container>(container).unwrap())
}

/// A shell that moves itself into the group before it does what the script says.
fn shell(group: &Group, script: &str) -> Child {
    let enter: Vec<String> = group
        .directories()
        .iter()
        .map(|place| format!("echo $$ > {}/cgroup.procs;", place.display()))
        .collect();
    Command::new("sh").args(["-c", &format!("{} {script}", enter.join(" "))]).spawn().unwrap()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Utime and stime of a process, in ticks.
fn used(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_frozen_group_uses_no_time_and_can_be_killed_and_removed() {
    let Some((state, cgroups)) = open("freezing a group", &[]) else { return };
    let pod = cgroups.pod("p").unwrap();
    let group = cgroups.container("p", "c", &Limits::default()).unwrap();
    if !group.freezes() {
        eprintln!("SKIPPED freezing a group: there is no freezer");
        return;
    }
    let mut child = shell(&group, "while :; do (while :; do :; done) & wait; done");
    until("two processes", || pod.processes().len() >= 2);
    pod.freeze(true).unwrap();
    let all: Vec<u32> = pod.processes().into_iter().map(|pid| pid.try_into().unwrap()).collect();
    let before: u64 = all.iter().map(|pid| used(*pid)).sum();
    // The time in which a busy process would have used a lot.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(all.iter().map(|pid| used(*pid)).sum::<u64>(), before);
    pod.freeze(false).unwrap();
    until("more time", || all.iter().map(|pid| used(*pid)).sum::<u64>() > before);
    pod.freeze(true).unwrap();
    pod.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    pod.destroy().unwrap();
    assert!(pod.directories().iter().all(|place| !place.exists()));
    sweep(state.path()).unwrap();
    assert!(remembered(state.path()).is_empty());
}

#[test]
fn memory_beyond_the_limit_is_not_had() {
    let Some((state, cgroups)) = open("limiting memory", &["memory"]) else { return };
    cgroups.pod("p").unwrap();
    let group = cgroups.container("p", "c", &limits(json!({"memory": "24Mi"}))).unwrap();
    assert_eq!(group.memory_kills(), 0);
    let script = "exec python3 -c 'x = bytearray(100 << 20); print(len(x))'";
    let status = shell(&group, script).wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    assert!(group.memory_kills() > 0);
    sweep(state.path()).unwrap();
}

#[test]
fn cpu_time_is_limited() {
    let Some((state, cgroups)) = open("limiting CPU time", &["cpu"]) else { return };
    cgroups.pod("p").unwrap();
    let group = cgroups.container("p", "c", &limits(json!({"cpu": "50m"}))).unwrap();
    let mut child = shell(&group, "while :; do :; done");
    let place =
        group.places.iter().find(|place| place.controllers.contains("cpu")).unwrap().directory.clone();
    let throttled = || {
        let stat = std::fs::read_to_string(place.join("cpu.stat")).unwrap();
        stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse::<u64>().ok()).unwrap()
    };
    until("throttling", || throttled() >= 3);
    group.kill().unwrap();
    child.wait().unwrap();
    sweep(state.path()).unwrap();
}

#[test]
fn what_a_killed_run_left_is_killed_and_removed() {
    let Some((state, cgroups)) = open("sweeping groups", &[]) else { return };
    cgroups.pod("p").unwrap();
    let group = cgroups.container("p", "c", &Limits::default()).unwrap();
    let mut child = shell(&group, "sleep 1000 & wait");
    until("two processes", || group.processes().len() == 2);
    let _ = group.freeze(true);
    let places = cgroups.base.directories();
    sweep(state.path()).unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(places.iter().all(|place| !place.exists()));
}
