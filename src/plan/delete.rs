//! The end of a Database: first its members stop, then what its deletion policy gives up goes, then the Database itself.

use super::blocked::Blocked;
use super::context::Context;
use super::object::{terminating, uid_of};
use super::ownership::{Owner, owner, retained};
use super::view::Member;
use super::{Action, Kind, name_of};
use crate::api::{DeletionPolicy, FINALIZER, Phase, reason};

/// The garbage collector's own finalizer on what is deleted with `--cascade=orphan`.
const ORPHAN: &str = "orphan";

/// The next steps. Members stop while the primary may still reach the API server: their Role goes with the Database.
pub fn plan(cx: &Context<'_>, policy: DeletionPolicy) -> Vec<Action> {
    if !cx.database.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER) {
        return Vec::new();
    }
    // `--cascade=orphan`: the garbage collector first cuts everything off, and what it has cut off goes on without a Database.
    if being_orphaned(cx) {
        return Vec::new();
    }
    if is_orphaned(cx) {
        return vec![Action::RemoveFinalizer];
    }
    let set = cx.view.stateful_set.filter(|set| owner(cx, Kind::StatefulSet, set) == Owner::Ours);
    if let Some(set) = set {
        let delete = (!terminating(set)).then(|| delete(Kind::StatefulSet, set));
        return delete.into_iter().collect();
    }
    // The garbage collector removes the pods of a StatefulSet that is gone, unless somebody had orphaned them.
    let own =
        |member: &&Member<'_>| !matches!(owner(cx, Kind::Pod, member.pod), Owner::Foreign | Owner::Orphaned);
    if cx.view.members.iter().any(|member| own(&member)) {
        let left = cx.view.members.iter().filter(own).filter(|member| !terminating(member.pod));
        return left.map(|member| delete(Kind::Pod, member.pod)).collect();
    }
    let mut actions = Vec::new();
    // Whoever removes dbctl from a cluster has said nothing of data.
    if policy == DeletionPolicy::Delete && !cx.observed.definition_going {
        let gone = retained(cx, cx.observed);
        actions.extend(
            gone.iter()
                .filter(|(_, object)| !terminating(object))
                .map(|(kind, object)| delete(*kind, object)),
        );
        if !gone.is_empty() {
            return actions;
        }
    }
    actions.push(Action::RemoveFinalizer);
    actions
}

fn being_orphaned(cx: &Context<'_>) -> bool {
    cx.database.metadata.finalizers.iter().flatten().any(|name| name == ORPHAN)
}

fn is_orphaned(cx: &Context<'_>) -> bool {
    cx.view.stateful_set.is_some_and(|set| owner(cx, Kind::StatefulSet, set) == Owner::Orphaned)
}

fn delete(kind: Kind, object: &serde_json::Value) -> Action {
    Action::Delete { kind, name: name_of(object).to_owned(), uid: uid_of(object).map(str::to_owned) }
}

/// What the status says meanwhile.
pub fn blocked(cx: &Context<'_>) -> Blocked {
    let message = match cx.view.members.len() {
        _ if super::pause::is_paused(cx) => {
            format!("dbctl is paused here: it is deleted after `dbctl resume {}`", cx.names.0)
        }
        _ if being_orphaned(cx) || is_orphaned(cx) => "what was made for it goes on without it".to_owned(),
        0 if cx.observed.definition_going => {
            "members have stopped; the definition of Databases is being deleted, so their data stays"
                .to_owned()
        }
        0 => "members have stopped; what the deletion policy gives up is removed".to_owned(),
        1 => "1 member is stopping".to_owned(),
        left => format!("{left} members are stopping"),
    };
    Blocked { reason: reason::DELETING, message, phase: Phase::Deleting, warning: false }
}
