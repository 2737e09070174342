//! `dbctl agent`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::error::{Result, failed};
use super::{Context, SERVER_LOG, log_to_stderr, single};
use crate::agent::{Job, Source, fetch_error_code};
use crate::backup::archive::Fetched;

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
    /// Archive a file of WAL; PostgreSQL's archive_command
    WalPush {
        /// The destination
        #[arg(long, value_name = "URL")]
        to: String,
        /// The id of the archive, which must hold the destination's claim
        #[arg(long, value_name = "ID")]
        archive: String,
        /// The file, as PostgreSQL passes it
        path: PathBuf,
    },
    /// Fetch a file of WAL; PostgreSQL's restore_command in a recovery
    WalFetch {
        #[command(flatten)]
        source: SourceArgs,
        /// The file's name
        file: String,
        /// Where it goes
        path: PathBuf,
    },
    /// Take a base backup; the pod of a backup runs it
    Backup {
        /// The destination
        #[arg(long, value_name = "URL")]
        to: String,
        /// The id of the archive, which must hold the destination's claim
        #[arg(long, value_name = "ID")]
        archive: String,
        /// The database
        #[arg(long, value_name = "NAME")]
        database: String,
        /// How many good backups stay
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        /// The request that asked for it
        #[arg(long, value_name = "ID")]
        request: Option<String>,
    },
    /// Fetch the segments behind one, before they are asked for
    #[command(hide = true)]
    WalPrefetch {
        #[command(flatten)]
        source: SourceArgs,
        /// Bytes of a segment
        #[arg(long)]
        size: u64,
        /// The segment that was fetched last
        after: String,
    },
}

#[derive(Debug, Args)]
struct SourceArgs {
    /// The destination
    #[arg(long, value_name = "URL")]
    from: String,
    /// Which cluster's WAL: major version and system identifier
    #[arg(long, value_name = "MAJOR-ID")]
    epoch: String,
}

impl From<&SourceArgs> for Source {
    fn from(args: &SourceArgs) -> Self {
        Self { from: args.from.clone(), epoch: args.epoch.clone() }
    }
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
        Command::WalPush { to, archive, path } => {
            single(async { crate::agent::wal_push(to, archive, path).await.map_err(failed) })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::WalFetch { source, file, path } => wal_fetch(&source.into(), file, path),
        Command::Backup { to, archive, database, keep, request } => {
            let job = Job {
                to: to.clone(),
                archive: archive.clone(),
                database: database.clone(),
                keep: usize::try_from(*keep).unwrap_or(usize::MAX),
                request: request.clone(),
            };
            single(async { crate::agent::backup(&job).await.map_err(failed) })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::WalPrefetch { source, size, after } => {
            single(async { crate::agent::wal_prefetch(&source.into(), after, *size).await.map_err(failed) })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Its exit code is an answer: 1 says that the archive has no such file, and is not worth a line in PostgreSQL's log.
fn wal_fetch(source: &Source, file: &str, path: &Path) -> Result<ExitCode> {
    single(async {
        match crate::agent::wal_fetch(source, file, path).await {
            Ok(Fetched::Found) => Ok(ExitCode::SUCCESS),
            Ok(Fetched::Absent) => Ok(ExitCode::FAILURE),
            Err(error) => {
                eprintln!("error: failed to {error}");
                Ok(ExitCode::from(fetch_error_code()))
            }
        }
    })
}
