//! What came of restoring a backup to check it: `verified.json`.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backup::store::{Store, StoreError};

/// Name of the object, in the backup's directory.
pub const VERIFIED: &str = "verified.json";

/// Whether a backup can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// PostgreSQL recovered from it, and found nothing wrong.
    Good,
    /// It did not, or it did.
    Bad,
}

/// The content of `verified.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// When that was known, by the clock of who checked it.
    pub at: Timestamp,
    /// What came of it.
    pub outcome: Outcome,
    /// What is wrong with a bad one, in words that fit after "failed to".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What was looked at without anything found, in that order.
    #[serde(default)]
    pub checked: Vec<String>,
    /// How long it took.
    #[serde(default)]
    pub duration_seconds: f64,
}

impl Verified {
    /// What is wrong with it, where something is.
    pub fn damage(&self) -> Option<&str> {
        let words = self.problem.as_deref().unwrap_or("it is not said what is wrong");
        (self.outcome == Outcome::Bad).then_some(words)
    }

    /// Writes it down; what was found before is replaced.
    ///
    /// # Errors
    /// Where the store does not take it.
    pub async fn write(&self, store: &Store, directory: &str) -> Result<(), StoreError> {
        let text = serde_json::to_string(self).unwrap_or_default();
        store.put(&format!("{directory}/{VERIFIED}"), Bytes::from(format!("{text}\n"))).await
    }
}
