//! Where a container runs: its control groups and its network.

use std::fs::File;
use std::io::{Error, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

/// What a container's processes are part of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Enter {
    /// The directories of its control group; none means the sandbox's own.
    pub groups: Vec<PathBuf>,
    /// Those of the shims': a shim that was frozen with its container could not end it.
    pub shims: Vec<PathBuf>,
    /// The file of its network namespace; none means the machine's.
    pub network: Option<PathBuf>,
}

impl Enter {
    /// Does something, which starts a process, from within; the groups are left afterwards. The network is not: a shim
    /// talks through pipes alone.
    pub(super) fn around<T>(&self, start: impl FnOnce() -> T) -> Result<T, (&'static str, Error)> {
        if let Some(path) = &self.network {
            enter_network(path).map_err(|error| ("enter the pod's network", error))?;
        }
        move_into(&self.groups).map_err(|error| ("enter the container's control group", error))?;
        let result = start();
        move_into(&self.shims).map_err(|error| ("leave the container's control group", error))?;
        Ok(result)
    }
}

/// For this thread, and all that it starts.
fn enter_network(path: &Path) -> Result<(), Error> {
    let file = File::open(path)?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn move_into(groups: &[PathBuf]) -> Result<(), Error> {
    for group in groups {
        let mut file = File::options().write(true).open(group.join("cgroup.procs"))?;
        file.write_all(std::process::id().to_string().as_bytes())?;
    }
    Ok(())
}
