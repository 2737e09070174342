//! Whose the objects of the needed names are. What is not this Database's own is never touched.

use serde_json::Value;

use super::compare::APPLIED;
use super::context::Context;
use super::object::{label, owners, uid_of};
use super::text::at;
use super::{Kind, Observed};
use crate::api::{FIELD_MANAGER, LABEL_DATABASE, Names};

/// The label that says which program made an object.
const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Whose an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This Database's.
    Ours,
    /// A deleted Database's of the same name, left without an owner by `--cascade=orphan`: this one takes it up.
    Orphaned,
    /// A deleted Database's of the same name: the garbage collector has still to remove it.
    Former,
    /// Somebody else's.
    Foreign,
}

/// Every object that this Database needs a name for. Whoever observes must look each of these up by name where it was not
/// found by label.
pub fn required(cx: &Context<'_>, members: i32) -> Vec<(Kind, String)> {
    let mut all = needed(cx.names.0, members);
    if super::certificates::given(cx).is_none() {
        all.extend(certificates(&cx.names).map(|name| (Kind::Secret, name)));
    }
    if let Some(wanted) = super::backup::enabled(cx) {
        all.push((Kind::ConfigMap, cx.names.backups()));
        all.push((Kind::CronJob, cx.names.backup_schedule()));
        all.extend(wanted.verify.map(|_| (Kind::CronJob, cx.names.verify_schedule())));
    }
    all
}

/// Every object that any Database of `members` members needs a name for.
pub fn needed(name: &str, members: i32) -> Vec<(Kind, String)> {
    let names = Names(name);
    let mut all = vec![
        (Kind::ServiceAccount, names.main()),
        (Kind::Role, names.main()),
        (Kind::RoleBinding, names.main()),
        (Kind::Secret, names.internal_secret()),
        (Kind::Secret, names.app_secret()),
        (Kind::ConfigMap, names.config()),
        (Kind::Service, names.main()),
        (Kind::Service, names.read_only_service()),
        (Kind::Service, names.headless_service()),
        (Kind::StatefulSet, names.main()),
    ];
    if members > 1 {
        all.push((Kind::PodDisruptionBudget, names.main()));
    }
    all.extend(names.patroni_objects().map(|object| (Kind::ConfigMap, object)));
    for ordinal in 0..members {
        all.push((Kind::PersistentVolumeClaim, names.claim(ordinal)));
        all.push((Kind::Pod, names.member(ordinal)));
    }
    all
}

/// The Secrets with certificates, which a Database needs whose user gives none.
fn certificates(names: &Names<'_>) -> [String; 2] {
    [names.authority_secret(), names.certificate_secret()]
}

/// Whose that object is.
pub fn owner(cx: &Context<'_>, kind: Kind, object: &Value) -> Owner {
    let labelled = is_labelled(cx, object);
    match kind {
        // They outlive the Database, so only their labels tell.
        Kind::Secret | Kind::PersistentVolumeClaim => by_label(labelled),
        Kind::ConfigMap if super::name_of(object) != cx.names.config() => by_label(labelled),
        Kind::Pod => pod_owner(cx, object, labelled),
        _ => database_owner(cx, object),
    }
}

fn by_label(labelled: bool) -> Owner {
    if labelled { Owner::Ours } else { Owner::Foreign }
}

/// A pod belongs to the StatefulSet of the Database's name, or has lost it and will be adopted by it.
fn pod_owner(cx: &Context<'_>, pod: &Value, labelled: bool) -> Owner {
    let set = owners(pod)
        .iter()
        .find(|owner| owner["kind"] == Kind::StatefulSet.as_str() && owner["name"] == cx.names.0);
    let live = cx.observed.get(Kind::StatefulSet, cx.names.0);
    match (set, live) {
        _ if !labelled => Owner::Foreign,
        // Whose the StatefulSet is, they are.
        (Some(owner), Some(live)) if uid_of(live) == owner["uid"].as_str() => database_owner(cx, live),
        (Some(_), _) => Owner::Former,
        (None, _) => by_label(owners(pod).is_empty()),
    }
}

fn database_owner(cx: &Context<'_>, object: &Value) -> Owner {
    let named = |owner: &&Value| owner["kind"] == "Database" && owner["name"] == cx.names.0;
    match owners(object).iter().find(named) {
        Some(owner) if owner["uid"] == cx.uid => Owner::Ours,
        Some(_) => Owner::Former,
        None if is_orphan(cx, object) => Owner::Orphaned,
        None => Owner::Foreign,
    }
}

/// Made by dbctl for a Database of this name, by its own mark and labels, and nobody's any more.
fn is_orphan(cx: &Context<'_>, object: &Value) -> bool {
    let marked =
        at(object, "/metadata/annotations").is_some_and(|annotations| annotations.get(APPLIED).is_some());
    marked && is_labelled(cx, object) && owners(object).is_empty()
}

fn is_labelled(cx: &Context<'_>, object: &Value) -> bool {
    label(object, LABEL_DATABASE) == Some(cx.names.0)
        && label(object, LABEL_MANAGED_BY) == Some(FIELD_MANAGER)
}

/// The first object of a needed name that is not this Database's own.
pub fn taken(cx: &Context<'_>, members: i32) -> Option<(Owner, Kind, String)> {
    let found = required(cx, members).into_iter().filter_map(|(kind, name)| {
        let object = cx.observed.get(kind, &name)?;
        match owner(cx, kind, object) {
            Owner::Ours | Owner::Orphaned => None,
            other => Some((other, kind, name)),
        }
    });
    // A foreign object needs somebody to act; a former one goes by itself.
    found.min_by_key(|(owner, ..)| *owner != Owner::Foreign)
}

/// Ordinals of the members that have a volume.
pub fn volumes(cx: &Context<'_>) -> impl Iterator<Item = i32> {
    let named = |claim| cx.names.ordinal(super::name_of(claim).strip_prefix("data-")?);
    cx.observed
        .all(Kind::PersistentVolumeClaim)
        .filter(|claim| owner(cx, Kind::PersistentVolumeClaim, claim) == Owner::Ours)
        .filter_map(named)
}

/// The objects that this Database's data, history and keys are in.
pub fn retained<'o>(cx: &Context<'_>, observed: &'o Observed) -> Vec<(Kind, &'o Value)> {
    let kinds = [Kind::PersistentVolumeClaim, Kind::ConfigMap, Kind::Secret];
    kinds
        .into_iter()
        .flat_map(|kind| observed.all(kind).map(move |object| (kind, object)))
        .filter(|(kind, object)| {
            owners(object).is_empty()
                && owner(cx, *kind, object) == Owner::Ours
                && is_named(cx, *kind, object)
        })
        .collect()
}

/// Only objects with the names that dbctl gives: a user may have put the labels on one of their own.
fn is_named(cx: &Context<'_>, kind: Kind, object: &Value) -> bool {
    let name = super::name_of(object);
    match kind {
        Kind::PersistentVolumeClaim => {
            name.strip_prefix("data-").is_some_and(|member| cx.names.ordinal(member).is_some())
        }
        Kind::ConfigMap if name == cx.names.backups() => true,
        Kind::Secret if certificates(&cx.names).iter().any(|own| own == name) => true,
        _ => needed(cx.names.0, 0).iter().any(|(of, needed)| *of == kind && needed == name),
    }
}
