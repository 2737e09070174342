//! What a base backup should be, and the command for it. Pure.

use std::fmt::Write;

use super::error::{Report, ServerError};

/// The first release with named options and compression by the server.
pub(super) const NAMED_OPTIONS: u32 = 15;

/// How a base backup is taken. What has no choice here: the checkpoint is immediate, the WAL is left to the archive and not
/// waited for, there is a manifest, and tablespaces are listed in `tablespace_map`, as in those of `pg_basebackup -Ft`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Stands in `backup_label`; without control characters.
    pub label: String,
    /// What the server does to the archives before it sends them; less where it cannot.
    pub compression: Compression,
    /// What the manifest says of each file.
    pub manifest_checksums: ManifestChecksums,
    /// Whether the server checks pages as it reads them, where the cluster has checksums.
    pub verify_pages: bool,
    /// At most so many KiB per second are sent; the server takes 32 to 1048576.
    pub max_rate: Option<u32>,
}

/// Compression by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// One Zstandard frame for each archive.
    Zstd {
        /// 1 to 22.
        level: u8,
        /// Threads that compress beside the one that reads; 0 is none.
        workers: u8,
    },
}

/// How the manifest describes the content of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestChecksums {
    /// Finds what changed by accident.
    Crc32c,
    /// And by intent.
    Sha256,
}

impl Compression {
    /// What a server of that release can do of it at best.
    pub(super) fn on(self, major: u32) -> Self {
        if major < NAMED_OPTIONS { Self::None } else { self }
    }

    /// What to ask for after that refusal of it; `None` where the refusal cannot have to do with it.
    ///
    /// There is no asking beforehand. Without threads in its libzstd a server refuses workers with
    /// `invalid_parameter_value`; built without libzstd, the compression with a syntax error, or as not supported. All of
    /// that comes before it sends anything.
    pub(super) fn after(self, refusal: &Report) -> Option<Self> {
        match (self, refusal.code.as_str()) {
            (Self::Zstd { level, workers: 1.. }, "22023") => Some(Self::Zstd { level, workers: 0 }),
            (Self::Zstd { .. }, "42601" | "0A000") => Some(Self::None),
            _ => None,
        }
    }

    /// What it adds to the name of an archive.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Zstd { .. } => ".zst",
        }
    }
}

impl Options {
    /// The command for a server of that release, with that compression.
    pub(super) fn command(&self, major: u32, compression: Compression) -> Result<String, ServerError> {
        self.check()?;
        let named = major >= NAMED_OPTIONS;
        let label = self.label.replace('\'', "''");
        let checksums = match self.manifest_checksums {
            ManifestChecksums::Crc32c => "CRC32C",
            ManifestChecksums::Sha256 => "SHA256",
        };
        let mut words = if named {
            vec![
                format!("LABEL '{label}'"),
                "PROGRESS true, CHECKPOINT 'fast', WAL false, WAIT false, TABLESPACE_MAP true".to_owned(),
            ]
        } else {
            // No WAL is the default there.
            vec![format!("LABEL '{label}'"), "PROGRESS FAST NOWAIT TABLESPACE_MAP".to_owned()]
        };
        let separator = if named { ", " } else { " " };
        words.push(format!("MANIFEST 'yes'{separator}MANIFEST_CHECKSUMS '{checksums}'"));
        if !self.verify_pages {
            words.push(if named { "VERIFY_CHECKSUMS false" } else { "NOVERIFY_CHECKSUMS" }.to_owned());
        }
        words.extend(self.max_rate.map(|rate| format!("MAX_RATE {rate}")));
        if let (Compression::Zstd { level, workers }, true) = (compression, named) {
            let mut detail = format!("level={level}");
            if workers > 0 {
                // Writing to a string does not fail.
                let _ = write!(detail, ",workers={workers}");
            }
            words.push(format!("COMPRESSION 'zstd', COMPRESSION_DETAIL '{detail}'"));
        }
        let words = words.join(separator);
        Ok(if named { format!("BASE_BACKUP ({words})") } else { format!("BASE_BACKUP {words}") })
    }

    fn check(&self) -> Result<(), ServerError> {
        // The label is a line of a file that PostgreSQL reads again.
        if self.label.chars().any(char::is_control) {
            return Err(ServerError::Options(format!("its label {:?} has control characters", self.label)));
        }
        match self.compression {
            // A server says that in the words with which it also says that it cannot compress.
            Compression::Zstd { level, .. } if !(1..=22).contains(&level) => {
                Err(ServerError::Options(format!("level {level} of zstd is not one of 1 to 22")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZSTD: Compression = Compression::Zstd { level: 1, workers: 2 };

    fn options() -> Options {
        Options {
            label: "it's a backup".to_owned(),
            compression: ZSTD,
            manifest_checksums: ManifestChecksums::Sha256,
            verify_pages: true,
            max_rate: None,
        }
    }

    #[test]
    fn commands() {
        let text = |options: &Options, major| options.command(major, options.compression.on(major)).unwrap();
        insta::assert_snapshot!(text(&options(), 15), @"BASE_BACKUP (LABEL 'it''s a backup', PROGRESS true, CHECKPOINT 'fast', WAL false, WAIT false, TABLESPACE_MAP true, MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256', COMPRESSION 'zstd', COMPRESSION_DETAIL 'level=1,workers=2')");
        insta::assert_snapshot!(text(&options(), 14), @"BASE_BACKUP LABEL 'it''s a backup' PROGRESS FAST NOWAIT TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'SHA256'");
        let other = Options {
            label: String::new(),
            compression: Compression::Zstd { level: 22, workers: 0 },
            manifest_checksums: ManifestChecksums::Crc32c,
            verify_pages: false,
            max_rate: Some(32),
        };
        insta::assert_snapshot!(text(&other, 18), @"BASE_BACKUP (LABEL '', PROGRESS true, CHECKPOINT 'fast', WAL false, WAIT false, TABLESPACE_MAP true, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', VERIFY_CHECKSUMS false, MAX_RATE 32, COMPRESSION 'zstd', COMPRESSION_DETAIL 'level=22')");
        insta::assert_snapshot!(text(&other, 14), @"BASE_BACKUP LABEL '' PROGRESS FAST NOWAIT TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C' NOVERIFY_CHECKSUMS MAX_RATE 32");
    }

    #[test]
    fn what_no_server_should_be_asked() {
        for label in ["a\nSTART TIMELINE: 1", "\0", "\u{7f}"] {
            let bad = Options { label: label.to_owned(), ..options() };
            assert!(matches!(bad.command(16, ZSTD), Err(ServerError::Options(_))), "{label:?}");
        }
        for level in [0, 23, 255] {
            let bad = Options { compression: Compression::Zstd { level, workers: 0 }, ..options() };
            assert!(matches!(bad.command(16, bad.compression), Err(ServerError::Options(_))), "{level}");
        }
    }

    #[test]
    fn a_refusal_leads_to_less_and_never_round_in_circles() {
        let refusal = |code: &str| Report { code: code.to_owned(), ..Report::default() };
        let alone = Compression::Zstd { level: 1, workers: 0 };
        let cases = [
            (ZSTD, "22023", Some(alone)),
            (ZSTD, "42601", Some(Compression::None)),
            (ZSTD, "0A000", Some(Compression::None)),
            (alone, "22023", None),
            (alone, "42601", Some(Compression::None)),
            (Compression::None, "42601", None),
            (Compression::None, "22023", None),
            (ZSTD, "42501", None),
            (ZSTD, "53300", None),
        ];
        for (asked, code, expected) in cases {
            assert_eq!(asked.after(&refusal(code)), expected, "{asked:?} {code}");
        }
    }
}
