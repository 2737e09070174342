//! The entries of `metadata.managedFields`.

use serde_json::{Value, json};

use super::Writer;
use super::set::FieldSet;

/// The most `Update` entries an object keeps; older ones are put together.
const MAX_UPDATES: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) applies: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: Option<String>,
    pub(super) fields: FieldSet,
}

impl Manager {
    pub(super) fn of(writer: &Writer, applies: bool) -> Self {
        Self {
            name: writer.manager.clone(),
            applies,
            api_version: writer.api_version.clone(),
            subresource: writer.subresource.clone(),
            time: None,
            fields: FieldSet::default(),
        }
    }

    /// Whether both entries are of the same writer. An applier is the same whatever version it applies in.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.applies == other.applies
            && self.subresource == other.subresource
            && (self.applies || self.api_version == other.api_version)
    }

    /// How conflicts name it.
    pub(super) fn described(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applies {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// Reads an object's entries.
pub(super) fn read(object: &Value) -> Vec<Manager> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let text =
        |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    entries
        .into_iter()
        .flatten()
        .map(|entry| Manager {
            name: text(entry, "manager"),
            applies: text(entry, "operation") == "Apply",
            api_version: text(entry, "apiVersion"),
            subresource: text(entry, "subresource"),
            time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
            fields: FieldSet::from_json(&entry["fieldsV1"]),
        })
        .collect()
}

/// Writes entries: appliers first, then by time and name; those that own nothing are left out.
pub(super) fn write(object: &mut Value, mut managers: Vec<Manager>) {
    managers.retain(|manager| !manager.fields.is_empty());
    managers.sort_by(|one, other| {
        let order = |manager: &Manager| {
            (
                !manager.applies,
                manager.time.clone().unwrap_or_default(),
                manager.name.clone(),
                manager.api_version.clone(),
                manager.subresource.clone(),
            )
        };
        order(one).cmp(&order(other))
    });
    cap(&mut managers);
    let entries: Vec<Value> = managers.iter().map(entry).collect();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), json!(entries));
        }
    }
}

fn entry(manager: &Manager) -> Value {
    let mut entry = json!({
        "manager": manager.name,
        "operation": if manager.applies { "Apply" } else { "Update" },
        "apiVersion": manager.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": manager.fields.to_json(),
    });
    if let Some(time) = &manager.time {
        entry["time"] = json!(time);
    }
    if !manager.subresource.is_empty() {
        entry["subresource"] = json!(manager.subresource);
    }
    entry
}

/// Puts the oldest `Update` entries together when there are too many.
fn cap(managers: &mut Vec<Manager>) {
    let updates = managers.iter().filter(|manager| !manager.applies).count();
    if updates <= MAX_UPDATES {
        return;
    }
    let first = managers.iter().position(|manager| !manager.applies).unwrap_or_default();
    let old: Vec<Manager> = managers.drain(first..=first + updates - MAX_UPDATES).collect();
    let Some(last) = old.last() else { return };
    let mut ancient = Manager {
        name: ANCIENT.to_owned(),
        subresource: String::new(),
        fields: FieldSet::default(),
        ..last.clone()
    };
    old.iter().for_each(|manager| ancient.fields.union(&manager.fields));
    managers.insert(first, ancient);
}
