//! One control group, in all the hierarchies that it is part of.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::find::Version;

/// How long a group may take to freeze, to empty itself, or to let itself be removed.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// The group's directory in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub version: Version,
    pub controllers: BTreeSet<String>,
    pub directory: PathBuf,
}

/// A control group of a pod or a container.
#[derive(Clone, Debug)]
pub(in crate::sandbox::node) struct Group {
    pub(super) places: Vec<Place>,
}

/// How much may be read from and written to a device; nothing is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sandbox::node) struct Throttle {
    pub bytes_per_second: Option<u64>,
    pub operations_per_second: Option<u64>,
}

impl Group {
    /// Where a process that is to be part of it writes itself.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.places.iter().map(|place| place.directory.clone()).collect()
    }

    fn with(&self, controller: &str) -> Option<&Place> {
        self.places.iter().find(|place| place.controllers.contains(controller))
    }

    fn unified(&self) -> Option<&Place> {
        self.places.iter().find(|place| place.version == Version::Two)
    }

    /// Stops all its processes where they are, or lets them go on; returns when they have stopped.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        if let Some(place) = self.unified() {
            write(&place.directory, "cgroup.freeze", if frozen { "1" } else { "0" })?;
            let line = if frozen { "frozen 1" } else { "frozen 0" };
            return wait(|| Ok(read(&place.directory, "cgroup.events")?.lines().any(|found| found == line)));
        }
        let Some(place) = self.with("freezer") else { return Err(ErrorKind::Unsupported.into()) };
        let state = if frozen { "FROZEN" } else { "THAWED" };
        if !frozen {
            // A group below that was frozen by itself stays so when the one above is let go.
            below(&place.directory).iter().try_for_each(|group| write(group, "freezer.state", state))?;
        }
        wait(|| {
            // Said again each time: what forks meanwhile may otherwise keep the group from ever coming to rest.
            write(&place.directory, "freezer.state", state)?;
            Ok(read(&place.directory, "freezer.state")?.trim() == state)
        })
    }

    /// Whether it can be frozen.
    pub fn freezes(&self) -> bool {
        self.unified().is_some() || self.with("freezer").is_some()
    }

    /// The processes in it and in the groups below it.
    pub fn processes(&self) -> BTreeSet<i32> {
        self.places.first().map(|place| processes(&place.directory)).unwrap_or_default()
    }

    /// Kills all that is in it, also what is frozen.
    pub fn kill(&self) -> Result<()> {
        if let Some(place) = self.unified()
            && write(&place.directory, "cgroup.kill", "1").is_ok()
        {
            return Ok(());
        }
        // While it is frozen nothing can fork; the signals are waiting when it is let go.
        let froze = self.freezes() && self.freeze(true).is_ok();
        let result = wait(|| {
            let found = self.processes();
            for pid in found.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            Ok(froze || found.is_empty())
        });
        if froze { self.freeze(false) } else { result }
    }

    /// How many of its processes were killed for want of memory.
    pub fn memory_kills(&self) -> u64 {
        let Some(place) = self.with("memory") else { return 0 };
        let file = match place.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = read(&place.directory, file).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or_default()
    }

    /// Limits what it may read from and write to a device, `MAJOR:MINOR`. Nothing in `throttle` is no limit any more.
    pub fn throttle(&self, device: &str, throttle: Throttle) -> Result<()> {
        let Some(place) = self.with("io") else { return Err(ErrorKind::Unsupported.into()) };
        let (bytes, operations) = (throttle.bytes_per_second, throttle.operations_per_second);
        match place.version {
            Version::One => {
                let files = [
                    ("read_bps", bytes),
                    ("write_bps", bytes),
                    ("read_iops", operations),
                    ("write_iops", operations),
                ];
                for (file, limit) in files {
                    let file = format!("blkio.throttle.{file}_device");
                    write(&place.directory, &file, &format!("{device} {}", limit.unwrap_or(0)))?;
                }
                Ok(())
            }
            Version::Two => {
                let text = |limit: Option<u64>| limit.map_or("max".to_owned(), |limit| limit.to_string());
                let (bytes, operations) = (text(bytes), text(operations));
                let line =
                    format!("{device} rbps={bytes} wbps={bytes} riops={operations} wiops={operations}");
                write(&place.directory, "io.max", &line)
            }
        }
    }

    /// Whether its use of devices can be limited.
    pub fn throttles(&self) -> bool {
        self.with("io").is_some()
    }

    /// Kills what is left in it, and removes it with all groups below it.
    pub fn destroy(&self) -> Result<()> {
        if !self.processes().is_empty() {
            self.kill()?;
        }
        self.places.iter().try_for_each(|place| remove(&place.directory))
    }
}

fn processes(directory: &Path) -> BTreeSet<i32> {
    let own = read(directory, "cgroup.procs").unwrap_or_default();
    let below = below(directory).into_iter().map(|group| read(&group, "cgroup.procs").unwrap_or_default());
    let all = std::iter::once(own).chain(below).collect::<Vec<_>>();
    all.iter().flat_map(|text| text.lines()).filter_map(|line| line.parse().ok()).collect()
}

/// All groups below one, the outer ones first.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = children(directory);
    let mut next = 0;
    while let Some(group) = found.get(next) {
        found.extend(children(group));
        next += 1;
    }
    found
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

/// Removes a group's directory and those below it. The kernel may call one busy for a moment after its last process.
pub(super) fn remove(directory: &Path) -> Result<()> {
    for child in children(directory) {
        remove(&child)?;
    }
    wait(|| match std::fs::remove_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(false),
        Err(error) => Err(error),
    })
}

pub(super) fn write(directory: &Path, file: &str, text: &str) -> Result<()> {
    // Not `fs::write`, which would make a file where the kernel has none.
    let mut file = std::fs::File::options().write(true).open(directory.join(file))?;
    std::io::Write::write_all(&mut file, text.as_bytes())
}

pub(super) fn read(directory: &Path, file: &str) -> Result<String> {
    std::fs::read_to_string(directory.join(file))
}

fn wait(mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        if Instant::now() > deadline {
            return Err(Error::new(ErrorKind::TimedOut, "the kernel takes too long"));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
