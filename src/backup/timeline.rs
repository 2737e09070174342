//! The tree of timelines: each promotion and each point-in-time recovery opens a new one, at some point of an older one.

use std::collections::BTreeMap;

use super::wal::position;

/// Where one timeline ended and the next one on the way began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that was left.
    pub from: u32,
    /// The first byte that is no longer on it.
    pub at: u64,
    /// A replica was promoted. Otherwise a recovery reached its target, and what the timeline that was left has beyond it was
    /// given up.
    pub is_promotion: bool,
}

/// The reason that PostgreSQL's `getRecoveryStopReason` gives where no recovery ended early; it is never translated.
const PROMOTION: &str = "no recovery target specified";

/// How a timeline came to be: the content of `XXXXXXXX.history`, oldest fork first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(pub Vec<Fork>);

/// A history file that PostgreSQL did not write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read line {line} of the history of timeline {timeline}: {problem}")]
pub struct HistoryError {
    /// Whose history.
    pub timeline: u32,
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub problem: &'static str,
}

impl History {
    /// Reads the file: a line for each fork with timeline, position and reason, `#` for comments. As in PostgreSQL's
    /// `readTimeLineHistory`, timelines ascend; positions may go back, since a recovery may end before an older fork.
    ///
    /// # Errors
    /// Where a line is none of these.
    pub fn parse(timeline: u32, text: &str) -> Result<Self, HistoryError> {
        let mut forks: Vec<Fork> = Vec::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let wrong = |problem| HistoryError { timeline, line, problem };
            let mut words = content.split_whitespace();
            let from = words
                .next()
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| wrong("expected a timeline"))?;
            let at = words
                .next()
                .and_then(position)
                .ok_or_else(|| wrong("expected a WAL position, as 0/3000148"))?;
            if from == 0 || from >= timeline || forks.last().is_some_and(|last| last.from >= from) {
                return Err(wrong("expected timelines in ascending order, below its own"));
            }
            let is_promotion = words.eq(PROMOTION.split(' '));
            forks.push(Fork { from, at, is_promotion });
        }
        Ok(Self(forks))
    }
}

/// All timelines of one cluster that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Where each of them began; timeline 1 and those without a history have no entry.
    parents: BTreeMap<u32, Fork>,
}

impl Tree {
    /// Puts histories together. Each tells of all timelines on its way.
    pub fn new<'a>(histories: impl IntoIterator<Item = (u32, &'a History)>) -> Self {
        let mut parents = BTreeMap::new();
        for (timeline, History(forks)) in histories {
            let children = forks.iter().skip(1).map(|fork| fork.from).chain([timeline]);
            for (fork, child) in forks.iter().zip(children) {
                parents.insert(child, *fork);
            }
        }
        Self { parents }
    }

    /// Where that timeline left the one before it; `None` for the first, and for one of which nothing is known.
    pub fn parent(&self, timeline: u32) -> Option<Fork> {
        self.parents.get(&timeline).copied()
    }

    /// Up to where somebody on the way to `to` stays on `from`: `Some(None)` where that is the same timeline and has no
    /// end, `None` where the way does not lead over it.
    pub fn leaves(&self, from: u32, to: u32) -> Option<Option<u64>> {
        if from == to {
            return Some(None);
        }
        // Parents are older, so this ends.
        let mut at = to;
        while let Some(fork) = self.parent(at) {
            if fork.from == from {
                return Some(Some(fork.at));
            }
            at = fork.from;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIRD: &str =
        "1\t0/3000148\tno recovery target specified\n\n# a comment\n2\t1/A0\tbefore 2026-11-22\n";

    #[test]
    fn a_history_is_read() {
        let forks = vec![
            Fork { from: 1, at: 0x300_0148, is_promotion: true },
            Fork { from: 2, at: 0x1_0000_00A0, is_promotion: false },
        ];
        assert_eq!(History::parse(3, THIRD), Ok(History(forks)));
        assert_eq!(History::parse(2, ""), Ok(History(vec![])));
    }

    #[test]
    fn what_is_no_history_is_refused() {
        for (text, line, problem) in [
            ("x\t0/1\tr", 1, "expected a timeline"),
            ("1\t0/1\n2", 2, "expected a WAL position"),
            ("1\t0-1", 1, "expected a WAL position"),
            ("1\t0/+1", 1, "expected a WAL position"),
            ("1\t0/123456789", 1, "expected a WAL position"),
            ("2\t0/1\n1\t0/2", 2, "ascending"),
            ("3\t0/1", 1, "below its own"),
            ("0\t0/1", 1, "below its own"),
        ] {
            let error = History::parse(3, text).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(error.problem.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn the_way_to_a_timeline_leads_over_its_forebears() {
        let second = History::parse(2, "1\t0/100\tr").unwrap();
        let third = History::parse(3, "1\t0/80\tr").unwrap();
        let fourth = History::parse(4, "1\t0/100\tr\n2\t0/200\tr").unwrap();
        let tree = Tree::new([(2, &second), (3, &third), (4, &fourth)]);
        for (from, to, leaves) in [
            (1, 1, Some(None)),
            (1, 2, Some(Some(0x100))),
            (1, 3, Some(Some(0x80))),
            (1, 4, Some(Some(0x100))),
            (2, 4, Some(Some(0x200))),
            (2, 3, None),
            (3, 4, None),
            (4, 1, None),
            (9, 4, None),
        ] {
            assert_eq!(tree.leaves(from, to), leaves, "{from} to {to}");
        }
    }
}
