//! The string and number formats that are checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use serde_json::Value;

use super::node::MICRO_TIME;

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
        "date-time" | "datetime" | MICRO_TIME => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => text.parse::<kube::core::Duration>().is_ok() || humantime::parse_duration(text).is_ok(),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "email" => is_email(text),
        "uri" => text.starts_with('/') || text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some()),
        "uuid" => is_uuid(text),
        _ => true,
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let limit = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= limit)
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let hexadecimal = |part: &&str| part.len() == 2 && part.chars().all(|digit| digit.is_ascii_hexdigit());
    matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(hexadecimal)
}

fn is_email(text: &str) -> bool {
    let plain =
        |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || "<>@,;".contains(c));
    text.rsplit_once('@').is_some_and(|(local, domain)| plain(local) && plain(domain))
}

fn is_uuid(text: &str) -> bool {
    let digits = text.chars().filter(|character| *character != '-').count();
    digits == 32 && text.chars().all(|character| character == '-' || character.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_their_format_or_not() {
        for (format, good, bad) in [
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("cidr", "fd00::/8", "fd00::"),
            ("mac", "01:23:45:67:89:ab", "01:23:45:67:89"),
            ("email", "a@example.com", "example.com"),
            ("uri", "https://example.com/x", "example"),
            ("uri", "/path", "a b"),
            ("uuid", "8518d46b-45e9-44ef-b915-6398e3de3d71", "8518d46b"),
        ] {
            assert!(text_fits(format, good), "{format} {good}");
            assert!(!text_fits(format, bad), "{format} {bad}");
        }
    }
}
