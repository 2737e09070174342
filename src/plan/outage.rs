//! The record of times in which nobody could write, and of changes of primary. What one pass begins another ends, so what
//! has begun stands in the status; nothing is decided by it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::context::Context;
use super::death::ended;
use super::object::{LockAge, terminating};
use super::{Ask, Event};
use crate::api::{ConditionType, Failover, Operation, OperationPhase, Outage};

/// How many changes of primary the status keeps.
const KEPT: usize = 10;

/// No outage goes unnoticed for longer.
const OUTAGE_NOTICED: SignedDuration = SignedDuration::from_secs(60);

/// A change of primary longer ago than this was not looked at while it happened.
const UNSEEN: SignedDuration = SignedDuration::from_secs(10);

/// Why nobody could write, from what is known least to what is known best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// Not known.
    NoLeader,
    /// The primary did not answer.
    PrimarySilent,
    /// Its PostgreSQL does not run, while Patroni does.
    PostgresDown,
    /// It stopped renewing the lock.
    PrimaryLost,
    /// It answers, but reaches the Kubernetes API no more.
    PrimaryIsolated,
    /// Its pod was deleted.
    PodDeleted,
    /// Its container ended.
    PrimaryDied,
    /// A member that goes away was the primary.
    Scaling,
    /// Its node is about to be drained.
    NodeCordoned,
    /// Settings wait for a restart of it.
    RestartPending,
    /// Its pod is to be replaced, by one of another release or made otherwise.
    RollingUpdate,
    /// The data's format changes.
    MajorUpgrade,
    /// Somebody asked for a restart.
    Restart,
    /// Somebody asked for a restore in place.
    Restore,
    /// Somebody asked for another primary.
    Switchover,
    /// Somebody asked for another primary, whatever is lost.
    ForcedFailover,
}

impl Cause {
    const ALL: [Cause; 16] = [
        Self::NoLeader,
        Self::PrimarySilent,
        Self::PostgresDown,
        Self::PrimaryLost,
        Self::PrimaryIsolated,
        Self::PodDeleted,
        Self::PrimaryDied,
        Self::Scaling,
        Self::NodeCordoned,
        Self::RestartPending,
        Self::RollingUpdate,
        Self::MajorUpgrade,
        Self::Restart,
        Self::Restore,
        Self::Switchover,
        Self::ForcedFailover,
    ];

    fn of(word: &str) -> Self {
        Self::ALL.into_iter().find(|cause| format!("{cause:?}") == word).unwrap_or(Self::NoLeader)
    }
}

/// What is to stand in the status, and what to tell.
pub struct Record {
    pub outage: Option<Outage>,
    pub failovers: Vec<Failover>,
    pub events: Vec<Event>,
}

/// Goes on with the record. `writable`: whether somebody can write now; `operations`: as they stand after this pass.
pub fn record(cx: &Context<'_>, writable: bool, operations: &[Operation], now: Timestamp) -> Record {
    let old = cx.database.status.clone().unwrap_or_default();
    let from = old.outage.as_ref().map_or(old.primary.clone(), |outage| outage.from.clone());
    let holder = cx.view.lock.holder.as_deref();
    let moved = from.is_some() && holder.is_some() && from.as_deref() != holder;
    let cause = cause(cx, from.as_deref(), operations, now);
    let mut record = Record { outage: None, failovers: old.failovers.clone(), events: Vec::new() };
    if !writable {
        record.outage = match old.outage {
            Some(outage) => Some(sharpened(outage, cause)),
            None if old.is_true(ConditionType::Writable) => Some(Outage {
                from,
                reason: format!("{cause:?}"),
                started_at: Some(Time(began(cx, old.primary.as_deref(), now))),
            }),
            None => None,
        };
    } else if let (Some(to), true) = (holder, moved) {
        let failover = failover(cx, old.outage.as_ref(), from, to, cause, now);
        record.events.push(told(&failover));
        record.failovers.insert(0, failover);
        record.failovers.truncate(KEPT);
    } else if let (Some(outage), Some(primary)) = (&old.outage, holder) {
        let since = outage.started_at.as_ref().map(|began| lasted(began.0, now));
        let since = since.map_or_else(String::new, |seconds| format!(" after {seconds:.1} s"));
        let why = format!("{:?}", Cause::of(&outage.reason).max(cause));
        record
            .events
            .push(Event::normal("WritableAgain", format!("{primary} accepts writes again{since} ({why})")));
    }
    record
}

fn sharpened(outage: Outage, cause: Cause) -> Outage {
    let cause = Cause::of(&outage.reason).max(cause);
    Outage { reason: format!("{cause:?}"), ..outage }
}

/// When writes stopped, as far as that can be told later: when the container ended; when a primary that says nothing any
/// more last renewed the lock, which is the last sign of its life; otherwise now.
fn began(cx: &Context<'_>, primary: Option<&str>, now: Timestamp) -> Timestamp {
    let Some(member) = primary.and_then(|name| cx.view.member(name)) else { return now };
    // The times of its own node, which may be a little off.
    let sane = |at: &Timestamp| *at <= now && now.duration_since(*at) < OUTAGE_NOTICED;
    let renewed = cx.view.lock.renewed.filter(|_| cx.view.lock.holder.as_deref() == Some(member.name));
    let seen = match died(member.pod, now) {
        // One that was silent before its end may have served nobody since its last sign of life.
        Some(_) if !member.silent.is_zero() => renewed,
        Some(at) => Some(renewed.map_or(at, |renewed| renewed.max(at))),
        None if member.answer.is_none() => renewed,
        None => None,
    };
    seen.filter(sane).unwrap_or(now)
}

/// When the pod's container ended, if that was lately.
fn died(pod: &serde_json::Value, now: Timestamp) -> Option<Timestamp> {
    let lately = |at: &Timestamp| now.duration_since(*at) < OUTAGE_NOTICED;
    ended(pod).map(|end| end.at).filter(lately)
}

/// Seconds, to the millisecond.
fn lasted(from: Timestamp, to: Timestamp) -> f64 {
    let millis = to.duration_since(from).as_millis().max(0);
    f64::from(i32::try_from(millis).unwrap_or(i32::MAX)) / 1000.0
}

fn failover(
    cx: &Context<'_>,
    outage: Option<&Outage>,
    from: Option<String>,
    to: &str,
    cause: Cause,
    now: Timestamp,
) -> Failover {
    let cause = outage.map_or(cause, |outage| Cause::of(&outage.reason).max(cause));
    let began = outage.and_then(|outage| outage.started_at.as_ref()).map(|began| began.0);
    // One that no pass saw: the lock went from one to the other. That was just now, or nobody looked for a while, and then
    // nobody knows how long it took.
    let seen = began.is_some() || cx.view.lock.acquired.is_none_or(|at| now.duration_since(at) < UNSEEN);
    let began = began.or(cx.view.lock.acquired).unwrap_or(now).min(now);
    Failover {
        from,
        to: to.to_owned(),
        reason: format!("{cause:?}"),
        started_at: Some(Time(began)),
        writable_at: seen.then_some(Time(now)),
        duration_seconds: seen.then(|| lasted(began, now)),
        timeline: cx.view.member(to).and_then(super::Member::timeline),
    }
}

fn told(failover: &Failover) -> Event {
    let Failover { from, to, reason, duration_seconds, .. } = failover;
    let from = from.as_deref().unwrap_or("nobody");
    let down = match duration_seconds {
        Some(seconds) => format!("writes were down for {seconds:.1} s"),
        None => "how long writes were down is not known, as nobody watched".to_owned(),
    };
    let message = format!("{to} is the primary, after {from} ({reason}); {down}");
    let asked = Cause::of(reason) >= Cause::Scaling && Cause::of(reason) != Cause::ForcedFailover;
    Event { warning: !asked, reason: "FailedOver".to_owned(), message }
}

/// Why `from` is no primary that can be written to, as far as it can be seen now.
fn cause(cx: &Context<'_>, from: Option<&str>, operations: &[Operation], now: Timestamp) -> Cause {
    if super::major::active(cx).is_some() {
        return Cause::MajorUpgrade;
    }
    if let Some(asked) = asked_for(cx, from, operations) {
        return asked;
    }
    let Some(from) = from else { return Cause::NoLeader };
    let Some(member) = cx.view.member(from) else { return Cause::PodDeleted };
    if terminating(member.pod) {
        Cause::PodDeleted
    } else if died(member.pod, now).is_some() {
        Cause::PrimaryDied
    } else if member.isolated {
        Cause::PrimaryIsolated
    } else if member.answer.is_none()
        && (cx.view.lock.holder.as_deref() != Some(from) || cx.view.lock_age == LockAge::Expired)
    {
        // It lost the lock without a word.
        Cause::PrimaryLost
    } else if member.answer.is_some_and(|answer| answer.state != "running") {
        Cause::PostgresDown
    } else if member.is_silent() {
        Cause::PrimarySilent
    } else {
        Cause::NoLeader
    }
}

/// What a person, or dbctl itself, asked for.
fn asked_for(cx: &Context<'_>, from: Option<&str>, operations: &[Operation]) -> Option<Cause> {
    let known = cx.database.status.as_ref().map(|status| status.operations.as_slice()).unwrap_or_default();
    // One that ends with this pass still was the cause.
    let runs = |operation: &&Operation| {
        operation.phase.is_under_way()
            || known.iter().any(|old| old.id == operation.id && old.phase == OperationPhase::Running)
    };
    let moves = |ask: &Ask| match ask {
        Ask::Switchover { leader, .. } => Some(leader.as_str()) == from,
        Ask::Failover { .. } => true,
        Ask::Restart { member } => Some(member.as_str()) == from,
    };
    let asked = cx.observed.asked.as_ref().filter(|asked| moves(&asked.ask));
    let operation = operations.iter().filter(runs).find(|operation| match operation.kind.as_str() {
        "failover" => operation.from.as_deref() == from || operation.from.is_none(),
        "restore" => true,
        "restart" => asked.is_some_and(|asked| asked.cause == operation.id),
        _ => false,
    });
    match (operation, asked) {
        (Some(operation), _) if operation.kind == "restore" => Some(Cause::Restore),
        (Some(operation), _) if operation.kind == "restart" => Some(Cause::Restart),
        (Some(_), Some(asked)) if matches!(asked.ask, Ask::Failover { .. }) => Some(Cause::ForcedFailover),
        (Some(_), _) => Some(Cause::Switchover),
        (None, Some(asked)) => match Cause::of(&asked.cause) {
            Cause::NoLeader => None,
            cause => Some(cause),
        },
        (None, None) => None,
    }
}
