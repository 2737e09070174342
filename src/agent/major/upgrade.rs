//! pg_upgrade on a volume: the new data is made beside the old, then takes its place. It can be killed at any instant and
//! run again. <https://www.postgresql.org/docs/current/pgupgrade.html>

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::disk::{self, Made, Progress, Volume};
use super::tool::{self, PREVIOUS_BIN, ToolError, output, program, value};
use crate::agent::gone::gone;
use crate::agent::postmaster::forget_killed;
use crate::api::PgVersion;
use crate::patroni::SUPERUSER;

/// After so many attempts that something else cut short, it is taken for what ends them.
const ATTEMPTS: u32 = 3;
/// More processes than this do not make it faster.
const JOBS: usize = 8;
/// So long what was killed has to end.
const ENDING: Duration = Duration::from_secs(30);
/// The longest reason that is told on, in characters.
const LONGEST: usize = 1500;

/// What is to be upgraded, and how.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The upgrade's id.
    pub id: String,
    /// The data directory.
    pub data: PathBuf,
    /// Its release.
    pub from: PgVersion,
    /// The release to go to.
    pub to: PgVersion,
    /// Share files with the old data.
    pub link: bool,
    /// Where sockets may be; the path is short.
    pub sockets: PathBuf,
    /// Settings that the old and the new server need to take the data: libraries that are preloaded, locks.
    pub settings: Vec<(String, String)>,
}

/// Why there is no new data. The old is as it was.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The volume.
    #[error("{doing} {path}: {source}")]
    Volume {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// A program.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// What is there is not what was to be upgraded.
    #[error("upgrade {path}: it holds data of PostgreSQL {found}, not of {wanted}")]
    Other {
        /// The directory.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What was expected.
        wanted: u8,
    },
    /// The image lacks what reads the old data.
    #[error(
        "find the programs of PostgreSQL {major} in {path}: the image of the new release must have those of the one before beside \
         its own"
    )]
    NoPrevious {
        /// The release.
        major: u8,
        /// Where they were looked for.
        path: PathBuf,
    },
    /// The old server was not stopped in order.
    #[error("upgrade the data: its server was not shut down in order, but is {0:?}")]
    Unclean(String),
    /// Something works on the old data.
    #[error("upgrade the data: processes {0:?} work in its directory")]
    Busy(Vec<i32>),
    /// pg_upgrade says no.
    #[error("upgrade the data with pg_upgrade: {0}")]
    Refused(String),
    /// Something ended it, again and again.
    #[error("upgrade the data: {ATTEMPTS} attempts were cut short; the last that pg_upgrade said: {0}")]
    Attempts(String),
}

fn on(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UpgradeError {
    let path = path.to_owned();
    move |source| UpgradeError::Volume { doing, path, source }
}

/// Where pg_upgrade writes what it says. Its own directory lies in the new data, and goes with it.
fn log(volume: &Volume) -> PathBuf {
    volume.root().join("dbctl-upgrade.log")
}

/// The last line that pg_upgrade said; `None` where there is no log.
pub fn saying(data: &Path) -> Option<String> {
    let text = fs::read(data.parent()?.join("dbctl-upgrade.log")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rfind(|line| !line.trim().is_empty())?;
    Some(line.split("  ").next().unwrap_or(line).trim().to_owned())
}

/// The programs of the release before, which must be there.
///
/// # Errors
/// Where they are not.
pub fn previous(from: PgVersion) -> Result<PathBuf, UpgradeError> {
    let major = from.major();
    let path = tool::previous(major, std::env::var_os(PREVIOUS_BIN).map(PathBuf::from));
    if path.join("postgres").exists() { Ok(path) } else { Err(UpgradeError::NoPrevious { major, path }) }
}

/// Upgrades the data, unless that is done. The old data stays beside the new.
///
/// # Errors
/// Where that is not possible; the old data is in its place then.
pub async fn upgrade(with: &Upgrade) -> Result<Made, UpgradeError> {
    let volume = Volume::new(&with.data, &with.id);
    let progress = volume.progress().map_err(on("read", volume.data()))?;
    let made = match progress {
        Progress::Swapped(made) => return Ok(made),
        Progress::Made(made) => made,
        Progress::Before => match make(with, &volume).await {
            Ok(made) => made,
            Err(error) => {
                // What was copied must not keep the old server from its room.
                volume.clear().map_err(on("clear", &volume.fresh()))?;
                return Err(error);
            }
        },
    };
    volume.swap().map_err(on("put in place", &volume.fresh()))?;
    Ok(made)
}

async fn make(with: &Upgrade, volume: &Volume) -> Result<Made, UpgradeError> {
    let old_programs = previous(with.from)?;
    volume.clear().map_err(on("clear", &volume.fresh()))?;
    let found = disk::major(volume.data()).map_err(on("read", volume.data()))?;
    if found != Some(with.from.major()) {
        return Err(UpgradeError::Other {
            path: volume.data().to_owned(),
            found: found.map_or_else(|| "no release".to_owned(), |major| major.to_string()),
            wanted: with.from.major(),
        });
    }
    settle(volume.data()).await?;
    let first = attempts(with, volume)? == 1;
    let control = tool::control(Some(&old_programs), volume.data()).await?;
    let state = value(&control, "Database cluster state").unwrap_or_default();
    if state != "shut down" {
        // Later, it is the server that pg_upgrade itself started, and that was killed with it.
        if first {
            return Err(UpgradeError::Unclean(state.to_owned()));
        }
        shut_down(with, &old_programs).await?;
    }
    let begun = Instant::now();
    let mut initdb = program(None, "initdb");
    initdb.arg("-D").arg(volume.fresh()).args(initdb_options(&control, with.to));
    output("make the new cluster with initdb", &mut initdb).await?;
    let method = method(with, volume);
    run(with, volume, &old_programs, method).await?;
    keep_altered(volume).await;
    let identifier = disk::system_identifier(&volume.fresh()).map(|id| id.to_string()).unwrap_or_default();
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let made = Made { system_identifier: identifier, milliseconds, method: method.to_owned() };
    volume.note(&made).map_err(on("note in", volume.root()))?;
    let _ = fs::remove_file(counter(volume));
    Ok(made)
}

/// Waits until nothing is left of a server that an attempt before has started.
async fn settle(data: &Path) -> Result<(), UpgradeError> {
    const PAUSE: Duration = Duration::from_millis(100);
    let begun = Instant::now();
    loop {
        let busy = forget_killed(data).map_err(on("settle", data))?;
        if busy.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > ENDING {
            return Err(UpgradeError::Busy(busy));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What the old server runs with on its last day: the certificate that it knows may be one of a pod that is gone, it archives
/// nothing more, and nobody confirms its commits.
const OLD: [(&str, &str); 3] = [("ssl", "off"), ("archive_command", ""), ("synchronous_standby_names", "")];

/// Has the old release recover its data and shut down, alone: pg_upgrade takes no other.
/// <https://www.postgresql.org/docs/current/app-postgres.html>
async fn shut_down(with: &Upgrade, old_programs: &Path) -> Result<(), ToolError> {
    let mut alone = program(Some(old_programs), "postgres");
    alone.arg("--single").arg("-D").arg(&with.data);
    let settings = with.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(OLD);
    for (name, value) in settings {
        alone.arg("-c").arg(format!("{name}={value}"));
    }
    // It ends with its input, which is empty.
    output("shut the old data down in order", alone.arg("template1")).await.map(drop)
}

fn counter(volume: &Volume) -> PathBuf {
    volume.root().join("dbctl-upgrade.attempts")
}

/// Counts this attempt.
fn attempts(with: &Upgrade, volume: &Volume) -> Result<u32, UpgradeError> {
    let path = counter(volume);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let before = text.split_once(' ').filter(|(id, _)| *id == with.id);
    let before: u32 = before.and_then(|(_, count)| count.trim().parse().ok()).unwrap_or_default();
    if before >= ATTEMPTS {
        // Whoever asks anew begins anew.
        let _ = fs::remove_file(&path);
        return Err(UpgradeError::Attempts(saying(&with.data).unwrap_or_default()));
    }
    fs::write(&path, format!("{} {}", with.id, before + 1)).map_err(on("write", &path))?;
    Ok(before + 1)
}

/// initdb's options: what pg_upgrade insists is the same in both clusters. Locale and encoding it brings along itself, from 16
/// on; before, dbctl has made every cluster with these.
fn initdb_options(control: &str, to: PgVersion) -> Vec<String> {
    let mut options: Vec<String> =
        ["--username", SUPERUSER, "--auth-local=trust", "--auth-host=reject", "--no-sync"]
            .map(str::to_owned)
            .to_vec();
    options.extend(["--encoding=UTF8", "--locale=C"].map(str::to_owned));
    let checksums = value(control, "Data page checksum version").is_some_and(|version| version != "0");
    if checksums {
        options.push("--data-checksums".to_owned());
    } else if to.major() >= 18 {
        options.push("--no-data-checksums".to_owned());
    }
    let segment = value(control, "Bytes per WAL segment").and_then(|bytes| bytes.parse::<u64>().ok());
    options.extend(segment.map(|bytes| format!("--wal-segsize={}", bytes >> 20)));
    options
}

fn method(with: &Upgrade, volume: &Volume) -> &'static str {
    if with.link {
        "link"
    } else if disk::clones(volume.data(), &volume.fresh()) {
        "clone"
    } else {
        "copy"
    }
}

/// What both servers are started with beside what pg_upgrade says. The old one waits for no replica and archives nothing; that
/// it would later is not forgotten, as it would be with `archive_mode` off. Its settings may name a certificate of a pod that is
/// gone; on the socket it needs none.
fn server_options(settings: &[(String, String)], old: bool) -> String {
    let quoted = |(name, value): &(String, String)| format!("-c {name}='{}'", value.replace('\'', "'\\''"));
    let mut options: Vec<String> = settings.iter().map(quoted).collect();
    if old {
        options.extend(OLD.map(|(name, value)| format!("-c {name}={value}")));
    }
    options.join(" ")
}

/// A directory for sockets without the locks of servers that were killed.
fn sockets(with: &Upgrade) -> Result<PathBuf, UpgradeError> {
    let path = with.sockets.join("upgrade");
    gone(fs::remove_dir_all(&path)).map_err(on("clear", &path))?;
    fs::create_dir(&path).map_err(on("make", &path))?;
    Ok(path)
}

async fn run(with: &Upgrade, volume: &Volume, old: &Path, method: &str) -> Result<(), UpgradeError> {
    let path = log(volume);
    let file = fs::File::create(&path).map_err(on("write", &path))?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from).min(JOBS);
    let sockets = sockets(with)?;
    let mut command = program(None, "pg_upgrade");
    command
        // It leaves scripts there that nobody needs.
        .current_dir(&sockets)
        .arg("--old-bindir")
        .arg(old)
        .arg("--old-datadir")
        .arg(volume.data())
        .arg("--new-datadir")
        .arg(volume.fresh())
        .args(["--username", SUPERUSER, "--jobs", &jobs.to_string(), &format!("--{method}")])
        .args(["--old-options", &server_options(&with.settings, true)])
        .arg("--socketdir")
        .arg(&sockets);
    let new = server_options(&with.settings, false);
    if !new.is_empty() {
        command.args(["--new-options", &new]);
    }
    let errors = file.try_clone().map_err(on("write", &path))?;
    command.stdout(file).stderr(errors);
    tracing::info!("pg_upgrade from {} to {} ({method}, {jobs} at a time)", with.from, with.to);
    let status = command
        .status()
        .await
        .map_err(|source| ToolError::Run { program: "pg_upgrade".to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
    for line in said.lines() {
        tracing::warn!("pg_upgrade: {line}");
    }
    Err(UpgradeError::Refused(why(&said, &volume.fresh())))
}

/// Why pg_upgrade ended: what follows the first that it calls fatal, and what the file says that it names.
fn why(said: &str, fresh: &Path) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let fatal = |line: &&str| {
        ["fatal", "*failure*", "could not", "error"].iter().any(|word| line.to_lowercase().contains(word))
    };
    let from = lines.iter().position(fatal).unwrap_or(lines.len().saturating_sub(4));
    let mut words: Vec<String> = lines
        .get(from..)
        .unwrap_or_default()
        .iter()
        .filter(|line| **line != "Failure, exiting")
        .map(|line| line.trim_end_matches("fatal").trim().to_owned())
        .collect();
    // Its lists and its servers' logs lie in the new data, which goes.
    let mentioned = || lines.iter().flat_map(|line| line.split(' ')).map(|word| word.trim_matches('"'));
    let read = |end: &'static str| {
        let named: BTreeSet<&str> =
            mentioned().filter(|word| word.ends_with(end) && Path::new(word).starts_with(fresh)).collect();
        named.into_iter().filter_map(|path| fs::read_to_string(path).ok())
    };
    for list in read(".txt") {
        words.extend(list.lines().take(5).map(|line| line.trim().to_owned()));
    }
    for log in read(".log") {
        words.extend(
            log.lines().filter(|line| line.contains("FATAL:") || line.contains("PANIC:")).map(str::to_owned),
        );
    }
    let words = if words.is_empty() { "it does not say why".to_owned() } else { words.join("; ") };
    words.chars().take(LONGEST).collect()
}

/// What users have set with ALTER SYSTEM goes along, unless the new release does not know one of its settings any more.
async fn keep_altered(volume: &Volume) {
    const ALTERED: &str = "postgresql.auto.conf";
    let (from, to) = (volume.data().join(ALTERED), volume.fresh().join(ALTERED));
    let Ok(before) = fs::read(&to) else { return };
    if fs::copy(&from, &to).is_err() {
        return;
    }
    let mut check = program(None, "postgres");
    check.arg("-D").arg(volume.fresh()).args(["-C", "port"]);
    if let Err(error) = output("read postgresql.auto.conf", &mut check).await {
        tracing::warn!("what ALTER SYSTEM has set does not go along to the new release: failed to {error}");
        if let Err(error) = fs::write(&to, before) {
            tracing::warn!("failed to write {}: {error}", to.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_cluster_is_made_like_the_old() {
        let options = |control: &str, to: &str| initdb_options(control, to.parse().unwrap()).join(" ");
        let with =
            "Bytes per WAL segment:                67108864\nData page checksum version:           1\n";
        assert!(options(with, "18.6").ends_with("--locale=C --data-checksums --wal-segsize=64"));
        let without = "Data page checksum version:           0\n";
        assert!(options(without, "18.6").ends_with("--no-data-checksums"));
        assert!(!options(without, "17.11").contains("checksums"));
    }

    #[test]
    fn servers_get_settings_through_a_shell() {
        let settings = [("shared_preload_libraries".to_owned(), "a, 'b'".to_owned())];
        assert_eq!(server_options(&settings, false), r"-c shared_preload_libraries='a, '\''b'\'''");
        assert!(
            server_options(&settings, true).ends_with(" -c archive_command= -c synchronous_standby_names=")
        );
        assert_eq!(server_options(&[], false), "");
    }

    #[test]
    fn why_it_failed_is_told_with_what_it_lists() {
        let root = tempfile::tempdir().unwrap();
        let fresh = root.path().join("pgdata.new-x");
        let list = fresh.join("pg_upgrade_output.d/loadable_libraries.txt");
        fs::create_dir_all(list.parent().unwrap()).unwrap();
        fs::write(
            &list,
            "could not load library \"$libdir/foo\": ERROR:  could not access file\nIn database: app\n",
        )
        .unwrap();
        let said = format!(
            "Performing Consistency Checks\nChecking for presence of required libraries                   fatal\n\n\
             Your installation references loadable libraries that are missing from the\nnew installation.\n    {}\nFailure, exiting\n",
            list.display()
        );
        let why = why(&said, &fresh);
        assert!(why.starts_with("Checking for presence of required libraries; Your installation"), "{why}");
        assert!(why.contains("$libdir/foo") && why.ends_with("In database: app"), "{why}");
        let log = fresh.join("pg_upgrade_output.d/pg_upgrade_server.log");
        fs::write(&log, "LOG:  starting\nFATAL:  lock file \"postmaster.pid\" already exists\n").unwrap();
        let said = format!(
            "*failure*\nConsult the last few lines of \"{}\" for\nthe probable cause.\n",
            log.display()
        );
        let why = super::why(&said, &fresh);
        assert!(
            why.ends_with("the probable cause.; FATAL:  lock file \"postmaster.pid\" already exists"),
            "{why}"
        );
    }
}
