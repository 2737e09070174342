//! Sets of field paths, as `managedFields` hold them.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::sandbox::object::schema::Schema;

/// A path: elements such as `f:spec`, `k:{"name":"one"}` and `v:"text"`.
pub(super) type Path = Vec<String>;

/// A tree of path elements; those that are owned are the members of the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    owned: bool,
    children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Reads a `fieldsV1`.
    pub(super) fn from_json(fields: &Value) -> Self {
        let mut set = Self::default();
        for (element, child) in fields.as_object().into_iter().flatten() {
            if element == "." {
                set.owned = true;
                continue;
            }
            let mut below = Self::from_json(child);
            below.owned |= below.children.is_empty();
            set.children.insert(element.clone(), below);
        }
        set
    }

    /// Writes a `fieldsV1`.
    pub(super) fn to_json(&self) -> Value {
        let mut fields = Map::new();
        for (element, child) in &self.children {
            let mut below = child.to_json();
            if let (true, false, Some(below)) =
                (child.owned, child.children.is_empty(), below.as_object_mut())
            {
                below.insert(".".to_owned(), json!({}));
            }
            fields.insert(element.clone(), below);
        }
        Value::Object(fields)
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.owned && self.children.values().all(Self::is_empty)
    }

    pub(super) fn insert(&mut self, path: &[String]) {
        match path {
            [] => self.owned = true,
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(super) fn contains(&self, path: &[String]) -> bool {
        match path {
            [] => self.owned,
            [first, rest @ ..] => self.children.get(first).is_some_and(|child| child.contains(rest)),
        }
    }

    pub(super) fn union(&mut self, other: &Self) {
        self.owned |= other.owned;
        for (element, child) in &other.children {
            self.children.entry(element.clone()).or_default().union(child);
        }
    }

    /// Takes out exactly the members of the other set; what lies below them stays.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.owned &= !other.owned;
        for (element, child) in &other.children {
            if let Some(own) = self.children.get_mut(element) {
                own.subtract(child);
                if own.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut common = Self { owned: self.owned && other.owned, children: BTreeMap::new() };
        for (element, child) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                let below = child.intersection(theirs);
                if !below.is_empty() {
                    common.children.insert(element.clone(), below);
                }
            }
        }
        common
    }

    /// All members, outer ones first.
    pub(super) fn members(&self) -> Vec<Path> {
        let mut found = Vec::new();
        self.collect(&mut Vec::new(), &mut found);
        found
    }

    fn collect(&self, path: &mut Path, found: &mut Vec<Path>) {
        if self.owned && !path.is_empty() {
            found.push(path.clone());
        }
        for (element, child) in &self.children {
            path.push(element.clone());
            child.collect(path, found);
            path.pop();
        }
    }

    /// The set with the structs around its members as members, too. Entries of maps and lists are not structs.
    pub(super) fn with_structs(&self, schema: Option<&Schema>) -> Self {
        let mut all = Self { owned: self.owned, children: BTreeMap::new() };
        for (element, child) in &self.children {
            let name = element.strip_prefix("f:");
            let declared = name.and_then(|name| schema?.node().properties.get(name));
            let below = match name {
                Some(name) => schema.and_then(|schema| schema.field(name)),
                None => schema.and_then(|schema| schema.node().items.as_ref()),
            };
            let mut below = child.with_structs(below);
            below.owned |= declared.is_some();
            all.children.insert(element.clone(), below);
        }
        all
    }

    /// Takes out a path and all below it.
    pub(super) fn drop_tree(&mut self, path: &[&str]) {
        match path {
            [] => *self = Self::default(),
            [last] => drop(self.children.remove(*last)),
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*first) {
                    child.drop_tree(rest);
                    if child.is_empty() {
                        self.children.remove(*first);
                    }
                }
            }
        }
    }

    /// Keeps only what lies below one of these elements.
    pub(super) fn keep_roots(&mut self, roots: &[&str]) {
        self.children.retain(|element, _| roots.contains(&element.as_str()));
    }
}

/// A path as conflicts name it, such as `.spec.containers[name="one"].image`.
pub(super) fn display(path: &[String]) -> String {
    let mut text = String::new();
    for element in path {
        match element.split_once(':') {
            Some(("f", name)) => {
                text.push('.');
                text.push_str(name);
            }
            Some(("k", keys)) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                // Writing to a String cannot fail.
                let _ = write!(text, "[{}]", pairs.join(","));
            }
            Some(("v", value)) => {
                let _ = write!(text, "[={value}]");
            }
            _ => {
                let _ = write!(text, "[{element}]");
            }
        }
    }
    text
}
