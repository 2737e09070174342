//! One schema tree for custom resources and built-in kinds.

use std::sync::Arc;

use serde_json::Value;

use super::{FieldError, Gvk};

/// Why a schema was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SchemaError {
    /// A rule or a pattern in the schema does not compile.
    #[error("compile {path}: {problem}")]
    Compile {
        /// Where it stands.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A compiled schema; cheap to clone.
#[derive(Clone, Debug)]
pub struct Schema(#[expect(dead_code)] Arc<Value>);

impl Schema {
    /// Compiles the `openAPIV3Schema` of a custom resource's version (for a whole object).
    pub fn from_crd(schema: &Value) -> Result<Self, SchemaError> {
        Ok(Self(Arc::new(schema.clone())))
    }

    /// The schema of a built-in kind, compiled once and shared.
    pub fn builtin(_gvk: &Gvk) -> Option<Self> {
        Some(Self(Arc::new(Value::Null)))
    }

    /// A schema that knows only object metadata and lets everything else pass.
    pub fn any() -> Self {
        Self(Arc::new(Value::Null))
    }

    /// Fills in defaults.
    pub fn default(&self, _object: &mut Value) {}

    /// Removes fields that the schema does not know, and returns their paths.
    pub fn prune(&self, _object: &mut Value) -> Vec<String> {
        Vec::new()
    }

    /// Paths of the fields that the schema does not know, such as `spec.foo` or `spec.list[0].bar`.
    pub fn unknown_fields(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Checks structure and rules; `old` is the stored object in an update.
    pub fn validate(&self, _object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        Vec::new()
    }
}

/// The text of a warning about an unknown field.
pub fn unknown_field_warning(path: &str) -> String {
    format!("unknown field \"{path}\"")
}

/// The message of the 400 that `fieldValidation=Strict` answers for unknown fields; `kind` and `name` as in
/// `Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: …`.
pub fn strict_message(gvk: &Gvk, paths: &[String]) -> String {
    let list: Vec<String> = paths.iter().map(|path| unknown_field_warning(path)).collect();
    format!(
        "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {list}",
        kind = gvk.kind,
        version = gvk.version,
        list = list.join(", ")
    )
}
