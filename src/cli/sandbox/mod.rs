//! `dbctl sandbox`, and the one process that a sandbox is.

mod clash;
mod down;
mod fault;
mod identity;
mod kubeconfig;
mod logs;
mod network;
mod parts;
mod reset;
mod serve;
pub mod software;
pub mod start;
mod status;
mod together;

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Context;
use super::error::{CliError, Result};
use super::output::Document;
use crate::sandbox::home::Home;
use crate::sandbox::node::{Isolation, VolumeMode};
use network::Wishes;

/// Manage the sandbox: one machine, no cluster
///
/// The sandbox is one background process that does for dbctl what a cluster would. Its files are in DBCTL_HOME (default:
/// your data directory, as root /var/lib/dbctl); one home is one sandbox, and several run side by side.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl sandbox up
  dbctl sandbox status
  dbctl sandbox down")]
pub struct SandboxArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the sandbox, if it does not run
    ///
    /// How pods are connected and what volumes are is decided at the first start, and kept until `dbctl sandbox reset`. The
    /// number of nodes is kept too, and can be raised whenever the sandbox does not run.
    #[command(
        visible_alias = "start",
        after_help = "Examples:
  dbctl sandbox up
  dbctl sandbox up --nodes 3
  dbctl sandbox up --network=namespaces --volumes=bounded"
    )]
    Up {
        #[command(flatten)]
        kind: Kind,
        #[command(flatten)]
        size: Size,
    },
    /// Stop the sandbox and everything in it; databases are kept
    ///
    /// The databases' processes are stopped as a cluster would stop them, so that PostgreSQL shuts down cleanly.
    #[command(after_help = "Examples:
  dbctl sandbox down")]
    Down {
        /// How long it may take before it is killed
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// Show whether the sandbox runs, and what runs in it
    #[command(after_help = "Examples:
  dbctl sandbox status
  dbctl sandbox status -o json")]
    Status {
        /// Print it for programs: whether it runs, its process, its addresses
        #[arg(short, long, value_enum, value_name = "FORMAT")]
        output: Option<Document>,
    },
    /// Print where the sandbox's kubeconfig is
    ///
    /// For kubectl and other clients: export KUBECONFIG=$(dbctl sandbox kubeconfig)
    #[command(after_help = "Examples:
  dbctl sandbox kubeconfig
  export KUBECONFIG=$(dbctl sandbox kubeconfig)")]
    Kubeconfig {
        /// Print the file itself
        #[arg(long)]
        raw: bool,
    },
    /// Show the log of the sandbox's process
    #[command(after_help = "Examples:
  dbctl sandbox logs --follow
  dbctl sandbox logs --tail 50")]
    Logs {
        /// Go on with what is logged next
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines
        #[arg(long, value_name = "N")]
        tail: Option<usize>,
    },
    /// Stop the sandbox and delete all its databases
    ///
    /// Everything but the installed software goes.
    #[command(after_help = "Examples:
  dbctl sandbox reset --yes")]
    Reset {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    Fault(Box<fault::FaultArgs>),
    /// Run the sandbox's node alone, for any API server
    ///
    /// Pods that are placed on it run as processes of this machine. It needs an administrator's kubeconfig. Its files are
    /// in DBCTL_HOME, which no other part uses at the same time.
    #[command(after_help = "Examples:
  dbctl sandbox node --kubeconfig admin.conf")]
    Node {
        /// Name of its Node object
        #[arg(long, value_name = "NAME", default_value = "sandbox")]
        name: String,
        #[command(flatten)]
        kind: Kind,
    },
    /// Run the sandbox's controllers alone, for any API server that has none
    ///
    /// They are what of Kubernetes' own a database relies on: StatefulSets, Services' endpoints, volumes, garbage
    /// collection, scheduling. It needs an administrator's kubeconfig.
    #[command(after_help = "Examples:
  dbctl sandbox controllers --kubeconfig admin.conf")]
    Controllers,
    /// Run the sandbox's API server alone
    #[command(hide = true)]
    Api {
        /// The /24 that Services get their addresses from [default: one of the loopback]
        #[arg(long, value_name = "ADDRESS")]
        services: Option<Ipv4Addr>,
    },
    /// Be the sandbox's process
    #[command(hide = true)]
    Run {
        /// Leave the terminal's session
        #[arg(long)]
        background: bool,
        #[command(flatten)]
        kind: Kind,
        #[command(flatten)]
        size: Size,
    },
    /// Be the parent of a container's process
    #[command(hide = true)]
    Shim,
}

/// What kind of sandbox is made.
#[derive(Clone, Copy, Debug, Default, Args)]
struct Kind {
    /// How pods are connected: by addresses of the loopback, or each by a network namespace of its own, whose
    /// connections can be cut (needs root, on Linux) [default: loopback]
    #[arg(long, value_enum, value_name = "KIND")]
    network: Option<Isolation>,
    /// What volumes are: directories, or file systems of the size that is asked for, which can be full (needs root, on
    /// Linux) [default: directories]
    #[arg(long, value_enum, value_name = "KIND")]
    volumes: Option<VolumeMode>,
}

/// How large a sandbox is.
#[derive(Clone, Copy, Debug, Default, Args)]
struct Size {
    /// How many nodes there are: sandbox, sandbox-1 and so on, all on this machine, as large as it is [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: Option<u8>,
}

impl Kind {
    fn wishes(self, size: Size) -> Wishes {
        Wishes { isolation: self.network, volumes: self.volumes, nodes: size.nodes }
    }
}

/// Runs the command.
///
/// # Errors
/// What the command returns.
pub fn run(context: &Context, args: SandboxArgs) -> Result<ExitCode> {
    let command = match args.command {
        Command::Shim => return Ok(crate::sandbox::node::shim_main()),
        command => command,
    };
    if let Command::Controllers = command {
        parts::controllers(context)?;
        return Ok(ExitCode::SUCCESS);
    }
    let home = Home::locate().map_err(CliError::failed)?;
    match command {
        Command::Run { background, kind, size } => {
            serve::run(context, &home, background, kind.wishes(size))?;
        }
        Command::Node { name, kind } => parts::node(context, &home, &name, kind.wishes(Size::default()))?,
        Command::Api { services } => parts::api(context, &home, services)?,
        command => {
            super::log_to_stderr(context, &super::COMMAND_LOG);
            manage(context, &home, command)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn manage(context: &Context, home: &Home, command: Command) -> Result<()> {
    match command {
        Command::Up { kind, size } => status::up(context, home, kind.wishes(size)),
        Command::Down { timeout } => down::run(context, home, timeout),
        Command::Status { output } => status::run(context, home, output),
        Command::Kubeconfig { raw } => kubeconfig::run(context, home, raw),
        Command::Logs { follow, tail } => logs::run(context, home, follow, tail),
        Command::Reset { yes } => reset::run(context, home, yes),
        Command::Fault(args) => super::single(fault::run(context, home, *args)),
        Command::Run { .. }
        | Command::Node { .. }
        | Command::Controllers
        | Command::Api { .. }
        | Command::Shim => Ok(()),
    }
}
