//! Whether an object can be read as a built-in kind: the errors that a typed server finds while decoding.

use base64::{DecodeError, Engine};
use serde_json::Value;

use super::{Schema, Type, join};
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

fn problem(schema: &Schema, value: &Value, kind: &str, path: &str) -> Option<String> {
    let node = schema.node();
    let mismatch = |wanted: &str| {
        let found = json_name(value);
        format!("json: cannot unmarshal {found} into Go struct field {kind}.{path} of type {wanted}")
    };
    match (value, node.kind) {
        (Value::Null, _) => return None,
        _ if node.int_or_string => {
            let fits = value.is_string() || Type::Integer.fits(value);
            return (!fits).then(|| mismatch("intstr.IntOrString"));
        }
        // Quantities are written as bare numbers too.
        (Value::Number(_), _) if node.is_quantity() => return None,
        (_, Some(wanted)) if !wanted.fits(value) => {
            return Some(mismatch(&go_name(wanted, node.format.as_deref())));
        }
        (Value::String(text), _) if node.format.as_deref() == Some("byte") => return undecodable(text),
        _ => {}
    }
    match value {
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, child)| problem(schema.field(name)?, child, kind, &join(path, name))),
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
