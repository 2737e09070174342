//! Quantities as the API server writes them back: without a fraction, in the largest unit that fits.

use serde_json::{Value, json};

use crate::api::Quantity;

const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Gives a quantity its canonical form; what is not a quantity is left for validation.
pub(super) fn canonicalise(value: &mut Value) {
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    if let Some(canonical) = canonical(text.trim()) {
        *value = json!(canonical);
    }
}

fn canonical(text: &str) -> Option<String> {
    let quantity: Quantity = text.parse().ok()?;
    let milli = quantity.milli();
    let unit = text.trim_start_matches(|character: char| !character.is_ascii_alphabetic());
    // Units below a thousandth and exponents keep the form they were written in.
    if matches!(unit.as_bytes(), [b'n' | b'u', ..] | [b'e', _, ..])
        || (unit.starts_with('E') && unit.len() > 1 && unit != "Ei")
    {
        return Some(text.to_owned());
    }
    // Small numbers in binary units are written as plain ones.
    let binary = unit.ends_with('i') && milli.abs() >= 1024 * 1000;
    if binary {
        return Some(in_units(quantity.value(), 1024, &BINARY));
    }
    if milli % 1000 != 0 {
        return Some(format!("{milli}m"));
    }
    Some(in_units(milli / 1000, 1000, &DECIMAL))
}

fn in_units(mut amount: i128, step: i128, units: &[&str]) -> String {
    let mut unit = 0;
    while amount != 0 && amount % step == 0 && unit + 1 < units.len() {
        amount /= step;
        unit += 1;
    }
    format!("{amount}{}", units[unit])
}
