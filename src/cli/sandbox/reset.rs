//! `dbctl sandbox reset`.

use std::io;
use std::time::Duration;

use super::down;
use crate::cli::error::{CliError, Result};
use crate::cli::{Context, confirm};
use crate::sandbox::daemon::Daemon;
use crate::sandbox::home::Home;

/// What is deleted need not shut down in full.
const GRACE: Duration = Duration::from_secs(20);

/// Stops the sandbox and removes everything but the cache.
///
/// # Errors
/// Where it is refused, or a file cannot be removed.
pub fn run(context: &Context, home: &Home, yes: bool) -> Result<()> {
    if !home.state().exists() && !home.scratch().exists() {
        context.ui.note(format_args!("there is no sandbox in {}", home.root().display()));
        return Ok(());
    }
    confirm(context, home, yes)?;
    let daemon = Daemon::new(home.clone());
    let guard = daemon.hold_start().map_err(CliError::failed)?;
    down::stop(context, home, &daemon, GRACE)?;
    for path in [home.scratch(), home.state()] {
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CliError::failed(format!("remove {}: {error}", path.display())));
            }
            _ => {}
        }
    }
    drop(guard);
    // Only where it is empty.
    let _ = std::fs::remove_dir(home.root());
    context
        .ui
        .note(format_args!("the sandbox is deleted; installed software stays in {}", home.cache().display()));
    Ok(())
}

fn confirm(context: &Context, home: &Home, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    let question = format!("Delete the sandbox in {} with all its databases?", home.root().display());
    confirm::yes(context, &question, "the sandbox is not deleted")
}
