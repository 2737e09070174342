//! Server-side apply, and the ownership that ordinary writes leave behind.

use jiff::Timestamp;
use serde_json::Value;

use super::schema::Schema;

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
    /// The request is wrong in a field: 422.
    #[error("apply the object")]
    Invalid(Vec<super::FieldError>),
    /// Fields belong to others: 409.
    #[error("apply over fields of other managers")]
    Conflicts(Vec<Conflict>),
}

impl ApplyError {
    /// The `Status` body.
    pub fn status(&self, group: &str, kind: &str, name: &str) -> Value {
        match self {
            Self::BadRequest(text) => super::error::status(400, "BadRequest", text, Value::Null),
            Self::Invalid(errors) => super::invalid(group, kind, name, errors),
            Self::Conflicts(_) => super::error::status(409, "Conflict", "", Value::Null),
        }
    }
}

/// Applies `applied` over `live` (None: it is made new). The answer is the object to store, with its `managedFields`;
/// it equals `live` exactly when nothing changes. Defaults and checks are the caller's.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    schema: &Schema,
    writer: &Writer,
    force: bool,
) -> Result<Value, ApplyError> {
    let _ = (schema, writer, force);
    let mut result = live.cloned().unwrap_or_else(|| applied.clone());
    json_patch::merge(&mut result, applied);
    Ok(result)
}

/// Notes in `new`'s `managedFields` what an ordinary write (create, replace, patch) changed against `old`.
/// Call it last, on the object as it will be stored; a write that changes nothing leaves `managedFields` as it was.
pub fn track_update(old: Option<&Value>, new: &mut Value, schema: &Schema, writer: &Writer) {
    let _ = (old, new, schema, writer);
}

/// The field manager of a write that names none: the first word of the User-Agent, up to its slash.
pub fn default_manager(user_agent: &str) -> String {
    let word = user_agent.split('/').next().unwrap_or_default().trim();
    if word.is_empty() { "unknown".to_owned() } else { word.chars().take(128).collect() }
}
