//! Python packages, installed at first use beside the software that sandboxes cache.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the file lock and the unfinished have for names in the cache: those of dbctl's own installations, so that one
/// waits for the other and either clears up.
pub(super) const LOCK: &str = "lock";
const STAGING: &str = ".staging-";

/// An interpreter, and the directory of packages for it.
pub struct Packages {
    pub python: PathBuf,
    pub site: PathBuf,
}

/// What is installed, and how it is seen that it works.
pub struct Wanted<'a> {
    /// The directory's name in the cache, before the version of Python.
    pub name: &'a str,
    /// pip's arguments: packages, and options for them.
    pub packages: &'a [&'a str],
    /// Modules that can be imported then.
    pub modules: &'a str,
}

/// The packages, which this installs unless they are there.
pub fn install(cache: &Path, python: PathBuf, wanted: &Wanted<'_>) -> Packages {
    // Compiled packages are for one version of Python.
    let version = run(Command::new(&python).args(["-Ic", "import sys; print(sys.implementation.cache_tag)"]));
    let site = place(cache, &format!("{}-{}", wanted.name, version.trim()), |staging, fresh| {
        let pip = pip(&python, staging);
        let mut install = Command::new(&pip);
        install.args(["-m", "pip", "install", "--quiet", "--prefer-binary", "--target"]).arg(fresh);
        install.args(wanted.packages).env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PIP_USER", "0");
        run(install.env("PIP_ROOT_USER_ACTION", "ignore").env("TMPDIR", staging));
        let check = format!("import sys; sys.path.insert(0, sys.argv[1]); import {}", wanted.modules);
        run(Command::new(&python).args(["-Ic", &check]).arg(fresh));
    });
    Packages { python, site }
}

/// The directory of that name in the cache, which that makes in a directory for scratch unless it is there. What lies under the
/// final name is whole.
pub(super) fn place(cache: &Path, name: &str, make: impl FnOnce(&Path, &Path)) -> PathBuf {
    let site = cache.join(name);
    if site.is_dir() {
        return site;
    }
    std::fs::create_dir_all(cache).unwrap();
    let lock = File::options().create(true).truncate(false).write(true).open(cache.join(LOCK)).unwrap();
    lock.lock().unwrap();
    if !site.is_dir() {
        clear(cache);
        let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(cache).unwrap();
        let fresh = staging.path().join("site");
        make(staging.path(), &fresh);
        rustix::fs::syncfs(&lock).unwrap();
        std::fs::rename(fresh, &site).unwrap();
    }
    site
}

/// A Python with a pip: that one, or a virtual environment's, as distributions sell pip apart.
fn pip(python: &Path, scratch: &Path) -> PathBuf {
    let has = Command::new(python).args(["-m", "pip", "--version"]).stdin(Stdio::null()).output();
    if has.is_ok_and(|output| output.status.success()) {
        return python.to_owned();
    }
    let environment = scratch.join("environment");
    run(Command::new(python).args(["-m", "venv"]).arg(&environment));
    environment.join("bin/python3")
}

pub(super) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Removes what interrupted installations left; only the lock's holder has such a directory.
pub(super) fn clear(cache: &Path) {
    for entry in std::fs::read_dir(cache).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}
