//! Questions about rights, and about oneself: kinds that are answered and never stored.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::value_response;
use super::auth::User;
use super::body::metadata_mut;
use super::call::Call;
use super::create::seconds;
use super::failure::Failure;
use super::rbac::Attributes;
use super::tokens;
use crate::sandbox::object::FieldError;

/// Answers POST of a kind that is only a question.
///
/// # Errors
/// 404 where it is not one that this server can answer, 4xx where the question makes no sense.
pub fn answer(call: &Call, body: Value) -> Result<Response, Failure> {
    let mut review = call.typed(body)?;
    let status = match &*call.resource.kind {
        "TokenReview" => tokens::review(call, &review),
        "SelfSubjectReview" => {
            if let Some(metadata) = metadata_mut(&mut review) {
                metadata.insert("creationTimestamp".into(), seconds(Timestamp::now()).into());
            }
            json!({ "userInfo": call.user })
        }
        "SelfSubjectAccessReview" => decide(call, &call.user, &asked(call, &review)?),
        "SubjectAccessReview" => decide(call, &subject(call, &review)?, &asked(call, &review)?),
        "LocalSubjectAccessReview" => {
            check_local(call, &mut review)?;
            decide(call, &subject(call, &review)?, &asked(call, &review)?)
        }
        "SelfSubjectRulesReview" => rules(call, &review)?,
        _ => return Err(Failure::no_such_path()),
    };
    if let Some(fields) = review.as_object_mut() {
        fields.insert("status".into(), status);
    }
    Ok(value_response(StatusCode::CREATED, &review))
}

fn decide(call: &Call, user: &User, asked: &Attributes) -> Value {
    let decision = call.app.authorizer.decide(&call.app.store, user, asked);
    let mut status = json!({ "allowed": decision.allowed });
    if !decision.reason.is_empty() {
        status["reason"] = json!(decision.reason);
    }
    status
}

fn invalid(call: &Call, field: &str, value: &Value, why: &str) -> Failure {
    Failure::invalid(&call.resource, "", &[FieldError::invalid(field, value, why)])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResourceAttributes {
    namespace: String,
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NonResourceAttributes {
    path: String,
    verb: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    user: String,
    groups: Vec<String>,
    uid: Option<String>,
    extra: std::collections::BTreeMap<String, Vec<String>>,
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<NonResourceAttributes>,
}

fn spec(call: &Call, review: &Value) -> Result<Spec, Failure> {
    let spec = review.get("spec").filter(|spec| !spec.is_null());
    let spec = spec.map(Spec::deserialize).transpose();
    let spec = spec.map_err(|error| super::body::cannot_be_handled(call, &format!("spec: {error}")))?;
    Ok(spec.unwrap_or_default())
}

/// What the question is about.
fn asked(call: &Call, review: &Value) -> Result<Attributes, Failure> {
    let Spec { resource_attributes, non_resource_attributes, .. } = spec(call, review)?;
    match (resource_attributes, non_resource_attributes) {
        (Some(of), None) => Ok(Attributes {
            verb: of.verb,
            path: String::new(),
            group: of.group,
            version: of.version,
            resource: of.resource,
            subresource: of.subresource,
            namespace: of.namespace,
            name: of.name,
        }),
        (None, Some(of)) => {
            // An empty path is a path too, and no resource.
            let path = if of.path.is_empty() { "/".to_owned() } else { of.path };
            Ok(Attributes { verb: of.verb, path, ..Attributes::default() })
        }
        (Some(_), Some(_)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            Err(invalid(call, "spec.nonResourceAttributes", &review["spec"]["nonResourceAttributes"], why))
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            Err(invalid(call, "spec.resourceAttributes", &Value::Null, why))
        }
    }
}

/// Whom the question is about.
fn subject(call: &Call, review: &Value) -> Result<User, Failure> {
    let Spec { user, groups, uid, extra, .. } = spec(call, review)?;
    if user.is_empty() && groups.is_empty() {
        let why = "at least one of user or group must be specified";
        return Err(invalid(call, "spec.user", &json!(""), why));
    }
    Ok(User { username: user, groups, uid, extra })
}

/// A local review is about the namespace it is sent to.
fn check_local(call: &Call, review: &mut Value) -> Result<(), Failure> {
    let namespace = call.namespace.clone().unwrap_or_default();
    let own = super::body::meta(review, "namespace").to_owned();
    if !own.is_empty() && own != namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Failure::bad_request(why));
    }
    if let Some(metadata) = metadata_mut(review) {
        metadata.insert("namespace".into(), namespace.as_str().into());
    }
    let spec = spec(call, review)?;
    if spec.non_resource_attributes.is_some() {
        let value = &review["spec"]["nonResourceAttributes"];
        return Err(invalid(call, "spec.nonResourceAttributes", value, "disallowed on this kind of request"));
    }
    match spec.resource_attributes {
        Some(of) if of.namespace != namespace => {
            let field = "spec.resourceAttributes.namespace";
            Err(invalid(call, field, &json!(of.namespace), "must match metadata.namespace"))
        }
        _ => Ok(()),
    }
}

/// All that the caller may do in a namespace.
fn rules(call: &Call, review: &Value) -> Result<Value, Failure> {
    let namespace = review.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default();
    if namespace.is_empty() {
        return Err(Failure::bad_request("no namespace on request"));
    }
    let (rules, errors) = call.app.authorizer.rules_for(&call.app.store, &call.user, namespace);
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in rules {
        if !rule.resources.is_empty() {
            let mut told =
                json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if !rule.resource_names.is_empty() {
                told["resourceNames"] = json!(rule.resource_names);
            }
            resources.push(told);
        }
        if !rule.non_resource_urls.is_empty() {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    let mut status =
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": !errors.is_empty()});
    if !errors.is_empty() {
        status["evaluationError"] = json!(errors.join(", "));
    }
    Ok(status)
}
