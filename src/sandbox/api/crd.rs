//! Definitions of custom resources: checked, accepted, served at once, and taken along with their objects when deleted.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::body::{finalizers, meta, metadata_mut};
use super::call::{App, Call};
use super::create::seconds;
use super::delete::{DeleteOptions, remove};
use super::failure::Failure;
use super::registry::{Custom, CustomVersion, Resource, ScalePaths};
use super::store::{Write, WriteError};
use super::update::is_done;
use crate::sandbox::object::FieldError;
use crate::sandbox::object::schema::Schema;

/// Where definitions are stored.
pub const STORAGE: &str = "apiextensions.k8s.io/customresourcedefinitions";
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How long to wait for objects whose finalizers hold up their definition's deletion.
const CLEANUP_PERIOD: Duration = Duration::from_millis(100);

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Checks that every version's schema can be served.
///
/// # Errors
/// 422 where one cannot.
pub fn check(call: &Call, definition: &Value) -> Result<(), Failure> {
    let mut errors = Vec::new();
    for (index, version) in items(definition, "/spec/versions").enumerate() {
        let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
        match version.pointer("/schema/openAPIV3Schema") {
            None => errors.push(FieldError::required(field, "schemas are required")),
            Some(schema) => {
                if let Err(error) = Schema::from_crd(schema) {
                    errors.push(FieldError::invalid(field, &json!("schema"), &error.to_string()));
                }
            }
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid(&call.resource, meta(definition, "name"), &errors))
    }
}

/// Nothing new is made of a definition that is about to go.
///
/// # Errors
/// 405 in that case.
pub fn admit_instance(call: &Call, custom: &Custom) -> Result<(), Failure> {
    let definition = call.app.store.latest(STORAGE, &custom.definition);
    if definition.is_some_and(|definition| definition.deleting()) {
        return Err(Failure::terminating_definition());
    }
    Ok(())
}

/// Accepts a definition that was made or changed, and serves it.
///
/// # Errors
/// Where its status cannot be written.
pub async fn after_write(app: &Arc<App>, name: &str) -> Result<(), Failure> {
    let definitions = all(app)?;
    amend(app, name, |definition| accept(definition, &definitions)).await?;
    refresh(app)
}

fn all(app: &Arc<App>) -> Result<Vec<Value>, Failure> {
    let resource = app.builtin("apiextensions.k8s.io", "customresourcedefinitions")?;
    let found = app.store.list(STORAGE, "", None).items;
    Ok(found.iter().map(|(_, record)| resource.load(record)).collect::<Result<_, _>>()?)
}

/// Changes a definition until nobody else has come between; one that is done goes.
async fn amend(app: &Arc<App>, name: &str, change: impl Fn(&mut Value)) -> Result<(), Failure> {
    let resource = app.builtin("apiextensions.k8s.io", "customresourcedefinitions")?;
    loop {
        let Some(record) = app.store.latest(STORAGE, name) else { return Ok(()) };
        let live = resource.load(&record)?;
        let mut new = live.clone();
        change(&mut new);
        if new == live {
            return Ok(());
        }
        let draft = resource.draft(&new)?;
        let draft = (!is_done(&new)).then_some(&draft);
        let expect = Some(record.version());
        let write = Write { collection: &resource.storage, key: name, expect, draft, guard: None };
        match app.store.write(write).await {
            Err(WriteError::Stale) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Fills in what the server says about a definition.
fn accept(definition: &mut Value, all: &[Value]) {
    let deleting = !meta(definition, "deletionTimestamp").is_empty();
    let mut list = finalizers(definition);
    if !deleting && !list.iter().any(|name| name == FINALIZER) {
        list.push(FINALIZER.to_owned());
        metadata_mut(definition).map(|metadata| metadata.insert("finalizers".into(), json!(list)));
    }
    let taken = all.iter().find_map(|other| conflict(definition, other));
    let names = accepted_names(definition);
    let stored = items(definition, "/spec/versions").find(|version| version["storage"] == json!(true));
    let stored = stored.map(|version| version["name"].clone());
    let Some(fields) = definition.as_object_mut() else { return };
    let status = fields.entry("status").or_insert_with(|| json!({}));
    let mut versions: Vec<Value> = items(status, "/storedVersions").cloned().collect();
    if let Some(stored) = stored.filter(|name| !versions.contains(name)) {
        versions.push(stored);
    }
    let Some(status) = status.as_object_mut() else { return };
    status.insert("storedVersions".into(), versions.into());
    if let Some(taken) = taken {
        set_condition(status, "NamesAccepted", false, "NameConflict", &taken);
        set_condition(status, "Established", false, "NotAccepted", "not all names are accepted");
        return;
    }
    status.insert("acceptedNames".into(), names);
    set_condition(status, "NamesAccepted", true, "NoConflicts", "no conflicts found");
    set_condition(
        status,
        "Established",
        true,
        "InitialNamesAccepted",
        "the initial names have been accepted",
    );
    if deleting {
        let message = "CustomResource deletion is in progress";
        set_condition(status, "Terminating", true, "InstanceDeletionInProgress", message);
    }
}

fn accepted_names(definition: &Value) -> Value {
    let mut names = definition.pointer("/spec/names").cloned().unwrap_or_else(|| json!({}));
    let kind = text(&names, "/kind").to_owned();
    if let Some(fields) = names.as_object_mut() {
        fields.entry("listKind").or_insert_with(|| format!("{kind}List").into());
        fields.entry("singular").or_insert_with(|| kind.to_lowercase().into());
    }
    names
}

/// A name that another definition of the group has already.
fn conflict(definition: &Value, other: &Value) -> Option<String> {
    if meta(definition, "name") == meta(other, "name")
        || text(definition, "/spec/group") != text(other, "/spec/group")
        || other.pointer("/status/acceptedNames").is_none()
    {
        return None;
    }
    let mine = accepted_names(definition);
    let theirs = &other["status"]["acceptedNames"];
    ["plural", "singular", "kind", "listKind"].iter().find_map(|field| {
        let name = mine.get(*field)?.as_str()?;
        (theirs.get(*field)?.as_str()? == name).then(|| format!("{name:?} is already in use"))
    })
}

fn set_condition(status: &mut Map<String, Value>, kind: &str, is: bool, reason: &str, message: &str) {
    let value = if is { "True" } else { "False" };
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if conditions.is_null() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    let old = conditions.iter().position(|condition| condition["type"] == kind);
    let same = old.and_then(|index| conditions.get(index)).filter(|condition| condition["status"] == value);
    let since =
        same.map_or_else(|| json!(seconds(Timestamp::now())), |old| old["lastTransitionTime"].clone());
    let condition = json!({"type": kind, "status": value, "reason": reason, "message": message,
        "lastTransitionTime": since});
    match old.and_then(|index| conditions.get_mut(index)) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

/// Serves what the accepted definitions say, and nothing else of that kind. Watches of what is gone end.
///
/// # Errors
/// Where a definition cannot be read.
pub fn refresh(app: &Arc<App>) -> Result<(), Failure> {
    let definitions = all(app)?;
    let mut current = app.registry.write().unwrap_or_else(PoisonError::into_inner);
    let mut custom = Vec::new();
    for definition in &definitions {
        let established = items(definition, "/status/conditions")
            .any(|condition| condition["type"] == "Established" && condition["status"] == "True");
        if established {
            let served =
                items(definition, "/spec/versions").filter(|version| version["served"] == json!(true));
            custom.extend(served.filter_map(|version| served_version(definition, version, current.all())));
        }
    }
    for old in current.all() {
        let kept = custom.iter().any(|new| new.name == old.name && new.plural == old.plural);
        if let Some(definition) = old.custom.as_ref().filter(|_| !kept) {
            definition.gone.cancel();
        }
    }
    let next = current.with_custom(custom);
    *current = Arc::new(next);
    Ok(())
}

fn served_version<'a>(
    definition: &Value,
    version: &Value,
    mut current: impl Iterator<Item = &'a Arc<Resource>>,
) -> Option<Resource> {
    let openapi =
        version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_else(|| json!({"type": "object"}));
    let mut hasher = DefaultHasher::new();
    openapi.to_string().hash(&mut hasher);
    let schema_hash = hasher.finish();
    let (group, name) = (text(definition, "/spec/group"), text(version, "/name"));
    let plural = text(definition, "/status/acceptedNames/plural");
    let old = current.find(|old| &*old.group == group && &*old.version == name && &*old.plural == plural);
    let old_custom = old.and_then(|old| old.custom.as_ref());
    let schema = match (old, old_custom) {
        (Some(old), Some(custom)) if custom.schema_hash == schema_hash => old.schema(),
        // It was checked when the definition was written.
        _ => Schema::from_crd(&openapi)
            .inspect_err(|error| tracing::error!("failed to serve {plural}.{group}: {error}"))
            .ok()?,
    };
    let gone = old_custom.map_or_else(CancellationToken::new, |custom| custom.gone.clone());
    let deprecated = version["deprecated"] == json!(true);
    let warning = version.get("deprecationWarning").and_then(Value::as_str).map(str::to_owned);
    let usual = || format!("{group}/{name} {} is deprecated", text(definition, "/status/acceptedNames/kind"));
    let selectable = items(version, "/selectableFields").filter_map(|field| field["jsonPath"].as_str());
    let custom = Custom {
        definition: meta(definition, "name").to_owned(),
        columns: version.get("additionalPrinterColumns").cloned().unwrap_or(Value::Null),
        schema_hash,
        selectable: selectable.map(|path| path.trim_start_matches('.').to_owned()).collect(),
        scale: version.pointer("/subresources/scale").map(scale_paths),
        gone,
        deprecation: deprecated.then(|| warning.unwrap_or_else(usual)),
    };
    let resource = CustomVersion {
        group: group.to_owned(),
        version: name.to_owned(),
        names: definition["status"]["acceptedNames"].clone(),
        namespaced: text(definition, "/spec/scope") == "Namespaced",
        status: version.pointer("/subresources/status").is_some(),
        custom,
        schema,
    };
    Some(resource.resource())
}

fn scale_paths(scale: &Value) -> ScalePaths {
    let pointer = |field: &str| scale.get(field).and_then(Value::as_str).map(|path| path.replace('.', "/"));
    ScalePaths {
        spec_replicas: pointer("specReplicasPath").unwrap_or_default(),
        status_replicas: pointer("statusReplicasPath").unwrap_or_default(),
        selector: pointer("labelSelectorPath"),
    }
}

/// Takes the objects of deleted definitions along, until the server stops.
pub async fn clean_up(app: Arc<App>) {
    let Ok(resource) = app.builtin("apiextensions.k8s.io", "customresourcedefinitions") else { return };
    let mut changed = app.store.subscribe(&resource.storage);
    loop {
        let waiting = match clean_up_once(&app).await {
            Ok(waiting) => waiting,
            Err(failure) => {
                tracing::warn!("failed to delete a definition: {}", failure.body());
                true
            }
        };
        let again = async {
            if waiting { tokio::time::sleep(CLEANUP_PERIOD).await } else { std::future::pending().await }
        };
        tokio::select! {
            () = app.stop.cancelled() => return,
            () = again => {}
            result = changed.changed() => if result.is_err() { return },
        }
    }
}

/// Whether any definition is still held up.
async fn clean_up_once(app: &Arc<App>) -> Result<bool, Failure> {
    let mut waiting = false;
    for definition in all(app)? {
        let held = finalizers(&definition).iter().any(|name| name == FINALIZER);
        if meta(&definition, "deletionTimestamp").is_empty() || !held {
            continue;
        }
        if delete_instances(app, &definition).await? {
            waiting = true;
            continue;
        }
        amend(app, meta(&definition, "name"), |definition| {
            let list: Vec<String> =
                finalizers(definition).into_iter().filter(|name| name != FINALIZER).collect();
            metadata_mut(definition).map(|metadata| metadata.insert("finalizers".into(), json!(list)));
        })
        .await?;
        refresh(app)?;
    }
    Ok(waiting)
}

/// Deletes all objects of a definition; whether some are left.
async fn delete_instances(app: &Arc<App>, definition: &Value) -> Result<bool, Failure> {
    let name = meta(definition, "name");
    let registry = app.registry();
    let resource = registry
        .all()
        .find(|resource| resource.custom.as_ref().is_some_and(|custom| custom.definition == name));
    let Some(resource) = resource else { return Ok(false) };
    for (key, record) in app.store.list(&resource.storage, "", None).items {
        if record.deleting() {
            continue;
        }
        let mut call = app.internal_call(resource);
        let (namespace, name) = match key.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, &*key),
        };
        call.namespace = namespace;
        call.name = Some(name.to_owned());
        match remove(&call, &DeleteOptions::default()).await {
            Err(failure) if failure.is_not_found() => {}
            other => drop(other?),
        }
    }
    Ok(app.store.count(&resource.storage) > 0)
}
