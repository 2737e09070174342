//! What stands beside a database's data of its last restore in place: annotations of Patroni's `NAME-config`. Whoever may
//! start on the data reads them first: they are what decides, not the status.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ulid::Ulid;

/// Annotation with the [`Mark`].
pub const RESTORED: &str = "db.example.com/restored";
/// Annotation with what Patroni knew of the data that was replaced, for whoever puts it back.
pub const REPLACED: &str = "db.example.com/replaced";
/// Annotation with the ids of kept data that members are to remove, separated by commas.
pub const DISCARD: &str = "db.example.com/discard";

/// The last restore in place: of which data every member's volume is to be, and how far that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// The request's id. No request that is as old, or older, ever replaces data again.
    pub id: Ulid,
    /// How far it is.
    pub stage: Stage,
    /// The id under which the old data lies on each volume: that of the request that moved it aside.
    pub old: Ulid,
    /// The old data is put back; nothing is restored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undo: bool,
    /// The old data is not kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discard: bool,
    /// The destination.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// The base backup to begin with; the newest that fits without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Everything that was committed by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_time: Option<String>,
    /// Up to that WAL position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_lsn: Option<String>,
    /// Up to that restore point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_name: Option<String>,
}

/// How far a restore in place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Members stop, and none may start. Until all have, nothing is lost by a way back.
    Stopping,
    /// All have stopped, and what Patroni knew is noted.
    Stopped,
    /// Patroni knows of no data; the first member makes it.
    Restoring,
    /// There is a primary with the data that was asked for.
    Done,
}

impl Mark {
    /// Reads it from `NAME-config`; `None` where nothing was ever restored in place.
    ///
    /// # Errors
    /// Where there is one that cannot be read: then it is not known of which data a volume should be.
    pub fn of(config_map: &Value) -> Result<Option<Self>, serde_json::Error> {
        annotation(config_map, RESTORED).map(serde_json::from_str).transpose()
    }

    /// It is not over: what the members' volumes hold is being replaced.
    pub fn is_under_way(&self) -> bool {
        self.stage != Stage::Done
    }

    /// The target, in words that follow "to".
    pub fn target(&self) -> String {
        match (&self.target_time, &self.target_lsn, &self.target_name) {
            (Some(at), _, _) => at.clone(),
            (_, Some(lsn), _) => format!("WAL position {lsn}"),
            (_, _, Some(name)) => format!("restore point {name:?}"),
            _ => "the end of the archive".to_owned(),
        }
    }

    /// As the annotation holds it.
    pub fn text(&self) -> String {
        // A struct of plain fields can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The ids of kept data that members are to remove.
pub fn discarded(config_map: &Value) -> Vec<Ulid> {
    let listed = annotation(config_map, DISCARD).unwrap_or_default();
    listed.split(',').filter_map(|id| Ulid::from_string(id.trim()).ok()).collect()
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// Data that a member keeps beside its own, as it was before a restore in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// The request that moved it aside.
    pub id: Ulid,
    /// What it takes, in bytes; absent until it has been counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// How a member's own data was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovered {
    /// The base backup.
    pub backup: String,
    /// The timeline that it opened.
    pub timeline: u32,
    /// When its last transaction was committed, where any WAL with one was replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mark() -> Mark {
        Mark {
            id: Ulid::from_parts(7, 1),
            stage: Stage::Stopping,
            old: Ulid::from_parts(7, 1),
            undo: false,
            discard: false,
            from: "s3://b/p".to_owned(),
            backup: None,
            target_time: Some("2026-11-22T10:00:00Z".to_owned()),
            target_lsn: None,
            target_name: None,
        }
    }

    fn with(annotations: Value) -> Value {
        json!({ "metadata": { "annotations": annotations } })
    }

    #[test]
    fn a_mark_is_read_back_and_a_damaged_one_is_no_absent_one() {
        assert_eq!(Mark::of(&json!({})).unwrap(), None);
        assert_eq!(Mark::of(&with(json!({ RESTORED: mark().text() }))).unwrap(), Some(mark()));
        for wrong in ["", "{", r#"{"id":"x","stage":"Done","old":"x"}"#] {
            assert!(Mark::of(&with(json!({ RESTORED: wrong }))).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_ids_are_discarded() {
        let (one, two) = (Ulid::from_parts(1, 1), Ulid::from_parts(2, 2));
        let listed = with(json!({ DISCARD: format!("{one}, ../pgdata,,{two}") }));
        assert_eq!(discarded(&listed), [one, two]);
        assert_eq!(discarded(&json!({})), []);
    }
}
