//! Tables of custom resources, by their printer columns.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::jsonpath::JsonPath;
use super::{NAME, age, definition, name};

/// One printer column.
pub(super) struct PrinterColumn {
    definition: Value,
    kind: String,
    path: Option<JsonPath>,
}

/// Reads printer columns; a resource without any shows its age.
pub(super) fn columns(columns: Option<&Value>) -> Vec<PrinterColumn> {
    let age = json!([{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]);
    let listed = columns.and_then(Value::as_array).filter(|columns| !columns.is_empty());
    listed.or(age.as_array()).into_iter().flatten().map(column).collect()
}

fn column(column: &Value) -> PrinterColumn {
    let text = |field: &str| column.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let path = text("jsonPath");
    let description = match text("description") {
        empty if empty.is_empty() => {
            format!("Custom resource definition column (in JSONPath format): {path}")
        }
        description => description,
    };
    PrinterColumn {
        definition: json!({
            "name": text("name"), "type": text("type"), "format": text("format"),
            "description": description, "priority": column.get("priority").cloned().unwrap_or(json!(0)),
        }),
        kind: text("type"),
        path: JsonPath::parse(&path),
    }
}

/// The columns as the table defines them; the name comes first.
pub(super) fn definitions(columns: &[PrinterColumn]) -> Vec<Value> {
    std::iter::once(definition(&NAME)).chain(columns.iter().map(|column| column.definition.clone())).collect()
}

/// The cells of one object.
pub(super) fn cells(columns: &[PrinterColumn], object: &Value, now: Timestamp) -> Vec<Value> {
    std::iter::once(name(object)).chain(columns.iter().map(|column| cell(column, object, now))).collect()
}

fn cell(column: &PrinterColumn, object: &Value, now: Timestamp) -> Value {
    let found = column.path.as_ref().map(|path| path.find(object)).unwrap_or_default();
    let Some(value) = found.first().filter(|value| !value.is_null()) else { return Value::Null };
    match column.kind.as_str() {
        "string" => json!(value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        "integer" => match (value.as_i64(), value.as_f64()) {
            (Some(whole), _) => json!(whole),
            (None, Some(float)) => json!(float.trunc() as i64),
            _ => Value::Null,
        },
        "number" => value.as_f64().map_or(Value::Null, |number| json!(number)),
        "boolean" => value.as_bool().map_or(Value::Null, Value::Bool),
        "date" => value.as_str().map_or(Value::Null, |text| json!(age::since(text, now))),
        _ => Value::Null,
    }
}
