//! Where the software of tests and figures is kept.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use dbctl::sandbox::home::Home;

/// Where software is cached: `DBCTL_TEST_CACHE`, else where dbctl itself keeps it.
pub fn cache() -> PathBuf {
    if let Some(cache) = std::env::var_os("DBCTL_TEST_CACHE") {
        return cache.into();
    }
    let home = Home::locate().unwrap();
    std::fs::create_dir_all(home.cache()).unwrap();
    // As dbctl does with its home: pods' user must get through.
    let open = std::fs::metadata(home.root()).unwrap().permissions().mode() | 0o711;
    std::fs::set_permissions(home.root(), Permissions::from_mode(open)).unwrap();
    home.cache()
}
