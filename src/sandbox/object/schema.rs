//! One schema tree for custom resources and built-in kinds.
//!
//! A custom resource's tree comes from its definition, a built-in kind's from the published API definitions
//! together with a table of how its lists merge ([`lists`]).

mod build;
mod checks;
mod decode;
mod default;
mod formats;
mod kinds;
mod lists;
mod node;
mod prune;
mod quantity;
mod rules;
#[cfg(test)]
pub(in crate::sandbox::object) mod tests;
mod validate;

use std::sync::Arc;

use serde_json::Value;

pub(crate) use decode::json_name;
pub(crate) use kinds::definitions;
pub(crate) use lists::marks;
pub(crate) use node::{ListKind, Merge, Node, Type};

use super::{FieldError, Gvk};

/// Why a schema was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SchemaError {
    /// A rule or a pattern in the schema does not compile.
    #[error("compile {path}: {problem}")]
    Compile {
        /// Where it stands below the schema, such as `.properties[spec].pattern`.
        path: String,
        /// The rule or pattern, as errors show it.
        shown: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl SchemaError {
    /// The refusal of the definition whose schema stands at `path`.
    pub fn field_error(&self, path: &str) -> FieldError {
        let Self::Compile { path: at, shown, problem } = self;
        let message = format!("Invalid value: {shown}: {problem}");
        FieldError { field: format!("{path}{at}"), reason: super::Cause::Invalid, message }
    }
}

/// A compiled schema; cheap to clone.
#[derive(Clone, Debug)]
pub struct Schema(Arc<Node>);

impl Schema {
    /// Compiles the `openAPIV3Schema` of a custom resource's version (for a whole object).
    pub fn from_crd(schema: &Value) -> Result<Self, SchemaError> {
        build::custom_root(schema)
    }

    /// The schema of a built-in kind, compiled once and shared.
    pub fn builtin(gvk: &Gvk) -> Option<Self> {
        kinds::schema(gvk)
    }

    /// A schema that knows only object metadata and lets everything else pass.
    pub fn any() -> Self {
        build::any_root()
    }

    /// Fills in a custom resource's defaults, and drops nulls from fields that may not be null.
    pub fn default(&self, object: &mut Value) {
        default::fill(self, object);
    }

    /// Removes fields that the schema does not know, and returns their paths. For built-in kinds, what their
    /// typed form would not write either goes too (nulls, and optional lists and maps that are empty), and
    /// quantities get their canonical form.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune::prune(self, object, "", &mut unknown);
        unknown
    }

    /// Paths of the fields that the schema does not know, such as `spec.foo` or `spec.list[0].bar`.
    pub fn unknown_fields(&self, object: &Value) -> Vec<String> {
        self.prune(&mut object.clone())
    }

    /// Whether the object can be read as this built-in kind at all; the error is the message of the 400.
    pub fn decode(&self, gvk: &Gvk, object: &Value) -> Result<(), String> {
        decode::check(self, gvk, object)
    }

    /// What of an object cannot be read as its built-in kind.
    pub fn unreadable(&self, gvk: &Gvk, object: &Value) -> Option<String> {
        decode::problem_of(self, gvk, object)
    }

    /// What of a custom resource's metadata cannot be read.
    pub fn unreadable_metadata(object: &Value) -> Option<String> {
        decode::metadata_problem(object)
    }

    /// Checks a custom resource's structure and rules; `old` is the stored object in an update, and what is wrong
    /// in a part that did not change is let pass, as the API server does.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        validate::check(self, object, old)
    }

    pub(crate) fn node(&self) -> &Node {
        &self.0
    }

    /// The schema of a field, of a map's value for that key, or nothing known.
    pub(crate) fn field(&self, name: &str) -> Option<&Schema> {
        self.0.properties.get(name).or(self.0.values.as_ref())
    }
}

impl From<Node> for Schema {
    fn from(node: Node) -> Self {
        Self(Arc::new(node))
    }
}

/// The text of a warning about an unknown field.
pub fn unknown_field_warning(path: &str) -> String {
    format!("unknown field \"{path}\"")
}

/// The message of the 400 that `fieldValidation=Strict` answers for unknown fields.
pub fn strict_message(gvk: &Gvk, paths: &[String]) -> String {
    let list: Vec<String> = paths.iter().map(|path| unknown_field_warning(path)).collect();
    format!(
        "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {list}",
        kind = gvk.kind,
        version = gvk.version,
        list = list.join(", ")
    )
}

/// Joins a path and a field name the way errors write it.
pub(crate) fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}
