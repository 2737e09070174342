//! Field selectors.

use serde_json::Value;

use super::SelectorError;
use crate::sandbox::object::Gvk;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    path: String,
    equal: bool,
    value: String,
}

/// A parsed field selector. The empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// Parses the `fieldSelector` query parameter and checks that the kind can be selected by those fields
    /// (`extra`: a custom resource's `selectableFields` paths, without the leading dot).
    pub fn parse(text: &str, gvk: &Gvk, extra: &[String]) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split(text) {
            let term = term(&part).ok_or_else(|| {
                SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'"))
            })?;
            if !selectable(gvk, &term.path) && !extra.contains(&term.path) {
                return Err(SelectorError(unsupported(gvk, &term.path)));
            }
            terms.push(term);
        }
        Ok(Self { terms })
    }

    /// Whether this object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| (field(object, &term.path) == term.value) == term.equal)
    }

    /// The fields that it looks at, as they stand in an object.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| stored(&term.path))
    }

    /// The name it asks for, if it selects one name.
    pub fn name(&self) -> Option<&str> {
        let term = self.terms.iter().find(|term| term.equal && term.path == "metadata.name")?;
        Some(&term.value)
    }
}

fn unsupported(gvk: &Gvk, path: &str) -> String {
    match gvk.kind.as_str() {
        "Secret" | "Namespace" | "Node" | "Pod" | "Event" | "Job" | "ReplicationController" | "Service" => {
            format!("field label not supported: {path}")
        }
        _ => format!(
            "\"{path}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ),
    }
}

/// Splits at commas that no backslash precedes.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for character in text.chars() {
        if character == ',' && !escaped {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(character);
        }
        escaped = character == '\\' && !escaped;
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn term(part: &str) -> Option<Term> {
    let at = part.find(['=', '!'])?;
    let (path, rest) = part.split_at(at);
    let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
        (false, value)
    } else {
        (true, rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?)
    };
    Some(Term { path: path.trim().to_owned(), equal, value: unescape(value) })
}

fn unescape(value: &str) -> String {
    let mut plain = String::new();
    let mut escaped = false;
    for character in value.chars() {
        escaped = character == '\\' && !escaped;
        if !escaped {
            plain.push(character);
        }
    }
    plain
}

/// The fields by which objects of a kind can be selected.
fn selectable(gvk: &Gvk, path: &str) -> bool {
    if matches!(path, "metadata.name" | "metadata.namespace") {
        return true;
    }
    let known: &[&str] = match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "Event") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "Event") => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        ("", "Secret") => &["type"],
        ("", "Namespace") => &["status.phase", "name"],
        ("", "Node") => &["spec.unschedulable"],
        ("", "Service") => &["spec.clusterIP", "spec.type"],
        ("batch", "Job") => &["status.successful"],
        ("apps", "ReplicaSet") | ("", "ReplicationController") => &["status.replicas"],
        _ => &[],
    };
    known.contains(&path)
}

/// Where a field that has another name in selectors stands.
fn stored(path: &str) -> &str {
    match path {
        "name" => "metadata.name",
        "source" => "source.component",
        "status.successful" => "status.succeeded",
        other => other,
    }
}

fn field(object: &Value, path: &str) -> String {
    let path = stored(path);
    match object.pointer(&format!("/{}", path.replace('.', "/"))) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
        None => absent(path),
    }
}

/// What a field that is left out stands for.
fn absent(path: &str) -> String {
    match path {
        "spec.hostNetwork" | "spec.unschedulable" => "false".to_owned(),
        "status.replicas" | "status.succeeded" => "0".to_owned(),
        _ => String::new(),
    }
}
