//! PUT and PATCH: changing objects, and applying them.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::body::{self, finalizers, meta, metadata_mut};
use super::call::{Call, Refused};
use super::create::{self, stamp};
use super::failure::Failure;
use super::rbac::Attributes;
use super::registry::Subresource;
use super::store::{Record, WriteError};
use super::{cluster_ip, gate, hooks, node_port};
use crate::sandbox::object::apply::{ApplyError, apply, track_update};
use crate::sandbox::object::{builtin, error, patch};

/// How often a write is tried again that others were quicker than.
const ATTEMPTS: usize = 50;

/// A change that can be made to an object.
#[derive(Clone, Debug)]
pub enum Edit {
    /// The whole object anew.
    Replace(Value),
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Merge with lists that merge by key.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

/// What became of an edit.
struct Outcome {
    object: Value,
    warnings: Vec<String>,
    created: bool,
}

impl Edit {
    /// Reads the body of a PATCH.
    ///
    /// # Errors
    /// 400 where it does not parse, 415 where it is no kind of patch.
    pub fn patch(call: &Call, bytes: &[u8]) -> Result<Self, Failure> {
        let custom = call.resource.custom.is_some();
        Ok(match body::media_type(&call.headers) {
            "application/json-patch+json" => Self::Json(body::patch(bytes)?),
            "application/merge-patch+json" => Self::Merge(body::patch(bytes)?),
            "application/strategic-merge-patch+json" if !custom => Self::Strategic(body::patch(bytes)?),
            "application/apply-patch+yaml" => Self::Apply(applied(call, body::yaml(bytes)?)?),
            _ => {
                let mut accepted = vec!["application/json-patch+json", "application/merge-patch+json"];
                accepted.extend((!custom).then_some("application/strategic-merge-patch+json"));
                accepted.push("application/apply-patch+yaml");
                return Err(Failure::unsupported_media_type(&accepted));
            }
        })
    }
}

/// An applied configuration, which must name its type and be of the resource's.
fn applied(call: &Call, mut config: Value) -> Result<Value, Failure> {
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != &*call.resource.name.api_version || kind != &*call.resource.name.kind {
        let group = if version.contains('/') || version.is_empty() { "" } else { "/" };
        let slash = if version.is_empty() { "/" } else { "" };
        return Err(Failure::bad_request(format!(
            "invalid object type: {group}{version}{slash}, Kind={kind}"
        )));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|entries| !entries.is_null()) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    if let Some(fields) = config.as_object_mut() {
        fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    }
    let schema = call.resource.schema();
    if let Some(path) = schema.unknown_fields(&config).first() {
        let gvk = call.resource.gvk();
        let problem = ApplyError::Untyped(format!(".{path}: field not declared in schema"));
        return Err(Failure::from_status(problem.status(&gvk, &config)));
    }
    Ok(config)
}

/// Answers a PUT or PATCH of an object or its status.
///
/// # Errors
/// Whatever is wrong with the change.
pub async fn update(call: &Call, edit: &Edit) -> Result<Response, Failure> {
    let Outcome { object, warnings, created } = change(call, edit).await?;
    let code = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(call.object_response(code, &object, &warnings))
}

/// Makes a change, and returns the object as it is then.
///
/// # Errors
/// Whatever is wrong with the change.
pub async fn change_object(call: &Call, edit: &Edit) -> Result<Value, Failure> {
    Ok(change(call, edit).await?.object)
}

async fn change(call: &Call, edit: &Edit) -> Result<Outcome, Failure> {
    if let Edit::Replace(object) | Edit::Apply(object) = edit {
        check_name(call, edit, object)?;
    }
    for _ in 0..ATTEMPTS {
        let (record, live) = match (call.live(), edit) {
            (Err(_), Edit::Apply(applied)) if call.subresource.is_none() && !exists(call)? => {
                if meta(applied, "name").is_empty() {
                    return Err(nameless(call)?);
                }
                match create_applied(call, applied).await {
                    Err(Refused::Write(WriteError::Stale)) => continue,
                    Err(Refused::Write(error)) => return Err(error.into()),
                    Err(Refused::Failure(failure)) => return Err(failure),
                    Ok(outcome) => return Ok(outcome),
                }
            }
            (Err(_), Edit::Replace(object)) if may_create(call) && !exists(call)? => {
                authorize_making(call)?;
                let mut object = object.clone();
                if let Some(metadata) = metadata_mut(&mut object) {
                    metadata.remove("resourceVersion");
                }
                let warnings = call.unknown_fields(&object)?;
                let object = create::make(call, object, false).await?;
                return Ok(Outcome { object, warnings, created: true });
            }
            (found, _) => found?,
        };
        match change_live(call, edit, &record, &live).await {
            Err(Refused::Write(WriteError::Stale)) => {}
            Err(Refused::Write(error)) => return Err(error.into()),
            Err(Refused::Failure(failure)) => return Err(failure),
            Ok(outcome) => return Ok(outcome),
        }
    }
    Err(Failure::stale(&call.resource, call.name()?))
}

fn exists(call: &Call) -> Result<bool, Failure> {
    Ok(call.app.store.latest(&call.resource.storage, &call.key()?).is_some())
}

/// Kinds whose objects a PUT may make.
const MADE_BY_PUT: [&str; 9] = [
    "/endpoints",
    "/events",
    "/limitranges",
    "/services",
    "coordination.k8s.io/leases",
    "rbac.authorization.k8s.io/clusterrolebindings",
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/rolebindings",
    "rbac.authorization.k8s.io/roles",
];

fn may_create(call: &Call) -> bool {
    call.subresource.is_none() && MADE_BY_PUT.contains(&&*call.resource.storage)
}

/// Kinds of which a PUT must say what version it replaces.
const VERSIONED: [&str; 5] = [
    "apiextensions.k8s.io/customresourcedefinitions",
    "coordination.k8s.io/leases",
    "policy/poddisruptionbudgets",
    "storage.k8s.io/csinodes",
    "storage.k8s.io/volumeattachments",
];

/// The refusal of an object without a name.
fn nameless(call: &Call) -> Result<Failure, Failure> {
    let path = call.name()?;
    Ok(Failure::bad_request(format!(
        "the name of the object ({path} based on URL) was undeterminable: name must be provided"
    )))
}

/// The name in the body must be that in the path.
fn check_name(call: &Call, edit: &Edit, object: &Value) -> Result<(), Failure> {
    let (own, path) = (meta(object, "name"), call.name()?);
    let namespace = meta(object, "namespace");
    if call.namespace.as_deref().is_some_and(|path| !namespace.is_empty() && namespace != path) {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if own.is_empty() && !matches!(edit, Edit::Apply(_)) {
        return Err(nameless(call)?);
    }
    if !own.is_empty() && own != path {
        return Err(Failure::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({path})"
        )));
    }
    Ok(())
}

/// Who makes an object by applying it, or by a PUT, must be allowed to make it.
fn authorize_making(call: &Call) -> Result<(), Failure> {
    let asked = Attributes::resource(
        "create",
        &call.resource.group,
        &call.resource.plural,
        call.namespace.as_deref().unwrap_or_default(),
        call.name()?,
    );
    let verdict = gate::authorize(&call.app, &call.user, &asked);
    let code = if verdict.is_ok() { StatusCode::CREATED } else { StatusCode::FORBIDDEN };
    call.app.access_log.count(&call.user.username, asked, verdict.is_ok(), code);
    verdict
}

/// Applies to what is not there: makes it.
async fn create_applied(call: &Call, applied: &Value) -> Result<Outcome, Refused> {
    if !meta(applied, "uid").is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {}, and no existing object was found",
            meta(applied, "uid")
        );
        return Err(Failure::conflict(&call.resource, call.name()?, &why).into());
    }
    authorize_making(call)?;
    let object = apply_over(call, None, applied)?;
    let warnings = call.repeated_keys()?;
    let object = create::make(call, object, true).await?;
    Ok(Outcome { object, warnings, created: true })
}

fn apply_over(call: &Call, live: Option<&Value>, applied: &Value) -> Result<Value, Failure> {
    let mut wanted = applied.clone();
    call.resource.schema().prune(&mut wanted);
    // The path names the object where the body does not.
    if let Some(metadata) = metadata_mut(&mut wanted) {
        metadata.insert("name".into(), call.name()?.into());
        if let Some(namespace) = &call.namespace {
            metadata.insert("namespace".into(), namespace.as_str().into());
        }
    }
    let writer = call.writer(Timestamp::now());
    let force = call.query.flag("force");
    apply(live, &wanted, &call.resource.schema(), &writer, force)
        .map_err(|error: ApplyError| Failure::from_status(error.status(&call.resource.gvk(), applied)))
}

/// The edited object, before the server has had its say.
fn edited(call: &Call, edit: &Edit, live: &Value) -> Result<Value, Failure> {
    let patched = match edit {
        Edit::Replace(object) => Ok(object.clone()),
        Edit::Json(patch) => patch::json_patch(live, patch),
        Edit::Merge(patch) => patch::merge_patch(live, patch),
        Edit::Strategic(patch) => patch::strategic_patch(live, patch, &call.resource.schema()),
        Edit::Apply(applied) => return apply_over(call, Some(live), applied),
    };
    let patched = patched.map_err(|error| Failure::from_status(error.status()))?;
    if call.resource.custom.is_some() || matches!(edit, Edit::Replace(_)) {
        return call.typed(patched);
    }
    call.typed(patched.clone()).map_err(|failure| {
        body::unreadable_patch(shown(edit, &patched), failure.body()["message"].as_str().unwrap_or_default())
    })
}

/// What the refusal of a patch shows: what came of it, or for a strategic one the patch, as Go prints maps.
fn shown(edit: &Edit, patched: &Value) -> String {
    match edit {
        Edit::Strategic(patch) => printed(patch),
        _ => patched.to_string(),
    }
}

fn printed(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name}:{}", printed(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(printed).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

fn warnings(call: &Call, edit: &Edit, new: &Value) -> Result<Vec<String>, Failure> {
    match edit {
        Edit::Replace(_) => call.unknown_fields(new),
        Edit::Apply(_) => call.repeated_keys(),
        Edit::Json(_) => call.unknown_after_patch(new, || shown(edit, new), "json patch "),
        Edit::Merge(_) | Edit::Strategic(_) => call.unknown_after_patch(new, || shown(edit, new), ""),
    }
}

async fn change_live(
    call: &Call,
    edit: &Edit,
    record: &Arc<Record>,
    live: &Value,
) -> Result<Outcome, Refused> {
    check_preconditions(call, edit, live)?;
    let mut new = edited(call, edit, live)?;
    check_version(call, edit, &new, live)?;
    if !matches!(edit, Edit::Replace(_) | Edit::Apply(_)) {
        check_name(call, edit, &new)?;
    }
    let warnings = warnings(call, edit, &new)?;
    keep_server_fields(&mut new, live, matches!(edit, Edit::Apply(_)));
    let address = cluster_ip::adjust(call, &mut new, live)?;
    prepare(call, edit, &mut new, live)?;
    let ports = node_port::reserve(call, &mut new, Some(live))?;
    let owned = matches!(edit, Edit::Apply(_));
    if same(&new, live, owned) {
        return Ok(Outcome { object: live.clone(), warnings, created: false });
    }
    if !owned {
        track_update(Some(live), &mut new, &call.resource.schema(), &call.writer(Timestamp::now()));
    }
    store(call, record, &mut new).await?;
    if !call.query.dry_run()? {
        address.keep();
        ports.keep();
        cluster_ip::release_dropped(call, &new, live);
        node_port::release_dropped(call, &new, live);
    }
    Ok(Outcome { object: new, warnings, created: false })
}

/// The uid in a PUT must be the object's.
fn check_preconditions(call: &Call, edit: &Edit, live: &Value) -> Result<(), Failure> {
    let Edit::Replace(wanted) = edit else { return Ok(()) };
    let (asked, current) = (meta(wanted, "uid"), meta(live, "uid"));
    if !asked.is_empty() && asked != current {
        let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {current}");
        return Err(Failure::conflict(&call.resource, call.name()?, &why));
    }
    Ok(())
}

/// A resourceVersion in the change must be the object's, and some kinds must have one.
fn check_version(call: &Call, edit: &Edit, new: &Value, live: &Value) -> Result<(), Failure> {
    let asked = meta(new, "resourceVersion");
    let must = call.resource.custom.is_some() || VERSIONED.contains(&&*call.resource.storage);
    match asked {
        "" | "0" if must && matches!(edit, Edit::Replace(_)) => {
            Err(Failure::no_version(&call.resource, call.name()?))
        }
        "" | "0" => Ok(()),
        _ if asked.parse::<u64>().is_err() => {
            Err(Failure::unknown(&format!("strconv.ParseUint: parsing {asked:?}: invalid syntax")))
        }
        _ if asked == meta(live, "resourceVersion") => Ok(()),
        _ => Err(Failure::stale(&call.resource, call.name()?)),
    }
}

/// What no client sets. `owned` says that the new `managedFields` are right, also where there are none left.
fn keep_server_fields(new: &mut Value, live: &Value, owned: bool) {
    const FIELDS: [&str; 5] = ["name", "namespace", "creationTimestamp", "generation", "resourceVersion"];
    // These may be left out; where they are named, they must be the object's.
    const CHECKED: [&str; 3] = ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"];
    let Some(old) = live.get("metadata").and_then(Value::as_object) else { return };
    let Some(metadata) = metadata_mut(new) else { return };
    for field in FIELDS {
        copy(metadata, old, field);
    }
    for field in CHECKED {
        let unset = metadata.get(field).is_none_or(|value| value.is_null() || value == "");
        // A mark of deletion stays as it is, whatever is sent.
        if unset || (field == "deletionTimestamp" && old.contains_key(field)) {
            copy(metadata, old, field);
        }
    }
    if !owned && !metadata.contains_key("managedFields") {
        copy(metadata, old, "managedFields");
    }
    if !metadata.contains_key("generateName") {
        copy(metadata, old, "generateName");
    }
    metadata.remove("selfLink");
}

fn copy(to: &mut Map<String, Value>, from: &Map<String, Value>, field: &str) {
    match from.get(field) {
        Some(value) => to.insert(field.to_owned(), value.clone()),
        None => to.remove(field),
    };
}

/// Defaults, what is written elsewhere, and checks.
fn prepare(call: &Call, edit: &Edit, new: &mut Value, live: &Value) -> Result<(), Failure> {
    let resource = &call.resource;
    let (gvk, schema) = (resource.gvk(), resource.schema());
    if let Some(why) = body::wrong_type(call, new) {
        return Err(match edit {
            Edit::Replace(_) | Edit::Apply(_) => body::cannot_be_handled(call, &why),
            _ => body::unreadable_patch(shown(edit, new), &why),
        });
    }
    schema.prune(new);
    let errors = if resource.custom.is_some() {
        schema.default(new);
        prepare_custom(call, new, live);
        let mut errors = builtin::metadata_update(&gvk, new, live);
        errors.extend(schema.validate(new, Some(live)));
        errors
    } else {
        match call.subresource {
            Some(Subresource::Status) => {
                builtin::default(&gvk, new);
                builtin::prepare_status_update(&gvk, new, live);
                builtin::validate_status_update(&gvk, new, live)
            }
            Some(Subresource::Finalize) => {
                keep_all_but_finalizers(new, live);
                Vec::new()
            }
            _ => {
                builtin::default(&gvk, new);
                builtin::prepare_update(&gvk, new, live);
                builtin::validate_update(&gvk, new, live)
            }
        }
    };
    if errors.is_empty() {
        hooks::check(call, Some(live), new)
    } else {
        Err(Failure::invalid(resource, call.name()?, &errors))
    }
}

fn keep_all_but_finalizers(new: &mut Value, live: &Value) {
    let wanted = new.pointer("/spec/finalizers").cloned();
    let managed = new.pointer("/metadata/managedFields").cloned();
    *new = live.clone();
    if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("finalizers");
        if let Some(wanted) = wanted.filter(|list| list.as_array().is_some_and(|list| !list.is_empty())) {
            spec.insert("finalizers".into(), wanted);
        }
    }
    set_or_remove(metadata_mut(new), "managedFields", managed);
}

fn set_or_remove(fields: Option<&mut Map<String, Value>>, name: &str, value: Option<Value>) {
    let Some(fields) = fields else { return };
    match value {
        Some(value) => fields.insert(name.to_owned(), value),
        None => fields.remove(name),
    };
}

fn prepare_custom(call: &Call, new: &mut Value, live: &Value) {
    if call.subresource == Some(Subresource::Status) {
        let status = new.get("status").cloned();
        let managed = new.pointer("/metadata/managedFields").cloned();
        *new = live.clone();
        set_or_remove(new.as_object_mut(), "status", status);
        set_or_remove(metadata_mut(new), "managedFields", managed);
        return;
    }
    let apart = call.resource.has(Subresource::Status);
    if apart {
        set_or_remove(new.as_object_mut(), "status", live.get("status").cloned());
    }
    let body = |object: &Value| -> Map<String, Value> {
        let fields = object.as_object().cloned().unwrap_or_default();
        fields.into_iter().filter(|(name, _)| name != "metadata" && !(apart && name == "status")).collect()
    };
    if body(new) != body(live)
        && let Some(metadata) = metadata_mut(new)
    {
        let generation = metadata.get("generation").and_then(Value::as_u64).unwrap_or(0);
        metadata.insert("generation".into(), (generation + 1).into());
    }
}

/// Whether nothing changes. Ownership counts only where the writer set it.
fn same(new: &Value, live: &Value, owned: bool) -> bool {
    if new == live {
        return true;
    }
    if owned {
        return false;
    }
    let without = |object: &Value| {
        let mut object = object.clone();
        metadata_mut(&mut object).map(|metadata| metadata.remove("managedFields"));
        object
    };
    let reset = new.pointer("/metadata/managedFields") != live.pointer("/metadata/managedFields");
    !reset && without(new) == without(live)
}

/// Commits the change; an object whose last finalizer went is deleted by it.
async fn store(call: &Call, record: &Arc<Record>, new: &mut Value) -> Result<(), Refused> {
    let key = call.key()?;
    let draft = call.resource.draft(new).map_err(Failure::from)?;
    let done = is_done(new);
    let written = call.commit(&key, Some(record.version()), (!done).then_some(&draft)).await?;
    if written.is_some() {
        if done {
            hooks::after_delete(call, new).await?;
        } else {
            hooks::after_write(call, call.name()?).await?;
        }
    }
    stamp(new, written.as_ref());
    Ok(())
}

/// Whether the object was only waiting for its finalizers, and they are gone.
pub fn is_done(object: &Value) -> bool {
    let empty = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).is_none_or(Vec::is_empty);
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    let namespace = object.get("kind").and_then(Value::as_str) == Some("Namespace");
    !meta(object, "deletionTimestamp").is_empty()
        && grace == 0
        && finalizers(object).is_empty()
        && (!namespace || empty("/spec/finalizers"))
}

/// A `Status` that says all went well.
pub fn success(details: Value) -> Value {
    let mut status = error::status(200, "", "", details);
    if let Some(fields) = status.as_object_mut() {
        for field in ["message", "reason", "code"] {
            fields.remove(field);
        }
        fields.insert("status".into(), "Success".into());
    }
    status
}
