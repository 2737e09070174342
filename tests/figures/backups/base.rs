//! Base backups and what becomes of them, beside what PostgreSQL's own tools and barman-cloud take for the same data.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use super::barman::Barman;
use super::bench::{Bench, NAME, names};
use super::process::{output, peak, peak_of, peak_of_all, piped, timed};
use super::table::{Row, ms};
use super::{Outcome, Size, rounds};

/// The most memory that a backup or a restore may have, in MB.
const MEMORY: f64 = 100.0;

/// A backup that was taken.
struct Taken {
    id: String,
    /// Bytes in the store, and of the data.
    sizes: (u64, u64),
    /// From the request to the answer, and of that until all was sent and stored: without what follows, the WAL.
    whole: Duration,
    copy: Duration,
}

fn back_up(bench: &Bench) -> Outcome<Taken> {
    let began = Instant::now();
    let entry = bench.dbctl(&["backup-now", NAME, "--wait", "-o", "json"])?;
    let whole = began.elapsed();
    let entry: Value = serde_json::from_str(&entry)?;
    let text = |field: &str| entry[field].as_str().ok_or_else(|| format!("no {field} in {entry}"));
    let number = |field: &str| entry[field].as_u64().ok_or_else(|| format!("no {field} in {entry}"));
    let at = |field: &str| Ok::<Timestamp, Box<dyn std::error::Error>>(text(field)?.parse()?);
    let copy = at("stoppedAt")?.duration_since(at("startedAt")?).try_into()?;
    Ok(Taken { id: text("id")?.to_owned(), sizes: (number("bytes")?, number("size")?), whole, copy })
}

/// A directory of that name that holds an empty one for a cluster's data.
fn place(bench: &Bench, name: &str) -> Outcome<PathBuf> {
    let place = bench.directory(name)?;
    match fs::remove_dir_all(place.join("data")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => bench.directory(&format!("{name}/data")),
    }
}

/// What Patroni runs where a database is restored.
fn bootstrap(bench: &Bench, taken: &Taken, data: &Path) -> Outcome<Command> {
    let mut command = bench.tool(env!("CARGO_BIN_EXE_dbctl"))?;
    bench.place().apply(&mut command);
    command.env_remove("RUST_LOG").env("SOCKET_DIRECTORY", data.with_file_name(""));
    command.args(["agent", "bootstrap", "--target-immediate", "--backup", &taken.id]);
    command.args(["--from", &bench.destination(), "--datadir"]).arg(data);
    Ok(command)
}

/// Takes a backup and restores it, and sees how much memory that takes.
pub fn memory(bench: &Bench, size: Size) -> Outcome<Vec<Row>> {
    bench.fill(size)?;
    let destination = bench.destination();
    let is_backup = |arguments: &[&str]| {
        arguments.starts_with(&["agent", "backup"]) && arguments.contains(&destination.as_str())
    };
    let (taken, backup) = peak_of(is_backup, || back_up(bench))?;
    let (stored, data) = taken.sizes;
    println!(
        "{size}: {:.0} MB of data are {:.0} MB in the store, {:.1} times less",
        data as f64 / 1e6,
        stored as f64 / 1e6,
        data as f64 / stored as f64
    );
    let restore = peak(&mut bootstrap(bench, &taken, &place(bench, "bare")?)?)?;
    Ok(vec![
        Row::new(format!("peak memory of a backup of {size}"), "MB", vec![backup]).at_most(MEMORY).told(),
        Row::new(format!("peak memory of a restore of {size}"), "MB", vec![restore]).at_most(MEMORY).told(),
    ])
}

/// A server of the restored data that archives nothing: PostgreSQL's tools would wait for its archiver.
struct Bare<'a> {
    bench: &'a Bench,
    place: PathBuf,
}

impl<'a> Bare<'a> {
    fn start(bench: &'a Bench) -> Outcome<Self> {
        let place = bench.directory("bare")?;
        fs::write(place.join("postgresql.conf"), "")?;
        fs::write(place.join("hba.conf"), "local all all trust\nlocal replication all trust\n")?;
        let at = |name: &str| place.join(name).display().to_string();
        let options = [
            ("config_file", at("postgresql.conf")),
            ("hba_file", at("hba.conf")),
            ("unix_socket_directories", at("")),
            ("listen_addresses", String::new()),
        ];
        let options: String = options.iter().map(|(name, value)| format!("-c {name}='{value}' ")).collect();
        let mut start = bench.tool("pg_ctl")?;
        start.args(["start", "-w", "-D", &at("data"), "-l", &at("log"), "-o", &options]);
        // The server inherits what it would otherwise hold open.
        let started = start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if !started.success() {
            return Err(fs::read_to_string(place.join("log"))?.into());
        }
        Ok(Self { bench, place })
    }

    fn base_backup(&self) -> Outcome<Duration> {
        let mut backup = self.bench.tool("pg_basebackup")?;
        backup.args(["-D", "-", "-F", "tar", "-X", "none", "-c", "fast", "-U", "postgres", "-h"]);
        piped(backup.arg(&self.place), Command::new("zstd").args(["-1", "-c"]))
    }
}

impl Drop for Bare<'_> {
    fn drop(&mut self) {
        let stop = self.bench.tool("pg_ctl").and_then(|mut stop| {
            output(stop.args(["stop", "-m", "immediate", "-D"]).arg(self.place.join("data")))
        });
        if let Err(error) = stop {
            eprintln!("{error}");
        }
    }
}

/// Backups of that size, and then restores.
pub fn measure(bench: &Bench, barman: Option<&Barman>, size: Size) -> Outcome<Vec<Row>> {
    let (mut rows, taken) = backups(bench, barman, size)?;
    rows.extend(restores(bench, barman, size, &taken)?);
    let began = Instant::now();
    bench.dbctl(&["restore", "copy", "--from", NAME, "--wait"])?;
    let whole =
        Row::new(format!("dbctl restore --wait of {size}, whole"), "s", vec![seconds(began.elapsed())]);
    rows.push(whole.told());
    Ok(rows)
}

fn seconds(time: Duration) -> f64 {
    ms(time) / 1e3
}

fn backups(bench: &Bench, barman: Option<&Barman>, size: Size) -> Outcome<(Vec<Row>, Taken)> {
    let bare = Bare::start(bench)?;
    // Once before it counts.
    let mut last = back_up(bench)?;
    bare.base_backup()?;
    let (mut whole, mut copy, mut floor, mut theirs) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds() {
        last = back_up(bench)?;
        whole.push(seconds(last.whole));
        copy.push(seconds(last.copy));
        floor.push(seconds(bare.base_backup()?));
        if let Some(barman) = barman {
            theirs.push(seconds(timed(&mut barman.back_up(&bare.place), 0)?));
            // One is enough to restore.
            let base = barman.directory(&bench.bucket()).join("base");
            let all = names(&base);
            for old in all.iter().rev().skip(1) {
                fs::remove_dir_all(base.join(old))?;
            }
        }
    }
    let memory = barman.map(|barman| peak_of_all(&mut barman.back_up(&bare.place))).transpose()?;
    if let Some(memory) = memory {
        println!("barman-cloud-backup: {memory:.0} MB at its peak");
    }
    let tools = "pg_basebackup | zstd -1";
    let copy = Row::new(format!("base backup of {size}, copied and stored"), "s", copy);
    let copy = copy.at_most_times(1.0, &floor, tools).beside(tools, &floor).beside("barman-cloud", &theirs);
    let whole = Row::new("  the whole backup-now --wait", "s", whole).beside(tools, &floor);
    Ok((vec![copy.told(), whole.beside("barman-cloud", &theirs).told()], last))
}

fn restores(bench: &Bench, barman: Option<&Barman>, size: Size, taken: &Taken) -> Outcome<Vec<Row>> {
    let epoch = names(&bench.bucket().join(bench.prefix())).into_iter().find(|name| name.contains('-'));
    let epoch = epoch.ok_or("there is no archive")?;
    let object = bench
        .bucket()
        .join(bench.prefix())
        .join(epoch)
        .join("base")
        .join(&taken.id)
        .join("base.0000.tar.zst");
    let (mut unpacked, mut whole, mut floor, mut synced, mut theirs) =
        (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..=rounds() {
        let data = place(bench, "restored")?;
        let (unpack, all) = restore(&mut bootstrap(bench, taken, &data)?)?;
        let data = place(bench, "restored")?;
        let mut zstd = Command::new("zstd");
        let bare = piped(
            zstd.arg("-dc").stdin(File::open(&object)?),
            Command::new("tar").args(["-x", "-C"]).arg(&data),
        )?;
        // dbctl's is on the disk when it is done.
        let sync = timed(Command::new("sync").arg("-f").arg(&data), 0)?;
        let beside = match barman {
            Some(barman) => {
                let data = place(bench, "restored")?;
                Some(timed(&mut barman.restore(&bench.bucket(), &data)?, 0)?)
            }
            None => None,
        };
        // The first is for warming up.
        if round > 0 {
            unpacked.push(seconds(unpack));
            whole.push(seconds(all));
            floor.push(seconds(bare));
            synced.push(seconds(bare + sync));
            theirs.extend(beside.map(seconds));
        }
    }
    place(bench, "restored")?;
    let tools = "zstd -d | tar x";
    let unpacked = Row::new(format!("restore of {size}, unpacked"), "s", unpacked);
    let unpacked = unpacked.at_most_times(1.2, &floor, tools).beside(tools, &floor);
    let whole = Row::new("  and checked and recovered by PostgreSQL", "s", whole);
    let unpacked = unpacked.beside("and sync", &synced).beside("barman-cloud", &theirs);
    Ok(vec![unpacked.told(), whole.told()])
}

/// Runs it; returns how long it unpacked, by its log, and how long it took in all.
fn restore(command: &mut Command) -> Outcome<(Duration, Duration)> {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let whole = began.elapsed();
    let log = String::from_utf8(output.stderr)?;
    if !output.status.success() {
        return Err(log.into());
    }
    let at = |words: &str| {
        let line =
            log.lines().find(|line| line.contains(words)).ok_or_else(|| format!("no {words:?} in {log}"))?;
        Ok::<Timestamp, Box<dyn std::error::Error>>(
            line.split_whitespace().next().unwrap_or_default().parse()?,
        )
    };
    let unpacked = at(": the backup is unpacked")?.duration_since(at(": restoring ")?);
    Ok((unpacked.try_into()?, whole))
}
