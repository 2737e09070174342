//! One object at rest: its JSON, without what is spliced in when it is served.
//!
//! Objects are kept as text, a fifth of what a tree of values would take. `apiVersion` and `kind` depend on how the
//! object is asked for and `resourceVersion` on when its write is committed, so neither is part of the text: it always
//! begins with `{"metadata":{`, and serving puts them in front.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::StoreError;

const PREFIX: &[u8] = b"{\"metadata\":{";

/// An object that has no resourceVersion yet, and what selectors and guards ask about it.
#[derive(Clone, Debug)]
pub struct Draft {
    text: Arc<[u8]>,
    /// Keys and values, each ended by [`END`]: one piece of memory for all of them.
    labels: Arc<str>,
    deleting: bool,
}

/// What no label contains.
const END: char = '\0';

/// An object at one resourceVersion.
#[derive(Clone, Debug)]
pub struct Record {
    version: u64,
    draft: Draft,
}

/// How an object calls itself in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeName {
    /// Group and version, as in `apps/v1`.
    pub api_version: Arc<str>,
    /// The kind.
    pub kind: Arc<str>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(default, borrow)]
    labels: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    #[serde(default)]
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

impl Draft {
    /// The object without its `apiVersion`, `kind` and `metadata.resourceVersion`.
    ///
    /// # Errors
    /// Where it has no metadata.
    pub fn new(object: &Value) -> Result<Self, StoreError> {
        let fields = object.as_object().ok_or(StoreError::NotAnObject)?;
        let metadata = fields.get("metadata").and_then(Value::as_object).ok_or(StoreError::NotAnObject)?;
        let mut text = Vec::with_capacity(1024);
        text.extend_from_slice(PREFIX);
        write_fields(&mut text, metadata, &["resourceVersion"], true)?;
        text.push(b'}');
        write_fields(&mut text, fields, &["apiVersion", "kind", "metadata"], false)?;
        text.push(b'}');
        let labels = match metadata.get("labels").filter(|labels| !labels.is_null()) {
            Some(labels) => labels.as_object().ok_or(StoreError::NotAnObject)?,
            None => &Map::new(),
        };
        let pairs = labels.iter().map(|(key, value)| Some([key.as_str(), value.as_str()?]));
        let pairs: Option<Vec<_>> = pairs.collect();
        let labels = join(pairs.ok_or(StoreError::NotAnObject)?.into_iter().flatten());
        let deleting = metadata.get("deletionTimestamp").is_some_and(|time| !time.is_null());
        Ok(Self { labels: labels.into(), deleting, text: text.into() })
    }

    /// What [`Draft::text`] gave.
    ///
    /// # Errors
    /// Where it is not that.
    pub fn parse(text: Arc<[u8]>) -> Result<Self, StoreError> {
        if !text.starts_with(PREFIX) {
            return Err(StoreError::NotAnObject);
        }
        let Envelope { metadata } = serde_json::from_slice(&text)?;
        let labels = metadata.labels.unwrap_or_default();
        let labels = join(labels.iter().flat_map(|(key, value)| [key.as_ref(), value.as_ref()]));
        let deleting = metadata.deletion_timestamp.is_some();
        Ok(Self { labels: labels.into(), deleting, text })
    }

    /// The text as it is stored.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The same object at a resourceVersion.
    pub fn at(&self, version: u64) -> Record {
        Record { version, draft: self.clone() }
    }
}

/// Keys and values as they are kept.
fn join<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    for part in parts {
        joined.push_str(part);
        joined.push(END);
    }
    joined
}

fn write_fields(
    out: &mut Vec<u8>,
    fields: &Map<String, Value>,
    except: &[&str],
    first: bool,
) -> Result<(), StoreError> {
    let mut comma = !first;
    for (name, value) in fields.iter().filter(|(name, _)| !except.contains(&name.as_str())) {
        if comma {
            out.push(b',');
        }
        comma = true;
        serde_json::to_writer(&mut *out, name)?;
        out.push(b':');
        serde_json::to_writer(&mut *out, value)?;
    }
    Ok(())
}

impl Record {
    /// Its resourceVersion.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Its text and facts.
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// The same content at another resourceVersion: what a deletion shows.
    pub fn at(&self, version: u64) -> Self {
        self.draft.at(version)
    }

    /// Whether it has a deletionTimestamp.
    pub fn deleting(&self) -> bool {
        self.draft.deleting
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let mut parts = self.draft.labels.split_terminator(END);
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            if name == key {
                return Some(value);
            }
        }
        None
    }

    /// How much memory its text takes.
    pub fn size(&self) -> usize {
        self.draft.text.len()
    }

    /// Appends the JSON, with its type in front if one is given.
    pub fn write_json(&self, name: Option<&TypeName>, out: &mut Vec<u8>) {
        out.push(b'{');
        if let Some(TypeName { api_version, kind }) = name {
            let head = format!("\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",");
            out.extend_from_slice(head.as_bytes());
        }
        out.extend_from_slice(format!("\"metadata\":{{\"resourceVersion\":\"{}\"", self.version).as_bytes());
        let rest = self.draft.text.get(PREFIX.len()..).unwrap_or_default();
        if rest.first() != Some(&b'}') {
            out.push(b',');
        }
        out.extend_from_slice(rest);
    }

    /// The object as a tree.
    ///
    /// # Errors
    /// Where the text is broken, which only a damaged store explains.
    pub fn to_value(&self, name: &TypeName) -> Result<Value, StoreError> {
        let mut value: Value = serde_json::from_slice(&self.draft.text)?;
        value["metadata"]["resourceVersion"] = Value::String(self.version.to_string());
        value["apiVersion"] = Value::String(name.api_version.to_string());
        value["kind"] = Value::String(name.kind.to_string());
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn name() -> TypeName {
        TypeName { api_version: "v1".into(), kind: "ConfigMap".into() }
    }

    #[test]
    fn an_object_comes_back_with_its_new_version() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "ü\"1"},
            "metadata": {"name": "a", "resourceVersion": "3", "labels": {"x": "1"}}});
        let record = Draft::new(&object).unwrap().at(7);
        let mut text = Vec::new();
        record.write_json(Some(&name()), &mut text);
        let mut expected = object;
        expected["metadata"]["resourceVersion"] = json!("7");
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), expected);
        assert_eq!(record.to_value(&name()).unwrap(), expected);
        assert_eq!((record.label("x"), record.label("1"), record.label("y")), (Some("1"), None, None));
        assert!(!record.deleting());
    }

    #[test]
    fn what_is_read_again_has_the_facts_of_what_was_made() {
        for metadata in [
            json!({"labels": {"x": "1", "y": "ü\"", "z": ""}, "deletionTimestamp": "2026-11-22T10:00:00Z"}),
            json!({"labels": null, "deletionTimestamp": null}),
            json!({"name": "a"}),
        ] {
            let made = Draft::new(&json!({"metadata": metadata})).unwrap();
            let read = Draft::parse(made.text().into()).unwrap();
            assert_eq!((&read.labels, read.deleting), (&made.labels, made.deleting), "{metadata}");
            assert_eq!(made.deleting, metadata["deletionTimestamp"].is_string());
            assert_eq!(made.at(1).label("y"), metadata["labels"]["y"].as_str());
        }
        assert!(Draft::new(&json!({"metadata": {"labels": {"x": 1}}})).is_err());
    }

    #[test]
    fn empty_metadata_is_still_json() {
        let record = Draft::new(&json!({"metadata": {}})).unwrap().at(1);
        let mut text = Vec::new();
        record.write_json(None, &mut text);
        assert_eq!(
            serde_json::from_slice::<Value>(&text).unwrap(),
            json!({"metadata": {"resourceVersion": "1"}})
        );
    }
}
