//! The five conditions, each from what is there alone.

use super::blocked::Blocked;
use super::context::Context;
use super::object::{LockAge, terminating};
use super::rollout::{Rollout, State};
use super::scale::Scale;
use super::text::text;
use super::view::Member;
use super::{Kind, backup, certificates, config, fencing, pause, storage};
use crate::api::{ConditionType, Verdict, reason};
use crate::patroni::Answer;

/// All five, in their order.
pub fn verdicts(
    cx: &Context<'_>,
    scale: &Scale,
    rollout: &Rollout,
    blocked: Option<&Blocked>,
    now: jiff::Timestamp,
) -> Vec<(ConditionType, Verdict)> {
    let writable = writable(cx);
    let ready = match blocked {
        Some(blocked) => Verdict::no(blocked.reason, blocked.message.clone()),
        None => ready(cx, scale, &writable),
    };
    vec![
        (ConditionType::Ready, ready),
        (ConditionType::Writable, writable),
        (ConditionType::BackupsHealthy, backup::verdict(cx, now)),
        (ConditionType::StorageHealthy, volumes(cx)),
        (ConditionType::UpToDate, up_to_date(cx, rollout, now)),
    ]
}

fn count(members: i32) -> String {
    if members == 1 { "1 member".to_owned() } else { format!("{members} members") }
}

/// Who holds the lock, whether it runs as primary, and whether the write Service leads to it and nobody else.
pub fn writable(cx: &Context<'_>) -> Verdict {
    let claimants: Vec<&str> = fencing::claimants(cx).iter().map(|member| member.name).collect();
    if claimants.len() > 1 {
        return Verdict::no(
            reason::SPLIT_BRAIN,
            format!(
                "{} each say that they run as primary; the write Service leads to the holder of the leader lock alone",
                claimants.join(" and ")
            ),
        );
    }
    let Some(holder) = &cx.view.lock.holder else {
        return no_holder(cx);
    };
    let Some(member) = cx.view.member(holder) else {
        return Verdict::no(
            reason::PRIMARY_NOT_RUNNING,
            format!("{holder} holds the leader lock, but its pod is gone; the lock expires within seconds"),
        );
    };
    if cx.view.running_primary().is_none() {
        return not_running(cx, member);
    }
    let endpoints = &cx.view.write_endpoints;
    if endpoints.len() == 1 && endpoints.contains(holder) {
        return accepts(member);
    }
    let found: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let leads = if found.is_empty() { "nowhere".to_owned() } else { format!("to {}", found.join(" and ")) };
    Verdict::no(
        reason::NO_ENDPOINT,
        format!("{holder} runs as primary, but Service {} leads {leads}", cx.names.main()),
    )
}

fn accepts(primary: &Member<'_>) -> Verdict {
    Verdict::yes(
        reason::PRIMARY_ACCEPTS_WRITES,
        format!("{} is the primary and accepts writes", primary.name),
    )
}

/// A member that lives and works, but out of Kubernetes' sight.
fn isolated(cx: &Context<'_>) -> Option<Verdict> {
    let member = cx.view.members.iter().find(|member| member.isolated)?;
    let name = member.name;
    let goes_on = member.answer.is_some_and(|answer| answer.failsafe_mode_is_active);
    let message = if goes_on {
        format!(
            "{name} does not reach the Kubernetes API; it stays primary for as long as every other member agrees"
        )
    } else {
        format!("{name} does not reach the Kubernetes API")
    };
    Some(Verdict::no(reason::MEMBER_ISOLATED, message))
}

fn no_holder(cx: &Context<'_>) -> Verdict {
    if let Some(unsafe_) = no_safe_candidate(cx) {
        return unsafe_;
    }
    if let Some(restoring) = super::inplace::under_way(cx).and(super::restore::verdict(cx)) {
        return restoring;
    }
    let message = if cx.view.initialized() {
        "no member holds the leader lock: Patroni elects one as soon as a fit member runs"
    } else {
        "the database has not been made yet"
    };
    Verdict::no(reason::NO_LEADER, message)
}

/// Only the last primary has every commit that was acknowledged, and it is not there: Patroni promotes nobody, rightly.
fn no_safe_candidate(cx: &Context<'_>) -> Option<Verdict> {
    let last = cx.view.sync.leader.as_deref().filter(|_| cx.view.config.is_synchronous())?;
    let runs = |member: &&Member<'_>| member.answer.is_some_and(Answer::is_running_replica);
    let others: Vec<&str> =
        cx.view.members.iter().filter(runs).map(|member| member.name).filter(|name| *name != last).collect();
    let heard = others.iter().filter(|name| cx.view.sync.standbys.contains(**name)).count();
    let last_runs = cx.view.member(last).is_some_and(|member| runs(&member));
    if others.is_empty() || last_runs || heard > cx.view.sync.quorum {
        return None;
    }
    Some(Verdict::no(
        reason::NO_SAFE_CANDIDATE,
        format!(
            "{last} was the last primary and is not there, and {} may lack commits that it acknowledged, so nobody is promoted by \
             itself; bring {last} back, or give up those commits with `dbctl failover {} --force`",
            others.join(", "),
            cx.names.0
        ),
    ))
}

fn not_running(cx: &Context<'_>, holder: &Member<'_>) -> Verdict {
    let name = holder.name;
    if holder.answer.is_none() && holder.waiting().is_none() && !terminating(holder.pod) {
        if cx.view.lock_age == LockAge::Expired {
            return no_safe_candidate(cx).unwrap_or_else(|| {
                Verdict::no(
                    reason::NO_LEADER,
                    format!("{name} no longer renews the leader lock and does not answer"),
                )
            });
        }
        if holder.is_silent() {
            return Verdict::no(
                reason::PRIMARY_SUSPECT,
                format!(
                    "{name} holds the leader lock but does not answer; it may still run, so nobody else is promoted before the lock \
                     expires"
                ),
            );
        }
    }
    let does = problem(holder).unwrap_or_else(|| "does not run as primary yet".to_owned());
    Verdict::no(reason::PRIMARY_NOT_RUNNING, format!("{name} holds the leader lock, but {does}"))
}

/// What a member lacks to be one, as the rest of a sentence that begins with its name.
fn problem(member: &Member<'_>) -> Option<String> {
    let said = member.answer.map(|answer| (answer.role.as_str(), answer.state.as_str()));
    let wrote = member.status.as_ref().map(|status| (status.role.as_str(), status.state.as_str()));
    if text(member.pod, "/metadata/deletionTimestamp").is_some() {
        Some("is stopping".to_owned())
    } else if let Some(room) = member.room.filter(|room| room.is_full() && !runs(member)) {
        Some(format!("has no room left on its volume ({} MiB of {} MiB)", room.free >> 20, room.size >> 20))
    } else if let Some(waiting) = member.waiting() {
        Some(format!("is not running ({waiting})"))
    } else if text(member.pod, "/spec/nodeName").is_none() {
        Some("has no node yet".to_owned())
    } else if member.is_silent() {
        Some("does not answer".to_owned())
    } else if let Some((role, state)) = said.or(wrote) {
        if state == super::status::CLONING {
            Some("is being cloned from the primary".to_owned())
        } else if state != "running" {
            Some(match state {
                "crashed" => "has crashed".to_owned(),
                "start failed" => "could not start PostgreSQL".to_owned(),
                state => format!("is {state}"),
            })
        } else if role == "primary" || role == "replica" {
            (!member.ready()).then(|| "is not ready".to_owned())
        } else {
            Some(format!("is {role}"))
        }
    } else {
        Some("is starting".to_owned())
    }
}

/// Its PostgreSQL runs, by its own word.
fn runs(member: &Member<'_>) -> bool {
    member.answer.is_some_and(|answer| answer.state == "running")
}

/// What keeps a replica from counting, as the rest of a sentence that begins with its name.
pub fn replica_problem(cx: &Context<'_>, member: &Member<'_>) -> Option<String> {
    let behind = super::status::lag(cx, member).filter(|lag| *lag > 0);
    if let Some(lag) = behind.filter(|_| !member.ready() && !member.is_silent() && member.streams()) {
        return Some(format!("streams, but is more than {} MiB behind the primary", lag >> 20));
    }
    if let Some(problem) = problem(member) {
        return Some(problem);
    }
    if !member.is_streaming_replica() {
        let misnamed =
            member.status.as_ref().map(|status| status.role.as_str()).filter(|role| *role != "replica");
        return Some(match misnamed {
            Some(role) if member.answer.is_some_and(Answer::is_running_replica) => {
                format!("runs as a replica, but Patroni lists it as {role}")
            }
            _ => "is not streaming from the primary".to_owned(),
        });
    }
    let primary = cx.view.running_primary()?.timeline();
    let differs = primary.zip(member.timeline()).is_some_and(|(primary, own)| primary != own);
    differs.then(|| "is on another timeline than the primary".to_owned())
}

/// Whether a member counts as ready: the primary runs as such, a replica streams.
pub fn member_ready(cx: &Context<'_>, member: &Member<'_>) -> bool {
    if cx.view.lock.holder.as_deref() == Some(member.name) {
        member.ready() && cx.view.running_primary().is_some()
    } else {
        replica_problem(cx, member).is_none()
    }
}

fn ready(cx: &Context<'_>, scale: &Scale, writable: &Verdict) -> Verdict {
    if cx.view.stateful_set.is_none() {
        return Verdict::no(reason::CREATING, "the members are being made");
    }
    if let Some(upgrading) = super::major::verdict(cx) {
        return upgrading;
    }
    if let Some(restoring) = super::restore::verdict(cx) {
        return restoring;
    }
    if let Some(waiting) = &scale.waiting {
        return Verdict::no(reason::SCALING, format!("{} asked for: {waiting}", count(cx.spec().replicas)));
    }
    // While no replica confirms commits they exist on the primary alone. That outweighs which member is missing.
    if degraded(cx) && writable.status == Some(true) {
        return Verdict::no(
            reason::SYNC_DEGRADED,
            "no replica confirms commits, so they exist on the primary alone until one does",
        );
    }
    // That nobody can write outweighs it too, but before there is a database that goes without saying.
    let outage = (writable.status != Some(true)).then(|| writable.clone());
    let (first, second) =
        if cx.view.initialized() { (outage, members_ready(cx)) } else { (members_ready(cx), outage) };
    first.or(second).or_else(|| isolated(cx)).or_else(|| unlisted(cx)).unwrap_or_else(|| {
        let count = cx.spec().replicas;
        let message = if count == 1 {
            "the member is ready".to_owned()
        } else {
            format!("all {count} members are ready")
        };
        Verdict::yes(reason::ALL_MEMBERS_READY, message)
    })
}

/// The first thing that a member lacks.
pub fn members_ready(cx: &Context<'_>) -> Option<Verdict> {
    let replicas = cx.spec().replicas;
    let missing: Vec<String> = (0..replicas)
        .map(|ordinal| cx.names.member(ordinal))
        .filter(|name| cx.view.member(name).is_none())
        .collect();
    if !missing.is_empty() {
        let message =
            format!("no pod yet for {} of {}: {}", missing.len(), count(replicas), missing.join(", "));
        return Some(Verdict::no(reason::MEMBERS_MISSING, message));
    }
    let surplus: Vec<&str> = cx
        .view
        .members
        .iter()
        .filter(|member| member.ordinal >= replicas)
        .map(|member| member.name)
        .collect();
    if !surplus.is_empty() {
        return Some(Verdict::no(reason::SCALING, format!("being removed: {}", surplus.join(", "))));
    }
    let lame = cx.view.members.iter().find(|member| !member_ready(cx, member))?;
    let does = replica_problem(cx, lame).unwrap_or_else(|| "is not ready".to_owned());
    Some(Verdict::no(reason::MEMBER_NOT_READY, format!("{} {does}", lame.name)))
}

/// Every member is there, and commits wait for those that they should wait for.
pub fn complete(cx: &Context<'_>) -> bool {
    cx.view.running_primary().is_some() && members_ready(cx).is_none() && unlisted(cx).is_none()
}

/// What it lacks for that, as a sentence; the primary aside.
pub fn incomplete(cx: &Context<'_>) -> Option<String> {
    members_ready(cx).or_else(|| unlisted(cx)).map(|verdict| verdict.message)
}

fn synchronous(cx: &Context<'_>) -> bool {
    cx.spec().synchronous && cx.spec().replicas > 1
}

/// Somebody should confirm commits and does not yet.
pub fn awaits_standbys(cx: &Context<'_>) -> bool {
    degraded(cx) || unlisted(cx).is_some()
}

/// Commits should wait for a replica, and there is none that they wait for.
fn degraded(cx: &Context<'_>) -> bool {
    synchronous(cx)
        && cx.view.initialized()
        && (cx.view.sync.standbys.is_empty() || cx.view.sync.leader != cx.view.lock.holder)
}

/// A replica that streams but is not yet among those that commits wait for.
fn unlisted(cx: &Context<'_>) -> Option<Verdict> {
    let listed = |member: &&Member<'_>| {
        cx.view.lock.holder.as_deref() == Some(member.name) || cx.view.sync.standbys.contains(member.name)
    };
    if !synchronous(cx) {
        return None;
    }
    let member = cx.view.members.iter().find(|member| !listed(member))?;
    Some(Verdict::no(
        reason::MEMBER_NOT_READY,
        format!("{} streams, but is not listed as a synchronous standby yet", member.name),
    ))
}

/// Commits should wait for that replica, among others, and do not yet.
pub fn unlisted_standby(cx: &Context<'_>, name: &str) -> bool {
    synchronous(cx) && !cx.view.sync.standbys.contains(name)
}

fn volumes(cx: &Context<'_>) -> Verdict {
    let wanted: Vec<String> = (0..cx.spec().replicas).map(|ordinal| cx.names.claim(ordinal)).collect();
    let phase = |name: &String| {
        cx.observed.get(Kind::PersistentVolumeClaim, name).and_then(|claim| text(claim, "/status/phase"))
    };
    let unbound: Vec<&str> =
        wanted.iter().filter(|name| phase(name) != Some("Bound")).map(String::as_str).collect();
    if !unbound.is_empty() {
        return Verdict::no(
            reason::CLAIM_PENDING,
            format!("no volume yet for {}; `dbctl doctor {}` says why", unbound.join(", "), cx.names.0),
        );
    }
    let going: Vec<&str> = wanted
        .iter()
        .filter(|name| cx.observed.get(Kind::PersistentVolumeClaim, name).is_some_and(terminating))
        .map(String::as_str)
        .collect();
    if !going.is_empty() {
        return Verdict::no(
            reason::CLAIM_TERMINATING,
            format!(
                "deleted by somebody, and gone as soon as its member stops: {}; delete that member's pod while the others are \
                 well, and it starts afresh from their data",
                going.join(", ")
            ),
        );
    }
    if let Some(room) = storage::room(cx) {
        return room;
    }
    match storage::growth(cx) {
        Some((reason::RESIZE_REFUSED, why)) => Verdict::no(reason::RESIZE_REFUSED, why),
        Some((reason, growth)) => Verdict::yes(reason, growth),
        None => Verdict::yes(reason::CLAIMS_BOUND, "every member has its volume"),
    }
}

fn up_to_date(cx: &Context<'_>, rollout: &Rollout, now: jiff::Timestamp) -> Verdict {
    if let Some(paused) = pause::verdict(cx) {
        return paused;
    }
    if cx.view.stateful_set.is_none() {
        return Verdict::no(reason::CREATING, "the members are being made");
    }
    if let Some(wrong) = certificates::verdict(cx, now) {
        return wrong;
    }
    match &rollout.state {
        State::Settled => {}
        State::Held(message) => return Verdict::no(reason::UPGRADE_NEEDED, message.clone()),
        State::Waits(message) | State::Moves(message) => {
            return Verdict::no(reason::PODS_OUTDATED, message.clone());
        }
        State::Halted(message) => return Verdict::no(reason::ROLLOUT_HALTED, message.clone()),
    }
    if let Some((reason, growth)) = storage::growth(cx) {
        return Verdict::no(reason, growth);
    }
    settings(cx).unwrap_or_else(|| Verdict::yes(reason::PODS_UP_TO_DATE, "every pod runs the spec"))
}

/// Settings that have not reached PostgreSQL yet.
fn settings(cx: &Context<'_>) -> Option<Verdict> {
    if config::pending(cx).is_some() {
        let message =
            "Patroni's configuration differs from the spec; it is changed as soon as the primary runs";
        return Some(Verdict::no(reason::CONFIG_PENDING, message));
    }
    let waits = |member: &&Member<'_>| match (member.answer, &member.status) {
        (Some(answer), _) => answer.pending_restart,
        (None, status) => status.as_ref().is_some_and(|status| status.pending_restart),
    };
    let waiting: Vec<&str> = cx.view.members.iter().filter(waits).map(|member| member.name).collect();
    (!waiting.is_empty()).then(|| {
        let message =
            format!("settings take effect with a restart of {}, one after the other", waiting.join(", "));
        Verdict::no(reason::RESTART_PENDING, message)
    })
}
