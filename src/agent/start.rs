//! `dbctl agent run`: prepares the pod's directories and the configuration.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::admit::{AdmitError, Told};
use super::member::Member;
use super::render::{Environment, RenderError, render};
use super::report::AGENT_PORT;
use super::security::{Configuration, SecurityError};
use crate::agent::gone::gone;

/// Why Patroni was not started.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No configuration.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// A file or directory.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// The volume holds another major version's data.
    #[error(
        "start PostgreSQL {wanted} on {path}, which holds data of PostgreSQL {found}: set spec.version back to a release of {found}"
    )]
    Major {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// What secures connections.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// What stands before Patroni.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// Patroni is not there or cannot be executed.
    #[error("execute patroni: {0}")]
    Execute(io::Error),
    /// The port is taken, most likely by another agent in this pod, or the address is not the pod's.
    #[error("listen on port {AGENT_PORT}, which one agent of a pod has: {0}")]
    Listen(io::Error),
    /// Something that every process may have was refused.
    #[error("start the agent: {0}")]
    Runtime(io::Error),
    /// No HTTP client.
    #[error("make a client of Patroni: {0}")]
    Client(String),
}

/// What Patroni is started with, and the member that it is.
pub(super) struct Prepared {
    pub config: Configuration,
    pub member: Member,
    pub told: Told,
}

/// What the pod's environment says.
pub(super) fn environment() -> Result<Environment, AgentError> {
    // Whatever Patroni and PostgreSQL write is theirs alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    Ok(Environment::read(|name| std::env::var(name).ok())?)
}

/// Readies the directories and writes the configuration.
pub(super) fn prepare(environment: Environment) -> Result<Prepared, AgentError> {
    check_major(&environment)?;
    private_directory(&environment.data)?;
    private_directory(&environment.sockets)?;
    let template = fs::read_to_string(&environment.template).map_err(on("read", &environment.template))?;
    let mut config = render(&template, &environment)?;
    let told = Told::take(&mut config);
    let path = environment.sockets.join("patroni.yml");
    let member = Member::new(environment, &config)?;
    let config = Configuration::write(path, config, &template, &member.environment)?;
    Ok(Prepared { config, member, told })
}

fn on(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AgentError {
    let path = path.to_owned();
    move |source| AgentError::File { doing, path, source }
}

/// Makes the directory with mode 0700, or sets that on one that is ours. A mount that belongs to somebody else stays as
/// Kubernetes made it.
pub(super) fn private_directory(path: &Path) -> Result<(), AgentError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(on("make", path))?;
    let found = fs::metadata(path).map_err(on("read", path))?;
    if found.uid() == rustix::process::geteuid().as_raw() && found.permissions().mode() & 0o777 != 0o700 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(on("protect", path))?;
    }
    Ok(())
}

pub(super) fn write_private(path: &Path, text: &str) -> Result<(), AgentError> {
    use std::io::Write;
    // A file of an earlier container may have another owner's or other bits: it is replaced, not written into.
    gone(fs::remove_file(path)).map_err(on("replace", path))?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(on("make", path))?;
    file.write_all(text.as_bytes()).map_err(on("write", path))
}

/// PostgreSQL would refuse too, but Patroni would only retry, and say so nowhere a user looks.
fn check_major(environment: &Environment) -> Result<(), AgentError> {
    let file = environment.data.join("PG_VERSION");
    match (fs::read_to_string(&file), &environment.major) {
        (Ok(found), Some(wanted)) if found.trim() != wanted => Err(AgentError::Major {
            path: environment.data.clone(),
            found: found.trim().to_owned(),
            wanted: wanted.clone(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn directories_and_files_are_private() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a/b");
        private_directory(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        private_directory(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);

        let file = directory.join("f");
        fs::write(&file, "old").unwrap();
        write_private(&file, "new").unwrap();
        assert_eq!((mode(&file), fs::read_to_string(&file).unwrap().as_str()), (0o600, "new"));
    }

    #[test]
    fn data_of_another_major_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let environment = |major: &str| Environment {
            name: "d-0".into(),
            namespace: "n".into(),
            address: "127.0.0.1".parse().unwrap(),
            listen: None,
            data: root.path().to_owned(),
            sockets: root.path().to_owned(),
            template: root.path().to_owned(),
            security: None,
            major: Some(major.into()),
        };
        check_major(&environment("17")).unwrap();
        fs::write(root.path().join("PG_VERSION"), "16\n").unwrap();
        check_major(&environment("16")).unwrap();
        let error = check_major(&environment("17")).unwrap_err().to_string();
        assert!(error.contains("16") && error.contains("17"), "{error}");
    }
}
