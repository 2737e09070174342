//! Which objects a list or a watch is about.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::{Deserializer, Map, Value, json};

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
        } else if resource.custom.is_none() && !resource.converted {
            let paths: Vec<&str> = fields.paths().collect();
            let picked = Pick(&paths).deserialize(&mut Deserializer::from_slice(record.draft().text()));
            match picked {
                Ok(picked) => Ok(fields.matches(&Value::Object(picked))),
                Err(_) => Ok(fields.matches(&resource.load(record)?)),
            }
        } else {
            Ok(fields.matches(&resource.load(record)?))
        }
    }
}

/// Reads some fields of an object and skips all others: selecting by one is not to cost the reading of the whole.
struct Pick<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut picked = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let deeper = self.0.iter().filter_map(|path| path.strip_prefix(name.as_str())?.strip_prefix('.'));
            let deeper: Vec<&str> = deeper.collect();
            if self.0.contains(&name.as_str()) {
                let value = fields.next_value()?;
                picked.insert(name, value);
            } else if deeper.is_empty() {
                fields.next_value::<IgnoredAny>()?;
            } else {
                let value = fields.next_value_seed(Pick(&deeper))?;
                picked.insert(name, Value::Object(value));
            }
        }
        Ok(picked)
    }
}

fn key_fields(key: &str) -> Value {
    match key.split_once('/') {
        Some((namespace, name)) => json!({"metadata": {"name": name, "namespace": namespace}}),
        None => json!({"metadata": {"name": key}}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picked_fields_are_those_of_the_whole_object() {
        let text = r#"{"metadata":{"name":"a","labels":{"spec.x":"1"}},"spec":{"x":{"y":[1,{"z":2}]},"xy":3,"n":null},"s":"t"}"#;
        for (paths, expected) in [
            (vec!["spec.x.y"], json!({"spec": {"x": {"y": [1, {"z": 2}]}}})),
            (vec!["spec.n", "metadata.name"], json!({"metadata": {"name": "a"}, "spec": {"n": null}})),
            (vec!["s", "none.there"], json!({"s": "t"})),
        ] {
            let picked = Pick(&paths).deserialize(&mut Deserializer::from_str(text)).unwrap();
            assert_eq!(Value::Object(picked), expected, "{paths:?}");
        }
        // What is no object where one was expected is an error, and never a wrong answer.
        assert!(Pick(&["s.t"]).deserialize(&mut Deserializer::from_str(text)).is_err());
    }
}
