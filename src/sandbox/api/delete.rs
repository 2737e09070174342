//! DELETE: marking objects, removing them, and waiting for what must happen in between.

use axum::response::Response;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::answer::value_response;
use super::body::{finalizers, meta, metadata_mut};
use super::call::{Call, Refused};
use super::create::{seconds, stamp};
use super::failure::Failure;
use super::request::Query;
use super::store::WriteError;
use super::update::{is_done, success};
use super::{hooks, options, read};
use crate::sandbox::object::FieldError;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// How often a deletion is tried again that others' writes came between.
const ATTEMPTS: usize = 50;

/// What happens to the objects that an object owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    grace: Option<i64>,
    propagation: Option<Propagation>,
    uid: Option<String>,
    version: Option<String>,
}

impl DeleteOptions {
    /// Reads the body, where there is one, and the query string. A dry run in the body becomes one of the call.
    ///
    /// # Errors
    /// 400 where they do not parse.
    pub fn read(call: &mut Call, body: Option<&Value>) -> Result<Self, Failure> {
        let field = |name: &str| body.and_then(|body| body.get(name)).filter(|value| !value.is_null());
        if let Some(kind) = field("kind").and_then(Value::as_str).filter(|kind| *kind != "DeleteOptions") {
            return Err(Failure::bad_request(format!("{kind:?} cannot be handled as a DeleteOptions")));
        }
        // With a body, the query string is not looked at.
        let empty = Query::default();
        if body.is_some() {
            let asked = field("dryRun").and_then(Value::as_array).and_then(|list| list.first());
            call.query.set("dryRun", asked.and_then(Value::as_str).unwrap_or_default());
        }
        if let Some(error) = call.query.get("dryRun").and_then(options::dry_run) {
            return Err(Failure::option("DeleteOptions", error));
        }
        let query = if body.is_some() { &empty } else { &call.query };
        let grace = match field("gracePeriodSeconds").and_then(Value::as_i64) {
            Some(grace) => Some(grace),
            None => query.number("gracePeriodSeconds")?,
        };
        let policy = field("propagationPolicy").and_then(Value::as_str).or(query.get("propagationPolicy"));
        let orphan = field("orphanDependents").and_then(Value::as_bool).or(query.flag_or("orphanDependents"));
        let propagation = match (policy, orphan) {
            (Some(policy), Some(_)) => {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                let error = FieldError::invalid("propagationPolicy", &json!(policy), why);
                return Err(Failure::option("DeleteOptions", error));
            }
            (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), None) => Some(Propagation::Foreground),
            (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
            (None, None) => None,
            (Some(other), None) => {
                let allowed = ["Foreground", "Background", "Orphan", "nil"];
                let error = FieldError::not_supported("propagationPolicy", &json!(other), allowed);
                return Err(Failure::option("DeleteOptions", error));
            }
        };
        let precondition = |name: &str| {
            let text = body?.pointer(&format!("/preconditions/{name}"))?.as_str()?;
            Some(text.to_owned())
        };
        Ok(Self { grace, propagation, uid: precondition("uid"), version: precondition("resourceVersion") })
    }
}

/// What a deletion has led to.
pub struct Deleted {
    /// The object as it is, or last was.
    pub object: Value,
    /// Whether it is gone.
    pub gone: bool,
}

/// Answers the DELETE of one object.
///
/// # Errors
/// 404 where there is none, 409 where a precondition does not hold.
pub async fn delete(call: &Call, options: &DeleteOptions) -> Result<Response, Failure> {
    let Deleted { object, gone } = remove(call, options).await?;
    // These kinds answer with the object itself, as in Kubernetes.
    let shows_object = call.resource.custom.is_none()
        && matches!(
            &*call.resource.storage,
            "/pods" | "/services" | "/serviceaccounts" | "/persistentvolumeclaims" | "/persistentvolumes"
        );
    if !gone || shows_object {
        return Ok(call.object_response(StatusCode::OK, &object, &[]));
    }
    let mut details =
        json!({"name": meta(&object, "name"), "kind": call.resource.plural, "uid": meta(&object, "uid")});
    if !call.resource.group.is_empty() {
        details["group"] = json!(call.resource.group);
    }
    Ok(value_response(StatusCode::OK, &success(details)))
}

/// Answers the DELETE of everything that is selected.
///
/// # Errors
/// 400 for selectors that do not parse.
pub async fn delete_collection(call: &Call, options: &DeleteOptions) -> Result<Response, Failure> {
    let listing = read::matching(call)?;
    for (key, _) in &listing.items {
        let (namespace, name) = match key.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, &**key),
        };
        let one = Call { namespace, name: Some(name.to_owned()), ..call.clone() };
        match remove(&one, options).await {
            Err(failure) if failure.is_not_found() => {}
            other => drop(other?),
        }
    }
    let metadata = json!({"resourceVersion": call.app.store.version().to_string()});
    read::list_response(call, &listing.items, &metadata)
}

/// Deletes the object in the path, or marks it.
///
/// # Errors
/// 404 where there is none, 409 where a precondition does not hold.
pub async fn remove(call: &Call, options: &DeleteOptions) -> Result<Deleted, Failure> {
    for _ in 0..ATTEMPTS {
        match try_remove(call, options).await {
            Err(Refused::Write(WriteError::Stale)) => {}
            Err(Refused::Write(error)) => return Err(error.into()),
            Err(Refused::Failure(failure)) => return Err(failure),
            Ok(deleted) => return Ok(deleted),
        }
    }
    Err(Failure::stale(&call.resource, call.name()?))
}

async fn try_remove(call: &Call, options: &DeleteOptions) -> Result<Deleted, Refused> {
    let (record, live) = call.live()?;
    check_preconditions(call, options, &live)?;
    hooks::check_delete(call, &live)?;
    let mut object = live.clone();
    set_finalizers(&mut object, options.propagation.or_else(|| usual_propagation(call, &live)));
    let grace = grace(&live, options);
    mark(&mut object, grace, Timestamp::now());
    let (key, expect) = (call.key()?, Some(record.version()));
    if is_done(&object) {
        let written = call.commit(&key, expect, None).await?;
        if written.is_some() {
            hooks::after_delete(call, &live).await?;
        }
        let mut gone = if grace == 0 && meta(&live, "deletionTimestamp").is_empty() { live } else { object };
        stamp(&mut gone, written.as_ref());
        return Ok(Deleted { object: gone, gone: true });
    }
    if object != live {
        let draft = call.resource.draft(&object).map_err(Failure::from)?;
        let written = call.commit(&key, expect, Some(&draft)).await?;
        if written.is_some() {
            hooks::after_write(call, call.name()?).await?;
        }
        stamp(&mut object, written.as_ref());
    }
    Ok(Deleted { object, gone: false })
}

fn check_preconditions(call: &Call, options: &DeleteOptions, live: &Value) -> Result<(), Failure> {
    let checks = [
        ("UID", "deleted and then recreated", options.uid.as_deref(), meta(live, "uid")),
        ("ResourceVersion", "modified", options.version.as_deref(), meta(live, "resourceVersion")),
    ];
    for (what, guess, asked, current) in checks {
        if let Some(asked) = asked.filter(|asked| *asked != current) {
            let why = format!(
                "the {what} in the precondition ({asked}) does not match the {what} in record ({current}). The object might have been {guess}"
            );
            return Err(Failure::precondition(&call.resource, call.name()?, &why));
        }
    }
    Ok(())
}

/// What happens without a wish: Jobs leave their pods behind, for the sake of clients older than the garbage collector.
fn usual_propagation(call: &Call, live: &Value) -> Option<Propagation> {
    let asked = finalizers(live).iter().any(|name| name == ORPHAN || name == FOREGROUND);
    (orphans_by_default(call) && !asked).then_some(Propagation::Orphan)
}

fn orphans_by_default(call: &Call) -> bool {
    matches!(&*call.resource.storage, "batch/jobs" | "/replicationcontrollers")
}

/// The garbage collector is asked through finalizers; without a wish those that are there stay.
fn set_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut list = finalizers(object);
    list.retain(|name| name != ORPHAN && name != FOREGROUND);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => list.push(FOREGROUND.to_owned()),
        Propagation::Orphan => list.push(ORPHAN.to_owned()),
    }
    if let Some(metadata) = metadata_mut(object) {
        if list.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".into(), list.into());
        }
    }
}

/// How long a pod that a node runs may take to end; everything else has no time to wait for.
fn grace(live: &Value, options: &DeleteOptions) -> i64 {
    let text = |pointer: &str| live.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let ended = matches!(text("/status/phase"), "Succeeded" | "Failed");
    if text("/kind") != "Pod" || text("/spec/nodeName").is_empty() || ended {
        return 0;
    }
    let own = live.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    options.grace.or(own).unwrap_or(30).max(0)
}

/// Says when the object is to be gone. A second deletion can only make it sooner.
fn mark(object: &mut Value, grace: i64, now: Timestamp) {
    let namespace = object.get("kind").and_then(Value::as_str) == Some("Namespace");
    let marked = !meta(object, "deletionTimestamp").is_empty();
    let Some(metadata) = metadata_mut(object) else { return };
    let before = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    if marked && before <= grace {
        return;
    }
    let when = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    metadata.insert("deletionTimestamp".into(), seconds(when).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    if !marked && let Some(generation) = metadata.get("generation").and_then(Value::as_u64) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    if namespace && let Some(fields) = object.as_object_mut() {
        let status = fields.entry("status").or_insert_with(|| json!({}));
        if let Some(status) = status.as_object_mut() {
            status.insert("phase".into(), "Terminating".into());
        }
    }
}
