use proptest::prelude::*;

use super::*;
use crate::backup::timeline::{Fork, History};

const SIZE: SegmentSize = SegmentSize::SMALLEST;
const MIB: u64 = 1 << 20;

/// Two promotions: 1 ends within its sixth segment, 2 at the very beginning of a segment.
fn tree() -> Tree {
    let second = History(vec![Fork { from: 1, at: 5 * MIB + 100, is_promotion: true }]);
    let third = History(vec![
        Fork { from: 1, at: 5 * MIB + 100, is_promotion: true },
        Fork { from: 2, at: 8 * MIB, is_promotion: true },
    ]);
    // Point-in-time recovery along 2 that ended before 2 began.
    let fourth = History(vec![
        Fork { from: 1, at: 5 * MIB + 100, is_promotion: true },
        Fork { from: 2, at: 4 * MIB + 8, is_promotion: true },
    ]);
    Tree::new([(2, &second), (3, &third), (4, &fourth)])
}

fn held(names: &[(u32, u64)]) -> BTreeMap<Segment, ()> {
    names.iter().map(|(timeline, number)| (Segment::of(*timeline, number * MIB, SIZE), ())).collect()
}

/// Segments by timeline and number, the number of the first that is missing, and where the WAL goes on.
type Found = (Vec<(u32, u64)>, u64, Option<(u32, u64)>);

fn follow(from: u64, to: u32, names: &[(u32, u64)]) -> Found {
    let start = Point { timeline: 1, position: from * MIB + 40 };
    let chain = Chain::follow(start, to, &tree(), &held(names), SIZE);
    let plain = |segment: &Segment| (segment.timeline, segment.start(SIZE).unwrap() / MIB);
    let gap = chain.gap.map(|gap| {
        assert_eq!(gap.at, chain.reach);
        plain(&gap.resumes)
    });
    (chain.segments.iter().map(plain).collect(), chain.reach / MIB, gap)
}

#[test]
fn each_segment_comes_from_the_newest_timeline_that_began_by_then() {
    let all: Vec<(u32, u64)> =
        (1..=4).flat_map(|timeline| (3..=9).map(move |number| (timeline, number))).collect();
    let cases: [(u32, &[(u32, u64)]); 4] = [
        (1, &[(1, 3), (1, 4), (1, 5), (1, 6), (1, 7), (1, 8), (1, 9)]),
        (2, &[(1, 3), (1, 4), (2, 5), (2, 6), (2, 7), (2, 8), (2, 9)]),
        (3, &[(1, 3), (1, 4), (2, 5), (2, 6), (2, 7), (3, 8), (3, 9)]),
        (4, &[(1, 3), (4, 4), (4, 5), (4, 6), (4, 7), (4, 8), (4, 9)]),
    ];
    for (to, expected) in cases {
        assert_eq!(follow(3, to, &all), (expected.to_vec(), 10, None), "{to}");
    }
}

#[test]
fn the_way_ends_at_the_first_segment_that_is_missing() {
    // The end of the archive.
    assert_eq!(follow(3, 1, &[(1, 3), (1, 4)]), (vec![(1, 3), (1, 4)], 5, None));
    // Nothing at all.
    assert_eq!(follow(3, 1, &[]), (vec![], 3, None));
    // A gap.
    assert_eq!(follow(3, 1, &[(1, 3), (1, 5), (1, 6)]), (vec![(1, 3)], 4, Some((1, 5))));
    // The old timeline's segment does not stand for the new one's, in which the fork lies.
    assert_eq!(follow(4, 2, &[(1, 4), (1, 5), (2, 6)]), (vec![(1, 4)], 5, Some((2, 6))));
    // What the way does not lead over is no reason for a gap.
    assert_eq!(follow(4, 2, &[(1, 4), (2, 5), (1, 7), (3, 9)]), (vec![(1, 4), (2, 5)], 6, None));
}

#[test]
fn what_can_be_reached() {
    let tree = tree();
    for (from, stop, to, is) in [
        (1, MIB, 1, true),
        (1, MIB, 3, true),
        (1, 5 * MIB + 100, 2, true),
        (1, 5 * MIB + 101, 2, false),
        (1, 4 * MIB + 9, 4, false),
        (1, 4 * MIB + 8, 4, true),
        (2, 6 * MIB, 3, true),
        (2, 6 * MIB, 4, false),
        (2, 6 * MIB, 1, false),
        (3, MIB, 2, false),
        (9, MIB, 9, true),
    ] {
        assert_eq!(is_reachable(&tree, from, stop, to), is, "{from} at {stop} to {to}");
    }
    assert_eq!(newest(&tree, [1, 2, 3, 4], 1, MIB), 4);
    assert_eq!(newest(&tree, [1, 2, 3, 4], 1, 5 * MIB), 3);
    assert_eq!(newest(&tree, [1, 2, 3, 4], 1, 6 * MIB), 1);
    assert_eq!(newest(&tree, [], 7, 6 * MIB), 7);
}

/// Timelines, each with a fork of an older one.
fn trees() -> impl Strategy<Value = (Tree, u32)> {
    proptest::collection::vec((0..u32::MAX, 0..20 * MIB), 0..6).prop_map(|forks| {
        let mut histories: Vec<Vec<Fork>> = vec![Vec::new()];
        for (parent, at) in forks {
            let parent = parent as usize % histories.len();
            let mut history = histories[parent].clone();
            history.push(Fork { from: u32::try_from(parent).unwrap() + 1, at, is_promotion: true });
            histories.push(history);
        }
        let histories: Vec<(u32, History)> = (1..).zip(histories.into_iter().map(History)).collect();
        (Tree::new(histories.iter().map(|(timeline, history)| (*timeline, history))), histories.len() as u32)
    })
}

/// As PostgreSQL's loop is written, for one segment that all timelines have.
fn postgres_reads(legs: &[Leg], number: u64) -> u32 {
    for leg in legs {
        if leg.begin != 0 && number < leg.begin / MIB {
            continue;
        }
        return leg.timeline;
    }
    panic!("the first timeline has no beginning")
}

proptest! {
    #[test]
    fn a_whole_archive_is_read_as_postgres_reads_it((tree, count) in trees(), to in 0_u32..6, from in 0_u64..20) {
        let to = to % count + 1;
        let all: Vec<(u32, u64)> = (1..=count).flat_map(|t| (0..=22).map(move |number| (t, number))).collect();
        let legs = way(&tree, to);
        let start = Point { timeline: 1, position: from * MIB };
        let chain = Chain::follow(start, to, &tree, &held(&all), SIZE);
        prop_assert_eq!((chain.reach, chain.gap), (23 * MIB, None));
        prop_assert_eq!(chain.segments.len() as u64, 23 - from);
        for (number, segment) in (from..).zip(&chain.segments) {
            prop_assert_eq!(segment.start(SIZE), Some(number * MIB));
            prop_assert_eq!(segment.timeline, postgres_reads(&legs, number));
        }
    }

    #[test]
    fn without_one_segment_the_way_ends_there((tree, count) in trees(), to in 0_u32..6, gone in 3_u64..22) {
        let to = to % count + 1;
        let all: Vec<(u32, u64)> = (1..=count).flat_map(|t| (0..=22).map(move |number| (t, number))).collect();
        let start = Point { timeline: 1, position: 0 };
        let mut stored = held(&all);
        let whole = Chain::follow(start, to, &tree, &stored, SIZE);
        let lost = whole.segments[usize::try_from(gone).unwrap()];
        stored.remove(&lost);
        let chain = Chain::follow(start, to, &tree, &stored, SIZE);
        prop_assert_eq!(chain.reach, gone * MIB);
        prop_assert_eq!(chain.gap.map(|gap| gap.missing), Some(lost));
        prop_assert!(whole.segments.starts_with(&chain.segments));
    }
}
