//! From flags and a file to a checked Database, or to everything that is wrong with it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::flags::{self, SpecFlags};
use crate::api::{self, Database, DatabaseSpec, PgVersion, Quantity, Violation, check_spec};
use crate::cli::error::{CliError, Result};

const API_VERSION: &str = "db.example.com/v1alpha1";
const KIND: &str = "Database";

/// The Database that is asked for, checked.
///
/// # Errors
/// With every violation at once.
pub fn build(
    name: Option<&str>,
    flags: &SpecFlags,
    file: Option<(&str, &str)>,
    namespace: Option<&str>,
) -> Result<Database> {
    let mut object = match file {
        Some((source, text)) => parse(source, text)?,
        None => json!({ "apiVersion": API_VERSION, "kind": KIND, "metadata": {}, "spec": {} }),
    };
    let source = file.map(|(source, _)| source);
    let mut wrong = check_shell(&object);
    if wrong.is_empty() {
        place(&mut object, name, namespace, &mut wrong);
        if let Some(spec) = object["spec"].as_object_mut() {
            flags.apply(spec);
            if source.is_none() {
                flags::defaults(spec);
            }
        }
        wrong.extend(check_fields(&object["spec"]));
    }
    if wrong.is_empty() {
        match decode(object.clone()) {
            Ok(database) => {
                let name = database.metadata.name.clone().unwrap_or_default();
                wrong = check_spec(&name, &database.spec);
                if wrong.is_empty() {
                    return Ok(database);
                }
            }
            Err(violation) => wrong = vec![violation],
        }
    }
    let name = name.or(object["metadata"]["name"].as_str()).unwrap_or_default();
    Err(refuse(name, source, wrong))
}

fn refuse(name: &str, source: Option<&str>, wrong: Vec<Violation>) -> CliError {
    let from = source.map_or_else(String::new, |source| format!(" from {source}"));
    let lines = wrong.into_iter().map(|violation| match flags::flag_of(&violation.field) {
        Some(flag) if source.is_none() => format!("{} ({flag}): {}", violation.field, violation.message),
        _ => violation.to_string(),
    });
    CliError::usage(format!(
        "failed to create database {name:?}{from}: it is not valid, and nothing was made"
    ))
    .details(lines)
    .hint("correct it and try again; `dbctl create --help` lists the fields")
}

/// Reads the one document of a file.
fn parse(source: &str, text: &str) -> Result<Value> {
    let bad = |problem: String| {
        CliError::usage(format!("failed to read {source}: {problem}; nothing was made")).hint(format!(
            "it must hold one object of kind {KIND}, apiVersion {API_VERSION}, in YAML or JSON"
        ))
    };
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| bad(format!("it is not YAML: {error}")))?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    let problem = match documents.as_slice() {
        [one] if one["kind"] == "List" => match one["items"].as_array().map(Vec::as_slice) {
            Some([item]) => return Ok(item.clone()),
            items => format!(
                "it holds a List of {} objects, and one Database is created at a time",
                items.map_or(0, <[Value]>::len)
            ),
        },
        [one @ Value::Object(_)] => return Ok(one.clone()),
        [_] => "it holds plain text, not an object with fields".to_owned(),
        [] => "it is empty".to_owned(),
        many => format!("it holds {} documents, and one Database is created at a time", many.len()),
    };
    Err(bad(problem))
}

fn violation(field: impl Into<String>, message: impl Into<String>) -> Violation {
    Violation { field: field.into(), message: message.into() }
}

/// Checks what surrounds the spec.
fn check_shell(object: &Value) -> Vec<Violation> {
    let mut wrong = Vec::new();
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match &object[field] {
            Value::String(text) if text == expected => {}
            Value::Null => wrong.push(violation(field, format!("is missing: must be {expected:?}"))),
            other => wrong.push(violation(field, format!("{other} is not allowed: must be {expected:?}"))),
        }
    }
    for field in ["metadata", "spec"] {
        match &object[field] {
            Value::Object(_) => {}
            Value::Null => wrong.push(violation(field, "is missing")),
            _ => wrong.push(violation(field, "must be an object with fields")),
        }
    }
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    for field in object.as_object().into_iter().flat_map(Map::keys) {
        if !known.contains(&field.as_str()) {
            wrong.push(violation(field.as_str(), format!("is not a field: {}", known.join(", "))));
        }
    }
    wrong
}

/// Settles name and namespace between the file and the command line, and drops what only a server writes.
fn place(object: &mut Value, name: Option<&str>, namespace: Option<&str>, wrong: &mut Vec<Violation>) {
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    let Some(meta) = object["metadata"].as_object_mut() else { return };
    for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"] {
        meta.remove(field);
    }
    for (field, given) in [("name", name), ("namespace", namespace)] {
        match (given, meta.get(field)) {
            (Some(given), None | Some(Value::Null)) => {
                meta.insert(field.to_owned(), json!(given));
            }
            (Some(given), Some(there)) if there != given => {
                wrong.push(violation(
                    format!("metadata.{field}"),
                    format!("the file says {there}, the command line {given:?}"),
                ));
            }
            _ => {}
        }
    }
    if !meta.get("name").is_some_and(Value::is_string) {
        wrong.push(violation("metadata.name", "is missing: name the database"));
    }
}

/// Checks the fields of a spec by the schema, and those whose text has a form of its own.
fn check_fields(spec: &Value) -> Vec<Violation> {
    let mut wrong = Vec::new();
    let definition = serde_json::to_value(api::crd()).unwrap_or_default();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    check_known(schema, spec, "spec", &mut wrong);
    let parse = |value: &Value, parse: fn(Value) -> Option<String>| parse(value.clone());
    match &spec["version"] {
        Value::Null => wrong
            .push(violation("spec.version", format!("is missing: for example \"{}\"", PgVersion::EXAMPLE))),
        Value::Number(number) => wrong.push(violation(
            "spec.version",
            format!("{number} is a number here: put it in quotes, for example \"{}\"", PgVersion::EXAMPLE),
        )),
        text => wrong.extend(
            parse(text, |value| {
                serde_json::from_value::<PgVersion>(value).err().map(|error| error.to_string())
            })
            .map(|message| violation("spec.version", message)),
        ),
    }
    match &spec["storage"]["size"] {
        Value::Null => wrong.push(violation("spec.storage.size", "is missing: for example \"10Gi\"")),
        text => wrong.extend(
            parse(text, |value| {
                serde_json::from_value::<Quantity>(value).err().map(|error| error.to_string())
            })
            .map(|message| violation("spec.storage.size", message)),
        ),
    }
    match &spec["replicas"] {
        Value::Null => {}
        Value::Number(number) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
        other => wrong.push(violation(
            "spec.replicas",
            format!("{other} is not allowed: a whole number, 1 to {}", api::REPLICAS_MAX),
        )),
    }
    wrong
}

/// Names the fields that the schema does not know.
fn check_known(schema: &Value, value: &Value, path: &str, wrong: &mut Vec<Violation>) {
    match value {
        Value::Object(fields) => {
            let Some(known) = schema["properties"].as_object() else {
                for (name, value) in fields {
                    check_known(&schema["additionalProperties"], value, &format!("{path}.{name}"), wrong);
                }
                return;
            };
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match known.get(name) {
                    Some(schema) => check_known(schema, value, &path, wrong),
                    None => {
                        let names: Vec<_> = known.keys().map(String::as_str).collect();
                        wrong.push(violation(path, format!("is not a field: {}", names.join(", "))));
                    }
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check_known(&schema["items"], item, &format!("{path}[{index}]"), wrong);
            }
        }
        _ => {}
    }
}

/// Decodes the object; an error names the path.
fn decode(mut object: Value) -> Result<Database, Violation> {
    let take = |value: Value, root: &str| -> Result<DatabaseSpec, Violation> {
        serde_path_to_error::deserialize(value)
            .map_err(|error| violation(format!("{root}.{}", error.path()), error.inner().to_string()))
    };
    let spec = take(object["spec"].take(), "spec")?;
    let meta = object["metadata"].take();
    let given: Vec<String> = meta.as_object().into_iter().flat_map(Map::keys).cloned().collect();
    let metadata: kube::core::ObjectMeta = serde_path_to_error::deserialize(meta)
        .map_err(|error| violation(format!("metadata.{}", error.path()), error.inner().to_string()))?;
    let kept = serde_json::to_value(&metadata).unwrap_or_default();
    if let Some(unknown) = given.iter().find(|name| kept.get(name.as_str()).is_none()) {
        return Err(violation(format!("metadata.{unknown}"), "is not a field of an object's metadata"));
    }
    let mut database = Database::new("", spec);
    database.metadata = metadata;
    Ok(database)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::error::Outcome;

    const GOOD: &str = "
apiVersion: db.example.com/v1alpha1
kind: Database
metadata: {name: orders-db}
spec:
  replicas: 3
  version: \"16.3\"
  storage: {size: 50Gi, storageClassName: fast-ssd}
  backup: {enabled: true, schedule: \"0 3 * * *\", retention: 14, destination: s3://my-backups/orders-db}
";

    fn from_file(text: &str) -> Result<Database> {
        build(None, &SpecFlags::default(), Some(("f.yaml", text)), None)
    }

    fn refused(text: &str) -> String {
        let error = from_file(text).unwrap_err();
        assert_eq!(error.outcome, Outcome::Usage);
        error.render("error:", "hint:")
    }

    #[test]
    fn flags_alone_make_a_database_with_defaults() {
        let database = build(Some("orders-db"), &SpecFlags::default(), None, Some("shop")).unwrap();
        assert_eq!(database.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(database.spec.version, PgVersion::DEFAULT);
        assert_eq!((database.spec.replicas, database.spec.storage.size.as_str()), (1, "10Gi"));
    }

    #[test]
    fn a_file_is_read_as_yaml_or_json() {
        let database = from_file(GOOD).unwrap();
        assert_eq!((database.spec.replicas, database.spec.version.to_string().as_str()), (3, "16.3"));
        let json = serde_json::to_string(&database).unwrap();
        assert_eq!(from_file(&json).unwrap(), database);
        let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{json}]}}"#);
        assert_eq!(from_file(&list).unwrap(), database);
    }

    #[test]
    fn an_export_of_a_server_can_be_created_again() {
        let text = GOOD
            .replace("{name: orders-db}", "{name: orders-db, uid: u, resourceVersion: \"7\", generation: 2}");
        let database = from_file(&(text + "status: {phase: Running}\n")).unwrap();
        assert_eq!((database.metadata.uid, database.metadata.resource_version), (None, None));
        assert!(database.status.is_none());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path() {
        let with = |from: &str, to: &str| refused(&GOOD.replace(from, to));
        for (text, parts) in [
            (with("16.3", "sixteen"), vec!["spec.version", "sixteen", "18.6"]),
            (with("\"16.3\"", "16.3"), vec!["spec.version", "quotes"]),
            (with("replicas: 3", "replicas: ten"), vec!["spec.replicas", "1 to 9"]),
            (with("replicas: 3", "replicas: 10"), vec!["spec.replicas", "1 to 9"]),
            (with("replicas: 3", "replica: 3"), vec!["spec.replica:", "replicas"]),
            (with("size: 50Gi", "size: 5 potatoes"), vec!["spec.storage.size", "50Gi"]),
            (with("retention: 14", "retain: 14"), vec!["spec.backup.retain", "retention"]),
            (with("retention: 14", "retention: many"), vec!["spec.backup.retention", "many"]),
            (with("kind: Database", "kind: Databse"), vec!["kind", "\"Database\""]),
            (with("v1alpha1", "v1"), vec!["apiVersion", "v1alpha1"]),
            (with("{name: orders-db}", "{}"), vec!["metadata.name"]),
            (with("{name: orders-db}", "{name: orders-db, nmespace: x}"), vec!["metadata.nmespace"]),
            (refused("a: [1"), vec!["not YAML", "f.yaml"]),
            (refused(""), vec!["empty"]),
            (refused("just text"), vec!["plain text"]),
            (refused(&format!("{GOOD}---{GOOD}")), vec!["2 documents"]),
            (refused("{kind: List, items: []}"), vec!["List of 0"]),
        ] {
            for part in parts {
                assert!(text.contains(part), "{part:?} is not in:\n{text}");
            }
            assert!(text.lines().count() < 20, "more than a screen:\n{text}");
        }
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let text =
            refused(&GOOD.replace("16.3", "x").replace("50Gi", "y").replace("replicas: 3", "replicas: z"));
        for field in ["spec.version", "spec.storage.size", "spec.replicas"] {
            assert!(text.contains(field), "{text}");
        }
    }

    #[test]
    fn the_command_line_may_not_contradict_the_file() {
        let error = build(Some("other"), &SpecFlags::default(), Some(("f", GOOD)), None).unwrap_err();
        assert!(error.details[0].contains("orders-db") && error.details[0].contains("other"), "{error:?}");
    }
}
