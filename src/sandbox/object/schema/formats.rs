//! The string and number formats that are checked.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;
use serde_json::Value;

/// Whether a value has a format; unknown formats let everything pass.
pub(super) fn fits(format: &str, value: &Value) -> bool {
    match value {
        Value::Number(_) => number_fits(format, value),
        Value::String(text) => text_fits(format, text),
        _ => true,
    }
}

fn number_fits(format: &str, value: &Value) -> bool {
    match format {
        "int32" => {
            value.as_f64().is_some_and(|number| (-2_147_483_648.0..=2_147_483_647.0).contains(&number))
        }
        "int64" => {
            value.is_i64() || value.as_f64().is_some_and(|number| number.abs() < 9.3e18 && !value.is_u64())
        }
        _ => true,
    }
}

fn text_fits(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => text.parse::<kube::core::Duration>().is_ok() || humantime::parse_duration(text).is_ok(),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "uuid" => is_uuid(text),
        _ => true,
    }
}

fn is_uuid(text: &str) -> bool {
    let digits = text.chars().filter(|character| *character != '-').count();
    digits == 32 && text.chars().all(|character| character == '-' || character.is_ascii_hexdigit())
}
