//! The OpenAPI documents of what is served.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use serde_json::Value;

use super::answer::value_response;
use super::call::App;
use super::crd;
use super::failure::Failure;
use super::registry::{Registry, Resource};
use crate::sandbox::object::openapi;

/// Answers paths below `/openapi`.
///
/// # Errors
/// 404 for paths that lead nowhere.
pub fn get(app: &Arc<App>, path: &str) -> Result<Response, Failure> {
    let registry = app.registry();
    let document = match path.trim_end_matches('/') {
        "/openapi/v2" => openapi::v2_document(&described(app, registry.all())?),
        "/openapi/v3" => {
            let names = group_versions(&registry);
            openapi::v3_index(names.iter().map(String::as_str))
        }
        other => {
            let (group, version) =
                match other.strip_prefix("/openapi/v3/").map(|rest| rest.split('/').collect()) {
                    Some(parts) => match Vec::as_slice(&parts) {
                        ["api", version] => ("", *version),
                        ["apis", group, version] => (*group, *version),
                        _ => return Err(Failure::no_such_path()),
                    },
                    None => return Err(Failure::no_such_path()),
                };
            let resources = registry.of(group, version);
            if resources.is_empty() {
                return Err(Failure::no_such_path());
            }
            openapi::v3_document(&described(app, resources.iter())?)
        }
    };
    Ok(value_response(StatusCode::OK, &document))
}

fn group_versions(registry: &Registry) -> Vec<String> {
    let mut names = Vec::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            names.push(if group.is_empty() { version.to_string() } else { format!("{group}/{version}") });
        }
    }
    names
}

fn described<'a>(
    app: &Arc<App>,
    resources: impl Iterator<Item = &'a Arc<Resource>>,
) -> Result<Vec<openapi::Resource>, Failure> {
    resources
        .map(|resource| {
            Ok(openapi::Resource {
                gvk: resource.gvk(),
                plural: resource.plural.to_string(),
                namespaced: resource.namespaced,
                subresources: resource.subresources.iter().map(|sub| sub.name().to_owned()).collect(),
                schema: schema(app, resource)?,
            })
        })
        .collect()
}

/// A custom resource's schema, from its definition: it is not kept in memory for these rare requests.
fn schema(app: &Arc<App>, resource: &Resource) -> Result<Option<Value>, Failure> {
    let Some(custom) = &resource.custom else { return Ok(None) };
    let Some(record) = app.store.get(crd::STORAGE, &custom.definition) else { return Ok(None) };
    let definition = app.builtin("apiextensions.k8s.io", "customresourcedefinitions")?.load(&record)?;
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
    let version = versions.into_iter().flatten().find(|version| version["name"] == *resource.version);
    Ok(version.and_then(|version| version.pointer("/schema/openAPIV3Schema")).cloned())
}
