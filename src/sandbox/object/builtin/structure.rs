//! What makes the schema of a custom resource a structural one.

use serde_json::{Value, json};

use super::{items, text};
use crate::sandbox::object::FieldError;
use crate::sandbox::object::schema::Schema;

/// Checks a schema below its root's type, which the caller has looked at.
pub(super) fn check(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let flag = |name: &str| schema.get(name) == Some(&json!(true));
    if flag("uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(format!("{path}.uniqueItems"), why));
    }
    check_list(schema, path, errors);
    check_default(schema, path, errors);
    let properties = schema.get("properties").and_then(Value::as_object);
    let values = schema.get("additionalProperties").filter(|values| values.is_object());
    if properties.is_some_and(|properties| !properties.is_empty()) && values.is_some() {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), why));
    }
    for (name, child) in properties.into_iter().flatten() {
        below(child, &format!("{path}.properties[{name}]"), "object fields", errors);
    }
    if let Some(child) = values {
        below(child, &format!("{path}.additionalProperties"), "object fields", errors);
    }
    if let Some(child) = schema.get("items") {
        below(child, &format!("{path}.items"), "array items", errors);
    }
}

fn below(schema: &Value, path: &str, what: &str, errors: &mut Vec<FieldError>) {
    let any = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
    let typeless = any.iter().any(|name| schema.get(*name) == Some(&json!(true)));
    if text(schema, "/type").is_empty() && !typeless {
        let why = format!("must not be empty for specified {what}");
        errors.push(FieldError::required(format!("{path}.type"), &why));
    }
    check(schema, path, errors);
}

/// A keyed list must say what its keys are, and each item must have them.
fn check_list(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "/x-kubernetes-list-type");
    if !kind.is_empty() && text(schema, "/type") != "array" {
        let why = "must be array if x-kubernetes-list-type is specified";
        errors.push(FieldError::invalid(format!("{path}.type"), &schema["type"], why));
    }
    if kind != "map" {
        return;
    }
    let keys = items(schema, "/x-kubernetes-list-map-keys");
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(format!("{path}.x-kubernetes-list-map-keys"), why));
    }
    let required = items(schema, "/items/required");
    for key in keys {
        let name = key.as_str().unwrap_or_default();
        let Some(property) = schema.pointer("/items/properties").and_then(|all| all.get(name)) else {
            let why = "entries must all be names of item properties";
            errors.push(FieldError::invalid(format!("{path}.x-kubernetes-list-map-keys"), key, why));
            continue;
        };
        if property.get("default").is_none() && !required.contains(key) {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required \
                       property";
            errors.push(FieldError::required(format!("{path}.items.properties[{name}].default"), why));
        }
    }
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
                json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "string"}}),
                "s.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if \
                 x-kubernetes-list-type is map",
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
