//! Kubernetes resource quantities, kept as they were written and compared by value.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A Kubernetes quantity such as `50Gi`, `1.5G`, `500m` or `1e3`: its text and its value.
///
/// Values are exact down to a thousandth; finer ones are rounded up, as the API server does
/// (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Quantity {
    text: String,
    /// Thousandths.
    milli: i128,
}

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number, or an unknown suffix.
    #[error(
        "{0:?} is not a quantity: write a number with one of Ki, Mi, Gi, Ti, Pi, Ei, m, k, M, G, T, P, E, for example \"50Gi\" of storage or memory, \"500m\" (half a core) of CPU"
    )]
    Form(String),
    /// Larger than any quantity Kubernetes holds (2^63 - 1).
    #[error("{0:?} is too large: at most 2^63-1")]
    Range(String),
}

/// The longest text accepted; the CRD has the same limit.
const MAX_LENGTH: usize = 32;

impl Quantity {
    /// The value rounded up to whole units (bytes, for storage).
    pub fn value(&self) -> i128 {
        -(-self.milli).div_euclid(1000)
    }

    /// The value in thousandths.
    pub fn milli(&self) -> i128 {
        self.milli
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// The suffix's factor as a numerator over a thousandth: (multiplier of milli-units).
fn suffix(text: &str) -> Option<(i128, i32)> {
    // (binary multiplier, decimal exponent)
    Some(match text {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        exponent if exponent.starts_with(['e', 'E']) => {
            let power: i32 = exponent[1..].parse().ok()?;
            (-30..=30).contains(&power).then_some((1, power))?
        }
        _ => return None,
    })
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let form = || QuantityError::Form(text.to_owned());
        if text.len() > MAX_LENGTH || !text.is_ascii() {
            return Err(form());
        }
        let (sign, rest) = match text.as_bytes().first() {
            Some(b'-') => (-1, &text[1..]),
            Some(b'+') => (1, &text[1..]),
            _ => (1, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, unit) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(form());
        }
        let (multiplier, exponent) = suffix(unit).ok_or_else(form)?;
        let range = || QuantityError::Range(text.to_owned());
        let digits: i128 = format!("0{whole}{fraction}").parse().map_err(|_| range())?;
        let scaled = digits.checked_mul(multiplier).ok_or_else(range)?;
        // thousandths = digits * 10^(exponent + 3 - length of the fraction)
        let power = exponent + 3 - i32::try_from(fraction.len()).map_err(|_| range())?;
        let ten = 10i128.checked_pow(power.unsigned_abs()).ok_or_else(range)?;
        let milli =
            if power >= 0 { scaled.checked_mul(ten).ok_or_else(range)? } else { -(-scaled).div_euclid(ten) };
        if milli > i128::from(i64::MAX) * 1000 {
            return Err(range());
        }
        Ok(Quantity { text: text.to_owned(), milli: sign * milli })
    }
}

/// A quantity as a document may write it: `cpu: 2` is as good as `cpu: "2"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Integer(i64),
    Decimal(f64),
    Text(String),
}

impl TryFrom<Written> for Quantity {
    type Error = QuantityError;

    fn try_from(written: Written) -> Result<Self, QuantityError> {
        match written {
            Written::Integer(number) => number.to_string().parse(),
            Written::Decimal(number) => number.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Quantity> for String {
    fn from(quantity: Quantity) -> String {
        quantity.text
    }
}

impl From<&Quantity> for k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    fn from(quantity: &Quantity) -> Self {
        Self(quantity.text.clone())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.milli == other.milli
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.milli.cmp(&other.milli)
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": MAX_LENGTH,
            "x-kubernetes-validations": [{
                "rule": "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
                "message": "must be a quantity above zero such as 50Gi"
            }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, milli) in [
            ("1", 1000),
            ("500m", 500),
            ("1.5", 1500),
            (".5", 500),
            ("5.", 5000),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("2E", 2_000_000_000_000_000_000_000),
            ("1n", 1),
            ("-1k", -1_000_000),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<Quantity>().map(|q| q.milli()), Ok(milli), "{text}");
        }
    }

    #[test]
    fn refuses() {
        for bad in ["", "potatoes", "5 potatoes", "5GB", "Gi", ".", "1..2", "1e", "5 Gi", "--1", "1e99", "١"]
        {
            assert_eq!(bad.parse::<Quantity>(), Err(QuantityError::Form(bad.into())), "{bad}");
        }
        assert_eq!("100E".parse::<Quantity>(), Err(QuantityError::Range("100E".into())));
    }

    #[test]
    fn compares_by_value_and_rounds_up() {
        let q = |t: &str| t.parse::<Quantity>().unwrap();
        assert_eq!(q("1024Mi"), q("1Gi"));
        assert!(q("1G") < q("1Gi"));
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("1Gi").value(), 1 << 30);
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_keeps_the_text(text in r"[-+]?[0-9]{0,20}\.?[0-9]{0,12}(Ki|Mi|Ei|m|n|E|e[0-9]{1,3})?") {
            if let Ok(q) = text.parse::<Quantity>() {
                proptest::prop_assert_eq!(q.to_string(), text);
            }
        }
    }
}
