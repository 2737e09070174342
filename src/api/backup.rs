//! What a backup's pod tells: two documents in ConfigMap `NAME-backups`. Plain data.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Key of [`Catalog`].
pub const CATALOG_KEY: &str = "catalog.json";
/// Key of a backup's [`Progress`].
pub const PROGRESS_KEY: &str = "progress.json";
/// Key of a verification's [`Progress`]: one may go on beside a backup.
pub const VERIFYING_KEY: &str = "verifying.json";

/// The base backups that were in the destination when a backup last ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Catalog {
    /// When the destination was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The good ones, newest first.
    #[serde(default)]
    pub backups: Vec<CatalogEntry>,
    /// The first instant that can be restored: the end of the oldest backup.
    #[serde(default)]
    pub earliest: Option<Timestamp>,
    /// The last instant that could be restored then: the end of the archive. WAL that was archived since moves it.
    #[serde(default)]
    pub latest: Option<Timestamp>,
}

/// One base backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CatalogEntry {
    /// Its id in the destination.
    pub id: String,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When the server had sent all of it: from here on it can be restored.
    pub stopped_at: Timestamp,
    /// The member that it was taken from.
    #[serde(default)]
    pub from: String,
    /// The timeline that it was taken on; from 1.
    #[serde(default)]
    pub timeline: u32,
    /// Where the WAL that it needs begins, in PostgreSQL's notation.
    #[serde(default)]
    pub start_lsn: String,
    /// Where the WAL that it needs ends.
    #[serde(default)]
    pub stop_lsn: String,
    /// What it takes in the destination, in bytes.
    #[serde(default)]
    pub bytes: u64,
    /// The data, in bytes.
    #[serde(default)]
    pub size: u64,
    /// The PostgreSQL release that it was taken from.
    #[serde(default)]
    pub version: String,
    /// The request that asked for it; none for one of the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When it was last restored and checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// What was found wrong with it then, in words that fit after "failed to"; none where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_problem: Option<String>,
}

/// A backup under way; the key is there while one is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The request that asked for it; none for one of the schedule.
    #[serde(default)]
    pub request: Option<String>,
    /// The Job's pod.
    pub pod: String,
    /// What it is at, as a phrase.
    pub phase: String,
    /// How many bytes of the data have been sent.
    #[serde(default)]
    pub bytes: u64,
    /// How many there are to send, as far as that is known.
    #[serde(default)]
    pub total: Option<u64>,
    /// When it was begun.
    pub started_at: Timestamp,
}

impl Catalog {
    /// The catalog in the ConfigMap; `None` where there is none that can be read.
    pub fn of(map: &Value) -> Option<Self> {
        read(map, CATALOG_KEY)
    }

    /// The newest backup.
    pub fn newest(&self) -> Option<&CatalogEntry> {
        self.backups.first()
    }

    /// The backup that was taken for that request.
    pub fn for_request(&self, id: &str) -> Option<&CatalogEntry> {
        self.backups.iter().find(|entry| entry.request.as_deref() == Some(id))
    }
}

impl Progress {
    /// The backup's progress in the ConfigMap; `None` where nothing is under way.
    pub fn of(map: &Value) -> Option<Self> {
        read(map, PROGRESS_KEY)
    }

    /// The same of a verification.
    pub fn of_verification(map: &Value) -> Option<Self> {
        read(map, VERIFYING_KEY)
    }
}

fn read<T: serde::de::DeserializeOwned>(map: &Value, key: &str) -> Option<T> {
    serde_json::from_str(map.get("data")?.get(key)?.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_documents_are_read_as_they_are_written() {
        let catalog = json!({
            "at": "2026-11-22T03:00:09Z",
            "backups": [{
                "id": "20261122T030000Z-00000001-0000000003000028-abc123", "startedAt": "2026-11-22T03:00:00Z",
                "stoppedAt": "2026-11-22T03:00:04Z", "from": "db-1", "timeline": 1, "startLsn": "0/3000028",
                "stopLsn": "0/3000120", "bytes": 4_100_200, "size": 31_000_000, "version": "16.15",
                "request": "01JD", "verifiedAt": "2026-11-22T04:00:00Z",
            }],
            "earliest": "2026-11-22T03:00:04Z", "latest": null,
        });
        let progress = json!({ "request": null, "pod": "db-backup-x", "phase": "sending", "bytes": 5, "total": null,
            "startedAt": "2026-11-22T03:00:00Z" });
        let map = json!({ "data": { CATALOG_KEY: catalog.to_string(), PROGRESS_KEY: progress.to_string() } });
        let read = Catalog::of(&map).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), catalog);
        assert_eq!(read.for_request("01JD"), read.newest());
        assert_eq!(read.for_request("other"), None);
        assert_eq!(serde_json::to_value(Progress::of(&map).unwrap()).unwrap(), progress);
    }

    #[test]
    fn what_cannot_be_read_is_not_there() {
        for map in
            [json!({}), json!({ "data": {} }), json!({ "data": { CATALOG_KEY: "{", PROGRESS_KEY: "[]" } })]
        {
            assert_eq!((Catalog::of(&map), Progress::of(&map)), (None, None), "{map}");
        }
        let sparse = json!({ "data": { CATALOG_KEY: json!({ "backups": [{ "id": "a", "startedAt": "2026-11-22T03:00:00Z",
            "stoppedAt": "2026-11-22T03:00:04Z", "new": 1 }] }).to_string() } });
        assert_eq!(Catalog::of(&sparse).unwrap().newest().unwrap().bytes, 0);
    }
}
