//! What changes every few seconds while nothing happens, and so is no reason for a pass.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};

use crate::api::{PROGRESS_KEY, VERIFYING_KEY};
use crate::plan::Kind;

/// Annotations of the leader lock that each renewal moves.
const RENEWALS: [&str; 4] = ["renewTime", "optime", "slots", "retain_slots"];
/// What of a member's status moves with its WAL.
const POSITIONS: [&str; 4] = ["xlog_location", "replay_lsn", "receive_lsn", "replayed_location"];

/// What tells apart two states of an object between which there may be something to do; where that cannot be said, `None`.
pub fn gist(kind: Kind, object: &Value) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    match kind {
        Kind::ConfigMap | Kind::Pod => quiet(kind, object).hash(&mut hasher),
        _ => object.pointer("/metadata/resourceVersion")?.as_str()?.hash(&mut hasher),
    }
    Some(hasher.finish())
}

/// The object without what moves by itself.
fn quiet(kind: Kind, object: &Value) -> Value {
    let mut object = object.clone();
    // A backup tells each second how far it is, to whoever looks, and a verification what it is at.
    if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
        data.remove(PROGRESS_KEY);
        data.remove(VERIFYING_KEY);
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            quiet_annotations(kind, annotations);
        }
    }
    object
}

fn quiet_annotations(kind: Kind, annotations: &mut Map<String, Value>) {
    if kind == Kind::ConfigMap {
        RENEWALS.iter().for_each(|key| drop(annotations.remove(*key)));
        return;
    }
    let status = annotations.get("status").and_then(Value::as_str).map(serde_json::from_str::<Value>);
    if let Some(Ok(Value::Object(mut status))) = status {
        POSITIONS.iter().for_each(|key| drop(status.remove(*key)));
        annotations.insert("status".to_owned(), Value::Object(status));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn significant(kind: Kind, old: &Value, new: &Value) -> bool {
        let (old, new) = (gist(kind, old), gist(kind, new));
        old.is_none() || old != new
    }

    #[test]
    fn renewals_and_positions_are_no_news() {
        let lock = |leader: &str, time: &str, version: &str| json!({ "metadata": { "resourceVersion": version, "annotations": { "leader": leader, "renewTime": time, "optime": time } } });
        assert!(!significant(Kind::ConfigMap, &lock("a", "1", "1"), &lock("a", "2", "2")));
        assert!(significant(Kind::ConfigMap, &lock("a", "1", "1"), &lock("b", "1", "2")));

        let pod = |state: &str, position: i64| {
            let status =
                json!({ "state": state, "xlog_location": position, "replay_lsn": position }).to_string();
            json!({ "metadata": { "annotations": { "status": status } }, "status": { "phase": "Running" } })
        };
        assert!(!significant(Kind::Pod, &pod("running", 1), &pod("running", 2)));
        assert!(significant(Kind::Pod, &pod("running", 1), &pod("stopped", 1)));
        let mut ready = pod("running", 1);
        ready["status"]["phase"] = json!("Failed");
        assert!(significant(Kind::Pod, &pod("running", 1), &ready));
    }

    #[test]
    fn how_far_a_backup_is_is_no_news_and_what_it_leaves_is() {
        let map = |progress: Option<&str>, catalog: &str| json!({ "data": { "progress.json": progress, "catalog.json": catalog } });
        assert!(!significant(Kind::ConfigMap, &map(Some("1"), "a"), &map(Some("2"), "a")));
        assert!(significant(Kind::ConfigMap, &map(Some("1"), "a"), &map(None, "b")));
    }

    #[test]
    fn of_other_kinds_every_change_is() {
        let set = |version: &str| json!({ "metadata": { "resourceVersion": version } });
        assert!(significant(Kind::StatefulSet, &set("1"), &set("2")));
        assert!(!significant(Kind::StatefulSet, &set("1"), &set("1")));
        assert!(significant(Kind::StatefulSet, &json!({}), &json!({})));
    }
}
