//! barman-cloud, which others use for the same: installed at first use, where there is a Python that is new enough for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Outcome;
use super::bench::Place;
use super::stores::{BUCKET, Packages, Wanted, install};
use crate::cache::cache;

/// Its extra `cloud`, but with a build of psycopg2 that needs no compiler.
const BARMAN: Wanted<'static> = Wanted {
    name: "barman-3.20.1",
    packages: &[
        "--no-deps",
        "barman==3.20.1",
        "boto3==1.44.5",
        "botocore==1.44.5",
        "jmespath==1.1.0",
        "psycopg2-binary==2.9.13",
        "python-dateutil==2.9.0.post0",
        "s3transfer==0.19.3",
        "six==1.17.0",
        "urllib3==2.8.0",
        "zstandard==0.25.0",
    ],
    modules: "barman.clients.cloud_backup, boto3, psycopg2, zstandard",
};
/// What it calls the database.
const SERVER: &str = "figures";
/// What it needs.
const NEW_ENOUGH: &str = "import sys; sys.exit(sys.version_info < (3, 12))";

/// An installation, and a bucket.
pub struct Barman {
    packages: Packages,
    place: Place,
}

impl Barman {
    /// Where there is a Python for it.
    pub fn find(place: Place) -> Option<Self> {
        let is_one = |python: &PathBuf| {
            let tried = Command::new(python).args(["-Ic", NEW_ENOUGH]).stderr(Stdio::null()).status();
            tried.is_ok_and(|status| status.success())
        };
        let named = ["python3", "python3.14", "python3.13", "python3.12"].map(PathBuf::from);
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let mut versions: Vec<PathBuf> = std::fs::read_dir(home.join(".pyenv/versions"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join("bin/python3"))
            .collect();
        versions.sort();
        let python = named.into_iter().chain(versions).find(is_one)?;
        Some(Self { packages: install(&cache(), python, &BARMAN), place })
    }

    fn command(&self, module: &str) -> Command {
        let mut command = Command::new(&self.packages.python);
        command.arg("-m").arg(format!("barman.clients.{module}")).env("PYTHONPATH", &self.packages.site);
        // Settings of who measures are not meant.
        self.place.apply(command.env("HOME", "/nonexistent"));
        command.args(["--endpoint-url", &self.place.endpoint, "--addressing-style", "path"]);
        command
    }

    fn url(&self) -> String {
        format!("s3://{BUCKET}/barman")
    }

    /// Where it keeps all of it.
    pub fn directory(&self, bucket: &Path) -> PathBuf {
        bucket.join("barman").join(SERVER)
    }

    /// Archives a segment, compressed as dbctl does it.
    pub fn push(&self, segment: &Path) -> Command {
        let mut command = self.command("cloud_walarchive");
        command.args(["--zstd", &self.url(), SERVER]).arg(segment);
        command
    }

    /// Fetches one.
    pub fn fetch(&self, segment: &str, to: &Path) -> Command {
        let mut command = self.command("cloud_walrestore");
        command.args([&self.url(), SERVER, segment]).arg(to);
        command
    }

    /// Takes a base backup of a server that runs here.
    pub fn back_up(&self, sockets: &Path) -> Command {
        let mut command = self.command("cloud_backup");
        command
            .args(["--zstd", "--immediate-checkpoint", "-U", "postgres", "-d", "postgres", "-h"])
            .arg(sockets);
        command.args([&self.url(), SERVER]);
        command
    }

    /// Restores the one backup that there is.
    pub fn restore(&self, bucket: &Path, to: &Path) -> Outcome<Command> {
        let backups = std::fs::read_dir(self.directory(bucket).join("base"))?.flatten();
        let newest = backups.map(|entry| entry.file_name()).max().ok_or("there is no backup")?;
        let mut command = self.command("cloud_restore");
        command.args([&self.url(), SERVER]).arg(newest).arg(to);
        Ok(command)
    }
}
