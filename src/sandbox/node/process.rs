//! The daemon's side of a shim.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;

use super::cgroup::Group;
use super::execution::{Door, Execs, pass, write};
use super::shim::tree::Mark;
use super::shim::{Order, Report, Spec};

/// Marks every process of a home, in its environment.
pub const HOME_MARK: &str = "DBCTL_SANDBOX_HOME";
/// Marks every process of one container.
pub const CONTAINER_MARK: &str = "DBCTL_SANDBOX_CONTAINER";

/// Marks every process of one pod: in the environment of its containers and of their shims.
pub const POD_MARK: &str = "DBCTL_SANDBOX_POD";

/// How long a killed container may take to disappear before its processes are hunted without its shim.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Why a process cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The shim did not start or does not talk.
    #[error("start a container's shim: {0}")]
    Shim(#[from] std::io::Error),
    /// The container's main process could not be started.
    #[error("{0}")]
    Start(String),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 and the signal.
    pub code: i32,
    /// The signal.
    pub signal: Option<i32>,
    /// When its main process ended.
    pub at: Timestamp,
    /// The end of its output, where there is no log.
    pub output: String,
}

/// Starts containers in one home.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The shim's command line.
    pub shim: Vec<String>,
    /// The home, for the mark.
    pub home: PathBuf,
    /// Where the programs of containers lie.
    pub programs: PathBuf,
}

/// A container whose main process was started.
#[derive(Debug)]
pub struct Process {
    /// When it was.
    pub started: Timestamp,
    orders: mpsc::UnboundedSender<Message>,
    reports: mpsc::UnboundedReceiver<Report>,
    door: Door,
    shim: Child,
    mark: Mark,
    /// Its last report, kept while the shim itself ends: whoever waits may be interrupted in between.
    last: Option<Report>,
    /// Its control group, killed with it.
    group: Option<Group>,
}

/// An order, with the open files that go along.
pub(super) type Message = (Order, Vec<OwnedFd>);

/// Gives orders to a container, from anywhere.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::UnboundedSender<Message>);

impl Orders {
    /// Gives an order; a container that has ended ignores it.
    pub fn give(&self, order: Order) {
        let _ = self.0.send((order, Vec::new()));
    }
}

impl Launcher {
    /// Runs a container under a shim. Dropping the result kills it. `places` are directories that nobody else's programs
    /// work in.
    ///
    /// # Errors
    /// When the shim or the main process does not start.
    pub async fn start(&self, id: &str, spec: Spec, places: Vec<PathBuf>) -> Result<Process, ProcessError> {
        self.start_with(id, spec, places, Vec::new()).await
    }

    /// The same with the container's standard input, where it is to have one.
    ///
    /// # Errors
    /// When the shim or the main process does not start.
    pub async fn start_with(
        &self,
        id: &str,
        mut spec: Spec,
        places: Vec<PathBuf>,
        stdin: Vec<OwnedFd>,
    ) -> Result<Process, ProcessError> {
        spec.stdin = !stdin.is_empty();
        let home = self.home.to_string_lossy().into_owned();
        let marks = [(HOME_MARK.to_owned(), home), (CONTAINER_MARK.to_owned(), id.to_owned())];
        let pod = spec.env.iter().find(|(name, _)| name == POD_MARK).cloned();
        spec.env.extend(marks.clone());
        let mut command = Command::new(self.shim.first().map(String::as_str).unwrap_or_default());
        command
            .args(self.shim.iter().skip(1))
            .env_clear()
            .envs(marks.clone())
            .envs(pod)
            .current_dir("/")
            .process_group(0);
        // A socket, since open files go through it too.
        let (mut near, far) = UnixStream::pair()?;
        let far = far.into_std()?;
        far.set_nonblocking(false)?;
        command.stdin(Stdio::from(OwnedFd::from(far))).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut shim = command.spawn()?;
        // It holds the other end of the socket.
        drop(command);
        let Some(stdout) = shim.stdout.take() else {
            return Err(std::io::Error::other("no pipes").into());
        };
        let mut line = serde_json::to_vec(&spec).map_err(std::io::Error::other)?;
        line.push(b'\n');
        write(&mut near, &line, &stdin).await?;
        let (orders, inbox) = mpsc::unbounded_channel();
        tokio::spawn(pass(near, inbox));
        let entry = format!("{CONTAINER_MARK}={id}");
        let mark = Mark::new(entry, places, vec![self.programs.clone()]);
        let mut lines = BufReader::new(stdout).lines();
        match next(&mut lines).await? {
            Some(Report::Started { at, .. }) => {
                let execs = Execs::default();
                let (sender, reports) = mpsc::unbounded_channel();
                tokio::spawn(sort(lines, execs.clone(), sender));
                let door = Door::new(orders.downgrade(), execs, marks.to_vec());
                Ok(Process { started: at, orders, reports, door, shim, mark, last: None, group: None })
            }
            Some(Report::Failed { message }) => {
                let _ = shim.wait().await;
                Err(ProcessError::Start(message))
            }
            _ => Err(std::io::Error::other("it ended without a word").into()),
        }
    }
}

/// Tells what the shim says of commands beside the main process from what it says of that.
async fn sort(
    mut lines: Lines<BufReader<ChildStdout>>,
    execs: Execs,
    reports: mpsc::UnboundedSender<Report>,
) {
    while let Ok(Some(report)) = next(&mut lines).await {
        if let Some(report) = execs.take(report) {
            let _ = reports.send(report);
        }
    }
    execs.end();
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> std::io::Result<Option<Report>> {
    while let Some(line) = lines.next_line().await? {
        // Whatever else a test's shim prints is not ours.
        if let Some(start) = line.find('{')
            && let Ok(report) = serde_json::from_str(&line[start..])
        {
            return Ok(Some(report));
        }
    }
    Ok(None)
}

impl Process {
    /// Has its control group killed wherever it is.
    pub(super) fn guard(&mut self, group: Group) {
        self.group = Some(group);
    }

    /// A way to give it orders while somebody waits for it.
    pub fn orders(&self) -> Orders {
        Orders(self.orders.clone())
    }

    /// The way for further commands into it.
    pub(super) fn door(&self) -> Door {
        self.door.clone()
    }

    /// Waits until it has ended and nothing of it is left.
    pub async fn wait(&mut self) -> Exit {
        if self.last.is_none() {
            self.last = self.reports.recv().await;
        }
        let _ = self.shim.wait().await;
        if let Some(Report::Exited { code, signal, at, output }) = self.last.clone() {
            return Exit { code, signal, at, output };
        }
        // The shim itself was killed: its container is without a keeper, and is hunted by its mark.
        self.kill_group().await;
        self.hunt().await;
        let killed = rustix::process::Signal::KILL.as_raw();
        Exit { code: 128 + killed, signal: Some(killed), at: Timestamp::now(), output: String::new() }
    }

    /// Kills it and waits until nothing of it is left.
    pub async fn kill(&mut self) -> Exit {
        self.orders().give(Order::Kill);
        self.kill_group().await;
        match tokio::time::timeout(KILL_PATIENCE, self.wait()).await {
            Ok(exit) => exit,
            Err(_) => {
                // A shim that is frozen cannot keep its word.
                let _ = self.shim.start_kill();
                self.wait().await
            }
        }
    }

    /// Also what is frozen, which a signal alone may not reach.
    async fn kill_group(&self) {
        let Some(group) = self.group.clone() else { return };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || group.kill()).await {
            tracing::warn!(%error, "failed to kill a control group");
        }
    }

    async fn hunt(&self) {
        loop {
            let mark = self.mark.clone();
            let swept = tokio::task::spawn_blocking(move || mark.sweep(KILL_PATIENCE)).await;
            match swept {
                Ok(Err(left)) => tracing::error!(?left, mark = ?self.mark, "processes survive SIGKILL"),
                _ => return,
            }
        }
    }
}

#[cfg(test)]
impl Process {
    /// What an out-of-memory killer might do.
    pub(super) fn kill_shim(&mut self) {
        self.shim.start_kill().unwrap();
    }
}
