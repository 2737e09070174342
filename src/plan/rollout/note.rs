//! What is noted of a rollout beside the data, so that neither a controller that starts anew nor a lost status makes it begin
//! again, or go on after it has halted.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::context::Context;
use super::super::notes;
use crate::api::PgVersion;

/// Annotation on Patroni's `NAME-config` with the rollout under way.
pub const ROLLOUT: &str = "db.example.com/rollout";

/// A rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// Hash of the template that all pods are to be made from.
    pub target: String,
    /// The release before.
    pub from: PgVersion,
    /// The release after; the same where something else changes.
    pub to: PgVersion,
    /// When it was begun.
    pub started_at: Timestamp,
    /// The StatefulSet makes pods from the new template. Before that a backup may be taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolling: bool,
    /// The request that the backup before it is made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// The template before, which is put back where it halts; none where that is what is rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Value>,
    /// Nothing moves any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<Halt>,
    /// The request that last had it go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<String>,
}

/// Why a rollout goes no further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Halt {
    /// The member that did not come back; none where it halted before any was touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// What is wrong, as a sentence.
    pub why: String,
}

impl Note {
    /// What was noted. What cannot be read counts as not noted.
    pub fn of(cx: &Context<'_>) -> Option<Self> {
        serde_json::from_str(notes::recorded(cx, &cx.names.dynamic_config(), ROLLOUT)?).ok()
    }

    /// As it is noted.
    pub fn text(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// It changes the release.
    pub fn is_upgrade(&self) -> bool {
        self.from != self.to
    }

    /// Hash of the template that is put back.
    pub fn base_hash(&self) -> Option<&str> {
        super::hash_of(self.base.as_ref()?)
    }
}
