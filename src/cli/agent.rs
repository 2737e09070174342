//! `dbctl agent`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::error::{Result, failed};
use super::{Context, SERVER_LOG, log_to_stderr};

/// Do the small jobs inside a database pod
#[derive(Debug, Args)]
pub struct AgentArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run Patroni with the configuration that is the pod's, and watch over it
    Run,
    /// Make the application's role and database in a new cluster; Patroni calls it
    PostBootstrap {
        /// How to connect, as Patroni passes it
        connection: String,
    },
}

/// Runs the command.
///
/// # Errors
/// What the job returns.
pub fn run(context: &Context, args: &AgentArgs) -> Result<ExitCode> {
    log_to_stderr(context, &SERVER_LOG);
    match &args.command {
        Command::Run => crate::agent::run().map_err(failed),
        Command::PostBootstrap { connection } => {
            crate::agent::post_bootstrap(connection).map_err(failed)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
