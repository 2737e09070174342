//! `dbctl agent verify` on real backups, good ones and damaged ones.

use std::os::unix::fs::FileExt;

use dbctl::backup::base::{Source, backups, take};
use dbctl::backup::claim::Owner;

use super::*;

impl Bench {
    /// Whether it says that the backup is good, and its last line.
    fn verify(&self, more: &[&str]) -> (bool, String) {
        let to = format!("file://{}", self.path("store").display());
        let output = self
            .command(env!("CARGO_BIN_EXE_dbctl"))
            .env("SCRATCH_DIRECTORY", self.path("new"))
            .env("SOCKET_DIRECTORY", self.path("new/s"))
            .env("POSTGRES_MAJOR", version_major(&self.ok("postgres", &["--version"])))
            .args(["agent", "verify", "--to", &to, "--archive", "A1", "--database", "src"])
            .args(more)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{said}");
        // Nothing of it is left, wherever it ended.
        assert_eq!(fs::read_dir(self.path("new")).unwrap().count(), 1, "{said}");
        assert_eq!(fs::read_dir(self.path("new/s")).unwrap().count(), 0, "{said}");
        (output.status.success(), said.trim().lines().last().unwrap_or_default().to_owned())
    }

    /// What stands in the destination of that backup.
    fn verified(&self, record: &Record) -> serde_json::Value {
        let directory = self.path("store").join(record.id.directory(record.epoch().unwrap()));
        let read: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!read.iter().any(|name| name.to_string_lossy().starts_with("restoring-")), "{read:?}");
        serde_json::from_slice(&fs::read(directory.join("verified.json")).unwrap()).unwrap()
    }

    /// Ruins the first row of a table, where no checksum tells, while the server is down.
    fn ruin(&self, table: &str) {
        let file = self.sql("s", &format!("select pg_relation_filepath('{table}')"));
        self.stop("src");
        if self.ok("pg_controldata", &["-D", "src"]).contains("checksum version:           1") {
            self.ok("pg_checksums", &["-D", "src", "--disable", "--no-sync"]);
        }
        let file = fs::OpenOptions::new().write(true).open(self.path("src").join(file)).unwrap();
        // Its line pointer, behind the page's header of 24 bytes, leads out of the page: an offset of 15 bits, two that say
        // that there is a row, and a length of 15 bits.
        let pointer: u32 = 0x7fff | 1 << 15 | 0x7fff << 17;
        file.write_all_at(&pointer.to_ne_bytes(), 24).unwrap();
        self.start("src", &[]);
    }
}

fn verifies(version: &str) {
    let bench = Bench::new(version);
    bench.sql("s", "create table t (n int primary key)");
    for n in 0..3 {
        bench.insert(n);
    }
    // What users set for themselves must not look like damage.
    bench.sql("s", "create database other");
    for setting in ["default_transaction_read_only = on", "statement_timeout = 1"] {
        bench.sql("s", &format!("alter database other set {setting}"));
    }
    let (good, said) = bench.verify(&[]);
    assert!(!good && said.contains("there is none yet"), "{said}");
    let first = bench.backup();
    let (good, said) = bench.verify(&[]);
    assert!(good, "{said}");
    let verified = bench.verified(&first);
    assert_eq!(verified["outcome"], "good", "{verified}");
    assert_eq!(
        verified["checked"],
        serde_json::json!(["hashes", "pg_verifybackup", "recovery", "pg_amcheck"])
    );

    // Damage that was there before the backup: only whoever looks into the tables finds it.
    bench.ruin("t");
    let second = bench.backup();
    let (good, said) = bench.verify(&[]);
    assert!(!good, "{said}");
    for words in [
        "which is damaged",
        "with pg_amcheck: heap table \"postgres.public.t\", block 0, offset 1: line pointer",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let verified = bench.verified(&second);
    assert_eq!(verified["outcome"], "bad", "{verified}");
    assert!(said.ends_with(verified["problem"].as_str().unwrap()), "{said} {verified}");
    assert_eq!(verified["checked"].as_array().unwrap().len(), 3, "{verified}");
    // The older one is as good as it was.
    let (good, said) = bench.verify(&["--backup", &first.id.to_string()]);
    assert!(good, "{said}");

    // A byte in the store is not as it was.
    let directory = bench.path("store").join(first.id.directory(first.epoch().unwrap()));
    let part = directory.join(&first.archives.last().unwrap().parts[1].name);
    let mut bytes = fs::read(&part).unwrap();
    bytes[500_000] ^= 1;
    fs::write(&part, &bytes).unwrap();
    let (good, said) = bench.verify(&["--backup", &first.id.to_string()]);
    assert!(!good && (said.contains("SHA-256") || said.contains("unpack")), "{said}");
    let verified = bench.verified(&first);
    assert_eq!((&verified["outcome"], &verified["checked"]), (&"bad".into(), &serde_json::json!([])));
    bench.stop("src");
}

#[test]
fn backups_of_postgres_16_are_verified() {
    verifies("16.15");
}

#[test]
fn backups_of_postgres_18_are_verified() {
    verifies("18.6");
}

/// Two at once, of the same second even: both are whole, and neither has touched the other's.
#[test]
fn two_backups_at_once_are_two() {
    let bench = Bench::new("18.6");
    bench.sql("s", "create table t as select n from generate_series(1, 100000) n");
    bench.archive();
    let target = || Target {
        address: Address::Unix(bench.path("s/.s.PGSQL.5432")),
        user: "postgres".to_owned(),
        password: None,
        tls: None,
        application_name: "twice".to_owned(),
    };
    let source = Source { member: "src-0".to_owned(), replication: target(), primary: target() };
    let owner = Owner { archive: "A1".to_owned(), database: "ns/src".to_owned() };
    let (store, runtime) = (bench.store(), tokio::runtime::Runtime::new().unwrap());
    let (one, two) = runtime.block_on(async {
        tokio::join!(
            take(&store, &owner, &source, None, |_| {}),
            take(&store, &owner, &source, Some("another".to_owned()), |_| {}),
        )
    });
    let both = [one.unwrap(), two.unwrap()];
    assert_ne!(both[0].id, both[1].id);
    let epoch = both[0].epoch().unwrap();
    let found = runtime.block_on(backups(&store, epoch)).unwrap();
    assert_eq!(found.iter().filter(|found| found.good().is_some()).count(), 2);
    for record in &both {
        let directory = bench.path("store").join(record.id.directory(epoch));
        fs::read_dir(&directory).unwrap().for_each(|entry| bench.own(&entry.unwrap().path()));
        bench.own(&directory);
        let (good, said) = bench.verify(&["--backup", &record.id.to_string()]);
        assert!(good, "{said}");
    }
    bench.stop("src");
}
