//! What may go: which backups, and which WAL nobody needs without them.
//!
//! WAL is judged by what can be reached over the tree of timelines, never by name: a recovery from a backup needs what its
//! own timeline holds from the backup's beginning on, and all of each timeline that left its own, or one reached that way,
//! at or behind the backup's end.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::timeline::Tree;
use super::wal::{Segment, SegmentSize};

/// What retention has to know of a base backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub id: String,
    /// The timeline that it was taken on, from its beginning to its end.
    pub timeline: u32,
    /// Where recovery from it begins.
    pub start: u64,
    /// From where on it is consistent; `None` while it is being taken, or where it never was finished.
    pub stop: Option<u64>,
    /// When it was committed, by the store's clock, the only one that all backups share.
    pub committed: Option<Timestamp>,
    /// Somebody wants it kept whatever its age.
    pub pinned: bool,
    /// It is being taken: its beginning may not have been noted yet.
    pub running: bool,
    /// It was restored and found to be damaged.
    pub damaged: bool,
}

impl Candidate {
    /// It is whole.
    fn is_good(&self) -> bool {
        self.stop.is_some() && self.committed.is_some()
    }
}

/// Why nothing may go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// Ages cannot be trusted.
    #[error(
        "tell old backups from new ones: {id} was committed at {committed}, which by the same store's clock is yet to come"
    )]
    Future {
        /// The backup.
        id: String,
        /// The store's time of it.
        committed: Timestamp,
    },
}

/// How much later than the store's time now a commit may seem to be.
const CLOCK_STEP: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);

/// The backups that go when the newest `keep` good ones stay: never the last good one, never one that is pinned or being
/// taken. One that failed does not count as one that stays, and is left to whoever cleans up after interruptions; one that is
/// known to be damaged does not count either, and goes with those of its age.
///
/// # Errors
/// Where the store's times contradict each other.
pub fn expired(backups: &[Candidate], keep: usize, now: Timestamp) -> Result<BTreeSet<&str>, RetentionError> {
    let mut good: Vec<(Timestamp, &Candidate)> = backups
        .iter()
        .filter(|backup| backup.is_good())
        .filter_map(|backup| backup.committed.map(|committed| (committed, backup)))
        .collect();
    let future = good.iter().find(|(committed, _)| committed.duration_since(now) > CLOCK_STEP);
    if let Some((committed, backup)) = future {
        return Err(RetentionError::Future { id: backup.id.clone(), committed: *committed });
    }
    // Names begin with the time.
    good.sort_by_key(|(committed, backup)| std::cmp::Reverse((*committed, backup.id.as_str())));
    let mut stay = 0;
    let mut is_old = |backup: &Candidate| {
        let old = stay >= keep.max(1);
        stay += usize::from(!backup.damaged);
        old
    };
    let old = good.into_iter().map(|(_, backup)| backup).filter(|backup| is_old(backup));
    Ok(old.filter(|backup| !backup.pinned).map(|backup| backup.id.as_str()).collect())
}

/// Whether a recovery that begins with one of the backups that stay may read that segment.
///
/// A timeline of which it is not known where it began counts as reachable: its history may be about to be stored.
pub fn is_needed(segment: Segment, stay: &[&Candidate], tree: &Tree, size: SegmentSize) -> bool {
    let timeline = segment.timeline;
    if timeline > 1 && tree.parent(timeline).is_none() {
        return true;
    }
    stay.iter().any(|backup| {
        if backup.running {
            // Where it begins may not be known, nor whether the primary changes meanwhile.
            return timeline >= backup.timeline || tree.leaves(backup.timeline, timeline).is_some();
        }
        if timeline == backup.timeline {
            // Neither for a name that cannot be, nor at the end of all positions, is anything thrown away.
            let end = segment.start(size).and_then(|start| start.checked_add(size.bytes()));
            return end.is_none_or(|end| end > backup.start);
        }
        match tree.leaves(backup.timeline, timeline) {
            Some(Some(fork)) => backup.stop.is_none_or(|stop| fork >= stop),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::timeline::{Fork, History};
    use super::*;
    use proptest::prelude::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn backup(id: &str, committed: Option<i64>) -> Candidate {
        Candidate {
            id: id.to_owned(),
            timeline: 1,
            start: 0,
            stop: committed.map(|_| 1),
            committed: committed.map(at),
            pinned: false,
            running: false,
            damaged: false,
        }
    }

    #[test]
    fn a_damaged_one_is_not_one_of_those_that_stay() {
        let damaged = |id: &str, at: i64| Candidate { damaged: true, ..backup(id, Some(at)) };
        let all = [damaged("a", 5), backup("b", Some(10)), backup("c", Some(20)), damaged("d", 30)];
        let goes = |keep| expired(&all, keep, at(40)).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(goes(3), [""; 0]);
        assert_eq!(goes(2), ["a"]);
        assert_eq!(goes(1), ["a", "b"]);
        // Without a good one, it is not for retention to say which of them goes.
        let all = [damaged("a", 5), damaged("b", 10)];
        assert!(expired(&all, 1, at(40)).unwrap().is_empty());
    }

    #[test]
    fn the_newest_good_ones_stay() {
        let all = [
            backup("old", Some(10)),
            backup("failed", None),
            Candidate { pinned: true, ..backup("pinned", Some(5)) },
            backup("new", Some(30)),
            Candidate { running: true, ..backup("running", None) },
            backup("middle", Some(20)),
        ];
        let goes = |keep| expired(&all, keep, at(40)).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(goes(4), [""; 0]);
        assert_eq!(goes(2), ["old"]);
        assert_eq!(goes(1), ["middle", "old"]);
        assert_eq!(goes(0), ["middle", "old"], "never the last one");
        assert_eq!(expired(&all[1..2], 1, at(40)), Ok(BTreeSet::new()));
    }

    #[test]
    fn with_times_from_the_future_nothing_goes() {
        let all = [backup("a", Some(10)), backup("b", Some(700))];
        assert!(expired(&all, 1, at(100)).is_ok());
        let error = expired(&all, 1, at(99)).unwrap_err();
        assert_eq!(error, RetentionError::Future { id: "b".into(), committed: at(700) });
    }

    /// A cluster's life: timelines, each from a point of an older one, and backups here and there.
    #[derive(Clone, Debug)]
    struct Life {
        parents: Vec<Fork>,
        ends: Vec<u64>,
        backups: Vec<Candidate>,
    }

    /// The unit of positions: a third of a segment, so that forks fall into segments and onto their borders.
    const THIRD: u64 = (16 << 20) / 3;

    fn life() -> impl Strategy<Value = Life> {
        let forks = proptest::collection::vec((any::<prop::sample::Index>(), 0.0..1.0_f64, 1_u64..40), 0..6);
        let backups = proptest::collection::vec((any::<prop::sample::Index>(), 0.0..1.0_f64, 0_u64..6), 1..8);
        (1_u64..40, forks, backups).prop_map(|(first, forks, backups)| {
            let (mut parents, mut begins, mut ends) = (Vec::new(), vec![0], vec![first]);
            let within = |begin: u64, end: u64, part: f64| begin + ((end - begin) as f64 * part) as u64;
            for (index, part, length) in forks {
                let from = index.index(ends.len());
                let fork = within(begins[from], ends[from], part);
                parents.push(Fork { from: from as u32 + 1, at: fork * THIRD, is_promotion: true });
                begins.push(fork);
                ends.push(fork + length);
            }
            let backups = (0..).zip(backups).map(|(number, (index, part, length))| {
                let on = index.index(ends.len());
                let start = within(begins[on], ends[on], part);
                Candidate {
                    timeline: on as u32 + 1,
                    start: start * THIRD,
                    stop: Some((start + length).min(ends[on]) * THIRD),
                    ..backup(&number.to_string(), Some(number))
                }
            });
            let backups = backups.collect();
            let ends = ends.into_iter().map(|end| end * THIRD).collect();
            Life { parents, ends, backups }
        })
    }

    impl Life {
        fn begin(&self, timeline: u32) -> u64 {
            if timeline == 1 { 0 } else { self.parents[timeline as usize - 2].at }
        }

        fn tree(&self) -> Tree {
            let history = |timeline: u32| {
                let (mut forks, mut at) = (Vec::new(), timeline);
                while at > 1 {
                    let fork = self.parents[at as usize - 2];
                    forks.insert(0, fork);
                    at = fork.from;
                }
                History(forks)
            };
            let all: Vec<_> =
                (1..=self.ends.len() as u32).map(|timeline| (timeline, history(timeline))).collect();
            Tree::new(all.iter().map(|(timeline, history)| (*timeline, history)))
        }

        fn stored(&self) -> BTreeSet<Segment> {
            let on = |timeline: u32| {
                let (begin, end) = (self.begin(timeline), self.ends[timeline as usize - 1]);
                let first = begin / SIZE.bytes() * SIZE.bytes();
                (first..end.max(first + 1))
                    .step_by(SIZE.bytes() as usize)
                    .map(move |at| Segment::of(timeline, at, SIZE))
            };
            (1..=self.ends.len() as u32).flat_map(on).collect()
        }

        /// What PostgreSQL reads to get from a backup to a position of a timeline; none where it cannot.
        fn reads(&self, backup: &Candidate, timeline: u32, target: u64) -> Option<BTreeSet<Segment>> {
            let mut way = vec![timeline];
            while way[0] > 1 {
                way.insert(0, self.parents[way[0] as usize - 2].from);
            }
            let begins = way.iter().position(|on| *on == backup.timeline)?;
            let stop = backup.stop.unwrap();
            let leaves = way.get(begins + 1).map(|next| self.begin(*next));
            if leaves.is_some_and(|at| at < stop) || target < stop {
                return None;
            }
            let mut reads = BTreeSet::new();
            let mut at = backup.start;
            while at <= target {
                // The youngest timeline that has begun in or before this segment; it holds a copy of what came before.
                let end = (at / SIZE.bytes() + 1) * SIZE.bytes();
                let on = way[begins..]
                    .iter()
                    .rev()
                    .find(|on| **on == backup.timeline || self.begin(**on) < end)?;
                reads.insert(Segment::of(*on, at, SIZE));
                at = end;
            }
            Some(reads)
        }
    }

    proptest! {
        #[test]
        fn what_stays_reaches_all_that_it_reached_before(life in life(), keep in 1_usize..5) {
            let goes = expired(&life.backups, keep, at(1000)).unwrap();
            let stay: Vec<&Candidate> = life.backups.iter().filter(|backup| !goes.contains(backup.id.as_str())).collect();
            prop_assert_eq!(stay.len(), life.backups.len().min(keep));
            let (tree, stored) = (life.tree(), life.stored());
            let left: BTreeSet<Segment> =
                stored.iter().copied().filter(|segment| is_needed(*segment, &stay, &tree, SIZE)).collect();
            for backup in &stay {
                for (timeline, end) in (1..).zip(&life.ends) {
                    for target in (0..=*end).step_by(THIRD as usize) {
                        let Some(reads) = life.reads(backup, timeline, target) else { continue };
                        if reads.is_subset(&stored) {
                            prop_assert!(reads.is_subset(&left), "{} to {timeline} {target}: {:?}", backup.id, reads.difference(&left));
                        }
                    }
                }
            }
        }

        #[test]
        fn what_no_backup_can_use_goes(life in life()) {
            let stay = [life.backups.last().unwrap()];
            let (tree, stored) = (life.tree(), life.stored());
            for segment in stored {
                let before = segment.timeline == stay[0].timeline
                    && segment.start(SIZE).unwrap() + SIZE.bytes() <= stay[0].start;
                let unreachable = tree.leaves(stay[0].timeline, segment.timeline).is_none();
                if before || unreachable {
                    prop_assert!(!is_needed(segment, &stay, &tree, SIZE), "{segment}");
                }
            }
        }
    }

    #[test]
    fn of_what_is_not_known_nothing_goes() {
        let kept = backup("a", Some(1));
        let unknown = Segment::of(7, 0, SIZE);
        assert!(is_needed(unknown, &[&kept], &Tree::default(), SIZE));
        let running = Candidate { timeline: 2, running: true, ..backup("b", None) };
        let second = History(vec![Fork { from: 1, at: 100, is_promotion: true }]);
        let tree = Tree::new([(2, &second), (3, &second)]);
        assert!(is_needed(Segment::of(2, 0, SIZE), &[&running], &tree, SIZE));
        assert!(is_needed(Segment::of(3, 0, SIZE), &[&running], &tree, SIZE));
        assert!(!is_needed(Segment::of(1, 0, SIZE), &[&running], &tree, SIZE));
    }
}
