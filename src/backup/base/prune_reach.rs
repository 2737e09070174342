//! What a backup can be restored to, as PostgreSQL's `XLogFileReadAnyTLI` goes about it, from names of files alone: for each
//! segment the newest timeline on the way that had begun by then and whose file is there, as far as that file holds what belongs
//! to the way. Nothing of `retention`, `timeline` or `chain` is used.

use std::collections::BTreeSet;

use crate::backup::base::BackupId;

/// Positions are counted in thirds of a segment, so that forks fall into segments and onto their borders.
pub const UNITS: u64 = 3;

/// A timeline: which one it left, at which unit it begins, and to where it has been written.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub parent: Option<usize>,
    pub begin: u64,
    pub end: u64,
}

/// A base backup: on which timeline, and its units.
#[derive(Clone, Debug)]
pub struct Base {
    pub id: BackupId,
    pub line: usize,
    pub start: u64,
    pub stop: u64,
}

/// The names of files: timeline, from 0, and number of the segment.
pub type Files = BTreeSet<(usize, u64)>;

/// All timelines of a cluster.
#[derive(Clone, Debug)]
pub struct Lines(pub Vec<Line>);

impl Lines {
    /// The timelines on the way to one, oldest first.
    pub fn way(&self, to: usize) -> Vec<usize> {
        let mut way: Vec<usize> = std::iter::successors(Some(to), |line| self.0[*line].parent).collect();
        way.reverse();
        way
    }

    /// Up to where a backup can be restored along that timeline, where the archive has those files; none where it cannot.
    pub fn reach(&self, base: &Base, to: usize, files: &Files) -> Option<u64> {
        let way = self.way(to);
        let on = way.iter().position(|line| *line == base.line)?;
        // Whatever is younger on the way holds what follows its own beginning.
        let leaves = |at: usize| way[at + 1..].iter().map(|line| self.0[*line].begin).min();
        if leaves(on).is_some_and(|fork| fork < base.stop) {
            return None;
        }
        let mut reached = base.start;
        for segment in base.start / UNITS.. {
            let newest_first = (0..way.len()).rev();
            let mut eligible = newest_first.filter(|at| self.0[way[*at]].begin / UNITS <= segment);
            let Some(file) = eligible.find(|at| files.contains(&(way[*at], segment))) else { break };
            let whole = (segment + 1) * UNITS;
            let until = leaves(file).map_or(whole, |fork| fork.min(whole)).min(self.0[to].end);
            reached = reached.max(until);
            if until < whole {
                break;
            }
        }
        (reached >= base.stop).then_some(reached)
    }
}
