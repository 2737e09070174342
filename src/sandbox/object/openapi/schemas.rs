//! The schemas of the documents.

use serde_json::{Map, Value, json};

use super::{Resource, Style, kind_of};
use crate::sandbox::object::Gvk;
use crate::sandbox::object::schema::{definitions, marks};

const KIND: &str = "x-kubernetes-group-version-kind";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const API_VERSION: &str = "The version of the group that this form of the object belongs to.";
const KIND_TEXT: &str = "The kind of the object.";
const METADATA: &str = "Standard object metadata.";

/// The name of a resource's own schema.
pub(super) fn name(resource: &Resource) -> String {
    let gvk = &resource.gvk;
    match resource.schema {
        Some(_) => {
            let group: Vec<&str> = gvk.group.rsplit('.').collect();
            format!("{}.{}.{}", group.join("."), gvk.version, gvk.kind)
        }
        None => definitions(gvk).map(|(name, _)| name).unwrap_or_default(),
    }
}

/// All schemas that the resources need.
pub(super) fn all(resources: &[Resource], style: Style) -> Map<String, Value> {
    let mut found = Map::new();
    for resource in resources {
        match &resource.schema {
            Some(schema) => {
                // Every kind has object metadata; any built-in kind's definitions hold it.
                if let Some((_, known)) = definitions(&Gvk::gvk("", "v1", "ConfigMap")) {
                    built_in(known, None, style, &mut found);
                }
                found.insert(name(resource), custom(resource, schema, style));
            }
            None => {
                if let Some((name, known)) = definitions(&resource.gvk) {
                    let wanted = known.into_iter().filter(|(name, _)| {
                        !name.ends_with(".ConfigMap") || resource.gvk.kind == "ConfigMap"
                    });
                    built_in(wanted.collect(), Some((&name, &resource.gvk)), style, &mut found);
                }
            }
        }
    }
    found
}

fn built_in(
    known: Map<String, Value>,
    own: Option<(&str, &Gvk)>,
    style: Style,
    found: &mut Map<String, Value>,
) {
    for (name, schema) in known {
        if own.is_none() && name.ends_with(".ConfigMap") {
            continue;
        }
        let mut schema = rendered(schema, style);
        let owner = name.rsplit('.').next().unwrap_or(&name);
        mark(owner, &mut schema);
        if let Some((_, gvk)) = own.filter(|(own, _)| *own == name) {
            schema[KIND] = json!([kind_of(gvk)]);
            found.insert(name, schema);
        } else {
            found.entry(name).or_insert(schema);
        }
    }
}

/// Adds how the definition's lists and maps merge.
fn mark(owner: &str, schema: &mut Value) {
    if let Some(fields) = schema.as_object_mut() {
        fields.extend(marks(owner, ""));
    }
    for (name, field) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(field) = field.as_object_mut() {
            field.extend(marks(owner, name));
        }
    }
}

/// A schema with references as the style has them, and without what only the generator needs.
fn rendered(schema: Value, style: Style) -> Value {
    match schema {
        Value::Array(items) => items.into_iter().map(|item| rendered(item, style)).collect(),
        Value::Object(mut fields) => {
            if let Some(Value::String(reference)) = fields.remove("$ref") {
                let name = reference.rsplit('/').next().unwrap_or_default();
                let reference = style.reference(name);
                if fields.is_empty() {
                    return reference;
                }
                // What stands beside a reference counts only in v2; v3 wraps the reference.
                match (style, reference) {
                    (Style::V3, reference) => drop(fields.insert("allOf".to_owned(), json!([reference]))),
                    (Style::V2, Value::Object(reference)) => fields.extend(reference),
                    (Style::V2, _) => {}
                }
            }
            if fields.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
                fields.insert("format".to_owned(), json!("int-or-string"));
                if style == Style::V2 {
                    fields.insert("type".to_owned(), json!("string"));
                } else {
                    fields.insert("oneOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
                }
            }
            Value::Object(fields.into_iter().map(|(name, value)| (name, rendered(value, style))).collect())
        }
        scalar => scalar,
    }
}

/// Keywords of a custom resource's schema that v2 does not know.
const V3_ONLY: [&str; 5] = ["oneOf", "anyOf", "allOf", "not", "nullable"];

fn custom(resource: &Resource, schema: &Value, style: Style) -> Value {
    let mut schema = schema.clone();
    if style == Style::V2 {
        drop_keywords(&mut schema);
    }
    let mut metadata = style.reference(OBJECT_META);
    if style == Style::V3 {
        metadata = json!({"allOf": [metadata]});
    }
    metadata["description"] = json!(METADATA);
    if let Some(fields) = schema.as_object_mut() {
        let properties = fields.entry("properties").or_insert_with(|| json!({}));
        for (name, text) in [("apiVersion", API_VERSION), ("kind", KIND_TEXT)] {
            if properties.get(name).is_none() {
                properties[name] = json!({"type": "string", "description": text});
            }
        }
        properties["metadata"] = metadata;
        fields.insert(KIND.to_owned(), json!([kind_of(&resource.gvk)]));
    }
    schema
}

fn drop_keywords(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|name, _| !V3_ONLY.contains(&name.as_str()));
            fields.values_mut().for_each(drop_keywords);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_keywords),
        _ => {}
    }
}
