//! Removing what a schema does not know.

use serde_json::{Map, Value};

use super::{Schema, join, quantity};

/// Removes unknown fields, and notes their paths.
pub(super) fn prune(schema: &Schema, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    let node = schema.node();
    if node.is_quantity() {
        quantity::canonicalise(value);
    }
    if let (Some(form), Some(time)) = (node.time_form(), value.as_str().and_then(|text| text.parse().ok())) {
        let time: jiff::Timestamp = time;
        *value = Value::String(time.strftime(form).to_string());
    }
    match value {
        Value::Object(fields) => {
            fields.retain(|name, child| {
                let path = join(path, name);
                match schema.field(name) {
                    Some(schema) => {
                        prune(schema, child, &path, unknown);
                        !(node.builtin && unwritten(node.required.contains(name), schema, child))
                    }
                    None if node.open || !describes_object(schema) => true,
                    None => {
                        unknown.push(path);
                        false
                    }
                }
            });
        }
        Value::Array(items) => {
            if let Some(schema) = &node.items {
                for (index, item) in items.iter_mut().enumerate() {
                    prune(schema, item, &format!("{path}[{index}]"), unknown);
                }
            }
        }
        _ => {}
    }
}

/// A schema of another type says nothing about an object's fields; validation refuses the object as a whole.
fn describes_object(schema: &Schema) -> bool {
    let node = schema.node();
    !node.properties.is_empty()
        || node.values.is_some()
        || node.kind.is_none_or(|kind| kind == super::Type::Object) && !node.int_or_string
}

/// Whether a built-in kind's typed form would leave the field out: nulls, and empty optional lists and maps
/// (but not empty structs, such as `emptyDir: {}`).
fn unwritten(required: bool, schema: &Schema, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => !required && items.is_empty(),
        Value::Object(fields) => !required && Map::is_empty(fields) && schema.node().values.is_some(),
        _ => false,
    }
}
