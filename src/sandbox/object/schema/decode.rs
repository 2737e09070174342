//! Whether an object can be read as a built-in kind: the type errors that a typed server finds while decoding.

use serde_json::Value;

use super::{Schema, Type, join};
use crate::sandbox::object::Gvk;

/// The first field whose JSON type does not fit, as the message of a 400.
pub(super) fn check(schema: &Schema, gvk: &Gvk, object: &Value) -> Result<(), String> {
    match mismatch(schema, object, "") {
        None => Ok(()),
        Some((path, found, wanted)) => Err(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: json: cannot unmarshal {found} into Go \
             struct field {kind}.{path} of type {wanted}",
            kind = gvk.kind,
            version = gvk.version,
        )),
    }
}

fn mismatch(schema: &Schema, value: &Value, path: &str) -> Option<(String, &'static str, String)> {
    let node = schema.node();
    if value.is_null() {
        return None;
    }
    if node.int_or_string {
        return (!value.is_string() && !Type::Integer.fits(value))
            .then(|| (path.to_owned(), json_name(value), "intstr.IntOrString".to_owned()));
    }
    if let Some(kind) = node.kind
        && !kind.fits(value)
    {
        // Quantities are written as bare numbers too.
        let bare_quantity = kind == Type::String && value.is_number() && is_quantity(path);
        if !bare_quantity {
            return Some((path.to_owned(), json_name(value), go_name(kind, node.format.as_deref())));
        }
    }
    match value {
        Value::Object(fields) => {
            fields.iter().find_map(|(name, child)| mismatch(schema.field(name)?, child, &join(path, name)))
        }
        Value::Array(items) => {
            let schema = node.items.as_ref()?;
            items.iter().find_map(|item| mismatch(schema, item, path))
        }
        _ => None,
    }
}

fn is_quantity(path: &str) -> bool {
    ["requests", "limits", "capacity", "allocatable", "hard", "used", "overhead", "default", "min", "max"]
        .iter()
        .any(|part| path.split('.').any(|segment| segment == *part))
        || path.ends_with("sizeLimit")
}

fn json_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
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
