//! Who holds the Lease, from what is read and written of it. Pure: it knows no clock but the instants that it is given.
//!
//! Clocks of two machines are never compared: how old a holder's last sign of life is counts from when this process first saw
//! it. A holder counts its own time from before it sent the renewal, and gives up sooner than others may take over.

use std::time::Duration;

/// How long a holder may be silent, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// After so long without a sign of life, another may take over.
    pub lease: Duration,
    /// After so long without a renewal that succeeded, the holder gives up; well below `lease`, so that what it
    /// has sent by then has arrived.
    pub give_up: Duration,
    /// How often the holder renews.
    pub renew: Duration,
    /// How often one that failed to renews tries again, and how often one that waits looks.
    pub retry: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            give_up: Duration::from_secs(10),
            renew: Duration::from_secs(5),
            retry: Duration::from_secs(2),
        }
    }
}

/// What the Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty once it was given back.
    pub holder: String,
    /// How long its holder may be silent.
    pub lease: Duration,
    /// How often it changed hands.
    pub transitions: i32,
    /// The object's version.
    pub version: String,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again after that time.
    Wait(Duration),
    /// Create it.
    Create,
    /// Replace that version of it, as its holder.
    Take {
        /// What it replaces.
        version: String,
        /// How often it has changed hands then.
        transitions: i32,
        /// Whether it changes hands.
        anew: bool,
    },
    /// It is lost, or may be: act no more.
    Lost,
}

/// One candidate.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    terms: Terms,
    /// What was read or written last, and when it was first seen.
    seen: Option<(Record, Duration)>,
    /// Until when it may act.
    deadline: Option<Duration>,
}

impl Election {
    /// A candidate by a name that no other process ever has, one before it on this machine included.
    pub fn new(me: String, terms: Terms) -> Self {
        Self { me, terms, seen: None, deadline: None }
    }

    /// Until when it may act; `None` where it may not.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// It was read: this is what it says, if it is there. `sent` is from before it was asked for.
    pub fn read(&mut self, sent: Duration, record: Option<Record>, now: Duration) -> Step {
        let mine = record.as_ref().is_some_and(|record| record.holder == self.me);
        if self.deadline.is_some() && !mine {
            self.deadline = None;
            return Step::Lost;
        }
        match record {
            None => {
                self.seen = None;
                Step::Create
            }
            Some(record) => {
                // An answer may be older than what is known by now; what counts is when it was there for certain.
                if self.seen.as_ref().is_none_or(|(seen, _)| *seen != record) {
                    self.seen = Some((record, now.max(sent)));
                }
                self.step(now)
            }
        }
    }

    /// Its own write succeeded. `sent` is from before it was sent.
    pub fn wrote(&mut self, sent: Duration, record: Record, now: Duration) {
        // A frozen process may learn of its success when all is over.
        let deadline = sent + self.terms.give_up;
        self.deadline = (now < deadline).then_some(deadline);
        self.seen = Some((record, now));
    }

    /// What to do now, by what is known.
    pub fn step(&mut self, now: Duration) -> Step {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.deadline = None;
            return Step::Lost;
        }
        let Some((record, since)) = &self.seen else { return Step::Create };
        let take = |anew: bool| Step::Take {
            version: record.version.clone(),
            transitions: record.transitions.saturating_add(i32::from(anew)),
            anew,
        };
        // Its own from a write whose answer was lost: others count from when they saw it, so it is renewed before it counts.
        if record.holder == self.me {
            return take(false);
        }
        let silent = now.saturating_sub(*since);
        if record.holder.is_empty() || silent >= record.lease {
            return take(true);
        }
        Step::Wait(self.terms.retry.min(record.lease - silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn record(holder: &str, version: &str) -> Record {
        Record { holder: holder.to_owned(), lease: s(15), transitions: 3, version: version.to_owned() }
    }

    fn me() -> Election {
        Election::new("me".to_owned(), Terms::default())
    }

    #[test]
    fn what_is_not_there_is_created() {
        let mut election = me();
        assert_eq!(election.read(s(1), None, s(1)), Step::Create);
        election.wrote(s(1), record("me", "1"), s(2));
        assert_eq!(election.deadline(), Some(s(11)));
    }

    #[test]
    fn another_is_waited_for_from_when_it_was_seen() {
        let mut election = me();
        assert_eq!(election.read(s(100), Some(record("other", "1")), s(100)), Step::Wait(s(2)));
        assert_eq!(election.read(s(114), Some(record("other", "1")), s(114)), Step::Wait(s(1)));
        // It has renewed.
        assert_eq!(election.read(s(115), Some(record("other", "2")), s(115)), Step::Wait(s(2)));
        let take = Step::Take { version: "2".to_owned(), transitions: 4, anew: true };
        assert_eq!(election.read(s(130), Some(record("other", "2")), s(130)), take);
    }

    #[test]
    fn what_was_given_back_is_taken_at_once() {
        let take = Step::Take { version: "9".to_owned(), transitions: 4, anew: true };
        assert_eq!(me().read(s(1), Some(record("", "9")), s(1)), take);
    }

    #[test]
    fn it_is_lost_before_another_may_take_it() {
        let mut election = me();
        election.wrote(s(1), record("me", "1"), s(3));
        assert!(matches!(election.step(s(10)), Step::Take { anew: false, .. }));
        assert_eq!(election.step(s(11)), Step::Lost);
        assert_eq!(election.deadline(), None);
        // An answer that comes when it counts no more.
        election.wrote(s(1), record("me", "1"), s(20));
        assert_eq!(election.deadline(), None);
    }

    #[test]
    fn it_is_lost_when_another_has_it() {
        let mut election = me();
        election.wrote(s(1), record("me", "1"), s(1));
        assert_eq!(election.read(s(2), Some(record("other", "2")), s(2)), Step::Lost);
        let mut election = me();
        election.wrote(s(1), record("me", "1"), s(1));
        assert_eq!(election.read(s(2), None, s(2)), Step::Lost);
    }
}
