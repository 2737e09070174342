//! `dbctl agent`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::error::{Result, failed};
use super::{Context, SERVER_LOG, log_to_stderr, single};
use crate::agent::{Bootstrap, Job, Rehearsal, Source, Upgrade, Verification, fetch_error_code};
use crate::api::PgVersion;
use crate::backup::archive::Fetched;
use crate::backup::restore::Target;
use crate::backup::wal::position;

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
    /// Make the data of a database that is restored; Patroni calls it in place of initdb
    Bootstrap(BootstrapArgs),
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
    /// Restore a backup on a volume that goes, and check it; the pod of a verification runs it
    Verify {
        /// The destination
        #[arg(long, value_name = "URL")]
        to: String,
        /// The id of the archive, which must hold the destination's claim
        #[arg(long, value_name = "ID")]
        archive: String,
        /// The database
        #[arg(long, value_name = "NAME")]
        database: String,
        /// The backup; without it, the newest good one
        #[arg(long, value_name = "ID")]
        backup: Option<String>,
        /// The request that asked for it
        #[arg(long, value_name = "ID")]
        request: Option<String>,
    },
    /// Upgrade the data of a stopped server to the next major version, and keep the old beside it
    #[command(hide = true)]
    Upgrade {
        /// The upgrade's id
        #[arg(long)]
        id: String,
        /// The release of the data
        #[arg(long, value_name = "VERSION")]
        from: PgVersion,
        /// The release to go to
        #[arg(long, value_name = "VERSION")]
        to: PgVersion,
        /// Share the files of the old data
        #[arg(long)]
        link: bool,
        /// Where sockets may be
        #[arg(long, value_name = "PATH")]
        sockets: PathBuf,
        /// The data directory
        #[arg(long, value_name = "PATH")]
        datadir: PathBuf,
    },
    /// Try a major upgrade on an empty copy of a running server; the pod of a rehearsal runs it
    Rehearse {
        /// Where the primary is
        #[arg(long)]
        host: String,
        /// The release that runs
        #[arg(long, value_name = "VERSION")]
        from: PgVersion,
        /// The release to go to
        #[arg(long, value_name = "VERSION")]
        to: PgVersion,
        /// Room on the fullest volume, in bytes
        #[arg(long, value_name = "BYTES")]
        free: Option<u64>,
        /// An empty directory
        #[arg(long, value_name = "PATH", env = "SCRATCH_DIRECTORY")]
        scratch: PathBuf,
        /// Where sockets may be
        #[arg(long, value_name = "PATH", env = "SOCKET_DIRECTORY")]
        sockets: PathBuf,
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
#[group(id = "target", multiple = false)]
struct TargetArgs {
    /// Everything that was committed by that instant
    #[arg(long, value_name = "TIME")]
    target_time: Option<jiff::Timestamp>,
    /// Up to a WAL position
    #[arg(long, value_name = "LSN", value_parser = lsn)]
    target_lsn: Option<u64>,
    /// Up to a restore point
    #[arg(long, value_name = "NAME")]
    target_name: Option<String>,
    /// No further than the backup itself
    #[arg(long)]
    target_immediate: bool,
}

fn lsn(text: &str) -> std::result::Result<u64, String> {
    position(text).ok_or_else(|| "expected a WAL position, as 0/3000148".to_owned())
}

#[derive(Debug, Args)]
struct BootstrapArgs {
    /// The destination
    #[arg(long, value_name = "URL")]
    from: String,
    /// The base backup to begin with; without it, the newest that fits
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
    /// What Patroni calls the database
    #[arg(long, value_name = "NAME", default_value = "")]
    scope: String,
    /// The data directory, which must be empty
    #[arg(long, value_name = "PATH")]
    datadir: PathBuf,
}

impl From<&BootstrapArgs> for Bootstrap {
    fn from(args: &BootstrapArgs) -> Self {
        let TargetArgs { target_time, target_lsn, target_name, target_immediate } = &args.target;
        let target = match (target_time, target_lsn, target_name) {
            (Some(at), _, _) => Target::Time(*at),
            (_, Some(lsn), _) => Target::Lsn(*lsn),
            (_, _, Some(name)) => Target::Name(name.clone()),
            _ if *target_immediate => Target::Immediate,
            _ => Target::End,
        };
        Self {
            from: args.from.clone(),
            backup: args.backup.clone(),
            target,
            data: args.datadir.clone(),
            scope: args.scope.clone(),
        }
    }
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
        Command::Bootstrap(args) => {
            single(async { crate::agent::bootstrap(&args.into()).await.map_err(failed) })?;
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
        Command::Verify { to, archive, database, backup, request } => {
            let asked = Verification {
                to: to.clone(),
                archive: archive.clone(),
                database: database.clone(),
                backup: backup.clone(),
                request: request.clone(),
            };
            single(async { crate::agent::verify(&asked).await.map_err(failed) })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Rehearse { host, from, to, free, scratch, sockets } => {
            let rehearsal = Rehearsal {
                host: host.clone(),
                from: *from,
                to: *to,
                free: *free,
                scratch: scratch.clone(),
                sockets: sockets.clone(),
            };
            single(async { crate::agent::rehearse(&rehearsal).await.map_err(failed) })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Upgrade { id, from, to, link, sockets, datadir } => {
            let upgrade = Upgrade {
                id: id.clone(),
                data: datadir.clone(),
                from: *from,
                to: *to,
                link: *link,
                sockets: sockets.clone(),
                settings: Vec::new(),
            };
            let made = single(async { crate::agent::upgrade(&upgrade).await.map_err(failed) })?;
            println!("{}", serde_json::to_string(&made).unwrap_or_default());
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
                Ok(ExitCode::from(fetch_error_code(path)))
            }
        }
    })
}
