//! Checks of custom resource definitions.

use serde_json::{Value, json};

use super::{items, names, one_of, structure, text};
use crate::sandbox::object::FieldError;
use crate::sandbox::object::schema::Schema;

pub(super) fn check(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    let (group, plural) = (text(spec, "/group"), text(spec, "/names/plural"));
    let name = text(object, "/metadata/name");
    if name != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &json!(name), detail));
    }
    let problems = names::subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if !problems.is_empty() {
        errors.push(FieldError::invalid("spec.group", &json!(group), &problems.join(",")));
    } else if !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        errors.push(FieldError::invalid("spec.group", &json!(group), detail));
    }
    if text(spec, "/scope").is_empty() {
        errors.push(FieldError::required("spec.scope", ""));
    }
    one_of(spec, "scope", &["Cluster", "Namespaced"], "spec", errors);
    versions(spec, errors);
    accepted_names(&spec["names"], errors);
    if spec["preserveUnknownFields"] == json!(true) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", &json!(true), detail));
    }
    let strategy = text(spec, "/conversion/strategy");
    if strategy == "Webhook" && spec.pointer("/conversion/webhook/clientConfig").is_none() {
        let detail = "required when strategy is set to Webhook";
        errors.push(FieldError::required("spec.conversion.webhookClientConfig", detail));
    }
    one_of(&spec["conversion"], "strategy", &["None", "Webhook"], "spec.conversion", errors);
    stored_versions(object, errors);
}

/// The names that the objects go by.
fn accepted_names(names: &Value, errors: &mut Vec<FieldError>) {
    const PATH: &str = "spec.names";
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(names, &format!("/{field}")).is_empty() {
            errors.push(FieldError::required(format!("{PATH}.{field}"), ""));
        }
    }
    let mut form = |field: String, value: &str, mixed: bool| {
        let problems = names::label_1035(&if mixed { value.to_lowercase() } else { value.to_owned() });
        if !value.is_empty() && !problems.is_empty() {
            let head = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            let detail = format!("{head}{}", problems.join(","));
            errors.push(FieldError::invalid(format!("{PATH}.{field}"), &json!(value), &detail));
        }
    };
    for (field, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        form(field.to_owned(), text(names, &format!("/{field}")), mixed);
    }
    for field in ["shortNames", "categories"] {
        for (index, name) in items(names, &format!("/{field}")).iter().enumerate() {
            form(format!("{field}[{index}]"), name.as_str().unwrap_or_default(), false);
        }
    }
    let kind = text(names, "/kind");
    if !kind.is_empty() && kind == text(names, "/listKind") {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(format!("{PATH}.listKind"), &json!(kind), detail));
    }
}

/// Versions in which objects may be stored must stay.
fn stored_versions(object: &Value, errors: &mut Vec<FieldError>) {
    let known: Vec<&str> =
        items(object, "/spec/versions").iter().map(|version| text(version, "/name")).collect();
    for (index, stored) in items(object, "/status/storedVersions").iter().enumerate() {
        let name = stored.as_str().unwrap_or_default();
        if !known.contains(&name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("status.storedVersions[{index}]"), stored, &detail));
        }
    }
}

fn versions(spec: &Value, errors: &mut Vec<FieldError>) {
    let versions = items(spec, "/versions");
    for (index, version) in versions.iter().enumerate() {
        if version.pointer("/schema/openAPIV3Schema").is_none() {
            let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
            errors.push(FieldError::required(path, ""));
        }
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = text(version, "/name");
        let problems = names::label_1035(name);
        if !problems.is_empty() {
            errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), &problems.join(",")));
        }
        if let Some(schema) = version.pointer("/schema/openAPIV3Schema") {
            self::schema(schema, &format!("{path}.schema.openAPIV3Schema"), errors);
            selectable(version, schema, &path, errors);
        }
        scale(version, &format!("{path}.subresources"), errors);
        columns(version, &path, errors);
    }
    let mut names: Vec<&str> = versions.iter().map(|version| text(version, "/name")).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        let detail = "must contain unique version names";
        errors.push(FieldError::invalid("spec.versions", &json!(versions), detail));
    }
    if versions.iter().filter(|version| version["storage"] == json!(true)).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &json!(versions), detail));
    }
}

/// What is wrong with a path such as `.spec.replicas`.
fn path_problem(path: &str) -> Option<&'static str> {
    match path {
        "" => Some("must not be empty"),
        path if !path.starts_with('.') => Some("must be a simple json path starting with ."),
        _ => None,
    }
}

fn scale(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(scale) = version.pointer("/subresources/scale") else { return };
    for (field, roots) in [
        ("specReplicasPath", &[".spec."][..]),
        ("statusReplicasPath", &[".status."]),
        ("labelSelectorPath", &[".spec.", ".status."]),
    ] {
        let value = text(scale, &format!("/{field}"));
        let at = format!("{path}.scale.{field}");
        if value.is_empty() {
            if field != "labelSelectorPath" {
                errors.push(FieldError::required(at, ""));
            }
        } else if let Some(problem) = path_problem(value) {
            errors.push(FieldError::invalid(at, &json!(value), problem));
        } else if !roots.iter().any(|root| value.starts_with(root)) {
            let detail = match roots {
                [root] => format!("should be a json path under {}", root.trim_end_matches('.')),
                _ => "should be a json path under either .spec or .status".to_owned(),
            };
            errors.push(FieldError::invalid(at, &json!(value), &detail));
        }
    }
}

fn columns(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 9] =
        ["byte", "date", "date-time", "double", "float", "int32", "int64", "name", "password"];
    for (index, column) in items(version, "/additionalPrinterColumns").iter().enumerate() {
        let path = format!("{path}.additionalPrinterColumns[{index}]");
        if text(column, "/name").is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        let kind = text(column, "/type");
        let detail = format!("must be one of {}", TYPES.join(","));
        if kind.is_empty() {
            errors.push(FieldError::required(format!("{path}.type"), &detail));
        } else if !TYPES.contains(&kind) {
            errors.push(FieldError::invalid(format!("{path}.type"), &json!(kind), &detail));
        }
        let format = text(column, "/format");
        if !format.is_empty() && !FORMATS.contains(&format) {
            let detail = format!("must be one of {}", FORMATS.join(","));
            errors.push(FieldError::invalid(format!("{path}.format"), &json!(format), &detail));
        }
        let json_path = text(column, "/jsonPath");
        if json_path.is_empty() {
            errors.push(FieldError::required(format!("{path}.JSONPath"), ""));
        } else if let Some(problem) = path_problem(json_path) {
            errors.push(FieldError::invalid(format!("{path}.JSONPath"), &json!(json_path), problem));
        }
    }
}

/// Fields that field selectors may name.
fn selectable(version: &Value, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = Vec::new();
    for (index, field) in items(version, "/selectableFields").iter().enumerate() {
        let at = format!("{path}.selectableFields[{index}].jsonPath");
        let wanted = text(field, "/jsonPath");
        if wanted.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        let mut found = Some(schema);
        for part in wanted.trim_start_matches('.').split('.') {
            found = found.and_then(|schema| schema.get("properties")?.get(part));
        }
        let Some(found) = found else {
            let last = wanted.rsplit('.').next().unwrap_or_default();
            let detail = format!("is an invalid path: does not refer to a valid field: {last}");
            errors.push(FieldError::invalid(at, &json!(wanted), &detail));
            continue;
        };
        if wanted.starts_with(".metadata") {
            let detail = "must not point to fields in metadata";
            errors.push(FieldError::invalid(at.clone(), &json!(wanted), detail));
        }
        if !["string", "boolean", "integer"].contains(&text(found, "/type")) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                          formats are allowed.";
            errors.push(FieldError::invalid(at.clone(), &json!(wanted), detail));
        }
        if seen.contains(&wanted) {
            errors.push(FieldError::duplicate(at, &json!(wanted)));
        }
        seen.push(wanted);
    }
}

fn schema(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let before = errors.len();
    let kind = text(schema, "/type");
    if kind.is_empty() {
        errors.push(FieldError::required(format!("{path}.type"), "must not be empty at the root"));
    } else if kind != "object" {
        errors.push(FieldError::invalid(format!("{path}.type"), &json!(kind), "must be object at the root"));
    }
    if schema.get("additionalProperties").is_some_and(Value::is_object) {
        let detail = "must not be used at the root";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), detail));
    }
    if let Some(own) = schema.pointer("/properties/metadata/properties").and_then(Value::as_object)
        && own.keys().any(|name| name != "name" && name != "generateName")
    {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(format!("{path}.properties[metadata]"), detail));
    }
    structure::check(schema, path, errors);
    if errors.len() > before {
        return;
    }
    if let Err(problem) = Schema::from_crd(schema) {
        errors.push(problem.field_error(path));
    }
}
