//! The life of the background process: started once however many ask, found, waited for, stopped.
//!
//! The process holds `lock` for its whole life, so whether it runs is never a guess: the kernel lets go of the lock
//! when the process ends in any way. `daemon.json` is there once it is ready, and names the process that wrote it.

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::api::LOCAL_SOCKET;
use super::home::Home;
use super::process::{self, Lock};
use super::rotate;

/// How long a start may take: on a loaded machine the store of many objects is read first.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How long a new process tries to get the lock: whoever looks whether it is held holds it for an instant.
const CLAIM_LIMIT: Duration = Duration::from_secs(5);
/// How long a process that was asked to stop, or killed, may take beyond the time given to it.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may take before the process counts as not ready; it is asked again then.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How much of the log an error shows.
const LOG_TAIL_LINES: usize = 12;

/// Why the background process could not be found, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A file of it.
    #[error("use {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did not start.
    #[error("start the sandbox: its process ended with {status}\n{tail}")]
    Ended {
        /// How it ended.
        status: String,
        /// The end of its log.
        tail: String,
    },
    /// It did not become ready.
    #[error("start the sandbox: it was not ready after {}\n{tail}", humantime::format_duration(*.limit))]
    NotReady {
        /// How long it was waited for.
        limit: Duration,
        /// The end of its log.
        tail: String,
    },
    /// Another one runs.
    #[error("start the sandbox: another process (pid {0}) runs it")]
    Running(i32),
    /// It does not end.
    #[error("stop the sandbox: process {0} does not end, even when killed")]
    Unkillable(i32),
}

/// What the running process says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its process id.
    pub pid: i32,
    /// Its program's version.
    pub version: String,
    /// Its program's file, so that a rebuilt one of the same version is told from it.
    pub build: Build,
    /// When it became ready.
    pub started: jiff::Timestamp,
    /// Where its API server listens.
    pub server: SocketAddr,
    /// Where Prometheus may ask.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
}

impl Record {
    /// Whether the process answers a request. That its socket takes a connection says nothing: the kernel does that
    /// for a while after the process was killed. Its Unix socket answers through every fault that it was asked to have.
    fn answers(&self, socket: &Path) -> bool {
        let locally = || -> io::Result<bool> {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            is_http(stream)
        };
        let by_network = || -> io::Result<bool> {
            let stream = TcpStream::connect_timeout(&self.server, ANSWER_LIMIT)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            is_http(stream)
        };
        locally().or_else(|_| by_network()).unwrap_or(false)
    }
}

/// Whether a request is answered.
fn is_http(mut stream: impl io::Read + io::Write) -> io::Result<bool> {
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut start = [0; 5];
    stream.read_exact(&mut start)?;
    Ok(&start == b"HTTP/")
}

/// Size and modification time of a program's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    size: u64,
    modified: u64,
}

impl Build {
    /// The running program's.
    pub fn current() -> Self {
        let read = || {
            let meta = std::env::current_exe().ok()?.metadata().ok()?;
            let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_millis();
            Some(Self { size: meta.len(), modified: u64::try_from(modified).ok()? })
        };
        read().unwrap_or_default()
    }
}

/// Where the background process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not run.
    Stopped,
    /// It runs, and is not ready.
    Starting,
    /// It serves.
    Ready(Record),
}

/// The background process of one home.
#[derive(Clone, Debug)]
pub struct Daemon {
    home: Home,
}

/// Held by the background process itself for its whole life.
#[derive(Debug)]
pub struct Claim {
    _lock: Lock,
    record: PathBuf,
}

impl Claim {
    /// Says that the process is ready.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn ready(&self, server: SocketAddr, metrics: Option<SocketAddr>) -> Result<(), DaemonError> {
        let record = Record {
            pid: std::process::id().cast_signed(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: Build::current(),
            started: jiff::Timestamp::now(),
            server,
            metrics,
        };
        let text = serde_json::to_vec_pretty(&record).map_err(io::Error::from);
        text.and_then(|text| process::write_atomically(&self.record, &text, 0o644)).map_err(at(&self.record))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.record);
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DaemonError {
    let path = path.to_owned();
    move |source| DaemonError::File { path, source }
}

impl Daemon {
    /// That of a home.
    pub fn new(home: Home) -> Self {
        Self { home }
    }

    fn lock_path(&self) -> PathBuf {
        self.home.state().join("lock")
    }

    fn start_lock_path(&self) -> PathBuf {
        self.home.state().join("start.lock")
    }

    fn record_path(&self) -> PathBuf {
        self.home.state().join("daemon.json")
    }

    /// Where its output goes.
    pub fn log_path(&self) -> PathBuf {
        self.home.state().join("daemon.log")
    }

    /// Where it stands now.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn state(&self) -> Result<State, DaemonError> {
        let lock = self.lock_path();
        if !Lock::is_held(&lock).map_err(at(&lock))? {
            return Ok(State::Stopped);
        }
        // A record that a killed predecessor left names a process that is gone. One that is being killed may still
        // have its lock, and does not answer any more.
        let holder = Lock::read_pid(&lock);
        let record = std::fs::read(self.record_path())
            .ok()
            .and_then(|text| serde_json::from_slice::<Record>(&text).ok())
            .filter(|record| {
                Some(record.pid) == holder
                    && process::exists(record.pid)
                    && record.answers(&self.home.state().join(LOCAL_SOCKET))
            });
        Ok(record.map_or(State::Starting, State::Ready))
    }

    /// Makes the directories. As root they can be entered by others, since pods run as an unprivileged user; the files
    /// in them have their own modes.
    ///
    /// # Errors
    /// Where they cannot be made.
    pub fn prepare(&self) -> Result<(), DaemonError> {
        let mode = if rustix::process::geteuid().is_root() { 0o755 } else { 0o700 };
        for path in [self.home.root().to_owned(), self.home.state()] {
            std::fs::DirBuilder::new().recursive(true).mode(mode).create(&path).map_err(at(&path))?;
            let meta = std::fs::metadata(&path).map_err(at(&path))?;
            if rustix::process::geteuid().is_root() && meta.permissions().mode() & 0o055 != 0o055 {
                std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).map_err(at(&path))?;
            }
        }
        Ok(())
    }

    /// Returns what runs, starting it with `command` where nothing does. Whoever comes second waits for the first.
    ///
    /// # Errors
    /// Where it does not become ready; the error shows the end of its log.
    pub fn ensure(
        &self,
        command: impl Fn() -> io::Result<Command>,
        on_start: impl FnOnce(),
    ) -> Result<Record, DaemonError> {
        if let State::Ready(record) = self.state()? {
            return Ok(record);
        }
        on_start();
        self.prepare()?;
        let path = self.start_lock_path();
        let lock = Lock::take_within(&path, START_LIMIT).map_err(at(&path))?;
        let _lock = lock.ok_or_else(|| self.not_ready(0))?;
        let log_start = self.rotate_log()?;
        let (mut child, mut found) = (None, None);
        process::wait_for(START_LIMIT, || {
            match self.state()? {
                State::Ready(record) => found = Some(record),
                // Also where one that was starting, or still ending, has gone.
                State::Stopped if child.is_none() => child = Some(self.spawn(&command)?),
                State::Stopped | State::Starting => self.check_child(child.as_mut(), log_start)?,
            }
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| self.not_ready(log_start))
    }

    fn check_child(&self, child: Option<&mut Child>, log_start: u64) -> Result<(), DaemonError> {
        match child.map(Child::try_wait) {
            Some(Ok(Some(status))) => {
                Err(DaemonError::Ended { status: status.to_string(), tail: self.log_tail(log_start) })
            }
            _ => Ok(()),
        }
    }

    fn not_ready(&self, log_start: u64) -> DaemonError {
        DaemonError::NotReady { limit: START_LIMIT, tail: self.log_tail(log_start) }
    }

    /// Sets a large log aside; returns where the new process's part of the log will begin.
    fn rotate_log(&self) -> Result<u64, DaemonError> {
        let path = self.log_path();
        let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        if size <= rotate::FULL {
            return Ok(size);
        }
        rotate::rotate(&path).map_err(at(&path))?;
        Ok(0)
    }

    /// Sets this very process's log aside once it is full, and goes on with a new one: for the process whose output it
    /// is, and nobody else.
    ///
    /// # Errors
    /// Where a file cannot be renamed or made; what is logged goes on where it did.
    pub fn rotate_own_log(&self) -> Result<(), DaemonError> {
        if self.rotate_log()? > 0 {
            return Ok(());
        }
        let path = self.log_path();
        let turn = || -> io::Result<()> {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            rustix::stdio::dup2_stdout(&file)?;
            Ok(rustix::stdio::dup2_stderr(&file)?)
        };
        turn().map_err(at(&path))
    }

    fn spawn(&self, command: &impl Fn() -> io::Result<Command>) -> Result<Child, DaemonError> {
        let path = self.log_path();
        let log =
            || OpenOptions::new().create(true).append(true).open(&path).and_then(|f| Ok((f.try_clone()?, f)));
        let start = || {
            let (out, err) = log()?;
            // The new process makes a session of its own, which only a process that leads no group can.
            command()?
                .env("DBCTL_HOME", self.home.root())
                .current_dir(self.home.root())
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(err)
                .spawn()
        };
        start().map_err(at(&path))
    }

    /// The last lines that were logged after that place.
    fn log_tail(&self, from: u64) -> String {
        let read = || -> io::Result<String> {
            let mut file = std::fs::File::open(self.log_path())?;
            let window = file.metadata()?.len().saturating_sub(64 << 10);
            file.seek(SeekFrom::Start(from.max(window)))?;
            io::read_to_string(file)
        };
        let text = read().unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail: Vec<_> = lines.iter().skip(lines.len().saturating_sub(LOG_TAIL_LINES)).copied().collect();
        let log = self.log_path().display().to_string();
        if tail.is_empty() {
            format!("(nothing was logged in {log})")
        } else {
            format!("the end of {log}:\n  {}", tail.join("\n  "))
        }
    }

    /// Becomes the background process: takes the lock, and withdraws what a predecessor said.
    ///
    /// # Errors
    /// Where another process is it already.
    pub fn claim(&self) -> Result<Claim, DaemonError> {
        self.prepare()?;
        let path = self.lock_path();
        let lock = Lock::take_within(&path, CLAIM_LIMIT).map_err(at(&path))?;
        let Some(mut lock) = lock else {
            return Err(DaemonError::Running(Lock::read_pid(&path).unwrap_or_default()));
        };
        let record = self.record_path();
        match std::fs::remove_file(&record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&record)(error)),
            _ => {}
        }
        lock.write_pid().map_err(at(&path))?;
        Ok(Claim { _lock: lock, record })
    }

    /// Asks the process to stop, waits that long, then kills it. False where none ran.
    ///
    /// # Errors
    /// Where it cannot be signalled, or does not end.
    pub fn stop(&self, grace: Duration) -> Result<bool, DaemonError> {
        let path = self.lock_path();
        if !Lock::is_held(&path).map_err(at(&path))? {
            return Ok(false);
        }
        for (signal, limit) in [(Signal::TERM, grace), (Signal::KILL, KILL_LIMIT)] {
            process::signal_holder(&path, signal).map_err(at(&path))?;
            if process::wait_until_free(&path, limit).map_err(at(&path))? {
                return Ok(true);
            }
        }
        Err(DaemonError::Unkillable(Lock::read_pid(&path).unwrap_or_default()))
    }

    /// Keeps everybody from starting the process while the guard lives. Nothing is made where there is no state.
    ///
    /// # Errors
    /// Where the lock cannot be taken.
    pub fn hold_start(&self) -> Result<Option<Lock>, DaemonError> {
        let path = self.start_lock_path();
        if !self.home.state().is_dir() {
            return Ok(None);
        }
        Lock::take_within(&path, START_LIMIT).map_err(at(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn daemon() -> (tempfile::TempDir, Daemon) {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::new(Home::at(dir.path().to_owned()).unwrap());
        (dir, daemon)
    }

    #[test]
    fn it_is_stopped_then_starting_then_ready_then_stopped() {
        let (_dir, daemon) = daemon();
        assert_eq!(daemon.state().unwrap(), State::Stopped);
        assert!(!daemon.stop(Duration::ZERO).unwrap());
        let claim = daemon.claim().unwrap();
        assert_eq!(daemon.state().unwrap(), State::Starting);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        claim.ready(address, Some(address)).unwrap();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            server
        });
        let State::Ready(record) = daemon.state().unwrap() else { panic!("not ready") };
        assert_eq!((record.server, record.build), (address, Build::current()));
        assert_eq!(record.metrics, Some(address));
        drop(answering.join().unwrap());
        assert_eq!(daemon.state().unwrap(), State::Starting, "nobody listens");
        drop(claim);
        assert_eq!(daemon.state().unwrap(), State::Stopped);
        assert!(!daemon.record_path().exists());
    }

    #[test]
    fn a_killed_predecessors_record_does_not_count() {
        let (_dir, daemon) = daemon();
        let claim = daemon.claim().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        claim.ready(server.local_addr().unwrap(), None).unwrap();
        let mut record: Record =
            serde_json::from_slice(&std::fs::read(daemon.record_path()).unwrap()).unwrap();
        record.pid = i32::MAX - 1;
        std::fs::write(daemon.record_path(), serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(daemon.state().unwrap(), State::Starting);
    }

    #[test]
    fn a_failed_start_shows_the_end_of_the_log() {
        let (_dir, daemon) = daemon();
        let command = || {
            let mut command = Command::new("sh");
            command.args(["-c", "echo old; echo the disk is on fire >&2; exit 3"]);
            Ok(command)
        };
        let error = daemon.ensure(command, || ()).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("the disk is on fire"), "{error}");
    }
}
