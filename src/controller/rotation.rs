//! New passwords in a Secret.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::act::{ActError, on};
use super::random::{self, NoRandomness};
use super::retry;
use crate::api::FIELD_MANAGER;
use crate::plan::{ROTATED, ROTATION};

/// Puts a new password behind each of those keys, in one write; again under the same id, it changes nothing.
///
/// # Errors
/// Where the Secret cannot be read or written, or has changed meanwhile.
pub async fn rotate(secrets: &Api<Secret>, name: &str, keys: &[String], id: &str) -> Result<(), ActError> {
    let found = retry::read(|| secrets.get(name)).await.map_err(on(format!("read Secret {name}")))?;
    if found.annotations().get(ROTATED).is_some_and(|done| done == id) {
        return Ok(());
    }
    let version = found.resource_version();
    let held = found.data.unwrap_or_default().into_iter();
    let held = held.filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?))).collect();
    let mut changed = fresh(&held, keys)?;
    changed.insert(ROTATION.to_owned(), id.to_owned());
    let data: BTreeMap<String, String> =
        changed.into_iter().map(|(key, value)| (key, STANDARD.encode(value))).collect();
    let metadata = json!({ "resourceVersion": version, "annotations": { ROTATED: id } });
    let patch = Patch::Merge(json!({ "metadata": metadata, "data": data }));
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    // Not tried again: the first try may have been heard, and then it is a conflict, and the next pass sees what is there.
    secrets.patch(name, &params, &patch).await.map_err(on(format!("write Secret {name}"))).map(drop)
}

/// What changes: the passwords, and the URIs that they are in.
fn fresh(held: &BTreeMap<String, String>, keys: &[String]) -> Result<BTreeMap<String, String>, NoRandomness> {
    let mut changed = BTreeMap::new();
    for key in keys {
        let password = random::password()?;
        if let Some(old) = held.get(key).filter(|old| !old.is_empty()) {
            let (inside, instead) = (format!(":{old}@"), format!(":{password}@"));
            let uris = held.iter().filter(|(_, value)| value.contains(&inside));
            changed.extend(uris.map(|(key, value)| (key.clone(), value.replace(&inside, &instead))));
        }
        changed.insert(key.clone(), password);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_change_and_uris_with_them() {
        let held: BTreeMap<String, String> = [
            ("password", "old"),
            ("uri", "postgresql://app:old@db.n.svc:5432/app?sslmode=require"),
            ("username", "old"),
            ("host", "db.n.svc"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let changed = fresh(&held, &["password".to_owned()]).unwrap();
        assert_eq!(changed.keys().collect::<Vec<_>>(), ["password", "uri"]);
        let password = &changed["password"];
        assert_eq!(password.len(), 32);
        assert_eq!(changed["uri"], format!("postgresql://app:{password}@db.n.svc:5432/app?sslmode=require"));
        // One that was lost comes back, and nothing that is not its own is touched.
        let lost = fresh(&BTreeMap::new(), &["superuser-password".to_owned()]).unwrap();
        assert_eq!(lost.keys().collect::<Vec<_>>(), ["superuser-password"]);
    }
}
