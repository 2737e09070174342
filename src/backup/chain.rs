//! Which segments a recovery reads, and how far they reach. Pure.
//!
//! As PostgreSQL's `XLogFileReadAnyTLI`: on the way to a timeline, each segment comes from the newest timeline that began in it
//! or before it. PostgreSQL would fall back to an older timeline's segment where that one is missing, and replay what later
//! turned out not to have happened; so here the way ends there.

use std::collections::BTreeMap;

use super::server::Point;
use super::timeline::Tree;
use super::wal::{Segment, SegmentSize, position_text};

/// A timeline on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Which.
    pub timeline: u32,
    /// Its first byte; 0 for the first one, and for one of which no history tells.
    pub begin: u64,
}

/// The way to a timeline, newest first.
pub fn way(tree: &Tree, to: u32) -> Vec<Leg> {
    let mut legs = Vec::new();
    let mut timeline = to;
    // Parents are older, so this ends.
    while let Some(fork) = tree.parent(timeline) {
        legs.push(Leg { timeline, begin: fork.at });
        timeline = fork.from;
    }
    legs.push(Leg { timeline, begin: 0 });
    legs
}

/// Up to where a backup's timeline goes on the way to another: `Some(None)` without end, `None` where it is not on the way.
/// A recovery may have ended before an older fork, so the nearest of all later forks counts.
fn leaves(tree: &Tree, from: u32, to: u32) -> Option<Option<u64>> {
    let legs = way(tree, to);
    let at = legs.iter().position(|leg| leg.timeline == from)?;
    Some(legs.iter().take(at).map(|leg| leg.begin).min())
}

/// Whether a recovery from a backup of that timeline with that stop position can go along the other timeline.
pub fn is_reachable(tree: &Tree, from: u32, stop: u64, to: u32) -> bool {
    leaves(tree, from, to).is_some_and(|end| end.is_none_or(|end| stop <= end))
}

/// The newest timeline that can be reached, of those that are known. It is what PostgreSQL means by `latest`, but for those
/// that it would only find out to lead elsewhere.
pub fn newest(tree: &Tree, known: impl IntoIterator<Item = u32>, from: u32, stop: u64) -> u32 {
    let reachable = known.into_iter().filter(|timeline| is_reachable(tree, from, stop, *timeline));
    reachable.max().unwrap_or(from).max(from)
}

/// A segment that is not there, although later ones are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first that is missing.
    pub missing: Segment,
    /// Where the recovery stops for it, in bytes.
    pub at: u64,
    /// The next one that is there.
    pub resumes: Segment,
}

/// What a recovery finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The segments, in order and without a gap.
    pub segments: Vec<Segment>,
    /// The first byte that is not there.
    pub reach: u64,
    /// The first gap.
    pub gap: Option<Gap>,
}

impl Chain {
    /// Follows the WAL from where recovery begins. `held`: the segments that are stored, of all timelines.
    pub fn follow<T>(
        start: Point,
        to: u32,
        tree: &Tree,
        held: &BTreeMap<Segment, T>,
        size: SegmentSize,
    ) -> Self {
        let legs = way(tree, to);
        // Positions are compared on one timeline, whatever it is.
        let on = |segment: Segment| segment.on(1);
        let of = |segment: Segment| {
            let leg = legs.iter().find(|leg| on(Segment::of(1, leg.begin, size)) <= on(segment));
            segment.on(leg.map_or(to, |leg| leg.timeline))
        };
        let mut chain = Self { segments: Vec::new(), reach: 0, gap: None };
        let mut next = Some(Segment::of(start.timeline, start.position, size));
        while let Some(segment) = next.map(of) {
            if !held.contains_key(&segment) {
                chain.reach = segment.start(size).unwrap_or(u64::MAX);
                let later = |found: &&Segment| on(**found) > on(segment) && of(**found) == **found;
                let resumes = held.keys().filter(later).min_by_key(|found| on(**found));
                chain.gap =
                    resumes.map(|resumes| Gap { missing: segment, at: chain.reach, resumes: *resumes });
                return chain;
            }
            chain.segments.push(segment);
            next = segment.next(size);
        }
        chain.reach = u64::MAX;
        chain
    }

    /// The last segment.
    pub fn last(&self) -> Option<Segment> {
        self.segments.last().copied()
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { missing, at, resumes } = self;
        write!(f, "{missing} is missing, at {}, and the WAL goes on with {resumes}", position_text(*at))
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
