//! A primary whose node is about to be drained hands over before the drain gets to it.

use super::assess::{Assessment, Move};
use super::conditions::writable;
use super::context::Context;
use super::{Action, Ask, AskOutcome, Event};
use crate::api::ConditionType;

/// Why such a move is asked for.
pub const CAUSE: &str = "NodeCordoned";

/// The move to ask for, and what is told of it; where nobody elsewhere is fit, what to do is told, once.
pub fn plan(cx: &Context<'_>, assessment: &Assessment) -> (Option<Action>, Option<Event>) {
    let Some(primary) = assessment.healthy_primary().filter(|primary| primary.cordoned) else {
        return (None, None);
    };
    let (name, node) = (&primary.name, primary.node.as_deref().unwrap_or("its node"));
    // A node that is cordoned as well would only be the next one to leave.
    let elsewhere = assessment.best().filter(|best| !best.cordoned).map(|best| best.name.as_str());
    let chosen = elsewhere.map(|to| assessment.choose(Some(to), false));
    match chosen {
        Some(Ok(chosen @ Move::Switchover { .. })) => {
            let ask = assessment.ask(&chosen, true);
            if repeats(cx, &ask) {
                return (None, None);
            }
            let told = format!(
                "{node} is cordoned, so the primary's role moves from {name} to {} before it is drained",
                chosen.to()
            );
            let cause = CAUSE.to_owned();
            (Some(Action::Ask { ask, cause }), Some(Event::normal("PrimaryMoves", told)))
        }
        // It is on the way, or held still.
        Some(_) => (None, None),
        // While it settles, who is fit changes from pass to pass.
        None if told_before(cx, name) || writable(cx).status != Some(true) => (None, None),
        None => {
            let told = if assessment.candidates.is_empty() {
                format!(
                    "{node} is cordoned, and {name} on it is the only member: a drain stops the database until it has moved"
                )
            } else {
                format!(
                    "{node} is cordoned, and no member on another node is fit to take over from {name} yet: a drain waits for one, or \
                     stops writes; `dbctl status {}` shows what they lack",
                    cx.names.0
                )
            };
            (None, Some(Event::warning("PrimaryCannotMove", told)))
        }
    }
}

/// That the primary's node is cordoned stands in the status already, from when it was the primary and well.
fn told_before(cx: &Context<'_>, primary: &str) -> bool {
    let Some(old) = &cx.database.status else { return false };
    old.primary.as_deref() == Some(primary)
        && old.is_true(ConditionType::Writable)
        && old.instances.iter().any(|instance| instance.name == primary && instance.node_cordoned)
}

/// Patroni is busy, or was asked for the same a moment ago: that has yet to show, or was refused for a reason that does not
/// pass as quickly.
pub fn repeats(cx: &Context<'_>, ask: &Ask) -> bool {
    cx.observed.asked.as_ref().is_some_and(|asked| asked.outcome == AskOutcome::UnderWay || asked.ask == *ask)
}
