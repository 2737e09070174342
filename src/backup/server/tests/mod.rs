//! Servers that say what a test makes them say, and real ones.

pub(super) mod bytes;
mod copies;
mod postgres;
mod real;
mod scripted;

use std::path::PathBuf;

use super::{Compression, ManifestChecksums, Options, Tablespace};

const ZSTD: Compression = Compression::Zstd { level: 1, workers: 2 };

fn options(compression: Compression) -> Options {
    Options {
        label: "dbctl's test".to_owned(),
        compression,
        manifest_checksums: ManifestChecksums::Crc32c,
        verify_pages: true,
        max_rate: None,
    }
}

fn tablespace(oid: u32, path: impl Into<PathBuf>) -> Tablespace {
    Tablespace { oid, path: path.into() }
}
