//! What Patroni writes: annotations of its four ConfigMaps and of the members' pods, and its answer to `GET /patroni`.
//!
//! All of it is text that somebody else wrote, at any time and perhaps by another version: what cannot be read counts
//! as not said.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// The annotation of the leader lock that names its holder. Without it the lock is free.
pub const LEADER: &str = "leader";

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
    /// When the holder took it, by the holder's clock.
    pub acquired: Option<Timestamp>,
    /// When the holder last renewed it, by the holder's clock.
    pub renewed: Option<Timestamp>,
    /// The version of its ConfigMap, for a compare-and-swap.
    pub version: Option<String>,
    /// WAL position of the holder when it last renewed.
    pub optime: Option<i64>,
    /// Members that the failsafe mode counts on: those that may race for the lock.
    pub failsafe: BTreeSet<String>,
    /// Replication slots that are kept for members, whether or not they are there.
    pub slots: BTreeSet<String>,
}

impl Lock {
    /// Reads it from its ConfigMap.
    pub fn of(config_map: &Value) -> Self {
        let failsafe: BTreeMap<String, Value> = annotation_json(config_map, "failsafe").unwrap_or_default();
        Self {
            holder: annotation(config_map, LEADER).filter(|name| !name.is_empty()).map(str::to_owned),
            acquired: annotation(config_map, "acquireTime").and_then(|text| text.parse().ok()),
            renewed: annotation(config_map, "renewTime").and_then(|text| text.parse().ok()),
            version: config_map
                .pointer("/metadata/resourceVersion")
                .and_then(Value::as_str)
                .map(str::to_owned),
            optime: annotation(config_map, "optime").and_then(|text| text.parse().ok()),
            failsafe: failsafe.into_keys().collect(),
            slots: annotation_json::<Vec<String>>(config_map, "retain_slots").into_iter().flatten().collect(),
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
    /// How many of them beside itself a member must hear from before it may be primary.
    pub quorum: usize,
}

impl Sync {
    /// Reads it from its ConfigMap.
    pub fn of(config_map: &Value) -> Self {
        let standbys = annotation(config_map, "sync_standby").unwrap_or_default();
        Self {
            leader: annotation(config_map, LEADER).filter(|name| !name.is_empty()).map(str::to_owned),
            standbys: standbys
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            quorum: annotation(config_map, "quorum").and_then(|text| text.parse().ok()).unwrap_or_default(),
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
    /// Where each timeline ended, oldest first.
    pub history: Vec<TimelineEnd>,
}

/// The end of a timeline: an entry of Patroni's history, `[timeline, lsn, reason, time, new leader]`. Older entries lack
/// the last two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimelineEnd {
    /// The timeline that ended; the next one is one more, or higher.
    pub timeline: i64,
    /// Where it ended, in bytes of WAL.
    pub lsn: i64,
    /// PostgreSQL's words for why.
    pub reason: String,
    /// When.
    pub at: Option<Timestamp>,
    /// The primary of the next timeline.
    pub leader: Option<String>,
}

impl TimelineEnd {
    fn of(entry: &Value) -> Option<Self> {
        let text = |index| entry.get(index).and_then(Value::as_str);
        Some(Self {
            timeline: entry.get(0)?.as_i64()?,
            lsn: entry.get(1)?.as_i64()?,
            reason: text(2).unwrap_or_default().to_owned(),
            at: text(3).and_then(|text| text.parse().ok()),
            leader: text(4).filter(|name| !name.is_empty()).map(str::to_owned),
        })
    }
}

impl DynamicConfig {
    /// Reads it from its ConfigMap.
    pub fn of(config_map: &Value) -> Self {
        Self {
            initialize: annotation(config_map, "initialize").map(str::to_owned),
            config: annotation_json(config_map, "config"),
            history: annotation_json::<Vec<Value>>(config_map, "history")
                .iter()
                .flatten()
                .filter_map(TimelineEnd::of)
                .collect(),
        }
    }

    /// Commits wait for replicas.
    pub fn is_synchronous(&self) -> bool {
        let mode = self.config.as_ref().and_then(|config| config.get("synchronous_mode"));
        !matches!(mode, None | Some(Value::Bool(false) | Value::Null))
    }
}

/// A change of primary that was asked for and is not done: ConfigMap `NAME-failover`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingFailover {
    /// The primary that is to step down.
    pub leader: Option<String>,
    /// The member that is to follow it; any fit one without.
    pub candidate: Option<String>,
}

impl PendingFailover {
    /// Reads it from its ConfigMap.
    pub fn of(config_map: &Value) -> Self {
        let named = |key| annotation(config_map, key).filter(|name| !name.is_empty()).map(str::to_owned);
        Self { leader: named("leader"), candidate: named("member") }
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
    /// Where it has received up to, for a replica.
    pub receive_lsn: Option<i64>,
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
    /// Positions in the WAL.
    pub xlog: Positions,
    /// `streaming` or `in archive recovery`, for a replica.
    pub replication_state: Option<String>,
    /// When it last heard of the Kubernetes API, in seconds since 1970 by its own clock.
    pub dcs_last_seen: Option<i64>,
    /// It goes on as primary without the Kubernetes API, as every other member agrees.
    pub failsafe_mode_is_active: bool,
    /// When its PostgreSQL was started, in PostgreSQL's words.
    pub postmaster_start_time: Option<String>,
    /// Some settings wait for a restart.
    pub pending_restart: bool,
    /// Which ones, by name.
    pub pending_restart_reason: BTreeMap<String, PendingSetting>,
    /// The release of the server that runs, as a number: 160015 is 16.15.
    pub server_version: Option<i64>,
    /// Patroni takes its hands off.
    pub pause: bool,
}

/// A setting that waits for a restart, in PostgreSQL's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PendingSetting {
    /// What the server runs with.
    pub old_value: Value,
    /// What it is to run with.
    pub new_value: Value,
}

impl PendingSetting {
    /// Both are numbers, and the new one is the lower.
    pub fn is_lowered(&self) -> bool {
        let number = |value: &Value| match value {
            Value::String(text) => text.parse::<i64>().ok(),
            other => other.as_i64(),
        };
        number(&self.old_value).zip(number(&self.new_value)).is_some_and(|(old, new)| new < old)
    }
}

/// Positions in the WAL, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Positions {
    /// Where a primary writes.
    pub location: Option<i64>,
    /// Up to where a replica has received and flushed.
    pub received_location: Option<i64>,
    /// Up to where a replica has replayed.
    pub replayed_location: Option<i64>,
    /// The time of the last transaction that a replica has replayed, in PostgreSQL's words.
    pub replayed_timestamp: Option<String>,
}

impl Answer {
    /// It runs as primary.
    pub fn is_running_primary(&self) -> bool {
        self.role == "primary" && self.state == "running"
    }

    /// It runs as a replica, whether or not it streams.
    pub fn is_running_replica(&self) -> bool {
        self.role == "replica" && self.state == "running"
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
            "leader": "demo-1", "optime": "50332320", "retain_slots": "[\"demo_0\", \"demo_1\"]", "failsafe": "{\"demo-0\":\"http://a\",\"demo-1\":\"http://b\"}"
        })));
        assert_eq!(lock.holder.as_deref(), Some("demo-1"));
        assert_eq!(lock.optime, Some(50_332_320));
        assert_eq!(lock.slots, BTreeSet::from(["demo_0".to_owned(), "demo_1".to_owned()]));
        assert_eq!(lock.failsafe, BTreeSet::from(["demo-0".to_owned(), "demo-1".to_owned()]));
        let taken = Lock::of(&json!({ "metadata": { "resourceVersion": "7", "annotations": {
            "acquireTime": "2026-11-22T07:11:37.780821+00:00", "renewTime": "2026-11-22T07:11:45.010702+00:00" } } }));
        assert!(taken.acquired < taken.renewed && taken.version.as_deref() == Some("7"));
        assert_eq!(
            Lock::of(&with(json!({ "optime": "x", "failsafe": "{", "renewTime": "now" }))),
            Lock::default()
        );
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
        let history = r#"[[1,50332040,"no recovery target specified","2026-11-22T07:11:38.047059+00:00","demo-1"],[2,5,"x"],["?"]]"#;
        let history = DynamicConfig::of(&with(json!({ "history": history }))).history;
        assert_eq!(
            (history.len(), history[0].leader.as_deref(), history[1].timeline),
            (2, Some("demo-1"), 2)
        );
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
