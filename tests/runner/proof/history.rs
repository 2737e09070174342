//! What clients were told, and when; pure. All instants are of one clock, the harness's own, counted from its start.

use std::collections::BTreeMap;
use std::time::Duration;

/// How much later than a thing a status that tells of it may be seen.
const SOON: Duration = Duration::from_millis(500);

/// A commit that a client was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Who wrote.
    pub writer: u32,
    /// Which of its rows.
    pub n: u64,
    /// When it was asked for.
    pub sent: Duration,
    /// When the client was told.
    pub acked: Duration,
    /// Who told.
    pub member: String,
    /// On which timeline the member wrote it.
    pub timeline: u32,
}

/// What one member was seen to accept on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    pub first_sent: Duration,
    pub first_acked: Duration,
    pub last_sent: Duration,
    pub last_acked: Duration,
    /// The first acknowledgement through the Service: with `synchronous`, that a standby confirmed.
    pub first_row: Option<Duration>,
    pub commits: u64,
}

/// A change from one member to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    pub from: String,
    pub to: String,
    /// The former's last acknowledgement.
    pub last: Duration,
    /// The next one's first acknowledgement, and when that was asked for.
    pub first: Duration,
    pub first_sent: Duration,
    /// When the next one first acknowledged a row through the Service.
    pub first_row: Option<Duration>,
    pub timeline: u32,
}

/// Everything that clients saw of one cluster.
#[derive(Debug, Default)]
pub struct History {
    /// Rows acknowledged through the write Service, in the order in which the answers came.
    pub rows: Vec<Commit>,
    /// Attempts without a known outcome, when and what was said: the row may be there or not.
    pub unknown: Vec<(Duration, String)>,
    /// Connections that were not had, when and why.
    pub refused: Vec<(Duration, String)>,
    /// Acknowledgements that came with a warning that no standby confirmed them: not counted as acknowledged.
    pub unconfirmed: u64,
    /// Who accepted writes, whoever asked.
    pub reigns: BTreeMap<(u32, String), Reign>,
    /// When it was seen whether status said SyncDegraded, in order.
    pub degraded: Vec<(Duration, bool)>,
}

impl History {
    /// A row acknowledged through the Service.
    pub fn acknowledge(&mut self, commit: Commit) {
        let reign = self.accepted(&commit);
        reign.first_row = reign.first_row.or(Some(commit.acked));
        self.rows.push(commit);
    }

    /// A write that a member accepted, which need not be safe: it shows only who accepts writes.
    pub fn accepted(&mut self, commit: &Commit) -> &mut Reign {
        let reign = Reign {
            first_sent: commit.sent,
            first_acked: commit.acked,
            last_sent: commit.sent,
            last_acked: commit.acked,
            first_row: None,
            commits: 0,
        };
        let reign = self.reigns.entry((commit.timeline, commit.member.clone())).or_insert(reign);
        reign.first_sent = reign.first_sent.min(commit.sent);
        reign.first_acked = reign.first_acked.min(commit.acked);
        reign.last_sent = reign.last_sent.max(commit.sent);
        reign.last_acked = reign.last_acked.max(commit.acked);
        reign.commits += 1;
        reign
    }

    /// The longest time without an acknowledgement through the Service between those instants, and when it began.
    pub fn longest_gap(&self, from: Duration, to: Duration) -> (Duration, Duration) {
        // Answers are noted in the order in which they come, give or take a thread's turn.
        let slack = Duration::from_secs(5);
        let begin = self.rows.partition_point(|row| row.acked + slack < from);
        let mut instants: Vec<Duration> = self.rows[begin..].iter().map(|row| row.acked).collect();
        instants.sort();
        let before = instants.iter().rev().find(|at| **at <= from).copied().unwrap_or(from);
        let within = instants.iter().copied().filter(|at| (from..=to).contains(at));
        let after = instants.iter().find(|at| **at > to).copied().unwrap_or(to);
        let marks: Vec<Duration> = std::iter::once(before).chain(within).chain(Some(after)).collect();
        let gaps = marks.windows(2).map(|pair| (pair[1].saturating_sub(pair[0]), pair[0]));
        gaps.max().unwrap_or((Duration::ZERO, from))
    }

    /// What writers were told instead of an acknowledgement since then, and how often.
    pub fn told(&self, since: Duration) -> BTreeMap<String, usize> {
        let mut told = BTreeMap::new();
        for (kind, list) in [("connect", &self.refused), ("write", &self.unknown)] {
            let begin = list.partition_point(|(at, _)| *at < since);
            for (_, why) in &list[begin..] {
                *told.entry(format!("{kind}: {why}")).or_default() += 1;
            }
        }
        told
    }

    /// Each change of member since then, in order of the timelines.
    pub fn handovers(&self, since: Duration) -> Vec<Handover> {
        let mut reigns: Vec<_> = self.reigns.iter().collect();
        reigns.sort_by_key(|(_, reign)| reign.first_acked);
        let pairs =
            reigns.windows(2).filter(|pair| pair[1].1.first_acked >= since && pair[0].0.1 != pair[1].0.1);
        pairs
            .map(|pair| Handover {
                from: pair[0].0.1.clone(),
                to: pair[1].0.1.clone(),
                last: pair[0].1.last_acked,
                first: pair[1].1.first_acked,
                first_sent: pair[1].1.first_sent,
                first_row: pair[1].1.first_row,
                timeline: pair[1].0.0,
            })
            .collect()
    }

    /// Whether status said SyncDegraded at that instant, or at a look soon after it: a status is written later than what it
    /// tells of.
    pub fn is_degraded_at(&self, at: Duration) -> bool {
        let next = self.degraded.partition_point(|(seen, _)| *seen <= at);
        let before = next.checked_sub(1).and_then(|last| self.degraded.get(last));
        let after = self.degraded.get(next).filter(|(seen, _)| *seen <= at + SOON);
        [before, after].into_iter().flatten().any(|(_, degraded)| *degraded)
    }
}
