//! Walks over values as server-side apply sees them: which parts are one value, which have parts of their own.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::set::{FieldSet, Path};
use crate::sandbox::object::schema::{ListKind, Schema};

/// What two objects differ in.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

/// The key of an item in a list, as a path element; None in a list that is one value.
pub(super) fn item_key(schema: Option<&Schema>, item: &Value) -> Option<String> {
    let node = schema?.node();
    match &node.list {
        ListKind::Atomic => None,
        ListKind::Set => Some(format!("v:{item}")),
        ListKind::Map(keys) => {
            let mut found = BTreeMap::new();
            for key in keys {
                let value = item.get(key).cloned().or_else(|| key_default(node.items.as_ref()?, key))?;
                found.insert(key, value);
            }
            Some(format!("k:{}", json!(found)))
        }
    }
}

/// A key that an item may leave out.
fn key_default(items: &Schema, key: &str) -> Option<Value> {
    let node = items.node();
    let declared = node.properties.get(key).and_then(|field| field.node().default.clone());
    declared.or_else(|| (node.builtin && key == "protocol").then(|| json!("TCP")))
}

/// The parts of a value with their path elements and schemas; None where the value is one whole.
fn parts<'a>(
    schema: Option<&'a Schema>,
    value: &'a Value,
) -> Option<Vec<(String, Option<&'a Schema>, &'a Value)>> {
    match value {
        Value::Object(fields) => {
            if schema.is_some_and(|schema| schema.node().atomic) {
                return None;
            }
            let parts = fields.iter();
            Some(
                parts
                    .map(|(name, child)| {
                        (format!("f:{name}"), schema.and_then(|schema| schema.field(name)), child)
                    })
                    .collect(),
            )
        }
        Value::Array(items) => {
            let below = schema.and_then(|schema| schema.node().items.as_ref());
            if schema.is_none_or(|schema| schema.node().list == ListKind::Atomic) {
                return None;
            }
            items.iter().map(|item| Some((item_key(schema, item)?, below, item))).collect()
        }
        _ => None,
    }
}

fn is_declared(schema: Option<&Schema>, element: &str) -> bool {
    element.strip_prefix("f:").and_then(|name| schema?.node().properties.get(name)).is_some()
}

/// The paths that an applied configuration names.
pub(super) fn field_set(schema: Option<&Schema>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(schema, value, &mut Vec::new(), &mut set);
    set
}

fn collect(schema: Option<&Schema>, value: &Value, path: &mut Path, set: &mut FieldSet) {
    let Some(parts) = parts(schema, value) else {
        set.insert(path);
        return;
    };
    for (element, below, child) in parts {
        let declared = is_declared(schema, &element);
        path.push(element);
        collect(below, child, path, set);
        let empty = child.is_null() || child.as_object().is_some_and(serde_json::Map::is_empty);
        if empty || !declared {
            set.insert(path);
        }
        path.pop();
    }
}

/// Compares two objects.
pub(super) fn compare(schema: Option<&Schema>, old: &Value, new: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    compare_at(schema, Some(old), Some(new), &mut Vec::new(), &mut comparison);
    comparison
}

fn compare_at(
    schema: Option<&Schema>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Path,
    out: &mut Comparison,
) {
    let parts_of = |value: Option<&'_ Value>| value.map(|value| parts(schema, value).is_some());
    let empty = |value: Option<&Value>| match value {
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        _ => true,
    };
    let whole = parts_of(old) == Some(false) || parts_of(new) == Some(false) || (empty(old) && empty(new));
    let mixed = matches!(
        (old, new),
        (Some(Value::Object(_)), Some(Value::Array(_))) | (Some(Value::Array(_)), Some(Value::Object(_)))
    );
    if whole || mixed {
        note(old, new, path, out);
        return;
    }
    let (old_parts, new_parts) = (
        old.and_then(|value| parts(schema, value)).unwrap_or_default(),
        new.and_then(|value| parts(schema, value)).unwrap_or_default(),
    );
    let theirs: BTreeMap<&str, &Value> =
        new_parts.iter().map(|(element, _, value)| (element.as_str(), *value)).collect();
    let ours: BTreeMap<&str, &Value> =
        old_parts.iter().map(|(element, _, value)| (element.as_str(), *value)).collect();
    let added = new_parts.iter().filter(|(element, ..)| !ours.contains_key(element.as_str()));
    for (element, below, _) in old_parts.iter().chain(added) {
        path.push(element.clone());
        compare_at(
            *below,
            ours.get(element.as_str()).copied(),
            theirs.get(element.as_str()).copied(),
            path,
            out,
        );
        path.pop();
    }
    // The typed form of a built-in kind has its structs at all times.
    let struct_of_kind = schema
        .is_some_and(|schema| schema.node().builtin && !schema.node().properties.is_empty())
        && path.last().is_some_and(|element| element.starts_with("f:"));
    if !struct_of_kind && (old.is_none() || new.is_none()) {
        note(old, new, path, out);
    }
}

fn note(old: Option<&Value>, new: Option<&Value>, path: &[String], out: &mut Comparison) {
    if path.is_empty() {
        return;
    }
    match (old, new) {
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        (Some(old), Some(new)) if old != new => out.modified.insert(path),
        _ => {}
    }
}

/// Merges an applied configuration into the live object.
pub(super) fn merge(schema: Option<&Schema>, live: &Value, applied: &Value) -> Value {
    match (live, applied) {
        (Value::Object(before), Value::Object(fields)) if parts(schema, applied).is_some() => {
            let mut merged = before.clone();
            for (name, value) in fields {
                let below = schema.and_then(|schema| schema.field(name));
                let value = match before.get(name) {
                    Some(before) => merge(below, before, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Value::Array(before), Value::Array(items))
            if parts(schema, applied).is_some() && parts(schema, live).is_some() =>
        {
            Value::Array(merge_items(schema, before, items))
        }
        _ => applied.clone(),
    }
}

/// Shared items in the applied order, the live object's own where they stood before them.
fn merge_items(schema: Option<&Schema>, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let below = schema.and_then(|schema| schema.node().items.as_ref());
    let keys = |items: &[Value]| -> Vec<Option<String>> {
        items.iter().map(|item| item_key(schema, item)).collect()
    };
    let (ours, theirs) = (keys(live), keys(applied));
    let mut merged = Vec::new();
    let mut next = 0;
    for (index, (key, item)) in theirs.iter().zip(applied).enumerate() {
        let shared = ours.iter().position(|own| own == key);
        // The next item of the applied list that the live one has, too: live items before it that are shared come
        // later, or came already.
        let upcoming = theirs[index..].iter().find(|key| ours.contains(key));
        while let Some(own) = ours.get(next) {
            if !theirs.contains(own) {
                merged.push(live[next].clone());
            } else if Some(own) == upcoming {
                break;
            }
            next += 1;
        }
        match shared {
            Some(own) => merged.push(merge(below, &live[own], item)),
            None => merged.push(item.clone()),
        }
    }
    merged
        .extend((next..live.len()).filter(|own| !theirs.contains(&ours[*own])).map(|own| live[own].clone()));
    merged
}

/// Removes what lies at a path.
pub(super) fn remove(schema: Option<&Schema>, value: &mut Value, path: &[String]) {
    let [first, rest @ ..] = path else { return };
    if let Some(name) = first.strip_prefix("f:") {
        let Some(fields) = value.as_object_mut() else { return };
        if rest.is_empty() {
            fields.remove(name);
        } else if let Some(child) = fields.get_mut(name) {
            remove(schema.and_then(|schema| schema.field(name)), child, rest);
        }
        return;
    }
    let Some(items) = value.as_array_mut() else { return };
    let Some(at) = items.iter().position(|item| item_key(schema, item).as_ref() == Some(first)) else {
        return;
    };
    if rest.is_empty() {
        items.remove(at);
    } else {
        remove(schema.and_then(|schema| schema.node().items.as_ref()), &mut items[at], rest);
    }
}

/// Keyed lists whose items leave a key out or have it twice: they cannot be merged.
pub(super) fn unmergeable(schema: Option<&Schema>, value: &Value, path: &mut Path) -> Option<String> {
    let node = schema?.node();
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, child)| {
            path.push(format!("f:{name}"));
            let problem = unmergeable(schema?.field(name), child, path);
            path.pop();
            problem
        }),
        Value::Array(items) if node.list != ListKind::Atomic => {
            let mut seen = Vec::new();
            for (index, item) in items.iter().enumerate() {
                let at = super::set::display(path);
                let Some(key) = item_key(schema, item) else {
                    return Some(format!(
                        "{at}: element {index}: associative list with keys has an element that omits key field \
                         (and doesn't have default value)"
                    ));
                };
                if seen.contains(&key) {
                    return Some(format!("{at}: duplicate entries for key {}", super::set::display(&[key])));
                }
                path.push(key.clone());
                let problem = unmergeable(node.items.as_ref(), item, path);
                path.pop();
                if problem.is_some() {
                    return problem;
                }
                seen.push(key);
            }
            None
        }
        Value::Array(_) => None,
        _ => None,
    }
}
