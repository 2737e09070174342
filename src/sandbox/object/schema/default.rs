//! Defaults of custom resources.

use serde_json::Value;

use super::Schema;

/// Fills in defaults at every level that is there; a null that may not be one gives way to the default, or goes.
pub(super) fn fill(schema: &Schema, value: &mut Value) {
    let node = schema.node();
    match value {
        Value::Object(fields) => {
            for (name, child) in &node.properties {
                let child = child.node();
                let refused = fields.get(name).is_some_and(|value| value.is_null() && !child.nullable);
                if refused || !fields.contains_key(name) {
                    match &child.default {
                        Some(default) => drop(fields.insert(name.clone(), default.clone())),
                        None if refused && child.kind.is_some() => drop(fields.remove(name)),
                        None => {}
                    }
                }
            }
            for (name, value) in fields.iter_mut() {
                if let Some(child) = schema.field(name) {
                    replace_null(child, value);
                    fill(child, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(child) = &node.items {
                for item in items {
                    replace_null(child, item);
                    fill(child, item);
                }
            }
        }
        _ => {}
    }
}

fn replace_null(schema: &Schema, value: &mut Value) {
    let node = schema.node();
    if let (true, false, Some(default)) = (value.is_null(), node.nullable, &node.default) {
        *value = default.clone();
    }
}
