//! Hours of work: what a controller and a node have of memory and open files stays level.

use std::time::{Duration, Instant};

use dbctl::api::Database;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::external::runtime;
use crate::journeys::ready_with;
use crate::support::Sandbox;

const NAMES: [&str; 2] = ["one", "two"];
/// Between two changes.
const APART: Duration = Duration::from_secs(10);

/// What a process has.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Of its memory, in KiB, what no file holds.
    memory: u64,
    files: usize,
}

impl Size {
    fn of(process: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let memory = line.trim().trim_end_matches("kB").trim().parse().unwrap();
        Self { memory, files: std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count() }
    }
}

/// A setting changes every ten seconds, and every thirtieth time the primary, in two databases at once.
async fn change(sandbox: &Sandbox, number: usize) {
    let databases: Api<Database> = Api::default_namespaced(sandbox.client().await);
    let spec = json!({ "spec": { "parameters": { "work_mem": format!("{}kB", 1024 + number % 1000) } } });
    for name in NAMES {
        databases.patch(name, &PatchParams::default(), &Patch::Merge(&spec)).await.unwrap();
    }
}

/// The most of the quarter of them that begins there.
fn most(sizes: &[Size], quarter: usize) -> Size {
    let of = &sizes[sizes.len() * quarter / 4..sizes.len() * (quarter + 1) / 4];
    Size {
        memory: of.iter().map(|size| size.memory).max().unwrap(),
        files: of.iter().map(|size| size.files).max().unwrap(),
    }
}

/// `MINUTES` says how long.
#[test]
#[ignore = "hours: MINUTES says how long"]
fn memory_and_open_files_stay_level() {
    let minutes = std::env::var("MINUTES").map_or(120, |minutes| minutes.parse().unwrap());
    let mut sandbox = Sandbox::apart();
    for name in NAMES {
        sandbox.run(&["create", name, "--replicas", "2", "--storage", "1Gi", "--wait"]).ok();
    }
    let processes = sandbox.external().processes();
    let mut sizes = vec![Vec::new(); processes.len()];
    let (began, runtime) = (Instant::now(), runtime());
    let end = began + Duration::from_secs(60 * minutes);
    for number in 1.. {
        runtime.block_on(change(&sandbox, number));
        std::thread::sleep(APART);
        if number % 30 == 0 {
            for name in NAMES {
                sandbox.run(&["failover", name, "--yes", "--wait"]).ok();
            }
        }
        for ((name, process), sizes) in processes.iter().zip(&mut sizes) {
            let size = Size::of(*process);
            if number % 30 == 0 {
                println!("{:>4} min  {name:<12} {size:?}", began.elapsed().as_secs() / 60);
            }
            sizes.push(size);
        }
        if Instant::now() > end {
            break;
        }
    }
    for name in NAMES {
        ready_with(&sandbox, name, 2);
    }
    for ((name, _), sizes) in processes.iter().zip(&sizes) {
        // The first quarter fills what is kept for later.
        let (before, after) = (most(sizes, 1), most(sizes, 3));
        println!("{name}: {before:?} in the second quarter, {after:?} in the last");
        assert!(after.memory <= before.memory + before.memory / 5, "{name} grows: {before:?}, {after:?}");
        assert!(after.files <= before.files + 5, "{name} keeps files open: {before:?}, {after:?}");
    }
}
