//! Requests for tokens, and reviews of them.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::value_response;
use super::auth::{Binding, Bound, Claims, ISSUER};
use super::body::meta;
use super::call::Call;
use super::create::seconds;
use super::failure::Failure;
use crate::sandbox::object::{FieldError, invalid};

const DEFAULT_LIFE: i64 = 3600;
const SHORTEST_LIFE: i64 = 600;
const LONGEST_LIFE: i64 = 1 << 32;

/// Answers POST of `serviceaccounts/NAME/token`.
///
/// # Errors
/// 404 where there is no such account or pod, 422 for a life that is too short or too long.
pub fn request(call: &Call, body: &Value) -> Result<Response, Failure> {
    let (_, account) = call.live()?;
    let spec = body.get("spec").cloned().unwrap_or_default();
    let life = spec.get("expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_LIFE);
    check_life(life)?;
    let asked = spec.get("audiences").and_then(Value::as_array).filter(|list| !list.is_empty());
    let audiences = asked.map_or_else(
        || vec![ISSUER.to_owned()],
        |list| list.iter().filter_map(|item| Some(item.as_str()?.to_owned())).collect(),
    );
    let namespace = call.namespace.clone().unwrap_or_default();
    let pod = bound_pod(call, &namespace, spec.get("boundObjectRef").unwrap_or(&Value::Null))?;
    let now = Timestamp::now().as_second();
    let name = call.name()?;
    let claims = Claims {
        iss: ISSUER.to_owned(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        aud: audiences.clone(),
        iat: now,
        nbf: now,
        exp: now + life,
        kubernetes: Binding {
            namespace: namespace.clone(),
            serviceaccount: Bound { name: name.to_owned(), uid: meta(&account, "uid").to_owned() },
            pod,
        },
    };
    let expires = Timestamp::from_second(claims.exp).map_err(|error| Failure::internal(error.to_string()))?;
    let mut answer = json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"audiences": audiences, "expirationSeconds": life},
        "status": {"token": call.app.auth.sign(&claims), "expirationTimestamp": seconds(expires)},
    });
    if let Some(bound) = spec.get("boundObjectRef") {
        answer["spec"]["boundObjectRef"] = bound.clone();
    }
    Ok(value_response(StatusCode::CREATED, &answer))
}

fn check_life(life: i64) -> Result<(), Failure> {
    let field = "spec.expirationSeconds";
    let error = if life < SHORTEST_LIFE {
        FieldError::invalid(field, &json!(life), "may not specify a duration less than 10 minutes")
    } else if life > LONGEST_LIFE {
        FieldError::invalid(field, &json!(life), "may not specify a duration larger than 2^32 seconds")
    } else {
        return Ok(());
    };
    Err(Failure::from_status(invalid("authentication.k8s.io", "TokenRequest", "", &[error])))
}

fn bound_pod(call: &Call, namespace: &str, reference: &Value) -> Result<Option<Bound>, Failure> {
    if reference.is_null() {
        return Ok(None);
    }
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("kind") != "Pod" {
        return Err(Failure::bad_request(format!(
            "cannot bind token for serviceaccount to object type {}",
            text("kind")
        )));
    }
    let pods = call.app.builtin("", "pods")?;
    let record = call.app.store.get(&pods.storage, &pods.key(Some(namespace), text("name")));
    let record = record.ok_or_else(|| Failure::not_found(&pods, text("name")))?;
    let pod = pods.load(&record)?;
    let uid = meta(&pod, "uid");
    if !text("uid").is_empty() && text("uid") != uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record",
            text("uid")
        );
        return Err(Failure::conflict(&pods, text("name"), &why));
    }
    Ok(Some(Bound { name: text("name").to_owned(), uid: uid.to_owned() }))
}

/// Answers POST of a kind that is only a question.
///
/// # Errors
/// 404 where it is not one that this server can answer.
pub fn review(call: &Call, body: Value) -> Result<Response, Failure> {
    let mut review = call.typed(body)?;
    let status = match &*call.resource.kind {
        "TokenReview" => {
            let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
            let asked = review.pointer("/spec/audiences").and_then(Value::as_array);
            let mut audiences: Vec<&str> = asked.into_iter().flatten().filter_map(Value::as_str).collect();
            if audiences.is_empty() {
                audiences.push(ISSUER);
            }
            let found = audiences.iter().find_map(|audience| {
                Some((call.app.auth.user_of(token, audience, &call.app.store)?, *audience))
            });
            // Nodes ask who this server is when it calls them.
            let found = call.app.node_token.user(token).map(|user| (user, ISSUER)).or(found);
            match found {
                Some((user, audience)) => {
                    json!({"authenticated": true, "user": user, "audiences": [audience]})
                }
                None => json!({"authenticated": false, "user": {}, "error": "invalid bearer token"}),
            }
        }
        "SelfSubjectReview" => json!({"userInfo": call.user}),
        // Whoever is let in may do everything, as under Kubernetes' AlwaysAllow.
        "SelfSubjectAccessReview" => {
            json!({"allowed": true, "reason": "every authenticated caller is allowed"})
        }
        _ => return Err(Failure::no_such_path()),
    };
    if let Some(fields) = review.as_object_mut() {
        fields.insert("status".into(), status);
    }
    Ok(value_response(StatusCode::CREATED, &review))
}
