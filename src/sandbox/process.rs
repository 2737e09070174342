//! Files that only one process may hold, and processes that are signalled without hitting a stranger.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

/// How often a condition is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(20);

/// An exclusive lock on a file, let go when dropped and, by the kernel, when its process ends in any way.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether the path still leads to this file: whoever held the lock before may have removed it.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok(there.ino() == held.ino() && there.dev() == held.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Lock {
    /// Takes the lock if nobody holds it.
    ///
    /// # Errors
    /// Where the file cannot be opened or locked.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, path)? => return Ok(Some(Self { file })),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Takes the lock, waiting at most that long for its holder.
    ///
    /// # Errors
    /// Where the file cannot be opened or locked.
    pub fn take_within(path: &Path, limit: Duration) -> io::Result<Option<Self>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(Some(lock));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Whether somebody holds the lock; a missing file is held by nobody, and none is made.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn is_held(path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Writes the holder's process id into the file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_pid(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }

    /// The process id that the file's holder wrote.
    pub fn read_pid(path: &Path) -> Option<i32> {
        let mut text = String::new();
        File::open(path).ok()?.read_to_string(&mut text).ok()?;
        text.trim().parse().ok().filter(|pid| *pid > 0)
    }
}

/// Sends a signal to the holder of a lock. The process is pinned before the lock is looked at again, so that a process
/// id that was taken over by a stranger is never signalled.
///
/// # Errors
/// Where the process cannot be signalled; one that has ended is not an error.
pub fn signal_holder(path: &Path, signal: Signal) -> io::Result<()> {
    let Some(pid) = Lock::read_pid(path).and_then(Pid::from_raw) else {
        return Ok(());
    };
    let pinned = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pinned) => pinned,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if Lock::is_held(path)? && Lock::read_pid(path).and_then(Pid::from_raw) == Some(pid) {
        match rustix::process::pidfd_send_signal(&pinned, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    } else {
        Ok(())
    }
}

/// Waits until nobody holds the lock; false where the time runs out first.
///
/// # Errors
/// Where the file cannot be read.
pub fn wait_until_free(path: &Path, limit: Duration) -> io::Result<bool> {
    wait_for(limit, || Lock::is_held(path).map(|held| !held))
}

/// Waits until a condition holds; false where the time runs out first.
///
/// # Errors
/// What the condition returns.
pub fn wait_for<E>(limit: Duration, mut condition: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
    let end = Instant::now() + limit;
    while !condition()? {
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(POLL);
    }
    Ok(true)
}

/// Whether a process of that id exists.
pub fn exists(pid: i32) -> bool {
    Pid::from_raw(pid)
        .is_some_and(|pid| !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
}

/// Writes a file so that readers see the old content or the new one, never a part.
///
/// # Errors
/// Where it cannot be written.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
        .tempfile_in(parent)?;
    file.write_all(content)?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!Lock::is_held(&path).unwrap());
        assert!(!path.exists(), "looking must not make the file");
        let mut first = Lock::try_take(&path).unwrap().unwrap();
        first.write_pid().unwrap();
        assert!(Lock::is_held(&path).unwrap());
        assert_eq!(Lock::read_pid(&path), Some(std::process::id().cast_signed()));
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(first);
        assert!(!Lock::is_held(&path).unwrap());
        assert!(Lock::take_within(&path, Duration::from_secs(1)).unwrap().is_some());
    }

    #[test]
    fn a_lock_on_a_removed_file_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::try_take(&path).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(Lock::try_take(&path).unwrap().is_some(), "the path leads to nobody's file");
        drop(first);
    }

    #[test]
    fn nobody_is_signalled_without_a_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        signal_holder(&path, Signal::TERM).unwrap();
        // This very process's id, but no lock: the signal would end the test.
        std::fs::write(&path, std::process::id().to_string()).unwrap();
        signal_holder(&path, Signal::KILL).unwrap();
    }

    #[test]
    fn files_are_replaced_with_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        for content in ["a", "b"] {
            write_atomically(&path, content.as_bytes(), 0o600).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
