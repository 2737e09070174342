//! What a client is told when it does not get what it asked for: `metav1.Status`.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::registry::Resource;
use super::store::{StoreError, TooOld, WriteError};
use crate::sandbox::object::{self, FieldError, error::status};

/// Why a write is refused that builds on an object as it was.
const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// A refusal, with its HTTP status code and `Status` body.
#[derive(Clone, Debug)]
pub struct Failure {
    code: u16,
    body: Value,
    retry_after: Option<u32>,
}

impl Failure {
    /// A body that is ready; its code is the HTTP status too.
    pub fn from_status(body: Value) -> Self {
        let code = body.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        Self { code: code.unwrap_or(500), body, retry_after: None }
    }

    fn new(code: u16, reason: &str, message: &str, details: Value) -> Self {
        Self::from_status(status(code, reason, message, details))
    }

    /// 400.
    pub fn bad_request(message: impl AsRef<str>) -> Self {
        Self::new(400, "BadRequest", message.as_ref(), Value::Null)
    }

    /// 422 for an option that is wrong; `kind` is that of the options.
    pub fn option(kind: &str, error: FieldError) -> Self {
        Self::options(kind, &[error])
    }

    /// 422 for options that are wrong.
    pub fn options(kind: &str, errors: &[FieldError]) -> Self {
        Self::from_status(object::invalid("meta.k8s.io", kind, "", errors))
    }

    /// 500 for what Kubernetes gives no reason for.
    pub fn unknown(message: &str) -> Self {
        Self::new(500, "", message, Value::Null)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", &format!("limit is {limit}"), Value::Null)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized", Value::Null)
    }

    /// 403, with the sentence that follows `… is forbidden: `.
    pub fn forbidden(resource: &Resource, name: &str, why: &str, causes: Option<Value>) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        let mut details = details(resource, name, &resource.plural);
        if let Some(causes) = causes {
            details["causes"] = causes;
        }
        Self::new(403, "Forbidden", &message, details)
    }

    /// 403 for a caller who may not do that: what the group's resource, or with an empty one a path, is about.
    pub fn denied(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = match (resource, group) {
            ("", _) => return Self::new(403, "Forbidden", &format!("forbidden: {why}"), json!({})),
            (resource, "") => resource.to_owned(),
            (resource, group) => format!("{resource}.{group}"),
        };
        let mut details = json!({});
        for (field, value) in [("name", name), ("group", group), ("kind", resource)] {
            if !value.is_empty() {
                details[field] = json!(value);
            }
        }
        let named = if name.is_empty() { qualified } else { format!("{qualified} \"{name}\"") };
        Self::new(403, "Forbidden", &format!("{named} is forbidden: {why}"), details)
    }

    /// 404 for a path that leads nowhere.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource", Value::Null)
    }

    /// 404 for an object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", &message, details(resource, name, &resource.plural))
    }

    /// 404 for the namespace of an object.
    pub fn no_namespace(name: &str) -> Self {
        let details = json!({"name": name, "kind": "namespaces"});
        Self::new(404, "NotFound", &format!("namespaces \"{name}\" not found"), details)
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message, json!({}))
    }

    /// 405 for a new object of a definition that is being deleted.
    pub fn terminating_definition() -> Self {
        let message = "create not allowed while custom resource definition is terminating";
        Self::new(405, "MethodNotAllowed", message, json!({}))
    }

    /// 406.
    pub fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json";
        Self::new(406, "NotAcceptable", message, Value::Null)
    }

    /// 409 for a name that is taken.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", &message, details(resource, name, &resource.plural))
    }

    /// 409, with the reason that ends the sentence.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::new(409, "Conflict", &message, details(resource, name, &resource.plural))
    }

    /// 409 for a pod that cannot be bound to a node.
    pub fn binding_conflict(name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on pods/binding \"{name}\": {why}");
        Self::new(409, "Conflict", &message, json!({"name": name, "kind": "pods/binding"}))
    }

    /// 409 for a resourceVersion that is not the object's any more.
    pub fn stale(resource: &Resource, name: &str) -> Self {
        Self::conflict(resource, name, MODIFIED)
    }

    /// 410 for a resourceVersion that history does not reach back to.
    pub fn too_old(asked: u64, TooOld { oldest }: TooOld) -> Self {
        let message = format!("too old resource version: {asked} ({oldest})");
        Self::new(410, "Expired", &message, Value::Null)
    }

    /// 410 for a list of a version that is gone.
    pub fn list_expired() -> Self {
        Self::new(410, "Expired", "The resourceVersion for the provided list is too old.", Value::Null)
    }

    /// 410 for a list that was read in pages too slowly, with a token that goes on all the same.
    pub fn continue_expired(token: &str) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can \
                       start a new list without the continue parameter, or use the continue token in this response to \
                       retrieve the remainder of the results. Continuing with the provided token results in an \
                       inconsistent list - objects that were created, modified, or deleted between the time the first \
                       chunk was returned and now may show up in the list.";
        let mut failure = Self::new(410, "Expired", message, Value::Null);
        failure.body["metadata"] = json!({"continue": token});
        failure
    }

    /// 422 for a watch from a resourceVersion that is none. Kubernetes names the resource here, not the kind.
    pub fn no_watch_version(resource: &Resource, asked: &str) -> Self {
        let why = format!("strconv.ParseUint: parsing {asked:?}: invalid syntax");
        let error = FieldError::invalid("resourceVersion", &json!(asked), &why);
        Self::from_status(object::invalid(&resource.group, &resource.plural, "", &[error]))
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", &message, Value::Null)
    }

    /// 422 for a write that must say what it replaces. Kubernetes names the resource here, not the kind.
    pub fn no_version(resource: &Resource, name: &str) -> Self {
        let detail = "must be specified for an update";
        let error = FieldError::invalid("metadata.resourceVersion", &json!(0), detail);
        Self::from_status(object::invalid(&resource.group, &resource.plural, name, &[error]))
    }

    /// 409 for a deletion whose preconditions do not hold. Kubernetes names the kind here, not the resource.
    pub fn precondition(resource: &Resource, name: &str, why: &str) -> Self {
        let kind = if resource.group.is_empty() {
            resource.kind.to_string()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let message = format!("Operation cannot be fulfilled on {kind} \"{name}\": {why}");
        Self::new(409, "Conflict", &message, details(resource, name, &resource.kind))
    }

    /// 422.
    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        Self::from_status(object::invalid(&resource.group, &resource.kind, name, errors))
    }

    /// 429 for an eviction that would disturb too much.
    pub fn too_many_requests(message: &str, causes: Value) -> Self {
        Self::new(429, "TooManyRequests", message, json!({"causes": causes}))
    }

    /// 500.
    pub fn internal(message: impl AsRef<str>) -> Self {
        let message = format!("Internal error occurred: {}", message.as_ref());
        Self::new(500, "InternalError", &message, json!({"causes": [{"message": message}]}))
    }

    /// What a node refused, in its words.
    pub fn from_node(code: u16, message: &str) -> Self {
        let reason = match code {
            400 => "BadRequest",
            404 => "NotFound",
            _ => "InternalError",
        };
        Self::new(code, reason, message, Value::Null)
    }

    /// 409 as a write gets that others were quicker than, for whatever a path names.
    pub fn outrun(group: &str, resource: &str, name: &str) -> Self {
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let message = format!("Operation cannot be fulfilled on {qualified} \"{name}\": {MODIFIED}");
        let mut details = json!({"name": name, "kind": resource});
        if !group.is_empty() {
            details["group"] = json!(group);
        }
        Self::new(409, "Conflict", &message, details)
    }

    /// 429 for a client that is to come back.
    pub fn overloaded(seconds: u32) -> Self {
        let message = "the server has received too many requests and has asked us to try again later";
        Self::new(429, "TooManyRequests", message, json!({})).retry_after(Some(seconds))
    }

    /// 504 for what took too long.
    pub fn timeout() -> Self {
        let message = "Timeout: request did not complete within the allotted duration";
        Self::new(504, "Timeout", message, json!({}))
    }

    /// The same, with the time after which the client may come back.
    #[must_use]
    pub fn retry_after(mut self, seconds: Option<u32>) -> Self {
        if let Some(seconds) = seconds {
            self.body["details"]["retryAfterSeconds"] = seconds.into();
            self.retry_after = Some(seconds);
        }
        self
    }

    /// 503 for something else that does not answer.
    pub fn unavailable(message: impl AsRef<str>) -> Self {
        Self::new(503, "ServiceUnavailable", message.as_ref(), Value::Null)
    }

    /// 504 for a resourceVersion from the future.
    pub fn too_new(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let details = json!({"retryAfterSeconds": 1, "causes":
            [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]});
        Self { retry_after: Some(1), ..Self::new(504, "Timeout", &message, details) }
    }

    /// The `Status`.
    pub fn body(&self) -> &Value {
        &self.body
    }
}

fn details(resource: &Resource, name: &str, kind: &str) -> Value {
    let mut details = json!({"kind": kind});
    for (field, value) in [("name", name), ("group", &resource.group)] {
        if !value.is_empty() {
            details[field] = json!(value);
        }
    }
    details
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::internal(format!("failed to {error}"))
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::internal(format!("failed to {error}"))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (code, self.body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl Failure {
    /// Whether this is a 404.
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// Whether the object is not as it was thought to be.
    pub fn is_conflict(&self) -> bool {
        self.code == 409
    }
}
