//! What a client sends: decoding it, and fitting it to the resource it was sent to.

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};

use super::call::Call;
use super::failure::Failure;
use super::protobuf::{self, ProtobufError};
use super::strict::{self, Scan};
use crate::sandbox::object::FieldError;
use crate::sandbox::object::schema::{Schema, unknown_field_warning};

/// What bodies may be; the last for built-in kinds alone.
const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];
/// Largest body: Kubernetes' own limit.
const MAX_BYTES: usize = 3 * 1024 * 1024;

/// Reads a whole body.
///
/// # Errors
/// 400 where it breaks off, 413 where it is too large.
pub async fn read(body: Body) -> Result<Bytes, Failure> {
    match Limited::new(body, MAX_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::too_large(MAX_BYTES)),
        Err(error) => Err(Failure::bad_request(format!("failed to read the body: {error}"))),
    }
}

/// The Content-Type without its parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Reads an object. Without a Content-Type it is JSON, as Patroni sends it.
///
/// # Errors
/// 400 where it does not parse, 415 for other formats.
pub fn decode(headers: &HeaderMap, bytes: &[u8]) -> Result<Value, Failure> {
    match media_type(headers) {
        "" | "application/json" => json(bytes),
        "application/yaml" => yaml(bytes),
        protobuf::MEDIA_TYPE => protobuf::decode(bytes).map_err(|error| match error {
            ProtobufError::Kind { .. } => Failure::unsupported_media_type(&ACCEPTED[..2]),
            other => Failure::bad_request(format!("failed to {other}")),
        }),
        _ => Err(Failure::unsupported_media_type(&ACCEPTED)),
    }
}

/// Reads JSON.
///
/// # Errors
/// 400 where it does not parse.
pub fn json(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        let mistake = strict::mistake(bytes, &error);
        Failure::bad_request(format!("couldn't get version/kind; json parse error: {mistake}"))
    })
}

/// Reads a patch.
///
/// # Errors
/// 400 where it does not parse.
pub fn patch(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::bad_request(format!("error decoding patch: {}", strict::mistake(bytes, &error)))
    })
}

/// Reads YAML, which JSON is too.
///
/// # Errors
/// 400 where it does not parse.
pub fn yaml(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).or_else(|_| {
        serde_yaml::from_slice(bytes)
            .map_err(|error| Failure::bad_request(format!("error decoding YAML: {error}")))
    })
}

/// Group, version and kind of an object, as texts.
fn type_of(object: &Value) -> (String, String, String) {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    (group.to_owned(), version.to_owned(), text("kind").to_owned())
}

/// The group of a kind as the packages of Kubernetes call it.
fn package(group: &str) -> &str {
    match group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    }
}

impl Call {
    /// Reads the object that was sent.
    ///
    /// # Errors
    /// 400 where it does not parse, 415 for other formats.
    pub fn decode(&self, bytes: &[u8]) -> Result<Value, Failure> {
        match media_type(&self.headers) {
            "" | "application/json" => {}
            _ => return decode(&self.headers, bytes),
        }
        let unreadable = |mistake: &str| {
            Failure::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: \
                 {mistake} ({})",
                self.resource.kind,
                strict::summary(bytes)
            ))
        };
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| unreadable(&strict::mistake(bytes, &error)))?;
        if !value.is_object() && !value.is_null() {
            let go = crate::sandbox::object::schema::json_name(&value);
            let into = "Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
                        \"json:\\\"kind,omitempty\\\"\" }";
            return Err(unreadable(&format!("json: cannot unmarshal {go} into {into}")));
        }
        Ok(if value.is_null() { Value::Object(Map::new()) } else { value })
    }

    /// Why an object of another type than the resource's cannot be taken.
    fn other_type(&self, object: &Value) -> Option<String> {
        let name = &self.resource.name;
        let (group, version, kind) = type_of(object);
        let said = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
        let right = |text: &str, expected: &str| text.is_empty() || text == expected;
        if right(&kind, &name.kind) && right(said("apiVersion"), &name.api_version) {
            return None;
        }
        let kind = if kind.is_empty() { name.kind.to_string() } else { kind };
        let (group, version) = match version.is_empty() {
            true => (self.resource.group.to_string(), self.resource.version.to_string()),
            false => (group, version),
        };
        let head = format!("{kind} in version {version:?} cannot be handled as a {}", name.kind);
        if self.resource.custom.is_some() {
            return Some(if kind == *name.kind {
                format!(
                    "the API version in the data ({}) does not match the expected API version ({})",
                    said("apiVersion"),
                    name.api_version
                )
            } else {
                head
            });
        }
        let gvk = crate::sandbox::object::Gvk {
            group: group.clone(),
            version: version.clone(),
            kind: kind.clone(),
        };
        if crate::sandbox::object::schema::Schema::builtin(&gvk).is_none() {
            let api = if group.is_empty() { version } else { format!("{group}/{version}") };
            return Some(format!(
                "{head}: no kind {kind:?} is registered for version {api:?} in scheme \
                 \"pkg/api/legacyscheme/scheme.go:30\""
            ));
        }
        Some(format!(
            "{head}: converting ({version}.{kind}) to ({}.{}): unknown conversion",
            package(&self.resource.group),
            name.kind
        ))
    }

    /// Fits a decoded object to the resource: its type is filled in or must be right, and it has metadata.
    ///
    /// # Errors
    /// 400 where it is no object or one of another kind.
    pub fn typed(&self, mut object: Value) -> Result<Value, Failure> {
        if let Some(why) = self.other_type(&object) {
            return Err(Failure::bad_request(why));
        }
        let name = &self.resource.name;
        let Some(fields) = object.as_object_mut() else {
            return Err(Failure::bad_request(format!("the body is not an object of kind {}", name.kind)));
        };
        fields.insert("kind".into(), Value::String(name.kind.to_string()));
        fields.insert("apiVersion".into(), Value::String(name.api_version.to_string()));
        if fields.get("metadata").is_none_or(Value::is_null) {
            fields.insert("metadata".into(), Value::Object(Map::new()));
        }
        if let Some(wrong) = fields.get("metadata").filter(|metadata| !metadata.is_object()) {
            let why = format!(
                "json: cannot unmarshal {} into Go struct field {}.metadata of type v1.ObjectMeta",
                crate::sandbox::object::schema::json_name(wrong),
                self.resource.kind
            );
            return Err(cannot_be_handled(self, &why));
        }
        Ok(object)
    }

    /// How strictly unknown fields are taken.
    fn field_validation(&self) -> &str {
        self.query.get("fieldValidation").unwrap_or("Warn")
    }

    /// Finds fields that the schema does not know, and keys that are there twice: warnings, or with
    /// `fieldValidation=Strict` a refusal.
    ///
    /// # Errors
    /// 400 in the strict case.
    pub fn unknown_fields(&self, object: &Value) -> Result<Vec<String>, Failure> {
        if self.field_validation() == "Ignore" {
            return Ok(Vec::new());
        }
        let unknown = self.resource.schema().unknown_fields(object);
        let found = self.scan().complaints(&unknown);
        if self.field_validation() == "Strict" && !found.is_empty() {
            let why = format!("strict decoding error: {}", found.join(", "));
            return Err(cannot_be_handled(self, &why));
        }
        Ok(found)
    }

    /// The same for what a patch makes of an object; `shown` is what a refusal shows.
    ///
    /// # Errors
    /// 422 in the strict case.
    pub fn unknown_after_patch(
        &self,
        object: &Value,
        shown: impl FnOnce() -> String,
        prefix: &str,
    ) -> Result<Vec<String>, Failure> {
        if self.field_validation() == "Ignore" {
            return Ok(Vec::new());
        }
        let mut found: Vec<String> =
            self.scan().complaints(&[]).into_iter().map(|complaint| format!("{prefix}{complaint}")).collect();
        let unknown = self.resource.schema().unknown_fields(object);
        found.extend(unknown.iter().map(|path| unknown_field_warning(path)));
        if self.field_validation() == "Strict" && !found.is_empty() {
            let why = format!("strict decoding error: {}", found.join(", "));
            return Err(unreadable_patch(shown(), &why));
        }
        Ok(found)
    }

    /// Keys that are there twice in an applied configuration: warnings, or in the strict case a refusal.
    ///
    /// # Errors
    /// 400 in the strict case.
    pub fn repeated_keys(&self) -> Result<Vec<String>, Failure> {
        let scan = self.scan();
        let Some(key) = scan.first_duplicate().filter(|_| self.field_validation() != "Ignore") else {
            return Ok(Vec::new());
        };
        let found = format!("line 1: key {key:?} already set in map");
        if self.field_validation() != "Strict" {
            return Ok(vec![found]);
        }
        Err(Failure::bad_request(format!(
            "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:\n  {found}"
        )))
    }

    fn scan(&self) -> Scan {
        if media_type(&self.headers) == "application/yaml" { Scan::default() } else { Scan::of(&self.body) }
    }
}

/// 422 for a patch that leaves something that is not of its kind.
pub fn unreadable_patch(shown: String, why: &str) -> Failure {
    let error = FieldError::invalid("patch", &Value::from(shown), why);
    Failure::from_status(crate::sandbox::object::invalid("", "", "", &[error]))
}

/// The first value of a built-in kind that has the wrong type. Objects with one must not be stored: every client that
/// knows the kind would fail to read them.
pub fn wrong_type(call: &Call, object: &Value) -> Option<String> {
    if call.resource.custom.is_some() {
        return Schema::unreadable_metadata(object);
    }
    call.resource.schema().unreadable(&call.resource.gvk(), object)
}

/// 400 for what cannot be read as its kind.
pub fn cannot_be_handled(call: &Call, why: &str) -> Failure {
    let (kind, version) = (&call.resource.kind, &call.resource.version);
    Failure::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

/// The metadata of an object; an empty one where there is none.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("metadata").and_then(Value::as_object_mut)
}

/// A text in an object's metadata.
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// An object's finalizers.
pub fn finalizers(object: &Value) -> Vec<String> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|item| Some(item.as_str()?.to_owned())).collect()
}
