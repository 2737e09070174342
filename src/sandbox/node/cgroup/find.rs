//! Where control groups can be made: the mounted hierarchies and this process's place in each. Pure, over what /proc says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The controllers that serve pods.
pub(super) const CONTROLLERS: [&str; 5] = ["memory", "cpu", "pids", "io", "freezer"];

/// Which of the two kinds of hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub version: Version,
    /// Named as version 2 names them; for version 2 itself only its files tell.
    pub controllers: BTreeSet<String>,
    /// Where groups could be made, the outermost first: from the mount down to where this process is.
    pub candidates: Vec<PathBuf>,
}

/// The hierarchies that matter, version 2 first. `mountinfo` and `own` are /proc/self/mountinfo and /proc/self/cgroup.
pub(super) fn hierarchies(mountinfo: &str, own: &str) -> Vec<Mounted> {
    let mut found: Vec<Mounted> = mountinfo.lines().filter_map(|line| hierarchy(line, own)).collect();
    found.sort_by_key(|mounted| mounted.version == Version::One);
    // The same hierarchy may be mounted at several places; one is enough.
    let mut seen = Vec::new();
    found.retain(|mounted| {
        let key = (mounted.version, mounted.controllers.clone());
        let new = !seen.contains(&key);
        seen.push(key);
        new
    });
    found
}

fn hierarchy(line: &str, own: &str) -> Option<Mounted> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let (root, mount) = (*left.get(3)?, PathBuf::from(unescape(left.get(4)?)));
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let (version, controllers) = match kind {
        "cgroup2" => (Version::Two, BTreeSet::new()),
        "cgroup" => {
            let named = options.split(',').map(|name| if name == "blkio" { "io" } else { name });
            let known = named.filter(|name| CONTROLLERS.contains(name)).map(str::to_owned);
            (Version::One, known.collect::<BTreeSet<_>>())
        }
        _ => return None,
    };
    if version == Version::One && controllers.is_empty() {
        return None;
    }
    let path = own.lines().find_map(|line| place(line, version, options))?;
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let mut candidates = vec![mount.clone()];
    for part in below.components() {
        let next = candidates.last().unwrap_or(&mount).join(part);
        candidates.push(next);
    }
    Some(Mounted { version, controllers, candidates })
}

/// The path in a line `N:CONTROLLERS:PATH`, if it is about that hierarchy.
fn place<'a>(line: &'a str, version: Version, options: &str) -> Option<&'a str> {
    let mut fields = line.splitn(3, ':');
    let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
    let options: Vec<&str> = options.split(',').collect();
    let this = match version {
        Version::Two => number == "0" && names.is_empty(),
        Version::One => !names.is_empty() && names.split(',').all(|name| options.contains(&name)),
    };
    this.then_some(path)
}

/// Mount points have blanks written as octal numbers.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(mounted: &Mounted) -> Vec<String> {
        mounted.candidates.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_unified_machine_has_one() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
                         31 23 0:27 / /proc rw - proc proc rw\n";
        let found = hierarchies(mountinfo, "0::/user.slice/user-1.slice\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].version, Version::Two);
        let expected =
            ["/sys/fs/cgroup", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup/user.slice/user-1.slice"];
        assert_eq!(paths(&found[0]), expected);
    }

    #[test]
    fn a_hybrid_one_has_several_and_some_do_not_matter() {
        let mountinfo = "1 0 0:1 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                         2 0 0:2 / /cg/memory rw - cgroup cgroup rw,memory\n\
                         3 0 0:3 / /cg/b\\040k rw - cgroup cgroup rw,blkio\n\
                         4 0 0:4 / /cg/devices rw - cgroup cgroup rw,devices\n\
                         5 0 0:5 / /cg/unified rw - cgroup2 cgroup2 rw\n\
                         6 0 0:2 / /again rw - cgroup cgroup rw,memory\n";
        let own = "4:memory:/a\n3:blkio:/\n2:cpu,cpuacct:/\n1:devices:/\n0::/\n";
        let found = hierarchies(mountinfo, own);
        let names: Vec<_> =
            found.iter().map(|mounted| mounted.controllers.iter().cloned().collect::<Vec<_>>()).collect();
        assert_eq!(names, [vec![], vec!["cpu".to_owned()], vec!["memory".to_owned()], vec!["io".to_owned()]]);
        assert_eq!(paths(&found[2]), ["/cg/memory", "/cg/memory/a"]);
        assert_eq!(paths(&found[3]), ["/cg/b k"]);
    }

    #[test]
    fn a_container_sees_a_part_of_the_tree() {
        let mountinfo = "1 0 0:1 /docker/abc /cg rw - cgroup cgroup rw,memory\n";
        let found = hierarchies(mountinfo, "4:memory:/docker/abc/x\n");
        assert_eq!(paths(&found[0]), ["/cg", "/cg/x"]);
        assert!(hierarchies("garbage\n1 2 - x", "0::/").is_empty());
    }
}
