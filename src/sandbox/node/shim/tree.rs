//! Process trees as /proc shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};

/// Parent and state of every process.
fn parents() -> BTreeMap<i32, (i32, char)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read(entry.path().join("stat")).ok()?;
            Some((pid, parse_stat(&String::from_utf8_lossy(&stat))?))
        })
        .collect()
}

/// Parent and state in a line of /proc/PID/stat. The command's name may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(i32, char)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

/// All processes below those of `roots`, without them.
fn descendants(parents: &BTreeMap<i32, (i32, char)>, roots: &BTreeSet<i32>) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    loop {
        let more: Vec<i32> = parents
            .iter()
            .filter(|(pid, (parent, _))| {
                !found.contains(*pid)
                    && !roots.contains(pid)
                    && (roots.contains(parent) || found.contains(parent))
            })
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may be gone already, which is what is wanted.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// The children of this process that have an entry, `NAME=VALUE`, in their environment.
pub(crate) fn children_marked(entry: &str) -> BTreeSet<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mark = Mark::new(entry.to_owned(), Vec::new(), Vec::new());
    let children = parents().into_iter().filter(|(_, (parent, _))| *parent == own).map(|(pid, _)| pid);
    children.filter(|pid| mark.is_on(&Path::new("/proc").join(pid.to_string()))).collect()
}

/// The processes below some others that are alive, each with its state.
pub(crate) fn alive_below(roots: &BTreeSet<i32>) -> BTreeMap<i32, char> {
    let parents = parents();
    let below = descendants(&parents, roots).into_iter();
    let states = below.filter_map(|pid| Some((pid, parents.get(&pid)?.1)));
    states.filter(|(_, state)| !matches!(state, 'Z' | 'X')).collect()
}

/// The state of a process that is alive.
pub(crate) fn alive(pid: i32) -> Option<char> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let (_, state) = parse_stat(&String::from_utf8_lossy(&stat))?;
    (!matches!(state, 'Z' | 'X')).then_some(state)
}

/// A process's program and arguments, or what it wrote over them; nothing where it is gone.
pub(crate) fn command_line(pid: i32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    let line = line.trim_end_matches('\0');
    if line.is_empty() { Vec::new() } else { line.split('\0').map(str::to_owned).collect() }
}

/// Sends SIGKILL to everything below a process.
pub(super) fn kill_descendants(of: Pid) {
    let parents = parents();
    let below = descendants(&parents, &BTreeSet::from([of.as_raw_nonzero().get()]));
    below.into_iter().for_each(kill);
}

/// How processes of a sandbox are recognised.
#[derive(Clone, Debug)]
pub struct Mark {
    /// An entry of the environment, `NAME=VALUE`.
    entry: String,
    /// Directories that these processes work in: postgres writes its title over its environment, but stays in its data
    /// directory.
    places: Vec<PathBuf>,
    /// Where their programs lie: somebody's shell may stand in a data directory too.
    programs: Vec<PathBuf>,
}

impl Mark {
    /// The mark with directories as /proc names them, without symbolic links.
    pub fn new(entry: String, places: Vec<PathBuf>, programs: Vec<PathBuf>) -> Self {
        let real =
            |paths: Vec<PathBuf>| paths.into_iter().map(|path| path.canonicalize().unwrap_or(path)).collect();
        Self { entry, places: real(places), programs: real(programs) }
    }

    fn is_on(&self, process: &Path) -> bool {
        let entry = self.entry.as_bytes();
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|found| found == entry) {
            return true;
        }
        let leads_into = |link: &str, directories: &[PathBuf]| {
            let target = std::fs::read_link(process.join(link));
            target.is_ok_and(|target| directories.iter().any(|directory| target.starts_with(directory)))
        };
        leads_into("cwd", &self.places) && leads_into("exe", &self.programs)
    }

    /// The marked processes that are alive, and all below them; never this process.
    pub fn processes(&self) -> BTreeSet<i32> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let parents = parents();
        let alive = |pid: &i32| parents.get(pid).is_some_and(|(_, state)| *state != 'Z' && *state != 'X');
        let marked: BTreeSet<i32> = parents
            .keys()
            .filter(|pid| **pid != own && self.is_on(&Path::new("/proc").join(pid.to_string())))
            .copied()
            .collect();
        let below = descendants(&parents, &marked);
        marked.into_iter().chain(below).filter(|pid| *pid != own && alive(pid)).collect()
    }

    /// Kills the marked processes and waits until none is left; the number of those that were there at first.
    ///
    /// # Errors
    /// The processes that are still there after that time.
    pub fn sweep(&self, patience: Duration) -> Result<usize, BTreeSet<i32>> {
        let deadline = std::time::Instant::now() + patience;
        let mut first = None;
        loop {
            let processes = self.processes();
            let found = *first.get_or_insert(processes.len());
            if processes.is_empty() {
                return Ok(found);
            }
            if std::time::Instant::now() > deadline {
                return Err(processes);
            }
            processes.into_iter().for_each(kill);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_confuse_the_parent() {
        assert_eq!(parse_stat("12 (a) R 1) S 7 12 12 0 -1"), Some((7, 'S')));
        assert_eq!(parse_stat("12 (postgres: x) Z 1 2"), Some((1, 'Z')));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn descendants_of_all_generations() {
        let parents = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 1), (6, 5)];
        let parents = parents.into_iter().map(|(pid, parent)| (pid, (parent, 'S'))).collect();
        assert_eq!(descendants(&parents, &BTreeSet::from([2])), BTreeSet::from([3, 4]));
        assert_eq!(descendants(&parents, &BTreeSet::from([2, 5])), BTreeSet::from([3, 4, 6]));
        assert_eq!(descendants(&parents, &BTreeSet::from([6])), BTreeSet::new());
    }
}
