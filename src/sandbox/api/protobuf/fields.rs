//! Which field of which message has which number.

use std::collections::HashMap;
use std::sync::OnceLock;

const TABLE: &str = include_str!("messages.txt");

/// How often a field comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Once.
    One,
    /// In a list.
    Many,
    /// By a key.
    Map,
    /// Once, its own fields beside the others.
    Inline,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// A text.
    Text,
    /// A whole number.
    Int,
    /// True or false.
    Bool,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A fraction.
    Fraction,
    /// A time in seconds.
    Time,
    /// A time in microseconds.
    MicroTime,
    /// An amount, a text in JSON.
    Quantity,
    /// A number or a text.
    IntOrString,
    /// JSON itself.
    Raw,
    /// A message that is a list in JSON.
    List,
    /// A message.
    Message(&'static str),
}

/// A field of a message.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in JSON.
    pub name: &'static str,
    /// Its number.
    pub number: u64,
    /// How often it comes.
    pub shape: Shape,
    /// Whether zero is something else than nothing.
    pub keeps_zero: bool,
    /// What it holds.
    pub kind: Type,
}

/// The fields of a message.
pub fn of(message: &str) -> Option<&'static [Field]> {
    static MESSAGES: OnceLock<HashMap<&'static str, Vec<Field>>> = OnceLock::new();
    let messages = MESSAGES.get_or_init(|| TABLE.lines().filter_map(line).collect());
    messages.get(message).map(Vec::as_slice)
}

fn line(line: &'static str) -> Option<(&'static str, Vec<Field>)> {
    let mut words = line.split_whitespace();
    let name = words.next().filter(|name| !name.starts_with('#'))?;
    Some((name, words.filter_map(field).collect()))
}

fn field(word: &'static str) -> Option<Field> {
    let (name, rest) = word.split_once('=')?;
    let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, rest) = rest.split_at(digits);
    let (shape, keeps_zero, kind) = match rest.split_at(1) {
        ("*", kind) => (Shape::Many, false, kind),
        ("%", kind) => (Shape::Map, false, kind),
        ("^", kind) => (Shape::Inline, false, kind),
        ("!", kind) => (Shape::One, true, kind),
        _ => (Shape::One, false, rest),
    };
    let kind = match kind {
        "s" => Type::Text,
        "i" => Type::Int,
        "b" => Type::Bool,
        "y" => Type::Bytes,
        "d" => Type::Fraction,
        "time" => Type::Time,
        "micro" => Type::MicroTime,
        "quantity" => Type::Quantity,
        "intstr" => Type::IntOrString,
        "raw" => Type::Raw,
        "list" => Type::List,
        other => Type::Message(other.strip_prefix('.')?),
    };
    Some(Field { name, number: number.parse().ok()?, shape, keeps_zero, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_table_is_a_field_and_every_message_is_there() {
        let mut messages = 0;
        for text in TABLE.lines().filter(|line| !line.starts_with('#')) {
            messages += 1;
            let (name, fields) = line(text).unwrap();
            assert_eq!(fields.len(), text.split_whitespace().count() - 1, "{name}");
            for field in &fields {
                if let Type::Message(other) = field.kind {
                    assert!(of(other).is_some(), "{name}.{}: {other}", field.name);
                }
                let same = fields.iter().filter(|other| other.number == field.number).count();
                assert_eq!(same, 1, "{name}.{}", field.name);
            }
        }
        assert!(messages > 300);
    }

    #[test]
    fn kinds_have_the_fields_that_their_schemas_have() {
        use crate::sandbox::object::schema::Schema;
        let registry = crate::sandbox::api::registry::Registry::builtin();
        let mut seen = 0;
        for resource in registry.all().filter(|resource| !resource.create_only) {
            let name = super::super::message_of(&resource.name.api_version, &resource.kind);
            let Some(fields) = of(&name) else { continue };
            let schema = Schema::builtin(&resource.gvk()).unwrap();
            let object: serde_json::Map<String, serde_json::Value> =
                fields.iter().map(|field| (field.name.to_owned(), serde_json::Value::Null)).collect();
            let unknown = schema.unknown_fields(&object.into());
            assert!(unknown.is_empty(), "{name}: {unknown:?}");
            seen += 1;
        }
        assert!(seen > 20, "{seen}");
    }
}
