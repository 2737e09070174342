//! What a member lacks to be primary, and what would be lost.

use super::super::object::terminating;
use super::super::view::{Member, View};
use super::words::{Loss, Unfit};
use super::{Assessment, Candidate};

/// What Patroni compares a candidate's lag with where its configuration does not say.
const MAXIMUM_LAG: i64 = 1 << 20;
/// What a candidate has received but not replayed keeps writes waiting after its promotion: some seconds' worth.
const MAXIMUM_REPLAY: i64 = 64 << 20;

/// Patroni's words for a member whose data directory is not there yet.
const UNFILLED: [&str; 4] =
    ["creating replica", "initializing new cluster", "running custom bootstrap script", "uninitialized"];

/// Patroni's word for its state, or ours where it says nothing.
pub(super) fn state(member: &Member<'_>, silent: bool) -> String {
    if terminating(member.pod) {
        return "stopping".to_owned();
    }
    if silent {
        return "silent".to_owned();
    }
    let said = match (member.answer, &member.status) {
        (Some(answer), _) => Some((&answer.state, answer.replication_state.as_ref())),
        (None, Some(status)) => Some((&status.state, status.replication_state.as_ref())),
        (None, None) => None,
    };
    match said {
        Some((state, Some(streams))) if state == "running" => streams.clone(),
        Some((state, _)) => state.clone(),
        None => "starting".to_owned(),
    }
}

/// Why a member cannot be primary whatever the others do: it does not run.
pub(super) fn absent(member: &Member<'_>, silent: bool) -> Option<Unfit> {
    if terminating(member.pod) {
        return Some(Unfit::Stopping);
    }
    if let Some(waiting) = member.waiting() {
        return Some(Unfit::NotRunning(format!("has no running container ({waiting})")));
    }
    let said = match (member.answer, &member.status) {
        (Some(answer), _) => Some((answer.role.as_str(), answer.state.as_str())),
        (None, Some(status)) => Some((status.role.as_str(), status.state.as_str())),
        (None, None) => None,
    };
    // What it wrote before it fell silent may be long past.
    let said = said.filter(|(_, state)| !silent || UNFILLED.contains(state));
    match said {
        Some((_, state)) if UNFILLED.contains(&state) => Some(Unfit::NoData(format!("is {state}"))),
        _ if silent => Some(Unfit::Silent),
        Some((_, state)) if state != "running" => Some(Unfit::NotRunning(format!("is {state}"))),
        Some((role, _)) if role != "replica" => Some(Unfit::NotRunning(format!("runs as {role}"))),
        Some(_) if member.answer.is_none() && !member.ready() => {
            Some(Unfit::NotRunning("is not ready".to_owned()))
        }
        Some(_) => None,
        None => Some(Unfit::NotRunning("is starting".to_owned())),
    }
}

/// Judges every candidate that runs, now that all are known.
pub(super) fn judge(assessment: &mut Assessment, view: &View<'_>) {
    let led = assessment.healthy_primary().is_some();
    let verdicts: Vec<_> = assessment
        .candidates
        .iter()
        .map(|candidate| {
            let lacks = if led {
                to_take_over(assessment, view, candidate)
            } else {
                to_be_promoted(assessment, candidate)
            };
            let loss = if led { Loss::Nothing } else { loss(assessment, view, candidate) };
            (candidate.unfit.clone().or(lacks), loss)
        })
        .collect();
    for (candidate, (unfit, loss)) in assessment.candidates.iter_mut().zip(verdicts) {
        candidate.unfit = unfit;
        candidate.loss = loss;
    }
}

/// What it lacks to take over from a healthy primary, which then stops in good order: Patroni's own checks (all but the
/// first and the last), so that none of them fails later.
fn to_take_over(assessment: &Assessment, view: &View<'_>, candidate: &Candidate) -> Option<Unfit> {
    if !candidate.streaming {
        return Some(Unfit::NotStreaming);
    }
    let current = assessment.healthy_primary().and_then(|primary| primary.timeline).or(assessment.timeline);
    if let Some(current) = current.filter(|current| candidate.timeline != Some(*current)) {
        return Some(Unfit::OtherTimeline { own: candidate.timeline, current });
    }
    // Patroni lets only listed members follow as soon as its synchronous state names a leader.
    if assessment.synchronous && view.sync.leader.is_some() && !candidate.listed {
        return Some(Unfit::NotListed);
    }
    let limit =
        view.config.config.as_ref().and_then(|config| config.get("maximum_lag_on_failover")?.as_i64());
    // As Patroni, by what the primary had written when it last renewed: a busy one is always further by now.
    let lag = view.lock.optime.zip(candidate.position).map(|(end, own)| end.saturating_sub(own));
    match lag {
        Some(lag) if lag > limit.unwrap_or(MAXIMUM_LAG) => return Some(Unfit::Lagging { bytes: lag }),
        _ => {}
    }
    let replayed = view.member(&candidate.name).and_then(super::replayed);
    let unreplayed = candidate.position.zip(replayed).map(|(end, own)| end.saturating_sub(own));
    unreplayed.filter(|bytes| *bytes > MAXIMUM_REPLAY).map(|bytes| Unfit::Replaying { bytes })
}

/// What it lacks to be promoted where nobody leads. Patroni checks none of this for a member that is named.
fn to_be_promoted(assessment: &Assessment, candidate: &Candidate) -> Option<Unfit> {
    let Some(position) = candidate.position else {
        return Some(Unfit::NoData("does not say what it has".to_owned()));
    };
    if let Some(current) = assessment.timeline.filter(|current| candidate.timeline != Some(*current)) {
        return Some(Unfit::OtherTimeline { own: candidate.timeline, current });
    }
    let ahead = |other: &&Candidate| {
        other.unfit.is_none() && other.timeline == candidate.timeline && other.position > Some(position)
    };
    let better = assessment.candidates.iter().filter(ahead).max_by_key(|other| other.position)?;
    let bytes = better.position.unwrap_or(position) - position;
    Some(Unfit::Behind { better: better.name.clone(), bytes })
}

/// What is lost if it is promoted where nobody leads. Every commit that was acknowledged is on at least one of any
/// `quorum + 1` listed members: whoever is as far as that many of them, itself counted, has all of them.
fn loss(assessment: &Assessment, view: &View<'_>, candidate: &Candidate) -> Loss {
    let (sync, lock) = (&view.sync, &view.lock);
    let Some(position) = candidate.position else { return Loss::Unknown };
    let current = sync.leader.is_some() && (lock.holder.is_none() || lock.holder == sync.leader);
    let heard = |other: &&Candidate| {
        other.listed
            && other.unfit.is_none()
            && other.timeline == candidate.timeline
            && other.position.is_some_and(|other| other <= position)
    };
    let votes = assessment.candidates.iter().filter(heard).count();
    if assessment.synchronous && current && !sync.standbys.is_empty() && votes > sync.quorum {
        return Loss::Nothing;
    }
    Loss::After {
        primary: lock.holder.clone().or_else(|| sync.leader.clone()),
        seen: lock.renewed,
        missing: candidate.lag_bytes.unwrap_or(0),
    }
}
