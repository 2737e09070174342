//! Finding the sandbox's process, or starting it.

use std::io;
use std::path::Path;
use std::process::Command;

use super::network::{self, NetworkError, Wishes};
use crate::cli::Context;
use crate::cli::error::{CliError, Result};
use crate::cli::progress::{Step, Steps};
use crate::sandbox::daemon::{Daemon, DaemonError, Record, State};
use crate::sandbox::home::Home;

/// Starts the sandbox where it does not run. Where it runs, this reads two small files.
///
/// # Errors
/// Where it does not start.
pub fn ensure(context: &Context, home: &Home) -> Result<Record> {
    ensure_as(context, home, Wishes::default())
}

/// The same, for a sandbox of a certain kind.
///
/// # Errors
/// Where it does not start, or is of another kind.
pub(super) fn ensure_as(context: &Context, home: &Home, wishes: Wishes) -> Result<Record> {
    let runs = || !matches!(Daemon::new(home.clone()).state(), Ok(State::Stopped));
    network::check(&home.state(), wishes, runs).map_err(|error| {
        match &error {
            NetworkError::File { path, source } => refused(home, path, source),
            _ => None,
        }
        .unwrap_or_else(|| CliError::failed(error))
    })?;
    let mut steps = None;
    let command = || {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["sandbox", "run", "--background"]);
        command.args(wishes.isolation.map(|kind| format!("--network={kind}")));
        command.args(wishes.volumes.map(|kind| format!("--volumes={kind}")));
        command.args(wishes.nodes.map(|count| format!("--nodes={count}")));
        // The process talks to its own API server, whatever cluster the caller looks at.
        for foreign in ["KUBECONFIG", "DBCTL_SANDBOX", "COMPLETE"] {
            command.env_remove(foreign);
        }
        Ok(command)
    };
    let on_start = || {
        let steps = steps.insert(Steps::new(context.ui));
        steps.set("start", Step::Working, format!("starting the sandbox in {}", home.root().display()));
    };
    let record = Daemon::new(home.clone()).ensure(command, on_start);
    let record = record.map_err(|error| {
        if let DaemonError::File { path, source } = &error
            && let Some(refused) = refused(home, path, source)
        {
            return refused;
        }
        let text = error.to_string();
        let (first, tail) = text.split_once('\n').unwrap_or((&text, ""));
        let details = tail.lines().map(|line| line.trim_end().to_owned());
        CliError::failed(first)
            .details(details)
            .hint("the whole log: dbctl sandbox logs; to start afresh: dbctl sandbox down")
    })?;
    if let Some(mut steps) = steps {
        steps.set("start", Step::Done, format!("the sandbox runs in {}", home.root().display()));
    }
    if record.version != env!("CARGO_PKG_VERSION") {
        context.ui.warn(format_args!(
            "the running sandbox is dbctl {}, this is {}: `dbctl sandbox down` lets the next command start this one",
            record.version,
            env!("CARGO_PKG_VERSION")
        ));
    }
    Ok(record)
}

/// A home in which this user may not write: no restart helps.
fn refused(home: &Home, path: &Path, source: &io::Error) -> Option<CliError> {
    use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    if !matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem | NotADirectory) {
        return None;
    }
    let root = home.root().display();
    let error = CliError::failed(format!("keep a sandbox in {root}: use {}: {source}", path.display()));
    Some(error.hint("set DBCTL_HOME to a directory that is yours, and can be written to"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_that_cannot_be_written_is_answered_with_another() {
        let home = Home::at("/opt/theirs".into()).unwrap();
        let path = home.state();
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
            let text = refused(&home, &path, &kind.into()).unwrap().render("error:", "hint:");
            assert!(text.contains("/opt/theirs/sandbox") && text.contains("set DBCTL_HOME"), "{text}");
            assert!(!text.contains("sandbox down"), "{text}");
        }
        assert!(refused(&home, &path, &io::ErrorKind::StorageFull.into()).is_none());
    }
}
