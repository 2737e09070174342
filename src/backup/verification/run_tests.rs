use super::*;
use crate::backup::base::{FORMAT, Part, catalog};
use crate::backup::layout::Epoch;
use crate::backup::server::Point;
use crate::backup::wal::SegmentSize;

/// Of so much data, with so much WAL.
pub(in crate::backup::verification) fn record(size: u64, wal: u64) -> Record {
    of(16, 1_800_000_000, size, wal)
}

fn of(major: u32, second: i64, size: u64, wal: u64) -> Record {
    let start = Point { position: 0x300_0028, timeline: 1 };
    let began = Timestamp::from_second(second).unwrap();
    Record {
        format: FORMAT,
        id: BackupId::new(began, start),
        archive: "a".to_owned(),
        database: "n/db".to_owned(),
        from: "db-0".to_owned(),
        request: None,
        started_at: began,
        stopped_at: began,
        version: format!("{major}.1"),
        system_identifier: 7,
        segment_size: SegmentSize::DEFAULT.bytes(),
        timeline: 1,
        start_lsn: start.position,
        stop_lsn: start.position + wal,
        size,
        bytes: 1,
        archives: vec![],
        manifest: Part { name: "backup_manifest".to_owned(), bytes: 1, sha256: String::new() },
    }
}

async fn stored(store: &Store, major: u32, second: i64, size: u64) -> BackupId {
    let record = of(major, second, size, 1);
    let directory = record.id.directory(record.epoch().unwrap());
    store.put(&format!("{directory}/{COMMIT}"), serde_json::to_vec(&record).unwrap().into()).await.unwrap();
    record.id
}

fn place(scratch: &Path) -> Place {
    Place {
        scratch: scratch.to_owned(),
        sockets: scratch.to_owned(),
        program: "false".to_owned(),
        user: "postgres".to_owned(),
        major: Some(16),
        by: "pod".to_owned(),
    }
}

#[tokio::test]
async fn the_newest_of_the_own_release_is_picked_or_the_one_that_is_named() {
    let store = Store::in_memory();
    let said = |error: VerificationError| error.to_string();
    assert!(said(pick(&store, None, Some(16)).await.unwrap_err()).contains("there is none yet"));
    stored(&store, 15, 1_800_000_900, 1).await;
    assert!(said(pick(&store, None, Some(16)).await.unwrap_err()).contains("there are others"));
    let old = stored(&store, 16, 1_800_000_000, 1).await;
    let new = stored(&store, 16, 1_800_000_100, 1).await;
    assert_eq!(pick(&store, None, Some(16)).await.unwrap().id, new);
    assert_eq!(pick(&store, Some(&old), Some(16)).await.unwrap().id, old);
    let gone = record(1, 1).id;
    assert!(said(pick(&store, Some(&gone), None).await.unwrap_err()).contains("no good backup"));
}

#[tokio::test]
async fn a_volume_that_is_too_small_is_refused_before_anything_is_read() {
    let (store, scratch) = (Store::in_memory(), tempfile::tempdir().unwrap());
    let id = stored(&store, 16, 1_800_000_000, 1 << 60).await;
    let error = verify(&store, None, &place(scratch.path()), |_, _| {}).await.unwrap_err();
    assert!(
        matches!(&error, VerificationError::Room { id: of, needed, .. } if *of == id && *needed > 1 << 60)
    );
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    assert_eq!(store.list("").await.unwrap().len(), 1);
}

/// Its WAL is not in the archive, so nothing can be restored from it: that is known without PostgreSQL.
#[tokio::test]
async fn what_was_found_is_written_down_and_told_on() {
    let (store, scratch) = (Store::in_memory(), tempfile::tempdir().unwrap());
    stored(&store, 16, 1_800_000_000, 1).await;
    let mut steps = Vec::new();
    let checked = verify(&store, None, &place(scratch.path()), |_, step| steps.push(step)).await.unwrap();
    assert_eq!(steps, [Step::Restore]);
    let problem = checked.verified.damage().unwrap().to_owned();
    assert!(problem.contains("the WAL that makes it consistent is not in the archive"), "{problem}");
    let epoch = Epoch { major: 16, system_identifier: 7 };
    let found = backups(&store, epoch).await.unwrap();
    assert_eq!(found[0].verified, Some(checked.verified.clone()));
    assert!(found[0].is_damaged());
    assert_eq!(found[0].restoring, None, "it is read no more");
    let entry = catalog(&store, Timestamp::now()).await.unwrap().backups.remove(0);
    assert_eq!(entry.verified_at, Some(checked.verified.at));
    assert_eq!(entry.verify_problem, Some(problem));
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn nothing_is_noted_of_a_backup_that_is_gone() {
    let store = Store::in_memory();
    let record = record(1, 1);
    let verified = Verified {
        at: Timestamp::now(),
        outcome: Outcome::Good,
        problem: None,
        checked: vec![],
        duration_seconds: 1.0,
    };
    let error = note(&store, "16-7/base/x", &record, &verified).await.unwrap_err();
    assert!(matches!(error, VerificationError::Gone(_)));
    assert!(store.list("").await.unwrap().is_empty());
}
