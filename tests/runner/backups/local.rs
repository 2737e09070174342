//! A backup in a directory, and its way back without dbctl.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use dbctl::backup::layout::{ContentHash, StoredWal};
use dbctl::backup::wal::Segment;
use dbctl::sandbox::provision::Identity;
use serde_json::Value;

use super::cluster::{
    Contents, NAME, SIZE, archived_up_to_now, back_up, backups_are, create, directory, names,
};
use super::wal::{Place, postgres, run, tool};
use crate::journeys::ready_with;
use crate::support::{Answer, Sandbox, eventually};

#[test]
fn a_backup_in_a_directory_is_complete_and_can_be_restored_by_hand() {
    // It outlives the sandbox, whose last WAL is archived when it stops.
    let store = directory();
    let sandbox = Sandbox::own();
    let place = Place::directory(store.path());
    create(&sandbox, "2", &place.url, &[]);
    sandbox.sql(NAME, "create table t as select n from generate_series(1, 1000) n");
    backups_are(&sandbox, "False", "NoBackup");
    let none = sandbox.run(&["backups", NAME]).ok();
    assert!(none.stdout.is_empty() && none.stderr.contains("no backups yet"), "{}", none.transcript());
    let status = ready_with(&sandbox, NAME, 2);

    let entry = back_up(&sandbox);
    let id = entry["id"].as_str().unwrap();
    // A replica's work, as it is fit for it.
    assert_ne!(entry["from"], status["status"]["primary"]);
    let shown = sandbox.run(&["backups", NAME]).ok();
    let line = shown.stdout.lines().nth(1).unwrap_or_default();
    assert!(line.starts_with(id) && line.contains(entry["from"].as_str().unwrap()), "{}", shown.transcript());
    let listed: Value =
        serde_json::from_str(&sandbox.run(&["backups", NAME, "-o", "json"]).ok().stdout).unwrap();
    assert_eq!(listed["items"], Value::from(vec![entry.clone()]));
    assert_eq!(
        (&listed["destination"], &listed["recoveryWindow"]["earliest"]),
        (&Value::from(place.url.clone()), &entry["stoppedAt"])
    );
    backups_are(&sandbox, "True", "BackupsCurrent");

    let contents = Contents::of(&place);
    let record = contents.backups[0].good().unwrap();
    assert_eq!(contents.good(), [id]);
    let base = store.path().join(record.id.directory(contents.epoch));
    let parts = ["backup.json", "backup_manifest", "base.0000.tar.zst", "started.json"];
    assert_eq!(names(&base), parts.map(str::to_owned).into());
    let stop = Segment::of(record.timeline, record.stop_lsn - 1, SIZE);
    assert_eq!(contents.gaps(record.start_lsn, stop), []);
    let known = |path: &Path| StoredWal::parse(path.file_name().unwrap().to_str().unwrap()).is_some();
    for directory in fs::read_dir(store.path().join(contents.epoch.to_string()).join("wal")).unwrap() {
        let files = fs::read_dir(directory.unwrap().path()).unwrap();
        let odd: Vec<_> = files.map(|file| file.unwrap().path()).filter(|file| !known(file)).collect();
        assert!(odd.iter().all(|file| file.to_str().unwrap().contains('#')), "{odd:?}");
    }
    let epoch = store.path().join(contents.epoch.to_string());
    assert_eq!(by_hand(&epoch, &base, "select count(*), max(n) from t"), "1000|1000");

    // What is missing is told, and from where on.
    let check = |args: &[&str]| sandbox.run(&[&["backups"], args, &["--check"]].concat());
    let lost = archived_up_to_now(&sandbox, &place);
    assert!(archived_up_to_now(&sandbox, &place) > lost && lost > stop, "{lost} {stop}");
    for args in [&[NAME][..], &["--from", &place.url]] {
        let whole = check(args).ok();
        assert!(whole.stderr.contains("no gap and no conflict"), "{}", whole.transcript());
    }
    for segment in [lost, stop] {
        let object = store.path().join(&Contents::of(&place).archive.segments[&segment][0].key);
        let aside = store.path().join("aside");
        fs::rename(&object, &aside).unwrap();
        let said = check(&[NAME]);
        let told = said.stderr.contains("can be followed to") && said.stderr.contains(id);
        assert!(said.code == 3 && told, "{}", said.transcript());
        fs::rename(&aside, &object).unwrap();
    }
    let key = &contents.archive.segments[&stop][0].key;
    let own = StoredWal::parse(key.rsplit('/').next().unwrap()).unwrap();
    let other = StoredWal { hash: ContentHash::of(b"other"), ..own }.key(contents.epoch);
    fs::copy(store.path().join(key), store.path().join(&other)).unwrap();
    let said = check(&[NAME]);
    assert!(said.code == 3 && said.stderr.contains("has 2 contents"), "{}", said.transcript());
    fs::remove_file(store.path().join(&other)).unwrap();
}

/// Unpacks a base backup with nothing but `tar` and `zstd`, and has PostgreSQL check it; returns the directory that holds it
/// as `data`.
pub fn unpack(base: &Path) -> tempfile::TempDir {
    let home = directory();
    let data = home.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    // The store's files may be for root alone.
    let script = "cat \"$0\"/base.*.tar.zst | zstd -dc | tar x -C \"$1\" && cp \"$0\"/backup_manifest \"$1\"";
    run(Command::new("sh").args(["-c", script]).arg(base).arg(&data).stdin(Stdio::null()));
    own(&data);
    run(tool(&postgres(), "pg_verifybackup").arg("-n").arg(&data));
    home
}

/// Gives all of it to the user that pods run as.
fn own(path: &Path) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| own(&entry.unwrap().path()));
    }
    Identity::of_pods().own(path).unwrap();
}

/// Restores a base backup and the WAL behind it by hand; returns the answer to a question.
pub fn by_hand(epoch: &Path, base: &Path, question: &str) -> String {
    let home = unpack(base);
    let data = home.path().join("data");
    let image = postgres();
    for name in ["postgresql.conf", "hba.conf"] {
        fs::write(home.path().join(name), if name == "hba.conf" { "local all all trust\n" } else { "" })
            .unwrap();
    }
    fs::write(data.join("recovery.signal"), "").unwrap();
    // A replica's backup says that it is one.
    fs::remove_file(data.join("standby.signal")).unwrap();
    let at = |name: &str| home.path().join(name).display().to_string();
    // A name that is not there stays a pattern, which neither finds.
    let epoch = epoch.display();
    let restore = format!("cp {epoch}/history/%f-* %p || zstd -qdfo %p {epoch}/wal/*/%f-*.zst");
    let mut server = tool(&image, "postgres");
    server.arg("-D").arg(&data).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for (name, value) in [
        ("config_file", at("postgresql.conf")),
        ("hba_file", at("hba.conf")),
        ("unix_socket_directories", at("")),
        ("restore_command", restore),
        ("listen_addresses", String::new()),
        ("recovery_target_action", "promote".to_owned()),
        ("max_connections", "1000".to_owned()),
        ("max_worker_processes", "100".to_owned()),
        ("max_wal_senders", "100".to_owned()),
        ("max_prepared_transactions", "100".to_owned()),
        ("max_locks_per_transaction", "256".to_owned()),
    ] {
        server.arg("-c").arg(format!("{name}={value}"));
    }
    let log = home.path().join("log");
    let mut server = server.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    let answer = eventually("the restored server has it", || {
        let sql = format!("select pg_is_in_recovery(), x.* from ({question}) x");
        let mut psql = tool(&image, "psql");
        psql.args(["-XAtq", "-U", "postgres", "-d", "app", "-h", &at(""), "-c", &sql]);
        let ended = server.try_wait().unwrap();
        assert!(ended.is_none(), "{}", fs::read_to_string(&log).unwrap());
        match Answer::from(psql.output().unwrap()) {
            answer if answer.code == 0 && answer.stdout.starts_with("f|") => {
                Ok(answer.stdout[2..].trim().to_owned())
            }
            answer => Err(format!("{}{}", answer.transcript(), fs::read_to_string(&log).unwrap())),
        }
    });
    let id = rustix::process::Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::QUIT).unwrap();
    server.wait().unwrap();
    answer
}
