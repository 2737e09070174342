//! Further commands in a container that runs, as the daemon sees them.

use std::collections::HashMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::process::Message;
use super::shim::{Exec, MAX_FILES, Order, Report, Spec};

/// The exit code of what was killed with its container.
const KILLED: i32 = 137;

/// Who waits for news of which command.
#[derive(Clone, Debug, Default)]
pub(super) struct Execs(Arc<Mutex<HashMap<u64, mpsc::UnboundedSender<Report>>>>);

impl Execs {
    /// Passes a report on to who waits for it; other reports come back.
    pub fn take(&self, report: Report) -> Option<Report> {
        let (Report::ExecStarted { id } | Report::ExecFailed { id, .. } | Report::ExecExited { id, .. }) =
            &report
        else {
            return Some(report);
        };
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiter) = waiting.get(id) {
            let _ = waiter.send(report);
        }
        None
    }

    /// Nothing more will be reported.
    pub fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn enter(&self, id: u64) -> mpsc::UnboundedReceiver<Report> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        receiver
    }

    fn leave(&self, id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

/// The way into a container for further commands. It does not keep the container alive.
#[derive(Clone, Debug)]
pub(super) struct Door {
    orders: mpsc::WeakUnboundedSender<Message>,
    execs: Execs,
    marks: Vec<(String, String)>,
}

/// Why a command does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExecError {
    #[error("start it: the container has ended")]
    Gone,
    #[error("{0}")]
    Start(String),
}

impl Door {
    /// `marks` are variables that every process of the container has.
    pub fn new(
        orders: mpsc::WeakUnboundedSender<Message>,
        execs: Execs,
        marks: Vec<(String, String)>,
    ) -> Self {
        Self { orders, execs, marks }
    }

    /// Runs a command with these standard streams, which may be a terminal.
    pub async fn run(
        &self,
        mut spec: Spec,
        streams: [OwnedFd; MAX_FILES],
        terminal: bool,
    ) -> Result<Execution, ExecError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        spec.env.extend(self.marks.iter().cloned());
        let orders = self.orders.upgrade().ok_or(ExecError::Gone)?;
        let reports = self.execs.enter(id);
        let mut execution =
            Execution { id, orders: self.orders.clone(), execs: self.execs.clone(), reports, over: false };
        let order = Order::Exec(Box::new(Exec { id, spec, terminal }));
        orders.send((order, streams.into())).map_err(|_| ExecError::Gone)?;
        drop(orders);
        match execution.reports.recv().await {
            Some(Report::ExecStarted { .. }) => Ok(execution),
            Some(Report::ExecFailed { message, .. }) => {
                execution.over = true;
                Err(ExecError::Start(message))
            }
            _ => Err(ExecError::Gone),
        }
    }
}

/// A command that runs. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Execution {
    id: u64,
    orders: mpsc::WeakUnboundedSender<Message>,
    execs: Execs,
    reports: mpsc::UnboundedReceiver<Report>,
    over: bool,
}

impl Execution {
    /// Waits for its end; the exit code.
    pub async fn wait(&mut self) -> i32 {
        let code = match self.reports.recv().await {
            Some(Report::ExecExited { code, .. }) => code,
            _ => KILLED,
        };
        self.over = true;
        code
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        self.execs.leave(self.id);
        if !self.over
            && let Some(orders) = self.orders.upgrade()
        {
            let _ = orders.send((Order::KillExec { id: self.id }, Vec::new()));
        }
    }
}

/// Orders on their way to the shim; its standard input closes when nobody can give orders any more.
pub(super) async fn pass(mut stdin: UnixStream, mut inbox: mpsc::UnboundedReceiver<Message>) {
    while let Some((order, files)) = inbox.recv().await {
        let Ok(mut line) = serde_json::to_vec(&order) else { continue };
        line.push(b'\n');
        if write(&mut stdin, &line, &files).await.is_err() {
            return;
        }
    }
}

/// Writes a line, with the files that go along.
pub(super) async fn write(stdin: &mut UnixStream, line: &[u8], files: &[OwnedFd]) -> std::io::Result<()> {
    let sent = if files.is_empty() { 0 } else { send(stdin, line, files).await? };
    stdin.write_all(line.get(sent..).unwrap_or_default()).await
}

/// Sends the beginning of a line, with all the files; how much of it.
async fn send(stdin: &UnixStream, line: &[u8], files: &[OwnedFd]) -> std::io::Result<usize> {
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let attempt = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(std::io::Error::other("too many files for one message"));
        }
        let flags = SendFlags::NOSIGNAL;
        Ok(rustix::net::sendmsg(stdin, &[IoSlice::new(line)], &mut ancillary, flags)?)
    };
    stdin.async_io(Interest::WRITABLE, attempt).await
}
