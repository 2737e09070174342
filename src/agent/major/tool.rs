//! The programs of both releases.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::agent::control::Control;

/// Variable with the directory of the previous major version's programs.
pub const PREVIOUS_BIN: &str = "POSTGRES_PREVIOUS_BIN";

/// Why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It cannot be run.
    #[error("run {program}: {source}")]
    Run {
        /// Which.
        program: String,
        /// What came of it.
        source: io::Error,
    },
    /// It says no.
    #[error("{doing}: {words}")]
    Refused {
        /// What it was to do.
        doing: &'static str,
        /// Its last words.
        words: String,
    },
}

/// Where the previous major version's programs lie: beside the image's own, in the place that packages have for them.
pub fn previous(major: u8, variable: Option<PathBuf>) -> PathBuf {
    variable.unwrap_or_else(|| format!("/usr/lib/postgresql/{major}/bin").into())
}

/// A program, of that directory or of the image's release, in English and without what only Patroni needs to know.
pub fn program(directory: Option<&Path>, name: &str) -> Command {
    let mut command = Command::new(directory.map_or_else(|| name.into(), |directory| directory.join(name)));
    command.env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        // libpq's would be taken for what pg_upgrade is to connect to.
        if name.starts_with("PATRONI_") || name.starts_with("PG") {
            command.env_remove(name.as_ref());
        }
    }
    command
}

/// What it writes to its standard output.
///
/// # Errors
/// Where it cannot be run or fails.
pub async fn output(doing: &'static str, command: &mut Command) -> Result<String, ToolError> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command.output().await.map_err(|source| ToolError::Run { program: name, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let words = last_words(&said).unwrap_or_else(|| output.status.to_string());
    Err(ToolError::Refused { doing, words })
}

/// What pg_controldata says of a data directory.
///
/// # Errors
/// Where it cannot be run or fails.
pub async fn control(directory: Option<&Path>, data: &Path) -> Result<String, ToolError> {
    let mut command = program(directory, "pg_controldata");
    command.arg("-D").arg(data);
    output("read the control file", &mut command).await
}

/// A value that pg_controldata tells.
pub fn value<'a>(control: &'a str, name: &str) -> Option<&'a str> {
    control.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// What pg_controldata says, read.
pub fn parsed(control: &str) -> Option<Control> {
    Control::parse(control)
}

/// The last lines, as one.
pub fn last_words(text: &str) -> Option<String> {
    const LINES: usize = 4;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    (!last.is_empty()).then(|| last.join("; "))
}
