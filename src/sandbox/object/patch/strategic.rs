//! Strategic merge patches: lists merge by the key that the kind's schema names.

use serde_json::{Map, Value};

use super::PatchError;
use crate::sandbox::object::schema::{Merge, Schema};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Fields = Map<String, Value>;

pub(super) fn apply(object: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    let (Value::Object(original), Value::Object(patch)) = (object, patch) else {
        return Err(malformed("a strategic merge patch must be an object"));
    };
    Ok(Value::Object(merge_map(original.clone(), patch, Some(schema))?))
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

fn merge_map(mut original: Fields, patch: &Fields, schema: Option<&Schema>) -> Result<Fields, PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(without_directives(patch)),
            Some("delete") => Ok(Map::new()),
            _ => Err(malformed(format!("unknown patch type found: {directive}"))),
        };
    }
    if let Some(keep) = patch.get(RETAIN_KEYS) {
        let keep = keep.as_array().ok_or_else(|| malformed("$retainKeys must be a list"))?;
        original.retain(|name, _| keep.iter().any(|kept| kept.as_str() == Some(name)));
    }
    for (name, change) in patch {
        if let Some(name) = name.strip_prefix(DELETE_FROM) {
            delete_scalars(&mut original, name, change)?;
        }
    }
    for (name, change) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        let schema = schema.and_then(|schema| schema.field(name));
        if change.is_null() {
            original.remove(name);
            continue;
        }
        let merged = match original.remove(name) {
            None => fresh(change),
            Some(before) => merge_value(before, change, schema)?,
        };
        original.insert(name.clone(), merged);
    }
    for (name, order) in patch {
        if let Some(name) = name.strip_prefix(SET_ORDER) {
            let key = schema.and_then(|schema| schema.field(name)).and_then(|field| field.node().merge.key);
            set_order(&mut original, name, order, key, patch.contains_key(name))?;
        }
    }
    Ok(original)
}

fn merge_value(before: Value, change: &Value, schema: Option<&Schema>) -> Result<Value, PatchError> {
    match (before, change) {
        (Value::Object(before), Value::Object(change)) => {
            Ok(Value::Object(merge_map(before, change, schema)?))
        }
        (Value::Array(before), Value::Array(change)) => match schema.map(|schema| &schema.node().merge) {
            Some(Merge { key: Some(""), .. }) => Ok(Value::Array(merge_scalars(before, change))),
            Some(Merge { key: Some(key), .. }) => {
                let items = schema.and_then(|schema| schema.node().items.as_ref());
                merge_items(before, change, key, items).map(Value::Array)
            }
            _ => Ok(fresh(&Value::Array(change.clone()))),
        },
        (_, change) => Ok(fresh(change)),
    }
}

/// A patch's value where the object had none: directives and nulls have nothing to act on.
fn fresh(change: &Value) -> Value {
    match change {
        Value::Object(fields) => Value::Object(without_directives(fields)),
        Value::Array(items) => Value::Array(
            items
                .iter()
                .filter(|item| {
                    !matches!(item.get(DIRECTIVE).and_then(Value::as_str), Some("delete" | "replace"))
                })
                .map(fresh)
                .collect(),
        ),
        scalar => scalar.clone(),
    }
}

fn without_directives(fields: &Fields) -> Fields {
    fields
        .iter()
        .filter(|(name, value)| {
            !value.is_null()
                && name.as_str() != DIRECTIVE
                && name.as_str() != RETAIN_KEYS
                && !name.starts_with(DELETE_FROM)
                && !name.starts_with(SET_ORDER)
        })
        .map(|(name, value)| (name.clone(), fresh(value)))
        .collect()
}

fn merge_scalars(mut before: Vec<Value>, change: &[Value]) -> Vec<Value> {
    for value in change {
        if !before.contains(value) {
            before.push(value.clone());
        }
    }
    before
}

fn merge_items(
    mut before: Vec<Value>,
    change: &[Value],
    key: &str,
    schema: Option<&Schema>,
) -> Result<Vec<Value>, PatchError> {
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    if change.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        let rest: Vec<Value> = change.iter().filter(|item| directive(item).is_none()).map(fresh).collect();
        return Ok(rest);
    }
    for item in change {
        let fields = item
            .as_object()
            .ok_or_else(|| malformed(format!("{item} is not an object with the key {key}")))?;
        let identity = fields
            .get(key)
            .ok_or_else(|| malformed(format!("map: {item} does not contain declared merge key: {key}")))?;
        let found = before.iter().position(|candidate| candidate.get(key) == Some(identity));
        match (directive(item).as_deref(), found) {
            (Some("delete"), _) => before.retain(|candidate| candidate.get(key) != Some(identity)),
            (Some(other), _) if other != "merge" => {
                return Err(malformed(format!("unknown patch type found: {other}")));
            }
            (_, Some(index)) => {
                let mut change = fields.clone();
                change.remove(DIRECTIVE);
                before[index] = merge_value(before[index].clone(), &Value::Object(change), schema)?;
            }
            (_, None) => before.push(fresh(item)),
        }
    }
    Ok(before)
}

fn delete_scalars(original: &mut Fields, name: &str, gone: &Value) -> Result<(), PatchError> {
    let gone = gone.as_array().ok_or_else(|| malformed(format!("{DELETE_FROM}{name} must be a list")))?;
    if let Some(Value::Array(items)) = original.get_mut(name) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// Puts a merged list in the order the client saw; items that only the server knows keep their place among them.
fn set_order(
    original: &mut Fields,
    name: &str,
    order: &Value,
    key: Option<&str>,
    patched: bool,
) -> Result<(), PatchError> {
    let order = order.as_array().ok_or_else(|| malformed(format!("{SET_ORDER}{name} must be a list")))?;
    let Some(Value::Array(items)) = original.get_mut(name) else { return Ok(()) };
    let key = key.unwrap_or_default();
    let identity = |item: &Value| if key.is_empty() { item.clone() } else { item[key].clone() };
    let wanted: Vec<Value> = order.iter().map(identity).collect();
    let rank = |item: &Value| wanted.iter().position(|candidate| *candidate == identity(item));
    if patched && items.iter().all(|item| rank(item).is_none()) && !items.is_empty() && !wanted.is_empty() {
        return Err(malformed(format!("{SET_ORDER}{name} does not name the items of the patch")));
    }
    let before: Vec<Value> = items.iter().map(identity).collect();
    let place = |item: &Value| before.iter().position(|candidate| *candidate == identity(item));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        std::mem::take(items).into_iter().partition(|item| rank(item).is_some());
    named.sort_by_key(|item| rank(item));
    let mut others = others.into_iter().peekable();
    for item in named {
        while let Some(other) = others.next_if(|other| place(other) < place(&item)) {
            items.push(other);
        }
        items.push(item);
    }
    items.extend(others);
    Ok(())
}
