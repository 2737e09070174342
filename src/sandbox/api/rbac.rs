//! Who may do what: Roles, bindings, and the decision about every request.

pub mod attributes;
pub mod bootstrap;
pub mod escalation;
mod index;
mod policy;
mod rule;

use std::sync::{PoisonError, RwLock};

pub use attributes::Attributes;
pub use rule::Rule;

use super::auth::User;
use super::store::{Change, Store};
use index::{Collection, Index, Visit};
use tokio::sync::watch::Receiver;

/// Whoever is in it may do everything, whatever roles say.
pub const MASTERS: &str = "system:masters";

/// What came of the question whether somebody may do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether they may.
    pub allowed: bool,
    /// Which binding says so, or what was wrong with those that were asked.
    pub reason: String,
}

/// The roles and bindings of the store, made for quick answers, and brought up to date before each.
#[derive(Debug)]
pub struct Authorizer {
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    index: Index,
    followed: Vec<Followed>,
}

/// One kind's objects, as far as they are in the index.
#[derive(Debug)]
struct Followed {
    collection: Collection,
    changed: Receiver<u64>,
    version: u64,
}

impl Authorizer {
    /// One for the objects of that store.
    pub fn new(store: &Store) -> Self {
        let mut state = State { index: Index::default(), followed: Vec::new() };
        for collection in Collection::ALL {
            let changed = store.subscribe(&collection.storage().into());
            let mut followed = Followed { collection, changed, version: 0 };
            followed.read_all(store, &mut state.index);
            state.followed.push(followed);
        }
        Self { state: RwLock::new(state) }
    }

    /// Whether a user may do that.
    pub fn decide(&self, store: &Store, user: &User, asked: &Attributes) -> Decision {
        if user.is_master() {
            return Decision { allowed: true, reason: String::new() };
        }
        self.with_index(store, |index| {
            let mut errors = Vec::new();
            let mut found = None;
            index.visit(user, &asked.namespace, |visit| match visit {
                Visit::Role { binding, subject, rules } if rules.iter().any(|rule| rule.allows(asked)) => {
                    found = Some(format!("RBAC: allowed by {} to {subject}", binding.describe()));
                    false
                }
                Visit::Role { .. } => true,
                Visit::Missing(error) => {
                    errors.push(error);
                    true
                }
            });
            match found {
                Some(reason) => Decision { allowed: true, reason },
                None => Decision { allowed: false, reason: joined(errors) },
            }
        })
    }

    /// All rules that hold for a user in a namespace, or in the cluster where that is empty; and what was missing.
    pub fn rules_for(&self, store: &Store, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        self.with_index(store, |index| {
            let (mut rules, mut errors) = (Vec::new(), Vec::new());
            index.visit(user, namespace, |visit| {
                match visit {
                    Visit::Role { rules: found, .. } => rules.extend_from_slice(found),
                    Visit::Missing(error) => errors.push(error),
                }
                true
            });
            (rules, errors)
        })
    }

    /// The rules of one role; an empty namespace means a ClusterRole.
    pub fn role(&self, store: &Store, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        self.with_index(store, |index| index.role(namespace, name).map(<[Rule]>::to_vec))
    }

    fn with_index<T>(&self, store: &Store, then: impl FnOnce(&Index) -> T) -> T {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if !state.followed.iter().any(Followed::is_behind) {
            return then(&state.index);
        }
        drop(state);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State { index, followed } = &mut *state;
        for followed in followed.iter_mut().filter(|followed| followed.is_behind()) {
            followed.catch_up(store, index);
        }
        then(index)
    }
}

impl Followed {
    fn is_behind(&self) -> bool {
        // The sender lives in the store.
        self.changed.has_changed().unwrap_or(true)
    }

    fn catch_up(&mut self, store: &Store, index: &mut Index) {
        self.changed.mark_unchanged();
        match store.changes_since(&self.collection.storage().into(), self.version) {
            Ok((version, changes)) => {
                self.version = version;
                for Change { key, new, .. } in changes {
                    index.set(self.collection, &key, new.as_deref());
                }
            }
            Err(_) => self.read_all(store, index),
        }
    }

    fn read_all(&mut self, store: &Store, index: &mut Index) {
        index.clear(self.collection);
        let listing = store.list(self.collection.storage(), "", None);
        self.version = listing.version;
        for (key, record) in listing.items {
            index.set(self.collection, &key, Some(&record));
        }
    }
}

/// Several errors as Kubernetes joins them.
fn joined(mut errors: Vec<String>) -> String {
    errors.dedup();
    match errors.as_slice() {
        [] => String::new(),
        [one] => format!("RBAC: {one}"),
        many => format!("RBAC: [{}]", many.join(", ")),
    }
}
