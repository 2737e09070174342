//! Label and field selectors.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Gvk;

/// Why a selector was refused; the text is the message of the 400.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// A parsed label selector. The empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    In,
}

impl LabelSelector {
    /// Parses the `labelSelector` query parameter.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| SelectorError(format!("cannot parse {part}")))?;
            requirements.push(Requirement {
                key: key.to_owned(),
                operator: Operator::In,
                values: vec![value.trim_start_matches('=').to_owned()],
            });
        }
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `LabelSelector` object (`matchLabels`, `matchExpressions`); null matches nothing.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self { nothing: true, ..Self::default() });
        }
        Ok(Self::default())
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| match requirement.operator {
                Operator::In => {
                    labels.get(&requirement.key).is_some_and(|value| requirement.values.contains(value))
                }
            })
    }

    /// Whether this object's labels are selected.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(&labels_of(object))
    }
}

/// An object's labels.
pub fn labels_of(object: &Value) -> BTreeMap<String, String> {
    object
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .map(|labels| {
            labels.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
        })
        .unwrap_or_default()
}

/// A parsed field selector. The empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses the `fieldSelector` query parameter and checks that the kind can be selected by those fields
    /// (`extra`: a custom resource's `selectableFields` paths, without the leading dot).
    pub fn parse(text: &str, gvk: &Gvk, extra: &[String]) -> Result<Self, SelectorError> {
        let _ = (gvk, extra);
        let mut terms = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| SelectorError(format!("cannot parse {part}")))?;
            terms.push((key.to_owned(), true, value.trim_start_matches('=').to_owned()));
        }
        Ok(Self { terms })
    }

    /// Whether this object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|(path, equal, wanted)| {
            let pointer = format!("/{}", path.replace('.', "/"));
            let found = object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default();
            (found == wanted) == *equal
        })
    }
}
