//! The status: what there is, in the user's words. Nothing in it moves while nothing happens.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::blocked::Blocked;
use super::conditions::{member_ready, verdicts};
use super::context::Context;
use super::rollout::{Rollout, State};
use super::scale::Scale;
use super::view::Member;
use super::{Event, backup, certificates, outage, pause, storage};
use crate::api::{
    Catalog, ConditionType, DatabaseStatus, Instance, KeptData, Operation, Phase, ROLE_PRIMARY, ROLE_REPLICA,
    StoredBackup, Verdict, merge_conditions, reason,
};

/// Lag below this is noise: a busy primary is always a little ahead of what was last heard of a replica. It is also the
/// step that larger lag is told in, since each change of it is a write.
const LAG_STEP: i64 = 16 << 20;

/// The status as it should be now.
pub fn status(
    cx: &Context<'_>,
    scale: &Scale,
    rollout: &Rollout,
    blocked: Option<&Blocked>,
    operations: Vec<Operation>,
    now: jiff::Timestamp,
) -> (DatabaseStatus, Vec<Event>) {
    let old = cx.database.status.clone().unwrap_or_default();
    let generation = cx.database.metadata.generation;
    let verdicts = verdicts(cx, scale, rollout, blocked, now);
    let writable = verdicts.iter().any(|(of, v)| *of == ConditionType::Writable && v.status == Some(true));
    let record = outage::record(cx, writable, &operations, now);
    let replicas = cx.spec().replicas;
    let ready =
        cx.view.members.iter().filter(|member| member.ordinal < replicas && member_ready(cx, member)).count();
    let ready = i32::try_from(ready).unwrap_or(i32::MAX);
    let selector: Vec<String> =
        cx.names.selector().iter().map(|(key, value)| format!("{key}={value}")).collect();
    let stored = backup::catalog(cx).map(|catalog| stored(&catalog));
    let (backups, last_backup_time, earliest_recovery_time) =
        stored.unwrap_or((old.backups, old.last_backup_time, old.earliest_recovery_time));
    let status = DatabaseStatus {
        observed_generation: generation,
        phase: Some(phase(cx, scale, rollout, blocked, &verdicts, old.phase)),
        primary: cx.view.lock.holder.clone(),
        replicas: i32::try_from(cx.view.members.len()).unwrap_or(i32::MAX),
        ready_replicas: ready,
        ready: Some(format!("{ready}/{replicas}")),
        selector: Some(selector.join(",")),
        version: version(cx).or(old.version),
        instances: cx.view.members.iter().map(|member| instance(cx, member)).collect(),
        last_backup_time,
        earliest_recovery_time,
        backups,
        upgrade: super::major::progress(cx, &operations).or_else(|| rollout.upgrade.clone()),
        operations,
        last_failover: record.failovers.first().cloned(),
        failovers: record.failovers,
        outage: record.outage,
        conditions: merge_conditions(&old.conditions, &verdicts, generation, now),
    };
    (status, record.events)
}

/// How many backups the status lists; the ConfigMap with the catalog has all.
const BACKUPS: usize = 100;

/// The catalog as the status tells it: the backups, the end of the newest, and the first instant that can be restored.
fn stored(catalog: &Catalog) -> (Vec<StoredBackup>, Option<Time>, Option<Time>) {
    let of = |entry: &crate::api::CatalogEntry| StoredBackup {
        id: entry.id.clone(),
        started_at: Some(second(entry.started_at)),
        finished_at: Some(second(entry.stopped_at)),
        from: Some(entry.from.clone()).filter(|from| !from.is_empty()),
        size_bytes: i64::try_from(entry.bytes).ok(),
        verified_at: entry.verified_at.map(second),
        verify_problem: entry.verify_problem.clone(),
    };
    let newest = catalog.newest().map(|entry| second(entry.stopped_at));
    (catalog.backups.iter().take(BACKUPS).map(of).collect(), newest, catalog.earliest.map(second))
}

/// The second of an instant: an object's times have no more, and what is finer would look like a change in each pass.
fn second(at: jiff::Timestamp) -> Time {
    Time(jiff::Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The release that every member's pod was made for; `None` while they differ, or none of them runs: the data may be of
/// another major version, and which one the spec may ask for is measured by this.
fn version(cx: &Context<'_>) -> Option<String> {
    cx.view.running_primary()?;
    let mut versions = cx.view.members.iter().map(Member::version);
    let first = versions.next()??;
    versions.all(|version| version == Some(first)).then(|| first.to_owned())
}

fn instance(cx: &Context<'_>, member: &Member<'_>) -> Instance {
    let holds = cx.view.lock.holder.as_deref() == Some(member.name);
    let status = member.status.as_ref();
    let role = if holds && member.is_running_primary() {
        Some(ROLE_PRIMARY.to_owned())
    } else if !holds && status.is_some_and(|status| status.role == "replica" && status.state == "running") {
        Some(ROLE_REPLICA.to_owned())
    } else {
        None
    };
    let streams = status.filter(|_| !holds).and_then(|status| status.replication_state.clone());
    let state = streams.or_else(|| status.map(|status| status.state.clone()));
    let lag = lag(cx, member).filter(|_| !holds);
    Instance {
        name: member.name.to_owned(),
        role,
        state,
        version: member.version().map(str::to_owned),
        timeline: member.timeline().or_else(|| last_timeline(cx, member)),
        lag_bytes: lag,
        node_cordoned: cx.on_cordoned_node(member.pod),
        kept: kept(cx, member),
    }
}

/// What it keeps of before restores in place; what was last heard, while it says nothing.
fn kept(cx: &Context<'_>, member: &Member<'_>) -> Vec<KeptData> {
    let Some(kept) = cx.observed.kept.get(member.name) else {
        let before = cx.database.status.iter().flat_map(|status| &status.instances);
        return before
            .filter(|instance| instance.name == member.name)
            .flat_map(|instance| instance.kept.clone())
            .collect();
    };
    let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    kept.iter().map(|kept| KeptData { id: kept.id.to_string(), size_bytes: kept.bytes.map(size) }).collect()
}

/// The timeline of the data of a member that does not run. One that is cloned has none yet.
fn last_timeline(cx: &Context<'_>, member: &Member<'_>) -> Option<i64> {
    let status = cx.database.status.as_ref()?;
    let before = status.instances.iter().find(|instance| instance.name == member.name)?;
    let cloned = member.status.as_ref().is_some_and(|status| status.state == CLONING);
    before.timeline.filter(|_| !cloned)
}

/// How far a member is behind, in bytes of WAL and in large steps.
pub fn lag(cx: &Context<'_>, member: &Member<'_>) -> Option<i64> {
    let replayed = member.status.as_ref()?.replay_lsn?;
    Some(cx.view.lock.optime?.saturating_sub(replayed).max(0) / LAG_STEP * LAG_STEP)
}

/// One word. It is for people: nothing is decided by it, but that a first creation stays one until it is done.
fn phase(
    cx: &Context<'_>,
    scale: &Scale,
    rollout: &Rollout,
    blocked: Option<&Blocked>,
    verdicts: &[(ConditionType, Verdict)],
    before: Option<Phase>,
) -> Phase {
    let is = |kind: ConditionType| verdicts.iter().any(|(of, v)| *of == kind && v.status == Some(true));
    // One that is restored in place is not made for the first time.
    let filled = before == Some(Phase::Restoring) && cx.view.mark.is_none();
    let first = filled || matches!(before, None | Some(Phase::Pending | Phase::Creating));
    if cx.database.metadata.deletion_timestamp.is_some() {
        Phase::Deleting
    } else if let Some(blocked) = blocked {
        blocked.phase
    } else if super::major::active(cx).is_some() {
        Phase::Upgrading
    } else if let (State::Moves(_), true) = (&rollout.state, is(ConditionType::Writable)) {
        if rollout.upgrade.is_some() { Phase::Upgrading } else { Phase::Progressing }
    } else if let (State::Halted(_), true) = (&rollout.state, is(ConditionType::Writable)) {
        Phase::Degraded
    } else if is(ConditionType::Ready) {
        Phase::Running
    } else if cx.view.stateful_set.is_none() && !cx.view.initialized() {
        Phase::Pending
    } else if let Some(phase) = super::restore::phase(cx) {
        phase
    } else if first || !cx.view.initialized() {
        Phase::Creating
    } else if !is(ConditionType::Writable) {
        let others = cx.view.members.iter().any(|member| {
            cx.view.lock.holder.as_deref() != Some(member.name) && member.is_streaming_replica()
        });
        if others && cx.spec().replicas > 1 { Phase::FailingOver } else { Phase::Degraded }
    } else if changing(cx, scale) {
        Phase::Progressing
    } else {
        Phase::Degraded
    }
}

/// Members are coming or going because the spec says so.
fn changing(cx: &Context<'_>, scale: &Scale) -> bool {
    let replicas = cx.spec().replicas;
    let count = i32::try_from(cx.view.members.len()).unwrap_or(i32::MAX);
    let cloning = |member: &Member<'_>| {
        member.waiting().is_none() && member.status.as_ref().is_none_or(|status| status.state != "running")
    };
    scale.waiting.is_some()
        || scale.switchover.is_some()
        || cx.view.stateful_replicas() != Some(replicas)
        || count != replicas
        || cx.view.members.iter().any(cloning)
}

/// What somebody should hear of even where something else was wrong before.
const GRAVE: [&str; 3] = [reason::PRIMARY_SUSPECT, reason::SPLIT_BRAIN, reason::NO_SAFE_CANDIDATE];

/// Events for what the status says for the first time.
pub fn events(cx: &Context<'_>, new: &DatabaseStatus, blocked: Option<&Blocked>) -> Vec<Event> {
    let old = cx.database.status.clone().unwrap_or_default();
    let mut events = Vec::new();
    let find =
        |conditions: &[Condition]| conditions.iter().find(|condition| condition.type_ == "Ready").cloned();
    let before = find(&old.conditions);
    if let Some(after) = find(&new.conditions) {
        let flipped = before.as_ref().is_none_or(|before| before.status != after.status);
        let retold = before.as_ref().is_none_or(|before| before.reason != after.reason);
        let grave = blocked.is_some_and(|blocked| blocked.warning)
            || GRAVE.contains(&after.reason.as_str())
            || (after.reason == reason::SYNC_DEGRADED && new.phase != Some(Phase::Creating));
        if after.status == "True" && flipped {
            events.push(Event::normal("Ready", after.message));
        } else if after.status != "True"
            && ((before.is_some_and(|b| b.status == "True")) || (grave && retold))
        {
            // What the user asked for is no cause for alarm.
            let asked = matches!(new.phase, Some(Phase::Deleting | Phase::Progressing | Phase::Upgrading));
            events.push(Event { warning: !asked, reason: after.reason, message: after.message });
        }
    }
    events.extend(pause::event(&old, new));
    events.extend(certificates::event(&old, new));
    events.extend(storage::events(&old, new));
    events.extend(new.instances.iter().filter_map(|instance| cloned_anew(&old, instance)));
    let replicas = cx.spec().replicas;
    if old.observed_generation != new.observed_generation
        && replicas > 2
        && replicas % 2 == 0
        && blocked.is_none()
    {
        events.push(Event::warning(
            reason::EVEN_REPLICAS,
            format!(
                "{replicas} members survive the loss of no more members than {} do: an odd number is the better choice",
                replicas - 1
            ),
        ));
    }
    events
}

/// Patroni's word for a member whose data is being copied from another's.
pub const CLONING: &str = "creating replica";

/// A member that had data and is being given new: what it had could not follow the primary.
fn cloned_anew(old: &DatabaseStatus, now: &Instance) -> Option<Event> {
    let before = old.instances.iter().find(|instance| instance.name == now.name)?;
    let had_data = before.timeline.is_some() && before.state.as_deref() != Some(CLONING);
    (had_data && now.state.as_deref() == Some(CLONING)).then(|| {
        Event::normal(
            "MemberCloned",
            format!(
                "{} is being cloned from the primary anew: its own data cannot follow the primary's",
                now.name
            ),
        )
    })
}
