//! POST: making objects.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::body::{self, meta, metadata_mut};
use super::call::{Call, Refused};
use super::failure::Failure;
use super::store::{Record, WriteError};
use super::{cluster_ip, hooks, node_port};
use crate::sandbox::object::{FieldError, apply::track_update, builtin};

/// A generated name is cut to this length before its random end: a label has 63 characters.
const MAX_PREFIX: usize = 58;
/// How many made-up names are tried.
const NAME_ATTEMPTS: usize = 8;
/// Letters of made-up names: without vowels, so that no words come out.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Answers a POST to a resource.
///
/// # Errors
/// Whatever is wrong with the object, or its place.
pub async fn create(call: &Call, object: Value) -> Result<Response, Failure> {
    let object = call.typed(object)?;
    if !meta(&object, "resourceVersion").is_empty() {
        return Err(Failure::unknown("resourceVersion should not be set on objects to be created"));
    }
    let warnings = call.unknown_fields(&object)?;
    let created = make(call, object, false).await?;
    Ok(call.object_response(StatusCode::CREATED, &created, &warnings))
}

/// Makes an object; `owned` says that its `managedFields` are right already. Returns it as it was stored.
///
/// # Errors
/// Whatever is wrong with the object, or its place.
pub async fn make(call: &Call, mut object: Value, owned: bool) -> Result<Value, Failure> {
    fit_namespace(call, &mut object)?;
    let generated = meta(&object, "generateName").to_owned();
    let prefix = &generated[..generated.floor_char_boundary(MAX_PREFIX)];
    let name = meta(&object, "name").to_owned();
    let made_up = name.is_empty() && !generated.is_empty();
    for attempt in 1.. {
        // Without a made-up name there is but one try.
        let mut candidate = if made_up { object.clone() } else { std::mem::take(&mut object) };
        if made_up && let Some(metadata) = metadata_mut(&mut candidate) {
            metadata.insert("name".into(), format!("{prefix}{}", suffix()?).into());
        }
        match make_named(call, candidate, owned).await {
            Err(Refused::Write(WriteError::Stale)) if made_up && attempt < NAME_ATTEMPTS => {}
            Err(Refused::Write(error)) => return Err(refusal(call, &name, error)),
            Err(Refused::Failure(failure)) => return Err(failure),
            Ok(created) => return Ok(created),
        }
    }
    Err(Failure::internal("no name could be made up"))
}

fn refusal(call: &Call, name: &str, error: WriteError) -> Failure {
    let namespace = call.namespace.as_deref().unwrap_or_default();
    match error {
        WriteError::Stale => Failure::already_exists(&call.resource, name),
        WriteError::GuardMissing => Failure::no_namespace(namespace),
        WriteError::GuardDeleting => terminating(call, name, namespace),
        WriteError::Store(_) => error.into(),
    }
}

fn terminating(call: &Call, name: &str, namespace: &str) -> Failure {
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let causes = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
        "message": format!("namespace {namespace} is being terminated")}]);
    Failure::forbidden(&call.resource, name, &why, Some(causes))
}

/// The namespace must exist before anything else is looked at; the object's own must be that of the path.
fn fit_namespace(call: &Call, object: &mut Value) -> Result<(), Failure> {
    let own = meta(object, "namespace").to_owned();
    match &call.namespace {
        Some(namespace) if !own.is_empty() && own != *namespace => {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Some(namespace) => {
            match call.app.store.latest("/namespaces", namespace) {
                None => return Err(Failure::no_namespace(namespace)),
                Some(found) if found.deleting() => {
                    return Err(terminating(call, meta(object, "name"), namespace));
                }
                Some(_) => {}
            }
            if let Some(metadata) = metadata_mut(object) {
                metadata.insert("namespace".into(), namespace.as_str().into());
            }
        }
        None => {
            if let Some(metadata) = metadata_mut(object) {
                metadata.remove("namespace");
            }
        }
    }
    Ok(())
}

async fn make_named(call: &Call, mut object: Value, owned: bool) -> Result<Value, Refused> {
    let resource = &call.resource;
    let now = Timestamp::now();
    set_server_fields(&mut object, now)?;
    hooks::admit(call, &mut object)?;
    let schema = resource.schema();
    if let Some(why) = body::wrong_type(call, &object) {
        return Err(body::cannot_be_handled(call, &why).into());
    }
    schema.prune(&mut object);
    let errors = if resource.custom.is_some() {
        schema.default(&mut object);
        prepare_custom(call, &mut object);
        let mut errors = builtin::metadata(&resource.gvk(), &object);
        errors.extend(schema.validate(&object, None));
        errors
    } else {
        builtin::default(&resource.gvk(), &mut object);
        builtin::prepare_create(&resource.gvk(), &mut object);
        builtin::validate_create(&resource.gvk(), &object)
    };
    check(call, &object, errors)?;
    let address = cluster_ip::reserve(call, &mut object)?;
    let ports = node_port::reserve(call, &mut object, None)?;
    hooks::check(call, None, &object)?;
    if !owned {
        track_update(None, &mut object, &schema, &call.writer(now));
    }
    let key = resource.key(call.namespace.as_deref(), meta(&object, "name"));
    let draft = resource.draft(&object).map_err(Failure::from)?;
    let record = call.commit(&key, None, Some(&draft)).await?;
    if record.is_some() {
        address.keep();
        ports.keep();
        hooks::after_write(call, meta(&object, "name")).await?;
    }
    stamp(&mut object, record.as_ref());
    Ok(object)
}

fn check(call: &Call, object: &Value, errors: Vec<FieldError>) -> Result<(), Failure> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid(&call.resource, meta(object, "name"), &errors))
    }
}

/// Puts the resourceVersion in that a write has got.
pub fn stamp(object: &mut Value, record: Option<&Arc<Record>>) {
    if let (Some(record), Some(metadata)) = (record, metadata_mut(object)) {
        metadata.insert("resourceVersion".into(), record.version().to_string().into());
    }
}

fn set_server_fields(object: &mut Value, now: Timestamp) -> Result<(), Failure> {
    let uid = new_uid()?;
    if let Some(metadata) = metadata_mut(object) {
        for field in
            ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"]
        {
            metadata.remove(field);
        }
        metadata.insert("uid".into(), uid.into());
        metadata.insert("creationTimestamp".into(), seconds(now).into());
    }
    Ok(())
}

/// A time as `metav1.Time` has it: whole seconds.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn prepare_custom(call: &Call, object: &mut Value) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.insert("generation".into(), 1.into());
    }
    if call.resource.has(super::registry::Subresource::Status)
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove("status");
    }
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Failure::internal("no random numbers"))?;
    Ok(bytes)
}

/// A random uid.
///
/// # Errors
/// Where there are no random numbers.
pub fn new_uid() -> Result<String, Failure> {
    Ok(uuid::Builder::from_random_bytes(random()?).into_uuid().to_string())
}

fn suffix() -> Result<String, Failure> {
    let bytes: [u8; 5] = random()?;
    let letter = |byte: &u8| LETTERS.get(usize::from(*byte) % LETTERS.len()).copied().map_or('x', char::from);
    Ok(bytes.iter().map(letter).collect())
}
