//! moto, installed beside the cached software at first use.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::cache;

/// The release of moto that the tests use.
const RELEASE: &str = "5.2.5";
/// What its S3 and IAM servers need. Its extra named `server` would bring three times as much, for all other services.
const PACKAGES: [&str; 5] =
    ["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5", "werkzeug==3.1.9", "boto3==1.44.5"];
/// What the file lock and the unfinished have for names in the cache: those of dbctl's own installations, so that one
/// waits for the other and either clears up.
const LOCK: &str = "lock";
const STAGING: &str = ".staging-";

/// An interpreter, and the directory of packages for it.
pub(super) struct Packages {
    pub python: PathBuf,
    pub site: PathBuf,
}

/// moto, which this installs unless it is there. What lies under the final name is whole.
pub(super) fn moto() -> Packages {
    moto_in(&cache())
}

/// The same in that cache.
pub(super) fn moto_in(cache: &Path) -> Packages {
    let python = PathBuf::from("python3");
    // Compiled packages are for one version of Python.
    let version = run(Command::new(&python).args(["-Ic", "import sys; print(sys.implementation.cache_tag)"]));
    let site = cache.join(format!("moto-{RELEASE}-{}", version.trim()));
    if site.is_dir() {
        return Packages { python, site };
    }
    std::fs::create_dir_all(cache).unwrap();
    let lock = File::options().create(true).truncate(false).write(true).open(cache.join(LOCK)).unwrap();
    lock.lock().unwrap();
    if !site.is_dir() {
        clear(cache);
        let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(cache).unwrap();
        let fresh = staging.path().join("site");
        let pip = pip(&python, staging.path());
        let mut install = Command::new(&pip);
        install.args(["-m", "pip", "install", "--quiet", "--prefer-binary", "--target"]).arg(&fresh);
        install.args(PACKAGES).env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PIP_USER", "0");
        run(install.env("PIP_ROOT_USER_ACTION", "ignore").env("TMPDIR", staging.path()));
        run(Command::new(&python)
            .args([
                "-Ic",
                "import sys; sys.path.insert(0, sys.argv[1]); import moto.server, moto.s3, moto.iam",
            ])
            .arg(&fresh));
        rustix::fs::syncfs(&lock).unwrap();
        std::fs::rename(fresh, &site).unwrap();
    }
    Packages { python, site }
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

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Removes what interrupted installations left; only the lock's holder has such a directory.
fn clear(cache: &Path) {
    for entry in std::fs::read_dir(cache).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

#[test]
fn what_is_installed_is_shared_and_what_is_unfinished_is_not_used() {
    let sites: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| moto().site)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(sites.iter().all(|site| *site == sites[0] && site.join("moto/server.py").is_file()), "{sites:?}");

    // Somebody else is at it in another cache: whoever comes second waits and takes what the first has made.
    let cache = tempfile::tempdir().unwrap();
    let site = cache.path().join(sites[0].file_name().unwrap());
    let half = cache.path().join(".staging-x/site");
    std::fs::create_dir_all(&half).unwrap();
    let lock = File::create(cache.path().join(LOCK)).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| moto_in(cache.path()).site);
        std::fs::create_dir(&site).unwrap();
        lock.unlock().unwrap();
        assert_eq!(second.join().unwrap(), site);
    });
    clear(cache.path());
    assert!(site.exists() && !half.exists());
}
