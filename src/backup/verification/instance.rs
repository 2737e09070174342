//! PostgreSQL on restored data, where nobody reaches it but who started it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use crate::backup::restore::program;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Only who may enter the directory finds the socket.
const HBA: &str = "local all all trust\n";
/// What is set whatever the data's own configuration says. It archives nothing, replicates from nobody, runs nobody else's
/// code in the background, and what it writes is thrown away.
const SETTINGS: [(&str, &str); 17] = [
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    ("ssl", "off"),
    ("archive_mode", "off"),
    ("restore_command", ""),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("autovacuum", "off"),
    ("huge_pages", "off"),
    ("shared_preload_libraries", ""),
    ("max_logical_replication_workers", "0"),
    ("max_parallel_maintenance_workers", "0"),
    ("max_parallel_workers_per_gather", "0"),
    ("synchronous_standby_names", ""),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("lc_messages", "C"),
];

/// Why PostgreSQL does not run on it.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// A file, or the program.
    #[error("run postgres with {path}: {source}")]
    Run {
        /// What was needed for it.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("start PostgreSQL on what was restored: {0}")]
    Ended(String),
}

/// A server; it ends with this.
pub(super) struct Instance {
    postgres: Child,
    log: PathBuf,
}

impl Instance {
    /// Starts it, with its socket in `sockets`, a directory of one's own; returns once it takes connections.
    pub(super) async fn start(data: &Path, sockets: &Path, scratch: &Path) -> Result<Self, InstanceError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| InstanceError::Run { path, source }
        };
        let (config, hba, log) =
            (scratch.join("check.conf"), scratch.join("check_hba.conf"), scratch.join("check.log"));
        fs::write(&config, "").map_err(failed(&config))?;
        fs::write(&hba, HBA).map_err(failed(&hba))?;
        // What a standby or an interrupted recovery would leave must not have it wait for anything.
        let output = File::create(&log).map_err(failed(&log))?;
        let mut command = program("postgres");
        command.args(arguments(data, sockets, &config, &hba));
        command.stderr(output).stdout(Stdio::null()).kill_on_drop(true);
        let mut instance = Self { postgres: command.spawn().map_err(failed(data))?, log };
        loop {
            if let Some(status) = instance.postgres.try_wait().map_err(failed(data))? {
                return Err(InstanceError::Ended(
                    instance.last_words().unwrap_or_else(|| status.to_string()),
                ));
            }
            if is_open(data, instance.postgres.id()) {
                return Ok(instance);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The first that it said of its own end, or of that of one of its processes.
    pub(super) fn last_words(&self) -> Option<String> {
        let log = fs::read(&self.log).unwrap_or_default();
        end_of(&String::from_utf8_lossy(&log))
    }

    /// Stops it, without a checkpoint: nobody needs what it wrote.
    pub(super) async fn stop(mut self) {
        let id = self.postgres.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may have ended already.
            let _ = kill_process(id, Signal::QUIT);
        }
        let _ = self.postgres.wait().await;
    }
}

fn end_of(log: &str) -> Option<String> {
    let fatal = |line: &&str| {
        ["FATAL:", "PANIC:"].iter().any(|level| line.contains(level))
            || line.contains("was terminated by signal")
    };
    log.lines().find(fatal).map(|line| line.trim().to_owned())
}

fn arguments(data: &Path, sockets: &Path, config: &Path, hba: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-D".into(), data.into()];
    let mut set = |name: &str, value: OsString| {
        let mut pair = OsString::from(format!("{name}="));
        pair.push(value);
        arguments.extend(["-c".into(), pair]);
    };
    set("config_file", config.into());
    set("hba_file", hba.into());
    set("unix_socket_directories", sockets.into());
    for (name, value) in SETTINGS {
        set(name, value.into());
    }
    arguments
}

/// Whether it takes connections: the last line of `postmaster.pid` says `ready` (`miscadmin.h`, `PM_STATUS_READY`).
fn is_open(data: &Path, id: Option<u32>) -> bool {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return false };
    let mut lines = text.lines();
    let own = lines.next().and_then(|pid| pid.trim().parse().ok()) == id;
    own && lines.nth(6).is_some_and(|status| status.trim() == "ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_it_is_found_in_its_log() {
        let log = "2026 LOG:  starting\n2026 [7] FATAL:  could not open relation mapping file\n2026 FATAL:  other\n";
        assert_eq!(end_of(log).as_deref(), Some("2026 [7] FATAL:  could not open relation mapping file"));
        let log = "LOG:  server process (PID 9) was terminated by signal 11: Segmentation fault\n";
        assert_eq!(end_of(log).as_deref(), Some(log.trim()));
        assert_eq!(end_of("LOG:  database system is ready\n"), None);
    }
}
