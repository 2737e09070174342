//! What a member tells of a major upgrade; plain data.

use serde::{Deserialize, Serialize};

use super::disk::Made;

/// How far the upgrade is on this member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MajorReport {
    /// The upgrade.
    pub id: String,
    /// What the member does about it.
    pub state: MajorState,
    /// What it is at, or what is wrong, in words.
    pub words: String,
    /// The data, where PostgreSQL does not run on it and there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Facts>,
    /// The new data, once it has the old one's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
}

/// What a member does about a major upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MajorState {
    /// It starts nothing until the mark allows it.
    Waiting,
    /// It runs pg_upgrade.
    Upgrading,
    /// The new data is in place.
    Made,
    /// There is no new data, and the old is as it was.
    Failed,
    /// It has put everything back as it was.
    Undone,
    /// It runs.
    Running,
    /// It runs, and extensions and statistics are those of the new release.
    Finished,
    /// It has not looked yet, or a newer agent says something else.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What pg_controldata tells of data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Facts {
    /// The major version.
    pub major: u8,
    /// It was a primary, and was shut down in order.
    pub shut_down: bool,
    /// The timeline of the last checkpoint.
    pub timeline: i64,
    /// Where that begins.
    pub checkpoint: i64,
    /// Of what database it is.
    pub system_identifier: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_agents_words_break_nothing() {
        let report: MajorReport = serde_json::from_str(r#"{"id":"x","state":"dancing","more":1}"#).unwrap();
        assert_eq!((report.state, report.id.as_str()), (MajorState::Unknown, "x"));
        let text = serde_json::to_string(&MajorReport { state: MajorState::Made, ..report }).unwrap();
        assert_eq!(text, r#"{"id":"x","state":"made","words":""}"#);
    }
}
