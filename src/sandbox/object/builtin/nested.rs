//! What may stand under `allOf`, `anyOf`, `oneOf` and `not`: checks of values, and nothing that shapes the object.

use serde_json::{Value, json};

use super::{items, text};
use crate::sandbox::object::FieldError;

/// Keywords that shape the object, with what is said of them.
const SHAPING: [(&str, &str); 12] = [
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("title", "must be empty to be structural"),
    ("type", "must be empty to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
];

/// Checks the branches of a schema that is part of the structure.
pub(super) fn check(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    // A value that may be a number or a text says so in one way only.
    let either = schema.get("x-kubernetes-int-or-string") == Some(&json!(true));
    for (branch, at) in branches(schema, path) {
        let types = json!([{"type": "integer"}, {"type": "string"}]);
        let usual = either && schema["anyOf"] == types && at.starts_with(&format!("{path}.anyOf["));
        let wrapped = either && at == format!("{path}.allOf[0]") && branch["anyOf"] == types;
        if !usual && !wrapped {
            value_check(branch, &at, errors);
            complete(branch, schema, &at, path, errors);
        }
    }
}

fn branches<'a>(schema: &'a Value, path: &str) -> Vec<(&'a Value, String)> {
    let mut found: Vec<(&Value, String)> = Vec::new();
    for list in ["allOf", "anyOf", "oneOf"] {
        let each = items(schema, &format!("/{list}")).iter().enumerate();
        found.extend(each.map(|(index, branch)| (branch, format!("{path}.{list}[{index}]"))));
    }
    if let Some(branch) = schema.get("not").filter(|branch| branch.is_object()) {
        found.push((branch, format!("{path}.not")));
    }
    found
}

/// Checks that a branch only checks.
fn value_check(branch: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (name, why) in SHAPING {
        let used = branch.get(name).is_some_and(|value| !value.is_null() && *value != json!(false));
        if used && !(name == "type" && text(branch, "/type").is_empty()) {
            errors.push(FieldError::forbidden(format!("{path}.{name}"), why));
        }
    }
    for (child, at) in children(branch, path).into_iter().chain(branches(branch, path)) {
        value_check(child, &at, errors);
    }
}

fn children<'a>(schema: &'a Value, path: &str) -> Vec<(&'a Value, String)> {
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let mut found: Vec<(&Value, String)> =
        properties.map(|(name, child)| (child, format!("{path}.properties[{name}]"))).collect();
    found.extend(schema.get("items").map(|child| (child, format!("{path}.items"))));
    found
}

/// Whatever a branch speaks of must be part of the structure, too.
fn complete(branch: &Value, schema: &Value, at: &str, path: &str, errors: &mut Vec<FieldError>) {
    for (name, child) in branch.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let here = format!("{at}.properties[{name}]");
        match schema.get("properties").and_then(|all| all.get(name)) {
            Some(known) => complete(child, known, &here, &format!("{path}.properties[{name}]"), errors),
            None => {
                let why = format!("because it is defined in {here}");
                errors.push(FieldError::required(format!("{path}.properties[{name}]"), &why));
            }
        }
    }
    if let Some(child) = branch.get("items") {
        let here = format!("{at}.items");
        match schema.get("items") {
            Some(known) => complete(child, known, &here, &format!("{path}.items"), errors),
            None => {
                let why = format!("because it is defined in {here}");
                errors.push(FieldError::required(format!("{path}.items"), &why));
            }
        }
    }
    for (child, here) in branches(branch, at) {
        complete(child, schema, &here, path, errors);
    }
}
