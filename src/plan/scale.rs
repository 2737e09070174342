//! How many members there are to be now. Growing is simple; shrinking never takes the primary.

use super::assess::{Assessment, Candidate};
use super::context::Context;
use super::ownership::volumes;
use super::{Action, Ask, Kind};
use crate::api::{REPLICAS_MAX, reason};
use crate::patroni::{Lock, Sync};

/// What is to be done about the number of members.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// What the StatefulSet is to say now.
    pub replicas: i32,
    /// A switchover that must come first.
    pub switchover: Option<Action>,
    /// Why the spec's number must wait.
    pub waiting: Option<String>,
}

impl Scale {
    fn now(replicas: i32) -> Self {
        Self { replicas, switchover: None, waiting: None }
    }
}

/// The number of members that there are or are asked for, whichever is more. A hand may have told the StatefulSet any
/// number.
pub fn members(cx: &Context<'_>) -> i32 {
    cx.spec().replicas.max(current(cx).unwrap_or(0)).min(REPLICAS_MAX)
}

/// The number of members that commits may wait for: the last one to stay waits for nobody, from before the others go.
pub fn committing(cx: &Context<'_>) -> i32 {
    let last =
        cx.spec().replicas == 1 && cx.view.running_primary().is_some_and(|primary| primary.ordinal == 0);
    if last { 1 } else { members(cx) }
}

/// The number that the StatefulSet says; where there is none but there is data, as many as the data was last spread
/// over, since any of them may hold the newest.
fn current(cx: &Context<'_>) -> Option<i32> {
    // A StatefulSet that is replaced leaves its pods for a moment, and they are members all the same.
    let running = cx.view.members.iter().map(|member| member.ordinal + 1).max();
    cx.view.stateful_replicas().or_else(|| recorded(cx).max(running))
}

/// One more than the highest ordinal that Patroni's objects name and that still has its volume. Where they name none,
/// any volume may be the one with data.
fn recorded(cx: &Context<'_>) -> Option<i32> {
    let Sync { leader, standbys, .. } = &cx.view.sync;
    let Lock { holder, failsafe, .. } = &cx.view.lock;
    if cx.view.config.initialize.as_deref().is_none_or(str::is_empty) {
        return volumes(cx).max().map(|highest| highest + 1);
    }
    [leader, holder]
        .into_iter()
        .flatten()
        .chain(standbys)
        .chain(failsafe)
        .filter_map(|member| cx.names.ordinal(member))
        .filter(|ordinal| cx.observed.get(Kind::PersistentVolumeClaim, &cx.names.claim(*ordinal)).is_some())
        .max()
        .map(|highest| highest + 1)
}

/// What is to be done now.
pub fn plan(cx: &Context<'_>, assessment: &Assessment) -> Scale {
    if let Some(replicas) = super::inplace::members(cx) {
        return Scale::now(replicas);
    }
    let wanted = cx.spec().replicas;
    if super::major::active(cx).is_some() {
        return Scale::now(current(cx).unwrap_or(wanted));
    }
    let Some(live) = current(cx).filter(|live| *live != wanted) else { return Scale::now(wanted) };
    let wait = |reason: String| Scale { waiting: Some(reason), ..Scale::now(live) };
    // A member with an empty volume would make a new database where it does not find the one that there is.
    let unmade = cx.view.config.initialize.as_deref().is_none_or(str::is_empty);
    if live < wanted {
        let first = unmade.then(|| wait(format!("the {live} members whose volumes are there start first")));
        return first.unwrap_or_else(|| Scale::now(wanted));
    }
    if cx.view.stateful_set.is_none() {
        return wait(format!("the {live} members that hold its data start first"));
    }
    // Nobody has begun to make a database: there is nothing to lose.
    if cx.view.config.initialize.is_none() && !cx.view.initialized() {
        return Scale::now(wanted);
    }
    let Some(primary) = cx.view.running_primary() else {
        return wait(
            "no primary is running, and the one to be may be among the members to remove".to_owned(),
        );
    };
    if primary.ordinal < wanted {
        // Commits would wait for those that have gone until Patroni notices, or until one that stays streams.
        return if cx.view.sync.standbys.is_empty() || wanted > 1 && candidate(assessment).is_some() {
            Scale::now(wanted)
        } else if wanted == 1 {
            wait("commits first stop waiting for the members that go".to_owned())
        } else {
            wait(
                "one of the members that stay first streams and is listed as a synchronous standby"
                    .to_owned(),
            )
        };
    }
    match candidate(assessment) {
        Some(candidate) => Scale {
            switchover: Some(Action::Ask {
                ask: Ask::Switchover {
                    leader: primary.name.to_owned(),
                    candidate: candidate.name.clone(),
                    insist: true,
                },
                cause: reason::SCALING.to_owned(),
            }),
            ..wait(format!("the primary's role moves from {} to {} first", primary.name, candidate.name))
        },
        None => wait(format!(
            "{} is the primary and would be removed, but no member that stays is fit to take over: each must stream and, \
             where commits are synchronous, be listed as a synchronous standby",
            primary.name
        )),
    }
}

/// The fittest of the members that stay.
fn candidate(assessment: &Assessment) -> Option<&Candidate> {
    assessment.healthy_primary().and_then(|_| assessment.best())
}
