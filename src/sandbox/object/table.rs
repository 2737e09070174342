//! `meta.k8s.io/v1 Table`: what `kubectl get` shows.

mod age;
mod cluster;
mod custom;
mod jsonpath;
mod pods;
#[cfg(test)]
mod tests;
mod various;
mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Gvk;

/// What a row carries of its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`, the default.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the `includeObject` query parameter.
    pub fn parse(text: &str) -> Self {
        match text {
            "None" => Self::None,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// A column: name, type, priority (0: always shown, 1: with `-o wide`), description.
type Column = (&'static str, &'static str, u8, &'static str);

/// A kind's columns, and how its cells come from an object.
struct Layout {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

const NAME: Column =
    ("Name", "string", 0, "Name of the object, unique among those of its kind in its namespace.");
const AGE: Column = ("Age", "string", 0, "Time since the object was made.");

/// Renders objects as a table. `columns` are a custom resource version's `additionalPrinterColumns` (null: only Name
/// and Age); for built-in kinds it is not read. `list_metadata` is the list's `metadata`.
pub fn render(
    gvk: &Gvk,
    columns: Option<&Value>,
    items: &[&Value],
    list_metadata: &Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let (definitions, cells): (Vec<Value>, Vec<Vec<Value>>) = match layout(gvk) {
        Some(layout) => (
            layout.columns.iter().map(definition).collect(),
            items.iter().map(|item| (layout.cells)(item, now)).collect(),
        ),
        None => {
            let columns = custom::columns(columns);
            let cells = items.iter().map(|item| custom::cells(&columns, item, now)).collect();
            (custom::definitions(&columns), cells)
        }
    };
    let rows: Vec<Value> = items
        .iter()
        .zip(cells)
        .map(|(item, cells)| {
            let mut row = json!({"cells": cells});
            match include {
                IncludeObject::None => row["object"] = Value::Null,
                IncludeObject::Metadata => row["object"] = partial(item),
                IncludeObject::Object => row["object"] = (*item).clone(),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// An object as `PartialObjectMetadata`.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn definition((name, kind, priority, description): &Column) -> Value {
    let format = if *name == "Name" { "name" } else { "" };
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

fn layout(gvk: &Gvk) -> Option<Layout> {
    if gvk.group.is_empty() || gvk.group.ends_with(".k8s.io") || !gvk.group.contains('.') {
        let (group, kind) = (gvk.group.as_str(), gvk.kind.as_str());
        return pods::layout(group, kind)
            .or_else(|| workloads::layout(group, kind))
            .or_else(|| cluster::layout(group, kind))
            .or_else(|| various::layout(group, kind));
    }
    None
}

/// The text at a pointer, or none.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a pointer, or a word for its absence.
fn text_or<'a>(object: &'a Value, pointer: &str, absent: &'a str) -> &'a str {
    let found = text(object, pointer);
    if found.is_empty() { absent } else { found }
}

/// The number at a pointer, or zero.
fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The items at a pointer, or none.
fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn name(object: &Value) -> Value {
    json!(text(object, "/metadata/name"))
}

fn age(object: &Value, now: Timestamp) -> Value {
    json!(age::since(text(object, "/metadata/creationTimestamp"), now))
}

/// Texts joined by commas, or `<none>`.
fn joined<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    if texts.is_empty() { "<none>".to_owned() } else { texts.join(",") }
}

/// Labels as `a=b,c=d`.
fn labels(map: Option<&Value>) -> String {
    let pairs: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    joined(pairs.iter().map(String::as_str))
}

/// A selector object as text.
fn selector(value: Option<&Value>) -> String {
    let parsed = value.and_then(|value| super::selector::LabelSelector::from_object(value).ok());
    let text = parsed.map(|parsed| parsed.to_string()).unwrap_or_default();
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// The names and the images of a template's containers.
fn container_names_and_images(containers: &[Value]) -> [Value; 2] {
    ["/name", "/image"].map(|field| json!(joined(containers.iter().map(|container| text(container, field)))))
}
