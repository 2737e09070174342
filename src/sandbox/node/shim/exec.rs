//! Further commands in a container that runs: started by its shim, so that they end with it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::{Report, Spec, report, tree};

/// Tells this program that it is to become another one, at the terminal that is its standard input.
const TERMINAL: &str = "DBCTL_SHIM_TERMINAL";
/// The exit codes of shells for what cannot be found, or not be started.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;

/// A command to run beside a container's main process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Tells it from others.
    pub id: u64,
    /// What to run. Its three standard streams come as open files, its log is not looked at.
    pub spec: Spec,
    /// Whether they are a terminal, to be the controlling one.
    pub terminal: bool,
}

/// Held while a process is being started: one that fails to is waited for by its starter, and nobody else may.
static STARTING: Mutex<()> = Mutex::new(());

/// Nothing is being started meanwhile.
pub(super) fn quiet() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The commands that run.
#[derive(Debug, Default)]
pub(super) struct Execs(BTreeMap<i32, u64>);

impl Execs {
    /// Starts one, and says whether it did.
    pub fn start(&mut self, exec: &Exec, files: Vec<OwnedFd>) {
        match start(exec, files) {
            Ok(pid) => {
                self.0.insert(pid, exec.id);
                report(&Report::ExecStarted { id: exec.id });
            }
            Err(message) => report(&Report::ExecFailed { id: exec.id, message }),
        }
    }

    /// Says how one ended, if it is one that did.
    pub fn reaped(&mut self, pid: Pid, status: ExitStatus) {
        if let Some(id) = self.0.remove(&pid.as_raw_nonzero().get()) {
            let code = status.code().unwrap_or(128 + status.signal().unwrap_or_default());
            report(&Report::ExecExited { id, code });
        }
    }

    /// Kills one, with all that is still below it.
    pub fn kill(&self, id: u64) {
        let found = self.0.iter().find(|(_, own)| **own == id);
        if let Some(pid) = found.and_then(|(pid, _)| Pid::from_raw(*pid)) {
            tree::kill_descendants(pid);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn start(exec: &Exec, files: Vec<OwnedFd>) -> Result<i32, String> {
    let spec = &exec.spec;
    let Some((program, arguments)) = spec.command.split_first() else {
        return Err("the command is empty".to_owned());
    };
    let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(files) else {
        return Err("its standard streams did not come with it".to_owned());
    };
    let mut command = if exec.terminal {
        if !can_be_found(program, spec) {
            return Err(not_found(program));
        }
        at_terminal(spec)
    } else {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().process_group(0);
        command
    };
    command.envs(spec.env.iter().map(|(name, value)| (name, value))).current_dir(&spec.directory);
    if let Some((uid, gid)) = spec.ids {
        command.uid(uid).gid(gid);
    }
    command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
    let _starting = quiet();
    match spec
        .enter
        .around(|| command.spawn())
        .map_err(|(what, error)| format!("failed to {what}: {error}"))?
    {
        Ok(child) => i32::try_from(child.id()).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(not_found(program)),
        Err(error) => Err(format!("exec: {program:?}: {error}")),
    }
}

/// As container runtimes say it.
pub(super) fn not_found(program: &str) -> String {
    format!("exec: {program:?}: executable file not found in $PATH")
}

/// This program, to become the command once it leads a session of its own: only a leader gets a terminal.
fn at_terminal(spec: &Spec) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).env_clear();
    command.env(TERMINAL, serde_json::to_string(&spec.command).unwrap_or_default());
    command
}

/// Asked before, where it can still be answered.
fn can_be_found(program: &str, spec: &Spec) -> bool {
    if program.contains('/') {
        return spec.directory.join(program).exists();
    }
    let path = spec.env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_str());
    std::env::split_paths(path.unwrap_or_default()).any(|directory| is_file(&directory.join(program)))
}

fn is_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// If this process is to become a command at a terminal, it does, or says why it cannot.
pub(super) fn become_command() -> Option<ExitCode> {
    let words = std::env::var(TERMINAL).ok()?;
    let words: Vec<String> = serde_json::from_str(&words).unwrap_or_default();
    let (program, arguments) = words.split_first()?;
    let stdin = std::io::stdin();
    let led =
        rustix::process::setsid().map(drop).and_then(|()| rustix::process::ioctl_tiocsctty(stdin.as_fd()));
    if let Err(error) = led {
        eprintln!("failed to take the terminal: {error}");
        return Some(ExitCode::from(NOT_STARTED));
    }
    let error = Command::new(program).args(arguments).env_remove(TERMINAL).exec();
    eprintln!("exec: {program:?}: {error}");
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    Some(ExitCode::from(if missing { NOT_FOUND } else { NOT_STARTED }))
}
