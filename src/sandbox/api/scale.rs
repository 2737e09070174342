//! The scale subresource: replicas of anything, in one form.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::answer::value_response;
use super::body::{self, meta};
use super::call::Call;
use super::failure::Failure;
use super::update::{Edit, change_object};
use crate::sandbox::object::{FieldError, invalid, patch};

/// Where a kind keeps what its scale shows.
struct Places {
    spec: String,
    status: String,
    selector: Option<String>,
}

fn places(call: &Call) -> Places {
    match call.resource.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        Some(paths) => Places {
            spec: paths.spec_replicas.clone(),
            status: paths.status_replicas.clone(),
            selector: paths.selector.clone(),
        },
        None => Places { spec: "/spec/replicas".into(), status: "/status/replicas".into(), selector: None },
    }
}

/// The scale of an object.
fn scale_of(call: &Call, object: &Value) -> Value {
    let places = places(call);
    let number =
        |pointer: &str| object.pointer(pointer).cloned().filter(Value::is_number).unwrap_or(json!(0));
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let mut status = json!({"replicas": number(&places.status)});
    let selector = match &places.selector {
        Some(pointer) => object.pointer(pointer).and_then(Value::as_str).map(str::to_owned),
        None if call.resource.custom.is_some() => None,
        None => object.pointer("/spec/selector").map(selector_text),
    };
    if let Some(selector) = selector {
        status["selector"] = json!(selector);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": number(&places.spec)}, "status": status})
}

/// A `LabelSelector` as the text that query strings have.
fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut terms: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
        let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
        let values = values.filter_map(Value::as_str).collect::<Vec<_>>().join(",");
        let key = text("key");
        terms.push(match text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.sort();
    terms.join(",")
}

/// Answers a GET.
///
/// # Errors
/// 404 where there is no such object.
pub fn get(call: &Call) -> Result<Response, Failure> {
    let record = call.app.store.get(&call.resource.storage, &call.key()?);
    let record =
        record.ok_or_else(|| Failure::not_found(&call.resource, call.name.as_deref().unwrap_or_default()))?;
    Ok(value_response(StatusCode::OK, &scale_of(call, &call.resource.load(&record)?)))
}

/// Answers a PUT or PATCH.
///
/// # Errors
/// 422 for a number that the object does not allow, 409 for a resourceVersion that is not the object's.
pub async fn update(call: &Call, replace: bool, bytes: &[u8]) -> Result<Response, Failure> {
    let (_, live) = call.live()?;
    let scale = wanted(call, replace, bytes, &scale_of(call, &live))?;
    let replicas = scale.pointer("/spec/replicas").cloned().unwrap_or(json!(0));
    if replicas.as_i64().is_none_or(|count| count < 0) {
        let error = FieldError::invalid("spec.replicas", &replicas, "must be greater than or equal to 0");
        return Err(Failure::from_status(invalid("autoscaling", "Scale", call.name()?, &[error])));
    }
    let mut change = at_pointer(&places(call).spec, replicas);
    let version = meta(&scale, "resourceVersion");
    let asked = version != meta(&live, "resourceVersion") || replace;
    if asked && !version.is_empty() {
        change["metadata"] = json!({"resourceVersion": version});
    }
    let changed = change_object(call, &Edit::Merge(change)).await?;
    Ok(value_response(StatusCode::OK, &scale_of(call, &changed)))
}

fn wanted(call: &Call, replace: bool, bytes: &[u8], live: &Value) -> Result<Value, Failure> {
    if replace {
        return body::decode(&call.headers, bytes);
    }
    let patched = match body::media_type(&call.headers) {
        "application/json-patch+json" => patch::json_patch(live, &body::json(bytes)?),
        // A scale has no lists, so that all merges are one.
        "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
            patch::merge_patch(live, &body::json(bytes)?)
        }
        "application/apply-patch+yaml" => patch::merge_patch(live, &body::yaml(bytes)?),
        _ => {
            return Err(Failure::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml",
            ]));
        }
    };
    patched.map_err(|error| Failure::from_status(error.status()))
}

/// An object that holds only that value, at that place.
fn at_pointer(pointer: &str, value: Value) -> Value {
    pointer.trim_start_matches('/').rsplit('/').fold(value, |inner, name| json!({name: inner}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_become_text() {
        let selector = json!({"matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["x", "y"]}, {"key": "d", "operator": "DoesNotExist"}]});
        assert_eq!(selector_text(&selector), "!d,a=1,b=2,c in (x,y)");
    }

    #[test]
    fn a_value_at_its_place() {
        assert_eq!(at_pointer("/spec/replicas", json!(3)), json!({"spec": {"replicas": 3}}));
    }
}
