//! The paths of the documents: what can be done with each resource, and with which parameters.

use serde_json::{Map, Value, json};

use super::{Resource, Style, kind_of, schemas};

const DRY_RUN: (&str, &str) = ("dryRun", "`All` answers as if, and keeps nothing.");
const MANAGER: (&str, &str) = ("fieldManager", "Name of the one who makes the change.");
const VALIDATION: (&str, &str) =
    ("fieldValidation", "What to do about unknown fields: Ignore, Warn or Strict.");
const FORCE: (&str, &str) = ("force", "Take fields that other managers own; for apply patches only.");
const LIST: [(&str, &str); 6] = [
    ("labelSelector", "Labels of the objects wanted."),
    ("fieldSelector", "Fields of the objects wanted."),
    ("limit", "The most objects to list at once."),
    ("continue", "Where the last list ended."),
    ("resourceVersion", "How new the answer must be."),
    ("watch", "Go on with what changes."),
];
const DELETE: [(&str, &str); 3] = [
    DRY_RUN,
    ("gracePeriodSeconds", "Seconds until the object goes."),
    ("propagationPolicy", "What happens to dependents: Orphan, Background or Foreground."),
];

/// All paths of the resources.
pub(super) fn all(resources: &[Resource], style: Style) -> Map<String, Value> {
    let mut paths = Map::new();
    for resource in resources {
        let gvk = &resource.gvk;
        let root = if gvk.group.is_empty() {
            format!("/api/{}", gvk.version)
        } else {
            format!("/apis/{}/{}", gvk.group, gvk.version)
        };
        let maker = Maker { resource, schema: schemas::name(resource), style };
        let plural = &resource.plural;
        let collection = if resource.namespaced {
            paths.insert(format!("{root}/{plural}"), json!({"get": maker.operation("list", &LIST)}));
            format!("{root}/namespaces/{{namespace}}/{plural}")
        } else {
            format!("{root}/{plural}")
        };
        paths.insert(collection.clone(), maker.collection());
        paths.insert(format!("{collection}/{{name}}"), maker.item());
        for subresource in &resource.subresources {
            if subresource == "status" {
                paths.insert(format!("{collection}/{{name}}/status"), maker.status());
            }
        }
    }
    paths
}

struct Maker<'a> {
    resource: &'a Resource,
    schema: String,
    style: Style,
}

impl Maker<'_> {
    fn collection(&self) -> Value {
        json!({
            "get": self.operation("list", &LIST),
            "post": self.write("post", &["application/json"], &[DRY_RUN, MANAGER, VALIDATION]),
            "delete": self.operation("deletecollection", &DELETE),
            "parameters": self.path_parameters(false),
        })
    }

    fn item(&self) -> Value {
        json!({
            "get": self.operation("get", &[]),
            "put": self.write("put", &["application/json"], &[DRY_RUN, MANAGER, VALIDATION]),
            "patch": self.patch(),
            "delete": self.operation("delete", &DELETE),
            "parameters": self.path_parameters(true),
        })
    }

    fn status(&self) -> Value {
        json!({
            "get": self.operation("get", &[]),
            "put": self.write("put", &["application/json"], &[DRY_RUN, MANAGER, VALIDATION]),
            "patch": self.patch(),
            "parameters": self.path_parameters(true),
        })
    }

    /// Custom resources have no strategic merge patch.
    fn patch(&self) -> Value {
        const BUILT_IN: [&str; 4] = [
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ];
        let types = if self.resource.schema.is_some() { &BUILT_IN[..3] } else { &BUILT_IN[..] };
        self.write("patch", types, &[DRY_RUN, MANAGER, VALIDATION, FORCE])
    }

    fn path_parameters(&self, named: bool) -> Value {
        let namespace = self.resource.namespaced.then_some("namespace");
        let names = namespace.into_iter().chain(named.then_some("name"));
        names
            .map(|name| match self.style {
                Style::V3 => {
                    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
                }
                Style::V2 => json!({"name": name, "in": "path", "required": true, "type": "string"}),
            })
            .collect()
    }

    fn operation(&self, action: &str, parameters: &[(&str, &str)]) -> Value {
        let parameters: Vec<Value> = parameters
            .iter()
            .map(|(name, description)| {
                let kind = match *name {
                    "limit" | "gracePeriodSeconds" => "integer",
                    "watch" | "force" => "boolean",
                    _ => "string",
                };
                match self.style {
                    Style::V3 => {
                        json!({"name": name, "in": "query", "description": description, "schema": {"type": kind}})
                    }
                    Style::V2 => json!({"name": name, "in": "query", "description": description, "type": kind}),
                }
            })
            .collect();
        let answer = match self.style {
            Style::V3 => {
                let schema = self.style.reference(&self.schema);
                json!({"description": "OK", "content": {"application/json": {"schema": schema}}})
            }
            Style::V2 => json!({"description": "OK", "schema": self.style.reference(&self.schema)}),
        };
        json!({
            "parameters": parameters,
            "responses": {"200": answer},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind_of(&self.resource.gvk),
        })
    }

    fn write(&self, action: &str, types: &[&str], parameters: &[(&str, &str)]) -> Value {
        let mut operation = self.operation(action, parameters);
        let body =
            if action == "patch" { json!({"type": "object"}) } else { self.style.reference(&self.schema) };
        match self.style {
            Style::V3 => {
                let content: Map<String, Value> =
                    types.iter().map(|kind| ((*kind).to_owned(), json!({"schema": body}))).collect();
                operation["requestBody"] = json!({"required": true, "content": content});
            }
            Style::V2 => {
                operation["consumes"] = json!(types);
                if let Some(parameters) = operation["parameters"].as_array_mut() {
                    parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": body}));
                }
            }
        }
        operation
    }
}
