//! Structural checks of custom resources, in the words of the API server.

use serde_json::{Value, json};

use super::checks::Checks;
use super::node::{ListKind, Node, Type};
use super::{Schema, formats, join, rules};
use crate::sandbox::object::{Cause, FieldError};

const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the \
                         existing errors to complete validation";

/// Checks structure, then list keys, then rules (not when the structure is too wrong for them).
pub(super) fn check(schema: &Schema, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    structure(schema, object, old, "", &mut errors);
    let blocked = errors.iter().any(|error| {
        matches!(
            error.reason,
            Cause::NotSupported | Cause::Required | Cause::TooLong | Cause::TooMany | Cause::TypeInvalid
        )
    });
    if schema.node().has_rules {
        if blocked {
            errors.push(FieldError::invalid("<nil>", &Value::Null, UNCHECKED));
        } else {
            rules::check(schema, object, old, "", &mut errors);
        }
    }
    errors
}

/// Checks a value and all below it. A part that is as it was is not looked at again.
fn structure(schema: &Schema, value: &Value, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    let node = schema.node();
    if old == Some(value)
        || (value.is_null() && (node.nullable || node.kind.is_none() && !node.int_or_string))
    {
        return;
    }
    if let Some(wrong) = type_error(node, value, path) {
        errors.push(wrong);
        return;
    }
    if let Some(checks) = &node.checks {
        check_value(checks, value, path, errors);
    }
    if let Some(also) = &node.also {
        structure(also, value, old, path, errors);
    }
    match value {
        Value::Object(fields) => {
            if node.embedded {
                embedded(value, path, errors);
            }
            for name in &node.required {
                if !fields.contains_key(name) && !node.builtin {
                    errors.push(FieldError::required(join(path, name), ""));
                }
            }
            for (name, child) in fields {
                if let Some(schema) = schema.field(name) {
                    structure(schema, child, old.and_then(|old| old.get(name)), &join(path, name), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &node.items {
                for (index, item) in items.iter().enumerate() {
                    let old = old.and_then(|old| rules::counterpart(&node.list, item, old));
                    structure(schema, item, old, &format!("{path}[{index}]"), errors);
                }
            }
            duplicates(node, items, path, errors);
        }
        _ => {}
    }
}

/// An object within an object must say what it is.
fn embedded(object: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for name in ["apiVersion", "kind"] {
        match object.get(name) {
            None => errors.push(FieldError::required(join(path, name), "")),
            Some(value) if value == "" => {
                errors.push(FieldError::invalid(join(path, name), value, "must not be empty"));
            }
            Some(_) => {}
        }
    }
}

fn type_error(node: &Node, value: &Value, path: &str) -> Option<FieldError> {
    let wanted = if node.int_or_string {
        if value.is_string() || Type::Integer.fits(value) {
            return None;
        }
        "integer,string"
    } else {
        let kind = node.kind?;
        if kind.fits(value) {
            match &node.format {
                Some(format) if !formats::fits(format, value) => {
                    let detail = format!("{path} in body must be of type {format}: {value}");
                    return Some(FieldError::new(path, Cause::TypeInvalid, Some(value), &detail));
                }
                _ => return None,
            }
        }
        kind.as_str()
    };
    let found = type_name(value);
    let detail = format!("{path} in body must be of type {wanted}: \"{found}\"");
    Some(FieldError::new(or_nil(path), Cause::TypeInvalid, Some(&json!(found)), &detail))
}

fn or_nil(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if Type::Integer.fits(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check_value(checks: &Checks, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !checks.allowed.is_empty() && !checks.allowed.contains(value) {
        let texts: Vec<String> = checks
            .allowed
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect();
        errors.push(FieldError::not_supported(path, value, texts.iter().map(String::as_str)));
    }
    match value {
        Value::Number(_) => check_number(checks, value, path, errors),
        Value::String(text) => check_text(checks, value, text, path, errors),
        Value::Array(items) => check_items(checks, value, items, path, errors),
        Value::Object(fields) => {
            if let Some(limit) = checks.max_properties.filter(|limit| fields.len() as u64 > *limit) {
                errors.push(too_many(path, fields.len(), limit));
            }
            if let Some(limit) = checks.min_properties.filter(|limit| (fields.len() as u64) < *limit) {
                let found = json!(fields.len());
                refuse(&found, path, &format!("should have at least {limit} properties"), errors);
            }
        }
        _ => {}
    }
    check_branches(checks, value, path, errors);
}

fn refuse(value: &Value, path: &str, what: &str, errors: &mut Vec<FieldError>) {
    errors.push(FieldError::invalid(path, value, &format!("{path} in body {what}")));
}

fn too_many(path: &str, found: usize, limit: u64) -> FieldError {
    FieldError::new(path, Cause::TooMany, Some(&json!(found)), &format!("must have at most {limit} items"))
}

fn check_number(checks: &Checks, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(number) = value.as_f64() else { return };
    match checks.minimum {
        Some((limit, true)) if number <= limit => {
            refuse(value, path, &format!("should be greater than {limit}"), errors);
        }
        Some((limit, false)) if number < limit => {
            refuse(value, path, &format!("should be greater than or equal to {limit}"), errors);
        }
        _ => {}
    }
    match checks.maximum {
        Some((limit, true)) if number >= limit => {
            refuse(value, path, &format!("should be less than {limit}"), errors);
        }
        Some((limit, false)) if number > limit => {
            refuse(value, path, &format!("should be less than or equal to {limit}"), errors);
        }
        _ => {}
    }
    if let Some(step) = checks.multiple_of
        && (number / step).fract() != 0.0
    {
        refuse(value, path, &format!("should be a multiple of {step}"), errors);
    }
}

fn check_text(checks: &Checks, value: &Value, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    let length = text.chars().count() as u64;
    if let Some(limit) = checks.max_length.filter(|limit| length > *limit) {
        errors.push(FieldError::new(
            path,
            Cause::TooLong,
            None,
            &format!("may not be more than {limit} bytes"),
        ));
    }
    if let Some(limit) = checks.min_length.filter(|limit| length < *limit) {
        refuse(value, path, &format!("should be at least {limit} chars long"), errors);
    }
    if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
        refuse(value, path, &format!("should match '{pattern}'"), errors);
    }
}

fn check_items(checks: &Checks, value: &Value, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    if let Some(limit) = checks.max_items.filter(|limit| items.len() as u64 > *limit) {
        errors.push(too_many(path, items.len(), limit));
    }
    if let Some(limit) = checks.min_items.filter(|limit| (items.len() as u64) < *limit) {
        refuse(&json!(items.len()), path, &format!("should have at least {limit} items"), errors);
    }
    if checks.unique && items.iter().enumerate().any(|(index, item)| items[..index].contains(item)) {
        refuse(value, path, "shouldn't contain duplicates", errors);
    }
}

fn passes(schema: &Schema, value: &Value, path: &str) -> bool {
    let mut errors = Vec::new();
    structure(schema, value, None, path, &mut errors);
    errors.is_empty()
}

fn check_branches(checks: &Checks, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let count = |branches: &[Schema]| branches.iter().filter(|branch| passes(branch, value, path)).count();
    let mut fail = |what: &str| {
        errors.push(FieldError::invalid(or_nil(path), &json!(""), &format!("\"{path}\" must {what}")));
    };
    if !checks.any_of.is_empty() && count(&checks.any_of) == 0 {
        fail("validate at least one schema (anyOf)");
    }
    if !checks.one_of.is_empty() {
        match count(&checks.one_of) {
            1 => {}
            0 => fail("validate one and only one schema (oneOf). Found none valid"),
            many => {
                fail(&format!("validate one and only one schema (oneOf). Found {many} valid alternatives"));
            }
        }
    }
    if count(&checks.all_of) < checks.all_of.len() {
        fail("validate all the schemas (allOf)");
    }
    if checks.not.as_ref().is_some_and(|branch| passes(branch, value, path)) {
        fail("not validate the schema (not)");
    }
    for branch in &checks.all_of {
        structure(branch, value, None, path, errors);
    }
}

/// Items of a set or of a keyed list that are there twice.
fn duplicates(node: &Node, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let keys: Vec<Value> = match &node.list {
        ListKind::Atomic => return,
        _ if node.builtin => return,
        ListKind::Set => items.to_vec(),
        ListKind::Map(keys) => items
            .iter()
            .map(|item| {
                keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone()))).collect::<Value>()
            })
            .collect(),
    };
    for (index, key) in keys.iter().enumerate() {
        if keys[..index].contains(key) {
            errors.push(FieldError::duplicate(format!("{path}[{index}]"), key));
        }
    }
}
