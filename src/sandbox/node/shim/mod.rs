//! The process around one container: it reaps, logs, and kills whatever the container leaves.
//!
//! Patroni starts postgres in a session of its own and lets go of it, so neither the process group nor the parent says
//! what belongs to a container. The shim is the subreaper of all of it: every orphan becomes its child. When the main
//! process ends, the shim is told to kill, or its standard input closes because the daemon died, it kills until it has
//! no child left. Only then does it report the exit: "terminated" means that nothing of the container runs any more.
//!
//! It is told by lines on its standard input (first a [`Spec`] as JSON, since arguments can be read by everybody, then
//! [`Order`]s) and answers with [`Report`]s, a line each, on its standard output.

mod enter;
pub(super) use enter::Enter;
mod exec;
mod inbox;
mod log;
pub use exec::Exec;
pub(super) use inbox::MAX_FILES;
pub(crate) mod tree;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use serde::{Deserialize, Serialize};

use exec::Execs;
use inbox::Inbox;
use log::Sink;

/// What a shim is to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Program and arguments; the program is looked up in the PATH of `env`.
    pub command: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub directory: PathBuf,
    /// User and group; `None` keeps the shim's own.
    pub ids: Option<(u32, u32)>,
    /// The log file, in CRI format; without one the last output is part of the report.
    pub log: Option<PathBuf>,
    /// Whether its standard input comes along as an open file; without one it has none.
    #[serde(default)]
    pub stdin: bool,
    /// Where on this machine it runs.
    #[serde(default)]
    pub enter: Enter,
}

/// What a running shim is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Send SIGTERM to the main process.
    Terminate,
    /// Kill everything, now.
    Kill,
    /// Run a command beside the main process. Its standard streams come along as open files.
    Exec(Box<Exec>),
    /// Kill what such a command started.
    KillExec {
        /// Which one.
        id: u64,
    },
}

/// What a shim answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// The main process runs.
    Started {
        /// Its process id on the host.
        pid: i32,
        /// When it began.
        at: Timestamp,
    },
    /// The main process could not be started. Nothing runs.
    Failed {
        /// Why not.
        message: String,
    },
    /// The main process ended, and nothing that came from it runs any more.
    Exited {
        /// Its exit code, or 128 and the signal that ended it.
        code: i32,
        /// The signal that ended it.
        signal: Option<i32>,
        /// When it ended.
        at: Timestamp,
        /// The end of its output, where there is no log.
        output: String,
    },
    /// A command beside the main process runs.
    ExecStarted {
        /// Which one.
        id: u64,
    },
    /// It could not be started.
    ExecFailed {
        /// Which one.
        id: u64,
        /// Why not.
        message: String,
    },
    /// It ended.
    ExecExited {
        /// Which one.
        id: u64,
        /// Its exit code, or 128 and the signal that ended it.
        code: i32,
    },
}

enum Event {
    Order(Order, Vec<OwnedFd>),
    Reaped(Pid, ExitStatus),
    Childless,
}

/// What is said when the shim cannot do its own part.
#[derive(Debug, thiserror::Error)]
enum ShimError {
    #[error("read what to run: {0}")]
    Spec(#[from] serde_json::Error),
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
}

/// How often the tree is looked at again while it is being killed.
const KILL_PAUSE: Duration = Duration::from_millis(5);

/// The entry of `dbctl sandbox shim`: runs one container until nothing of it is left.
pub fn shim_main() -> ExitCode {
    if let Some(code) = exec::become_command() {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&Report::Failed { message: error.to_string() });
            ExitCode::FAILURE
        }
    }
}

/// What starts a sandbox in the background may ignore these signals, and a program inherits that; one that is noticed here
/// has its usual meaning again in whatever is started, as in any container.
fn notice_signals() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit()] {
        drop(signal(kind)?); // The handler stays.
    }
    Ok(())
}

fn run() -> Result<(), ShimError> {
    notice_signals().map_err(|error| ShimError::Io("take signals up", error))?;
    // Without this, orphans would go to init and outlive the container.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| ShimError::Io("adopt orphans", errno.into()))?;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let stdin = stdin.map_err(|error| ShimError::Io("use the standard input", error))?;
    let mut inbox = Inbox::new(stdin);
    let line = inbox.line().map_err(|error| ShimError::Io("read what to run", error))?;
    let Some(line) = line else {
        return Ok(()); // The daemon died before it said what to run.
    };
    let spec: Spec = serde_json::from_str(&line)?;
    let sink = Sink::open(spec.log.as_deref()).map_err(|error| ShimError::Io("open the log", error))?;
    let (events, queue) = channel();
    let input = if spec.stdin { inbox.files(1).pop() } else { None };
    let started = spec
        .enter
        .around(|| start(&spec, &sink, input))
        .map_err(|(what, error)| ShimError::Io(what, error))?;
    let (main, readers) = match started {
        Ok(started) => started,
        Err(error) => {
            let program = spec.command.first().map(String::as_str).unwrap_or_default();
            let message = match error.kind() {
                std::io::ErrorKind::NotFound => exec::not_found(program),
                _ => format!("exec: {program:?}: {error}"),
            };
            report(&Report::Failed { message });
            return Ok(());
        }
    };
    report(&Report::Started { pid: main.as_raw_nonzero().get(), at: Timestamp::now() });
    listen(inbox, events.clone());
    reap(events);
    let (status, at) = supervise(main, &queue);
    for reader in readers {
        // Their pipes have no writer left.
        let _ = reader.join();
    }
    let signal = status.signal();
    let code = status.code().unwrap_or(128 + signal.unwrap_or_default());
    report(&Report::Exited { code, signal, at, output: sink.tail() });
    Ok(())
}

/// Nobody may be listening any more, and that must not stop the clean-up.
fn report(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }
}

fn start(spec: &Spec, sink: &Sink, input: Option<OwnedFd>) -> std::io::Result<(Pid, Vec<JoinHandle<()>>)> {
    let Some((program, arguments)) = spec.command.split_first() else {
        return Err(std::io::Error::other("the container has no command"));
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(spec.env.iter().map(|(name, value)| (name, value)));
    // A group of its own: what the terminal sends to the daemon's group is not for containers.
    command.current_dir(&spec.directory).process_group(0);
    if let Some((uid, gid)) = spec.ids {
        command.uid(uid).gid(gid);
    }
    let mut child = command
        .stdin(input.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let main = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
    let main = main.ok_or_else(|| std::io::Error::other("the child has no process id"))?;
    let outputs: [(&'static str, Option<Box<dyn Read + Send>>); 2] = [
        ("stdout", child.stdout.take().map(|pipe| Box::new(pipe) as _)),
        ("stderr", child.stderr.take().map(|pipe| Box::new(pipe) as _)),
    ];
    let readers = outputs.into_iter().filter_map(|(stream, pipe)| {
        let (sink, pipe) = (sink.clone(), pipe?);
        Some(std::thread::spawn(move || sink.copy(stream, pipe)))
    });
    Ok((main, readers.collect()))
}

/// Orders from the daemon; its end is the order to kill.
fn listen(mut inbox: Inbox, events: Sender<Event>) {
    std::thread::spawn(move || {
        while let Ok(Some(line)) = inbox.line() {
            let Ok(order) = serde_json::from_str(&line) else { continue };
            let files = if matches!(order, Order::Exec(_)) { inbox.files(MAX_FILES) } else { Vec::new() };
            if events.send(Event::Order(order, files)).is_err() {
                return;
            }
        }
        let _ = events.send(Event::Order(Order::Kill, Vec::new()));
    });
}

/// Reaps every child, first hand or adopted, until there is none.
fn reap(events: Sender<Event>) {
    std::thread::spawn(move || {
        loop {
            // Only looked at first: a child that is not started yet is not for this thread to take.
            let ended = rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            match ended {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => {
                    let _ = events.send(Event::Childless);
                    return;
                }
            }
            let quiet = exec::quiet();
            let reaped = rustix::process::wait(WaitOptions::NOHANG);
            drop(quiet);
            if let Ok(Some((pid, status))) = reaped {
                let status = ExitStatus::from_raw(status.as_raw());
                if events.send(Event::Reaped(pid, status)).is_err() {
                    return;
                }
            }
        }
    });
}

/// Waits for the main process to end, or for the order to end it; then kills until no child is left.
fn supervise(main: Pid, inbox: &Receiver<Event>) -> (ExitStatus, Timestamp) {
    let mut ended = None;
    let mut childless = false;
    let mut execs = Execs::default();
    while ended.is_none() && !childless {
        match inbox.recv() {
            Ok(Event::Reaped(pid, status)) if pid == main => ended = Some((status, Timestamp::now())),
            Ok(Event::Reaped(pid, status)) => execs.reaped(pid, status),
            Ok(Event::Order(Order::Terminate, _)) => drop(rustix::process::kill_process(main, Signal::TERM)),
            Ok(Event::Order(Order::Exec(exec), files)) => execs.start(&exec, files),
            Ok(Event::Order(Order::KillExec { id }, _)) => execs.kill(id),
            Ok(Event::Order(Order::Kill, _)) | Err(_) => break,
            Ok(Event::Childless) => childless = true,
        }
    }
    while !childless {
        tree::kill_descendants(rustix::process::getpid());
        match inbox.recv_timeout(KILL_PAUSE) {
            Ok(Event::Reaped(pid, status)) if pid == main => ended = Some((status, Timestamp::now())),
            Ok(Event::Reaped(pid, status)) => execs.reaped(pid, status),
            Ok(Event::Childless) => childless = true,
            _ => {}
        }
    }
    ended.unwrap_or_else(|| (ExitStatus::from_raw(Signal::KILL.as_raw()), Timestamp::now()))
}

#[cfg(test)]
pub(crate) mod tests;
