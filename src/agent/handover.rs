//! When a primary that was shut down in order may give up the leader lock. Pure.
//!
//! Patroni gives it up too, but only after sleeps of a second or two. The conditions here are its own, and one more: the
//! members that count must have everything up to the checkpoint that the shutdown wrote, so nothing that was ever confirmed
//! can be missing from the next primary. Nobody is named: Patroni's election goes its way.

use std::collections::BTreeMap;

use super::control::{Control, Lsn};
use crate::patroni::{Answer, Lock, PendingFailover, Sync};

/// What is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// This member.
    pub name: String,
    /// The container was told to end, and with it Patroni.
    pub ending: bool,
    /// What Patroni here does, in its own word, where it says so.
    pub state: Option<String>,
    /// The leader lock.
    pub lock: Lock,
    /// The synchronous state.
    pub sync: Sync,
    /// A change of primary that was asked for.
    pub pending: PendingFailover,
    /// What the other members say; `None` where they do not answer.
    pub others: BTreeMap<String, Option<Answer>>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Give up the lock.
    Release,
    /// Not yet.
    Wait(String),
    /// Leave it to Patroni.
    Leave(&'static str),
}

/// Decides for a primary whose PostgreSQL has ended, with these last words.
pub fn decide(control: &Control, at: &Situation) -> Verdict {
    if !control.is_shut_down_primary() {
        return Verdict::Leave("PostgreSQL was not shut down in order");
    }
    if at.lock.holder.as_deref() != Some(at.name.as_str()) {
        return Verdict::Leave("the leader lock is not this member's");
    }
    if let Some(reason) = not_asked(at) {
        return Verdict::Leave(reason);
    }
    let enough = match &at.pending.candidate {
        // Patroni's election asks a named candidate for nothing else.
        Some(candidate) => fit(control, at, candidate),
        None => enough_voters(control, at),
    };
    match enough {
        Ok(()) => Verdict::Release,
        Err(reason) => Verdict::Wait(reason),
    }
}

/// A stop that is no handover, such as a restart, keeps the lock.
fn not_asked(at: &Situation) -> Option<&'static str> {
    match at.pending.leader.as_deref() {
        Some(leader) if leader != at.name => Some("the switchover that was asked for is another member's"),
        _ if at.ending => None,
        None => Some("nobody asked for a handover"),
        Some(_) => match at.state.as_deref() {
            Some("stopping" | "stopped") => None,
            _ => Some("Patroni did not stop PostgreSQL for the switchover"),
        },
    }
}

/// Whether that member has all of the primary's WAL.
fn fit(control: &Control, at: &Situation, member: &str) -> Result<(), String> {
    let Some(Some(answer)) = at.others.get(member) else {
        return Err(format!("{member} does not answer"));
    };
    if !answer.is_running_replica() {
        return Err(format!("{member} is not a running replica"));
    }
    if answer.timeline != Some(control.timeline) {
        return Err(format!("{member} is on another timeline"));
    }
    let has: Lsn = answer.xlog.received_location.max(answer.xlog.replayed_location).unwrap_or_default();
    if has < control.checkpoint {
        return Err(format!("{member} lacks {} bytes", control.checkpoint - has));
    }
    Ok(())
}

/// Enough members for Patroni's election: with a synchronous state, so many of its standbys that the one that stands can
/// hear from the quorum; otherwise one.
fn enough_voters(control: &Control, at: &Situation) -> Result<(), String> {
    let (voters, needed): (Vec<&String>, usize) = match at.sync.leader.as_deref() {
        None => (at.others.keys().collect(), 1),
        Some(leader) if leader == at.name => (at.sync.standbys.iter().collect(), at.sync.quorum + 1),
        Some(leader) => return Err(format!("the synchronous state is still {leader}'s")),
    };
    let unfit: Vec<String> = voters.iter().filter_map(|member| fit(control, at, member).err()).collect();
    if voters.len() - unfit.len() >= needed {
        return Ok(());
    }
    Err(if unfit.is_empty() { "there is nobody to hand over to".to_owned() } else { unfit.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patroni::Positions;

    fn control(state: &str) -> Control {
        Control { state: state.into(), timeline: 2, checkpoint: 1000 }
    }

    fn replica(received: i64) -> Option<Answer> {
        Some(Answer {
            role: "replica".into(),
            state: "running".into(),
            timeline: Some(2),
            xlog: Positions { received_location: Some(received), ..Positions::default() },
            ..Answer::default()
        })
    }

    /// Three members, of which both others have everything.
    fn ending() -> Situation {
        Situation {
            name: "d-0".into(),
            ending: true,
            lock: Lock { holder: Some("d-0".into()), ..Lock::default() },
            sync: Sync {
                leader: Some("d-0".into()),
                standbys: ["d-1".to_owned(), "d-2".to_owned()].into(),
                quorum: 1,
            },
            others: [("d-1".to_owned(), replica(1000)), ("d-2".to_owned(), replica(1120))].into(),
            ..Situation::default()
        }
    }

    fn switchover(candidate: Option<&str>) -> Situation {
        Situation {
            ending: false,
            state: Some("stopping".into()),
            pending: PendingFailover { leader: Some("d-0".into()), candidate: candidate.map(str::to_owned) },
            ..ending()
        }
    }

    fn changed(mut at: Situation, change: impl FnOnce(&mut Situation)) -> Situation {
        change(&mut at);
        at
    }

    fn says(at: &mut Situation, member: &str, change: impl FnOnce(&mut Answer)) {
        change(at.others.get_mut(member).unwrap().as_mut().unwrap());
    }

    #[test]
    fn the_lock_is_released_only_when_nothing_can_be_lost_and_somebody_can_be_elected() {
        let cases: Vec<(&str, Situation, &str)> = vec![
            ("both have all", ending(), ""),
            (
                "one of two, and a quorum of one more",
                changed(ending(), |at| says(at, "d-2", |a| a.xlog.received_location = Some(999))),
                "d-2 lacks 1 bytes",
            ),
            (
                "one of two, and no quorum beyond it",
                changed(ending(), |at| {
                    at.sync.quorum = 0;
                    at.others.insert("d-2".into(), None);
                }),
                "",
            ),
            (
                "what was replayed was received",
                changed(ending(), |at| {
                    says(at, "d-1", |a| {
                        (a.xlog.received_location, a.xlog.replayed_location) = (None, Some(1000));
                    });
                }),
                "",
            ),
            (
                "another timeline",
                changed(ending(), |at| says(at, "d-1", |a| a.timeline = Some(1))),
                "d-1 is on another timeline",
            ),
            (
                "no timeline",
                changed(ending(), |at| says(at, "d-1", |a| a.timeline = None)),
                "d-1 is on another timeline",
            ),
            (
                "a primary",
                changed(ending(), |at| says(at, "d-1", |a| a.role = "primary".into())),
                "d-1 is not a running replica",
            ),
            (
                "one that starts",
                changed(ending(), |at| says(at, "d-1", |a| a.state = "starting".into())),
                "d-1 is not a running replica",
            ),
            (
                "a standby that is gone",
                changed(ending(), |at| drop(at.others.remove("d-1"))),
                "d-1 does not answer",
            ),
            (
                "degraded: commits are here alone",
                changed(ending(), |at| {
                    at.sync.standbys.clear();
                    at.sync.quorum = 0;
                }),
                "there is nobody to hand over to",
            ),
            (
                "the one before wrote the synchronous state",
                changed(ending(), |at| at.sync.leader = Some("d-1".into())),
                "the synchronous state is still d-1's",
            ),
            (
                "asynchronous: one is enough",
                changed(ending(), |at| {
                    at.sync = Sync::default();
                    at.others.insert("d-2".into(), None);
                }),
                "",
            ),
            (
                "alone",
                Situation { others: BTreeMap::new(), sync: Sync::default(), ..ending() },
                "there is nobody to hand over to",
            ),
            ("the candidate has all", switchover(Some("d-1")), ""),
            (
                "the candidate has all, the other is gone",
                changed(switchover(Some("d-1")), |at| drop(at.others.insert("d-2".into(), None))),
                "",
            ),
            (
                "the candidate lags, the other has all",
                changed(switchover(Some("d-1")), |at| {
                    says(at, "d-1", |a| a.xlog.received_location = Some(0));
                }),
                "d-1 lacks 1000 bytes",
            ),
            ("a switchover to anybody", switchover(None), ""),
            (
                "the container ends in a switchover",
                Situation { ending: true, state: None, ..switchover(Some("d-2")) },
                "",
            ),
        ];
        for (about, at, reason) in cases {
            let expected = match reason {
                "" => Verdict::Release,
                reason => Verdict::Wait(reason.to_owned()),
            };
            assert_eq!(decide(&control("shut down"), &at), expected, "{about}");
        }
    }

    #[test]
    fn what_is_no_handover_is_left_to_patroni() {
        let left = |state: &str, at: &Situation| matches!(decide(&control(state), at), Verdict::Leave(_));
        for state in ["in production", "shut down in recovery", "shutting down", "in crash recovery"] {
            assert!(left(state, &ending()), "{state}");
        }
        let cases = [
            ("a restart", Situation { ending: false, ..ending() }),
            (
                "a restart while a switchover waits",
                Situation { state: Some("restarting".into()), ..switchover(None) },
            ),
            ("Patroni says nothing", Situation { state: None, ..switchover(None) }),
            ("the lock is free", changed(ending(), |at| at.lock.holder = None)),
            ("the lock is another's", changed(ending(), |at| at.lock.holder = Some("d-1".into()))),
            ("another's switchover", changed(ending(), |at| at.pending.leader = Some("d-2".into()))),
        ];
        for (about, at) in cases {
            assert!(left("shut down", &at), "{about}");
        }
    }
}
