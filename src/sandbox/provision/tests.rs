//! Installation for real: these need the package index the first time, and the cache they fill afterwards.

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use super::*;

/// The cache that tests share: `DBCTL_TEST_CACHE`, else the one that dbctl itself keeps.
pub(crate) fn test_cache() -> PathBuf {
    if let Some(path) = std::env::var_os("DBCTL_TEST_CACHE") {
        return path.into();
    }
    let home = crate::sandbox::home::Home::locate().unwrap();
    std::fs::create_dir_all(home.cache()).unwrap();
    open(home.root()).unwrap();
    home.cache()
}

#[derive(Default)]
struct Steps(Mutex<Vec<String>>);

impl Progress for Steps {
    fn start(&self, step: &str, _: Option<u64>) {
        self.0.lock().unwrap().push(step.to_owned());
    }
    fn advance(&self, _: u64) {}
    fn message(&self, _: &str) {}
    fn finish(&self) {
        self.0.lock().unwrap().push("finished".to_owned());
    }
}

#[test]
fn an_image_is_installed_once_and_found_by_everybody() {
    let cache = test_cache();
    std::fs::create_dir_all(&cache).unwrap();
    let provisioner = Provisioner::new(cache.clone());
    let images = std::thread::scope(|scope| {
        let install = || Provisioner::new(cache.clone()).ensure("dbctl/postgres:16.15", &Silent).unwrap();
        let threads = [scope.spawn(install), scope.spawn(install)];
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(images[0], images[1]);
    assert_eq!(provisioner.cached("x/postgres:16.15").unwrap().as_ref(), Some(&images[0]));
    assert!(provisioner.installed().contains(&"16.15".parse().unwrap()));

    let steps = Steps::default();
    provisioner.ensure("dbctl/postgres:16.15", &steps).unwrap();
    assert!(steps.0.lock().unwrap().is_empty(), "nothing is to be done for what is cached");

    // What pods rely on, as the user they run as.
    let identity = Identity::of_pods();
    for (program, expected) in [("postgres", "postgres (PostgreSQL) 16.15"), ("patroni", "patroni 4.1.5")] {
        let path = images[0]
            .programs()
            .into_iter()
            .map(|directory| directory.join(program))
            .find(|path| path.exists());
        let mut command = std::process::Command::new(path.unwrap());
        command.arg("--version").env("LD_LIBRARY_PATH", images[0].libraries()).current_dir("/");
        let output = identity.apply(&mut command).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected);
    }
}

#[test]
fn a_release_without_a_build_is_answered_with_those_that_exist() {
    let home = tempfile::tempdir().unwrap();
    let provisioner = Provisioner::new(home.path().join("cache"));
    let steps = Steps::default();
    let error = provisioner.ensure("dbctl/postgres:16.3", &steps).unwrap_err();
    assert!(matches!(error, ProvisionError::Unknown { .. }), "{error}");
    assert!(error.to_string().contains("16.15"), "{error}");
    assert!(error.to_string().contains("newest of others: 14."), "{error}");
    let steps = steps.0.lock().unwrap();
    assert_eq!(steps.as_slice(), ["downloading PostgreSQL 16.3", "finished"]);
    let left: Vec<_> =
        std::fs::read_dir(home.path().join("cache")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["lock"], "a failed installation leaves nothing");
}

#[test]
fn what_an_interrupted_installation_left_is_neither_used_nor_kept() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    let half = cache.join(".staging-x").join("build");
    std::fs::create_dir_all(&half).unwrap();
    let provisioner = Provisioner::new(cache.clone());
    assert_eq!(provisioner.installed(), vec![]);
    assert!(provisioner.cached("dbctl/postgres:16.15").unwrap().is_none());
    let identity = Identity::of_pods();
    install::Installer { cache: &cache, identity: &identity, progress: &Silent }.clear_staging().unwrap();
    assert!(!half.exists());
}

#[test]
fn a_cache_that_pods_cannot_reach_is_refused_by_naming_the_directory() {
    let home = tempfile::tempdir().unwrap();
    let closed = home.path().join("closed");
    std::fs::create_dir_all(closed.join("home/cache")).unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let provisioner = Provisioner::new(closed.join("home/cache"));
    let stranger = Identity { name: "stranger".to_owned(), ids: Some((4_000_000, 4_000_000)) };
    let error = provisioner.prepare(&stranger).unwrap_err().to_string();
    assert!(error.contains(&format!("{}: it is closed", closed.display())), "{error}");
    assert!(error.contains("DBCTL_HOME"), "{error}");
}
