//! Whole lives of databases, pruned again and again by the real thing: what a backup that stays could ever be restored to, it
//! can be restored to for ever.
//!
//! What can be reached is told by `reach`, which is written anew here.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::verified::{Outcome, Verified};
use super::reach::{Base, Files, Line, Lines, UNITS};
use super::tests::{EPOCH, SIZE, commit_until};
use super::*;
use crate::backup::base::BackupId;
use crate::backup::layout::{ContentHash, StoredWal};
use crate::backup::server::Point;
use crate::backup::store::name;
use crate::backup::wal::{Segment, WalFile};

/// Where a unit begins.
fn position(unit: u64) -> u64 {
    unit / UNITS * SIZE.bytes() + unit % UNITS * (SIZE.bytes() / UNITS)
}

/// Backups that are taken at the same time.
const MOST: usize = 2;

/// What happens to a database.
#[derive(Clone, Debug)]
enum Step {
    /// So many units of WAL are written.
    Write(u64),
    /// A replica takes over, where the primary was.
    Failover,
    /// Its data is restored to that part of the way to the end of some timeline, and it goes on from there.
    Recover(prop::sample::Index, f64),
    /// A backup begins: at most so many units back, as from a replica's last restart point, but not before the last one.
    Begin(u64),
    /// The first or the last of those that are under way ends, good only where no other timeline has begun meanwhile; then so many stay.
    Finish(bool, usize),
    /// One of the good ones is found to be damaged.
    Damage(prop::sample::Index),
    /// Somebody begins to restore one of them.
    Restore(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        6 => (1_u64..10).prop_map(Step::Write),
        2 => Just(Step::Failover),
        2 => (index(), 0.0..1.0_f64).prop_map(|(on, part)| Step::Recover(on, part)),
        4 => (0_u64..3).prop_map(Step::Begin),
        7 => (any::<bool>(), 1_usize..4).prop_map(|(first, keep)| Step::Finish(first, keep)),
        1 => index().prop_map(Step::Damage),
        1 => index().prop_map(Step::Restore),
    ];
    proptest::collection::vec(step, 1..60)
}

struct Life {
    store: Store,
    lines: Lines,
    now: usize,
    /// All whole segments that were ever archived.
    ever: Files,
    running: Vec<Base>,
    good: Vec<Base>,
    damaged: BTreeSet<String>,
    restoring: BTreeSet<String>,
    began: i64,
}

impl Life {
    fn new() -> Self {
        Self {
            store: Store::in_memory(),
            lines: Lines(vec![Line { parent: None, begin: 0, end: 0 }]),
            now: 0,
            ever: Files::new(),
            running: Vec::new(),
            good: Vec::new(),
            damaged: BTreeSet::new(),
            restoring: BTreeSet::new(),
            began: 1_800_000_000,
        }
    }

    /// What is in the store of whole segments and of histories.
    async fn stored(&self) -> (Files, BTreeSet<u32>) {
        let (mut files, mut histories) = (Files::new(), BTreeSet::new());
        for object in self.store.list("").await.unwrap() {
            let file = name(&object.key);
            if let Some((timeline, _)) = file.split_once(".history-") {
                histories.insert(u32::from_str_radix(timeline, 16).unwrap());
            } else if object.key.contains("/wal/") && file.as_bytes()[24] == b'-' {
                let hex = |range: std::ops::Range<usize>| u64::from_str_radix(&file[range], 16).unwrap();
                files.insert((hex(0..8) as usize - 1, hex(8..16) * 256 + hex(16..24)));
            }
        }
        (files, histories)
    }

    async fn archive(&mut self, file: WalFile, text: String) {
        let key = StoredWal { file, hash: ContentHash::of(text.as_bytes()) }.key(EPOCH);
        self.store.put(&key, text.into()).await.unwrap();
    }

    async fn write(&mut self, units: u64) {
        let line = self.lines.0[self.now];
        let end = line.end + units;
        self.lines.0[self.now].end = end;
        for segment in line.end / UNITS..end / UNITS {
            if self.ever.insert((self.now, segment)) {
                let file = Segment::of(self.now as u32 + 1, segment * SIZE.bytes(), SIZE);
                self.archive(WalFile::Segment(file), "w".to_owned()).await;
            }
        }
    }

    /// A new timeline from there on.
    async fn fork(&mut self, parent: usize, at: u64) {
        let unfilled = self.lines.0[self.now];
        if !unfilled.end.is_multiple_of(UNITS) {
            let file = Segment::of(self.now as u32 + 1, unfilled.end / UNITS * SIZE.bytes(), SIZE);
            self.archive(WalFile::Partial(file), "p".to_owned()).await;
        }
        self.lines.0.push(Line { parent: Some(parent), begin: at, end: at });
        self.now = self.lines.0.len() - 1;
        let way = self.lines.way(self.now);
        let lines = way.windows(2).map(|pair| {
            let at = position(self.lines.0[pair[1]].begin);
            format!("{}\t{:X}/{:X}\treason\n", pair[0] + 1, at >> 32, at & 0xFFFF_FFFF)
        });
        let text: String = lines.collect();
        self.archive(WalFile::History(self.now as u32 + 1), text).await;
    }

    async fn put(&self, base: &Base, object: &str) {
        self.store.put(&format!("{}/{object}", base.id.directory(EPOCH)), "{}".into()).await.unwrap();
    }

    async fn begin(&mut self, back: u64) {
        let line = self.lines.0[self.now];
        let own = self.good.iter().filter(|base| base.line == self.now).map(|base| base.start);
        let first = own.max().unwrap_or_default().max(line.begin);
        let start = line.end.saturating_sub(back).max(first);
        self.began += 1;
        let began = Timestamp::from_second(self.began).unwrap();
        let point = Point { position: position(start), timeline: self.now as u32 + 1 };
        let base = Base { id: BackupId::new(began, point), line: self.now, start, stop: line.end };
        self.put(&base, list::STARTED).await;
        self.put(&base, "base.0000.tar.zst").await;
        self.running.push(base);
    }

    async fn finish(&mut self, first: bool, keep: usize) -> Result<(), TestCaseError> {
        let Some(last) = self.running.len().checked_sub(1) else { return Ok(()) };
        let mut base = self.running.remove(if first { 0 } else { last });
        if base.line != self.now {
            self.store.delete_directory(&base.id.directory(EPOCH)).await.unwrap();
            return Ok(());
        }
        // It is whole once its last segment is archived.
        base.stop = self.lines.0[self.now].end;
        self.write(UNITS - base.stop % UNITS).await;
        commit_until(&self.store, &base.id, position(base.stop)).await;
        self.good.push(base);
        self.prune(keep).await
    }

    async fn prune(&mut self, keep: usize) -> Result<(), TestCaseError> {
        prune(&self.store, keep, false).await.unwrap();
        let found = list::backups(&self.store, EPOCH).await.unwrap();
        let stay: BTreeSet<String> =
            found.iter().filter(|found| found.good().is_some()).map(|found| found.id.to_string()).collect();
        // The newest, and whatever is in use.
        let mut counted = 0;
        for base in self.good.iter().rev() {
            let id = base.id.to_string();
            let expected = counted < keep || self.restoring.contains(&id);
            counted += usize::from(!self.damaged.contains(&id));
            prop_assert_eq!(stay.contains(&id), expected, "{}", id);
        }
        self.good.retain(|base| stay.contains(&base.id.to_string()));
        Ok(())
    }

    /// What each backup that stays could ever be restored to, it can be restored to now.
    async fn check(&self) -> Result<BTreeMap<String, u64>, TestCaseError> {
        let (files, histories) = self.stored().await;
        prop_assert_eq!(histories.len() + 1, self.lines.0.len(), "histories");
        let mut farthest = BTreeMap::new();
        for base in self.good.iter().chain(&self.running) {
            for to in 0..self.lines.0.len() {
                let (could, can) =
                    (self.lines.reach(base, to, &self.ever), self.lines.reach(base, to, &files));
                prop_assert_eq!(can, could, "{} along timeline {}", base.id, to + 1);
                farthest.insert(format!("{} {to}", base.id), can.unwrap_or_default());
            }
        }
        Ok(farthest)
    }

    /// The pick of those that are good.
    fn pick(&self, index: &prop::sample::Index) -> Option<Base> {
        (!self.good.is_empty()).then(|| index.get(&self.good).clone())
    }

    async fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Write(units) => self.write(*units).await,
            Step::Failover => self.fork(self.now, self.lines.0[self.now].end).await,
            Step::Recover(on, part) => {
                let on = on.index(self.lines.0.len());
                let to = (self.lines.0[on].end as f64 * part) as u64;
                self.fork(on, to).await;
            }
            Step::Begin(back) if self.running.len() < MOST => self.begin(*back).await,
            Step::Begin(_) => {}
            Step::Finish(first, keep) => self.finish(*first, *keep).await?,
            Step::Damage(index) => {
                let Some(base) = self.pick(index) else { return Ok(()) };
                let at = Timestamp::from_second(self.began).unwrap();
                let bad = Verified {
                    at,
                    outcome: Outcome::Bad,
                    problem: None,
                    checked: vec![],
                    duration_seconds: 0.0,
                };
                bad.write(&self.store, &base.id.directory(EPOCH)).await.unwrap();
                self.damaged.insert(base.id.to_string());
            }
            Step::Restore(index) => {
                let Some(base) = self.pick(index) else { return Ok(()) };
                self.put(&base, &format!("{}x.json", list::RESTORING)).await;
                self.restoring.insert(base.id.to_string());
            }
        }
        Ok(())
    }
}

fn lived(steps: &[Step]) -> Result<(Life, BTreeMap<String, u64>), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut life = Life::new();
        for step in steps {
            life.step(step).await?;
            life.check().await?;
        }
        let reached = life.check().await?;
        Ok((life, reached))
    })
}

proptest! {
    #[test]
    fn whatever_is_pruned_each_backup_that_stays_reaches_all_that_it_ever_could(steps in steps()) {
        lived(&steps)?;
    }
}

/// The recovery above is no empty word: it follows forks, does not go on where a file is missing, and ends where a way leaves.
#[test]
fn a_backup_reaches_what_its_files_lead_to() {
    let steps = [
        Step::Write(4),
        Step::Begin(0),
        Step::Write(3),
        Step::Finish(true, 1),
        Step::Write(2),
        Step::Failover,
        Step::Write(9),
    ];
    let (mut life, reached) = lived(&steps).unwrap();
    // Timeline 1: units 4 to 7, to the end of its segment, and 2 more, which no whole segment holds; 2 goes on from 11 to 18.
    assert_eq!(reached.values().copied().collect::<Vec<_>>(), [9, 18], "{:?}", life.lines);
    let base = life.good[0].clone();
    let (files, _) = tokio::runtime::Runtime::new().unwrap().block_on(life.stored());
    let without =
        |file: (usize, u64)| files.iter().copied().filter(|other| *other != file).collect::<Files>();
    assert_eq!(life.lines.reach(&base, 1, &without((1, 4))), Some(12));
    assert_eq!(life.lines.reach(&base, 1, &without((0, 1))), None);
    // The old timeline ends at the fork, even where it has a file of that segment.
    let mut old = without((1, 3));
    old.insert((0, 3));
    assert_eq!(life.lines.reach(&base, 1, &old), Some(11));
    // A way that leaves before a backup is whole does not lead over it.
    life.lines.0.push(Line { parent: Some(0), begin: 6, end: 30 });
    assert_eq!(life.lines.reach(&base, 2, &files), None);
}
