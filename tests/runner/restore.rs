//! Restores from real archives and base backups, by real PostgreSQL: `dbctl agent bootstrap`, as Patroni calls it.

#[path = "verify.rs"]
mod verify;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dbctl::backup::base::{BackupId, Part, Record, StoredArchive, TablespaceRecord};
use dbctl::backup::server::{
    Address, BaseBackup, Compression, Connection, Event, Limits, ManifestChecksums, Mode, Options, Target,
};
use dbctl::backup::store::{Destination, Patience, Settings, Store};
use dbctl::sandbox::provision::{Identity, Image, Provisioner, Silent};
use jiff::Timestamp;
use ring::digest;

use crate::support::{Sandbox, cache, eventually};

/// One server and its archive, in a directory that goes with them.
struct Bench {
    image: Image,
    identity: Identity,
    root: tempfile::TempDir,
}

impl Bench {
    fn new(version: &str) -> Self {
        let image = Provisioner::new(cache()).ensure(&format!("dbctl/postgres:{version}"), &Silent).unwrap();
        let root = tempfile::Builder::new().prefix("dbctl-restore-").tempdir_in("/tmp").unwrap();
        let identity = Identity::of_pods();
        let bench = Self { image, identity, root };
        bench.own(bench.root.path());
        for directory in ["s", "store", "new", "new/s"] {
            fs::create_dir(bench.path(directory)).unwrap();
            bench.own(&bench.path(directory));
        }
        bench.ok("initdb", &["-D", "src", "-U", "postgres", "--no-sync", "-A", "trust", "--data-checksums"]);
        let push = format!(
            "'{}' agent wal-push --to 'file://{}' --archive A1 \"%p\"",
            env!("CARGO_BIN_EXE_dbctl"),
            bench.path("store").display()
        );
        let settings = [
            ("archive_mode", "on"),
            ("archive_command", push.as_str()),
            ("fsync", "off"),
            // Its transactions are nobody's that a target counts on.
            ("autovacuum", "off"),
            ("listen_addresses", ""),
            ("unix_socket_directories", bench.path("s").to_str().unwrap()),
        ]
        .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
        .concat();
        fs::write(bench.path("src/postgresql.auto.conf"), settings).unwrap();
        bench.own(&bench.path("src/postgresql.auto.conf"));
        bench.start("src", &[]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn own(&self, path: &Path) {
        self.identity.own(path).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let mut path = vec![self.image.build.join("bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let mut command = Command::new(program);
        command
            .current_dir(self.root.path())
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("LD_LIBRARY_PATH", self.image.libraries())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        for name in ["POD_NAME", "POD_NAMESPACE", "PGDATA"] {
            command.env_remove(name);
        }
        self.identity.apply(&mut command);
        command
    }

    #[track_caller]
    fn ok(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[track_caller]
    fn start(&self, data: &str, more: &[&str]) {
        let log = format!("{data}.log");
        let options = more.join(" ");
        let output = self
            .command("pg_ctl")
            .args(["-D", data, "-l", &log, "-w", "-t", "120", "-o", &options, "start"])
            // Its servers inherit what it would otherwise hold open.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(output.success(), "{}", fs::read_to_string(self.path(&log)).unwrap_or_default());
    }

    fn stop(&self, data: &str) {
        self.ok("pg_ctl", &["-D", data, "-w", "-m", "fast", "stop"]);
    }

    #[track_caller]
    fn sql(&self, sockets: &str, sql: &str) -> String {
        let host = self.path(sockets);
        self.ok(
            "psql",
            &["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", host.to_str().unwrap(), "-c", sql],
        )
    }

    /// A row of its own, committed; returns an instant that is later, and earlier than any row after it.
    fn insert(&self, n: u32) -> Timestamp {
        self.sql("s", &format!("insert into t values ({n})"));
        let at = self.sql("s", "select pg_sleep(0.01), to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
        at.trim_start_matches('|').parse().unwrap()
    }

    /// Ends a segment, in which there is something; returns its name.
    fn switch(&self, sockets: &str) -> String {
        self.sql(sockets, "select pg_logical_emit_message(false, 'a', 'b')");
        self.sql(sockets, "select pg_walfile_name(pg_switch_wal())")
    }

    /// Has everything up to here archived.
    fn archive(&self) {
        let file = self.switch("s");
        eventually("the segment is archived", || {
            let last = self.sql("s", "select last_archived_wal from pg_stat_archiver");
            if last >= file { Ok(()) } else { Err(fs::read_to_string(self.path("src.log")).unwrap()) }
        });
    }

    fn store(&self) -> Store {
        Store::open(&Destination::Directory(self.path("store")), &Settings::default(), Patience::SHORT)
            .unwrap()
    }

    /// Takes a base backup and records it.
    fn backup(&self) -> Record {
        // Directories of the store are then its own user's, and not the tests'.
        self.archive();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let record = runtime.block_on(self.back_up());
        self.archive();
        let directory = record.id.directory(record.epoch().unwrap());
        let text = serde_json::to_vec(&record).unwrap();
        runtime.block_on(self.store().put(&format!("{directory}/backup.json"), text.into())).unwrap();
        for entry in fs::read_dir(self.path("store").join(&directory)).unwrap() {
            self.own(&entry.unwrap().path());
        }
        self.own(&self.path("store").join(&directory));
        record
    }

    async fn back_up(&self) -> Record {
        let target = Target {
            address: Address::Unix(self.path("s/.s.PGSQL.5432")),
            user: "postgres".to_owned(),
            password: None,
            tls: None,
            application_name: "restore".to_owned(),
        };
        let limits = Limits { open: Duration::from_secs(30), silence: Duration::from_secs(120) };
        let mut asked = Connection::open(&target, &Mode::Replication, limits).await.unwrap();
        let system = asked.identify().await.unwrap();
        let options = Options {
            label: "b".to_owned(),
            compression: Compression::Zstd { level: 1, workers: 0 },
            manifest_checksums: ManifestChecksums::Sha256,
            verify_pages: true,
            max_rate: None,
        };
        let started_at = Timestamp::now();
        let mut backup: BaseBackup = asked.base_backup(&options).await.unwrap();
        let start = backup.start();
        let id = BackupId::new(started_at, start);
        let version = self.sql("s", "show server_version");
        let epoch = format!("{}-{}", version.split('.').next().unwrap(), system.system_identifier);
        let (mut archives, mut manifest) =
            (Vec::<(Option<TablespaceRecord>, String, Vec<u8>)>::new(), Vec::new());
        let stop = loop {
            match backup.next().await.unwrap().unwrap() {
                Event::Archive(archive) => {
                    let space = archive.tablespace.map(|space| TablespaceRecord {
                        oid: space.oid,
                        path: space.path.display().to_string(),
                    });
                    archives.push((space, archive.name, Vec::new()));
                }
                Event::Data(bytes) => archives.last_mut().unwrap().2.extend_from_slice(&bytes),
                Event::Manifest(bytes) => manifest.extend_from_slice(&bytes),
                Event::Progress(_) => {}
                Event::End(point) => break point,
            }
        };
        let store = self.store();
        let put = async |name: String, bytes: Vec<u8>| {
            let sha256 = digest::digest(&digest::SHA256, &bytes);
            let sha256 = sha256.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            let part = Part { name: name.clone(), bytes: bytes.len() as u64, sha256 };
            store.put(&format!("{epoch}/base/{id}/{name}"), bytes.into()).await.unwrap();
            part
        };
        let mut stored = Vec::new();
        for (tablespace, name, bytes) in archives {
            let (stem, suffix) = name.split_once('.').unwrap();
            // In parts, at no boundary of anything.
            let mut parts = Vec::new();
            for (number, part) in bytes.chunks(1_000_003).enumerate() {
                parts.push(put(format!("{stem}.{number:04}.{suffix}"), part.to_vec()).await);
            }
            stored.push(StoredArchive { tablespace, parts });
        }
        Record {
            format: 1,
            id: id.clone(),
            archive: "A1".to_owned(),
            database: "ns/src".to_owned(),
            from: "src-0".to_owned(),
            request: None,
            started_at,
            stopped_at: Timestamp::now(),
            version,
            system_identifier: system.system_identifier,
            segment_size: 16 << 20,
            timeline: start.timeline,
            start_lsn: start.position,
            stop_lsn: stop.position,
            size: 1,
            bytes: stored.iter().flat_map(|archive| &archive.parts).map(|part| part.bytes).sum(),
            archives: stored,
            manifest: put("backup_manifest".to_owned(), manifest).await,
        }
    }

    fn bootstrap(&self, target: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_dbctl"));
        let from = format!("file://{}", self.path("store").display());
        fs::create_dir_all(self.path("new/data")).unwrap();
        fs::set_permissions(self.path("new/data"), Permissions::from_mode(0o700)).unwrap();
        self.own(&self.path("new/data"));
        command
            .env("SOCKET_DIRECTORY", self.path("new/s"))
            .env("POSTGRES_MAJOR", version_major(&self.ok("postgres", &["--version"])))
            .args(["agent", "bootstrap", "--from", &from, "--datadir"])
            .arg(self.path("new/data"))
            .args(target);
        command
    }

    #[track_caller]
    fn restore(&self, target: &[&str]) {
        let output = self.bootstrap(target).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What it says where it must not succeed, and that it leaves nothing.
    #[track_caller]
    fn refused(&self, target: &[&str]) -> String {
        let output = self.bootstrap(target).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        assert_eq!(fs::read_dir(self.path("new/data")).unwrap().count(), 0);
        said
    }

    /// The rows of the restored database, which archives to a destination of its own.
    #[track_caller]
    fn rows(&self) -> String {
        let push = format!(
            "-c archive_command='\"{}\" agent wal-push --to file://{} --archive A2 %p'",
            env!("CARGO_BIN_EXE_dbctl"),
            self.path("new/store").display()
        );
        // The source's own settings are gone.
        let sockets = format!(
            "-c archive_mode=on -c listen_addresses='' -c unix_socket_directories='{}'",
            self.path("new/s").display()
        );
        self.start("new/data", &[&sockets, &push]);
        assert_eq!(self.sql("new/s", "select pg_is_in_recovery()"), "f");
        let rows = self.sql("new/s", "select string_agg(n::text, ' ' order by n) from t");
        let file = self.switch("new/s");
        eventually("the new timeline is archived", || {
            let last = self.sql("new/s", "select last_archived_wal from pg_stat_archiver");
            if last >= file { Ok(()) } else { Err(last) }
        });
        self.stop("new/data");
        let timeline = file[..8].to_owned();
        for name in self.archived("new/store") {
            assert!(
                name.starts_with(&timeline),
                "{name} is in the archive of a database that begins on {timeline}"
            );
        }
        assert!(
            self.archived("new/store").iter().any(|name| name.starts_with(&format!("{timeline}.history")))
        );
        fs::remove_dir_all(self.path("new")).unwrap();
        for directory in ["new", "new/s"] {
            fs::create_dir(self.path(directory)).unwrap();
            self.own(&self.path(directory));
        }
        rows
    }

    /// Names of the files of WAL in a store.
    fn archived(&self, store: &str) -> Vec<String> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let destination = Destination::Directory(self.path(store));
        let store = Store::open(&destination, &Settings::default(), Patience::SHORT).unwrap();
        let all = runtime.block_on(store.list("")).unwrap();
        let wal =
            all.into_iter().filter(|object| object.key.contains("/wal/") || object.key.contains("/history/"));
        wal.map(|object| object.key.rsplit('/').next().unwrap().to_owned()).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for data in ["src", "new/data"] {
            let _ = self.command("pg_ctl").args(["-D", data, "-m", "immediate", "stop"]).output();
        }
    }
}

fn restores(version: &str) {
    let bench = Bench::new(version);
    fs::create_dir(bench.path("space")).unwrap();
    bench.own(&bench.path("space"));
    let space = bench.path("space");
    bench.sql("s", &format!("create tablespace far location '{}'", space.display()));
    bench.sql("s", "create table t (n int) tablespace far");
    bench.insert(1);
    let first = bench.backup();
    let complete = Timestamp::now();
    let two = bench.insert(2);
    bench.sql("s", "select pg_create_restore_point('before it''s 3%p')");
    bench.insert(3);
    let lsn = bench.sql("s", "select pg_current_wal_insert_lsn()");
    bench.insert(4);
    // More than is fetched ahead.
    for _ in 0..14 {
        bench.sql("s", "create table if not exists fill (n int); insert into fill values (1)");
        bench.sql("s", "select pg_switch_wal()");
    }
    let last = bench.insert(5);
    bench.archive();

    // To an instant, a position, a point, and the end.
    bench.restore(&["--target-time", &two.to_string()]);
    assert_eq!(bench.rows(), "1 2");
    bench.restore(&["--target-lsn", &lsn]);
    assert_eq!(bench.rows(), "1 2 3");
    bench.restore(&["--target-name", "before it's 3%p", "--backup", &first.id.to_string()]);
    assert_eq!(bench.rows(), "1 2");
    bench.restore(&[]);
    let origin: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("new/data/dbctl-origin.json")).unwrap()).unwrap();
    assert_eq!((&origin["archive"], &origin["timeline"]), (&"A1".into(), &1.into()));
    assert!(
        fs::read_link(bench.path("new/data/pg_tblspc").join(space_oid(&first)))
            .unwrap()
            .starts_with(bench.path("new"))
    );
    assert_eq!(bench.rows(), "1 2 3 4 5");

    // What cannot be had is refused, with the reason.
    let said = bench.refused(&["--target-time", &first.started_at.to_string()]);
    assert!(
        said.contains("it can be restored to any time from") && said.contains(&first.stopped_at.to_string()),
        "{said}"
    );
    assert!(complete < two);
    let said = bench.refused(&["--target-time", &last.to_string()]);
    assert!(said.contains("recovery ended before configured recovery target was reached: the archive holds nothing from behind the target"), "{said}");
    let note = fs::read_to_string(bench.path("new/dbctl-restore.json")).unwrap();
    assert!(note.contains("recovery ended before") && note.contains("\"last\":true"), "{note}");
    // The second time it knows.
    let again = bench.refused(&["--target-time", &last.to_string()]);
    assert!(again.contains("recovery ended before") && !again.contains("starting PostgreSQL"), "{again}");

    // The archive goes while WAL is replayed: nothing is promoted before it is back.
    let mut child = bench.bootstrap(&[]).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_and(&mut child, "restored log file", || {
        fs::rename(bench.path("store"), bench.path("gone")).unwrap();
    });
    let signal = bench.path("new/data/recovery.signal");
    assert!(signal.exists());
    assert_eq!(child.try_wait().unwrap(), None);
    let _ = fs::remove_dir(bench.path("store"));
    fs::rename(bench.path("gone"), bench.path("store")).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(bench.rows(), "1 2 3 4 5");

    // A byte that is not as it was stored.
    let directory = bench.path("store").join(first.id.directory(first.epoch().unwrap()));
    let part = directory.join(&first.archives.last().unwrap().parts[1].name);
    let mut bytes = fs::read(&part).unwrap();
    bytes[500_000] ^= 1;
    fs::write(&part, &bytes).unwrap();
    let said = bench.refused(&[]);
    assert!(said.contains("failed to read") || said.contains("failed to unpack"), "{said}");
    bench.stop("src");
}

fn space_oid(record: &Record) -> String {
    record.archives.iter().find_map(|archive| archive.tablespace.as_ref()).unwrap().oid.to_string()
}

/// Waits for a text, acts, and waits until PostgreSQL has ended for it once.
fn wait_for_and(child: &mut Child, text: &str, act: impl FnOnce()) {
    let mut act = Some(act);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    for line in lines.by_ref() {
        seen.push(line.unwrap());
        let line = seen.last().unwrap();
        if act.is_some() && line.contains(text) {
            act.take().unwrap()();
        } else if line.contains("the recovery goes on once it can be") {
            std::thread::spawn(move || lines.for_each(drop));
            return;
        }
    }
    panic!("it never waited for the archive: {seen:#?}");
}

#[test]
fn postgres_16_is_restored_to_where_it_is_asked_for() {
    restores("16.15");
}

#[test]
fn postgres_18_is_restored_to_where_it_is_asked_for() {
    restores("18.6");
}

#[test]
fn a_new_database_begins_with_anothers_data() {
    let bench = Bench::new("16.15");
    bench.sql("s", "create role app login password 'of the source'");
    bench.sql("s", "create database app owner app");
    bench.backup();
    let app = |sql: &str| {
        let host = bench.path("s");
        bench.ok("psql", &["-XAtq", "-U", "app", "-h", host.to_str().unwrap(), "-d", "app", "-c", sql])
    };
    app("create table t (n int); insert into t values (1), (2)");
    let last = bench.sql(
        "s",
        "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    bench.archive();
    let from = format!("file://{}", bench.path("store").display());

    let sandbox = Sandbox::own();
    let restore = |name: &str, more: &[&str]| {
        let all =
            [&["restore", name, "--from", &from, "--version", "16.15", "--storage", "1Gi"], more].concat();
        sandbox.run(&all)
    };
    let preview = restore("copy", &["--dry-run"]).ok();
    assert!(
        preview.stdout.contains("restoring file://") && preview.stderr.contains("nothing was made"),
        "{}",
        preview.transcript()
    );
    restore("copy", &["--replicas", "2", "--wait"]).ok();
    assert_eq!(sandbox.sql("copy", "select count(*) from t"), "2");
    sandbox.sql("copy", "insert into t values (3)");
    assert_eq!(sandbox.sql("copy", "select sum(n) from t"), "6");

    // What can never be had is said, and not tried without end in silence.
    let failed = restore("late", &["--to-time", &last, "--wait", "--timeout", "5m"]);
    assert_ne!(failed.code, 0);
    let status = sandbox.run(&["status", "late"]).stdout;
    assert!(
        status.contains("Failed")
            && status.contains("recovery ended before configured recovery target was reached"),
        "{status}"
    );

    // Nor does a database write where another's backups are: it is not made, and where it was made by somebody who does not
    // look, its members do not start.
    let create = ["create", "thief", "--version", "16.15", "--storage", "1Gi", "--backup-to", from.as_str()];
    let refused = sandbox.run(&create);
    assert_eq!(refused.code, 5, "{}", refused.transcript());
    let object = sandbox.run(&[create.as_slice(), &["--dry-run=client", "-o", "json"]].concat()).ok();
    let object: dbctl::api::Database = serde_json::from_str(&object.stdout).unwrap();
    crate::external::runtime().block_on(async {
        let databases = kube::Api::default_namespaced(sandbox.client().await);
        databases.create(&kube::api::PostParams::default(), &object).await.unwrap();
    });
    eventually("it is refused", || {
        let status = sandbox.run(&["status", "thief"]).stdout;
        if status.contains("it is the archive of") { Ok(()) } else { Err(status) }
    });
}

/// Of `postgres (PostgreSQL) 16.15`.
fn version_major(said: &str) -> &str {
    said.rsplit(' ').next().unwrap().split('.').next().unwrap()
}
