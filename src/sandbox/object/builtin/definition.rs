//! Checks of custom resource definitions.

use serde_json::{Value, json};

use super::{items, names, one_of, structure, text};
use crate::sandbox::object::schema::{Schema, SchemaError};
use crate::sandbox::object::{Cause, FieldError};

pub(super) fn check(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    let (group, plural) = (text(spec, "/group"), text(spec, "/names/plural"));
    let name = text(object, "/metadata/name");
    if name != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &json!(name), detail));
    }
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        errors.push(FieldError::invalid("spec.group", &json!(group), detail));
    }
    if text(spec, "/scope").is_empty() {
        errors.push(FieldError::required("spec.scope", ""));
    }
    one_of(spec, "scope", &["Cluster", "Namespaced"], "spec", errors);
    for field in ["plural", "kind"] {
        let value = text(spec, &format!("/names/{field}"));
        if value.is_empty() {
            errors.push(FieldError::required(format!("spec.names.{field}"), ""));
        }
        for problem in names::label_1035(&value.to_lowercase()) {
            errors.push(FieldError::invalid(format!("spec.names.{field}"), &json!(value), &problem));
        }
    }
    versions(spec, errors);
}

fn versions(spec: &Value, errors: &mut Vec<FieldError>) {
    let versions = items(spec, "/versions");
    let stored = versions.iter().filter(|version| version["storage"] == json!(true)).count();
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::new("spec.versions", Cause::Invalid, None, detail));
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = text(version, "/name");
        for problem in names::label_1035(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), &problem));
        }
        let schema_path = format!("{path}.schema.openAPIV3Schema");
        match version.pointer("/schema/openAPIV3Schema") {
            None => errors.push(FieldError::required(schema_path, "schemas are required")),
            Some(schema) => self::schema(schema, &schema_path, errors),
        }
    }
}

fn schema(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "/type");
    if kind.is_empty() {
        errors.push(FieldError::required(format!("{path}.type"), "must not be empty at the root"));
    } else if kind != "object" {
        errors.push(FieldError::invalid(format!("{path}.type"), &json!(kind), "must be object at the root"));
    }
    structure::check(schema, path, errors);
    if let Err(SchemaError::Compile { path: at, problem }) = Schema::from_crd(schema) {
        errors.push(FieldError::new(format!("{path}.{at}"), Cause::Invalid, None, &problem));
    }
}
