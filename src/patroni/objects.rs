//! What Patroni writes: annotations of its four ConfigMaps and of the members' pods, and its answer to `GET /patroni`.
//!
//! All of it is text that somebody else wrote, at any time and perhaps by another version: what cannot be read counts
//! as not said.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

fn annotation_json<T: serde::de::DeserializeOwned>(object: &Value, key: &str) -> Option<T> {
    serde_json::from_str(annotation(object, key)?).ok()
}

/// The leader lock: ConfigMap `NAME-leader`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// The member that holds it.
    pub holder: Option<String>,
    /// WAL position of the holder when it last renewed.
    pub optime: Option<i64>,
    /// Members that the failsafe mode counts on: those that may race for the lock.
    pub failsafe: BTreeSet<String>,
}

impl Lock {
    /// Reads it from its ConfigMap.
    pub fn of(config_map: &Value) -> Self {
        let failsafe: BTreeMap<String, Value> = annotation_json(config_map, "failsafe").unwrap_or_default();
        Self {
            holder: annotation(config_map, "leader").filter(|name| !name.is_empty()).map(str::to_owned),
            optime: annotation(config_map, "optime").and_then(|text| text.parse().ok()),
            failsafe: failsafe.into_keys().collect(),
        }
    }
}

/// The synchronous state: ConfigMap `NAME-sync`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sync {
    /// The primary it is about.
    pub leader: Option<String>,
    /// Members whose confirmation commits wait for.
    pub standbys: BTreeSet<String>,
}

impl Sync {
    /// Reads it from its ConfigMap.
    pub fn of(config_map: &Value) -> Self {
        let standbys = annotation(config_map, "sync_standby").unwrap_or_default();
        Self {
            leader: annotation(config_map, "leader").filter(|name| !name.is_empty()).map(str::to_owned),
            standbys: standbys
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// The dynamic configuration: ConfigMap `NAME-config`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DynamicConfig {
    /// The system identifier; empty while the first member makes the database, `None` before.
    pub initialize: Option<String>,
    /// What Patroni runs by.
    pub config: Option<Value>,
}

impl DynamicConfig {
    /// Reads it from its ConfigMap.
    pub fn of(config_map: &Value) -> Self {
        Self {
            initialize: annotation(config_map, "initialize").map(str::to_owned),
            config: annotation_json(config_map, "config"),
        }
    }
}

/// What a member says of itself: the `status` annotation of its pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// `primary`, `replica`, `standby_leader`, `promoted`, `demoted`, …
    pub role: String,
    /// `running`, `starting`, `stopped`, `creating replica`, …
    pub state: String,
    /// `streaming` or `in archive recovery`, for a replica.
    pub replication_state: Option<String>,
    /// Its timeline.
    pub timeline: Option<i64>,
    /// Where its WAL ends.
    pub xlog_location: Option<i64>,
    /// Where it has replayed up to, for a replica.
    pub replay_lsn: Option<i64>,
    /// Some settings wait for a restart.
    pub pending_restart: bool,
}

impl MemberStatus {
    /// Reads it from the pod.
    pub fn of(pod: &Value) -> Option<Self> {
        annotation_json(pod, "status")
    }

    /// It runs as primary.
    pub fn is_running_primary(&self) -> bool {
        self.role == "primary" && self.state == "running"
    }

    /// It runs as a replica that streams.
    pub fn is_streaming_replica(&self) -> bool {
        self.role == "replica"
            && self.state == "running"
            && self.replication_state.as_deref() == Some("streaming")
    }
}

/// Answer to `GET /patroni`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// As in [`MemberStatus`].
    pub role: String,
    /// As in [`MemberStatus`].
    pub state: String,
    /// Its timeline.
    pub timeline: Option<i64>,
}

impl Answer {
    /// It runs as primary.
    pub fn is_running_primary(&self) -> bool {
        self.role == "primary" && self.state == "running"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(annotations: Value) -> Value {
        json!({ "metadata": { "annotations": annotations } })
    }

    #[test]
    fn reads_the_lock() {
        let lock = Lock::of(&with(json!({
            "leader": "demo-1", "optime": "50332320", "failsafe": "{\"demo-0\":\"http://a\",\"demo-1\":\"http://b\"}"
        })));
        assert_eq!(lock.holder.as_deref(), Some("demo-1"));
        assert_eq!(lock.optime, Some(50_332_320));
        assert_eq!(lock.failsafe, BTreeSet::from(["demo-0".to_owned(), "demo-1".to_owned()]));
        assert_eq!(Lock::of(&with(json!({ "optime": "x", "failsafe": "{" }))), Lock::default());
        assert_eq!(Lock::of(&json!({})), Lock::default());
    }

    #[test]
    fn reads_the_synchronous_state() {
        let sync = Sync::of(&with(json!({ "leader": "d-0", "sync_standby": "d-1,d-2", "quorum": "1" })));
        assert_eq!(sync.leader.as_deref(), Some("d-0"));
        assert_eq!(sync.standbys.len(), 2);
        assert!(Sync::of(&with(json!({ "leader": "d-0", "sync_standby": "" }))).standbys.is_empty());
    }

    #[test]
    fn tells_a_bootstrap_under_way_from_a_database() {
        assert_eq!(DynamicConfig::of(&with(json!({}))).initialize, None);
        let config = DynamicConfig::of(&with(json!({ "initialize": "", "config": "{\"ttl\":20}" })));
        assert_eq!((config.initialize.as_deref(), config.config), (Some(""), Some(json!({ "ttl": 20 }))));
    }

    #[test]
    fn reads_a_member() {
        let pod = with(json!({ "status": json!({
            "state": "running", "role": "replica", "replication_state": "streaming", "timeline": 1,
            "replay_lsn": 5, "xlog_location": 6, "unknown": {}
        }).to_string() }));
        let status = MemberStatus::of(&pod).unwrap();
        assert!(status.is_streaming_replica() && !status.is_running_primary());
        assert_eq!(MemberStatus::of(&with(json!({ "status": "no json" }))), None);
    }
}
