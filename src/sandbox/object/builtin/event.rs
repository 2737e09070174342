//! Events have two forms, that of `v1` and that of `events.k8s.io/v1`, for the same stored object.

use serde_json::{Map, Value, json};

/// Fields by their names in `v1` and in `events.k8s.io/v1`.
const NAMES: [(&str, &str); 8] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("related", "related"),
];

/// The event in the form of the group; an event that has that form already is kept.
pub(super) fn convert(event: &Value, group: &str) -> Value {
    let Some(fields) = event.as_object() else { return event.clone() };
    let to_core = group.is_empty();
    let mut converted: Map<String, Value> = fields
        .iter()
        .map(|(name, value)| {
            let renamed = NAMES.iter().find_map(|(core, new)| match to_core {
                true if name == new => Some(*core),
                false if name == core => Some(*new),
                _ => None,
            });
            (renamed.unwrap_or(name).to_owned(), value.clone())
        })
        .collect();
    let version = if to_core { "v1".to_owned() } else { format!("{group}/v1") };
    converted.insert("apiVersion".to_owned(), json!(version));
    Value::Object(converted)
}
