//! `pg_amcheck` over a whole cluster. <https://www.postgresql.org/docs/current/app-pgamcheck.html>

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::blame::is_machines;
use crate::backup::restore::program;

/// Of what it says, so many bytes are read: a ruined table has it say something of each row.
const READ: u64 = 64 << 10;
/// Of thousands of findings, the first tell enough.
const FINDINGS: usize = 3;

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It cannot be run.
    #[error("run pg_amcheck: {0}")]
    Run(io::Error),
    /// A file.
    #[error("write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// It could not look, for reasons that are not the data's.
    #[error("check the restored data with pg_amcheck: {0}")]
    Failed(String),
}

/// Looks at every table and B-tree of the server whose socket is in `sockets`; returns what is wrong, if anything is.
///
/// Settings that users have made for a role or a database must not end it, and no code of theirs is run.
pub(super) async fn check(
    sockets: &Path,
    user: &str,
    major: u32,
    scratch: &Path,
) -> Result<Option<String>, CheckError> {
    let (said, complained) = (scratch.join("amcheck.out"), scratch.join("amcheck.err"));
    let file = |path: &Path| {
        File::create(path).map_err(|source| CheckError::Write { path: path.to_owned(), source })
    };
    let mut command = program("pg_amcheck");
    command.args(["--all", "--install-missing", "--parent-check", "--heapallindexed", "--no-password"]);
    command.args(["--username", user, "--host"]).arg(sockets);
    command.env("PGOPTIONS", options(major));
    for name in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE", "PGHOSTADDR"] {
        command.env_remove(name);
    }
    command.stdout(file(&said)?).stderr(file(&complained)?).kill_on_drop(true);
    let status = command.status().await.map_err(CheckError::Run)?;
    if status.success() {
        return Ok(None);
    }
    let words = findings(&beginning(&said)?).or(findings(&beginning(&complained)?));
    let words = words.unwrap_or_else(|| format!("it ended with {status}"));
    // Its code tells findings from the rest, but it lists among them what the machine kept it from reading, too.
    if is_machines(&words) || status.code().is_none() {
        return Err(CheckError::Failed(words));
    }
    Ok(Some(words))
}

fn beginning(path: &Path) -> Result<String, CheckError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(READ).read_to_end(&mut bytes));
    read.map_err(|source| CheckError::Write { path: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Settings of the session, which outweigh those of roles and databases.
fn options(major: u32) -> String {
    let mut settings = vec![
        "statement_timeout=0",
        "lock_timeout=0",
        "idle_session_timeout=0",
        "idle_in_transaction_session_timeout=0",
        "default_transaction_read_only=off",
        // Event triggers are not fired then, but for those that are to be always.
        "session_replication_role=replica",
        "session_preload_libraries=",
        "local_preload_libraries=",
        "zero_damaged_pages=off",
        "ignore_checksum_failure=off",
    ];
    if major >= 17 {
        settings.extend(["transaction_timeout=0", "event_triggers=off"]);
    }
    settings.iter().map(|setting| format!("-c {setting}")).collect::<Vec<_>>().join(" ")
}

/// The first findings: a line that names something, and what is said of it in the lines below, which are indented.
fn findings(text: &str) -> Option<String> {
    let mut all: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let enough = all.len() > FINDINGS;
        match all.last_mut() {
            Some(last) if line.starts_with(' ') => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ if enough => break,
            _ => all.push(line.trim().trim_start_matches("pg_amcheck: ").to_owned()),
        }
    }
    let more = all.len() > FINDINGS;
    all.truncate(FINDINGS);
    let text = all.join("; ");
    (!text.is_empty()).then(|| if more { format!("{text}; and more") } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_findings_are_told() {
        let one = "heap table \"postgres.public.t\", block 0, offset 1:\n    line pointer to page offset 0 is not valid\n";
        assert_eq!(
            findings(one).as_deref(),
            Some(
                "heap table \"postgres.public.t\", block 0, offset 1: line pointer to page offset 0 is not valid"
            )
        );
        let many = findings(&one.repeat(9)).unwrap();
        assert_eq!(
            (many.matches("not valid; ").count(), many.ends_with("not valid; and more")),
            (FINDINGS, true)
        );
        assert_eq!(findings("\n"), None);
        assert_eq!(findings("pg_amcheck: error: x\n").as_deref(), Some("error: x"));
    }

    #[test]
    fn only_settings_that_there_are_are_given() {
        assert!(options(18).contains("-c event_triggers=off"));
        assert!(!options(16).contains("event_triggers") && !options(16).contains("transaction_timeout"));
    }
}
