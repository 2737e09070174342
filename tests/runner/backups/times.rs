//! Restores to times between known transactions: from a source that is there, that is gone and that is there again, and
//! through a failover whose dead primary takes WAL along that it had not archived.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dbctl::backup::wal::{Segment, WalFile};
use jiff::Timestamp;
use serde_json::Value;

use super::cluster::{
    Contents, NAME, as_superuser, back_up, backups_are, create, data_directories, directory, waiting,
};
use super::wal::Place;
use crate::journeys::ready_with;
use crate::support::{Sandbox, eventually};

/// The rows that no member may archive before the primary is dead. Each has a segment of its own.
const UNARCHIVED: std::ops::RangeInclusive<u32> = 4..=6;
/// The words in the command lines of PostgreSQL's archiver and of what it runs, which Patroni also runs for a dead primary.
const ARCHIVERS: &str = "archive";

/// A restore: from where, to behind which row.
#[derive(Clone, Copy)]
struct Wish {
    from_url: bool,
    row: u32,
}

/// What came of one.
struct Reached {
    version: String,
    what: String,
    expected: String,
    found: String,
    seconds: f64,
}

/// A database, and an instant behind each of its rows and before the next one.
struct Life {
    sandbox: Sandbox,
    version: String,
    place: Place,
    instants: BTreeMap<u32, Timestamp>,
    reached: Vec<Reached>,
    copies: usize,
    // It outlives the sandbox, whose last WAL is archived when it stops.
    store: tempfile::TempDir,
}

impl Life {
    fn begin(version: &str) -> Self {
        let store = directory();
        let place = Place::directory(store.path());
        let sandbox = Sandbox::own();
        create(&sandbox, "2", &place.url, &["--version", version]);
        sandbox.sql(NAME, "create table t (n int primary key)");
        Self {
            sandbox,
            version: version.to_owned(),
            place,
            instants: BTreeMap::new(),
            reached: Vec::new(),
            copies: 0,
            store,
        }
    }

    /// Commits a row, and notes a time that is later than it and earlier than any row after it.
    fn insert(&mut self, n: u32) {
        let insert = format!("insert into t values ({n}) on conflict do nothing");
        let clock =
            "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        let rest = "do 'begin perform pg_sleep(0.02); end'";
        let at = eventually("a row is written", || {
            // Each is a transaction of its own.
            let each = ["-c", &insert, "-c", rest, "-c", clock, "-c", rest];
            let answer = self
                .sandbox
                .run(&[&["connect", NAME, "--", "-XAtq", "-v", "ON_ERROR_STOP=1"][..], &each].concat());
            if answer.code == 0 { Ok(answer.stdout) } else { Err(answer.transcript()) }
        });
        self.instants.insert(n, at.trim().parse().unwrap());
    }

    /// Ends the segment that is written; returns it.
    fn switch(&self) -> Segment {
        let Ok(WalFile::Segment(segment)) =
            as_superuser(&self.sandbox, "select pg_walfile_name(pg_switch_wal())").parse()
        else {
            panic!("no segment")
        };
        segment
    }

    /// Waits until all from the oldest backup up to that segment is in the archive.
    fn archived(&self, to: Segment) -> Contents {
        eventually(&format!("all is archived up to {to}"), || {
            let contents = Contents::of(&self.place);
            let start = contents.backups[0].good().unwrap().start_lsn;
            match contents.gaps(start, to).as_slice() {
                [] => Ok(contents),
                gaps => Err(format!("{gaps:?}")),
            }
        })
    }

    /// Restores all of them at once, and looks at their rows. `backup` names the one to begin with.
    fn restore(&mut self, wishes: &[Wish], backup: Option<&str>) {
        let start = Instant::now();
        let mut copies = Vec::new();
        for wish in wishes {
            self.copies += 1;
            let copy = format!("copy{}", self.copies);
            let at = self.instants[&wish.row].to_string();
            let from = if wish.from_url { self.place.url.as_str() } else { NAME };
            let args = [
                "restore",
                &copy,
                "--from",
                from,
                "--to-time",
                &at,
                "--replicas",
                "1",
                "--version",
                &self.version,
            ];
            let named = backup.map(|id| ["--backup", id]);
            self.sandbox.run(&[&args[..], named.as_ref().map_or(&[], |words| &words[..])].concat()).ok();
            copies.push((copy, *wish));
        }
        for (copy, wish) in copies {
            ready_with(&self.sandbox, &copy, 1);
            let found = self.sandbox.sql(&copy, "select string_agg(n::text, ' ' order by n) from t");
            let expected = (1..=wish.row).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
            let source = if wish.from_url { "its URL, the object is gone" } else { "the database" };
            let what =
                format!("behind row {} from {source}{}", wish.row, backup.map_or("", |_| ", made again"));
            let seconds = start.elapsed().as_secs_f64();
            self.reached.push(Reached { version: self.version.clone(), what, expected, found, seconds });
            self.sandbox.run(&["delete", &copy, "--yes", "--no-wait", "--deletion-policy", "delete"]).ok();
        }
    }

    fn primary(&self) -> String {
        self.sandbox.database(NAME)["status"]["primary"].as_str().unwrap_or_default().to_owned()
    }

    fn freeze(&self, pod: &str) {
        self.sandbox.run(&["sandbox", "fault", "pod", pod, "--freeze", "--only", ARCHIVERS]).ok();
    }

    /// Of a member's files, the segments that it has not archived.
    fn unarchived(data: &Path, segments: &[Segment]) -> usize {
        let names: Vec<String> = segments.iter().map(ToString::to_string).collect();
        let waiting = waiting(data);
        waiting
            .iter()
            .filter(|file| {
                names.iter().any(|name| file.file_stem().is_some_and(|stem| stem == name.as_str()))
            })
            .count()
    }

    /// The primary dies with WAL that nobody has archived; returns its pod, its data, and the segments.
    fn lose_the_primary(&mut self) -> (String, PathBuf, Vec<Segment>) {
        let dead = self.primary();
        let replicas = ready_with(&self.sandbox, NAME, 2)["status"]["instances"].clone();
        let replicas: Vec<String> = replicas
            .as_array()
            .unwrap()
            .iter()
            .filter(|i| i["role"] == "replica")
            .map(|i| i["name"].as_str().unwrap().to_owned())
            .collect();
        let (mut standby, mut primary): (Vec<_>, Vec<_>) = data_directories(&self.sandbox)
            .into_iter()
            .partition(|data| data.join("standby.signal").exists());
        assert_eq!((standby.len(), primary.len(), replicas.len()), (1, 1, 1));
        let (standby, primary) = (standby.remove(0), primary.remove(0));
        self.freeze(&dead);
        replicas.iter().for_each(|replica| self.freeze(replica));
        let segments: Vec<Segment> = UNARCHIVED
            .map(|n| {
                self.insert(n);
                self.switch()
            })
            .collect();
        eventually("both have them, and neither has archived them", || {
            let counts = [&primary, &standby].map(|data| Self::unarchived(data, &segments));
            if counts == [segments.len(); 2] { Ok(()) } else { Err(format!("{counts:?}")) }
        });
        let archive = Contents::of(&self.place).archive;
        assert!(segments.iter().all(|segment| !archive.segments.contains_key(segment)));
        self.sandbox.run(&["sandbox", "fault", "pod", &dead, "--kill"]).ok();
        eventually("another primary", || match self.primary() {
            name if !name.is_empty() && name != dead => Ok(()),
            name => Err(name),
        });
        replicas
            .iter()
            .for_each(|replica| drop(self.sandbox.run(&["sandbox", "fault", "clear", "pod", replica]).ok()));
        (dead, primary, segments)
    }
}

/// Lives through all of it, and restores to each of these rows wherever that can be asked for.
fn reaches(version: &str, wishes: [&[Wish]; 3]) -> Vec<Reached> {
    let mut life = Life::begin(version);
    let first: Value = back_up(&life.sandbox);
    let first = first["id"].as_str().unwrap();
    (1..=3).for_each(|n| life.insert(n));
    let (dead, data, segments) = life.lose_the_primary();
    (7..=8).for_each(|n| life.insert(n));
    let last = life.switch();
    let contents = life.archived(last);
    assert_eq!(contents.conflicts(), []);
    assert!(last.timeline > segments[0].timeline);
    // From its replica, and not from the dead one.
    assert_eq!(Life::unarchived(&data, &segments), segments.len());
    life.restore(wishes[0], None);

    let claim = std::fs::read(life.store.path().join("claim.json")).unwrap();
    life.sandbox.run(&["sandbox", "fault", "clear", "pod", &dead]).ok();
    ready_with(&life.sandbox, NAME, 2);
    life.sandbox.run(&["delete", NAME, "--yes"]).ok();
    life.restore(wishes[1], None);

    create(&life.sandbox, "2", &life.place.url, &["--version", version]);
    assert_eq!(life.sandbox.sql(NAME, "select count(*) from t"), "8");
    (9..=10).for_each(|n| life.insert(n));
    let last = life.switch();
    let contents = life.archived(last);
    assert_eq!((contents.conflicts(), contents.good()), (vec![], vec![first.to_owned()]));
    assert_eq!(std::fs::read(life.store.path().join("claim.json")).unwrap(), claim);
    backups_are(&life.sandbox, "True", "BackupsCurrent");
    // From the backup of before, to before and after the deletion.
    life.restore(wishes[2], Some(first));
    let second = back_up(&life.sandbox);
    assert_eq!(Contents::of(&life.place).good(), [first, second["id"].as_str().unwrap()]);
    life.reached
}

fn judge(reached: &[Reached]) {
    println!("{:9}{:62}{:22}{:22}{:>6}", "release", "restored to", "rows", "expected", "s");
    for line in reached {
        let Reached { version, what, expected, found, seconds } = line;
        println!("{version:9}{what:62}{found:22}{expected:22}{seconds:6.1}");
    }
    let wrong = reached.iter().filter(|line| line.found != line.expected).count();
    assert_eq!((wrong, reached.is_empty()), (0, false), "restores that hold other rows");
}

/// In this order: what was written before the failover, what the dead primary had not archived, what came after it.
const ROWS: [u32; 3] = [2, 5, 7];

#[test]
fn a_time_is_reached_through_a_failover_and_a_deletion() {
    let wish = |from_url, row| Wish { from_url, row };
    let wishes: [&[Wish]; 3] = [&[wish(false, 5)], &[wish(true, 7)], &[wish(false, 2), wish(false, 9)]];
    judge(&reaches("16.15", wishes));
}

/// `cargo test --test runner -- --ignored --nocapture times_are_reached_on_each_major_version`
#[test]
#[ignore = "long: 27 restores"]
fn times_are_reached_on_each_major_version() {
    let wishes = |from_url, rows: [u32; 3]| rows.map(|row| Wish { from_url, row });
    let (source, url, again) = (wishes(false, ROWS), wishes(true, ROWS), wishes(false, [2, 7, 9]));
    let reached = ["16.15", "17.11", "18.6"].map(|version| reaches(version, [&source, &url, &again]));
    judge(&reached.into_iter().flatten().collect::<Vec<_>>());
}
