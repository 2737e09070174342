//! Control groups: one for each pod, and one in it for each container, wherever this machine lets them be made.
//!
//! They are a second net: a container's shim kills its tree by itself, and a group whole. Only they can limit memory and
//! CPU time, and stop all of a pod at one moment. Where they cannot be made, pods run without them, and the node says so.

mod find;
mod group;
mod limits;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use find::{CONTROLLERS, Mounted, Version, hierarchies};
pub(super) use group::{Group, Throttle};
pub(super) use limits::Limits;

use group::Place;

/// The file that remembers where groups were made: a killed run cannot remove them itself.
const RECORD: &str = "cgroups.json";
/// The group of the shims, which must go on when what they look after is frozen.
const SHIMS: &str = "shims";

/// Why there are no control groups.
#[derive(Debug, thiserror::Error)]
pub(super) enum CgroupError {
    #[error("make control groups: {0}")]
    Unavailable(String),
    #[error("use control group {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { path, source }
}

/// The control groups of one home.
#[derive(Clone, Debug)]
pub(super) struct Cgroups {
    base: Group,
}

impl Cgroups {
    /// Makes the group that holds all others, in every hierarchy that is of use. `state` is where it is remembered.
    ///
    /// # Errors
    /// Where none can be made.
    pub fn open(state: &Path) -> Result<Self, CgroupError> {
        let file = |path: &str| std::fs::read_to_string(path).map_err(io(Path::new(path)));
        let mounted = hierarchies(&file("/proc/self/mountinfo")?, &file("/proc/self/cgroup")?);
        if mounted.is_empty() {
            return Err(CgroupError::Unavailable("none are mounted".to_owned()));
        }
        let name = format!("dbctl-{:08x}", super::address::hash(&state.to_string_lossy()));
        let mut places: Vec<Place> = Vec::new();
        let mut refused = None;
        for mounted in mounted {
            // What version 2 serves is not looked for again.
            let served: BTreeSet<String> =
                places.iter().flat_map(|place| place.controllers.iter().cloned()).collect();
            if mounted.version == Version::One && mounted.controllers.is_subset(&served) {
                continue;
            }
            match make_base(&mounted, &name, state) {
                Ok(place) => places.push(place),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        if places.is_empty() {
            let why = refused.map(|error| error.to_string()).unwrap_or_default();
            return Err(CgroupError::Unavailable(why));
        }
        let base = Group { places };
        let made = Self { base };
        made.make(SHIMS, false)?;
        Ok(made)
    }

    /// Where shims live.
    pub fn shims(&self) -> Vec<PathBuf> {
        self.below(SHIMS).directories()
    }

    /// The controllers that these groups have.
    pub fn controllers(&self) -> BTreeSet<String> {
        self.base.places.iter().flat_map(|place| place.controllers.iter().cloned()).collect()
    }

    /// Makes the group of a pod.
    pub fn pod(&self, uid: &str) -> Result<Group, CgroupError> {
        let group = self.make(&pod_name(uid), true)?;
        if let Some(place) = group.places.iter().find(|place| place.controllers.contains("pids")) {
            group::write(&place.directory, "pids.max", limits::POD_PIDS).map_err(io(&place.directory))?;
        }
        Ok(group)
    }

    /// The group of a pod, whether it is there or not.
    pub fn of_pod(&self, uid: &str) -> Group {
        self.below(&pod_name(uid))
    }

    /// Makes the group of one start of a container; that of its pod must be there.
    pub fn container(&self, uid: &str, id: &str, limits: &Limits) -> Result<Group, CgroupError> {
        let group = self.make(&format!("{}/{id}", pod_name(uid)), false)?;
        for place in &group.places {
            for controller in &place.controllers {
                for (file, text) in limits.files(place.version, controller) {
                    match group::write(&place.directory, file, &text) {
                        // Not every kernel accounts for swap.
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                        result => result.map_err(io(&place.directory.join(file)))?,
                    }
                }
            }
        }
        Ok(group)
    }

    fn below(&self, name: &str) -> Group {
        let places = self.base.places.iter();
        let places = places.map(|place| Place { directory: place.directory.join(name), ..place.clone() });
        Group { places: places.collect() }
    }

    fn make(&self, name: &str, for_others: bool) -> Result<Group, CgroupError> {
        let group = self.below(name);
        for place in &group.places {
            make_directory(&place.directory).map_err(io(&place.directory))?;
            if for_others && place.version == Version::Two {
                hand_down(&place.directory);
            }
        }
        Ok(group)
    }
}

fn pod_name(uid: &str) -> String {
    format!("pod-{uid}")
}

/// The outermost place that this process may use: pods belong to the machine rather than to whoever's session started
/// the sandbox, and that session may end before they do.
fn make_base(mounted: &Mounted, name: &str, state: &Path) -> Result<Place, CgroupError> {
    let mut refused = CgroupError::Unavailable("there is no place for them".to_owned());
    for candidate in &mounted.candidates {
        let directory = candidate.join(name);
        // Processes are moved from where this one is to below that place, which needs this right there.
        let movable = rustix::fs::access(candidate.join("cgroup.procs"), rustix::fs::Access::WRITE_OK);
        let made = movable.map_err(std::io::Error::from).and_then(|()| {
            remember(state, &directory)?;
            make_directory(&directory)
        });
        if let Err(error) = made {
            refused = io(&directory)(error);
            continue;
        }
        let mut controllers = mounted.controllers.clone();
        if mounted.version == Version::Two {
            hand_down(candidate);
            hand_down(&directory);
            let given = group::read(&directory, "cgroup.subtree_control").unwrap_or_default();
            controllers = given.split_whitespace().map(str::to_owned).collect();
            controllers.retain(|name| CONTROLLERS.contains(&name.as_str()));
        }
        return Ok(Place { version: mounted.version, controllers, directory });
    }
    Err(refused)
}

fn make_directory(directory: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Lets the groups below have controllers, each for itself: one that cannot be had does not keep out the others.
fn hand_down(directory: &Path) {
    for controller in CONTROLLERS {
        let _ = group::write(directory, "cgroup.subtree_control", &format!("+{controller}"));
    }
}

fn remembered(state: &Path) -> BTreeSet<PathBuf> {
    let text = std::fs::read(state.join(RECORD)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn remember(state: &Path, directory: &Path) -> std::io::Result<()> {
    let mut known = remembered(state);
    if !known.insert(directory.to_owned()) {
        return Ok(());
    }
    let text = serde_json::to_vec(&known)?;
    crate::sandbox::process::write_atomically(&state.join(RECORD), &text, 0o644)
}

/// Kills what is in the groups that an earlier run of a home left, and removes them.
pub(super) fn sweep(state: &Path) -> Result<(), CgroupError> {
    let known = remembered(state);
    for directory in &known {
        if !directory.is_dir() {
            continue;
        }
        let version = if directory.join("cgroup.events").exists() { Version::Two } else { Version::One };
        let freezer = directory.join("freezer.state").exists().then(|| "freezer".to_owned());
        let controllers = freezer.into_iter().collect();
        let place = Place { version, controllers, directory: directory.clone() };
        Group { places: vec![place] }.destroy().map_err(io(directory))?;
    }
    match std::fs::remove_file(state.join(RECORD)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(&state.join(RECORD))(error)),
        _ => Ok(()),
    }
}
