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
use crate::sandbox::object::schema::{strict_message, unknown_field_warning};
use crate::sandbox::object::{Cause, FieldError};

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
        Failure::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
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

impl Call {
    /// Fits a decoded object to the resource: its type is filled in or must be right, and it has metadata.
    ///
    /// # Errors
    /// 400 where it is no object or one of another kind.
    pub fn typed(&self, mut object: Value) -> Result<Value, Failure> {
        let name = &self.resource.name;
        let Some(fields) = object.as_object_mut() else {
            return Err(Failure::bad_request(format!("the body is not an object of kind {}", name.kind)));
        };
        let text = |fields: &Map<String, Value>, key: &str| {
            fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (kind, version) = (text(fields, "kind"), text(fields, "apiVersion"));
        if !kind.is_empty() && kind != *name.kind {
            let short = version.rsplit('/').next().unwrap_or_default();
            return Err(Failure::bad_request(format!(
                "{kind} in version {short:?} cannot be handled as a {}",
                name.kind
            )));
        }
        if !version.is_empty() && version != *name.api_version {
            return Err(Failure::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({})",
                name.api_version
            )));
        }
        fields.insert("kind".into(), Value::String(name.kind.to_string()));
        fields.insert("apiVersion".into(), Value::String(name.api_version.to_string()));
        if fields.get("metadata").is_none_or(Value::is_null) {
            fields.insert("metadata".into(), Value::Object(Map::new()));
        }
        if !fields.get("metadata").is_some_and(Value::is_object) {
            return Err(Failure::bad_request("metadata must be an object"));
        }
        Ok(object)
    }

    /// Finds fields that the schema does not know: warnings, or with `fieldValidation=Strict` a refusal.
    ///
    /// # Errors
    /// 400 in the strict case.
    pub fn unknown_fields(&self, object: &Value) -> Result<Vec<String>, Failure> {
        let mode = self.query.get("fieldValidation").unwrap_or("Warn");
        if mode == "Ignore" {
            return Ok(Vec::new());
        }
        let unknown = self.resource.schema().unknown_fields(object);
        match mode {
            "Strict" if !unknown.is_empty() => {
                Err(Failure::bad_request(strict_message(&self.resource.gvk(), &unknown)))
            }
            "Strict" | "Warn" => Ok(unknown.iter().map(|path| unknown_field_warning(path)).collect()),
            other => {
                let allowed = ["Ignore", "Strict", "Warn"];
                let error = FieldError::not_supported("fieldValidation", &Value::from(other), allowed);
                Err(Failure::option("CreateOptions", error))
            }
        }
    }
}

/// The first value of a built-in kind that has the wrong type. Objects with one must not be stored: every client that
/// knows the kind would fail to read them.
pub fn wrong_type(call: &Call, object: &Value) -> Option<String> {
    if call.resource.custom.is_some() {
        return None;
    }
    let errors = call.resource.schema().validate(object, None);
    let error = errors.into_iter().find(|error| error.reason == Cause::TypeInvalid)?;
    Some(format!("{}: {}", error.field, error.message))
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
