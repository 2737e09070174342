//! Requests for tokens, and what is to say about one.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::value_response;
use super::auth::{Binding, Bound, Claims, ISSUER};
use super::body::meta;
use super::call::Call;
use super::create::{new_uid, seconds};
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
    let account = Bound { name: call.name()?.to_owned(), uid: meta(&account, "uid").to_owned() };
    let mut kubernetes = Binding {
        namespace: namespace.clone(),
        serviceaccount: account,
        pod: None,
        secret: None,
        node: None,
    };
    bind(call, &mut kubernetes, spec.get("boundObjectRef").unwrap_or(&Value::Null))?;
    let now = Timestamp::now().as_second();
    let name = call.name()?;
    let claims = Claims {
        iss: ISSUER.to_owned(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        aud: audiences.clone(),
        iat: now,
        nbf: now,
        exp: now + life,
        jti: new_uid()?,
        kubernetes,
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

/// What a token may be bound to beside its account.
const BOUND_KINDS: [(&str, &str); 3] = [("Pod", "pods"), ("Secret", "secrets"), ("Node", "nodes")];

/// The object that the token is to die with, and for a pod the node it runs on.
fn bind(call: &Call, binding: &mut Binding, reference: &Value) -> Result<(), Failure> {
    if reference.is_null() {
        return Ok(());
    }
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = (text("kind"), text("name"));
    let Some((_, plural)) = BOUND_KINDS.into_iter().find(|(known, _)| *known == kind) else {
        let why = format!("cannot bind token for serviceaccount to object type {kind}");
        return Err(Failure::bad_request(why));
    };
    let resource = call.app.builtin("", plural)?;
    let namespace = resource.namespaced.then_some(binding.namespace.as_str());
    let record = call.app.store.get(&resource.storage, &resource.key(namespace, name));
    let record = record.ok_or_else(|| Failure::not_found(&resource, name))?;
    let object = resource.load(&record)?;
    let uid = meta(&object, "uid");
    if !text("uid").is_empty() && text("uid") != uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record",
            text("uid")
        );
        return Err(Failure::conflict(&resource, name, &why));
    }
    if kind == "Pod" {
        check_account(call, &object)?;
        binding.node = node_of(call, &object)?;
    }
    let bound = Some(Bound { name: name.to_owned(), uid: uid.to_owned() });
    match kind {
        "Pod" => binding.pod = bound,
        "Secret" => binding.secret = bound,
        _ => binding.node = bound,
    }
    Ok(())
}

/// A pod's token is for the account that the pod runs as.
fn check_account(call: &Call, pod: &Value) -> Result<(), Failure> {
    let (own, asked) = (pod.pointer("/spec/serviceAccountName").and_then(Value::as_str), call.name()?);
    if own.unwrap_or("default") == asked {
        return Ok(());
    }
    let why = format!(
        "cannot bind token for serviceaccount {asked:?} to pod running with different serviceaccount name."
    );
    Err(Failure::bad_request(why))
}

fn node_of(call: &Call, pod: &Value) -> Result<Option<Bound>, Failure> {
    let Some(name) = pod.pointer("/spec/nodeName").and_then(Value::as_str) else { return Ok(None) };
    let nodes = call.app.builtin("", "nodes")?;
    let Some(record) = call.app.store.get(&nodes.storage, name) else { return Ok(None) };
    let uid = meta(&nodes.load(&record)?, "uid").to_owned();
    Ok(Some(Bound { name: name.to_owned(), uid }))
}

/// What is to say about a token.
pub fn review(call: &Call, review: &Value) -> Value {
    let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
    let asked = review.pointer("/spec/audiences").and_then(Value::as_array);
    let mut audiences: Vec<&str> = asked.into_iter().flatten().filter_map(Value::as_str).collect();
    if audiences.is_empty() {
        audiences.push(ISSUER);
    }
    // Nodes ask who this server is when it calls them.
    if let Some(user) = call.app.node_token.user(token) {
        return json!({"authenticated": true, "user": user, "audiences": [ISSUER]});
    }
    let (meant, user): (Vec<&str>, Vec<_>) = audiences
        .into_iter()
        .filter_map(|audience| Some((audience, call.app.auth.user_of(token, audience, &call.app.store)?)))
        .unzip();
    match user.into_iter().next() {
        Some(user) => json!({"authenticated": true, "user": user, "audiences": meant}),
        None => json!({"authenticated": false, "user": {}, "error": "invalid bearer token"}),
    }
}
