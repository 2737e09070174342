//! PostgreSQL release numbers.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An exact PostgreSQL release, `MAJOR.MINOR`, ordered by release number.
///
/// PostgreSQL has numbered its releases with two parts since 10
/// (<https://www.postgresql.org/support/versioning/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PgVersion {
    major: u8,
    minor: u8,
}

/// Why a text is not a release that dbctl runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not two numbers with a dot between them.
    #[error("{0:?} is not an exact PostgreSQL release such as \"{example}\"", example = PgVersion::EXAMPLE)]
    Form(String),
    /// A major version that dbctl does not run.
    #[error("PostgreSQL {0} is not supported: majors {first} to {last} are", first = PgVersion::FIRST_MAJOR, last = PgVersion::LAST_MAJOR)]
    Major(u8),
}

impl PgVersion {
    /// The oldest major version that dbctl runs.
    pub const FIRST_MAJOR: u8 = 14;
    /// The newest major version that dbctl runs.
    pub const LAST_MAJOR: u8 = 18;
    /// What the CLI asks for when it is told nothing.
    pub const DEFAULT: PgVersion = PgVersion { major: 18, minor: 6 };
    /// A well-formed release, for messages.
    pub const EXAMPLE: &'static str = "18.6";
    /// What the CRD checks; the range of majors is checked with it.
    pub const PATTERN: &'static str = r"^1[4-8]\.(0|[1-9][0-9]?)$";

    /// The major version, for example 16.
    pub fn major(self) -> u8 {
        self.major
    }

    /// The minor version, for example 3.
    pub fn minor(self) -> u8 {
        self.minor
    }
}

impl FromStr for PgVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let form = || VersionError::Form(text.to_owned());
        let (major, minor) = text.split_once('.').ok_or_else(form)?;
        let number = |part: &str| -> Result<u8, VersionError> {
            let plain = part.len() <= 2
                && part.bytes().all(|b| b.is_ascii_digit())
                && (part == "0" || !part.starts_with('0'));
            if plain { part.parse().map_err(|_| form()) } else { Err(form()) }
        };
        let version = PgVersion { major: number(major)?, minor: number(minor)? };
        if (Self::FIRST_MAJOR..=Self::LAST_MAJOR).contains(&version.major) {
            Ok(version)
        } else {
            Err(VersionError::Major(version.major))
        }
    }
}

impl TryFrom<String> for PgVersion {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<PgVersion> for String {
    fn from(version: PgVersion) -> String {
        version.to_string()
    }
}

impl fmt::Display for PgVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl JsonSchema for PgVersion {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PgVersion".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 8, "pattern": Self::PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_releases_and_refuses_the_rest() {
        for good in ["14.0", "16.3", "18.6", "17.11"] {
            assert_eq!(good.parse::<PgVersion>().unwrap().to_string(), good);
        }
        for bad in [
            "", "sixteen", "16", "16.", ".3", "16.03", "16.3.1", "016.3", "16.-1", "16.+3", "16.300", " 16.3",
        ] {
            assert_eq!(bad.parse::<PgVersion>(), Err(VersionError::Form(bad.into())));
        }
        assert_eq!("13.9".parse::<PgVersion>(), Err(VersionError::Major(13)));
        assert_eq!("19.0".parse::<PgVersion>(), Err(VersionError::Major(19)));
    }

    #[test]
    fn orders_by_number_not_by_text() {
        let v = |t: &str| t.parse::<PgVersion>().unwrap();
        assert!(v("16.15") > v("16.3"));
        assert!(v("17.0") > v("16.15"));
        assert_eq!(PgVersion::EXAMPLE.parse(), Ok(PgVersion::DEFAULT));
    }

    proptest::proptest! {
        #[test]
        fn the_pattern_and_the_parser_agree(text in r"[0-9.]{0,6}") {
            let pattern = regex::Regex::new(PgVersion::PATTERN).unwrap();
            proptest::prop_assert_eq!(pattern.is_match(&text), text.parse::<PgVersion>().is_ok());
        }
    }
}
