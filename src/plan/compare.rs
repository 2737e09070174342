//! Whether an object already holds all that we want of it.
//!
//! A live object holds more than was asked for: the API server fills in defaults, other writers add their own fields.
//! So what we want is looked for in it, field by field. That alone would miss a field that we no longer want; a hash
//! of all that was applied, kept in an annotation, shows that.

use ring::digest;
use serde_json::{Map, Value, json};

use super::text::text;
use crate::api::Quantity;

/// Annotation with the hash of what was applied last.
pub const APPLIED: &str = "db.example.com/applied";

/// A short hash of a value.
pub fn hash(value: &Value) -> String {
    let digest = digest::digest(&digest::SHA256, value.to_string().as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the hash of the object into it.
pub fn stamp(body: &mut Value) {
    let hash = hash(body);
    let annotations = body
        .pointer_mut("/metadata")
        .and_then(Value::as_object_mut)
        .map(|metadata| metadata.entry("annotations").or_insert_with(|| json!({})));
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.insert(APPLIED.to_owned(), Value::String(hash));
    }
}

/// Whether `live` holds everything that `wanted` does.
pub fn covers(live: &Value, wanted: &Value) -> bool {
    covers_at(live, wanted, "")
}

fn covers_at(live: &Value, wanted: &Value, key: &str) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => covers_map(live, wanted, key),
        (Value::Array(live), Value::Array(wanted)) => covers_list(live, wanted, key),
        // The API server leaves empty lists and maps out.
        (Value::Null, Value::Array(wanted)) => wanted.is_empty(),
        (Value::Null, Value::Object(wanted)) => wanted.is_empty(),
        _ => live == wanted || same_quantity(live, wanted),
    }
}

fn covers_map(live: &Map<String, Value>, wanted: &Map<String, Value>, parent: &str) -> bool {
    wanted.iter().all(|(key, value)| {
        // Amounts are compared by value below these keys.
        let inner = if matches!(parent, "requests" | "limits" | "sizeLimit") { parent } else { key };
        covers_at(live.get(key).unwrap_or(&Value::Null), value, inner)
    })
}

/// Lists whose items have a name may hold others' items too; other lists must be the same from end to end.
fn covers_list(live: &[Value], wanted: &[Value], key: &str) -> bool {
    let named = !wanted.is_empty() && wanted.iter().all(|item| text(item, "/name").is_some());
    if named {
        wanted.iter().all(|item| {
            live.iter()
                .find(|candidate| text(candidate, "/name") == text(item, "/name"))
                .is_some_and(|candidate| covers_at(candidate, item, key))
        })
    } else {
        live.len() == wanted.len() && live.iter().zip(wanted).all(|(a, b)| covers_at(a, b, key))
    }
}

/// `1024Mi` is `1Gi`. Only texts that differ come here, and only amounts parse.
fn same_quantity(live: &Value, wanted: &Value) -> bool {
    let quantity = |value: &Value| -> Option<Quantity> {
        match value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.to_string().parse().ok(),
            _ => None,
        }
    };
    matches!((quantity(live), quantity(wanted)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_wanted_among_what_others_added() {
        for (live, wanted, yes) in [
            (json!({"a": 1, "b": 2}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!({}), json!({"a": {}}), true),
            (json!({}), json!({"a": {"b": 1}}), false),
            (
                json!({"l": [{"name": "y"}, {"name": "x", "v": 1, "d": 0}]}),
                json!({"l": [{"name": "x", "v": 1}]}),
                true,
            ),
            (json!({"l": [{"name": "x", "v": 2}]}), json!({"l": [{"name": "x", "v": 1}]}), false),
            (json!({"l": ["a", "b"]}), json!({"l": ["a"]}), false),
            (json!({"l": ["a"]}), json!({"l": ["a"]}), true),
            (json!({"requests": {"memory": "1Gi"}}), json!({"requests": {"memory": "1024Mi"}}), true),
            (json!({"requests": {"memory": "1Gi"}}), json!({"requests": {"memory": "1G"}}), false),
            (json!({"requests": {"cpu": "1"}}), json!({"requests": {"cpu": "1000m"}}), true),
        ] {
            assert_eq!(covers(&live, &wanted), yes, "{live} {wanted}");
        }
    }

    #[test]
    fn the_stamp_tells_what_is_no_longer_wanted() {
        let mut more = json!({"metadata": {"name": "x"}, "spec": {"a": 1, "b": 2}});
        let mut less = json!({"metadata": {"name": "x"}, "spec": {"a": 1}});
        stamp(&mut more);
        stamp(&mut less);
        assert!(!covers(&more, &less));
        let mut again = json!({"metadata": {"name": "x"}, "spec": {"a": 1}});
        stamp(&mut again);
        assert!(covers(&less, &again));
    }
}
