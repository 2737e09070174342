//! A restart that was asked for: of one member, or of all, one after the other and the primary last. Before the primary's
//! turn its role moves to a member that has been restarted.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::assess::{Move, Unfit};
use super::super::conditions::writable;
use super::super::requests::Step;
use super::{Turn, asks, failed, rejected, succeeded, waits};
use crate::api::{Operation, OperationPhase, RestartArguments};
use crate::plan::{Ask, AskOutcome};

/// How long a member may take to be back after Patroni has answered.
const LIMIT: SignedDuration = SignedDuration::from_secs(180);
/// How long it goes on while nobody leads: after that somebody will want to do something about that.
const LEADERLESS: SignedDuration = SignedDuration::from_secs(60);
/// How long the primary waits for somebody who can take over, before it is restarted in place.
const HANDOVER: SignedDuration = SignedDuration::from_secs(30);

/// Takes it up, or says why not.
pub fn begin(turn: &Turn<'_, '_>, operation: Operation, arguments: &RestartArguments) -> Step {
    let (assessment, name) = (turn.assessment, turn.cx.names.0);
    let primary = assessment.primary.as_ref();
    let members = assessment.members();
    if let Some(unknown) = arguments.member.as_deref().filter(|member| !members.contains(member)) {
        let known: Vec<&str> = members.into_iter().collect();
        let message = format!("there is no member {unknown}; the members are {}", known.join(", "));
        return rejected(turn, operation, message);
    }
    let remaining: Vec<String> = match &arguments.member {
        Some(member) => vec![member.clone()],
        None => {
            // Highest first, the primary last.
            let others =
                assessment.candidates.iter().rev().filter(|other| other.unfit != Some(Unfit::Leaving));
            let others = others.map(|other| other.name.clone());
            others.chain(primary.map(|primary| primary.name.clone())).collect()
        }
    };
    if assessment.healthy_primary().is_none() && remaining.len() > 1 {
        let message = format!(
            "no primary is running ({}), and to restart members would make that worse: see `dbctl status {name}`; `--member` \
             restarts a single one",
            turn.standing()
        );
        return rejected(turn, operation, message);
    }
    let silent = |member: &&String| {
        turn.cx.observed.silent.contains_key(*member)
            || turn.cx.view.member(member).is_none_or(|member| member.waiting().is_some())
    };
    if let Some(member) = remaining.iter().find(silent) {
        let message = format!(
            "{member} does not answer, so it cannot be asked to restart: see `dbctl logs {name} --member {member}`; `kubectl \
             delete pod {member}` restarts it all the same, and `--member` another one alone"
        );
        return rejected(turn, operation, message);
    }
    let from = primary.map(|primary| primary.name.clone());
    let phase = OperationPhase::Running;
    let step_started_at = Some(Time(turn.now));
    go_on(turn, Operation { from, phase, remaining, step_started_at, ..operation })
}

/// Goes on with it.
pub fn go_on(turn: &Turn<'_, '_>, mut operation: Operation) -> Step {
    loop {
        let Some(member) = operation.remaining.first().cloned() else {
            return finished(turn, operation);
        };
        let leaves = turn.cx.names.ordinal(&member).is_none_or(|ordinal| ordinal >= turn.cx.spec().replicas);
        if leaves && turn.cx.view.member(&member).is_none() {
            next(turn, &mut operation, false);
        } else if restarted(turn, &operation, &member) && is_back(turn, &member) {
            next(turn, &mut operation, true);
        } else {
            return work_on(turn, operation, &member);
        }
    }
}

/// Turns to the next member.
fn next(turn: &Turn<'_, '_>, operation: &mut Operation, done: bool) {
    let member = operation.remaining.remove(0);
    operation.done.extend(done.then_some(member));
    operation.step_started_at = Some(Time(turn.now));
}

fn finished(turn: &Turn<'_, '_>, operation: Operation) -> Step {
    let leads = turn.assessment.primary.as_ref().map(|primary| primary.name.as_str());
    let mut message = format!("restarted {}", operation.done.join(", "));
    match (leads, operation.from.as_deref()) {
        (Some(leads), Some(from)) if leads != from => {
            message.push_str(&format!("; {leads} is the primary now, after {from}"));
        }
        (Some(leads), _) => message.push_str(&format!("; {leads} is the primary")),
        (None, _) => {}
    }
    succeeded(turn, operation, message)
}

/// Its PostgreSQL was started after the operation was taken up: Patroni said so, or PostgreSQL itself.
fn restarted(turn: &Turn<'_, '_>, operation: &Operation, member: &str) -> bool {
    let asked = turn.asked(operation);
    let said = asked.is_some_and(|asked| {
        asked.ask == Ask::Restart { member: member.to_owned() }
            && matches!(asked.outcome, AskOutcome::Done(_))
    });
    let answer = turn.cx.observed.answers.get(member);
    let started =
        answer.and_then(|answer| answer.postmaster_start_time.as_deref()?.parse::<Timestamp>().ok());
    let began = operation.started_at.as_ref().map(|began| began.0);
    let anew = started.zip(began).is_some_and(|(started, began)| started > began);
    said || anew && answer.is_some_and(|answer| !answer.pending_restart)
}

/// It is as it was to be: the primary can be written to, a replica could take over.
fn is_back(turn: &Turn<'_, '_>, member: &str) -> bool {
    let Some(primary) = turn.assessment.healthy_primary() else { return false };
    if primary.name == member {
        writable(turn.cx).status == Some(true)
    } else {
        turn.assessment.candidate(member).is_some_and(|candidate| candidate.unfit.is_none())
    }
}

fn work_on(turn: &Turn<'_, '_>, operation: Operation, member: &str) -> Step {
    let asked = turn.asked(&operation).filter(|asked| concerns(&asked.ask, member));
    match asked.map(|asked| &asked.outcome) {
        // Patroni answers when it is done, or has given up: a clean stop takes as long as it takes.
        Some(AskOutcome::UnderWay) => return Step { operation, ask: None },
        // A controller that was started anew asked again.
        Some(AskOutcome::Failed(why)) if !why.contains("already in progress") => {
            let why = why.clone();
            return halted(turn, operation, &why);
        }
        _ => {}
    }
    let waited = turn.since(operation.step_started_at.as_ref());
    let led = turn.assessment.healthy_primary().is_some();
    if waited >= LIMIT || !led && waited >= LEADERLESS {
        let lacks = turn.assessment.candidate(member).and_then(|candidate| candidate.unfit.as_ref());
        let lacks = lacks.map_or_else(|| turn.standing(), ToString::to_string);
        let why = format!("{member} is not back after {} s: it {lacks}", waited.as_secs());
        return halted(turn, operation, &why);
    }
    if asked.is_some_and(|asked| !matches!(asked.ask, Ask::Switchover { .. }))
        || restarted(turn, &operation, member)
    {
        let message = progress(&operation, &format!("waiting until {member} is back"));
        return waits(operation, message);
    }
    if turn.assessment.primary.as_ref().is_some_and(|primary| primary.name == member) {
        return restart_primary(turn, operation, member, waited);
    }
    if handing_over(turn, &operation, member) {
        let message = progress(&operation, &format!("waiting until {member} is back as a replica"));
        return waits(operation, message);
    }
    if !led && operation.remaining.len() + operation.done.len() > 1 {
        let message = progress(&operation, &format!("waiting for a primary before {member} restarts"));
        return waits(operation, message);
    }
    restart(turn, operation, member)
}

/// It was the primary, and is still on its way down or up again: it starts anew by itself.
fn handing_over(turn: &Turn<'_, '_>, operation: &Operation, member: &str) -> bool {
    let answer = turn.cx.observed.answers.get(member);
    let silent = answer.is_none() && turn.cx.observed.silent.contains_key(member);
    operation.from.as_deref() == Some(member)
        && (silent || answer.is_some_and(|answer| !answer.is_running_replica()))
}

fn concerns(ask: &Ask, member: &str) -> bool {
    match ask {
        Ask::Restart { member: asked } => asked == member,
        Ask::Switchover { leader, .. } => leader == member,
        Ask::Failover { .. } => false,
    }
}

fn restart(turn: &Turn<'_, '_>, operation: Operation, member: &str) -> Step {
    let message = progress(&operation, &format!("restarting {member}"));
    asks(turn, operation, message, Ask::Restart { member: member.to_owned() })
}

/// Its role moves first, where there is somebody to take it: it is restarted on the way.
fn restart_primary(turn: &Turn<'_, '_>, operation: Operation, member: &str, waited: SignedDuration) -> Step {
    if turn.asked(&operation).is_some_and(|asked| matches!(asked.ask, Ask::Switchover { .. })) {
        let message = progress(&operation, "waiting until the primary's role has moved");
        return waits(operation, message);
    }
    let alone = turn.assessment.candidates.is_empty() || turn.assessment.healthy_primary().is_none();
    match turn.assessment.choose(None, false) {
        Ok(chosen @ Move::Switchover { .. }) => {
            let to = turn.assessment.heirs(&chosen, false);
            let message = progress(&operation, &format!("moving the primary's role from {member} to {to}"));
            asks(turn, operation, message, turn.assessment.ask(&chosen, false))
        }
        _ if alone || waited >= HANDOVER => restart(turn, operation, member),
        _ => {
            let message =
                progress(&operation, &format!("waiting for a replica that can take over from {member}"));
            waits(operation, message)
        }
    }
}

fn halted(turn: &Turn<'_, '_>, operation: Operation, why: &str) -> Step {
    let mut message = format!("halted: {why}");
    if !operation.done.is_empty() {
        message.push_str(&format!("; restarted: {}", operation.done.join(", ")));
    }
    message.push_str(&format!("; not restarted: {}", operation.remaining.join(", ")));
    message.push_str(&format!("; how things stand: {}", turn.standing()));
    if let Some(member) = operation.remaining.first() {
        message.push_str(&format!("; see `dbctl logs {} --member {member}`", turn.cx.names.0));
    }
    failed(turn, operation, message)
}

fn progress(operation: &Operation, doing: &str) -> String {
    let (done, all) = (operation.done.len(), operation.done.len() + operation.remaining.len());
    if all > 1 { format!("{doing} ({done} of {all} restarted)") } else { doing.to_owned() }
}
