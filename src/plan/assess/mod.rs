//! Who may be primary: what each member has, what it lacks, and what would be lost if it were promoted.
//!
//! Patroni makes such checks itself in its own elections and, for the most part, in a switchover. It makes none for a
//! member that is named where nobody leads: so they are made here, and what is shown before somebody decides is what the
//! controller decides by.

mod choose;
mod fitness;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeSet;

use jiff::Timestamp;

pub use choose::{Move, Refusal};
pub use words::{Loss, Unfit, size};

use super::Observed;
use super::object::{LockAge, terminating};
use super::text::text;
use super::view::{Member, View};
use crate::patroni::Answer;

/// What there is to choose from.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// The holder of the leader lock; `None` while it is free.
    pub primary: Option<Primary>,
    /// The other members, by ordinal.
    pub candidates: Vec<Candidate>,
    /// Commits wait for replicas, as Patroni is configured.
    pub synchronous: bool,
    /// They should, and there is none that they wait for: commits exist on the primary alone.
    pub degraded: bool,
    /// The database has been made.
    pub made: bool,
    /// Patroni has been told to take its hands off.
    pub paused: bool,
    /// The lock is held, and has been renewed within its ttl.
    pub lock_alive: bool,
    /// Members that do not hold the lock and say that they run as primary.
    pub claimants: Vec<String>,
    /// A change of primary that Patroni has been asked for already: from whom, to whom.
    pub pending: Option<(Option<String>, Option<String>)>,
    /// The newest timeline that anything tells of.
    pub timeline: Option<i64>,
}

/// The holder of the leader lock.
#[derive(Clone, Debug, PartialEq)]
pub struct Primary {
    /// Its name.
    pub name: String,
    /// The node that it is on.
    pub node: Option<String>,
    /// That node takes no further pods.
    pub cordoned: bool,
    /// Why it cannot be taken for a healthy primary, as the rest of a sentence that begins with its name; `None` where it
    /// runs as primary and answers.
    pub problem: Option<String>,
    /// Its Patroni answers, whatever its PostgreSQL does.
    pub reachable: bool,
    /// It is on its way out of the role, or into it: by itself.
    pub moving: bool,
    /// Its timeline.
    pub timeline: Option<i64>,
    /// Where its WAL ends, as it said itself; else where it ended when the lock was last renewed.
    pub position: Option<i64>,
}

/// A member that might be primary.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// The number at the end of it.
    pub ordinal: i32,
    /// The node that it is on.
    pub node: Option<String>,
    /// That node takes no further pods.
    pub cordoned: bool,
    /// Its timeline.
    pub timeline: Option<i64>,
    /// Patroni's word for its state: `streaming`, `running`, `starting`, …
    pub state: String,
    /// It streams from the primary.
    pub streaming: bool,
    /// Commits wait for it, among others.
    pub listed: bool,
    /// Where its WAL ends.
    pub position: Option<i64>,
    /// How much of the primary's WAL it lacks, in bytes.
    pub lag_bytes: Option<i64>,
    /// How old the last commit is that it has replayed, in seconds; 0 where it lacks nothing. At most so far behind.
    pub lag_seconds: Option<i64>,
    /// Why it may not be primary.
    pub unfit: Option<Unfit>,
    /// What is lost if it is.
    pub loss: Loss,
}

/// What there is to choose from in the Database of that name.
pub fn assess(name: &str, observed: &Observed, now: Timestamp) -> Assessment {
    of(&View::new(name, observed), observed, now)
}

/// [`assess`], for what has been read already.
pub(super) fn of(view: &View<'_>, observed: &Observed, now: Timestamp) -> Assessment {
    let holder = view.lock.holder.as_deref();
    let others = || view.members.iter().filter(|member| holder != Some(member.name));
    let synchronous = view.config.is_synchronous();
    let mut assessment = Assessment {
        primary: holder.map(|name| primary(view, observed, name)),
        candidates: others().map(|member| candidate(view, observed, member, now)).collect(),
        synchronous,
        degraded: synchronous && view.members.len() > 1 && view.sync.standbys.is_empty(),
        made: view.initialized(),
        paused: paused(view),
        lock_alive: holder.is_some() && view.lock_age == LockAge::Fresh,
        claimants: others()
            .filter(|member| member.answer.is_some_and(Answer::is_running_primary))
            .map(|member| member.name.to_owned())
            .collect(),
        pending: pending(view),
        timeline: None,
    };
    assessment.timeline = newest_timeline(view, &assessment);
    fitness::judge(&mut assessment, view);
    assessment
}

fn paused(view: &View<'_>) -> bool {
    view.config.config.as_ref().is_some_and(|config| config.get("pause") == Some(&true.into()))
}

fn pending(view: &View<'_>) -> Option<(Option<String>, Option<String>)> {
    let pending = &view.pending;
    let asked = pending.leader.is_some() || pending.candidate.is_some();
    asked.then(|| (pending.leader.clone(), pending.candidate.clone()))
}

fn node(observed: &Observed, member: &Member<'_>) -> (Option<String>, bool) {
    let node = text(member.pod, "/spec/nodeName").map(str::to_owned);
    let cordoned =
        node.as_ref().and_then(|node| observed.nodes.get(node)).is_some_and(|state| state.cordoned);
    (node, cordoned)
}

fn primary(view: &View<'_>, observed: &Observed, name: &str) -> Primary {
    let member = view.member(name);
    let answer = member.and_then(|member| member.answer);
    let (node, cordoned) = member.map(|member| node(observed, member)).unwrap_or_default();
    let silent = observed.silent.contains_key(name);
    let stopping = member.is_some_and(|member| terminating(member.pod));
    let runs = view.running_primary().is_some() && !silent;
    Primary {
        name: name.to_owned(),
        node,
        cordoned,
        problem: if runs && !stopping { None } else { Some(problem(member, silent, view.lock_age)) },
        reachable: answer.is_some(),
        moving: stopping || answer.is_some_and(Answer::is_running_replica),
        timeline: member.and_then(Member::timeline),
        position: answer.and_then(|answer| answer.xlog.location).or(view.lock.optime),
    }
}

/// What the holder of the lock lacks.
fn problem(member: Option<&Member<'_>>, silent: bool, age: LockAge) -> String {
    let Some(member) = member else { return "has no pod any more".to_owned() };
    if terminating(member.pod) {
        return "is stopping".to_owned();
    }
    if let Some(waiting) = member.waiting() {
        return format!("has no running container ({waiting})");
    }
    match member.answer {
        Some(answer) if answer.is_running_replica() => "is being promoted".to_owned(),
        Some(answer) => format!("is {}", answer.state),
        None if age == LockAge::Expired => "does not answer and does not renew the leader lock".to_owned(),
        None if silent => "does not answer".to_owned(),
        None => "does not run as primary".to_owned(),
    }
}

/// What a member has. What it lacks is judged when all are known.
fn candidate(view: &View<'_>, observed: &Observed, member: &Member<'_>, now: Timestamp) -> Candidate {
    let (node, cordoned) = node(observed, member);
    let position = position(member);
    let holder = view.holder().and_then(|holder| holder.answer);
    let end = holder.and_then(|answer| answer.xlog.location).or(view.lock.optime);
    let lag_bytes = end.zip(position).map(|(end, own)| end.saturating_sub(own).max(0));
    Candidate {
        name: member.name.to_owned(),
        ordinal: member.ordinal,
        node,
        cordoned,
        timeline: member.timeline().filter(|timeline| *timeline > 0),
        state: fitness::state(member, observed.silent.contains_key(member.name)),
        streaming: streams(member) && !observed.silent.contains_key(member.name),
        listed: view.sync.standbys.contains(member.name),
        position,
        lag_bytes,
        lag_seconds: lag_seconds(member, end, now),
        unfit: fitness::absent(member, observed.silent.contains_key(member.name)),
        loss: Loss::Unknown,
    }
}

/// Where a replica's WAL ends: what it has received, or replayed from elsewhere.
fn position(member: &Member<'_>) -> Option<i64> {
    let known = match (member.answer, &member.status) {
        (Some(answer), _) => [answer.xlog.received_location, answer.xlog.replayed_location, None],
        (None, Some(status)) => [status.receive_lsn, status.replay_lsn, status.xlog_location],
        (None, None) => [None; 3],
    };
    known.into_iter().flatten().filter(|position| *position > 0).max()
}

fn replayed(member: &Member<'_>) -> Option<i64> {
    match (member.answer, &member.status) {
        (Some(answer), _) => answer.xlog.replayed_location,
        (None, Some(status)) => status.replay_lsn,
        (None, None) => None,
    }
}

fn streams(member: &Member<'_>) -> bool {
    match member.answer {
        Some(answer) => {
            answer.is_running_replica() && answer.replication_state.as_deref() == Some("streaming")
        }
        None => member.is_streaming_replica(),
    }
}

fn lag_seconds(member: &Member<'_>, end: Option<i64>, now: Timestamp) -> Option<i64> {
    if replayed(member)? >= end? {
        return Some(0);
    }
    let at: Timestamp = member.answer?.xlog.replayed_timestamp.as_deref()?.parse().ok()?;
    Some(now.duration_since(at).as_secs().max(0))
}

/// By Patroni's record, and by what members say: a primary that has just been promoted may not have written it yet.
fn newest_timeline(view: &View<'_>, assessment: &Assessment) -> Option<i64> {
    let recorded = view.config.history.last().map(|end| end.timeline + 1);
    let leads = assessment.primary.as_ref().and_then(|primary| primary.timeline);
    let others = assessment.candidates.iter().filter_map(|candidate| candidate.timeline);
    others.chain(recorded).chain(leads).max()
}

impl Assessment {
    /// The primary, if it runs as such and answers.
    pub fn healthy_primary(&self) -> Option<&Primary> {
        self.primary.as_ref().filter(|primary| primary.problem.is_none())
    }

    /// The candidate of that name.
    pub fn candidate(&self, name: &str) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.name == name)
    }

    /// The members, by name.
    pub fn members(&self) -> BTreeSet<&str> {
        let others = self.candidates.iter().map(|candidate| candidate.name.as_str());
        others.chain(self.primary.iter().map(|primary| primary.name.as_str())).collect()
    }

    /// With so many members asked for: those from there on are about to be removed, and none of them is to be primary.
    #[must_use]
    pub fn with_replicas(mut self, replicas: i32) -> Self {
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.ordinal >= replicas) {
            candidate.unfit = Some(Unfit::Leaving);
        }
        self
    }

    /// The fittest: not on a node that is about to be drained, then the one that loses least, lags least, and is lowest.
    pub fn best(&self) -> Option<&Candidate> {
        self.candidates.iter().filter(|candidate| candidate.unfit.is_none()).min_by_key(|candidate| {
            (
                candidate.loss != Loss::Nothing,
                candidate.cordoned,
                candidate.lag_bytes.unwrap_or(i64::MAX),
                candidate.ordinal,
            )
        })
    }
}
