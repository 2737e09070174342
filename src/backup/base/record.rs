//! What is known of a base backup: `backup.json`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backup::layout::Epoch;
use crate::backup::server::Point;
use crate::backup::wal::SegmentSize;

/// Name of the object that makes a backup one.
pub const COMMIT: &str = "backup.json";
/// The version of the format.
pub const FORMAT: u32 = 1;

/// A backup's name: when it began (UTC), timeline and position of its start, and six characters that make it unique.
/// `20261122T030000Z-00000001-0000000003000028-k3x9ab`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

/// Not the name of a backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "read {0:?} as a backup's id: expected YYYYMMDDTHHMMSSZ-TIMELINE-POSITION-RANDOM, as `dbctl backups` shows them"
)]
pub struct BackupIdError(String);

impl BackupId {
    /// A new one.
    pub fn new(began: Timestamp, start: Point) -> Self {
        let random: String = (0..6).map(|_| fastrand::char('a'..='z')).collect();
        let began = began.strftime("%Y%m%dT%H%M%SZ");
        Self(format!("{began}-{:08X}-{:016X}-{random}", start.timeline, start.position))
    }

    /// When it began, to the second; the clock is that of who took it.
    pub fn began(&self) -> Option<Timestamp> {
        let text = self.0.split('-').next()?;
        jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text)
            .ok()?
            .to_zoned(jiff::tz::TimeZone::UTC)
            .ok()
            .map(|at| at.timestamp())
    }

    /// Where recovery from it begins.
    pub fn start(&self) -> Option<Point> {
        let mut parts = self.0.split('-').skip(1);
        let timeline = u32::from_str_radix(parts.next()?, 16).ok()?;
        let position = u64::from_str_radix(parts.next()?, 16).ok()?;
        Some(Point { position, timeline })
    }

    /// Its directory in a destination.
    pub fn directory(&self, epoch: Epoch) -> String {
        format!("{epoch}/base/{self}")
    }
}

impl FromStr for BackupId {
    type Err = BackupIdError;

    fn from_str(text: &str) -> Result<Self, BackupIdError> {
        let id = Self(text.to_owned());
        let plain = |part: &str, length| {
            part.len() == length
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let parts: Vec<&str> = text.split('-').collect();
        let lengths = parts.iter().map(|part| part.len()).eq([16, 8, 16, 6]);
        let random = parts.last().is_some_and(|part| plain(part, 6));
        if lengths && random && id.began().is_some() && id.start().is_some() {
            Ok(id)
        } else {
            Err(BackupIdError(id.0))
        }
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BackupId {
    type Error = BackupIdError;

    fn try_from(text: String) -> Result<Self, BackupIdError> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}

/// The content of `backup.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The format's version.
    pub format: u32,
    /// Its name.
    pub id: BackupId,
    /// The archive that it belongs to.
    pub archive: String,
    /// Namespace and name of the database.
    pub database: String,
    /// The member that it was taken from.
    pub from: String,
    /// The request that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When it began, by the clock of who took it.
    pub started_at: Timestamp,
    /// When PostgreSQL had sent all of it: no earlier instant can be restored from it.
    pub stopped_at: Timestamp,
    /// The exact release, for example 16.15.
    pub version: String,
    /// The cluster's system identifier.
    #[serde(with = "text")]
    pub system_identifier: u64,
    /// Bytes of a segment of WAL.
    pub segment_size: u64,
    /// The timeline, from its start to its stop.
    pub timeline: u32,
    /// Where recovery begins.
    #[serde(with = "lsn")]
    pub start_lsn: u64,
    /// From where on it is consistent.
    #[serde(with = "lsn")]
    pub stop_lsn: u64,
    /// Bytes of the cluster's files, before compression.
    pub size: u64,
    /// Bytes in the store.
    pub bytes: u64,
    /// The tar files, compressed with zstd; the data directory's is last.
    pub archives: Vec<StoredArchive>,
    /// PostgreSQL's manifest.
    pub manifest: Part,
}

/// A tar file in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredArchive {
    /// What is in it; absent for the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tablespace: Option<TablespaceRecord>,
    /// The objects that make it up, one after the other.
    pub parts: Vec<Part>,
}

/// A tablespace outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceRecord {
    /// Its identifier.
    pub oid: u32,
    /// Where it was.
    pub path: String,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name in the backup's directory.
    pub name: String,
    /// Bytes as stored.
    pub bytes: u64,
    /// SHA-256 of those, in hexadecimal digits.
    pub sha256: String,
}

impl Record {
    /// Which cluster's it is; `None` where the record makes no sense.
    pub fn epoch(&self) -> Option<Epoch> {
        let major = self.version.split('.').next()?.parse().ok()?;
        Some(Epoch { major, system_identifier: self.system_identifier })
    }

    /// Of its WAL; `None` where the record makes no sense.
    pub fn wal_segment_size(&self) -> Option<SegmentSize> {
        SegmentSize::new(self.segment_size)
    }

    /// Where recovery begins.
    pub fn start(&self) -> Point {
        Point { position: self.start_lsn, timeline: self.timeline }
    }
}

/// Numbers that JSON's readers may round are written as text.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Positions as PostgreSQL writes them.
mod lsn {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::backup::wal::{position, position_text};

    pub(super) fn serialize<S: Serializer>(lsn: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&position_text(*lsn))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        position(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no WAL position")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_when_and_where_it_began() {
        let began: Timestamp = "2026-11-22T03:00:07.9Z".parse().unwrap();
        let start = Point { position: 0x1_0300_0028, timeline: 0x1A };
        let id = BackupId::new(began, start);
        assert!(id.to_string().starts_with("20261122T030007Z-0000001A-0000000103000028-"), "{id}");
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_eq!(id.began(), Some("2026-11-22T03:00:07Z".parse().unwrap()));
        assert_eq!(id.start(), Some(start));
        assert_ne!(BackupId::new(began, start), id);
        for bad in [
            "",
            "latest",
            "20261122T030007Z-0000001A-0000000103000028",
            "20261122T030007Z-0000001A-0000000103000028-../../",
            "20261322T030007Z-0000001A-0000000103000028-abcdef",
            "20261122T030007Z-0000001X-0000000103000028-abcdef",
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad}");
        }
    }
}
