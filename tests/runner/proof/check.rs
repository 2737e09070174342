//! What must hold of a history; pure, so that it can be shown to fail.

use std::collections::HashSet;
use std::time::Duration;

use super::history::{Commit, History};

/// An acknowledged row that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub commit: Commit,
    /// Whether status said SyncDegraded when it was acknowledged.
    pub degraded: bool,
}

/// Two members whose times of accepting writes touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Double {
    pub one: (u32, String),
    pub other: (u32, String),
    /// From when to when both were seen to accept, as far as can be told.
    pub from: Duration,
    pub to: Duration,
    /// Whether it is certain: each accepted a write that was sent after the other had accepted one. Otherwise the
    /// answers of one are merely too late to tell.
    pub certain: bool,
}

/// The acknowledged rows from `since[writer]` on that are not among those found.
///
/// `told` must have been taken before `found` was read: a row acknowledged meanwhile may be in neither.
pub fn lost(
    history: &History,
    told: usize,
    beyond: &dyn Fn(u32) -> u64,
    found: &HashSet<(u32, u64)>,
) -> Vec<Lost> {
    let rows = history.rows[..told].iter();
    let missing = rows.filter(|row| row.n > beyond(row.writer) && !found.contains(&(row.writer, row.n)));
    missing.map(|row| Lost { commit: row.clone(), degraded: history.is_degraded_at(row.acked) }).collect()
}

/// Pairs of members that may have accepted writes at the same time.
///
/// A commit happens somewhere between its being sent and its being acknowledged. So a member is taken to accept writes
/// from the sending of its first to the acknowledgement of its last on that timeline, which is longer than it did.
pub fn doubles(history: &History) -> Vec<Double> {
    let reigns: Vec<_> = history.reigns.iter().collect();
    let mut doubles = Vec::new();
    for (index, (one, a)) in reigns.iter().enumerate() {
        for (other, b) in &reigns[index + 1..] {
            if one.1 == other.1 || a.last_acked < b.first_sent || b.last_acked < a.first_sent {
                continue;
            }
            doubles.push(Double {
                one: (*one).clone(),
                other: (*other).clone(),
                from: a.first_acked.max(b.first_acked),
                to: a.last_acked.min(b.last_acked),
                certain: b.first_acked < a.last_sent && a.first_acked < b.last_sent,
            });
        }
    }
    doubles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn commit(n: u64, member: &str, timeline: u32, sent: u64) -> Commit {
        Commit { writer: 1, n, sent: at(sent), acked: at(sent + 10), member: member.to_owned(), timeline }
    }

    fn history(commits: &[Commit]) -> History {
        let mut history = History::default();
        commits.iter().for_each(|commit| history.acknowledge(commit.clone()));
        history
    }

    /// `a`, then `b`, then `a` again: nothing is wrong with that.
    fn orderly() -> Vec<Commit> {
        vec![
            commit(1, "a", 1, 0),
            commit(2, "a", 1, 100),
            commit(3, "b", 2, 1000),
            commit(4, "b", 2, 1100),
            commit(5, "a", 3, 2000),
        ]
    }

    #[test]
    fn members_that_follow_each_other_are_no_doubles() {
        assert_eq!(doubles(&history(&orderly())), vec![]);
        let restarted = [commit(1, "a", 1, 0), commit(2, "a", 2, 0)];
        assert_eq!(doubles(&history(&restarted)), vec![], "a member is no rival of itself");
    }

    #[test]
    fn a_former_primary_that_still_accepts_is_a_double() {
        // The last is merely answered too late to tell.
        for (late, certain) in [(1050, true), (1500, true), (995, false)] {
            let mut commits = orderly();
            commits.push(commit(9, "a", 1, late));
            let found = doubles(&history(&commits));
            assert!(found.len() == 1 && found[0].certain == certain, "{late}: {found:?}");
        }
    }

    #[test]
    fn two_on_one_timeline_are_doubles() {
        let commits =
            [commit(1, "a", 2, 0), commit(2, "b", 2, 5), commit(3, "a", 2, 50), commit(4, "b", 2, 60)];
        let found = doubles(&history(&commits));
        assert!(
            found.len() == 1 && found[0].certain && (found[0].from, found[0].to) == (at(15), at(60)),
            "{found:?}"
        );
    }

    #[test]
    fn a_write_accepted_outside_the_service_counts_too() {
        let mut history = history(&orderly());
        history.accepted(&commit(0, "c", 1, 1050));
        assert_eq!(doubles(&history).len(), 1, "{:?}", doubles(&history));
        assert_eq!(history.rows.len(), 5, "and is no row");
    }

    #[test]
    fn a_missing_row_is_lost_unless_it_was_never_acknowledged() {
        let mut history = history(&orderly());
        history.degraded = vec![(at(0), false), (at(1050), true), (at(1900), false), (at(2500), false)];
        let all: HashSet<_> = (1..=5).map(|n| (1, n)).collect();
        let everything = |_: u32| 0;
        assert_eq!(lost(&history, 5, &everything, &all), vec![]);
        // A row nobody was told of may be there.
        let more: HashSet<_> = (1..=9).map(|n| (1, n)).collect();
        assert_eq!(lost(&history, 5, &everything, &more), vec![]);
        let without = |gone: &[u64]| all.iter().filter(|(_, n)| !gone.contains(n)).copied().collect();
        let found = lost(&history, 5, &everything, &without(&[2, 4]));
        let told: Vec<(u64, bool)> = found.iter().map(|lost| (lost.commit.n, lost.degraded)).collect();
        assert_eq!(told, [(2, false), (4, true)]);
        // Acknowledged after the count was taken, or looked at before.
        assert_eq!(lost(&history, 4, &everything, &without(&[5])), vec![]);
        assert_eq!(lost(&history, 5, &|_| 2, &without(&[2])), vec![]);
        // Another writer's row of that number is another row.
        assert_eq!(lost(&history, 1, &everything, &HashSet::from([(2, 1)])).len(), 1);
    }

    #[test]
    fn the_longest_gap_reaches_over_the_ends_of_a_window() {
        let history = history(&orderly());
        assert_eq!(history.longest_gap(at(500), at(600)), (at(900), at(110)));
        assert_eq!(history.longest_gap(at(0), at(3000)), (at(990), at(2010)));
        assert_eq!(history.longest_gap(at(1000), at(1050)), (at(900), at(110)));
        assert_eq!(History::default().longest_gap(at(10), at(30)), (at(20), at(10)));
    }

    #[test]
    fn a_handover_tells_the_last_and_the_first() {
        let history = history(&orderly());
        let found = history.handovers(at(0));
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].from.as_str(), found[0].to.as_str()), ("a", "b"));
        assert_eq!((found[0].last, found[0].first, found[0].timeline), (at(110), at(1010), 2));
        assert_eq!(history.handovers(at(1500)).len(), 1);
    }
}
