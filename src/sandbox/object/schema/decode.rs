//! Whether an object can be read as a built-in kind: the errors that a typed server finds while decoding.

use base64::{DecodeError, Engine};
use serde_json::Value;

use super::node::MICRO_TIME;
use super::{Schema, Type, formats, join, kinds};
use crate::sandbox::object::Gvk;

/// The first field that cannot be read, as the message of a 400.
pub(super) fn check(schema: &Schema, gvk: &Gvk, object: &Value) -> Result<(), String> {
    match problem(schema, object, &gvk.kind, "") {
        None => Ok(()),
        Some(problem) => Err(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {problem}",
            kind = gvk.kind,
            version = gvk.version,
        )),
    }
}

/// What of a custom resource's metadata cannot be read.
pub(super) fn metadata_problem(object: &Value) -> Option<String> {
    problem(&kinds::object_meta()?, object.get("metadata")?, "ObjectMeta", "")
}

/// The first field that cannot be read, and why.
pub(super) fn problem_of(schema: &Schema, gvk: &Gvk, object: &Value) -> Option<String> {
    problem(schema, object, &gvk.kind, "")
}

fn problem(schema: &Schema, value: &Value, kind: &str, path: &str) -> Option<String> {
    let node = schema.node();
    let mismatch = |wanted: &str| {
        let found = json_name(value);
        format!("json: cannot unmarshal {found} into Go struct field {kind}.{path} of type {wanted}")
    };
    match (value, node.kind) {
        (Value::Null, _) => return None,
        (Value::String(text), _) if node.is_quantity() => return no_quantity(text),
        _ if node.int_or_string => {
            let fits = value.is_string() || Type::Integer.fits(value);
            return (!fits).then(|| mismatch("intstr.IntOrString"));
        }
        // Quantities are written as bare numbers too.
        (Value::Number(_), _) if node.is_quantity() => return None,
        (_, Some(wanted)) if !wanted.fits(value) => {
            return Some(mismatch(&go_type(schema, wanted)));
        }
        (Value::String(text), _) if node.format.as_deref() == Some("byte") => return undecodable(text),
        (Value::String(text), _) if node.time_form().is_some() => {
            return no_time(text, node.format.as_deref());
        }
        (Value::Number(number), _)
            if !node.format.as_deref().is_none_or(|format| formats::fits(format, value)) =>
        {
            return Some(mismatch(&go_type(schema, Type::Integer)).replacen(
                "number",
                &format!("number {number}"),
                1,
            ));
        }
        _ => {}
    }
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, child)| {
            // As in Go, a map's keys are not part of the path.
            let declared = node.properties.contains_key(name);
            let below = if declared { join(path, name) } else { path.to_owned() };
            problem(schema.field(name)?, child, kind, &below)
        }),
        Value::Array(items) => {
            let schema = node.items.as_ref()?;
            items.iter().find_map(|item| problem(schema, item, kind, path))
        }
        _ => None,
    }
}

/// What is wrong with a base64 text.
fn undecodable(text: &str) -> Option<String> {
    let at = match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(_) => return None,
        Err(DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _)) => at,
        Err(_) => text.len(),
    };
    Some(format!("illegal base64 data at input byte {at}"))
}

/// What is wrong with a quantity.
fn no_quantity(text: &str) -> Option<String> {
    let fits = text.trim().parse::<crate::api::Quantity>().is_ok();
    let why = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    (!fits).then(|| why.to_owned())
}

/// What is wrong with a time.
fn no_time(text: &str, format: Option<&str>) -> Option<String> {
    let micro = if format == Some(MICRO_TIME) { ".000000" } else { "" };
    let form = format!("2006-01-02T15:04:05{micro}Z07:00");
    let fits = text.parse::<jiff::Timestamp>().is_ok();
    (!fits).then(|| format!("parsing time {text:?} as {form:?}: cannot parse {text:?} as \"2006\""))
}

/// A JSON type as Go's reader names it.
pub(crate) fn json_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The type that Go reads a node into, as far as the schema tells it.
fn go_type(schema: &Schema, wanted: Type) -> String {
    let node = schema.node();
    let below = |child: &Schema| match child.node().kind {
        Some(kind @ (Type::Object | Type::Array)) => go_name(kind, None),
        Some(kind) => go_name(kind, child.node().format.as_deref()),
        None => "interface {}".to_owned(),
    };
    match (wanted, &node.values, &node.items) {
        (Type::Object, Some(values), _) => format!("map[string]{}", below(values)),
        (Type::Array, _, Some(items)) if items.node().properties.is_empty() => format!("[]{}", below(items)),
        _ => go_name(wanted, node.format.as_deref()),
    }
}

fn go_name(kind: Type, format: Option<&str>) -> String {
    match (kind, format) {
        (Type::Integer, Some(format)) => format.to_owned(),
        (Type::Integer, None) => "int".to_owned(),
        (Type::Number, _) => "float64".to_owned(),
        (Type::Boolean, _) => "bool".to_owned(),
        (Type::String, Some("byte")) => "[]uint8".to_owned(),
        (Type::String, _) => "string".to_owned(),
        (Type::Array, _) => "[]interface {}".to_owned(),
        (Type::Object, _) => "map[string]interface {}".to_owned(),
    }
}
