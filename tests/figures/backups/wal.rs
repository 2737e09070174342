//! Files of WAL: into the archive and back, one process each, as PostgreSQL starts them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use super::barman::Barman;
use super::bench::{Bench, names, until};
use super::process::{find, output, peak, peak_of_all, timed};
use super::table::{Row, ms};
use super::{Outcome, rounds};

/// Segments that are pushed: more than there are rounds, and some to fetch ahead.
const SEGMENTS: usize = 18;
/// Of a sustained push, in each round.
const RUN: usize = 4;
/// With fewer segments ahead, `wal-fetch` has more fetched.
const AHEAD: usize = 4;
/// pgbench's accounts, in hundred thousands.
const SCALE: &str = "10";
const ARCHIVE: &str = "figures";

/// Real segments of a busy database, beside what tells whose they are.
struct Wal {
    directory: TempDir,
    epoch: String,
    segments: Vec<String>,
}

impl Wal {
    /// Has pgbench work until there are enough, and copies them.
    fn of(bench: &Bench) -> Outcome<Self> {
        output(bench.client("pgbench")?.args(["--initialize", "--quiet", "--scale", SCALE]))?;
        bench.sql("select pg_switch_wal()")?;
        let first = bench.sql("select pg_walfile_name(pg_current_wal_lsn() + 1)")?;
        let mut last = first.clone();
        let data = bench.data()?;
        let whole = |last: &str| -> Vec<String> {
            let mut names = names(&data.join("pg_wal"));
            names.retain(|name| name.len() == 24 && first.as_str() < name.as_str() && name.as_str() < last);
            names
        };
        while whole(&last).len() < SEGMENTS {
            // Behind a checkpoint, each page that is changed goes into the WAL as a whole.
            bench.sql("checkpoint")?;
            output(bench.client("pgbench")?.args(["--client", "4", "--time", "5", "--no-vacuum"]))?;
            last = bench.sql("select pg_walfile_name(pg_current_wal_lsn())")?;
        }
        let segments = whole(&last).into_iter().take(SEGMENTS).collect::<Vec<_>>();
        let directory = tempfile::Builder::new().prefix("dbctl-wal-").tempdir_in("/tmp")?;
        for name in ["pg_wal", "global"] {
            fs::create_dir(directory.path().join(name))?;
        }
        let files = segments.iter().map(|name| format!("pg_wal/{name}"));
        for file in files.chain(["PG_VERSION", "global/pg_control"].map(str::to_owned)) {
            fs::copy(data.join(&file), directory.path().join(&file))?;
        }
        let system =
            fs::read(data.join("global/pg_control"))?.first_chunk().copied().ok_or("no pg_control")?;
        let major = fs::read_to_string(data.join("PG_VERSION"))?;
        let epoch = format!("{}-{}", major.trim(), u64::from_le_bytes(system));
        Ok(Self { directory, epoch, segments })
    }

    fn path(&self, segment: &str) -> PathBuf {
        self.directory.path().join("pg_wal").join(segment)
    }

    fn push(&self, bench: &Bench, prefix: &str, segment: &str) -> Command {
        let path = format!("pg_wal/{segment}");
        let mut command = bench.agent(&["wal-push", "--to", &bench.url(prefix), "--archive", ARCHIVE, &path]);
        command.current_dir(self.directory.path());
        command
    }

    fn fetch(&self, bench: &Bench, data: &Path, segment: &str) -> Command {
        let from = bench.url("push");
        let args = ["wal-fetch", "--from", &from, "--epoch", &self.epoch, segment, "pg_wal/RECOVERYXLOG"];
        let mut command = bench.agent(&args);
        command.current_dir(data);
        command
    }
}

/// Measures all of it.
pub fn measure(bench: &Bench, barman: Option<&Barman>) -> Outcome<Vec<Row>> {
    let wal = Wal::of(bench)?;
    // What a shop's data are, pgbench's are not: most of them is blank.
    bench.sql("drop table pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers")?;
    bench.archived()?;
    let mut rows = push(bench, &wal, barman)?;
    rows.push(sustained(bench, &wal, barman)?);
    rows.extend(fetch(bench, &wal, barman)?);
    Ok(rows)
}

fn push(bench: &Bench, wal: &Wal, barman: Option<&Barman>) -> Outcome<Vec<Row>> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first makes the claim, and the caches warm.
    for (round, segment) in wal.segments.iter().enumerate() {
        let took = ms(timed(&mut wal.push(bench, "push", segment), 0)?);
        let beside = barman.map(|barman| timed(&mut barman.push(&wal.path(segment)), 0)).transpose()?;
        if (1..=rounds()).contains(&round) {
            ours.push(took);
            theirs.extend(beside.map(ms));
        }
    }
    let (mut memory, mut their_memory) = (Vec::new(), Vec::new());
    for segment in wal.segments.iter().take(rounds()) {
        memory.push(peak(&mut wal.push(bench, "memory", segment))?);
        // What is there is overwritten.
        their_memory
            .extend(barman.map(|barman| peak_of_all(&mut barman.push(&wal.path(segment)))).transpose()?);
    }
    let row = Row::new("wal-push of a segment of 16 MiB", "ms", ours).at_most(100.0);
    let memory = Row::new("  its peak memory", "MB", memory).at_most(64.0);
    let (row, memory) = (row.beside("barman-cloud", &theirs), memory.beside("barman-cloud", &their_memory));
    Ok(vec![row.told(), memory.told()])
}

/// One after the other, as `archive_command` gives.
fn sustained(bench: &Bench, wal: &Wal, barman: Option<&Barman>) -> Outcome<Row> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds() {
        let prefix = format!("run-{round}");
        let mut segments = wal.segments.iter().cycle().skip(round);
        timed(&mut wal.push(bench, &prefix, segments.next().ok_or("no segment")?), 0)?;
        let segments: Vec<_> = segments.take(RUN).collect();
        let began = Instant::now();
        for segment in &segments {
            timed(&mut wal.push(bench, &prefix, segment), 0)?;
        }
        ours.push(RUN as f64 / began.elapsed().as_secs_f64());
        fs::remove_dir_all(bench.bucket().join(&prefix))?;
        let Some(barman) = barman else { continue };
        let began = Instant::now();
        for segment in &segments {
            timed(&mut barman.push(&wal.path(segment)), 0)?;
        }
        theirs.push(RUN as f64 / began.elapsed().as_secs_f64());
    }
    let row = Row::new("sustained push, one after the other", "segments/s", ours);
    Ok(row.beside("barman-cloud", &theirs).told())
}

fn fetch(bench: &Bench, wal: &Wal, barman: Option<&Barman>) -> Outcome<Vec<Row>> {
    let absent = "0000000100000FFF00000000";
    let (mut miss, mut their_miss, mut none, mut their_none) = (vec![], vec![], vec![], vec![]);
    let to = wal.directory.path().join("fetched");
    for segment in wal.segments.iter().take(rounds()) {
        let asker = Asker::new(wal)?;
        miss.push(ms(timed(&mut wal.fetch(bench, &asker.data, segment), 0)?));
        asker.settled(segment)?;
        none.push(ms(timed(&mut wal.fetch(bench, &asker.data, absent), 1)?));
        if let Some(barman) = barman {
            their_miss.push(ms(timed(&mut barman.fetch(segment, &to), 0)?));
            their_none.push(ms(timed(&mut barman.fetch(absent, &to), 1)?));
        }
    }
    let (asker, mut hit) = (Asker::new(wal)?, Vec::new());
    for (round, segment) in wal.segments.iter().take(rounds() + 1).enumerate() {
        let took = ms(timed(&mut wal.fetch(bench, &asker.data, segment), 0)?);
        let came = fs::read(asker.data.join("pg_wal/RECOVERYXLOG"))?;
        if came != fs::read(wal.path(segment))? {
            return Err(format!("{segment} came back as something else").into());
        }
        if round > 0 {
            hit.push(took);
        }
        asker.settled(segment)?;
    }
    let miss = Row::new("wal-fetch, from the store", "ms", miss).at_most(150.0);
    Ok(vec![
        Row::new("wal-fetch, fetched ahead", "ms", hit).at_most(10.0).told(),
        miss.beside("barman-cloud", &their_miss).told(),
        Row::new("wal-fetch, not there", "ms", none).beside("barman-cloud", &their_none).told(),
    ])
}

/// A recovery's data directory.
struct Asker<'a> {
    wal: &'a Wal,
    data: PathBuf,
    _home: TempDir,
}

impl<'a> Asker<'a> {
    fn new(wal: &'a Wal) -> Outcome<Self> {
        let home = tempfile::Builder::new().prefix("dbctl-wal-").tempdir_in("/tmp")?;
        let data = home.path().join("data");
        fs::create_dir_all(data.join("pg_wal"))?;
        Ok(Self { wal, data, _home: home })
    }

    /// Waits until nothing more is fetched behind that segment, so that the next figure is of what it is meant to be.
    fn settled(&self, segment: &str) -> Outcome<()> {
        let spool = self.data.with_file_name("wal-spool").join(&self.wal.epoch);
        let behind = self.wal.segments.iter().filter(|name| name.as_str() > segment).count();
        until("is fetched ahead", || {
            let ahead =
                names(&spool).iter().filter(|name| name.len() == 24 && name.as_str() > segment).count();
            let prefetches = |arguments: &[&str]| {
                arguments.starts_with(&["agent", "wal-prefetch"])
                    && arguments.contains(&self.wal.epoch.as_str())
            };
            ahead >= behind.min(AHEAD) && find(prefetches).is_none()
        })
    }
}
