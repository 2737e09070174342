//! The OpenAPI documents that clients read before they write: from them kubectl knows that the server checks fields
//! itself, how lists merge, and what `kubectl explain` shows.

mod paths;
mod schemas;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::Gvk;

/// Title and version, which every document has.
const TITLE: &str = "Kubernetes";
const VERSION: &str = "v1.36.2";

/// A served resource, as the documents need it.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its kind.
    pub gvk: Gvk,
    /// Its plural name, as in paths.
    pub plural: String,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
    /// Subresources, such as `status` and `scale`.
    pub subresources: Vec<String>,
    /// A custom resource's `openAPIV3Schema`; None for built-in kinds.
    pub schema: Option<Value>,
}

/// The index at `/openapi/v3` for these group-versions (`v1`, `apps/v1`, …).
pub fn v3_index<'a>(group_versions: impl IntoIterator<Item = &'a str>) -> Value {
    let paths: Map<String, Value> = group_versions
        .into_iter()
        .map(|name| {
            let key = if name.contains('/') { format!("apis/{name}") } else { format!("api/{name}") };
            let url = format!("/openapi/v3/{key}");
            (key, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// The document of one group-version, at `/openapi/v3/api/v1` or `/openapi/v3/apis/GROUP/VERSION`.
pub fn v3_document(resources: &[Resource]) -> Value {
    let style = Style::V3;
    json!({
        "openapi": "3.0.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": paths::all(resources, style),
        "components": {"schemas": schemas::all(resources, style)},
    })
}

/// The document of everything at `/openapi/v2`.
pub fn v2_document(resources: &[Resource]) -> Value {
    let style = Style::V2;
    json!({
        "swagger": "2.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": paths::all(resources, style),
        "definitions": schemas::all(resources, style),
    })
}

/// The two versions of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    V2,
    V3,
}

impl Style {
    /// A reference to a schema.
    fn reference(self, name: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// The extension that ties a schema or an operation to a kind.
fn kind_of(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}
