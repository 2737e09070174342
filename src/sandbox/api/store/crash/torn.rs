//! A disk that, at some write, loses its power: what was not synced is there, or not, or in parts, in any order.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

use super::{Contents, contents, draft, maps};
use crate::sandbox::api::store::{Store, Write, disk, file};

/// What a disk writes at once.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Operation {
    Write(u64, Vec<u8>),
    Resize(u64),
}

impl Operation {
    fn apply(&self, disk: &mut Vec<u8>) {
        match self {
            Self::Resize(length) => disk.resize(usize::try_from(*length).unwrap(), 0),
            Self::Write(offset, data) => {
                let start = usize::try_from(*offset).unwrap();
                if disk.len() < start + data.len() {
                    disk.resize(start + data.len(), 0);
                }
                disk[start..start + data.len()].copy_from_slice(data);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Disk {
    synced: Vec<u8>,
    /// As the process sees it.
    current: Vec<u8>,
    unsynced: Vec<Operation>,
    /// Operations until the power is gone.
    left: Option<usize>,
}

/// The disk as redb uses it.
#[derive(Clone, Debug, Default)]
struct Power(Arc<Mutex<Disk>>);

impl Power {
    fn on(synced: Vec<u8>, left: Option<usize>) -> Self {
        let disk = Disk { current: synced.clone(), synced, unsynced: Vec::new(), left };
        Self(Arc::new(Mutex::new(disk)))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Disk) -> T) -> io::Result<T> {
        let mut disk = self.0.lock().unwrap();
        match &mut disk.left {
            Some(0) => return Err(io::Error::other("the power is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(work(&mut disk))
    }

    /// What is on the disk when the power is back.
    fn survives(&self, chance: &mut fastrand::Rng) -> Vec<u8> {
        let disk = self.0.lock().unwrap();
        let mut left = disk.synced.clone();
        let mut operations = disk.unsynced.clone();
        chance.shuffle(&mut operations);
        for operation in operations {
            match operation {
                Operation::Resize(_) if chance.bool() => operation.apply(&mut left),
                Operation::Resize(_) => {}
                // Each sector for itself.
                Operation::Write(offset, data) => {
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        if chance.bool() {
                            Operation::Write(offset + (index * SECTOR) as u64, sector.to_vec())
                                .apply(&mut left);
                        }
                    }
                }
            }
        }
        left
    }
}

impl StorageBackend for Power {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let bytes = disk.current.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|disk| {
            let operation = Operation::Resize(length);
            operation.apply(&mut disk.current);
            disk.unsynced.push(operation);
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk| {
            disk.synced.clone_from(&disk.current);
            disk.unsynced.clear();
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|disk| {
            let operation = Operation::Write(offset, data.to_vec());
            operation.apply(&mut disk.current);
            disk.unsynced.push(operation);
        })
    }
}

fn open(power: &Power) -> Store {
    let database = file::builder().create_with_backend(power.clone()).unwrap();
    let (version, found) = disk::load(&database).unwrap();
    Store::start(database, version, found, None).unwrap()
}

/// Everything that was tried, in order: the contents as of each version.
type History = Vec<(u64, Contents)>;

/// Writes in small batches until the power is gone; returns what was tried, and the last acknowledged version.
async fn write_until_dark(store: &Store, chance: &mut fastrand::Rng) -> (History, u64) {
    let mut now = contents(store);
    let mut acknowledged = store.version();
    let mut history = vec![(acknowledged, now.clone())];
    let mut version = acknowledged;
    for round in 0.. {
        let mut batch = Vec::new();
        for number in 0..chance.usize(1..5) {
            // Keys of one batch differ: each write builds on what it has seen.
            let key = format!("n/{number}-{}", chance.u8(0..4));
            let expect = now.get(&key).map(|(version, _)| *version);
            let made =
                (expect.is_none() || chance.u8(0..4) > 0).then(|| draft(&key, round * 10 + number as u64));
            version += 1;
            match &made {
                Some(_) => drop(now.insert(key.clone(), (version, round * 10 + number as u64))),
                None => drop(now.remove(&key)),
            }
            history.push((version, now.clone()));
            batch.push((key, expect, made));
        }
        let collection = maps();
        let writes = batch.iter().map(|(key, expect, draft)| {
            store.write(Write {
                collection: &collection,
                key,
                expect: *expect,
                draft: draft.as_ref(),
                guard: None,
            })
        });
        for result in futures::future::join_all(writes).await {
            match result {
                Ok(record) => acknowledged = acknowledged.max(record.version()),
                Err(_) => return (history, acknowledged),
            }
        }
    }
    unreachable!()
}

/// Cuts the power after so many operations, again and again on the same disk.
async fn cut(seed: u64, generations: usize) {
    let mut chance = fastrand::Rng::with_seed(seed);
    let power = Power::on(Vec::new(), None);
    let database = file::builder().create_with_backend(power.clone()).unwrap();
    disk::make_tables(&database).unwrap();
    drop(database);
    let mut synced = power.0.lock().unwrap().synced.clone();
    for generation in 0..generations {
        // Opening is cut as well: it may have something to repair.
        let power = Power::on(synced.clone(), None);
        let store = open(&power);
        let base = (store.version(), contents(&store));
        power.0.lock().unwrap().left = Some(chance.usize(0..120));
        let (history, acknowledged) = write_until_dark(&store, &mut chance).await;
        drop(store);
        synced = power.survives(&mut chance);
        let store = open(&Power::on(synced.clone(), None));
        let (version, found) = (store.version(), contents(&store));
        let about =
            format!("seed {seed}, generation {generation}: {acknowledged} acknowledged, {version} found");
        assert!(version >= acknowledged, "an acknowledged write is lost: {about}");
        let tried = history.iter().chain([&base]).find(|(tried, _)| *tried == version);
        assert_eq!(Some(&found), tried.map(|(_, contents)| contents), "not as it ever was: {about}");
    }
}

#[tokio::test]
async fn after_a_power_failure_the_store_is_as_it_was_at_some_commit_and_has_all_that_was_acknowledged() {
    for seed in 0..12 {
        cut(seed, 6).await;
    }
}

/// The same for as long as anybody likes: `TORN_SEEDS=1000 cargo test --lib power_failures -- --ignored`.
#[tokio::test]
#[ignore = "long: set TORN_SEEDS"]
async fn power_failures_by_the_thousand() {
    let seeds = std::env::var("TORN_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    for seed in 1000..1000 + seeds {
        cut(seed, 10).await;
    }
}
