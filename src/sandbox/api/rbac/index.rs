//! Roles, and bindings by whom they bind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::Deserialize;

use super::Rule;
use crate::sandbox::api::auth::User;
use crate::sandbox::api::store::Record;

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// Roles of a namespace.
    Roles,
    /// Roles of the cluster.
    ClusterRoles,
    /// Bindings in a namespace.
    RoleBindings,
    /// Bindings in the cluster.
    ClusterRoleBindings,
}

impl Collection {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Roles, Self::ClusterRoles, Self::RoleBindings, Self::ClusterRoleBindings];

    /// Where they are stored.
    pub fn storage(self) -> &'static str {
        match self {
            Self::Roles => "rbac.authorization.k8s.io/roles",
            Self::ClusterRoles => "rbac.authorization.k8s.io/clusterroles",
            Self::RoleBindings => "rbac.authorization.k8s.io/rolebindings",
            Self::ClusterRoleBindings => "rbac.authorization.k8s.io/clusterrolebindings",
        }
    }

    fn is_of_cluster(self) -> bool {
        matches!(self, Self::ClusterRoles | Self::ClusterRoleBindings)
    }
}

/// Namespace and name; no namespace for the cluster's own.
type Key = (String, String);

/// Somebody, by the name that decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    Group(String),
}

/// A subject, with the words for it.
#[derive(Clone, Debug)]
struct Subject {
    who: Who,
    told: String,
}

/// A binding, without its subjects.
#[derive(Clone, Debug)]
pub struct Binding {
    kind: &'static str,
    name: String,
    namespace: String,
    role_kind: String,
    role: Key,
    subjects: Vec<Subject>,
}

impl Binding {
    /// As reasons name it.
    pub fn describe(&self) -> String {
        let place = if self.namespace.is_empty() { String::new() } else { format!("/{}", self.namespace) };
        let name = format!("{}{place}", self.name);
        format!("{} {name:?} of {} {:?}", self.kind, self.role_kind, self.role.1)
    }
}

/// Everything that decisions need.
#[derive(Debug, Default)]
pub struct Index {
    roles: HashMap<Key, Vec<Rule>>,
    bindings: BTreeMap<Key, Binding>,
    /// Which bindings somebody is in.
    subjects: HashMap<Who, BTreeSet<Key>>,
}

/// What comes by when a user's bindings are gone through.
pub enum Visit<'a> {
    /// A role.
    Role {
        /// By which binding.
        binding: &'a Binding,
        /// As whom the user is bound.
        subject: &'a dyn fmt::Display,
        /// What it allows.
        rules: &'a [Rule],
    },
    /// A role that is bound and not there.
    Missing(String),
}

#[derive(Deserialize)]
struct RoleObject {
    #[serde(default)]
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingObject {
    role_ref: RoleRef,
    #[serde(default)]
    subjects: Option<Vec<SubjectObject>>,
}

#[derive(Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Deserialize)]
struct SubjectObject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

fn key_of(collection: Collection, key: &str) -> Key {
    let split = if collection.is_of_cluster() { None } else { key.split_once('/') };
    let (namespace, name) = split.unwrap_or(("", key));
    (namespace.to_owned(), name.to_owned())
}

impl Index {
    /// Takes in an object, or that it is gone.
    pub fn set(&mut self, collection: Collection, key: &str, record: Option<&Record>) {
        let key = key_of(collection, key);
        let text = record.map(|record| record.draft().text());
        match collection {
            Collection::Roles | Collection::ClusterRoles => {
                let role = text.and_then(|text| serde_json::from_slice::<RoleObject>(text).ok());
                match role {
                    Some(role) => drop(self.roles.insert(key, role.rules.unwrap_or_default())),
                    None => drop(self.roles.remove(&key)),
                }
            }
            Collection::RoleBindings | Collection::ClusterRoleBindings => {
                self.unbind(&key);
                if let Some(object) = text.and_then(|text| serde_json::from_slice(text).ok()) {
                    self.bind(key, object);
                }
            }
        }
    }

    /// Forgets all objects of a kind.
    pub fn clear(&mut self, collection: Collection) {
        let of_kind = |key: &Key| key.0.is_empty() == collection.is_of_cluster();
        match collection {
            Collection::Roles | Collection::ClusterRoles => self.roles.retain(|key, _| !of_kind(key)),
            Collection::RoleBindings | Collection::ClusterRoleBindings => {
                let keys: Vec<Key> = self.bindings.keys().filter(|key| of_kind(key)).cloned().collect();
                keys.iter().for_each(|key| self.unbind(key));
            }
        }
    }

    fn bind(&mut self, key: Key, object: BindingObject) {
        let (namespace, name) = key.clone();
        let role_namespace = if object.role_ref.kind == "Role" { namespace.clone() } else { String::new() };
        let subjects: Vec<Subject> = object
            .subjects
            .unwrap_or_default()
            .into_iter()
            .filter_map(|subject| subject.read(&namespace))
            .collect();
        for subject in &subjects {
            self.subjects.entry(subject.who.clone()).or_default().insert(key.clone());
        }
        let binding = Binding {
            kind: if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" },
            name,
            namespace,
            role: (role_namespace, object.role_ref.name),
            role_kind: object.role_ref.kind,
            subjects,
        };
        self.bindings.insert(key, binding);
    }

    fn unbind(&mut self, key: &Key) {
        let Some(binding) = self.bindings.remove(key) else { return };
        for subject in binding.subjects {
            if let Some(keys) = self.subjects.get_mut(&subject.who) {
                keys.remove(key);
                if keys.is_empty() {
                    self.subjects.remove(&subject.who);
                }
            }
        }
    }

    /// The rules of a role; without a namespace, of a ClusterRole.
    pub fn role(&self, namespace: &str, name: &str) -> Option<&[Rule]> {
        self.roles.get(&(namespace.to_owned(), name.to_owned())).map(Vec::as_slice)
    }

    /// Goes through all that is bound to a user in the cluster, then in the namespace, until `see` says false.
    pub fn visit(&self, user: &User, namespace: &str, mut see: impl FnMut(Visit<'_>) -> bool) {
        let everybody = std::iter::once(Who::User(user.username.clone()))
            .chain(user.groups.iter().cloned().map(Who::Group));
        let everybody: Vec<Who> = everybody.collect();
        let scopes = [Some(""), Some(namespace).filter(|namespace| !namespace.is_empty())];
        for scope in scopes.into_iter().flatten() {
            // A binding is gone through once, whoever of them it binds.
            let keys: BTreeSet<&Key> = everybody
                .iter()
                .filter_map(|who| self.subjects.get(who))
                .flat_map(|keys| {
                    keys.range((scope.to_owned(), String::new())..).take_while(|(space, _)| space == scope)
                })
                .collect();
            for binding in keys.into_iter().filter_map(|key| self.bindings.get(key)) {
                if !self.visit_binding(binding, &everybody, &mut see) {
                    return;
                }
            }
        }
    }

    fn visit_binding(
        &self,
        binding: &Binding,
        user: &[Who],
        see: &mut impl FnMut(Visit<'_>) -> bool,
    ) -> bool {
        let Some(rules) = self.roles.get(&binding.role) else {
            let kind = binding.role_kind.to_lowercase();
            return see(Visit::Missing(format!(
                "{kind}.rbac.authorization.k8s.io {:?} not found",
                binding.role.1
            )));
        };
        let subject = binding.subjects.iter().find(|subject| user.contains(&subject.who));
        let told = subject.map(|subject| subject.told.as_str()).unwrap_or_default();
        see(Visit::Role { binding, subject: &told, rules })
    }
}

impl SubjectObject {
    fn read(self, namespace: &str) -> Option<Subject> {
        let Self { kind, name, namespace: own } = self;
        let told = format!("{kind} {name:?}");
        Some(match kind.as_str() {
            "User" => Subject { who: Who::User(name), told },
            "Group" => Subject { who: Who::Group(name), told },
            "ServiceAccount" => {
                // One in the binding's own namespace need not say so.
                let space = own.filter(|own| !own.is_empty()).unwrap_or_else(|| namespace.to_owned());
                let told = format!("{kind} {:?}", format!("{name}/{space}"));
                Subject { who: Who::User(format!("system:serviceaccount:{space}:{name}")), told }
            }
            _ => return None,
        })
    }
}
