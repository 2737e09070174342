//! Objects in Kubernetes' protobuf encoding, which kubectl's `create KIND` and `auth` commands send: read as the JSON they
//! stand for. Answers are JSON, which every client takes too.

mod fields;
mod wire;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use fields::{Field, Shape, Type};
use wire::{Wire, read};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every object begins with.
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may lie in each other: no kind comes near.
const DEPTH: usize = 64;

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// They begin with something else.
    #[error("read the body: it does not begin as Kubernetes' protobuf does")]
    Magic,
    /// They end in the middle, or are otherwise no protobuf.
    #[error("read the body: it is no protobuf")]
    Malformed,
    /// A field is of another type than it should be.
    #[error("read the body: field {number} of {message} has the wrong type")]
    Mismatch {
        /// The message.
        message: String,
        /// The field's number.
        number: u64,
    },
    /// It is encoded in yet another way.
    #[error("read the body: it is encoded as {0:?}")]
    Encoding(String),
    /// The kind is none that can be read.
    #[error("read the body: {api_version} {kind} is not known in protobuf")]
    Kind {
        /// Its group and version.
        api_version: String,
        /// The kind.
        kind: String,
    },
}

/// Reads an object.
///
/// # Errors
/// Where the bytes are none, or one of a kind that is not built in.
pub fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let (mut api_version, mut kind, mut raw, mut encoding) =
        (String::new(), String::new(), &[][..], String::new());
    for item in read(bytes) {
        match item? {
            (1, Wire::Bytes(type_meta)) => {
                for item in read(type_meta) {
                    match item? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(object)) => raw = object,
            (3 | 4, Wire::Bytes(text)) if !text.is_empty() && text != MEDIA_TYPE.as_bytes() => {
                encoding = utf8(text)?;
            }
            _ => {}
        }
    }
    if !encoding.is_empty() {
        return Err(ProtobufError::Encoding(encoding));
    }
    let name = message_of(&api_version, &kind);
    if fields::of(&name).is_none() {
        return Err(ProtobufError::Kind { api_version, kind });
    }
    let mut object = message(&name, raw, 0)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

/// The name of a kind's message: group without its domain, version, kind.
fn message_of(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        // Every group has the same.
        return "meta.v1.DeleteOptions".to_owned();
    }
    match api_version.split_once('/') {
        None => format!("core.{api_version}.{kind}"),
        Some((group, version)) => format!("{}.{version}.{kind}", group.split('.').next().unwrap_or_default()),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Malformed)
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, ProtobufError> {
    let known = fields::of(name).filter(|_| depth < DEPTH).ok_or(ProtobufError::Malformed)?;
    let mut object = Map::new();
    for item in read(bytes) {
        let (number, wire) = item?;
        // One that is not known is from a later version.
        let Some(field) = known.iter().find(|field| field.number == number) else { continue };
        let mismatch = || ProtobufError::Mismatch { message: name.to_owned(), number };
        match field.shape {
            Shape::Inline => {
                if let Value::Object(inner) = value(&field.kind, wire, depth)?.ok_or_else(mismatch)? {
                    object.extend(inner);
                }
            }
            Shape::One => {
                let value = value(&field.kind, wire, depth)?.ok_or_else(mismatch)?;
                if field.keeps_zero || !is_zero(&value) {
                    object.insert(field.name.to_owned(), value);
                }
            }
            Shape::Many => {
                let items = many(field, wire, depth)?.ok_or_else(mismatch)?;
                let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().ok_or(ProtobufError::Malformed)?.extend(items);
            }
            Shape::Map => {
                let Wire::Bytes(entry) = wire else { return Err(mismatch()) };
                let (key, value) = entry_of(&field.kind, entry, depth)?.ok_or_else(mismatch)?;
                let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                map.as_object_mut().ok_or(ProtobufError::Malformed)?.insert(key, value);
            }
        }
    }
    Ok(object)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// Numbers of a list may come in one piece.
fn many(field: &Field, wire: Wire<'_>, depth: usize) -> Result<Option<Vec<Value>>, ProtobufError> {
    match (&field.kind, wire) {
        (Type::Int, Wire::Bytes(mut packed)) => {
            let mut items = Vec::new();
            while !packed.is_empty() {
                items.push(int(wire::varint(&mut packed)?));
            }
            Ok(Some(items))
        }
        (kind, wire) => Ok(value(kind, wire, depth)?.map(|value| vec![value])),
    }
}

fn entry_of(kind: &Type, entry: &[u8], depth: usize) -> Result<Option<(String, Value)>, ProtobufError> {
    let (mut key, mut found) = (String::new(), None);
    for item in read(entry) {
        match item? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => match value(kind, wire, depth)? {
                Some(value) => found = Some(value),
                None => return Ok(None),
            },
            _ => {}
        }
    }
    let value = match found {
        Some(value) => value,
        // An empty value may be left out.
        None => value(kind, Wire::Bytes(&[]), depth)?.unwrap_or(Value::Null),
    };
    Ok(Some((key, value)))
}

fn int(bits: u64) -> Value {
    Value::from(bits.cast_signed())
}

/// A value, or none where the field is of another type than what was sent.
fn value(kind: &Type, wire: Wire<'_>, depth: usize) -> Result<Option<Value>, ProtobufError> {
    Ok(Some(match (kind, wire) {
        (Type::Int, Wire::Varint(bits)) => int(bits),
        (Type::Bool, Wire::Varint(bits)) => Value::Bool(bits != 0),
        (Type::Fraction, Wire::Fixed64(bits)) => Value::from(f64::from_bits(bits)),
        (Type::Text, Wire::Bytes(bytes)) => utf8(bytes)?.into(),
        (Type::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Type::Message(name), Wire::Bytes(bytes)) => Value::Object(message(name, bytes, depth + 1)?),
        (Type::Time | Type::MicroTime, Wire::Bytes(bytes)) => time(bytes, *kind == Type::MicroTime)?,
        (Type::Quantity, Wire::Bytes(bytes)) => {
            let mut text = String::new();
            for item in read(bytes) {
                if let (1, Wire::Bytes(bytes)) = item? {
                    text = utf8(bytes)?;
                }
            }
            text.into()
        }
        (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Type::Raw, Wire::Bytes(bytes)) => {
            let mut json = Value::Null;
            for item in read(bytes) {
                if let (1, Wire::Bytes(text)) = item? {
                    json = serde_json::from_slice(text).map_err(|_| ProtobufError::Malformed)?;
                }
            }
            json
        }
        (Type::List, Wire::Bytes(bytes)) => {
            let mut items = Vec::new();
            for item in read(bytes) {
                if let (1, Wire::Bytes(text)) = item? {
                    items.push(utf8(text)?.into());
                }
            }
            Value::Array(items)
        }
        _ => return Ok(None),
    }))
}

/// Seconds and nanoseconds since 1970; nothing at all is no time.
fn time(bytes: &[u8], micro: bool) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos, mut given) = (0, 0, false);
    for item in read(bytes) {
        match item? {
            (1, Wire::Varint(bits)) => (seconds, given) = (bits.cast_signed(), true),
            (2, Wire::Varint(bits)) => {
                (nanos, given) = (i32::try_from(bits.cast_signed()).unwrap_or(0), true);
            }
            _ => {}
        }
    }
    if !given {
        return Ok(Value::Null);
    }
    let time = Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Malformed)?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(time.strftime(format).to_string().into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, Value::from(0), String::new());
    for item in read(bytes) {
        match item? {
            (1, Wire::Varint(bits)) => is_text = bits == 1,
            (2, Wire::Varint(bits)) => number = int(bits),
            (3, Wire::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number })
}

#[cfg(test)]
mod tests;
