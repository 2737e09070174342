//! What the controller says about a `Database`. Only the controller writes it, and nobody decides by it.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::ConditionType;

// What is stored and cannot be read, because a hand or another version wrote it, counts as not said: the next pass says it
// anew, and the Database stays readable.
/// Observed state.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// The `metadata.generation` that this status answers.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for where the database stands.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The member that holds the leader lock.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Members that exist.
    #[serde(default, deserialize_with = "readable")]
    pub replicas: i32,
    /// Members that are ready.
    #[serde(default, deserialize_with = "readable")]
    pub ready_replicas: i32,
    /// Ready members of those asked for, for example `2/3`.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// Label selector of the members' pods, as text: what the scale subresource needs.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The PostgreSQL release that all members run.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub version: Option<String>,
    /// When the newest good base backup ended.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub last_backup_time: Option<Time>,
    /// The first instant that can be restored.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub earliest_recovery_time: Option<Time>,
    /// The last hundred good base backups, newest first.
    #[serde(default, deserialize_with = "readable_items", skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<StoredBackup>,
    /// The members.
    #[serde(default, deserialize_with = "readable_items", skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    /// A version change under way.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeProgress>,
    /// The newest change of primary.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<Failover>,
    /// The last ten changes of primary, newest first.
    #[serde(default, deserialize_with = "readable_items", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub failovers: Vec<Failover>,
    /// Present while nobody can write to a database that could be written to before.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub outage: Option<Outage>,
    /// The last ten requests and their outcomes, newest first.
    #[serde(default, deserialize_with = "readable_items", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub operations: Vec<Operation>,
    /// Ready, Writable, BackupsHealthy, StorageHealthy and UpToDate.
    #[serde(default, deserialize_with = "readable_items", skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The value, or none where it is no such value.
fn readable<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(from: D) -> Result<T, D::Error> {
    let value = Value::deserialize(from)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// The items that can be read.
fn readable_items<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    let value = Value::deserialize(from)?;
    let Value::Array(items) = value else { return Ok(Vec::new()) };
    Ok(items.into_iter().filter_map(|item| serde_json::from_value(item).ok()).collect())
}

/// One word for where a database stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Nothing has been made yet, or something must be settled first.
    Pending,
    /// Members are being made for the first time.
    Creating,
    /// As the spec asks.
    Running,
    /// Moving to what the spec asks, while it serves.
    Progressing,
    /// Serving with less than was asked for, or not serving.
    Degraded,
    /// The primary's role is moving.
    FailingOver,
    /// A version change is under way.
    Upgrading,
    /// Being filled from a backup.
    Restoring,
    /// Being deleted.
    Deleting,
    /// It cannot go on by itself.
    Failed,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A member.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// The pod's name.
    pub name: String,
    /// `primary`, `replica`, or nothing while it is neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Patroni's word for its state, for example `running` or `streaming`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The PostgreSQL release its pod was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its timeline: while it does not run, that of its data as last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,
    /// How many bytes of WAL it has still to replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<i64>,
    /// The node that it is on takes no further pods: it is about to be drained.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub node_cordoned: bool,
    /// What it keeps of before a restore in place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptData>,
}

/// Data from before a restore in place, beside a member's own.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptData {
    /// The request that moved it aside.
    pub id: String,
    /// What it takes, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
}

/// A base backup.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredBackup {
    /// Its id.
    pub id: String,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// The member that it was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its stored size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// When it was last restored and checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Time>,
    /// What was found wrong with it then; absent where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_problem: Option<String>,
}

/// A version change under way.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeProgress {
    /// The release it started from.
    pub from: String,
    /// The release it goes to.
    pub to: String,
    /// The step it is at.
    pub step: String,
    /// The member that the step works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// What is done, or waited for, or why it halted and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
}

/// A change of primary.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// The primary before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The primary after.
    pub to: String,
    /// Why, in one CamelCase word.
    pub reason: String,
    /// When the old primary was last seen to hold the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the new one accepted writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable_at: Option<Time>,
    /// Seconds between the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
    /// The timeline that it opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,
}

/// A time in which nobody can write.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    /// The primary before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Why, in one CamelCase word, as far as it is known.
    pub reason: String,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
}

/// A request and its outcome.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// The request's id.
    pub id: String,
    /// Its verb.
    pub kind: String,
    /// How far it got.
    pub phase: OperationPhase,
    /// What happened, or why it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The primary when it was taken up; of a verification, the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The member that is to be primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Members that are still to be worked on, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remaining: Vec<String>,
    /// Members that have been worked on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<String>,
    /// When work on the first of the remaining members began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_started_at: Option<Time>,
    /// When it was taken up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// How far a request got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperationPhase {
    /// Seen, not begun.
    #[default]
    Accepted,
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Not begun, and will not be.
    Rejected,
    /// Begun and not done.
    Failed,
}

impl OperationPhase {
    /// Something is still to happen.
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Accepted | Self::Running)
    }
}

impl DatabaseStatus {
    /// Whether that condition is true; one that was never written is not.
    pub fn is_true(&self, kind: ConditionType) -> bool {
        let kind = kind.to_string();
        self.conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_read_counts_as_not_said() {
        let whole = json!({
            "observedGeneration": 3, "phase": "Running", "primary": "db-0", "replicas": 2, "readyReplicas": 2, "ready": "2/2",
            "version": "16.15", "lastBackupTime": "2026-11-22T03:00:00Z", "earliestRecoveryTime": "2026-11-20T03:00:00Z",
            "backups": [{ "id": "a", "finishedAt": "2026-11-22T03:00:00Z" }],
            "instances": [{ "name": "db-0" }, { "name": "db-1", "lagBytes": 5 }],
            "operations": [{ "id": "1", "kind": "backup", "phase": "Running" }],
            "conditions": [{ "type": "Ready", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-11-22T03:00:00Z" }],
        });
        let good: DatabaseStatus = serde_json::from_value(whole.clone()).unwrap();
        assert_eq!((good.instances.len(), good.conditions.len(), good.operations.len()), (2, 1, 1));
        assert_eq!(serde_json::to_value(&good).unwrap(), whole);
        // Each field by itself, and the others stay.
        for field in whole.as_object().unwrap().keys() {
            for bad in [json!("x"), json!({ "a": [1] }), json!(-7.5), json!(null), json!([{ "phase": 5 }, 3])]
            {
                let mut status = whole.clone();
                status[field] = bad;
                let read: DatabaseStatus = serde_json::from_value(status).unwrap();
                let others = serde_json::to_value(&read).unwrap();
                for (other, value) in whole.as_object().unwrap() {
                    assert!(other == field || &others[other] == value, "{field}: {other}");
                }
            }
        }
        let mixed = json!({ "instances": [{ "name": 5 }, { "name": "db-1" }], "conditions": "none", "phase": "Dancing" });
        let read: DatabaseStatus = serde_json::from_value(mixed).unwrap();
        assert_eq!(read.instances.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["db-1"]);
        assert_eq!((read.phase, read.conditions.len()), (None, 0));
    }
}
