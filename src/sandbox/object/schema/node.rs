//! A node of the schema tree.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Schema;
use super::checks::Checks;
use super::rules::Rules;

/// The JSON type a node asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    /// Whether a value is of this type; a whole float is an integer, as in JSON schema.
    pub(crate) fn fits(self, value: &Value) -> bool {
        match self {
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            Self::Boolean => value.is_boolean(),
            Self::Number => value.is_number(),
            Self::Integer => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
        }
    }
}

/// How server-side apply treats a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// One value, owned as a whole.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// Items with keys.
    Map(Vec<String>),
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merge {
    /// A list of objects merges by this key; the empty key marks a list of scalars that is merged as a set.
    pub(crate) key: Option<&'static str>,
    /// Only the keys named in `$retainKeys` stay.
    pub(crate) retain_keys: bool,
}

/// One node of the tree.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) kind: Option<Type>,
    pub(crate) format: Option<String>,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    /// A whole object of some kind.
    pub(crate) embedded: bool,
    /// Unknown fields are kept.
    pub(crate) open: bool,
    /// Part of a built-in kind.
    pub(crate) builtin: bool,
    pub(crate) properties: BTreeMap<String, Schema>,
    /// The values of a map.
    pub(crate) values: Option<Schema>,
    pub(crate) items: Option<Schema>,
    pub(crate) list: ListKind,
    /// A map or struct that server-side apply owns as a whole.
    pub(crate) atomic: bool,
    pub(crate) merge: Merge,
    pub(crate) default: Option<Value>,
    pub(crate) required: Vec<String>,
    pub(crate) checks: Option<Box<Checks>>,
    pub(crate) rules: Option<Rules>,
    /// Some node at or below this one has rules.
    pub(crate) has_rules: bool,
    /// Another schema that the same value must satisfy (what a definition says about `metadata`).
    pub(crate) also: Option<Schema>,
}

impl Node {
    /// How the times of a built-in kind are written, where it is one.
    pub(super) fn time_form(&self) -> Option<&'static str> {
        match self.format.as_deref() {
            Some("date-time") if self.builtin => Some("%Y-%m-%dT%H:%M:%SZ"),
            Some(MICRO_TIME) => Some("%Y-%m-%dT%H:%M:%S.%6fZ"),
            _ => None,
        }
    }

    /// Whether it is a quantity of a built-in kind.
    pub(super) fn is_quantity(&self) -> bool {
        self.builtin && self.format.as_deref() == Some(QUANTITY)
    }
}

/// The format that marks times of built-in kinds that have microseconds; other times have seconds.
pub(super) const MICRO_TIME: &str = "micro-time";

/// The format that marks quantities of built-in kinds.
pub(super) const QUANTITY: &str = "quantity";
