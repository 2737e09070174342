//! `dbctl sandbox down`.

use std::time::Duration;

use crate::cli::Context;
use crate::cli::error::{CliError, Result};
use crate::cli::progress::{Step, Steps};
use crate::sandbox::daemon::{Daemon, State};
use crate::sandbox::home::Home;

/// Stops the sandbox; that nothing ran is no error.
///
/// # Errors
/// Where it does not stop.
pub fn run(context: &Context, home: &Home, timeout: Duration) -> Result<()> {
    let daemon = Daemon::new(home.clone());
    // Nobody may start it anew in the middle of this.
    let _guard = daemon.hold_start().map_err(CliError::failed)?;
    let stopped = stop(context, home, &daemon, timeout)?;
    context.ui.note(if stopped {
        "the sandbox is stopped; its databases are kept"
    } else {
        "the sandbox does not run"
    });
    Ok(())
}

/// Stops the process, and whatever it may have left; false where it did not run.
pub fn stop(context: &Context, home: &Home, daemon: &Daemon, timeout: Duration) -> Result<bool> {
    let mut steps = Steps::new(context.ui);
    if daemon.state().map_err(CliError::failed)? != State::Stopped {
        steps.set("stop", Step::Working, "stopping the sandbox: databases shut down");
    }
    let stopped = daemon.stop(timeout).map_err(CliError::failed)?;
    // Also where nothing ran: a process that was killed leaves its children to end by themselves.
    crate::sandbox::node::sweep(home).map_err(CliError::failed)?;
    if stopped {
        steps.set("stop", Step::Done, "the sandbox has stopped");
    }
    Ok(stopped)
}
