//! Software for pods: PostgreSQL builds and Patroni, installed once into a cache that all sandboxes may share.
//!
//! An install is made in a staging directory, checked there, and renamed into place under a file lock: what the cache
//! holds under its final name is whole, whoever was interrupted when.

mod check;
mod identity;
mod install;
mod python;
mod release;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use identity::{Identity, first_closed};
pub(crate) use identity::{is_personal, open};
pub use release::{ImageError, Release};

/// The Patroni release that pods run.
pub const PATRONI: &str = "4.1.5";
/// The driver that it speaks to PostgreSQL with.
pub const DRIVER: &str = "psycopg[binary]==3.3.9";

/// Where installation reports what it does. The library never prints; a caller with a terminal draws this.
pub trait Progress: Send + Sync {
    /// A step begins; its size in bytes where known.
    fn start(&self, step: &str, total: Option<u64>);
    /// That many more bytes of it are done.
    fn advance(&self, bytes: u64);
    /// Something worth a line, within the step.
    fn message(&self, text: &str);
    /// The step is over.
    fn finish(&self);
}

/// Progress that nobody looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn message(&self, _: &str) {}
    fn finish(&self) {}
}

/// Why software cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The image's name says nothing that can be provisioned.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No build of that release exists.
    #[error("find a build of PostgreSQL {release}: {exist}")]
    Unknown {
        /// What was asked for.
        release: Release,
        /// What there is.
        exist: String,
    },
    /// It is not cached, and the package index does not answer.
    #[error(
        "install {what}: it is not in the cache, and the Python package index cannot be reached ({detail}); {cached}"
    )]
    Offline {
        /// What was asked for.
        what: String,
        /// pip's own words.
        detail: String,
        /// What could be used instead.
        cached: String,
    },
    /// There is no Python that pods can run.
    #[error(
        "find a Python 3.10 or newer that user {user} can execute: install the Debian package python3 (tried {tried})"
    )]
    NoPython {
        /// Who has to run it.
        user: String,
        /// What was found and is of no use.
        tried: String,
    },
    /// There is no pip.
    #[error("find pip: install the Debian package python3-pip or python3-venv (tried {0})")]
    NoPip(String),
    /// A command that is part of the installation ended badly.
    #[error("install {what}: {detail}")]
    Command {
        /// What was being installed.
        what: String,
        /// The command's last words.
        detail: String,
    },
    /// What was installed does not work here.
    #[error("use {what}: {detail}")]
    Check {
        /// What was installed.
        what: String,
        /// What is wrong with it, and the way out.
        detail: String,
    },
    /// Pods run as a user who cannot enter a directory above the cache.
    #[error("let user {user} into {dir}: it is closed to others; set DBCTL_HOME to a directory that everybody may enter, such as /var/lib/dbctl", dir = directory.display())]
    Closed {
        /// Who cannot enter.
        user: String,
        /// What is closed.
        directory: PathBuf,
    },
    /// The cache cannot be read or written.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Turns an I/O error into one that names the path.
fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ProvisionError {
    let path = path.to_owned();
    move |source| ProvisionError::Io { action, path, source }
}

/// What a container of an image needs from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The PostgreSQL release.
    pub release: Release,
    /// The directory of the build: `bin/`, `lib/`, `share/`.
    pub build: PathBuf,
    /// The directory of Patroni: `bin/patroni`, `bin/patronictl`.
    pub patroni: PathBuf,
}

impl Image {
    /// Directories for the front of PATH.
    pub fn programs(&self) -> Vec<PathBuf> {
        vec![self.build.join("bin"), self.patroni.join("bin")]
    }

    /// What LD_LIBRARY_PATH must be: without it replicas fail to load libpqwalreceiver.
    pub fn libraries(&self) -> PathBuf {
        self.build.join("lib")
    }
}

/// Installs software into one cache directory and finds it there.
#[derive(Clone, Debug)]
pub struct Provisioner {
    cache: PathBuf,
}

impl Provisioner {
    /// A provisioner for that cache. Nothing is touched before the first call.
    pub fn new(cache: PathBuf) -> Self {
        Self { cache }
    }

    /// The software of an image, installed if it is not yet. No network is used when everything is cached.
    ///
    /// This blocks, for minutes on a slow network: call it where that is allowed.
    ///
    /// # Errors
    /// When the image is not one that can be provisioned, or its installation fails.
    pub fn ensure(&self, image: &str, progress: &dyn Progress) -> Result<Image, ProvisionError> {
        let release = Release::of_image(image)?;
        if let Some(found) = self.cached(image)? {
            return Ok(found);
        }
        let identity = Identity::of_pods();
        self.prepare(&identity)?;
        let lock = self.lock(progress)?;
        let installer = install::Installer { cache: &self.cache, identity: &identity, progress };
        installer.clear_staging()?;
        if !self.build(release).is_dir() {
            installer.build(release, &self.build(release), || self.index())?;
        }
        if !self.patroni().is_dir() {
            installer.patroni(&self.patroni())?;
        }
        drop(lock);
        Ok(self.image(release))
    }

    /// The software of an image if it is all installed.
    ///
    /// # Errors
    /// When the image is not one that can be provisioned.
    pub fn cached(&self, image: &str) -> Result<Option<Image>, ProvisionError> {
        let release = Release::of_image(image)?;
        let all = self.build(release).is_dir() && self.patroni().is_dir();
        Ok(all.then(|| self.image(release)))
    }

    /// The release tags that exist, oldest first: from the package index, or what is cached when it cannot be reached.
    ///
    /// # Errors
    /// When neither the index nor the cache has any.
    pub fn available(&self) -> Result<Vec<String>, ProvisionError> {
        let releases = match self.index() {
            Ok(releases) => releases,
            Err(error) => {
                let cached = self.installed();
                if cached.is_empty() {
                    return Err(error);
                }
                cached
            }
        };
        Ok(releases.iter().map(Release::to_string).collect())
    }

    /// The releases in the cache, oldest first.
    pub fn installed(&self) -> Vec<Release> {
        let entries = std::fs::read_dir(&self.cache).into_iter().flatten().flatten();
        let mut found: Vec<Release> = entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix(BUILD_PREFIX)?.parse().ok())
            .collect();
        found.sort_unstable();
        found
    }

    fn index(&self) -> Result<Vec<Release>, ProvisionError> {
        let identity = Identity::of_pods();
        let staging = tempfile::tempdir().map_err(io("create", &std::env::temp_dir()))?;
        let pip = python::find(&identity, staging.path())?;
        pip.index().map_err(|detail| ProvisionError::Offline {
            what: "the list of PostgreSQL builds".to_owned(),
            detail,
            cached: release::cached_message(&self.installed()),
        })
    }

    fn image(&self, release: Release) -> Image {
        Image { release, build: self.build(release), patroni: self.patroni() }
    }

    fn build(&self, release: Release) -> PathBuf {
        self.cache.join(format!("{BUILD_PREFIX}{release}"))
    }

    fn patroni(&self) -> PathBuf {
        self.cache.join(format!("patroni-{PATRONI}"))
    }

    /// Makes the cache, and sees to it that pods can reach it.
    fn prepare(&self, identity: &Identity) -> Result<(), ProvisionError> {
        std::fs::create_dir_all(&self.cache).map_err(io("create", &self.cache))?;
        if identity.switches() {
            // The cache and the home around it are dbctl's own; what lies above, or is a person's, is not for us to open.
            for own in [Some(self.cache.as_path()), self.cache.parent()].into_iter().flatten() {
                if identity::is_personal(own) {
                    continue;
                }
                identity::open(own).map_err(io("open", own))?;
            }
        }
        match first_closed(&self.cache, identity) {
            Some(directory) => Err(ProvisionError::Closed { user: identity.name.clone(), directory }),
            None => Ok(()),
        }
    }

    /// One installation at a time in this cache, over all processes.
    fn lock(&self, progress: &dyn Progress) -> Result<File, ProvisionError> {
        let path = self.cache.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(io("open", &path))?;
        if file.try_lock().is_err() {
            progress.start("waiting for another installation into the same cache", None);
            let locked = file.lock().map_err(io("lock", &path));
            progress.finish();
            locked?;
        }
        Ok(file)
    }
}

const BUILD_PREFIX: &str = "postgresql-";

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::test_cache;
