//! Volumes: how much room they have, and how they grow. Nothing ever shrinks.
//!
//! A claim is asked to be larger, and the cluster makes its volume so. The StatefulSet's own template cannot be changed, so
//! the StatefulSet is deleted without its pods and made anew, which takes them up again; none of them is touched.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::conditions::complete;
use super::context::Context;
use super::object::{terminating, uid_of};
use super::ownership::{Owner, owner};
use super::scale::Scale;
use super::text::{at, list, text};
use super::view::Member;
use super::{Action, Kind, Observed, Room, members, name_of, pod, rollout, scale};
use crate::api::{ConditionType, Database, DatabaseStatus, Names, Quantity, Verdict, reason};

/// The condition of a claim whose volume has grown, while its file system has not: a node does that, many only when a pod
/// starts. <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#resizing-an-in-use-persistentvolumeclaim>
const RESIZE_PENDING: &str = "FileSystemResizePending";
/// How long a node is given to let the file system of a running member grow, before the member is started anew for it.
const ONLINE: SignedDuration = SignedDuration::from_secs(90);
/// The same for a member that does not run: there is nothing to lose.
const BROKEN: SignedDuration = SignedDuration::from_secs(5);
/// The same for one that runs on a full volume, and can do little more than be read.
const FULL: SignedDuration = SignedDuration::from_secs(20);

/// The share of a volume that may be used before it is told of, in percent, and that from which it is urgent.
const FILLING: u64 = 80;
const NEARLY_FULL: u64 = 95;
/// How far it must fall below that before it counts as well again, so that nothing flutters.
const SLACK: u64 = 2;

impl Room {
    /// How much of it is used, in percent.
    fn used_percent(&self) -> u64 {
        let used = u128::from(self.size.saturating_sub(self.free)) * 100;
        u64::try_from(used / u128::from(self.size.max(1))).unwrap_or(100)
    }
}

/// A size that an object says.
fn size(object: &Value, path: &str) -> Option<Quantity> {
    text(object, path)?.parse().ok()
}

/// What the claim asks for.
fn requested(claim: &Value) -> Option<Quantity> {
    size(claim, "/spec/resources/requests/storage")
}

/// The claims of the members that there are, or are to be.
fn claims<'a>(cx: &Context<'a>) -> Vec<&'a Value> {
    (0..scale::members(cx))
        .filter_map(|ordinal| cx.observed.get(Kind::PersistentVolumeClaim, &cx.names.claim(ordinal)))
        .filter(|claim| owner(cx, Kind::PersistentVolumeClaim, claim) == Owner::Ours && !terminating(claim))
        .collect()
}

/// Claims that ask for less than the spec does. One without a volume cannot be changed.
fn small<'a>(cx: &Context<'a>) -> Vec<&'a Value> {
    let wanted = cx.spec().storage.size.clone();
    let bound = |claim: &&Value| text(claim, "/status/phase") == Some("Bound");
    let small = |claim: &&Value| requested(claim).is_some_and(|has| has < wanted);
    claims(cx).into_iter().filter(bound).filter(small).collect()
}

/// The storage classes of a Database's claims that are to grow: whoever observes looks up whether they let them.
pub fn classes_to_grow(database: &Database, observed: &Observed) -> Vec<String> {
    let Some(name) = database.metadata.name.as_deref() else { return Vec::new() };
    let names = Names(name);
    let ours = observed
        .all(Kind::PersistentVolumeClaim)
        .filter(|claim| name_of(claim).strip_prefix("data-").is_some_and(|of| names.ordinal(of).is_some()));
    let small = ours.filter(|claim| requested(claim).is_some_and(|has| has < database.spec.storage.size));
    let mut classes: Vec<String> =
        small.filter_map(|claim| text(claim, "/spec/storageClassName").map(str::to_owned)).collect();
    classes.sort();
    classes.dedup();
    classes
}

/// The storage class that keeps a claim from growing. One that may not be read is tried.
fn forbidding<'a>(cx: &Context<'a>, claim: &'a Value) -> Option<&'a str> {
    let class = text(claim, "/spec/storageClassName")?;
    (cx.observed.expansion.get(class) == Some(&false)).then_some(class)
}

/// The steps by which volumes grow.
pub fn plan(cx: &Context<'_>, scale: &Scale, now: Timestamp) -> Vec<Action> {
    let wanted = &cx.spec().storage.size;
    let small: Vec<&Value> = small(cx).into_iter().filter(|claim| forbidding(cx, claim).is_none()).collect();
    if !small.is_empty() {
        let grow = |claim: &&Value| Action::PatchClaim {
            name: name_of(claim).to_owned(),
            uid: uid_of(claim).map(str::to_owned),
            patch: json!({ "spec": { "resources": { "requests": { "storage": wanted } } } }),
        };
        return small.iter().map(grow).collect();
    }
    let mut actions: Vec<Action> = replacement(cx, scale).into_iter().collect();
    actions.extend(restart(cx, now));
    actions
}

/// The StatefulSet's end, without its pods, where what it gives new volumes is too small. Never while members come or go: how
/// many there are would be known by the pods alone for a moment. Never with a template that is on its way to the pods either:
/// what they were made from would be forgotten with the object.
fn replacement(cx: &Context<'_>, scale: &Scale) -> Option<Action> {
    let set = cx.view.stateful_set.filter(|set| !terminating(set))?;
    let given: Quantity = members::template_size(cx)?.parse().ok()?;
    let settled = scale.waiting.is_none()
        && scale.switchover.is_none()
        && cx.view.stateful_replicas() == Some(cx.spec().replicas);
    let wanted = pod::template(cx, members::release(cx));
    let settled =
        settled && at(set, "/spec/template").and_then(rollout::hash_of) == rollout::hash_of(&wanted);
    let ours = matches!(owner(cx, Kind::StatefulSet, set), Owner::Ours | Owner::Orphaned);
    (given < cx.spec().storage.size && settled && ours)
        .then(|| Action::Orphan { name: name_of(set).to_owned(), uid: uid_of(set).map(str::to_owned) })
}

/// Since when the claim waits for its node.
fn awaits_node(claim: &Value) -> Option<Timestamp> {
    let mut conditions = list(claim, "/status/conditions").iter();
    let pending = conditions.find(|each| each["type"] == RESIZE_PENDING && each["status"] == "True")?;
    text(pending, "/lastTransitionTime")?.parse().ok()
}

/// A member to start anew, so that its file system grows: one at a time, the primary last, and those that run only while all
/// others do. One that was started since then has had its turn.
fn restart(cx: &Context<'_>, now: Timestamp) -> Option<Action> {
    let waits = |member: &&Member<'_>| {
        let claim = cx.observed.get(Kind::PersistentVolumeClaim, &cx.names.claim(member.ordinal));
        let since = claim.and_then(awaits_node)?;
        let began: Timestamp = text(member.pod, "/status/startTime")?.parse().ok()?;
        (began <= since && !terminating(member.pod)).then(|| now.duration_since(since))
    };
    let broken = |member: &&Member<'_>| !member.ready();
    let leads = |member: &&Member<'_>| cx.view.lock.holder.as_deref() == Some(member.name);
    let due =
        |member: &&Member<'_>, after: SignedDuration| waits(member).is_some_and(|waited| waited >= after);
    let all = || cx.view.members.iter();
    let full = |member: &&Member<'_>| member.room.is_some_and(|room| room.is_full());
    let lame = all()
        .find(|member| broken(member) && due(member, BROKEN))
        .or_else(|| all().find(|member| full(member) && due(member, FULL)));
    let fit = || {
        let replicas = all().filter(|member| !leads(member));
        let mut ordered = replicas.chain(all().filter(leads));
        ordered.find(|member| due(member, ONLINE)).filter(|_| complete(cx))
    };
    let member = lame.or_else(fit)?;
    Some(Action::Delete {
        kind: Kind::Pod,
        name: member.name.to_owned(),
        uid: uid_of(member.pod).map(str::to_owned),
    })
}

/// What volumes still have to grow by; the reason says whether it goes on by itself.
pub fn growth(cx: &Context<'_>) -> Option<(&'static str, String)> {
    let wanted = &cx.spec().storage.size;
    let names = |claims: &[&Value]| claims.iter().map(|claim| name_of(claim)).collect::<Vec<_>>().join(", ");
    let all = claims(cx);
    let small = small(cx);
    let refused: Vec<&Value> =
        small.iter().copied().filter(|claim| forbidding(cx, claim).is_some()).collect();
    if let Some(class) = refused.first().and_then(|claim| forbidding(cx, claim)) {
        return Some((
            reason::RESIZE_REFUSED,
            format!(
                "{} cannot grow to {wanted}: StorageClass {class:?} does not allow it; set its allowVolumeExpansion to true if its \
                 driver can do it, or give members new volumes one by one: delete a replica's claim and then its pod, wait until \
                 the database is Ready, fail over, and so on",
                names(&refused)
            ),
        ));
    }
    let lacks = |claim: &Value| size(claim, "/status/capacity/storage").is_some_and(|has| has < *wanted);
    let growing: Vec<&Value> =
        all.into_iter().filter(|claim| lacks(claim) || small.contains(claim)).collect();
    let nodes: Vec<&Value> = growing.iter().copied().filter(|claim| awaits_node(claim).is_some()).collect();
    if !nodes.is_empty() {
        return Some((
            reason::RESIZE_PENDING,
            format!(
                "growing to {wanted}: the file system of {} grows with the next start of its member, which dbctl brings about where \
                 the node does not do it before",
                names(&nodes)
            ),
        ));
    }
    if !growing.is_empty() {
        return Some((reason::RESIZE_PENDING, format!("growing to {wanted}: {}", names(&growing))));
    }
    let template: Option<Quantity> = members::template_size(cx).and_then(|given| given.parse().ok());
    template.filter(|given| given < wanted).map(|given| {
        (reason::RESIZE_PENDING, format!("new volumes would still have {given} instead of {wanted}"))
    })
}

/// What the room on members' volumes says.
pub fn room(cx: &Context<'_>) -> Option<Verdict> {
    let full: Vec<&Member<'_>> =
        cx.view.members.iter().filter(|member| member.room.is_some_and(|room| room.is_full())).collect();
    if !full.is_empty() {
        return Some(Verdict::no(reason::VOLUME_FULL, volume_full(cx, &full)));
    }
    let before = last_reason(cx.database.status.as_ref());
    let levels = [(NEARLY_FULL, reason::VOLUME_NEARLY_FULL), (FILLING, reason::VOLUME_FILLING)];
    levels.into_iter().find_map(|(limit, reason)| {
        let told = before == Some(reason) || (limit == FILLING && before == Some(reason::VOLUME_NEARLY_FULL));
        let from = if told { limit - SLACK } else { limit };
        let over = |room: &Room| room.used_percent() >= from;
        let over: Vec<String> = cx
            .view
            .members
            .iter()
            .filter_map(|member| Some((member.name, member.room.filter(over)?)))
            .map(|(name, room)| format!("{name} ({} MiB)", room.size >> 20))
            .collect();
        let grow = match growth(cx) {
            Some((reason::RESIZE_PENDING, growth)) => growth,
            _ => format!("`dbctl resize {} --storage SIZE` makes it larger while all goes on", cx.names.0),
        };
        (!over.is_empty()).then(|| {
            let text = format!("more than {limit} % of the volume is used at {}; {grow}", over.join(", "));
            Verdict::no(reason, text)
        })
    })
}

/// What `StorageHealthy` said last: it decides nothing but how soon it says something else.
fn last_reason(status: Option<&DatabaseStatus>) -> Option<&str> {
    let kind = ConditionType::StorageHealthy.to_string();
    let condition = status?.conditions.iter().find(|condition| condition.type_ == kind)?;
    Some(condition.reason.as_str())
}

/// Whose volume it is decides what that does: the primary's writes fail, a replica stops.
fn volume_full(cx: &Context<'_>, full: &[&Member<'_>]) -> String {
    let holder = cx.view.lock.holder.as_deref();
    let names: Vec<&str> = full.iter().map(|member| member.name).collect();
    let effect = if names.iter().any(|name| Some(*name) == holder) {
        "writes that need more of it fail"
    } else {
        "it stops where it gets no more"
    };
    let grow = match growth(cx) {
        Some((_, growth)) => format!("; {growth}"),
        None => format!(" until it is larger: `dbctl resize {} --storage SIZE`", cx.names.0),
    };
    format!("hardly any room is left on the volume of {}: {effect}{grow}", names.join(" and "))
}

/// How bad what `StorageHealthy` says is.
fn gravity(reason: &str) -> u8 {
    match reason {
        reason::VOLUME_FILLING => 1,
        reason::VOLUME_NEARLY_FULL => 2,
        reason::VOLUME_FULL => 3,
        _ => 0,
    }
}

/// Tells when room runs out, at each step, and when there is enough again; and when volumes cannot grow, or have grown.
pub fn events(old: &DatabaseStatus, new: &DatabaseStatus) -> Vec<super::Event> {
    let kind = ConditionType::StorageHealthy.to_string();
    let Some(after) = new.conditions.iter().find(|condition| condition.type_ == kind) else {
        return Vec::new();
    };
    let before = last_reason(Some(old)).unwrap_or_default();
    let (was, is) = (gravity(before), gravity(&after.reason));
    let refused = after.reason == reason::RESIZE_REFUSED && before != reason::RESIZE_REFUSED;
    let mut events = Vec::new();
    if is > was || refused {
        events.push(super::Event::warning(after.reason.clone(), after.message.clone()));
    } else if was > 0 && is == 0 {
        events.push(super::Event::normal("VolumeRoomAgain", "there is enough room on the volumes again"));
    }
    if before == reason::RESIZE_PENDING && after.reason == reason::CLAIMS_BOUND {
        events.push(super::Event::normal(
            "Resized",
            "every member's volume has the size that the spec asks for",
        ));
    }
    events
}
