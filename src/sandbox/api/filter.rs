//! Which objects a list or a watch is about.

use serde_json::{Value, json};

use super::failure::Failure;
use super::registry::Resource;
use super::request::Query;
use super::store::{Record, StoreError};
use crate::sandbox::object::selector::{FieldSelector, LabelSelector, SelectorError};

/// A namespace, a label selector and a field selector.
#[derive(Clone, Debug)]
pub struct Filter {
    /// What keys begin with.
    pub prefix: String,
    /// Whether the prefix is the whole key: one object.
    pub exact: bool,
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
    /// Whether the fields are all part of the key, so that the object need not be read.
    key_only: bool,
}

impl Filter {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 where one does not parse or selects by what cannot be selected by.
    pub fn parse(resource: &Resource, namespace: Option<&str>, query: &Query) -> Result<Self, Failure> {
        let refuse = |error: SelectorError| Failure::bad_request(error.to_string());
        let labels = query.get("labelSelector").map(LabelSelector::parse).transpose().map_err(refuse)?;
        let extra: &[String] = resource.custom.as_ref().map_or(&[], |custom| &custom.selectable);
        let text = query.get("fieldSelector");
        let fields = text.map(|text| FieldSelector::parse(text, &resource.gvk(), extra));
        let key_only = text.is_none_or(|text| {
            text.split(',').all(|term| {
                let field = term.split(['=', '!']).next().unwrap_or_default().trim();
                matches!(field, "metadata.name" | "metadata.namespace")
            })
        });
        let prefix = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        Ok(Self { prefix, exact: false, labels, fields: fields.transpose().map_err(refuse)?, key_only })
    }

    /// Whether this object is meant.
    ///
    /// # Errors
    /// Where the object cannot be read.
    pub fn matches(&self, resource: &Resource, key: &str, record: &Record) -> Result<bool, StoreError> {
        if !key.starts_with(&self.prefix) || (self.exact && key != self.prefix) {
            return Ok(false);
        }
        if self.labels.as_ref().is_some_and(|labels| !labels.matches_by(|key| record.label(key))) {
            return Ok(false);
        }
        let Some(fields) = &self.fields else { return Ok(true) };
        if self.key_only {
            Ok(fields.matches(&key_fields(key)))
        } else {
            Ok(fields.matches(&resource.load(record)?))
        }
    }
}

fn key_fields(key: &str) -> Value {
    match key.split_once('/') {
        Some((namespace, name)) => json!({"metadata": {"name": name, "namespace": namespace}}),
        None => json!({"metadata": {"name": key}}),
    }
}
