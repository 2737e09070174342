//! Who pods run as, and where that user may go.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The host user of pods' processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// For messages.
    pub name: String,
    /// Set on every process and on every file of a pod; `None` when the sandbox's own user runs them.
    pub ids: Option<(u32, u32)>,
}

impl Identity {
    /// As root an unprivileged user (PostgreSQL refuses root): `postgres` if it exists, else `nobody`. Otherwise oneself.
    pub fn of_pods() -> Self {
        if !rustix::process::geteuid().is_root() {
            let uid = rustix::process::geteuid().as_raw();
            return Self { name: format!("of uid {uid}"), ids: None };
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let (name, ids) = choose(&passwd);
        Self { name, ids: Some(ids) }
    }

    /// Whether processes are given another user than the sandbox's own.
    pub fn switches(&self) -> bool {
        self.ids.is_some()
    }

    /// Makes a command run as this user.
    pub fn apply<'command>(&self, command: &'command mut Command) -> &'command mut Command {
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or directory to this user; its link if it is one.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn own(&self, path: &Path) -> std::io::Result<()> {
        match self.ids {
            Some((uid, gid)) => std::os::unix::fs::lchown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    fn may_enter(&self, directory: &std::fs::Metadata) -> bool {
        let (uid, gid) = self
            .ids
            .unwrap_or_else(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
        let bit = if directory.uid() == uid {
            0o100
        } else if directory.gid() == gid {
            0o010
        } else {
            0o001
        };
        directory.mode() & bit != 0
    }
}

/// `postgres`, else `nobody`, else the traditional numbers of the latter.
fn choose(passwd: &str) -> (String, (u32, u32)) {
    let find = |wanted: &str| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| *name == wanted)?;
            let uid: u32 = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            (uid != 0).then(|| (name.to_owned(), (uid, gid)))
        })
    };
    find("postgres").or_else(|| find("nobody")).unwrap_or_else(|| ("nobody".to_owned(), (65534, 65534)))
}

/// The topmost directory on the way to `path` (itself included) that the user may not enter.
pub fn first_closed(path: &Path, identity: &Identity) -> Option<PathBuf> {
    if !identity.switches() {
        return None;
    }
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    way.into_iter()
        .find(|directory| {
            std::fs::metadata(directory)
                .is_ok_and(|metadata| metadata.is_dir() && !identity.may_enter(&metadata))
        })
        .map(Path::to_owned)
}

/// Whether a directory is some user's home.
pub(crate) fn is_personal(directory: &Path) -> bool {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed =
        passwd.lines().filter_map(|line| line.split(':').nth(5)).any(|home| Path::new(home) == directory);
    listed || std::env::var_os("HOME").is_some_and(|home| Path::new(&home) == directory)
}

/// Lets everybody pass through a directory that is our own; leaves one of somebody else's alone.
pub(crate) fn open(directory: &Path) -> std::io::Result<()> {
    let metadata = std::fs::metadata(directory)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o001 != 0 {
        return Ok(());
    }
    let mode = metadata.mode() & 0o7777;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode | 0o011))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_postgres_then_nobody() {
        let both = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533::/:/x\npostgres:x:101:104:,,,:/var:/bin/bash\n";
        assert_eq!(choose(both), ("postgres".to_owned(), (101, 104)));
        assert_eq!(choose("nobody:x:99:98::/:/x\n"), ("nobody".to_owned(), (99, 98)));
        // An alias of root is not unprivileged.
        assert_eq!(choose("postgres:x:0:0::/:/x\n"), ("nobody".to_owned(), (65534, 65534)));
        assert_eq!(choose(""), ("nobody".to_owned(), (65534, 65534)));
    }

    #[test]
    fn a_closed_parent_is_named_and_an_own_one_opened() {
        let top = tempfile::tempdir().unwrap();
        open(top.path()).unwrap();
        let closed = top.path().join("closed");
        let inner = closed.join("inner");
        std::fs::create_dir_all(&inner).unwrap();
        let stranger = Identity { name: "stranger".to_owned(), ids: Some((4_000_000, 4_000_000)) };
        assert_eq!(first_closed(&inner, &stranger), None);
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(first_closed(&inner, &stranger), Some(closed.clone()));
        open(&closed).unwrap();
        assert_eq!(first_closed(&inner, &stranger), None);
        let oneself = Identity { name: "me".to_owned(), ids: None };
        assert_eq!(first_closed(&inner, &oneself), None);
    }
}
