//! Where backups go: the URL that users give.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A destination: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` or `file:///DIRECTORY`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A bucket or container, and a prefix without slashes around it, which may be empty.
    Bucket {
        /// Whose protocol it speaks.
        provider: Provider,
        /// Its name.
        bucket: String,
        /// What all keys begin with.
        prefix: String,
    },
    /// A directory of the machine.
    Directory(PathBuf),
}

/// A protocol of object stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Amazon S3 and what is compatible with it.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
}

impl Provider {
    fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
        }
    }
}

/// Not a destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "read {0:?} as a destination: expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY"
)]
pub struct DestinationError(pub String);

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let wrong = || DestinationError(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        if rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong());
        }
        let provider = match scheme {
            "s3" => Provider::S3,
            "gs" => Provider::Google,
            "az" => Provider::Azure,
            "file"
                if rest.len() > 1 && rest.starts_with('/') && !rest.split('/').any(|part| part == "..") =>
            {
                return Ok(Self::Directory(PathBuf::from(rest)));
            }
            _ => return Err(wrong()),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let odd = prefix.split('/').any(|part| matches!(part, "." | "..")) || prefix.contains("//");
        if bucket.is_empty() || odd {
            return Err(wrong());
        }
        Ok(Self::Bucket { provider, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket { provider, bucket, prefix } => {
                write!(f, "{}://{bucket}", provider.scheme())?;
                if prefix.is_empty() { Ok(()) } else { write!(f, "/{prefix}") }
            }
            Self::Directory(path) => write!(f, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_and_written() {
        for (text, written) in [
            ("s3://my-backups/orders-db", "s3://my-backups/orders-db"),
            ("s3://bucket", "s3://bucket"),
            ("gs://bucket/", "gs://bucket"),
            ("az://container/a/b/", "az://container/a/b"),
            ("file:///var/backups", "file:///var/backups"),
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), written);
        }
        for bad in [
            "",
            "bucket",
            "s3:/b",
            "s3://",
            "s3:///x",
            "http://b/x",
            "file://",
            "file:///",
            "file://x",
            "s3://b/a b",
        ] {
            assert_eq!(bad.parse::<Destination>(), Err(DestinationError(bad.to_owned())), "{bad}");
        }
        for bad in ["s3://b/../x", "s3://b/a//b", "file:///a/../b"] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }
}
