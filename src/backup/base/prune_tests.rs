use super::super::record::{BackupId, COMMIT, FORMAT, Part, Record};
use super::*;
use crate::backup::layout::{ContentHash, StoredWal};
use crate::backup::server::Point;
use crate::backup::wal::Segment;

pub(super) const EPOCH: Epoch = Epoch { major: 16, system_identifier: 7 };
pub(super) const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// A backup that begins in that segment of timeline 1 and ends in the next one; `commit` is written or not.
async fn backup(store: &Store, number: u64, commit: bool) -> BackupId {
    let start = Point { position: number * SIZE.bytes() + 0x28, timeline: 1 };
    let began = Timestamp::from_second(1_800_000_000 + i64::try_from(number).unwrap()).unwrap();
    let id = BackupId::new(began, start);
    let directory = id.directory(EPOCH);
    for name in ["started.json", "base.0000.tar.zst", "backup_manifest"] {
        store.put(&format!("{directory}/{name}"), "x".into()).await.unwrap();
    }
    if commit {
        commit_until(store, &id, start.position + SIZE.bytes()).await;
    }
    id
}

/// Writes the record of a backup that ends there.
pub(super) async fn commit_until(store: &Store, id: &BackupId, stop: u64) {
    let (start, began) = (id.start().unwrap(), id.began().unwrap());
    let record = Record {
        format: FORMAT,
        id: id.clone(),
        archive: "a".to_owned(),
        database: "n/db".to_owned(),
        from: "db-0".to_owned(),
        request: None,
        started_at: began,
        stopped_at: began,
        version: "16.15".to_owned(),
        system_identifier: EPOCH.system_identifier,
        segment_size: SIZE.bytes(),
        timeline: start.timeline,
        start_lsn: start.position,
        stop_lsn: stop,
        size: 1,
        bytes: 1,
        archives: vec![],
        manifest: Part { name: "backup_manifest".to_owned(), bytes: 1, sha256: String::new() },
    };
    let text = serde_json::to_vec(&record).unwrap();
    store.put(&format!("{}/{COMMIT}", id.directory(EPOCH)), text.into()).await.unwrap();
}

async fn wal(store: &Store, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let file = crate::backup::wal::WalFile::Segment(Segment::of(1, number * SIZE.bytes(), SIZE));
        let key = StoredWal { file, hash: ContentHash::of(b"") }.key(EPOCH);
        store.put(&key, "w".into()).await.unwrap();
    }
}

async fn left(store: &Store) -> (Vec<BackupId>, u64) {
    let backups = list::backups(store, EPOCH).await.unwrap();
    let archive = list::archive(store, EPOCH).await.unwrap();
    let first = archive.segments.keys().next().and_then(|segment| segment.start(SIZE));
    (backups.into_iter().map(|found| found.id).collect(), first.unwrap_or_default() / SIZE.bytes())
}

#[tokio::test]
async fn the_newest_stay_with_all_wal_from_the_first_of_them_on() {
    let store = Store::in_memory();
    let mut ids = Vec::new();
    for number in [2, 5, 8] {
        ids.push(backup(&store, number, true).await);
    }
    wal(&store, 1..12).await;
    let dry = prune(&store, 2, true).await.unwrap();
    assert_eq!((dry.expired.clone(), dry.wal), (vec![ids[0].to_string()], 4));
    assert_eq!(left(&store).await, (ids.clone(), 1));
    assert_eq!(prune(&store, 2, false).await.unwrap(), dry);
    assert_eq!(left(&store).await, (ids[1..].to_vec(), 5));
    assert_eq!(prune(&store, 2, false).await.unwrap(), Pruned::default());
    // Never the last one.
    prune(&store, 0, false).await.unwrap();
    assert_eq!(left(&store).await, (ids[2..].to_vec(), 8));
}

#[tokio::test]
async fn what_is_being_taken_or_restored_stays() {
    let store = Store::in_memory();
    let running = backup(&store, 1, false).await;
    let restoring = backup(&store, 2, true).await;
    let key = format!("{}/restoring-x.json", restoring.directory(EPOCH));
    store.put(&key, "{}".into()).await.unwrap();
    let newest = backup(&store, 8, true).await;
    wal(&store, 0..12).await;
    let pruned = prune(&store, 1, false).await.unwrap();
    assert_eq!((pruned.expired, pruned.leftovers, pruned.wal), (vec![], vec![], 0));
    assert_eq!(left(&store).await, (vec![running, restoring, newest], 0));
}

#[tokio::test]
async fn a_deletion_that_broke_off_goes_on_wherever_it_did() {
    // Marked, and then all but the first `kept` objects deleted.
    for kept in 0..4 {
        let store = Store::in_memory();
        let old = backup(&store, 2, true).await;
        let newest = backup(&store, 5, true).await;
        wal(&store, 2..9).await;
        store.put(&format!("{}/{DELETED}", old.directory(EPOCH)), "{}".into()).await.unwrap();
        let objects = store.list(&old.directory(EPOCH)).await.unwrap();
        let others = objects.iter().filter(|object| !object.key.ends_with(DELETED));
        for object in others.skip(kept) {
            store.delete(&object.key).await.unwrap();
        }
        let found = list::backups(&store, EPOCH).await.unwrap();
        assert!(found[0].good().is_none() && found[1].good().is_some());
        let pruned = prune(&store, 3, false).await.unwrap();
        assert_eq!((pruned.leftovers, pruned.wal), (vec![old.to_string()], 3));
        assert_eq!(left(&store).await, (vec![newest], 5));
    }
}

#[test]
fn what_nobody_takes_any_more_is_a_leftover() {
    let start = Point { position: 40, timeline: 1 };
    let began: Timestamp = "2026-11-22T03:00:00Z".parse().unwrap();
    let found = |problem: Option<&str>| Found {
        id: BackupId::new(began, start),
        epoch: EPOCH,
        record: None,
        problem: problem.map(str::to_owned),
        committed: None,
        touched: began,
        restoring: None,
        verified: None,
        deleted: false,
        objects: vec![],
    };
    let none = BTreeSet::new();
    for (problem, hours, goes) in [(None, 1, 0), (None, 3, 1), (Some("of format 2"), 3, 0)] {
        let all = [found(problem)];
        let now = began + SignedDuration::from_hours(hours);
        assert_eq!(plan(&all, &none, &Archive::default(), now).going.len(), goes, "{problem:?} {hours}");
    }
}

#[tokio::test]
async fn a_damaged_backup_does_not_count_as_one_that_stays() {
    use super::super::verified::{Outcome, Verified};
    let store = Store::in_memory();
    let good = backup(&store, 2, true).await;
    let damaged = backup(&store, 5, true).await;
    wal(&store, 1..9).await;
    let at = Timestamp::from_second(1_800_000_000).unwrap();
    let problem = Some("x".to_owned());
    let mut found = Verified { at, outcome: Outcome::Bad, problem, checked: vec![], duration_seconds: 0.0 };
    found.write(&store, &damaged.directory(EPOCH)).await.unwrap();
    assert_eq!(prune(&store, 1, false).await.unwrap().expired, [""; 0]);
    assert_eq!(left(&store).await, (vec![good.clone(), damaged.clone()], 2));
    // It was looked at again.
    found = Verified { outcome: Outcome::Good, problem: None, ..found };
    found.write(&store, &damaged.directory(EPOCH)).await.unwrap();
    assert_eq!(prune(&store, 1, false).await.unwrap().expired, [good.to_string()]);
}
