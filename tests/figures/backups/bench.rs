//! A database in a sandbox of its own, with its backups in a bucket of this process.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dbctl::api::Names;
use dbctl::patroni::{APP_NAME, SUPERUSER};
use dbctl::sandbox::home::Home;
use dbctl::sandbox::provision::{Identity, Image, Provisioner, Silent};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::output;
use super::stores::{BUCKET, Key, REGION, S3sFs};
use super::{Outcome, Size};
use crate::cache::cache;
use crate::dbctl;

/// The release that the figures are of.
const RELEASE: &str = "17.11";
/// The database, and the Secret of its bucket.
pub const NAME: &str = "db";
const SECRET: &str = "bucket";
/// Base backups are taken when they are asked for, and never else.
const SCHEDULE: &str = "0 0 29 2 *";
/// What is waited for at most.
const PATIENCE: Duration = Duration::from_secs(300);

/// A server of buckets, and who may use it.
#[derive(Clone)]
pub struct Place {
    pub endpoint: String,
    key: Key,
}

impl Place {
    /// Tells a program, by the names that all know.
    pub fn apply(&self, command: &mut Command) {
        for (name, value) in self.settings() {
            command.env(name, value);
        }
    }

    fn settings(&self) -> [(&'static str, &str); 5] {
        [
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_REGION", REGION),
            ("AWS_DEFAULT_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", &self.key.id),
            ("AWS_SECRET_ACCESS_KEY", &self.key.secret),
        ]
    }
}

/// What all figures are measured with. The fields go in this order.
pub struct Bench {
    home: TempDir,
    image: Image,
    identity: Identity,
    primary: Option<(IpAddr, String)>,
    store: S3sFs,
}

impl Bench {
    /// A sandbox with a database of one member.
    pub fn start() -> Outcome<Self> {
        let home = tempfile::Builder::new().prefix("dbctl-").tempdir_in("/tmp")?;
        fs::set_permissions(home.path(), Permissions::from_mode(0o755))?;
        std::os::unix::fs::symlink(cache(), home.path().join("cache"))?;
        let image = Provisioner::new(cache()).ensure(&format!("dbctl/postgres:{RELEASE}"), &Silent)?;
        let mut bench =
            Self { home, image, identity: Identity::of_pods(), primary: None, store: S3sFs::start() };
        bench.dbctl(&["sandbox", "up"])?;
        bench.on_cluster(async |client| {
            let data = bench.place();
            let data: Value =
                data.settings().into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
            let secret =
                serde_json::from_value(json!({ "metadata": { "name": SECRET }, "stringData": data }))?;
            let secrets = Api::<Secret>::default_namespaced(client);
            Ok(secrets.create(&PostParams::default(), &secret).await.map(drop)?)
        })?;
        let destination = bench.destination();
        let create = ["create", NAME, "--replicas", "1", "--version", RELEASE, "--storage", "8Gi", "--wait"];
        let backups =
            ["--backup-to", &destination, "--backup-schedule", SCHEDULE, "--backup-credentials", SECRET];
        bench.dbctl(&[&create[..], &backups, &["--backup-retention", "2"]].concat())?;
        bench.primary = Some(bench.on_cluster(async |client| {
            let pod = Api::<Pod>::default_namespaced(client.clone()).get(&format!("{NAME}-0")).await?;
            let address = pod.status.and_then(|status| status.pod_ip).ok_or("the pod has no address")?;
            let secret =
                Api::<Secret>::default_namespaced(client).get(&Names(NAME).internal_secret()).await?;
            let password = secret.data.and_then(|mut data| data.remove("superuser-password"));
            Ok((address.parse()?, String::from_utf8(password.ok_or("there is no password")?.0)?))
        })?);
        Ok(bench)
    }

    /// `dbctl --sandbox ARGS`; what it printed.
    pub fn dbctl(&self, args: &[&str]) -> Outcome<String> {
        dbctl(self.home.path(), args)
    }

    /// A command that talks to the bucket, as PostgreSQL or Patroni start it.
    pub fn agent(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbctl"));
        command.arg("agent").args(args).env_remove("RUST_LOG");
        self.place().apply(&mut command);
        command
    }

    fn on_cluster<T>(&self, work: impl AsyncFnOnce(kube::Client) -> Outcome<T>) -> Outcome<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let file = Home::at(self.home.path().to_owned())?.kubeconfig();
        runtime.block_on(async {
            let config = Kubeconfig::read_from(file)?;
            let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
            work(kube::Client::try_from(config)?).await
        })
    }

    /// The bucket's server.
    pub fn place(&self) -> Place {
        Place { endpoint: self.store.url(), key: self.store.key() }
    }

    /// The directory that holds the bucket.
    pub fn bucket(&self) -> PathBuf {
        self.store.bucket()
    }

    /// The part of the bucket that is the database's, told apart from those of others who measure on this machine.
    pub fn prefix(&self) -> String {
        format!("figures-{}", std::process::id())
    }

    /// Where the database's backups go.
    pub fn destination(&self) -> String {
        self.url(&self.prefix())
    }

    /// A prefix in the bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// A directory that the user who runs PostgreSQL owns.
    pub fn directory(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.home.path().join(name);
        fs::create_dir_all(&path)?;
        self.identity.own(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        Ok(path)
    }

    /// A program, to be run by that user, with PostgreSQL's own found first.
    pub fn tool(&self, program: impl AsRef<std::ffi::OsStr>) -> Outcome<Command> {
        let mut path = vec![self.image.build.join("bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let mut command = Command::new(program);
        command.env("PATH", std::env::join_paths(path)?).env("LD_LIBRARY_PATH", self.image.libraries());
        command.env("LC_ALL", "C").current_dir("/");
        self.identity.apply(&mut command);
        Ok(command)
    }

    /// One that connects to the database as its superuser.
    pub fn client(&self, program: &str) -> Outcome<Command> {
        let (address, password) = self.primary.as_ref().ok_or("there is no database")?;
        let mut command = self.tool(program)?;
        command.env("PGHOST", address.to_string()).env("PGPASSWORD", password);
        command.env("PGUSER", SUPERUSER).env("PGDATABASE", APP_NAME);
        // What is lost in a crash is made anew.
        command.env("PGOPTIONS", "-c synchronous_commit=off");
        Ok(command)
    }

    /// One value.
    pub fn sql(&self, sql: &str) -> Outcome<String> {
        output(self.client("psql")?.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]))
    }

    /// The member's data directory.
    pub fn data(&self) -> Outcome<PathBuf> {
        let volumes = fs::read_dir(self.home.path().join("sandbox/volumes"))?.flatten();
        let inside = volumes.flat_map(|volume| fs::read_dir(volume.path()).into_iter().flatten().flatten());
        let data = inside.map(|entry| entry.path()).find(|path| path.join("PG_VERSION").exists());
        Ok(data.ok_or("there is no data directory")?)
    }

    /// Waits until nothing is left to archive, which else would go on beside what is measured.
    pub fn archived(&self) -> Outcome<()> {
        let status = self.data()?.join("pg_wal/archive_status");
        until("is all WAL archived", || names(&status).iter().all(|name| !name.ends_with(".ready")))
    }

    /// Adds rows of orders until the cluster has that size. zstd makes them about as small as a shop's.
    pub fn fill(&self, size: Size) -> Outcome<()> {
        self.sql(
            "create table if not exists orders (id bigserial primary key, customer int, at timestamptz, amount float8, \
             token text, note text)",
        )?;
        loop {
            let now: u64 = self.sql("select sum(pg_database_size(oid))::bigint from pg_database")?.parse()?;
            let missing = size.bytes().saturating_sub(now);
            if missing < 1 << 20 {
                self.sql("vacuum orders")?;
                self.sql("checkpoint")?;
                return self.archived();
            }
            let rows = missing.min(64 << 20) / 190;
            self.sql(&format!(
                "insert into orders (customer, at, amount, token, note) select n % 1000, now() + n * interval '7 s', random(), \
                 md5(random()::text), 'Order ' || n || ' of customer ' || n % 1000 || ': paid, packed, shipped and received' \
                 from generate_series(1, {rows}) n"
            ))?;
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = self.dbctl(&["sandbox", "down"]) {
            eprintln!("{error}");
        }
    }
}

/// Waits until something is so.
pub fn until(what: &str, mut is: impl FnMut() -> bool) -> Outcome<()> {
    let began = Instant::now();
    while !is() {
        if began.elapsed() > PATIENCE {
            return Err(format!("never {what}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The names in a directory.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
