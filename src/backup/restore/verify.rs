//! PostgreSQL's own tools on a data directory.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::settings::Control;

/// Why a data directory was not found to be whole.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The program cannot be run.
    #[error("run {program}: {source}")]
    Run {
        /// Which.
        program: &'static str,
        /// What came of it.
        source: io::Error,
    },
    /// It says no.
    #[error("check {path} with {program}: {words}")]
    Refused {
        /// Which.
        program: &'static str,
        /// The data directory.
        path: PathBuf,
        /// Its words.
        words: String,
    },
}

/// One of PostgreSQL's programs, in English and without what only Patroni needs to know.
pub(in crate::backup) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("LC_ALL", "C").stdin(Stdio::null());
    let secret = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b"PATRONI_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| secret(name)) {
        command.env_remove(name);
    }
    command
}

async fn answer(name: &'static str, path: &Path, command: &mut Command) -> Result<String, VerifyError> {
    let output = command.output().await.map_err(|source| VerifyError::Run { program: name, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    // Of thousands of files that are wrong, the first tell enough.
    let words: Vec<&str> =
        words.lines().take(5).map(|line| line.trim_start_matches(name).trim_start_matches(": ")).collect();
    let words = if words.is_empty() { output.status.to_string() } else { words.join("; ") };
    Err(VerifyError::Refused { program: name, path: path.to_owned(), words })
}

/// Compares every file with the backup's manifest, which lies beside them.
///
/// # Errors
/// Where one differs, is missing, or should not be there.
pub async fn verify(data: &Path) -> Result<(), VerifyError> {
    let name = "pg_verifybackup";
    // WAL comes from the archive.
    let mut command = program(name);
    command.args(["--quiet", "--no-parse-wal"]).arg(data);
    answer(name, data, &mut command).await.map(drop)
}

/// What the cluster says of itself.
///
/// # Errors
/// Where it is none.
pub async fn control(data: &Path) -> Result<Control, VerifyError> {
    let name = "pg_controldata";
    let mut command = program(name);
    command.arg("-D").arg(data);
    Ok(Control::parse(&answer(name, data, &mut command).await?))
}
