//! What the agent says of itself, and the controller reads: plain data.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::major::MajorReport;
use crate::api::{Kept, Recovered};

/// Where it listens; the container's port `agent`.
pub const AGENT_PORT: u16 = 8009;

/// The answer to `GET /`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentReport {
    /// Whether PostgreSQL's first process is there.
    pub postmaster: PostmasterState,
    /// The volume of the data; absent where it cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// What WAL waits to be archived; absent where that cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveReport>,
    /// The last time in this pod's life that the watchdog ended the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fenced: Option<Fenced>,
    /// What is kept of before restores in place; absent where the agent does not know of them, or cannot read the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Vec<Kept>>,
    /// How the data was restored in place, on the member that did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovered>,
    /// How far a major upgrade is on this member; absent where it knows of none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<MajorReport>,
    /// By which passwords this member goes; absent where they are none that were ever changed.
    #[serde(skip_serializing_if = "Rotations::is_none")]
    pub rotations: Rotations,
}

/// For which requests passwords were last changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rotations {
    /// That of the applications' role; none where it is the first one still.
    pub app: Option<String>,
    /// Those of the members and the superuser.
    pub internal: Option<String>,
}

impl Rotations {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// PostgreSQL's first process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PostmasterState {
    /// It is there, which does not say that it answers.
    Running,
    /// It is not.
    Stopped,
    /// A word that a newer agent says.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A volume's room, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// All of it.
    pub size: u64,
    /// What PostgreSQL's user may still write.
    pub free: u64,
}

impl Disk {
    /// PostgreSQL gets no further file of WAL, and cannot write a checkpoint: to ask for one would end it with a panic.
    pub fn is_full(&self) -> bool {
        self.free < 32 << 20
    }
}

/// How archiving goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ArchiveReport {
    /// How many files wait.
    pub waiting: u64,
    /// Since when the oldest of them does.
    pub oldest_waiting: Option<Timestamp>,
    /// Why the last try failed; none where it did not.
    pub last_error: Option<ArchiveError>,
}

/// A try to archive a file that failed. `dbctl agent wal-push` leaves this, and takes it away again when it succeeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveError {
    /// When.
    pub at: Timestamp,
    /// Why, in the store's words.
    pub error: String,
    /// The WAL file.
    #[serde(default)]
    pub file: String,
}

/// The watchdog's last act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fenced {
    /// When.
    pub at: Timestamp,
    /// Why, as in the container's termination message.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_said_is_read_back_and_what_is_new_does_not_break_it() {
        let report = AgentReport {
            postmaster: PostmasterState::Running,
            disk: Some(Disk { size: 10, free: 4 }),
            archive: Some(ArchiveReport { waiting: 2, ..ArchiveReport::default() }),
            ..AgentReport::default()
        };
        let said = serde_json::to_value(&report).unwrap();
        let archive = json!({ "waiting": 2, "oldestWaiting": null, "lastError": null });
        assert_eq!(
            said,
            json!({ "postmaster": "running", "disk": { "size": 10, "free": 4 }, "archive": archive })
        );
        assert_eq!(serde_json::from_value::<AgentReport>(said).unwrap(), report);
        let newer = json!({ "postmaster": "dreaming", "more": 1 });
        assert_eq!(serde_json::from_value::<AgentReport>(newer).unwrap(), AgentReport::default());
    }
}
