//! What a client reads first: which groups, versions and resources there are.

use std::sync::Arc;

use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::answer::value_response;
use super::failure::Failure;
use super::registry::{Registry, Resource, Subresource};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

const CREATE_ONLY: &[&str] = &["create"];
const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Resource {
    fn verbs(&self) -> &'static [&'static str] {
        if self.create_only { CREATE_ONLY } else { ALL_VERBS }
    }
}

impl Subresource {
    fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Status | Self::Scale => &["get", "patch", "update"],
            Self::Binding | Self::Eviction | Self::Token => &["create"],
            Self::Log => &["get"],
            Self::Finalize => &["update"],
            Self::Exec | Self::Attach | Self::PortForward => &["create", "get"],
            Self::Proxy => &["create", "delete", "get", "patch", "update"],
        }
    }

    /// Group, version and kind of what it is about.
    fn answers(self, resource: &Resource) -> (&str, &str, &str) {
        match self {
            Self::Status | Self::Finalize | Self::Log => (&resource.group, &resource.version, &resource.kind),
            Self::Scale => ("autoscaling", "v1", "Scale"),
            Self::Binding => ("", "v1", "Binding"),
            Self::Eviction => ("policy", "v1", "Eviction"),
            Self::Token => ("authentication.k8s.io", "v1", "TokenRequest"),
            Self::Exec => ("", "v1", "PodExecOptions"),
            Self::Attach => ("", "v1", "PodAttachOptions"),
            Self::PortForward => ("", "v1", "PodPortForwardOptions"),
            Self::Proxy => match &*resource.kind {
                "Node" => ("", "v1", "NodeProxyOptions"),
                "Service" => ("", "v1", "ServiceProxyOptions"),
                _ => ("", "v1", "PodProxyOptions"),
            },
        }
    }
}

/// Answers `/api`, `/apis` and what is below them down to the version; none for other paths.
pub fn get(registry: &Registry, path: &str, headers: &HeaderMap) -> Option<Result<Response, Failure>> {
    let aggregated = wants_aggregated(headers);
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let body = match parts.as_slice() {
        ["api"] if aggregated => return Some(Ok(aggregate(registry, true))),
        ["apis"] if aggregated => return Some(Ok(aggregate(registry, false))),
        ["api"] => Some(core_versions()),
        ["apis"] => {
            let groups = named_groups(registry).map(|(name, versions)| group(name, versions));
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>()}))
        }
        ["api", version] => resource_list(registry, "", version),
        ["apis", name] => named_groups(registry).find(|(own, _)| &***own == *name).map(|(name, versions)| {
            let mut body = group(name, versions);
            body["kind"] = json!("APIGroup");
            body["apiVersion"] = json!("v1");
            body
        }),
        ["apis", group, version] => resource_list(registry, group, version),
        _ => return None,
    };
    Some(body.map(|body| value_response(StatusCode::OK, &body)).ok_or_else(Failure::no_such_path))
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|media| {
        let mut parts = media.split(';').map(str::trim);
        parts.next() == Some("application/json")
            && ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
                .iter()
                .all(|wanted| media.split(';').any(|part| part.trim() == *wanted))
    })
}

fn named_groups(registry: &Registry) -> impl Iterator<Item = (&Arc<str>, &[Arc<str>])> {
    registry.groups().filter(|(name, _)| !name.is_empty())
}

fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

fn group(name: &str, versions: &[Arc<str>]) -> Value {
    let version =
        |version: &Arc<str>| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version)})
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let found = registry.of(group, version);
    let first = found.first()?;
    let mut resources = Vec::new();
    for resource in found {
        resources.push(plain(resource));
        resources.extend(resource.subresources.iter().map(|sub| plain_subresource(resource, *sub)));
    }
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.name.api_version,
        "resources": resources}))
}

fn plain(resource: &Resource) -> Value {
    let mut body = json!({"name": resource.plural, "singularName": resource.singular, "kind": resource.kind,
        "namespaced": resource.namespaced, "verbs": resource.verbs()});
    if !resource.short_names.is_empty() {
        body["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        body["categories"] = json!(resource.categories);
    }
    body
}

fn plain_subresource(resource: &Resource, sub: Subresource) -> Value {
    let (group, version, kind) = sub.answers(resource);
    let mut body = json!({"name": format!("{}/{}", resource.plural, sub.name()), "singularName": "", "kind": kind,
        "namespaced": resource.namespaced, "verbs": sub.verbs()});
    if group != &*resource.group || version != &*resource.version {
        body["group"] = json!(group);
        body["version"] = json!(version);
    }
    body
}

fn aggregate(registry: &Registry, core: bool) -> Response {
    let groups = registry.groups().filter(|(name, _)| name.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> =
                        registry.of(name, version).iter().map(|r| aggregated(r)).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let body = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items});
    let mut response = value_response(StatusCode::OK, &body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response
}

fn aggregated(resource: &Resource) -> Value {
    let kind = |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|sub| {
            json!({"subresource": sub.name(), "responseKind": kind(sub.answers(resource)), "verbs": sub.verbs()})
        })
        .collect();
    let mut body = json!({
        "resource": resource.plural,
        "responseKind": kind((&resource.group, &resource.version, &resource.kind)),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs(),
    });
    if !resource.short_names.is_empty() {
        body["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        body["categories"] = json!(resource.categories);
    }
    if !subresources.is_empty() {
        body["subresources"] = json!(subresources);
    }
    body
}
