//! From the JSON of a schema to the tree.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use super::checks::Checks;
use super::node::{ListKind, Node, Type};
use super::rules::Rules;
use super::{Schema, SchemaError, kinds};

/// The tree of a custom resource: what its definition says, with the fields every object has.
pub(super) fn custom_root(schema: &Value) -> Result<Schema, SchemaError> {
    let mut node = node(schema, "")?;
    object_fields(&mut node);
    Ok(node.into())
}

/// A tree that knows the fields every object has and keeps the rest.
pub(super) fn any_root() -> Schema {
    let mut node = Node { kind: Some(Type::Object), open: true, ..Node::default() };
    object_fields(&mut node);
    node.into()
}

/// Adds `apiVersion`, `kind` and `metadata`, which a definition need not list.
fn object_fields(node: &mut Node) {
    for name in ["apiVersion", "kind"] {
        node.properties
            .entry(name.to_owned())
            .or_insert_with(|| Node { kind: Some(Type::String), ..Node::default() }.into());
    }
    if let Some(metadata) = kinds::object_meta() {
        let also = node.properties.remove("metadata");
        let known = metadata.node();
        let merged = Node {
            kind: known.kind,
            builtin: true,
            properties: known.properties.clone(),
            has_rules: also.as_ref().is_some_and(|schema| schema.node().has_rules),
            also,
            ..Node::default()
        };
        node.properties.insert("metadata".to_owned(), merged.into());
    }
}

fn custom(schema: &Value, path: &str) -> Result<Schema, SchemaError> {
    node(schema, path).map(Schema::from)
}

fn node(schema: &Value, path: &str) -> Result<Node, SchemaError> {
    let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or_default();
    let mut properties = BTreeMap::new();
    for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        properties.insert(name.clone(), custom(child, &format!("{path}.properties[{name}]"))?);
    }
    let additional = schema.get("additionalProperties");
    let values = match additional {
        Some(child) if child.is_object() => Some(custom(child, &format!("{path}.additionalProperties"))?),
        _ => None,
    };
    let items = match schema.get("items") {
        Some(child) => Some(custom(child, &format!("{path}.items"))?),
        None => None,
    };
    let rules = Rules::compile(schema, path)?;
    let has_rules = rules.is_some()
        || properties.values().chain(values.iter()).chain(items.iter()).any(|child| child.node().has_rules);
    let mut node = Node {
        kind: schema.get("type").and_then(Value::as_str).and_then(Type::parse),
        format: schema.get("format").and_then(Value::as_str).map(str::to_owned),
        nullable: flag("nullable"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        open: flag("x-kubernetes-preserve-unknown-fields") || additional == Some(&Value::Bool(true)),
        properties,
        values,
        items,
        list: list_kind(schema),
        atomic: schema.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic"),
        default: schema.get("default").cloned(),
        required: texts(schema.get("required")),
        checks: checks(schema, path)?,
        rules,
        has_rules,
        ..Node::default()
    };
    if flag("x-kubernetes-embedded-resource") {
        object_fields(&mut node);
        node.embedded = true;
    }
    Ok(node)
}

fn list_kind(schema: &Value) -> ListKind {
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListKind::Set,
        Some("map") => ListKind::Map(texts(schema.get("x-kubernetes-list-map-keys"))),
        _ => ListKind::Atomic,
    }
}

fn checks(schema: &Value, path: &str) -> Result<Option<Box<Checks>>, SchemaError> {
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let count = |name: &str| schema.get(name).and_then(Value::as_f64).map(|number| number as u64);
    let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or_default();
    let branches = |name: &str| -> Result<Vec<Schema>, SchemaError> {
        let list = schema.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|branch| custom(branch, path)).collect()
    };
    let pattern = match schema.get("pattern").and_then(Value::as_str) {
        Some(text) => Some(Regex::new(text).map_err(|error| SchemaError::Compile {
            path: format!("{path}.pattern"),
            shown: Value::from(text).to_string(),
            problem: format!("must be a valid regular expression, but isn't: {error}"),
        })?),
        None => None,
    };
    let not = match schema.get("not") {
        Some(branch) => Some(custom(branch, path)?),
        None => None,
    };
    let checks = Checks {
        allowed: schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
        minimum: number("minimum").map(|limit| (limit, flag("exclusiveMinimum"))),
        maximum: number("maximum").map(|limit| (limit, flag("exclusiveMaximum"))),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        pattern,
        min_items: count("minItems"),
        max_items: count("maxItems"),
        unique: flag("uniqueItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        all_of: branches("allOf")?,
        any_of: branches("anyOf")?,
        one_of: branches("oneOf")?,
        not,
    };
    let used = ["enum", "minimum", "maximum", "multipleOf", "minLength", "maxLength", "pattern", "minItems"]
        .into_iter()
        .chain([
            "maxItems",
            "uniqueItems",
            "minProperties",
            "maxProperties",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
        ])
        .any(|name| schema.get(name).is_some());
    Ok(used.then(|| Box::new(checks)))
}

/// The strings of a JSON list.
pub(super) fn texts(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// An object's members, or none.
pub(super) fn members(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}
