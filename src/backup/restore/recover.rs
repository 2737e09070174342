//! PostgreSQL recovers: it is run until it has replayed WAL up to the target and is promoted, and then stopped in order. So
//! what it leaves is a cluster like any other.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use super::settings::Recovery;
use super::verify::{VerifyError, control, program};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Between two attempts, where the archive cannot be reached. What was replayed is kept.
const PAUSE: Duration = Duration::from_secs(5);
/// What PostgreSQL says when `restore_command` could not tell whether there is a file.
const UNREACHED: &str = "could not restore file";
/// After the last of its messages only these are kept.
const KEPT: usize = 20;
/// Everybody who finds the socket is sent away while it recovers.
const HBA: &str = "local all all reject\n";

/// Why there is no recovered cluster.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// PostgreSQL cannot be run.
    #[error("run postgres: {0}")]
    Run(io::Error),
    /// A file.
    #[error("write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// PostgreSQL says that it is not possible.
    #[error("recover to {target}: {words}")]
    Refused {
        /// Up to where.
        target: String,
        /// Its words.
        words: String,
    },
    /// Its control file.
    #[error(transparent)]
    Control(#[from] VerifyError),
    /// It was told to end.
    #[error("recover to {0}: it was told to stop")]
    Stopped(String),
}

/// What a recovery came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The timeline that the cluster is on then.
    pub timeline: u32,
    /// When the last transaction that was replayed was committed; `None` where none was, or PostgreSQL did not say.
    pub last: Option<Timestamp>,
}

/// A line of PostgreSQL's log that says why it ended.
fn is_fatal(line: &str) -> bool {
    ["FATAL:", "PANIC:"].iter().any(|level| line.starts_with(level))
}

/// Recovers the cluster in `data`, which has a `backup_label` or was in this before. `scratch` is a directory of one's own.
/// Returns where it got to.
///
/// Where the archive cannot be reached, PostgreSQL ends, since it could not tell that from the end of WAL; it is started again
/// for as long as that lasts.
///
/// # Errors
/// Where PostgreSQL cannot recover to the target.
pub async fn recover(data: &Path, scratch: &Path, recovery: &Recovery) -> Result<Recovered, RecoverError> {
    let hba = scratch.join("recovery_hba.conf");
    let config = scratch.join("recovery.conf");
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|source| RecoverError::Write { path: path.to_owned(), source })
    };
    write(&hba, HBA)?;
    write(&config, "")?;
    // That of a replica, which a backup of one holds, would have it wait for more WAL for ever.
    let standby = data.join("standby.signal");
    match std::fs::remove_file(&standby) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(RecoverError::Write { path: standby, source });
        }
        _ => {}
    }
    write(&data.join("recovery.signal"), "")?;
    let last = loop {
        let mut arguments: Vec<OsString> = vec!["-D".into(), data.into()];
        let mut set = |name: &str, value: OsString| {
            let mut pair = OsString::from(format!("{name}="));
            pair.push(value);
            arguments.extend(["-c".into(), pair]);
        };
        set("config_file", config.clone().into());
        set("hba_file", hba.clone().into());
        set("unix_socket_directories", scratch.into());
        for (name, value) in recovery.settings(&control(data).await?) {
            set(&name, value.into());
        }
        match attempt(data, &arguments, recovery).await? {
            Attempt::Done(last) => break last,
            Attempt::Unreached(words) => {
                tracing::warn!(
                    "failed to reach the archive, and the recovery goes on once it can be: {words}"
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    let after = control(data).await?;
    let refused =
        |words: &str| RecoverError::Refused { target: recovery.target.to_string(), words: words.to_owned() };
    if !after.is_shut_down_primary() {
        return Err(refused("PostgreSQL was not stopped in order"));
    }
    after
        .timeline()
        .filter(|timeline| *timeline > recovery.timeline)
        .map(|timeline| Recovered { timeline, last })
        .ok_or_else(|| refused("it opened no timeline of its own"))
}

enum Attempt {
    Done(Option<Timestamp>),
    Unreached(String),
}

async fn attempt(data: &Path, arguments: &[OsString], recovery: &Recovery) -> Result<Attempt, RecoverError> {
    let mut command = program("postgres");
    command.args(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
    let mut postgres = command.spawn().map_err(RecoverError::Run)?;
    let (lines, log) = follow_log(&mut postgres);
    let target = || recovery.target.to_string();
    let mut ended = None;
    while ended.is_none() {
        ended = postgres.try_wait().map_err(RecoverError::Run)?;
        if is_open(data, &postgres) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    if ended.is_none() {
        signal(&postgres, Signal::INT);
        let status = postgres.wait().await.map_err(RecoverError::Run)?;
        let _ = log.await;
        if status.success() {
            return Ok(Attempt::Done(lines.lock().ok().and_then(|lines| last_transaction(lines.iter()))));
        }
        ended = Some(status);
    } else {
        let _ = log.await;
    }
    let words = lines.lock().map(|lines| words(lines.iter())).unwrap_or_default();
    match words {
        Some(words) if words.contains(UNREACHED) && !is_wrong(&words) => Ok(Attempt::Unreached(words)),
        Some(words) => Err(RecoverError::Refused { target: target(), words }),
        None => Err(unexplained(&target(), ended)),
    }
}

/// What `wal-fetch` says of WAL that is there and cannot be used, now or later.
fn is_wrong(words: &str) -> bool {
    ["is damaged", "contents for it"].iter().any(|known| words.contains(known))
}

fn unexplained(target: &str, ended: Option<ExitStatus>) -> RecoverError {
    let how = ended.map_or_else(String::new, |status| status.to_string());
    RecoverError::Refused { target: target.to_owned(), words: format!("postgres ended with {how}") }
}

/// The first reason, and with it how far WAL went, if it was not far enough.
fn words<'a>(mut lines: impl Iterator<Item = &'a String> + Clone) -> Option<String> {
    let fatal = lines.clone().find(|line| is_fatal(line))?;
    let (_, said) = fatal.split_once(':')?;
    let mut said = said.trim().to_owned();
    if said.contains(UNREACHED)
        && let Some(why) = lines.clone().find_map(|line| line.strip_prefix("error: failed to "))
    {
        return Some(format!("{said}: failed to {why}"));
    }
    let last = lines.find_map(|line| last_at(line));
    if said.contains("before configured recovery target was reached") {
        let last = last.map(|at| format!(", the last of it a transaction of {at}")).unwrap_or_default();
        said = format!(
            "{said}: the archive holds nothing from behind the target{last}; without a target, all of it is recovered"
        );
    }
    Some(said)
}

/// The time that a line of the log names as that of the last transaction.
fn last_at(line: &str) -> Option<&str> {
    line.strip_prefix("LOG:")?.trim().strip_prefix("last completed transaction was at log time ")
}

fn last_transaction<'a>(mut lines: impl Iterator<Item = &'a String>) -> Option<Timestamp> {
    lines.find_map(|line| last_at(line)?.replacen(' ', "T", 1).parse().ok())
}

type Lines = std::sync::Arc<std::sync::Mutex<VecDeque<String>>>;

/// Passes PostgreSQL's log on, and keeps the end of it.
fn follow_log(postgres: &mut Child) -> (Lines, tokio::task::JoinHandle<()>) {
    let kept = Lines::default();
    let stderr = postgres.stderr.take();
    let into = kept.clone();
    let task = tokio::spawn(async move {
        let Some(stderr) = stderr else { return };
        let mut lines = BufReader::new(stderr).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line = String::from_utf8_lossy(&line).into_owned();
            eprintln!("{line}");
            if let Ok(mut kept) = into.lock() {
                kept.push_back(line);
                while kept.len() > KEPT {
                    kept.pop_front();
                }
            }
        }
    });
    (kept, task)
}

/// Whether it has recovered, and would take connections: the last line of `postmaster.pid` says `ready`
/// (`miscadmin.h`, `PM_STATUS_READY`).
fn is_open(data: &Path, postgres: &Child) -> bool {
    let Ok(text) = std::fs::read_to_string(data.join("postmaster.pid")) else { return false };
    let mut lines = text.lines();
    let own = lines.next().and_then(|pid| pid.trim().parse().ok()) == postgres.id();
    own && lines.nth(6).is_some_and(|status| status.trim() == "ready")
}

fn signal(postgres: &Child, signal: Signal) {
    let id = postgres.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(id) = id {
        // It may have ended already.
        let _ = kill_process(id, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_transactions_time_is_read() {
        let at = |line: &str| last_transaction([line.to_owned()].iter());
        let known = at("LOG:  last completed transaction was at log time 2026-11-22 03:00:00.123456+00");
        assert_eq!(known, Some("2026-11-22T03:00:00.123456Z".parse().unwrap()));
        assert_eq!(at("LOG:  redo done at 0/3000148"), None);
    }

    #[test]
    fn a_reason_is_found_in_the_log() {
        let said = |text: &str| {
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            words(lines.iter())
        };
        assert_eq!(said("LOG:  starting\nLOG:  database system is shut down"), None);
        assert_eq!(
            said("LOG:  x\nFATAL:  could not restore file \"00000002.history\" from archive: child process exited with exit code 255\nLOG:  shutting down")
                .as_deref(),
            Some("could not restore file \"00000002.history\" from archive: child process exited with exit code 255")
        );
        let two = said("error: failed to fetch X: the archive holds 2 contents for it\nFATAL:  could not restore file \"X\" from archive: exit code 255").unwrap();
        assert!(
            two.ends_with("exit code 255: failed to fetch X: the archive holds 2 contents for it")
                && is_wrong(&two),
            "{two}"
        );
        insta::assert_snapshot!(
            said("LOG:  last completed transaction was at log time 2026-11-22 03:00:00.1+00\nFATAL:  recovery ended before configured recovery target was reached\nFATAL:  other").unwrap(),
            @"recovery ended before configured recovery target was reached: the archive holds nothing from behind the target, the last of it a transaction of 2026-11-22 03:00:00.1+00; without a target, all of it is recovered"
        );
    }
}
