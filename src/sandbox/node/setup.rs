//! Before a node's first pod: its directories, its program, and what an earlier run left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bounds;
use super::cgroup;
use super::context::Context;
use super::network;
use super::process::HOME_MARK;
use super::shim::tree::Mark;
use super::{NodeConfig, NodeError};
use crate::sandbox::home::Home;
use crate::sandbox::provision::{Identity, first_closed, is_personal, open};

/// How long left-overs may take to die.
const SWEEP_PATIENCE: Duration = Duration::from_secs(30);

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> NodeError {
    let path = path.to_owned();
    move |source| NodeError::Io { action, path, source }
}

/// Makes the home's directories, lets pods reach them, and puts this program where pods find it.
pub(super) fn prepare(config: &NodeConfig) -> Result<PathBuf, NodeError> {
    let home = &config.home;
    let state = home.state();
    let identity = Identity::of_pods();
    let own =
        [state.join("volumes"), state.join("pods"), state.join("logs"), home.scratch(), config.programs()];
    for directory in &own {
        std::fs::create_dir_all(directory).map_err(io("create", directory))?;
    }
    if identity.switches() {
        let all = own.iter().map(PathBuf::as_path).chain([home.root(), &state]);
        for directory in all.filter(|directory| !is_personal(directory)) {
            open(directory).map_err(io("open", directory))?;
        }
        for directory in [state.join("volumes"), home.scratch()] {
            if let Some(directory) = first_closed(&directory, &identity) {
                return Err(NodeError::Closed { user: identity.name, directory });
            }
        }
    }
    install_program(&config.programs())
}

/// This very program as `dbctl`: a link where possible, so that a rebuild under the old name does not change it.
fn install_program(directory: &Path) -> Result<PathBuf, NodeError> {
    let own = std::env::current_exe().map_err(io("find", Path::new("/proc/self/exe")))?;
    let (place, fresh) = (directory.join("dbctl"), directory.join(".dbctl-new"));
    let same = |a: &Path, b: &Path| {
        use std::os::unix::fs::MetadataExt;
        let ids = |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
        ids(a).is_some() && ids(a) == ids(b)
    };
    if same(&own, &place) {
        return Ok(place);
    }
    let _ = std::fs::remove_file(&fresh);
    if std::fs::hard_link(&own, &fresh).is_err() {
        // Through /proc, since the name may lead to another file by now.
        std::fs::copy("/proc/self/exe", &fresh).map_err(io("write", &fresh))?;
    }
    std::fs::rename(&fresh, &place).map_err(io("write", &place))?;
    Ok(place)
}

/// Removes what pods left that were deleted while no node ran; `uids` are those that there are.
pub(super) fn remove_strangers(context: &Context, uids: &BTreeSet<String>) {
    let home = &context.config.home;
    let short: BTreeSet<PathBuf> = uids.iter().map(|uid| context.scratch(uid)).collect();
    let is_known = |entry: &std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        // A pod's logs end in its uid, which holds no underscore.
        let uid = name.rsplit('_').next().unwrap_or_default();
        uids.contains(uid) || short.contains(&entry.path())
    };
    for place in [home.state().join("pods"), home.state().join("logs"), home.scratch()] {
        let entries = std::fs::read_dir(&place).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| !is_known(entry)) {
            if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(%error, "failed to remove {}", entry.path().display());
            }
        }
    }
}

/// Kills what an earlier run of a home left, and waits until it is gone: nothing may run twice. How many there were.
///
/// # Errors
/// The processes that cannot be killed.
pub fn sweep(home: &Home) -> Result<usize, NodeError> {
    if let Err(error) = cgroup::sweep(&home.state()) {
        tracing::warn!("failed to {error}");
    }
    let mark = Mark::new(
        format!("{HOME_MARK}={}", home.root().display()),
        vec![home.state().join("volumes"), home.state().join("pods"), home.scratch()],
        vec![home.cache()],
    );
    let swept =
        mark.sweep(SWEEP_PATIENCE).map_err(|left| NodeError::LeftOvers(left.into_iter().collect()))?;
    // What processes held on to comes after them.
    network::sweep(home)?;
    bounds::sweep(&home.state().join("volumes"))?;
    Ok(swept)
}
