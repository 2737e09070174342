//! Where a sandbox keeps its files: `DBCTL_HOME`.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

/// The directory that holds one sandbox's cache and state.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

/// Why there is no usable home.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Neither `DBCTL_HOME` nor a home directory is known.
    #[error("find a data directory: set DBCTL_HOME")]
    Unknown,
    /// A path of a Unix socket below it would not fit.
    #[error("use {0}: it is longer than {max} bytes, which a Unix socket's path does not allow; set DBCTL_HOME to a shorter one", max = Home::MAX_LENGTH)]
    TooLong(PathBuf),
    /// The current directory, which a relative path is based on, is unknown.
    #[error("make DBCTL_HOME absolute: {0}")]
    Relative(#[from] std::io::Error),
}

impl Home {
    /// Longest path: a Unix socket's path holds 107 bytes, and `/v/POD/VOLUME/.s.PGSQL.5432` must fit below.
    pub const MAX_LENGTH: usize = 64;

    /// The home that the environment names: `DBCTL_HOME`, else the XDG data directory; for root `/var/lib/dbctl`, since
    /// pods then run as an unprivileged user, who cannot enter root's own directories.
    ///
    /// # Errors
    /// Where no directory is known, or its path is too long.
    pub fn locate() -> Result<Self, HomeError> {
        let root = match std::env::var_os("DBCTL_HOME").filter(|value| !value.is_empty()) {
            Some(path) => std::path::absolute(path)?,
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/dbctl"),
            None => {
                etcetera::choose_base_strategy().map_err(|_| HomeError::Unknown)?.data_dir().join("dbctl")
            }
        };
        Self::at(root)
    }

    /// A home at that absolute path.
    ///
    /// # Errors
    /// Where the path is too long.
    pub fn at(root: PathBuf) -> Result<Self, HomeError> {
        if root.as_os_str().len() > Self::MAX_LENGTH {
            Err(HomeError::TooLong(root))
        } else {
            Ok(Self { root })
        }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Software: PostgreSQL builds and Patroni. All that `sandbox reset` keeps.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Everything that belongs to one sandbox's life: objects, volumes, logs, credentials.
    pub fn state(&self) -> PathBuf {
        self.root.join("sandbox")
    }

    /// Short-lived volumes; kept this short for the sockets in them.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("v")
    }

    /// The kubeconfig of the sandbox's administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state().join("kubeconfig")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_home_is_refused_with_the_limit() {
        assert!(Home::at("/tmp/x".into()).is_ok());
        let error = Home::at(PathBuf::from(format!("/{}", "x".repeat(80)))).unwrap_err();
        assert!(error.to_string().contains("64 bytes"), "{error}");
    }
}
