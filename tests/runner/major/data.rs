//! `dbctl agent upgrade`, which a member's agent does before it starts Patroni: on real data, and killed in the middle.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dbctl::sandbox::provision::{Identity, Image, Provisioner, Silent};

use crate::support::{cache, eventually};

/// A directory with old data, and both releases.
pub(super) struct Bench {
    pub(super) old: Image,
    pub(super) new: Image,
    identity: Identity,
    root: tempfile::TempDir,
}

const ID: &str = "01JD";

impl Bench {
    pub(super) fn new(from: &str, to: &str) -> Self {
        let image = |version: &str| {
            Provisioner::new(cache()).ensure(&format!("dbctl/postgres:{version}"), &Silent).unwrap()
        };
        let root = tempfile::Builder::new().prefix("dbctl-major-").tempdir_in("/tmp").unwrap();
        let bench = Self { old: image(from), new: image(to), identity: Identity::of_pods(), root };
        bench.identity.own(bench.root.path()).unwrap();
        bench.ok(
            &bench.old,
            "initdb",
            &["-D", "origin", "-U", "postgres", "--no-sync", "-A", "trust", "--data-checksums"],
        );
        bench.start(&bench.old, "origin");
        bench.sql(
            &bench.old,
            "create extension pg_trgm; create extension hstore; create role reader login password 'secret'; \
             create table t (n serial primary key, text text); grant select on t to reader; \
             insert into t (text) select md5(g::text) from generate_series(1, 20000) g; \
             create index on t using gin (text gin_trgm_ops); create table h (h hstore); insert into h values ('a=>1')",
        );
        bench.sql(&bench.old, "alter system set work_mem = '5MB'");
        bench.stop(&bench.old, "origin");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn command(&self, image: &Image, program: &str) -> Command {
        let mut path = vec![image.build.join("bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let mut command = Command::new(program);
        command
            .current_dir(self.root.path())
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("LD_LIBRARY_PATH", image.libraries())
            .env("POSTGRES_PREVIOUS_BIN", self.old.build.join("bin"))
            .stdin(Stdio::null());
        self.identity.apply(&mut command);
        command
    }

    #[track_caller]
    pub(super) fn ok(&self, image: &Image, program: &str, arguments: &[&str]) -> String {
        let output = self.command(image, program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[track_caller]
    pub(super) fn start(&self, image: &Image, data: &str) {
        let options = format!("-c listen_addresses='' -c fsync=off -k {}", self.root.path().display());
        let started = self
            .command(image, "pg_ctl")
            .args(["-D", data, "-l", "log", "-w", "-o", &options, "start"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(started.success(), "{}", fs::read_to_string(self.path("log")).unwrap_or_default());
    }

    pub(super) fn stop(&self, image: &Image, data: &str) {
        self.ok(image, "pg_ctl", &["-D", data, "-w", "-m", "fast", "stop"]);
    }

    #[track_caller]
    pub(super) fn sql(&self, image: &Image, sql: &str) -> String {
        let host = self.root.path().to_str().unwrap();
        self.ok(image, "psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", host, "-c", sql])
    }

    /// A volume with a copy of the old data.
    fn volume(&self, name: &str) -> PathBuf {
        let volume = self.path(name);
        fs::create_dir(&volume).unwrap();
        self.identity.own(&volume).unwrap();
        self.ok(&self.old, "cp", &["-a", "origin", &format!("{name}/pgdata")]);
        volume
    }

    fn upgrade(&self, volume: &Path, more: &[&str]) -> Command {
        let release = |image: &Image| image.release.to_string();
        let mut command = self.command(&self.new, env!("CARGO_BIN_EXE_dbctl"));
        command
            .args([
                "agent",
                "upgrade",
                "--id",
                ID,
                "--from",
                &release(&self.old),
                "--to",
                &release(&self.new),
            ])
            .arg("--sockets")
            .arg(self.root.path())
            .arg("--datadir")
            .arg(volume.join("pgdata"))
            .args(more);
        command
    }

    #[track_caller]
    fn upgrades(&self, volume: &Path, more: &[&str]) -> String {
        let output = self.upgrade(volume, more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Begins it, and kills it and all that it started after that long. Whether it was still at it.
    fn kills(&self, volume: &Path, more: &[&str], after: Duration) -> bool {
        let mut child =
            self.upgrade(volume, more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        let running = child.try_wait().unwrap().is_none();
        // As the end of a container does: everything that knows of the directory, until there is nothing.
        eventually("all is killed", || {
            let _ = child.kill();
            let all = self.processes();
            for pid in &all {
                let pid = rustix::process::Pid::from_raw(*pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            if all.is_empty() { Ok(()) } else { Err(format!("{all:?}")) }
        });
        let _ = child.wait();
        running
    }

    /// Processes that run in the directory, or are told of it.
    fn processes(&self) -> Vec<i32> {
        let root = self.root.path().to_str().unwrap();
        let own = |pid: &i32| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            let line = fs::read(proc.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let directory = fs::read_link(proc.join("cwd")).unwrap_or_default();
            !line.is_empty() && (line.contains(root) || directory.starts_with(root))
        };
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(own).collect()
    }

    /// All that was there is there, in that release.
    #[track_caller]
    fn holds(&self, image: &Image, data: &str) {
        self.start(image, data);
        let found = self.sql(
            image,
            "select current_setting('server_version_num')::int / 10000, count(*), count(distinct text), nextval('t_n_seq'), \
             (select h->'a' from h), has_table_privilege('reader', 't', 'select'), \
             (select rolpassword like 'SCRAM%' from pg_authid where rolname = 'reader'), \
             (select count(*) from pg_extension), current_setting('work_mem') from t",
        );
        let major = image.release.to_string().split('.').next().unwrap().to_owned();
        assert_eq!(found, format!("{major}|20000|20000|20001|1|t|t|3|5MB"));
        assert_eq!(
            self.sql(image, "select count(*) from t where text like '%c4ca4238a0b923820dcc509a6f75849b%'"),
            "1"
        );
        self.stop(image, data);
    }
}

fn content(volume: &Path) -> Vec<String> {
    let entries = fs::read_dir(volume).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Kills it at that part of the time that it takes, then lets it end.
fn killed(bench: &Bench, name: &str, more: &[&str], takes: Duration, part: f64) {
    let volume = bench.volume(name);
    let running = bench.kills(&volume, more, takes.mul_f64(part));
    eprintln!("killed after {part:.2} of {takes:?} (still at it: {running}): {:?}", content(&volume));
    bench.upgrades(&volume, more);
    assert_eq!(
        content(&volume),
        ["dbctl-upgrade.log", "pgdata", "pgdata.made-01JD", "pgdata.old-01JD"],
        "{part}"
    );
    bench.holds(&bench.new, &format!("{name}/pgdata"));
    fs::remove_dir_all(volume).unwrap();
}

#[test]
fn data_is_upgraded_and_the_old_stays_whole() {
    for (from, to) in [("16.15", "17.11"), ("17.11", "18.6")] {
        let bench = Bench::new(from, to);
        let volume = bench.volume("v");
        let begun = Instant::now();
        let made = bench.upgrades(&volume, &[]);
        let takes = begun.elapsed();
        // Done again, it does nothing.
        assert_eq!(bench.upgrades(&volume, &[]), made);
        assert!(made.contains(r#""method":"copy""#) || made.contains(r#""method":"clone""#), "{made}");
        bench.holds(&bench.new, "v/pgdata");
        bench.holds(&bench.old, "v/pgdata.old-01JD");
        if from == "16.15" {
            killed(&bench, "k", &[], takes, 0.4);
        }
    }
}

#[test]
fn data_that_cannot_be_upgraded_is_left_as_it_was() {
    let bench = Bench::new("16.15", "17.11");
    bench.start(&bench.old, "origin");
    bench.sql(
        &bench.old,
        "create function broken() returns int as '$libdir/pg_trgm', 'show_limit' language c",
    );
    bench.sql(&bench.old, "update pg_proc set probin = '$libdir/nowhere' where proname = 'broken'");
    bench.stop(&bench.old, "origin");
    let volume = bench.volume("v");
    let output = bench.upgrade(&volume, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("nowhere"), "{said}");
    assert_eq!(content(&volume), ["dbctl-upgrade.attempts", "dbctl-upgrade.log", "pgdata"]);
    bench.holds(&bench.old, "v/pgdata");

    let output = bench.upgrade(&volume, &[]).env("POSTGRES_PREVIOUS_BIN", "/nowhere").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("find the programs of PostgreSQL 16 in /nowhere"),
        "{said}"
    );
}

/// `ROUNDS` kills for each pair of releases and each method.
#[test]
#[ignore = "takes minutes"]
fn data_is_upgraded_however_often_it_is_killed() {
    let rounds: u32 = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    for (from, to) in [("16.15", "17.11"), ("17.11", "18.6")] {
        let bench = Bench::new(from, to);
        for more in [&[][..], &["--link"]] {
            let volume = bench.volume("first");
            let begun = Instant::now();
            bench.upgrades(&volume, more);
            let takes = begun.elapsed();
            fs::remove_dir_all(volume).unwrap();
            for round in 0..rounds {
                killed(&bench, &format!("k{round}"), more, takes, f64::from(round) / f64::from(rounds));
            }
        }
    }
}
