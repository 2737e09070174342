//! What makes the schema of a custom resource a structural one.

use serde_json::{Value, json};

use super::{items, nested, text};
use crate::sandbox::object::FieldError;
use crate::sandbox::object::schema::Schema;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// Keywords of JSON schema that definitions may not use.
const UNSUPPORTED: [&str; 6] =
    ["$ref", "additionalItems", "definitions", "dependencies", "id", "patternProperties"];

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name) == Some(&json!(true))
}

/// Checks a schema below its root's type, which the caller has looked at.
pub(super) fn check(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    check_keywords(schema, path, errors);
    check_list(schema, path, errors);
    check_map(schema, path, errors);
    check_default(schema, path, errors);
    nested::check(schema, path, errors);
    rules(schema, path, errors);
    let properties = schema.get("properties").and_then(Value::as_object);
    let values = schema.get("additionalProperties");
    if properties.is_some_and(|properties| !properties.is_empty())
        && values.is_some_and(|values| *values != json!(true))
    {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), why));
    }
    for (name, child) in properties.into_iter().flatten() {
        below(child, &format!("{path}.properties[{name}]"), "object fields", errors);
    }
    if let Some(child) = values.filter(|values| values.is_object()) {
        below(child, &format!("{path}.additionalProperties"), "object fields", errors);
    }
    match schema.get("items") {
        Some(child) => below(child, &format!("{path}.items"), "array items", errors),
        None if text(schema, "/type") == "array" => {
            errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
        }
        None => {}
    }
}

fn below(schema: &Value, path: &str, what: &str, errors: &mut Vec<FieldError>) {
    let any = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
    let typeless = any.iter().any(|name| flag(schema, name));
    let kind = text(schema, "/type");
    if flag(schema, "x-kubernetes-embedded-resource") {
        embedded(schema, path, errors);
    } else if kind.is_empty() && !typeless {
        let why = format!("must not be empty for specified {what}");
        errors.push(FieldError::required(format!("{path}.type"), &why));
    }
    if flag(schema, "x-kubernetes-int-or-string") {
        for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
            if flag(schema, name) {
                let why = "must be false if x-kubernetes-int-or-string is true";
                errors.push(FieldError::invalid(format!("{path}.{name}"), &json!(true), why));
            }
        }
        if !kind.is_empty() {
            let why = "must be empty if x-kubernetes-int-or-string is true";
            errors.push(FieldError::forbidden(format!("{path}.type"), why));
        }
    }
    check(schema, path, errors);
}

/// A whole object within an object.
fn embedded(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "/type");
    let why = "must be object if x-kubernetes-embedded-resource is true";
    if kind.is_empty() {
        errors.push(FieldError::required(format!("{path}.type"), why));
    } else if kind != "object" {
        errors.push(FieldError::invalid(format!("{path}.type"), &json!(kind), why));
    }
    if schema.get("additionalProperties").is_some() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), why));
    }
    let empty = schema.get("properties").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    if empty && !flag(schema, "x-kubernetes-preserve-unknown-fields") {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                   x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(format!("{path}.properties"), why));
    }
}

fn check_keywords(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "/type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(format!("{path}.type"), &json!(kind), TYPES));
    }
    for name in UNSUPPORTED.iter().filter(|name| schema.get(**name).is_some_and(|value| !value.is_null())) {
        errors.push(FieldError::forbidden(format!("{path}.{name}"), &format!("{name} is not supported")));
    }
    if kind == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(format!("{path}.type"), why));
    }
    if flag(schema, "uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(format!("{path}.uniqueItems"), why));
    }
    let open = "x-kubernetes-preserve-unknown-fields";
    if schema.get(open) == Some(&json!(false)) {
        errors.push(FieldError::invalid(
            format!("{path}.{open}"),
            &json!(false),
            "must be true or undefined",
        ));
    }
}

/// What a keyword says of a type that must stand beside it.
fn must_be(schema: &Value, path: &str, kind: &str, keyword: &str, errors: &mut Vec<FieldError>) {
    let found = text(schema, "/type");
    let why = format!("must be {kind} if {keyword} is specified");
    if found.is_empty() {
        errors.push(FieldError::required(format!("{path}.type"), &why));
    } else if found != kind {
        errors.push(FieldError::invalid(format!("{path}.type"), &json!(found), &why));
    }
}

fn check_map(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const KEYWORD: &str = "x-kubernetes-map-type";
    let Some(kind) = schema.get(KEYWORD).and_then(Value::as_str) else { return };
    must_be(schema, path, "object", KEYWORD, errors);
    if !["atomic", "granular"].contains(&kind) {
        let error =
            FieldError::not_supported(format!("{path}.{KEYWORD}"), &json!(kind), ["atomic", "granular"]);
        errors.push(error);
    }
}

/// A keyed list must say what its keys are, and each item must have them.
fn check_list(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const KEYWORD: &str = "x-kubernetes-list-type";
    const KEYS: &str = "x-kubernetes-list-map-keys";
    let kind = text(schema, "/x-kubernetes-list-type");
    let keys = items(schema, "/x-kubernetes-list-map-keys");
    if !kind.is_empty() {
        must_be(schema, path, "array", KEYWORD, errors);
        if !["atomic", "set", "map"].contains(&kind) {
            let allowed = ["atomic", "set", "map"];
            errors.push(FieldError::not_supported(format!("{path}.{KEYWORD}"), &json!(kind), allowed));
        }
    }
    if !keys.is_empty() && kind != "map" {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match kind {
            "" => FieldError::required(format!("{path}.{KEYWORD}"), why),
            _ => FieldError::invalid(format!("{path}.{KEYWORD}"), &json!(kind), why),
        });
    }
    if kind == "set" {
        set_items(schema, path, errors);
    }
    if kind != "map" {
        return;
    }
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(format!("{path}.{KEYS}"), why));
    }
    match schema.get("items") {
        None => {
            let why = "must have a schema if x-kubernetes-list-type is map";
            errors.push(FieldError::required(format!("{path}.items"), why));
            return;
        }
        Some(item) if text(item, "/type") != "object" => {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            let kind = json!(text(item, "/type"));
            errors.push(FieldError::invalid(format!("{path}.items.type"), &kind, why));
            return;
        }
        Some(_) => {}
    }
    let required = items(schema, "/items/required");
    for (index, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        if keys[..index].contains(key) {
            let why = "must not contain duplicate entries";
            errors.push(FieldError::invalid(format!("{path}.{KEYS}"), &json!(keys), why));
        }
        let Some(property) = schema.pointer("/items/properties").and_then(|all| all.get(name)) else {
            let why = "entries must all be names of item properties";
            errors.push(FieldError::invalid(format!("{path}.{KEYS}"), &json!(keys), why));
            continue;
        };
        if ["array", "object"].contains(&text(property, "/type")) {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            let at = format!("{path}.items.properties[{name}].type");
            errors.push(FieldError::invalid(at, &json!("object"), why));
        }
        if property.get("default").is_none() && !required.contains(key) {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required \
                       property";
            errors.push(FieldError::required(format!("{path}.items.properties[{name}].default"), why));
        }
        if flag(property, "nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(format!("{path}.items.properties[{name}].nullable"), why));
        }
    }
}

/// What is in a set is one value each.
fn set_items(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(item) = schema.get("items") else { return };
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let keyword = match text(item, "/type") {
        "array" if !["", "atomic"].contains(&text(item, "/x-kubernetes-list-type")) => {
            "x-kubernetes-list-type"
        }
        "object" if text(item, "/x-kubernetes-map-type") != "atomic" => "x-kubernetes-map-type",
        _ => return,
    };
    let found = item.get(keyword).cloned().unwrap_or_default();
    errors.push(FieldError::invalid(format!("{path}.items.{keyword}"), &found, why));
}

/// The rules of one node, before any is compiled.
fn rules(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const REASONS: [&str; 4] =
        ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    for (index, rule) in items(schema, "/x-kubernetes-validations").iter().enumerate() {
        let path = format!("{path}.x-kubernetes-validations[{index}]");
        let given = |name: &str| rule.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let blank = |name: &str| given(name).is_some_and(|text| text.trim().is_empty());
        let broken = |name: &str| given(name).is_some_and(|text| text.trim().contains(['\n', '\r']));
        let shown = |name: &str| rule.get(name).cloned().unwrap_or_default();
        if given("rule").is_none() || blank("rule") {
            errors.push(FieldError::required(format!("{path}.rule"), "rule is not specified"));
        } else if blank("message") {
            let why = "must be non-empty if specified";
            errors.push(FieldError::invalid(format!("{path}.message"), &shown("message"), why));
        } else if broken("message") {
            let why = "must not contain line breaks";
            errors.push(FieldError::invalid(format!("{path}.message"), &shown("message"), why));
        } else if broken("rule") && given("message").is_none() {
            let why = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(format!("{path}.message"), why));
        }
        if blank("messageExpression") {
            let why = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(format!("{path}.messageExpression"), why));
        }
        if let Some(reason) = given("reason").filter(|reason| !REASONS.contains(reason)) {
            errors.push(FieldError::not_supported(format!("{path}.reason"), &json!(reason), REASONS));
        }
        if let Some(place) = given("fieldPath").filter(|place| !leads_somewhere(schema, place)) {
            errors.push(FieldError::invalid(
                format!("{path}.fieldPath"),
                &json!(place),
                "must be a valid path",
            ));
        }
    }
}

/// Whether a path such as `.spec.list` is one of the schema's fields.
fn leads_somewhere(schema: &Value, path: &str) -> bool {
    let mut at = schema;
    for part in path.replace("['", ".").replace("']", "").trim_start_matches('.').split('.') {
        let property = at.get("properties").and_then(|all| all.get(part));
        let Some(next) = property.or(at.get("additionalProperties").filter(|next| next.is_object())) else {
            return false;
        };
        at = next;
    }
    path.starts_with(['.', '['])
}

/// A default must be valid itself.
fn check_default(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(default) = schema.get("default") else { return };
    let holder = json!({"type": "object", "properties": {"default": schema}});
    // What does not compile is reported of the whole schema.
    let Ok(holder) = Schema::from_crd(&holder) else { return };
    let mut object = json!({"default": default});
    holder.default(&mut object);
    for error in holder.validate(&object, None) {
        errors.push(FieldError { field: format!("{path}.{}", error.field), ..error });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_structural_is_refused() {
        let keyed = |item: Value| {
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": item}}})
        };
        let cases = [
            (json!({"type": "string"}), ""),
            (json!({"x-kubernetes-int-or-string": true}), ""),
            (json!({"x-kubernetes-preserve-unknown-fields": true}), ""),
            (json!({"type": "string", "default": "x", "maxLength": 1}), ""),
            (keyed(json!({"type": "string", "default": "x"})), ""),
            (
                json!({}),
                "s.properties[a].type: Required value: must not be empty for specified object fields",
            ),
            (
                json!({"type": "array", "items": {}}),
                "s.properties[a].items.type: Required value: must not be empty for specified array items",
            ),
            (
                json!({"type": "integer", "default": "x"}),
                "s.properties[a].default: Invalid value: \"string\": default in body must be of type integer: \"string\"",
            ),
            (
                json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
                "s.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime \
                 complexity becomes quadratic",
            ),
            (
                keyed(json!({"type": "string"})),
                "s.properties[a].items.properties[k].default: Required value: this property is in \
                 x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}),
                "s.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if \
                 x-kubernetes-list-type is map",
            ),
            (
                json!({"type": "foo"}),
                "s.properties[a].type: Unsupported value: \"foo\": supported values: \"array\", \"boolean\", \
                 \"integer\", \"number\", \"object\", \"string\"",
            ),
            (json!({"type": "array"}), "s.properties[a].items: Required value: must be specified"),
            (
                json!({"type": "object", "anyOf": [{"type": "object", "description": "x"}]}),
                "s.properties[a].anyOf[0].description: Forbidden: must be empty to be structural; \
                 s.properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
                "",
            ),
            (
                json!({"type": "object", "properties": {"b": {"type": "string"}},
                    "oneOf": [{"properties": {"c": {"minLength": 1}}}]}),
                "s.properties[a].properties[c]: Required value: because it is defined in \
                 s.properties[a].oneOf[0].properties[c]",
            ),
            (
                json!({"type": "string", "x-kubernetes-validations": [{"rule": "self == ''", "reason": "Bad"}]}),
                "s.properties[a].x-kubernetes-validations[0].reason: Unsupported value: \"Bad\": supported values: \
                 \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"",
            ),
        ];
        for (schema, expected) in cases {
            let mut errors = Vec::new();
            check(&json!({"type": "object", "properties": {"a": schema}}), "s", &mut errors);
            let found: Vec<_> =
                errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
            assert_eq!(found.join("; "), expected, "{schema}");
        }
    }
}
