//! Real WAL without a cluster: a server that lived for a moment, and the binary as its archive and restore command.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dbctl::backup::layout::{ContentHash, Epoch, StoredWal};
use dbctl::backup::store::{Destination, Patience, Settings, Store, name};
use dbctl::backup::wal::WalFile;
use dbctl::sandbox::provision::{Identity, Image, Provisioner, Silent};
use tempfile::TempDir;

use crate::stores::{Azurite, BUCKET, Key, REGION};
use crate::support::{Answer, cache, dbctl, eventually};

/// The archive's id.
pub const ARCHIVE: &str = "01a2b3c4";

/// The data directory of a stopped server, whose `pg_wal` holds whole segments of a MiB.
pub struct Wal {
    home: TempDir,
    pub epoch: Epoch,
    /// The names of the whole segments, in order.
    pub segments: Vec<String>,
}

impl Wal {
    /// Makes a cluster, fills so many segments, and stops it.
    pub fn of(count: usize) -> Self {
        let image = postgres();
        let home = tempfile::Builder::new().prefix("dbctl-wal-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let inside = home.path().join("volume");
        fs::create_dir(&inside).unwrap();
        Identity::of_pods().own(&inside).unwrap();
        let data = inside.join("data");
        let mut initdb = tool(&image, "initdb");
        initdb.arg("-D").arg(&data).args(["--no-sync", "-A", "trust", "-U", "postgres", "--wal-segsize=1"]);
        run(&mut initdb);
        let segments = fill(&image, &data, &inside, count);
        let system = fs::read(data.join("global/pg_control")).unwrap()[..8].try_into().unwrap();
        let major = fs::read_to_string(data.join("PG_VERSION")).unwrap().trim().parse().unwrap();
        Self { home, epoch: Epoch { major, system_identifier: u64::from_le_bytes(system) }, segments }
    }

    pub fn data(&self) -> PathBuf {
        self.home.path().join("volume/data")
    }

    /// The raw bytes of a segment.
    pub fn bytes(&self, segment: &str) -> Vec<u8> {
        fs::read(self.data().join("pg_wal").join(segment)).unwrap()
    }

    /// Where a content of that file lies in a destination.
    pub fn key(&self, file: &str, bytes: &[u8]) -> String {
        StoredWal { file: file.parse().unwrap(), hash: ContentHash::of(bytes) }.key(self.epoch)
    }

    /// Another member's data directory: of the same cluster, with one file of WAL, which has these bytes.
    pub fn member(&self, file: &str, bytes: &[u8]) -> TempDir {
        let data = tempfile::tempdir_in(self.home.path()).unwrap();
        fs::create_dir(data.path().join("global")).unwrap();
        fs::create_dir(data.path().join("pg_wal")).unwrap();
        for name in ["PG_VERSION", "global/pg_control"] {
            fs::copy(self.data().join(name), data.path().join(name)).unwrap();
        }
        fs::write(data.path().join("pg_wal").join(file), bytes).unwrap();
        data
    }
}

/// The release that databases have by default.
pub fn postgres() -> Image {
    let image = format!("dbctl/postgres:{}", dbctl::api::PgVersion::DEFAULT);
    Provisioner::new(cache()).ensure(&image, &Silent).unwrap()
}

/// A program of it, for the user that pods run as.
pub fn tool(image: &Image, program: &str) -> Command {
    let mut command = Command::new(image.build.join("bin").join(program));
    command.env_clear().env("LD_LIBRARY_PATH", image.libraries()).env("LC_ALL", "C").current_dir("/");
    Identity::of_pods().apply(&mut command);
    command.stdin(Stdio::null());
    command
}

/// Runs it to its good end; returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Writes until so many segments are full, and one is switched away from early.
fn fill(image: &Image, data: &Path, sockets: &Path, count: usize) -> Vec<String> {
    let mut postgres = tool(image, "postgres");
    postgres.arg("-D").arg(data).args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "autovacuum=off"]);
    // The segments must stay where they are.
    postgres.args(["-c", "wal_keep_size=1GB", "-c", "shared_buffers=16MB"]);
    postgres.arg("-c").arg(format!("unix_socket_directories={}", sockets.display()));
    let mut postgres = postgres.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let psql = |sql: &str| {
        let mut psql = tool(image, "psql");
        psql.args(["-XAtq", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", sql, "-h"]).arg(sockets);
        psql
    };
    eventually("the server lets us in", || {
        let answer = Answer::from(psql("select 1").output().unwrap());
        if answer.code == 0 { Ok(()) } else { Err(answer.transcript()) }
    });
    let position = "select pg_walfile_name(pg_switch_wal())";
    run(&mut psql("create table t (text text); select pg_switch_wal()"));
    let mut segments = Vec::new();
    while segments.len() < count {
        // Random text, that neither PostgreSQL nor zstd makes small.
        run(&mut psql(
            "insert into t select md5(random()::text) || md5(random()::text) from generate_series(1, 4000) n",
        ));
        segments.push(run(&mut psql(position)));
    }
    let id = i32::try_from(postgres.id()).unwrap();
    let id = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    postgres.wait().unwrap();
    segments
}

/// A destination, and how it is reached.
#[derive(Clone, Debug)]
pub struct Place {
    pub url: String,
    environment: Vec<(&'static str, String)>,
}

impl Place {
    /// A prefix in the bucket of the server at that URL.
    pub fn s3(url: &str, key: &Key, prefix: &str) -> Self {
        let environment = vec![
            ("AWS_ENDPOINT_URL", url.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", key.id.clone()),
            ("AWS_SECRET_ACCESS_KEY", key.secret.clone()),
        ];
        Self { url: format!("s3://{BUCKET}/{prefix}"), environment }
    }

    /// A prefix in a container of Azure's.
    pub fn azure(azurite: &Azurite, prefix: &str) -> Self {
        Self { url: format!("az://{BUCKET}/{prefix}"), environment: azurite.settings() }
    }

    /// A directory.
    pub fn directory(path: &Path) -> Self {
        Self { url: format!("file://{}", path.display()), environment: Vec::new() }
    }

    fn program(&self) -> Command {
        let mut command = dbctl(Path::new("/nowhere"));
        for (name, _) in std::env::vars_os() {
            if ["AWS_", "AZURE_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().cloned());
        command
    }

    fn command(&self, data: &Path, args: &[&str]) -> Command {
        let mut command = self.program();
        command.current_dir(data).arg("agent").args(args);
        command
    }

    /// What the user's own look at it says.
    pub fn selftest(&self) -> Answer {
        self.program().args(["backups", "selftest", "--to", &self.url]).output().unwrap().into()
    }

    /// Runs `archive_command` to its end as that archive's.
    pub fn push_as(&self, archive: &str, data: &Path, file: &str) -> Answer {
        let path = format!("pg_wal/{file}");
        let args = ["wal-push", "--to", &self.url, "--archive", archive, &path];
        self.command(data, &args).output().unwrap().into()
    }

    /// `archive_command` for that file, in that data directory.
    pub fn push_command(&self, data: &Path, file: &str) -> Command {
        let path = format!("pg_wal/{file}");
        self.command(data, &["wal-push", "--to", &self.url, "--archive", ARCHIVE, &path])
    }

    /// Runs it to its end.
    pub fn push(&self, data: &Path, file: &str) -> Answer {
        self.push_command(data, file).output().unwrap().into()
    }

    /// Starts it.
    pub fn start_push(&self, data: &Path, file: &str) -> Child {
        let mut command = self.push_command(data, file);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// `restore_command` for that file, in that data directory.
    pub fn fetch(&self, data: &Path, epoch: Epoch, file: &str, to: &str) -> Answer {
        let epoch = epoch.to_string();
        let args = ["wal-fetch", "--from", &self.url, "--epoch", &epoch, file, to];
        self.command(data, &args).output().unwrap().into()
    }

    /// The destination as dbctl's library sees it.
    pub fn open(&self) -> Store {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let destination: Destination = self.url.parse().unwrap();
        let secret = self.environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let settings = Settings::default().with_secret(secret.collect());
        Store::open(&destination, &settings, Patience::LONG).unwrap()
    }
}

/// All WAL in a destination: key and raw bytes. Each must be what its name says.
pub async fn stored(store: &Store) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for object in store.list("").await.unwrap() {
        let Some(stored) = StoredWal::parse(name(&object.key)) else { continue };
        let bytes = store.get(&object.key).await.unwrap().unwrap();
        let raw = match stored.file {
            WalFile::History(_) => bytes.to_vec(),
            _ => zstd::decode_all(bytes.as_ref()).unwrap(),
        };
        assert_eq!(ContentHash::of(&raw), stored.hash, "{}", object.key);
        found.push((object.key, raw));
    }
    found
}
