use super::super::fetch::{FetchError, Fetched, Purpose, fetch};
use super::super::spool::Spool;
use super::*;

const EPOCH: Epoch = Epoch { major: 16, system_identifier: 7_412_345_678_901_234_567 };
const SIZE: SegmentSize = SegmentSize::SMALLEST;

/// A data directory with files of WAL to push, and where they go.
struct Bench {
    data: tempfile::TempDir,
    store: Store,
    owner: Owner,
}

impl Bench {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(data.path().join("pgdata/global")).unwrap();
        std::fs::create_dir_all(data.path().join("pgdata/pg_wal")).unwrap();
        std::fs::write(data.path().join("pgdata/PG_VERSION"), "16\n").unwrap();
        let mut control = EPOCH.system_identifier.to_le_bytes().to_vec();
        control.extend([0; 100]);
        std::fs::write(data.path().join("pgdata/global/pg_control"), control).unwrap();
        let owner = Owner { archive: "a1".to_owned(), database: "shop/orders".to_owned() };
        Self { data, store: Store::in_memory(), owner }
    }

    fn pgdata(&self) -> PathBuf {
        self.data.path().join("pgdata")
    }

    async fn push(&self, name: &str, bytes: &[u8]) -> Result<Pushed, PushError> {
        let path = Path::new("pg_wal").join(name);
        std::fs::write(self.pgdata().join(&path), bytes).unwrap();
        push(&self.store, &self.owner, &self.pgdata(), &path).await
    }

    async fn keys(&self) -> Vec<String> {
        let all = self.store.list("").await.unwrap();
        all.into_iter().map(|object| name(&object.key).to_owned()).filter(|key| key != "claim.json").collect()
    }

    async fn fetch(&self, file: &str) -> Result<Fetched, FetchError> {
        let to = self.pgdata().join("pg_wal/RECOVERYXLOG");
        fetch(&self.store, EPOCH, file.parse().unwrap(), &to, Purpose::Recovery).await
    }

    fn fetched(&self) -> Vec<u8> {
        std::fs::read(self.pgdata().join("pg_wal/RECOVERYXLOG")).unwrap()
    }
}

fn nth(timeline: u32, number: u64) -> Segment {
    Segment::of(timeline, number * SIZE.bytes(), SIZE)
}

/// A segment that begins with a switch record, so it is full, or with none, so it is not; `junk` is behind it.
fn segment(segment: Segment, system: u64, full: bool, junk: u8) -> Vec<u8> {
    let start = segment.start(SIZE).unwrap();
    let mut bytes = vec![junk; 1 << 20];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, &0xD113_u16.to_le_bytes());
    put(2, &2_u16.to_le_bytes());
    put(4, &segment.timeline.to_le_bytes());
    put(8, &start.to_le_bytes());
    put(16, &[0; 8]);
    put(24, &system.to_le_bytes());
    put(32, &(1_u32 << 20).to_le_bytes());
    put(36, &8192_u32.to_le_bytes());
    put(40, &[0; 24]);
    if full {
        put(40, &24_u32.to_le_bytes());
        put(48, &(start - 8).to_le_bytes());
        put(56, &[0x40, 0]);
    }
    bytes
}

fn full(number: u64, junk: u8) -> (String, Vec<u8>) {
    let wanted = nth(1, number);
    (wanted.to_string(), segment(wanted, EPOCH.system_identifier, true, junk))
}

#[tokio::test]
async fn the_same_twice_is_success_and_other_bytes_never_are() {
    let bench = Bench::new();
    let (name, bytes) = full(5, 0);
    assert_eq!(bench.push(&name, &bytes).await.unwrap(), Pushed::Stored);
    assert_eq!(bench.push(&name, &bytes).await.unwrap(), Pushed::Present);
    let before = bench.keys().await;
    let error = bench.push(&name, &full(5, 1).1).await.unwrap_err();
    assert!(matches!(&error, PushError::Conflict { .. }), "{error}");
    assert_eq!(bench.keys().await, before);
    assert_eq!(bench.push(&name, &bytes).await.unwrap(), Pushed::Present);

    assert_eq!(bench.push("00000002.history", b"1\t0/500000\tx\n").await.unwrap(), Pushed::Stored);
    assert_eq!(bench.push("00000002.history", b"1\t0/500000\tx\n").await.unwrap(), Pushed::Present);
    let error = bench.push("00000002.history", b"1\t0/600000\tx\n").await.unwrap_err();
    assert!(matches!(error, PushError::Conflict { .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_segment_of_this_cluster_is_refused() {
    let bench = Bench::new();
    let (name, good) = full(5, 0);
    let of_another = segment(nth(1, 5), 1, true, 0);
    let misnamed = full(6, 0).1;
    for (bytes, says) in [
        (&b""[..], "a file of 0 bytes"),
        (&good[..good.len() / 2], "a file of 524288 bytes"),
        (&[7; 1 << 20], "its first page begins with 0x0707"),
        (&of_another, "it is of system 1"),
        (&misnamed, "by its name at 500000"),
    ] {
        let error = bench.push(&name, bytes).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert!(bench.push("junk", &good).await.unwrap_err().to_string().contains("as the name of a WAL file"));
    assert_eq!(bench.keys().await, [""; 0]);
}

#[tokio::test]
async fn an_unfilled_segment_never_stands_for_the_whole() {
    let bench = Bench::new();
    let name = nth(1, 5).to_string();
    for junk in [1, 2] {
        let part = segment(nth(1, 5), EPOCH.system_identifier, false, junk);
        assert_eq!(bench.push(&name, &part).await.unwrap(), Pushed::Partial);
        assert_eq!(bench.push(&format!("{name}.partial"), &part).await.unwrap(), Pushed::Partial);
    }
    assert_eq!(bench.keys().await.len(), 2);
    assert_eq!(bench.fetch(&name).await.unwrap(), Fetched::Absent);
    let (_, whole) = full(5, 3);
    assert_eq!(bench.push(&name, &whole).await.unwrap(), Pushed::Stored);
    assert_eq!(bench.fetch(&name).await.unwrap(), Fetched::Found);
    assert_eq!(bench.fetched(), whole);
}

#[tokio::test]
async fn a_second_database_is_refused_before_it_writes() {
    let mut bench = Bench::new();
    let (name, bytes) = full(5, 0);
    bench.push(&name, &bytes).await.unwrap();
    bench.owner.archive = "a2".to_owned();
    let before = bench.keys().await;
    let error = bench.push(&full(6, 0).0, &full(6, 0).1).await.unwrap_err();
    assert!(error.to_string().contains("it is the archive of shop/orders (a1)"), "{error}");
    assert_eq!(bench.keys().await, before);
}

#[tokio::test]
async fn a_restored_database_leaves_its_sources_wal_where_it_is() {
    let bench = Bench::new();
    let origin = Origin {
        from: "s3://b/source".to_owned(),
        archive: "a0".to_owned(),
        backup: "b".to_owned(),
        timeline: 3,
    };
    origin.write(&bench.pgdata()).unwrap();
    let of = |timeline| segment(nth(timeline, 5), EPOCH.system_identifier, true, 0);
    assert_eq!(bench.push(&nth(3, 5).to_string(), &of(3)).await.unwrap(), Pushed::Foreign);
    assert_eq!(bench.push("00000003.history", b"").await.unwrap(), Pushed::Foreign);
    assert_eq!(bench.keys().await, [""; 0]);
    assert_eq!(bench.push(&nth(4, 5).to_string(), &of(4)).await.unwrap(), Pushed::Stored);
    assert_eq!(bench.push("00000004.history", b"x").await.unwrap(), Pushed::Stored);
}

#[tokio::test]
async fn what_comes_back_is_whole_or_nothing() {
    let bench = Bench::new();
    // A destination without an archive may be one that is not there.
    assert!(matches!(bench.fetch("00000002.history").await, Err(FetchError::Unclaimed(_))));
    claim::hold(&bench.store, &bench.owner).await.unwrap();
    assert_eq!(bench.fetch("00000002.history").await.unwrap(), Fetched::Absent);
    bench.push("00000002.history", b"1\t0/500000\tx\n").await.unwrap();
    assert_eq!(bench.fetch("00000002.history").await.unwrap(), Fetched::Found);
    assert_eq!(bench.fetched(), b"1\t0/500000\tx\n");

    let (name, bytes) = full(5, 0);
    bench.push(&name, &bytes).await.unwrap();
    let key = StoredWal { file: name.parse().unwrap(), hash: ContentHash::of(&bytes) }.key(EPOCH);
    let object = bench.store.get(&key).await.unwrap().unwrap();
    std::fs::remove_file(bench.pgdata().join("pg_wal/RECOVERYXLOG")).unwrap();
    let other = packed(name.parse().unwrap(), full(5, 1).1.into()).unwrap();
    for damaged in [&object[..object.len() - 1], &[b"x", &object[1..]].concat(), b"", &other] {
        bench.store.put(&key, damaged.to_vec().into()).await.unwrap();
        let error = bench.fetch(&name).await.unwrap_err();
        assert!(matches!(error, FetchError::Damaged { .. }), "{error}");
        assert!(!bench.pgdata().join("pg_wal/RECOVERYXLOG").exists());
    }
    bench.store.put(&key, object.clone()).await.unwrap();
    let second = StoredWal { file: name.parse().unwrap(), hash: ContentHash::of(b"other") }.key(EPOCH);
    bench.store.put(&second, object).await.unwrap();
    assert!(matches!(bench.fetch(&name).await, Err(FetchError::Ambiguous { count: 2, .. })));
}

#[tokio::test]
async fn the_spool_holds_what_comes_next_and_nothing_else() {
    let bench = Bench::new();
    for number in 5..=20 {
        let (name, bytes) = full(number, 0);
        bench.push(&name, &bytes).await.unwrap();
    }
    let spool = Spool::beside(&bench.pgdata(), EPOCH);
    let to = bench.pgdata().join("pg_wal/RECOVERYXLOG");
    assert!(!spool.take(nth(1, 6), &to).unwrap());
    assert!(spool.is_low(nth(1, 5)));
    spool.fill(&bench.store, EPOCH, nth(1, 5), SIZE).await.unwrap();
    assert!(!spool.is_low(nth(1, 5)));
    assert!(spool.take(nth(1, 6), &to).unwrap());
    assert_eq!(bench.fetched(), full(6, 0).1);
    assert!(!spool.take(nth(1, 6), &to).unwrap());
    // Not on another timeline, and not what was passed.
    assert!(!spool.take(nth(2, 7), &to).unwrap());
    spool.fill(&bench.store, EPOCH, nth(1, 18), SIZE).await.unwrap();
    assert!(!spool.take(nth(1, 8), &to).unwrap());
    assert!(spool.take(nth(1, 20), &to).unwrap());
    // The end of the archive is not remembered.
    assert!(!spool.take(nth(1, 21), &to).unwrap());
    let (name, bytes) = full(21, 0);
    bench.push(&name, &bytes).await.unwrap();
    spool.fill(&bench.store, EPOCH, nth(1, 20), SIZE).await.unwrap();
    assert!(spool.take(nth(1, 21), &to).unwrap());
}

/// A file that was put aside for a segment that its timeline never came to is archived by PostgreSQL like any other.
#[tokio::test]
async fn what_was_never_written_before_its_timeline_was_left_is_passed_over() {
    let bench = Bench::new();
    // What segment 2 held, under the name of segment 5; and one that nothing was ever in.
    let (old, empty) = (segment(nth(1, 2), EPOCH.system_identifier, true, 7), vec![0; 1 << 20]);
    let name = nth(1, 5).to_string();
    let is_refused = async |bytes: &[u8]| {
        let error = bench.push(&name, bytes).await.unwrap_err();
        assert!(matches!(error, PushError::Content { .. }), "{error}");
    };
    // Nobody has left the timeline; it was left behind the segment; another one was left there.
    is_refused(&old).await;
    is_refused(&empty).await;
    let history = bench.pgdata().join("pg_wal/00000003.history");
    for text in ["1\t0/600000\tx\n", "2\t0/500000\tx\n", "nonsense"] {
        std::fs::write(&history, text).unwrap();
        is_refused(&old).await;
        is_refused(&empty).await;
    }
    for text in ["1\t0/500000\tx\n", "1\t0/5FFFFF\tx\n2\t0/800000\tx\n", "1\t0/300000\tx\n"] {
        std::fs::write(&history, text).unwrap();
        assert_eq!(bench.push(&name, &old).await.unwrap(), Pushed::Unwritten, "{text}");
        assert_eq!(bench.push(&name, &empty).await.unwrap(), Pushed::Unwritten, "{text}");
    }
    // Neither what a later segment held nor anything else is explained by that.
    is_refused(&segment(nth(1, 6), EPOCH.system_identifier, true, 7)).await;
    is_refused(&segment(nth(1, 2), 5, true, 7)).await;
    is_refused(&[1; 1 << 20]).await;
    assert_eq!(bench.keys().await, [""; 0]);
    // What was written is stored, wherever its timeline ended.
    let own = segment(nth(1, 5), EPOCH.system_identifier, true, 7);
    assert_eq!(bench.push(&name, &own).await.unwrap(), Pushed::Stored);
}
