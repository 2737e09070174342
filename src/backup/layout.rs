//! What lies where in a destination.
//!
//! ```text
//! claim.json                                     whose archive it is
//! <major>-<system identifier>/                   an epoch: a major upgrade begins another
//!   wal/<TLI8><LOG8>/<SEG24>-<hash>.zst          whole segments
//!   wal/<TLI8><LOG8>/<SEG24>.partial-<hash>.zst  the beginning of one whose timeline ended in it
//!   wal/<TLI8><LOG8>/<SEG24>.<offset>.backup-<hash>.zst
//!   history/<TLI8>.history-<hash>                as PostgreSQL wrote them; never removed
//!   base/<id>/                                   base backups
//! ```
//!
//! The hash is of the raw bytes. So nothing can ever be overwritten by something else, a write that is done twice has the
//! same outcome, and to compare what is there takes no download.

use std::fmt;
use std::str::FromStr;

use ring::digest;

use super::wal::WalFile;

/// The claim's name.
pub const CLAIM: &str = "claim.json";

/// The first half of a SHA-256: enough that no two contents share it, short enough to read out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 16]);

impl ContentHash {
    /// That of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, bytes);
        let mut half = [0; 16];
        half.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Self(half)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for ContentHash {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = u128::from_str_radix(text, 16).map_err(|_| ())?;
        if text.len() == 32 && digits { Ok(Self(number.to_be_bytes())) } else { Err(()) }
    }
}

/// One cluster as `initdb` or `pg_upgrade` made it: WAL of two of them is never mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// PostgreSQL's major version.
    pub major: u32,
    /// The system identifier.
    pub system_identifier: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.major, self.system_identifier)
    }
}

impl FromStr for Epoch {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, system_identifier) = text.split_once('-').ok_or(())?;
        let epoch = Self {
            major: major.parse().map_err(|_| ())?,
            system_identifier: system_identifier.parse().map_err(|_| ())?,
        };
        if epoch.to_string() == text { Ok(epoch) } else { Err(()) }
    }
}

/// A file of WAL as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredWal {
    /// Which file.
    pub file: WalFile,
    /// Of its raw content.
    pub hash: ContentHash,
}

impl StoredWal {
    /// The directory in an epoch that holds all contents of that file, and its neighbours.
    pub fn directory(file: WalFile) -> String {
        match file {
            WalFile::Segment(segment) | WalFile::Partial(segment) | WalFile::Label(segment, _) => {
                format!("wal/{}", segment.directory())
            }
            WalFile::History(_) => "history".to_owned(),
        }
    }

    /// Its name in that directory.
    pub fn name(&self) -> String {
        let Self { file, hash } = self;
        // Small, and what somebody looks at first who restores by hand.
        let suffix = if matches!(file, WalFile::History(_)) { "" } else { ".zst" };
        format!("{file}-{hash}{suffix}")
    }

    /// Where it lies in a destination.
    pub fn key(&self, epoch: Epoch) -> String {
        format!("{epoch}/{}/{}", Self::directory(self.file), self.name())
    }

    /// Reads a name; `None` for what dbctl has not put there.
    pub fn parse(name: &str) -> Option<Self> {
        let (file, rest) = name.split_once('-')?;
        let hash = rest.strip_suffix(".zst").unwrap_or(rest).parse().ok()?;
        let stored = Self { file: file.parse().ok()?, hash };
        (stored.name() == name).then_some(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_their_place() {
        let epoch = Epoch { major: 16, system_identifier: 7_412_345_678_901_234_567 };
        let hash = ContentHash::of(b"abc");
        let key = |name: &str| StoredWal { file: name.parse().unwrap(), hash }.key(epoch);
        insta::assert_snapshot!(
            ["000000010000000200000003", "000000010000000200000003.partial", "000000010000000200000003.00000028.backup", "00000002.history"]
                .map(key).join("\n"),
            @"
            16-7412345678901234567/wal/0000000100000002/000000010000000200000003-ba7816bf8f01cfea414140de5dae2223.zst
            16-7412345678901234567/wal/0000000100000002/000000010000000200000003.partial-ba7816bf8f01cfea414140de5dae2223.zst
            16-7412345678901234567/wal/0000000100000002/000000010000000200000003.00000028.backup-ba7816bf8f01cfea414140de5dae2223.zst
            16-7412345678901234567/history/00000002.history-ba7816bf8f01cfea414140de5dae2223
            "
        );
        assert_eq!("16-7412345678901234567".parse(), Ok(epoch));
        for text in ["16", "16-", "-1", "016-1", "16-+1", "16-1-2"] {
            assert_eq!(text.parse::<Epoch>(), Err(()), "{text}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let hash = ContentHash::of(b"");
        for file in ["000000010000000200000003", "000000010000000200000003.partial", "00000002.history"] {
            let stored = StoredWal { file: file.parse().unwrap(), hash };
            assert_eq!(StoredWal::parse(&stored.name()), Some(stored));
        }
        for name in [
            "000000010000000200000003.zst",
            "000000010000000200000003-abc.zst",
            "000000010000000200000003-E3B0C44298FC1C149AFBF4C8996FB924.zst",
            "000000010000000200000003-e3b0c44298fc1c149afbf4c8996fb924",
            "00000002.history-e3b0c44298fc1c149afbf4c8996fb924.zst",
            "junk-e3b0c44298fc1c149afbf4c8996fb924.zst",
        ] {
            assert_eq!(StoredWal::parse(name), None, "{name}");
        }
    }
}
