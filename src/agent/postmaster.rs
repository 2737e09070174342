//! PostgreSQL's first process, as its data directory and the kernel show it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::agent::gone::gone;

/// How often one is looked for while there is none.
const PAUSE: Duration = Duration::from_secs(1);

/// What `postmaster.pid` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PidFile {
    pid: Pid,
    /// It takes connections; it neither starts nor stops.
    ready: bool,
}

impl PidFile {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        // A negative number is PostgreSQL in its single-user mode.
        let pid = lines.next()?.trim().parse().ok().filter(|pid: &i32| *pid > 0).and_then(Pid::from_raw)?;
        Some(Self { pid, ready: lines.nth(6).is_some_and(|status| status.trim() == "ready") })
    }

    fn read(data: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(data.join("postmaster.pid")).ok()?)
    }
}

/// Whether that process is the one whose data this is. The file outlives a killed postgres, and its number may be another
/// process's by now.
fn is_postgres(pid: Pid, data: &Path) -> bool {
    let process = PathBuf::from("/proc").join(pid.as_raw_nonzero().to_string());
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let directory = fs::read_link(process.join("cwd")).ok();
    name.trim() == "postgres" && directory.is_some() && directory == fs::canonicalize(data).ok()
}

/// Whether PostgreSQL runs here and is not a replica: it could confirm commits.
pub fn is_primary(data: &Path) -> bool {
    let file = PidFile::read(data).filter(|file| file.ready);
    let replica = || ["standby.signal", "recovery.signal"].iter().any(|name| data.join(name).exists());
    file.is_some_and(|file| !replica() && is_postgres(file.pid, data))
}

/// Processes that work in the data directory, as all of PostgreSQL's do. One that has ended and was not waited for is none.
fn workers(data: &Path) -> io::Result<Vec<i32>> {
    let data = fs::canonicalize(data)?;
    let processes = fs::read_dir("/proc")?.flatten();
    let works =
        |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|directory| directory == data);
    Ok(processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(works).collect())
}

/// Takes away the `postmaster.pid` of a server that was killed; its number may be any process's by now, one of a restarted
/// container mostly, and PostgreSQL would not start then. Where processes still work in the directory nothing is done, and
/// they are returned.
///
/// # Errors
/// Where the directory cannot be read, or the file not removed.
pub fn forget_killed(data: &Path) -> io::Result<Vec<i32>> {
    let workers = workers(data)?;
    if workers.is_empty() {
        gone(fs::remove_file(data.join("postmaster.pid")))?;
    }
    Ok(workers)
}

#[expect(
    deprecated,
    reason = "what it became is unsafe, for types that may close their file; this one owns it"
)]
fn watched(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(handle, Interest::READABLE)
}

/// A running one.
pub struct Postmaster {
    pid: Pid,
    handle: AsyncFd<OwnedFd>,
}

impl Postmaster {
    /// The one that runs, if any.
    fn find(data: &Path) -> io::Result<Option<Self>> {
        let Some(file) = PidFile::read(data) else { return Ok(None) };
        let handle = match pidfd_open(file.pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Looked at only now: what the handle holds cannot become another process.
        if !is_postgres(file.pid, data) {
            return Ok(None);
        }
        Ok(Some(Self { pid: file.pid, handle: watched(handle)? }))
    }

    /// Waits until there is one.
    pub async fn appear(data: &Path) -> Self {
        let mut complained = false;
        loop {
            match Self::find(data) {
                Ok(Some(found)) => return found,
                Ok(None) => {}
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!("failed to watch PostgreSQL: {error}");
                }
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends a signal to the one that runs, if any; whether there was one.
    pub fn signal(data: &Path, signal: Signal) -> bool {
        let Ok(Some(running)) = Self::find(data) else { return false };
        pidfd_send_signal(running.handle.get_ref(), signal).is_ok()
    }

    /// Waits until it has ended.
    pub async fn end(self) {
        if let Err(error) = self.handle.readable().await {
            tracing::warn!("failed to watch PostgreSQL's process {:?}: {error}", self.pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_file_in_each_of_its_states() {
        let file = |pid: &str, status: &str| {
            PidFile::parse(&format!("{pid}\n/data\n1795331490\n5432\n/run\n*\n  1234 5\n{status}\n"))
        };
        let pid = Pid::from_raw(27).unwrap();
        assert_eq!(file("27", "ready   "), Some(PidFile { pid, ready: true }));
        for status in ["starting", "stopping", "standby ", ""] {
            assert_eq!(file("27", status), Some(PidFile { pid, ready: false }), "{status}");
        }
        for other in ["-27", "0", "", "x"] {
            assert_eq!(file(other, "ready"), None, "{other}");
        }
        // While it is being written, less of it is there.
        assert_eq!(PidFile::parse("27\n"), Some(PidFile { pid, ready: false }));
    }

    #[test]
    fn a_number_that_is_another_process_now_is_not_postgres() {
        let data = tempfile::tempdir().unwrap();
        assert!(!is_primary(data.path()));
        let text = format!("{}\n/data\n1\n5432\n/run\n*\n1 2\nready\n", std::process::id());
        fs::write(data.path().join("postmaster.pid"), text).unwrap();
        assert!(!is_primary(data.path()));
    }

    #[test]
    fn what_a_killed_one_left_goes_once_nothing_works_in_the_directory() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(forget_killed(data.path()).unwrap(), Vec::<i32>::new());
        let file = data.path().join("postmaster.pid");
        fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        let mut worker =
            std::process::Command::new("sleep").arg("600").current_dir(data.path()).spawn().unwrap();
        assert_eq!(forget_killed(data.path()).unwrap(), [worker.id().cast_signed()]);
        assert!(file.exists());
        worker.kill().unwrap();
        // It has ended, and nobody has waited for it.
        while !forget_killed(data.path()).unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert!(!file.exists());
        worker.wait().unwrap();
    }
}
