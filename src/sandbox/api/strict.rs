//! What a strict reader sees in a JSON text that its value no longer tells: keys that are there twice, and the order
//! in which the fields stand.

use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The findings of one pass over a text.
#[derive(Debug, Default)]
pub struct Scan {
    duplicates: Vec<(usize, String)>,
    places: HashMap<String, usize>,
}

impl Scan {
    /// Reads a text; of one that is no JSON, what comes before the mistake.
    pub fn of(text: &[u8]) -> Self {
        let mut scan = Self::default();
        let mut reader = serde_json::Deserializer::from_slice(text);
        // Whoever needs the value reports what is wrong with it.
        let _ = Walk { scan: &mut scan, path: String::new() }.deserialize(&mut reader);
        scan
    }

    /// Complaints about keys that are there twice and about fields that are unknown, as they stand in the text.
    pub fn complaints(&self, unknown: &[String]) -> Vec<String> {
        let mut found: Vec<(usize, String)> =
            self.duplicates.iter().map(|(at, path)| (*at, format!("duplicate field \"{path}\""))).collect();
        found.extend(unknown.iter().map(|path| {
            let at = self.places.get(path).copied().unwrap_or(usize::MAX);
            (at, crate::sandbox::object::schema::unknown_field_warning(path))
        }));
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(_, complaint)| complaint).collect()
    }

    /// The first key that is there twice, without the path to it.
    pub fn first_duplicate(&self) -> Option<&str> {
        self.duplicates.first().and_then(|(_, path)| path.rsplit('.').next())
    }
}

struct Walk<'a> {
    scan: &'a mut Scan,
    path: String,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            let at = self.scan.places.len() + self.scan.duplicates.len();
            if self.scan.places.contains_key(&path) {
                self.scan.duplicates.push((at, path.clone()));
            } else {
                self.scan.places.insert(path.clone(), at);
            }
            map.next_value_seed(Walk { scan: &mut *self.scan, path })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0.. {
            let path = format!("{}[{index}]", self.path);
            if items.next_element_seed(Walk { scan: &mut *self.scan, path })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// What is wrong with a JSON text, in the words of Go's reader, which clients of Kubernetes know.
pub fn mistake(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let line = text.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let found = line.get(error.column().saturating_sub(1)).copied().map_or(' ', char::from);
    let said = error.to_string();
    let place = [
        ("key must be a string", "looking for beginning of object key string"),
        ("trailing comma", "looking for beginning of object key string"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("expected `:`", "after object key"),
        ("trailing characters", "after top-level value"),
        ("control character", "in string literal"),
    ];
    let place = place.iter().find(|(ours, _)| said.starts_with(ours)).map(|(_, place)| *place);
    format!("invalid character {found:?} {}", place.unwrap_or("looking for beginning of value"))
}

/// The beginning of a text, for a message.
pub fn summary(text: &[u8]) -> String {
    const MAX: usize = 30;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let shown = &text[..text.len().min(MAX)];
    let shown = match text.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => hex(shown),
    };
    if text.len() > MAX { format!("{shown} ...") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_stand_in_the_order_of_the_text() {
        let scan = Scan::of(br#"{"z": 1, "data": {"a": 1, "a": 2}, "list": [{"b": 1, "b": 2}], "c": 3}"#);
        let unknown = ["c".to_owned(), "z".to_owned()];
        assert_eq!(
            scan.complaints(&unknown),
            [
                r#"unknown field "z""#,
                r#"duplicate field "data.a""#,
                r#"duplicate field "list[0].b""#,
                r#"unknown field "c""#
            ]
        );
        assert_eq!(scan.first_duplicate(), Some("a"));
    }

    #[test]
    fn mistakes_are_told_as_go_does() {
        let cases = [
            ("{not json", "invalid character 'n' looking for beginning of object key string"),
            ("", "unexpected end of JSON input"),
            ("{\"a\": }", "invalid character '}' looking for beginning of value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\": 1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
        ];
        for (text, expected) in cases {
            let error = serde_json::from_slice::<serde_json::Value>(text.as_bytes()).unwrap_err();
            assert_eq!(mistake(text.as_bytes(), &error), expected, "{text}");
        }
        assert_eq!(summary(b""), "<empty>");
        assert_eq!(summary(b"[1]"), "5b315d");
    }
}
