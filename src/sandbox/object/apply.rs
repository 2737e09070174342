//! Server-side apply, and the ownership that ordinary writes leave behind.
//!
//! Every manager owns a set of field paths. An apply owns what its configuration names; a field that it named before
//! and no longer does goes, unless another manager owns it too; a field that it would change and that another
//! manager owns is a conflict, unless forced. An ordinary write owns what it changed.

mod managers;
mod set;
#[cfg(test)]
mod tests;
mod walk;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::managers::Manager;
use self::set::FieldSet;
use super::schema::Schema;
use super::{Gvk, builtin};

/// Who writes, how and when.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The field manager.
    pub manager: String,
    /// The subresource written, such as `status`; empty for the object itself.
    pub subresource: String,
    /// The `apiVersion` the fields are meant in.
    pub api_version: String,
    /// The time of the write.
    pub now: Timestamp,
}

/// One field that another manager owns with a different value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager as texts name it, such as `"kubectl" using v1`.
    pub manager: String,
    /// The field's path, such as `.data.a`.
    pub field: String,
}

/// Why an apply was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ApplyError {
    /// The request is wrong: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration does not fit the kind's schema: 500.
    #[error("read the configuration: {0}")]
    Untyped(String),
    /// The request names no field manager: 422.
    #[error("apply without a field manager")]
    NoManager,
    /// Fields belong to others: 409.
    #[error("apply over fields of other managers")]
    Conflicts(Vec<Conflict>),
}

impl ApplyError {
    /// The `Status` body, for a configuration of this kind.
    pub fn status(&self, gvk: &Gvk, applied: &Value) -> Value {
        match self {
            // The real one has no better code either.
            Self::Untyped(problem) => {
                let meta = |field: &str| {
                    applied.pointer(&format!("/metadata/{field}")).and_then(Value::as_str).unwrap_or_default()
                };
                let text = format!(
                    "failed to create typed patch object ({}/{}; {}/{}, Kind={}): {problem}",
                    meta("namespace"),
                    meta("name"),
                    gvk.group,
                    gvk.version,
                    gvk.kind
                );
                super::error::status(500, "", &text, Value::Null)
            }
            Self::BadRequest(text) => super::error::status(400, "BadRequest", text, Value::Null),
            Self::NoManager => {
                let error = super::FieldError::required("fieldManager", "is required for apply patch");
                super::invalid("meta.k8s.io", "PatchOptions", "", &[error])
            }
            Self::Conflicts(conflicts) => {
                let causes: Vec<Value> = conflicts
                    .iter()
                    .map(|conflict| {
                        json!({
                            "reason": "FieldManagerConflict",
                            "message": format!("conflict with {}", conflict.manager),
                            "field": conflict.field,
                        })
                    })
                    .collect();
                super::error::status(409, "Conflict", &conflict_message(conflicts), json!({"causes": causes}))
            }
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field);
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|conflict| conflict.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        let own = conflicts.iter().filter(|conflict| conflict.manager == manager);
        lines.extend(own.map(|conflict| format!("- {}", conflict.field)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Fields of `metadata` that nobody owns.
const UNOWNED: [&str; 10] = [
    "name",
    "namespace",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
];
/// The owner of what was there before anybody was tracked.
const BEFORE: &str = "before-first-apply";

/// Applies `applied` over `live` (None: it is made new). The answer is the object to store, with its `managedFields`;
/// it equals `live` exactly when nothing changes. Defaults and checks are the caller's, afterwards; so is taking
/// `status` out of `applied` where a custom resource's status is written apart. With subresource `status` only
/// `status` is looked at.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    schema: &Schema,
    writer: &Writer,
    force: bool,
) -> Result<Value, ApplyError> {
    check(applied, schema, writer)?;
    let config = relevant(applied, live, writer);
    let bare = without_managed(live.unwrap_or(&Value::Null));
    let base = if live.is_some() { bare } else { identity(&config) };
    let mut managers = live.map(managers::read).unwrap_or_default();
    if live.is_some() && managers.is_empty() {
        managers.push(before_first_apply(&base, schema, writer));
    }

    let me = Manager::of(writer, true);
    let last = managers.iter().find(|manager| manager.is_same(&me)).map(|manager| manager.fields.clone());
    let mut fields = walk::field_set(Some(schema), &config);
    restrict(&mut fields, &config, &writer.subresource);
    let mut merged = walk::merge(Some(schema), &base, &config);
    let mut others: Vec<Manager> = managers.iter().filter(|manager| !manager.is_same(&me)).cloned().collect();
    if let Some(last) = &last {
        drop_unnamed(&mut merged, last, &fields, &others, schema);
    }

    let changes = walk::compare(Some(schema), &base, &merged);
    settle(&mut others, &changes, force)?;
    let before = managers.iter().find(|manager| manager.is_same(&me));
    let unchanged = merged == base
        && before.is_some_and(|before| before.fields == fields && before.api_version == writer.api_version);
    let time = match before {
        Some(before) if unchanged => before.time.clone(),
        _ => Some(writer.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    };
    others.push(Manager { time, fields, ..me });
    managers::write(&mut merged, others);
    match live {
        // Nothing but the order of equal entries could differ now.
        Some(live) if unchanged && managers::read(&merged) == managers::read(live) => Ok(live.clone()),
        _ => Ok(merged),
    }
}

fn check(applied: &Value, schema: &Schema, writer: &Writer) -> Result<(), ApplyError> {
    if writer.manager.is_empty() {
        return Err(ApplyError::NoManager);
    }
    if !applied.is_object() {
        return Err(ApplyError::BadRequest("an applied configuration must be an object".to_owned()));
    }
    let managed = applied.pointer("/metadata/managedFields").and_then(Value::as_array);
    if managed.is_some_and(|entries| !entries.is_empty()) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    match walk::unmergeable(Some(schema), applied, &mut Vec::new()) {
        Some(problem) => Err(ApplyError::Untyped(problem)),
        None => Ok(()),
    }
}

/// The part of a configuration that this write is about.
fn relevant(applied: &Value, live: Option<&Value>, writer: &Writer) -> Value {
    let mut config = without_managed(applied);
    let status_apart = writer.subresource.is_empty() && builtin::has_status(&gvk(&config));
    if let Some(fields) = config.as_object_mut() {
        if writer.subresource == "status" && live.is_some() {
            fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "status"));
        } else if status_apart {
            fields.remove("status");
        }
    }
    config
}

fn gvk(object: &Value) -> Gvk {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    Gvk::gvk(group, version, text("kind"))
}

fn without_managed(object: &Value) -> Value {
    let mut bare = object.clone();
    if let Some(metadata) = bare.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    bare
}

/// What an object is before it has anything.
fn identity(config: &Value) -> Value {
    let part = |name: &str| config.get(name).cloned().unwrap_or_default();
    json!({"apiVersion": part("apiVersion"), "kind": part("kind"), "metadata": {}})
}

fn before_first_apply(live: &Value, schema: &Schema, writer: &Writer) -> Manager {
    let mut fields = walk::field_set(Some(schema), live);
    restrict(&mut fields, live, "");
    Manager { name: BEFORE.to_owned(), subresource: String::new(), fields, ..Manager::of(writer, false) }
}

/// Takes out what nobody owns, and what a write of this subresource does not reach.
fn restrict(fields: &mut FieldSet, object: &Value, subresource: &str) {
    fields.drop_tree(&["f:apiVersion"]);
    fields.drop_tree(&["f:kind"]);
    for name in UNOWNED {
        fields.drop_tree(&["f:metadata", &format!("f:{name}")]);
    }
    match subresource {
        "status" => fields.keep_roots(&["f:status", "f:metadata"]),
        "" if builtin::has_status(&gvk(object)) => fields.drop_tree(&["f:status"]),
        _ => {}
    }
}

/// Removes what this applier named last time, does not name now, and nobody else owns.
fn drop_unnamed(merged: &mut Value, last: &FieldSet, now: &FieldSet, others: &[Manager], schema: &Schema) {
    let mut kept = now.clone();
    others.iter().for_each(|other| kept.union(&other.fields));
    let kept = kept.with_structs(Some(schema));
    for path in last.with_structs(Some(schema)).members() {
        if path != ["f:metadata"] && !kept.contains(&path) {
            walk::remove(Some(schema), merged, &path);
        }
    }
}

/// Takes from the others what changed; without force, what they own and would lose is a conflict.
fn settle(others: &mut [Manager], changes: &walk::Comparison, force: bool) -> Result<(), ApplyError> {
    let mut taken = changes.added.clone();
    taken.union(&changes.modified);
    let mut conflicts = Vec::new();
    for other in others.iter_mut() {
        let lost = other.fields.intersection(&taken);
        conflicts.extend(
            lost.members()
                .iter()
                .map(|path| Conflict { manager: other.described(), field: set::display(path) }),
        );
        other.fields.subtract(&lost);
        other.fields.subtract(&changes.removed);
    }
    if conflicts.is_empty() || force { Ok(()) } else { Err(ApplyError::Conflicts(conflicts)) }
}

/// Notes in `new`'s `managedFields` what an ordinary write (create, replace, patch) changed against `old`.
/// Call it last, on the object as it will be stored; a write that changes nothing leaves `managedFields` as it was.
/// The entries start from those in `new` if the client sent any, as an API server does, else from those in `old`;
/// an empty list that the client sent (`managedFields: [{}]` or `[]`) clears the past.
pub fn track_update(old: Option<&Value>, new: &mut Value, schema: &Schema, writer: &Writer) {
    let sent = new.pointer("/metadata/managedFields").cloned();
    let kept = old.and_then(|old| old.pointer("/metadata/managedFields")).cloned();
    let mut managers = match &sent {
        None => old.map(managers::read).unwrap_or_default(),
        Some(_) => managers::read(new),
    };
    managers.retain(|manager| !manager.name.is_empty());
    let bare = without_managed(new);
    let before = old.map_or_else(|| identity(&bare), without_managed);
    let mut changes = walk::compare(Some(schema), &before, &bare);
    for set in [&mut changes.added, &mut changes.modified, &mut changes.removed] {
        restrict(set, &bare, &writer.subresource);
    }
    let mut mine = changes.added.clone();
    mine.union(&changes.modified);
    if old.is_none() {
        for path in builtin::server_set::paths(&gvk(&bare), &bare) {
            let path: Vec<String> = path.iter().map(|name| format!("f:{name}")).collect();
            mine.drop_tree(&path.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    if mine.is_empty() && changes.removed.is_empty() && (sent.is_none() || sent == kept) {
        restore(new, kept);
        return;
    }
    // With force nothing is refused.
    let _ = settle(&mut managers, &changes, true);
    if !mine.is_empty() {
        let me = Manager::of(writer, false);
        let time = Some(writer.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        match managers.iter_mut().find(|manager| manager.is_same(&me)) {
            Some(entry) => {
                entry.fields.union(&mine);
                entry.time = time;
            }
            None => managers.push(Manager { time, fields: mine, ..me }),
        }
    }
    managers::write(new, managers);
}

fn restore(object: &mut Value, entries: Option<Value>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match entries {
        Some(entries) => drop(metadata.insert("managedFields".to_owned(), entries)),
        None => drop(metadata.remove("managedFields")),
    }
}

/// The field manager of a write that names none: the first word of the User-Agent, up to its slash.
pub fn default_manager(user_agent: &str) -> String {
    let word = user_agent.split('/').next().unwrap_or_default().trim();
    if word.is_empty() { "unknown".to_owned() } else { word.chars().take(128).collect() }
}
