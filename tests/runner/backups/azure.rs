//! Backups in Azure's blobs: what a store of another kind than S3 does.

use super::bucket::{SECRET, put_settings};
use super::cluster::{Contents, NAME, archived_up_to_now, back_up, create};
use super::wal::{Place, Wal};
use crate::stores::Azurite;
use crate::support::Sandbox;

#[test]
fn wal_goes_to_azure_and_comes_back() {
    let (wal, azurite) = (Wal::of(2), Azurite::start());
    let place = Place::azure(&azurite, "wal");
    let selftest = place.selftest();
    let all =
        selftest.stdout.lines().count() > 5 && selftest.stdout.lines().all(|line| line.ends_with(" yes"));
    assert!(selftest.code == 0 && all, "{}", selftest.transcript());
    let [first, second] = [0, 1].map(|at| wal.segments[at].as_str());
    for file in [first, first, second] {
        let answer = place.push(&wal.data(), file);
        assert_eq!(answer.code, 0, "{}", answer.transcript());
    }
    // Other bytes under a name that is there.
    let mut bytes = wal.bytes(first);
    let last = bytes.last_mut().unwrap();
    *last ^= 1;
    let other = place.push(wal.member(first, &bytes).path(), first);
    assert_eq!(other.code, 1, "{}", other.transcript());
    let answer = place.push_as("another", &wal.data(), second);
    assert!(answer.code == 1 && answer.stderr.contains("is the archive of"), "{}", answer.transcript());
    let fetched = wal.data().join("fetched");
    let answer = place.fetch(&wal.data(), wal.epoch, second, fetched.to_str().unwrap());
    assert_eq!(answer.code, 0, "{}", answer.transcript());
    assert_eq!(std::fs::read(fetched).unwrap(), wal.bytes(second));
}

#[test]
fn a_database_is_backed_up_to_azure_and_restored() {
    // It outlives the sandbox, whose last WAL is archived when it stops.
    let azurite = Azurite::start();
    let place = Place::azure(&azurite, "shop/db");
    let sandbox = Sandbox::own();
    sandbox.start();
    put_settings(&sandbox, &azurite.settings().into_iter().collect());
    create(&sandbox, "1", &place.url, &["--backup-credentials", SECRET]);
    sandbox.sql(NAME, "create table t as select n from generate_series(1, 1000) n");
    back_up(&sandbox);
    sandbox.sql(NAME, "insert into t values (1001)");
    archived_up_to_now(&sandbox, &place);
    assert_eq!(Contents::of(&place).good().len(), 1);
    sandbox.run(&["restore", "again", "--from", NAME, "--replicas", "1", "--storage", "1Gi", "--wait"]).ok();
    assert_eq!(sandbox.sql("again", "select count(*), max(n) from t"), "1001|1001");
}
