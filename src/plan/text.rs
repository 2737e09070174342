//! Short ways into JSON.

use serde_json::Value;

/// What is at that pointer, unless it is null.
pub fn at<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    value.pointer(pointer).filter(|found| !found.is_null())
}

/// The text at that pointer.
pub fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    at(value, pointer)?.as_str()
}

/// The number at that pointer, if it fits.
pub fn number(value: &Value, pointer: &str) -> Option<i32> {
    i32::try_from(at(value, pointer)?.as_i64()?).ok()
}

/// The list at that pointer; empty where there is none.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    at(value, pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
