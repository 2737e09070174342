//! CEL rules (`x-kubernetes-validations`) at every level of a tree.
//!
//! The evaluator walks lists by position and reports no values, so each node's rules are compiled alone and the
//! walk, with its matching of old and new items, is ours.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use kube::core::cel::{
    CompilationError, CompiledSchema, ErrorKind, ValidationError, compile_schema, validate_compiled,
};
use serde_json::Value;

use super::node::ListKind;
use super::{Schema, SchemaError, join};
use crate::sandbox::object::{Cause, FieldError};

const KEYWORD: &str = "x-kubernetes-validations";

/// The compiled rules of one node.
#[derive(Clone)]
pub(crate) struct Rules {
    compiled: Arc<CompiledSchema>,
    /// The same for an object that is new, where some rules ask whether there was an old value.
    fresh: Option<Arc<CompiledSchema>>,
    /// Rules as they were compiled, and as they are written.
    written: Arc<Vec<(String, String)>>,
    /// Texts of the rules that look at the old value.
    transitions: Arc<HashSet<String>>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rules").field("count", &self.compiled.validations.len()).finish()
    }
}

impl Rules {
    /// Compiles the rules of this node alone.
    pub(super) fn compile(schema: &Value, path: &str) -> Result<Option<Self>, SchemaError> {
        if schema.get(KEYWORD).is_none_or(|rules| rules.as_array().is_some_and(Vec::is_empty)) {
            return Ok(None);
        }
        let mut alone = schema.clone();
        if let Some(fields) = alone.as_object_mut() {
            fields.iter_mut().filter(|(name, _)| *name != KEYWORD).for_each(|(_, child)| strip(child));
        }
        let optional = Optional::of(&alone);
        let fresh = optional.any.then(|| Arc::new(compile_schema(&optional.fresh)));
        let compiled = compile_schema(&optional.later);
        for (index, result) in compiled.validations.iter().enumerate() {
            if let Err(error) = result {
                return Err(refusal(&schema[KEYWORD][index], &format!("{path}.{KEYWORD}[{index}]"), error));
            }
        }
        let transitions = compiled
            .validations
            .iter()
            .flatten()
            .filter(|result| result.is_transition_rule)
            .map(|result| result.rule.rule.clone())
            .collect();
        let written = Arc::new(optional.written);
        Ok(Some(Self { compiled: Arc::new(compiled), fresh, written, transitions: Arc::new(transitions) }))
    }

    /// A text with the rules in it as they are written.
    fn as_written(&self, text: &str) -> String {
        self.written.iter().fold(text.to_owned(), |text, (compiled, written)| text.replace(compiled, written))
    }
}

/// Rules that look at an old value that may not be there: to them it is an optional one.
struct Optional {
    any: bool,
    /// The schema for an object without an old form.
    fresh: Value,
    /// The schema for an object with one.
    later: Value,
    written: Vec<(String, String)>,
}

impl Optional {
    fn of(schema: &Value) -> Self {
        let (mut fresh, mut later) = (schema.clone(), schema.clone());
        let (mut any, mut written) = (false, Vec::new());
        for (schema, old) in [(&mut fresh, "optional.none()"), (&mut later, "optional.of(oldSelf)")] {
            for rule in schema[KEYWORD].as_array_mut().into_iter().flatten() {
                let Some(fields) = rule.as_object_mut() else { continue };
                if fields.remove("optionalOldSelf") != Some(Value::Bool(true)) {
                    continue;
                }
                any = true;
                for name in ["rule", "messageExpression"] {
                    if let Some(Value::String(text)) = fields.get_mut(name) {
                        let replaced = replace_name(text, "oldSelf", old);
                        written.push((replaced.clone(), std::mem::replace(text, replaced)));
                    }
                }
            }
        }
        Self { any, fresh, later, written }
    }
}

/// Puts something else in place of a name, but not within texts and longer names.
fn replace_name(text: &str, name: &str, by: &str) -> String {
    let part_of_name = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '.';
    let (mut out, mut rest, mut quote) = (String::new(), text, None);
    while let Some(letter) = rest.chars().next() {
        let before = out.chars().next_back();
        let free = quote.is_none() && !before.is_some_and(part_of_name);
        if let Some(after) = rest.strip_prefix(name).filter(|_| free)
            && !after.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_')
        {
            out.push_str(by);
            rest = after;
            continue;
        }
        match quote {
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            Some(open) if letter == open && before != Some('\\') => quote = None,
            _ => {}
        }
        out.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    out
}

/// The refusal of a rule that does not compile.
fn refusal(rule: &Value, path: &str, error: &CompilationError) -> SchemaError {
    let said = |error: &dyn std::error::Error| error.to_string().replace("\n| ", "\n | ");
    let (field, problem) = match error {
        CompilationError::MessageExpressionParse { source, .. } => {
            ("messageExpression", format!("messageExpression compilation failed: {}", said(&**source)))
        }
        CompilationError::Parse { source, .. } => {
            ("rule", format!("compilation failed: {}", said(&**source)))
        }
        other => ("rule", other.to_string()),
    };
    SchemaError::Compile { path: format!("{path}.{field}"), shown: shown(rule), problem }
}

/// A rule as errors show it: with the names and the order of the fields that it has inside the API server.
fn shown(rule: &Value) -> String {
    let text = |name: &str| Value::from(rule.get(name).and_then(Value::as_str).unwrap_or_default());
    let any = |name: &str| rule.get(name).cloned().unwrap_or_default();
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        text("rule"),
        text("message"),
        text("messageExpression"),
        any("reason"),
        text("fieldPath"),
        any("optionalOldSelf")
    )
}

/// Removes rules and defaults below: the rules because they are checked at their own node, the defaults because the
/// object has them already.
fn strip(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove(KEYWORD);
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Checks the rules of this node and of all below it.
pub(super) fn check(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let node = schema.node();
    if !node.has_rules {
        return;
    }
    if let Some(rules) = &node.rules {
        check_node(rules, value, old, path, errors);
    }
    if let Some(also) = &node.also {
        check(also, value, old, path, errors);
    }
    match value {
        Value::Object(fields) => {
            for (name, child) in fields {
                if let Some(schema) = schema.field(name) {
                    let old = old.and_then(|old| old.get(name));
                    check(schema, child, old, &join(path, name), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = &node.items else { return };
            for (index, item) in items.iter().enumerate() {
                let old = old.and_then(|old| counterpart(&node.list, item, old));
                check(schema, item, old, &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

/// The item of the old list that this item is the new form of; only lists with keys can tell.
pub(super) fn counterpart<'a>(list: &ListKind, item: &Value, old: &'a Value) -> Option<&'a Value> {
    let ListKind::Map(keys) = list else { return None };
    old.as_array()?.iter().find(|candidate| keys.iter().all(|key| candidate.get(key) == item.get(key)))
}

fn check_node(rules: &Rules, value: &Value, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    let compiled =
        if old.is_none() { rules.fresh.as_ref().unwrap_or(&rules.compiled) } else { &rules.compiled };
    let Err(found) = validate_compiled(compiled, value, old) else { return };
    let unchanged = old == Some(value);
    for error in found {
        // What was wrong before the write and did not change is let pass; a rule about the change itself is not.
        if unchanged && !rules.transitions.contains(&error.rule) {
            continue;
        }
        errors.push(field_error(rules, path, value, &error));
    }
}

fn field_error(rules: &Rules, path: &str, value: &Value, error: &ValidationError) -> FieldError {
    let below = error.field_path.as_str();
    let field = match (path.is_empty(), below.is_empty()) {
        (true, true) => "<nil>".to_owned(),
        (false, true) => path.to_owned(),
        (true, false) => below.trim_start_matches('.').to_owned(),
        (false, false) if below.starts_with(['.', '[']) => format!("{path}{below}"),
        (false, false) => format!("{path}.{below}"),
    };
    let message = match error.kind {
        ErrorKind::ValidationFailure => error.message.trim().to_owned(),
        _ => format!("{} evaluating rule: {}", error.message, error.rule),
    };
    let message = rules.as_written(&message);
    let scalar = (!value.is_object() && !value.is_array()).then_some(value);
    match error.reason.as_deref() {
        Some("FieldValueRequired") => FieldError::required(field, &message),
        Some("FieldValueForbidden") => FieldError::forbidden(field, &message),
        Some("FieldValueDuplicate") => FieldError::new(field, Cause::Duplicate, scalar, ""),
        _ => FieldError::new(field, Cause::Invalid, scalar, &message),
    }
}
