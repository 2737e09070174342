//! Child processes: those that the agent starts, and the orphans that become its own.
//!
//! Patroni lets go of postgres, and a postgres that dies leaves its processes behind: as the container's first process,
//! or as the subreaper that it makes itself, the agent inherits all of them. `waitpid(-1)` takes any of them, so nothing
//! else in this process may wait for a child.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

/// Receives how a child ended.
pub type Ended = oneshot::Receiver<ExitStatus>;

/// The children whose end somebody waits for.
#[derive(Debug, Default)]
pub struct Children {
    waiting: Mutex<HashMap<Pid, oneshot::Sender<ExitStatus>>>,
}

impl Children {
    /// Starts a command. There is one thread, and it reaps only between two steps of its tasks: none can end unseen.
    pub fn spawn(&self, command: &mut Command) -> io::Result<(Pid, Option<OwnedFd>, Ended)> {
        let mut child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the child has no process id"))?;
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, sender);
        Ok((pid, child.stdout.take().map(OwnedFd::from), receiver))
    }

    /// What a short program writes. One that does not end in time is killed.
    pub async fn output(&self, command: &mut Command, patience: Duration) -> io::Result<String> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let (pid, stdout, ended) = self.spawn(command)?;
        let work = async {
            let mut text = String::new();
            if let Some(stdout) = stdout {
                pipe::Receiver::from_owned_fd(stdout)?.read_to_string(&mut text).await?;
            }
            match ended.await {
                Ok(status) if status.success() => Ok(text),
                Ok(status) => Err(io::Error::other(status.to_string())),
                Err(_) => Err(io::Error::other("nobody saw it end")),
            }
        };
        let late = match tokio::time::timeout(patience, work).await {
            Ok(result) => return result,
            Err(late) => late,
        };
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        Err(late.into())
    }

    /// Takes everything that has ended.
    pub fn reap(&self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let status = ExitStatus::from_raw(status.as_raw());
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
            if let Some(waiting) = waiting {
                let _ = waiting.send(status);
            } else if let Some(signal) = status.signal() {
                tracing::info!("process {pid:?} was ended by signal {signal}");
            }
        }
    }
}

/// The exit code that says as much as the status does.
pub fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_child_ends_with_the_signals_code() {
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
    }
}
