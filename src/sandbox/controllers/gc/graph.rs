//! Who owns whom. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kube::api::ObjectMeta;

use super::kinds::Kind;
use crate::sandbox::controllers::meta::{has_finalizer, is_deleting, name, namespace};

/// The finalizer of an object that waits for its dependents to go first.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents are to stay.
pub(super) const ORPHAN: &str = "orphan";

/// A reference from an object to its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: Arc<str>,
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) blocks: bool,
}

/// What the collector remembers of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) kind: Arc<Kind>,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) owners: Vec<Owner>,
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}

/// Every object that is known, by UID.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Arc<str>, Node>,
    dependents: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Owners that were seen to go, as long as a dependent names them. A UID never comes back, so nobody needs to be
    /// asked; and when a whole kind goes, nobody could be.
    gone: HashSet<Arc<str>>,
}

/// What an object's owners, as far as they are known, mean for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Owners {
    /// There, and staying.
    pub(super) solid: Vec<Arc<str>>,
    /// Deleted in the foreground: waiting for their dependents.
    pub(super) waiting: Vec<Arc<str>>,
    /// Gone for certain.
    pub(super) gone: Vec<Arc<str>>,
    /// Not known here: the server has to be asked.
    pub(super) unknown: Vec<Owner>,
}

impl Node {
    /// What is to be remembered of that metadata.
    pub(super) fn of(kind: &Arc<Kind>, meta: &ObjectMeta) -> Self {
        let owners = meta.owner_references.iter().flatten().map(|owner| Owner {
            uid: owner.uid.as_str().into(),
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            blocks: owner.block_owner_deletion == Some(true),
        });
        Self {
            kind: Arc::clone(kind),
            namespace: namespace(meta).to_owned(),
            name: name(meta).to_owned(),
            owners: owners.collect(),
            deleting: is_deleting(meta),
            foreground: has_finalizer(meta, FOREGROUND),
            orphan: has_finalizer(meta, ORPHAN),
        }
    }

    /// Whether the object waits for its dependents to go.
    pub(super) fn awaits_dependents(&self) -> bool {
        self.deleting && self.foreground
    }

    /// Whether the object waits for its dependents to be let go.
    pub(super) fn releases_dependents(&self) -> bool {
        self.deleting && self.orphan
    }
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name this one as an owner.
    pub(super) fn dependents(&self, uid: &str) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get_key_value(uid))
    }

    /// The dependents that hold up the end of an object deleted in the foreground.
    pub(super) fn blocking(&self, uid: &str) -> Vec<Arc<str>> {
        self.dependents(uid)
            .filter(|(_, node)| node.owners.iter().any(|owner| &*owner.uid == uid && owner.blocks))
            .map(|(uid, _)| Arc::clone(uid))
            .collect()
    }

    /// Takes in an object as it is now, and returns what needs a look because of it.
    pub(super) fn put(&mut self, uid: &str, node: Node) -> Vec<Arc<str>> {
        let uid: Arc<str> =
            self.nodes.get_key_value(uid).map_or_else(|| uid.into(), |(uid, _)| Arc::clone(uid));
        let old = self.nodes.insert(Arc::clone(&uid), node.clone());
        if old.as_ref() == Some(&node) {
            return Vec::new();
        }
        let mut look = Vec::new();
        for owner in old.iter().flat_map(|old| &old.owners) {
            if node.owners.iter().all(|each| each.uid != owner.uid) {
                self.forget_dependent(&owner.uid, &uid);
            }
            look.push(Arc::clone(&owner.uid));
        }
        for owner in &node.owners {
            self.dependents.entry(Arc::clone(&owner.uid)).or_default().insert(Arc::clone(&uid));
        }
        if !node.owners.is_empty() || node.awaits_dependents() || node.releases_dependents() {
            look.push(Arc::clone(&uid));
        }
        if node.awaits_dependents() && !old.is_some_and(|old| old.awaits_dependents()) {
            look.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        look
    }

    /// Forgets an object that was seen to go, and returns what needs a look because of it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<Arc<str>> {
        let look = self.forget(uid);
        if let Some((uid, _)) = self.dependents.get_key_value(uid) {
            self.gone.insert(Arc::clone(uid));
        }
        look
    }

    /// Forgets an object that is merely not known any more, and returns what needs a look because of it.
    pub(super) fn forget(&mut self, uid: &str) -> Vec<Arc<str>> {
        let Some((uid, node)) = self.nodes.remove_entry(uid) else { return Vec::new() };
        let mut look: Vec<Arc<str>> = self.dependents.get(&uid).into_iter().flatten().cloned().collect();
        for owner in &node.owners {
            self.forget_dependent(&owner.uid, &uid);
            look.push(Arc::clone(&owner.uid));
        }
        look
    }

    fn forget_dependent(&mut self, owner: &str, dependent: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
                self.gone.remove(owner);
            }
        }
    }

    /// All objects of a kind.
    pub(super) fn of_kind(&self, kind: &Kind) -> Vec<Arc<str>> {
        let nodes = self.nodes.iter().filter(|(_, node)| *node.kind == *kind);
        nodes.map(|(uid, _)| Arc::clone(uid)).collect()
    }

    /// All objects with an owner that is not known.
    pub(super) fn doubtful(&self) -> Vec<Arc<str>> {
        let nodes = self.nodes.iter();
        nodes
            .filter(|(_, node)| node.owners.iter().any(|owner| !self.nodes.contains_key(&owner.uid)))
            .map(|(uid, _)| Arc::clone(uid))
            .collect()
    }

    /// Sorts an object's owners by what they mean for it. An owner in another namespace is none.
    pub(super) fn owners(&self, node: &Node) -> Owners {
        let mut owners = Owners::default();
        for owner in &node.owners {
            match self.nodes.get(&owner.uid) {
                Some(known) if !known.namespace.is_empty() && known.namespace != node.namespace => {
                    owners.unknown.push(owner.clone());
                }
                Some(known) if known.awaits_dependents() => owners.waiting.push(Arc::clone(&owner.uid)),
                Some(_) => owners.solid.push(Arc::clone(&owner.uid)),
                None if self.gone.contains(&owner.uid) => owners.gone.push(Arc::clone(&owner.uid)),
                None => owners.unknown.push(owner.clone()),
            }
        }
        owners
    }
}

/// What is to happen to an object, given what became of its owners.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays as it is.
    Keep,
    /// It stays, but some of its owners are none.
    Release(Vec<Arc<str>>),
    /// It goes.
    Delete(Policy),
}

/// What a deletion does to the object's own dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// Decides by the owners that stay, wait and have gone. An object with an owner that stays stays.
pub(super) fn judge(
    node: &Node,
    has_dependents: bool,
    solid: usize,
    waiting: &[Arc<str>],
    gone: &[Arc<str>],
) -> Verdict {
    if waiting.is_empty() && gone.is_empty() {
        return Verdict::Keep;
    }
    if solid > 0 {
        return Verdict::Release(waiting.iter().chain(gone).cloned().collect());
    }
    Verdict::Delete(match node {
        _ if !waiting.is_empty() && has_dependents => Policy::Foreground,
        Node { orphan: true, .. } => Policy::Orphan,
        Node { foreground: true, .. } => Policy::Foreground,
        _ => Policy::Background,
    })
}
