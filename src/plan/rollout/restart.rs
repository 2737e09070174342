//! Settings that take effect at a restart of PostgreSQL: one member at a time, in the order that its hot standbys need.
//!
//! A standby refuses to go on with less of some settings than the primary has
//! (<https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-ADMIN>), so where those are raised, standbys come
//! first, and where they are lowered, the primary does. Patroni has a standby that starts too early with less keep what its
//! control file says, and ask for another restart: so the primary is then restarted in place, since a standby that took over
//! would bring the old value with it.

use jiff::{SignedDuration, Timestamp};

use super::super::assess::Move;
use super::super::view::Member;
use super::super::{Action, Ask, conditions, config, cordon};
use super::step::{self, Moment};
use crate::api::reason;
use crate::patroni::Answer;

/// What a standby must have as much of as the primary.
const FOLLOWED: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];
/// A server that was started so lately is not started again for what it still asks for.
const REST: SignedDuration = SignedDuration::from_secs(60);

/// Why it is asked for.
pub const CAUSE: &str = reason::RESTART_PENDING;

/// What a member still needs a restart for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// Only for what the primary must have lowered first.
    AfterPrimary,
    Restart,
}

fn pending(member: &Member<'_>) -> bool {
    match (member.answer, &member.status) {
        (Some(answer), _) => answer.pending_restart,
        (None, Some(status)) => status.pending_restart,
        (None, None) => false,
    }
}

/// The next restart, or change of primary, and what is said of it; `None` where there is none now.
pub fn plan(at: &Moment<'_, '_>) -> Option<(Action, String)> {
    let cx = at.cx;
    let members = &cx.view.members;
    let well = |member: &Member<'_>| {
        !cx.observed.silent.contains_key(member.name)
            && super::gate::lacks(cx, at.assessment, member).is_none()
    };
    if !members.iter().any(pending)
        || config::pending(cx).is_some()
        || step::in_the_way(at).is_some()
        || !conditions::complete(cx)
        || !members.iter().all(well)
    {
        return None;
    }
    let primary = cx.view.running_primary()?;
    let replicas = members.iter().rev().filter(|member| member.name != primary.name);
    let ready = replicas
        .clone()
        .find(|replica| need(replica, primary) == Need::Restart && !is_fresh(replica, at.now));
    if let Some(replica) = ready {
        return restart(at, replica.name);
    }
    if pending(primary) {
        // One that asks for a restart although it had one is no reason to keep the others waiting.
        let first = members.len() == 1 || lowered(primary);
        if first {
            return (!is_fresh(primary, at.now)).then(|| restart(at, primary.name)).flatten();
        }
        return switchover(at, primary);
    }
    let rest = replicas
        .clone()
        .find(|replica| need(replica, primary) == Need::AfterPrimary && !is_fresh(replica, at.now));
    rest.and_then(|replica| restart(at, replica.name))
}

fn reasons<'m>(
    member: &Member<'m>,
) -> impl Iterator<Item = (&'m String, &'m crate::patroni::PendingSetting)> {
    member.answer.into_iter().flat_map(|answer| &answer.pending_restart_reason)
}

fn is_followed(name: &str) -> bool {
    FOLLOWED.contains(&name)
}

/// The primary is to have less of what its standbys must have as much of.
fn lowered(primary: &Member<'_>) -> bool {
    reasons(primary).any(|(name, setting)| is_followed(name) && setting.is_lowered())
}

fn need(replica: &Member<'_>, primary: &Member<'_>) -> Need {
    if !pending(replica) {
        return Need::Nothing;
    }
    let mut all = reasons(replica).peekable();
    let only_lowered =
        all.peek().is_some() && all.all(|(name, setting)| is_followed(name) && setting.is_lowered());
    if !only_lowered {
        Need::Restart
    } else if lowered(primary) {
        // Its restart would change nothing yet.
        Need::Nothing
    } else {
        Need::AfterPrimary
    }
}

/// Its server was started a moment ago.
fn is_fresh(member: &Member<'_>, now: Timestamp) -> bool {
    let started = member.answer.and_then(started);
    started.is_some_and(|started| now.duration_since(started) < REST)
}

fn started(answer: &Answer) -> Option<Timestamp> {
    answer.postmaster_start_time.as_deref()?.parse().ok()
}

fn restart(at: &Moment<'_, '_>, member: &str) -> Option<(Action, String)> {
    let ask = Ask::Restart { member: member.to_owned() };
    asked(at, ask, format!("restarting {member}, whose settings wait for that"))
}

/// What was the primary starts anew on its way to being a replica.
fn switchover(at: &Moment<'_, '_>, primary: &Member<'_>) -> Option<(Action, String)> {
    let restarted = at.cx.view.members.iter().all(|member| member.name == primary.name || !pending(member));
    match at.assessment.choose(None, false) {
        Ok(chosen @ Move::Switchover { .. }) if restarted => {
            let (to, from) = (at.assessment.heirs(&chosen, false), primary.name);
            asked(
                at,
                at.assessment.ask(&chosen, false),
                format!("moving the primary's role from {from} to {to}, before {from} restarts"),
            )
        }
        _ => None,
    }
}

fn asked(at: &Moment<'_, '_>, ask: Ask, message: String) -> Option<(Action, String)> {
    (!cordon::repeats(at.cx, &ask)).then(|| (Action::Ask { ask, cause: CAUSE.to_owned() }, message))
}
