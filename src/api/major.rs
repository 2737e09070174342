//! A major upgrade, as it is marked beside the data: on Patroni's `NAME-config`, which outlives the Database. The mark alone
//! says how far it is; the status tells people of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::PgVersion;

/// The annotation of `NAME-config` that holds the mark.
pub const MAJOR_UPGRADE: &str = "db.example.com/major-upgrade";

/// The mark of a major upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MajorUpgrade {
    /// The id of the request that asked for it; what it leaves on volumes carries it in its name.
    pub id: String,
    /// The release of the data before.
    pub from: PgVersion,
    /// The release that it goes to.
    pub to: PgVersion,
    /// How far it is.
    pub stage: MajorStage,
    /// Files are shared with the old data directory by hard links. It cannot be gone back to then once the new one was
    /// started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub link: bool,
    /// The system identifier of the old data: Patroni's `initialize`.
    pub initialize: String,
    /// The member whose data is upgraded: the one that has every commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// The system identifier of the new data, once there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// How long pg_upgrade took, and how, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took: Option<String>,
    /// Why it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the members were first told to stop: nobody can write from then on.
    pub closed_at: Timestamp,
    /// When the new primary was first seen to accept writes, or the old one again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable_at: Option<Timestamp>,
}

/// How far a major upgrade is. Each is written before anything is done in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MajorStage {
    /// All members stop, and come back with the new release's programs. None starts PostgreSQL.
    Stopping,
    /// The member upgrades its data, beside the old.
    Upgrading,
    /// Patroni's objects forget the old data.
    Clearing,
    /// The member starts with the new data; once it leads, the others are cloned from it. There is no way back from here.
    Opened,
    /// It is done, and the old data goes.
    Finished,
    /// All members stop, come back with the old release's programs, and put the old data back.
    Undoing,
    /// The member starts with the old data; once it leads, the others follow.
    Returning,
    /// All is as it was.
    Undone,
}

impl MajorStage {
    /// Nothing is to be done any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Undone)
    }

    /// It can still be taken back: nobody has written to the new data.
    pub fn can_be_undone(self) -> bool {
        matches!(self, Self::Stopping | Self::Upgrading | Self::Clearing)
    }

    /// The members are to have the new release's programs.
    pub fn is_forward(self) -> bool {
        matches!(self, Self::Stopping | Self::Upgrading | Self::Clearing | Self::Opened | Self::Finished)
    }
}

impl MajorUpgrade {
    /// Reads the mark of a ConfigMap's annotations. One that cannot be read is none: whoever must not take it for none asks
    /// [`MajorUpgrade::parse`].
    pub fn of(config_map: &serde_json::Value) -> Option<Self> {
        Self::parse(config_map).ok().flatten()
    }

    /// The same, and that there is one that cannot be read is an error.
    ///
    /// # Errors
    /// Where the annotation is there and is no mark.
    pub fn parse(config_map: &serde_json::Value) -> Result<Option<Self>, serde_json::Error> {
        let annotations = config_map.get("metadata").and_then(|metadata| metadata.get("annotations"));
        let text = annotations.and_then(|annotations| annotations.get(MAJOR_UPGRADE)?.as_str());
        text.map(serde_json::from_str).transpose()
    }

    /// The release whose programs the members are to have.
    pub fn release(&self) -> PgVersion {
        if self.stage.is_forward() { self.to } else { self.from }
    }

    /// The mark at another stage.
    pub fn at(&self, stage: MajorStage) -> Self {
        Self { stage, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mark_is_read_as_it_is_written_and_a_bad_one_is_not_taken_for_none() {
        let mark = MajorUpgrade {
            id: "01JD".to_owned(),
            from: "16.15".parse().unwrap(),
            to: "17.11".parse().unwrap(),
            stage: MajorStage::Upgrading,
            link: false,
            initialize: "7".to_owned(),
            member: Some("db-1".to_owned()),
            system_identifier: None,
            took: None,
            reason: None,
            closed_at: Timestamp::UNIX_EPOCH,
            writable_at: None,
        };
        let map = |text: String| json!({ "metadata": { "annotations": { MAJOR_UPGRADE: text } } });
        let text = serde_json::to_string(&mark).unwrap();
        assert_eq!(
            text,
            r#"{"id":"01JD","from":"16.15","to":"17.11","stage":"Upgrading","initialize":"7","member":"db-1","closedAt":"1970-01-01T00:00:00Z"}"#
        );
        assert_eq!(MajorUpgrade::of(&map(text)), Some(mark.clone()));
        assert!(MajorUpgrade::parse(&json!({ "metadata": {} })).unwrap().is_none());
        assert!(MajorUpgrade::parse(&map("{}".to_owned())).is_err());
        assert_eq!((mark.release().major(), mark.at(MajorStage::Undoing).release().major()), (17, 16));
    }
}
