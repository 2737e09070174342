//! A step of a restore in place, written beside the data: each is one compare-and-swap of `NAME-config`, after what must come
//! before it. Done twice it changes nothing.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Map, Value, json};

use super::act::{ActError, on};
use super::retry;
use crate::api::{Names, REPLACED};
use crate::plan::{Marking, With};

/// What Patroni's objects say of the data, by the suffix of each. That of the configuration it runs by stays.
const SAID: [(&str, &[&str]); 4] = [
    ("leader", &["leader", "optime", "failsafe", "slots", "retain_slots"]),
    ("failover", &["leader", "member", "scheduled_at"]),
    ("sync", &["leader", "sync_standby", "quorum"]),
    (CONFIG, &["initialize", "history"]),
];
const CONFIG: &str = "config";
/// Never noted: who was to be primary next, and who was, is over.
const OVER: [(&str, &str); 4] =
    [("leader", "leader"), ("failover", "leader"), ("failover", "member"), ("failover", "scheduled_at")];

/// Writes it.
///
/// # Errors
/// Where it was not written; a conflict where something is not as it was seen, or a member still has a pod.
pub async fn write(client: &Client, namespace: &str, name: &str, marking: &Marking) -> Result<(), ActError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    if marking.with != With::Nothing {
        nobody(client, namespace, name).await?;
    }
    let mut annotations: Map<String, Value> =
        marking.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    match marking.with {
        With::Nothing | With::Gone => {}
        With::Noted => {
            let mut noted = Map::new();
            for (suffix, keys) in SAID {
                noted.insert(suffix.to_owned(), noted_of(suffix, keys, &read(&maps, name, suffix).await?));
            }
            annotations.insert(REPLACED.to_owned(), json!(Value::Object(noted).to_string()));
        }
        With::Forgotten => {
            let nothing = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
            for (suffix, keys) in SAID.into_iter().filter(|(suffix, _)| *suffix != CONFIG) {
                patch(&maps, name, suffix, nothing(keys), None).await?;
            }
            let own = SAID.into_iter().filter(|(suffix, _)| *suffix == CONFIG).flat_map(|(_, keys)| keys);
            annotations.extend(own.map(|key| ((*key).to_owned(), Value::Null)));
        }
        With::PutBack => {
            let config = read(&maps, name, CONFIG).await?;
            let text = config.annotations().get(REPLACED).cloned().unwrap_or_default();
            // Where nothing was noted yet, nothing was forgotten.
            let noted: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
            for (suffix, said) in noted {
                let Value::Object(said) = said else { continue };
                if suffix == CONFIG {
                    annotations.extend(said);
                } else {
                    patch(&maps, name, &suffix, said, None).await?;
                }
            }
        }
    }
    patch(&maps, name, CONFIG, annotations, marking.version.as_deref()).await
}

/// What an object says, by those keys; null where it does not.
fn noted_of(suffix: &str, keys: &[&str], map: &ConfigMap) -> Value {
    let of = |key: &&str| {
        let said = map.annotations().get(*key).filter(|_| !OVER.contains(&(suffix, *key)));
        ((*key).to_owned(), json!(said))
    };
    Value::Object(keys.iter().map(of).collect())
}

/// By a read that no cache answers: a pod that the watch has yet to tell of could be running on the data.
async fn nobody(client: &Client, namespace: &str, name: &str) -> Result<(), ActError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector: Vec<String> =
        Names(name).selector().iter().map(|(key, value)| format!("{key}={value}")).collect();
    let params = ListParams::default().labels(&selector.join(","));
    let found = retry::read(|| pods.list(&params)).await.map_err(on("look for members that run"))?;
    let left = found.iter().any(|pod| Names(name).ordinal(&pod.name_any()).is_some());
    if left {
        Err(ActError::Conflict { doing: "replace the data while a member has a pod".to_owned() })
    } else {
        Ok(())
    }
}

async fn read(maps: &Api<ConfigMap>, name: &str, suffix: &str) -> Result<ConfigMap, ActError> {
    let object = format!("{name}-{suffix}");
    let found = retry::read(|| maps.get_opt(&object)).await;
    Ok(found.map_err(on(format!("read ConfigMap {object}")))?.unwrap_or_default())
}

async fn patch(
    maps: &Api<ConfigMap>,
    name: &str,
    suffix: &str,
    annotations: Map<String, Value>,
    version: Option<&str>,
) -> Result<(), ActError> {
    let object = format!("{name}-{suffix}");
    let mut metadata = json!({ "annotations": annotations });
    if let Some(version) = version {
        metadata["resourceVersion"] = json!(version);
    }
    let change = Patch::Merge(json!({ "metadata": metadata }));
    let params = PatchParams::default();
    match maps.patch_metadata(&object, &params, &change).await {
        // Patroni has not made it yet, so it says nothing.
        Err(kube::Error::Api(status)) if status.is_not_found() && suffix != CONFIG => Ok(()),
        other => other.map(drop).map_err(on(format!("change ConfigMap {object}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_what_was_said_of_the_data() {
        let map = |annotations: Value| -> ConfigMap {
            serde_json::from_value(json!({ "metadata": { "annotations": annotations } })).unwrap()
        };
        let noted = |suffix: &str, annotations: Value| {
            let keys = SAID.into_iter().find(|(known, _)| *known == suffix).unwrap().1;
            noted_of(suffix, keys, &map(annotations))
        };
        assert_eq!(
            noted("sync", json!({ "leader": "db-1", "sync_standby": "db-0", "quorum": "0", "else": "1" })),
            json!({ "leader": "db-1", "sync_standby": "db-0", "quorum": "0" })
        );
        assert_eq!(
            noted("leader", json!({ "leader": "db-1", "optime": "7", "ttl": "20" })),
            json!({ "leader": null, "optime": "7", "failsafe": null, "slots": null, "retain_slots": null })
        );
        assert_eq!(
            noted(CONFIG, json!({ "initialize": "7", "config": "{}" })),
            json!({ "initialize": "7", "history": null })
        );
    }
}
