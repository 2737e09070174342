//! A change of primary that was asked for.

use jiff::SignedDuration;

use super::super::assess::{Move, Refusal};
use super::super::conditions::writable;
use super::super::requests::Step;
use super::{Turn, asks, failed, rejected, succeeded, waits};
use crate::api::{FailoverArguments, Operation};
use crate::plan::AskOutcome;

/// How long it may take, from when it was taken up: the lock of a silent primary lives 20 s, and Patroni gives itself as
/// long for a switchover.
const LIMIT: SignedDuration = SignedDuration::from_secs(60);

/// Takes it up, or says why not.
pub fn begin(turn: &Turn<'_, '_>, operation: Operation, arguments: &FailoverArguments) -> Step {
    let primary = turn.assessment.primary.as_ref().map(|primary| primary.name.clone());
    let operation = Operation { from: primary.clone(), ..operation };
    let moved = arguments.from.as_ref().zip(primary.as_ref()).filter(|(seen, now)| seen != now);
    if let Some((seen, now)) = moved.filter(|(_, now)| arguments.to.as_ref() != Some(*now)) {
        let message = format!(
            "{seen} is not the primary any more, {now} is: look again with `dbctl status {}`, and ask anew if the role still \
             has to move",
            turn.cx.names.0
        );
        return rejected(turn, operation, message);
    }
    match turn.assessment.choose(arguments.to.as_deref(), arguments.force) {
        Ok(chosen) => start(turn, operation, &chosen, arguments.to.is_some()),
        Err(Refusal::AlreadyPrimary { name }) => {
            let operation = Operation { to: Some(name.clone()), ..operation };
            succeeded(turn, operation, format!("{name} is the primary already: nothing had to be done"))
        }
        Err(refusal) if refusal.is_passing() && arguments.force => waits(operation, refusal.to_string()),
        Err(refusal) => rejected(turn, operation, refusal.to_string()),
    }
}

/// `named`: the member was named by whoever asked.
fn start(turn: &Turn<'_, '_>, operation: Operation, chosen: &Move, named: bool) -> Step {
    let to = chosen.to().to_owned();
    let message = match chosen {
        Move::Switchover { from, .. } => {
            format!("the primary's role moves from {from} to {}", turn.assessment.heirs(chosen, named))
        }
        Move::Failover { to, loss } => format!("{}{loss}", promoting(to)),
    };
    asks(turn, Operation { to: Some(to), ..operation }, message, turn.assessment.ask(chosen, named))
}

/// What is lost with a promotion is said before it, and again after it.
fn promoting(to: &str) -> String {
    format!("{to} is promoted: ")
}

/// Goes on with it. `arguments`: what asked for it, if that still stands.
pub fn go_on(turn: &Turn<'_, '_>, operation: Operation, arguments: Option<&FailoverArguments>) -> Step {
    match operation.to.clone() {
        Some(to) => follow(turn, operation, &to, &arguments.cloned().unwrap_or_default()),
        None => go_on_waiting(turn, operation, arguments),
    }
}

/// It was forced while the old primary might still have been alive.
fn go_on_waiting(turn: &Turn<'_, '_>, operation: Operation, arguments: Option<&FailoverArguments>) -> Step {
    let Some(arguments) = arguments else {
        return failed(turn, operation, "the request was taken back before anything was done".to_owned());
    };
    if let Some(primary) = turn.assessment.healthy_primary() {
        let (name, standing) = (&primary.name, turn.standing());
        return if arguments.to.as_ref().is_none_or(|to| to == name) && operation.from.as_ref() != Some(name) {
            let operation = Operation { to: Some(name.clone()), ..operation };
            succeeded(turn, operation, format!("Patroni elected {name} by itself before it had to be forced"))
        } else {
            failed(turn, operation, format!("nothing was forced, since there is a primary again: {standing}"))
        };
    }
    match turn.assessment.choose(arguments.to.as_deref(), arguments.force) {
        Ok(chosen) => start(turn, operation, &chosen, arguments.to.is_some()),
        Err(refusal) if refusal.is_passing() && turn.since(operation.started_at.as_ref()) < LIMIT => {
            waits(operation, refusal.to_string())
        }
        Err(refusal) => failed(turn, operation, refusal.to_string()),
    }
}

fn follow(turn: &Turn<'_, '_>, operation: Operation, to: &str, arguments: &FailoverArguments) -> Step {
    let (insist, force) = (arguments.to.is_some(), arguments.force);
    let assessment = turn.assessment;
    let holder = assessment.primary.as_ref().map(|primary| primary.name.as_str());
    let late = turn.since(operation.started_at.as_ref()) >= LIMIT;
    if holder == Some(to) {
        return arrived(turn, operation, to, late);
    }
    let healthy = assessment.healthy_primary().map(|primary| primary.name.as_str());
    if let Some(other) = healthy.filter(|name| operation.from.as_deref() != Some(*name)) {
        if !insist {
            let operation = Operation { to: Some(other.to_owned()), ..operation };
            return arrived(turn, operation, other, late);
        }
        let message = format!("{other} took over instead of {to}: {}", turn.standing());
        return failed(turn, operation, message);
    }
    if late {
        let message = format!(
            "{to} did not become the primary within {} s; how things stand: {}",
            LIMIT.as_secs(),
            turn.standing()
        );
        return failed(turn, operation, message);
    }
    let pending = &turn.cx.view.pending;
    let pending = pending.candidate.as_deref() == Some(to)
        || pending.leader.is_some() && pending.leader == operation.from;
    match turn.asked(&operation).map(|asked| &asked.outcome) {
        Some(AskOutcome::Failed(why)) if healthy.is_some() && !pending => {
            let message = format!("{why}; how things stand: {}", turn.standing());
            failed(turn, operation, message)
        }
        // Nobody leads, or Patroni is at it: what it answered is not the end of it.
        Some(_) => keep(operation),
        None if pending || turn.asking() => keep(operation),
        None => match assessment.choose(Some(to), force) {
            Ok(chosen) => start(turn, operation, &chosen, insist),
            Err(refusal) if refusal.is_passing() => keep(operation),
            Err(refusal) => {
                let message = format!("{refusal}. How things stand: {}", turn.standing());
                failed(turn, operation, message)
            }
        },
    }
}

fn keep(operation: Operation) -> Step {
    Step { operation, ask: None }
}

fn arrived(turn: &Turn<'_, '_>, operation: Operation, to: &str, late: bool) -> Step {
    let writable = writable(turn.cx);
    if writable.status == Some(true) && turn.assessment.healthy_primary().is_some() {
        let lost = operation.message.as_deref().and_then(|message| message.strip_prefix(&promoting(to)));
        let lost = lost.map_or_else(String::new, |lost| format!("; {lost}"));
        let after = operation.from.as_ref().map_or_else(String::new, |from| format!(", after {from}"));
        return succeeded(turn, operation, format!("{to} is the primary{after}, and accepts writes{lost}"));
    }
    if late {
        let message = format!(
            "{to} holds the leader lock, but nobody can write after {} s: {}",
            LIMIT.as_secs(),
            writable.message
        );
        return failed(turn, operation, message);
    }
    keep(operation)
}
