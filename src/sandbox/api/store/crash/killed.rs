//! A process that writes, killed at any moment.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{contents, draft, maps};
use crate::sandbox::api::store::{Store, Write};

/// Where the process to be killed finds its store.
const PATH: &str = "STORE_TO_KILL";
/// Keys, each written by one task.
const WRITERS: u64 = 8;

/// Not a test but the process that one kills: it writes until it ends, and says what was acknowledged.
#[test]
#[ignore = "is run by the test below"]
fn writer_that_is_killed() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = std::sync::Arc::new(Store::open(Path::new(&path)).unwrap());
        let tasks: Vec<_> =
            (0..WRITERS).map(|number| tokio::spawn(write_for_ever(store.clone(), number))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn write_for_ever(store: std::sync::Arc<Store>, number: u64) {
    let (collection, key) = (maps(), format!("n/{number}"));
    let seen = contents(&store).get(&key).copied();
    let (mut expect, mut value) = (seen.map(|(version, _)| version), seen.map_or(0, |(_, value)| value));
    loop {
        value += 1;
        // Every so often it is deleted and made again.
        let made = (expect.is_none() || !value.is_multiple_of(10)).then(|| draft(&key, value));
        let write = Write { collection: &collection, key: &key, expect, draft: made.as_ref(), guard: None };
        let record = store.write(write).await.unwrap();
        expect = made.is_some().then(|| record.version());
        let state = if made.is_some() { value.to_string() } else { "gone".to_owned() };
        // One write of one line: what is cut off here was not acknowledged.
        let line = format!("ack {key} {} {state} {value}\n", record.version());
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}

/// What was last acknowledged for a key: its version, what it holds if it is there, and the number of the write.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    version: u64,
    value: Option<u64>,
    number: u64,
}

fn kill_once(path: &Path, after: Duration) -> HashMap<String, Acknowledged> {
    let test = concat!(module_path!(), "::writer_that_is_killed");
    let test = test.split_once("::").unwrap().1;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(PATH, path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut last = HashMap::new();
        for line in lines.lines() {
            let line = line.unwrap();
            let parts: Vec<_> = line.split(' ').collect();
            let ["ack", key, version, value, number] = parts.as_slice() else { continue };
            let Ok(number) = number.parse() else { continue };
            let acknowledged =
                Acknowledged { version: version.parse().unwrap(), value: value.parse().ok(), number };
            last.insert((*key).to_owned(), acknowledged);
        }
        last
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

fn kill_again_and_again(seed: u64, times: usize) -> usize {
    let mut chance = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let mut all: HashMap<String, Acknowledged> = HashMap::new();
    let mut highest = 0;
    let mut writes = 0;
    for round in 0..times {
        let after = Duration::from_millis(chance.u64(30..300));
        let told = kill_once(&path, after);
        writes += told.len();
        let lowest = told.values().map(|told| told.version).min().unwrap_or(u64::MAX);
        assert!(lowest > highest, "seed {seed}, round {round}: version {lowest} was given out twice");
        highest = told.values().map(|told| told.version).max().unwrap_or(highest);
        all.extend(told);
        let Ok(store) = Store::open(&path) else {
            panic!("seed {seed}, round {round}: {}", Store::open(&path).unwrap_err());
        };
        let found = contents(&store);
        for (key, told) in &mut all {
            let about = format!("seed {seed}, round {round}: {key} {told:?}, found {:?}", found.get(key));
            match found.get(key) {
                Some((version, value)) if *version == told.version => {
                    assert_eq!(Some(*value), told.value, "{about}");
                }
                // The one write that was on its way.
                Some((version, value)) => {
                    // A process that finds a key gone begins at one again.
                    let next = [Some(told.number + 1), told.value.is_none().then_some(1)];
                    assert!(*version > told.version && next.contains(&Some(*value)), "{about}");
                    // The next process starts from this, and may be killed before it acknowledges anything.
                    *told = Acknowledged { version: *version, value: Some(*value), number: *value };
                }
                None if told.value.is_none() => {}
                None => {
                    assert!((told.number + 1).is_multiple_of(10), "{about}");
                    told.value = None;
                }
            }
        }
        // What was found is what the next process begins with, whether it was acknowledged or not: that one may be killed
        // before it acknowledges anything.
        for (key, told) in &mut all {
            match found.get(key) {
                Some((version, value)) => {
                    *told = Acknowledged { version: *version, value: Some(*value), number: *value };
                }
                None => told.value = None,
            }
        }
        // A watch goes on from the last version that was told, or is sent to list anew; it never misses anything.
        if let Ok((_, changes)) = store.changes_since(&maps(), highest) {
            assert!(changes.is_empty() && found.values().all(|(version, _)| *version <= highest));
        }
        highest = highest.max(store.version());
    }
    writes
}

#[test]
fn nothing_that_was_acknowledged_is_lost_with_its_process() {
    assert!(kill_again_and_again(1, 6) > 0, "nothing was written");
}

/// The same a hundred times over: `cargo test --lib killed_a_hundred_times -- --ignored`.
#[test]
#[ignore = "long"]
fn killed_a_hundred_times() {
    kill_again_and_again(fastrand::u64(..), 100);
}
