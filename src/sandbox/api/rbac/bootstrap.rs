//! Bringing the policy's objects to where they should be, at each start.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Rule;
use super::policy::{self, aggregation_label};
use super::rule::uncovered;
use crate::sandbox::api::call::App;
use crate::sandbox::api::create;
use crate::sandbox::api::failure::Failure;
use crate::sandbox::api::registry::Resource;
use crate::sandbox::api::update::{Edit, change_object};

const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Makes what is missing, and adds what is missing to what is there; what somebody has added stays, and an object whose
/// `autoupdate` annotation is false is left alone.
///
/// # Errors
/// Where one cannot be written.
pub async fn reconcile(app: &Arc<App>) -> Result<(), Failure> {
    let roles = policy::roles();
    let roles = roles.iter().map(role);
    let bindings = policy::bindings().into_iter().map(binding);
    let all =
        roles.map(|object| ("clusterroles", object)).chain(bindings.map(|b| ("clusterrolebindings", b)));
    // At once: they are committed together.
    let writes =
        all.map(|(plural, object)| async move { bring(app, &app.builtin(GROUP, plural)?, object).await });
    futures::future::try_join_all(writes).await.map(drop)
}

fn object(kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {AUTOUPDATE: "true"},
        },
    })
}

fn role(role: &policy::Role) -> Value {
    let mut object = object("ClusterRole", role.name);
    if let Some(into) = role.part_of {
        object["metadata"]["labels"][aggregation_label(into)] = json!("true");
    }
    match role.takes_up {
        Some(own) => {
            let selector = json!({"matchLabels": {aggregation_label(own): "true"}});
            object["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
        }
        None => object["rules"] = json!(role.rules),
    }
    object
}

fn binding((name, subjects): (&str, Value)) -> Value {
    let mut object = object("ClusterRoleBinding", name);
    object["roleRef"] = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": name});
    if subjects.as_array().is_some_and(|list| !list.is_empty()) {
        object["subjects"] = subjects;
    }
    object
}

async fn bring(app: &Arc<App>, resource: &Arc<Resource>, wanted: Value) -> Result<(), Failure> {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut call = app.internal_call(resource);
    let Some(record) = app.store.latest(&resource.storage, &name) else {
        return create::make(&call, wanted, false).await.map(drop);
    };
    let found = resource.load(&record)?;
    let fresh = merged(&found, &wanted);
    if fresh == found {
        return Ok(());
    }
    call.name = Some(name);
    change_object(&call, &Edit::Replace(fresh)).await.map(drop)
}

/// What is there, with what it lacks.
fn merged(found: &Value, wanted: &Value) -> Value {
    let mut fresh = found.clone();
    if found["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return fresh;
    }
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            fresh["metadata"][field][key] = value.clone();
        }
    }
    if let Some(rules) = wanted.get("rules") {
        let read = |value: &Value| serde_json::from_value::<Vec<Rule>>(value.clone()).unwrap_or_default();
        let missing = uncovered(&read(&found["rules"]), &read(rules));
        append(&mut fresh["rules"], super::rule::compact(missing).iter().map(|rule| json!(rule)));
    }
    let lists = ["/aggregationRule/clusterRoleSelectors", "/subjects"];
    for pointer in lists {
        let Some(items) = wanted.pointer(pointer).and_then(Value::as_array) else { continue };
        let known = found.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        let missing = items.iter().filter(|item| !known.contains(item)).cloned();
        let place = match pointer {
            "/subjects" => &mut fresh["subjects"],
            _ => &mut fresh["aggregationRule"]["clusterRoleSelectors"],
        };
        append(place, missing);
    }
    fresh
}

fn append(list: &mut Value, items: impl Iterator<Item = Value>) {
    let mut items = items.peekable();
    if items.peek().is_none() {
        return;
    }
    match list {
        Value::Array(list) => list.extend(items),
        other => *other = items.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_and_what_was_added_stays() {
        let wanted = binding(policy::bindings().swap_remove(0));
        assert_eq!(merged(&wanted, &wanted), wanted);
        let mut found = wanted.clone();
        found["metadata"]["labels"] = json!({"team": "a"});
        found["subjects"] = json!([{"apiGroup": GROUP, "kind": "User", "name": "jane"}]);
        let fresh = merged(&found, &wanted);
        assert_eq!(fresh["metadata"]["labels"]["team"], "a");
        assert_eq!(fresh["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
        assert_eq!(fresh["subjects"].as_array().map(Vec::len), Some(2));
        found["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(merged(&found, &wanted), found);
    }

    #[test]
    fn rules_that_were_taken_away_come_back() {
        let wanted = role(&policy::roles().swap_remove(0));
        let mut found = wanted.clone();
        found["rules"] = json!([{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"]}]);
        let fresh = merged(&found, &wanted);
        assert_eq!(fresh["rules"].as_array().map(Vec::len), Some(3));
        assert_eq!(merged(&fresh, &wanted), fresh, "twice changes nothing");
    }

    #[test]
    fn every_binding_is_of_a_role_that_is_there() {
        let names: Vec<&str> = policy::roles().iter().map(|role| role.name).collect();
        assert!(policy::bindings().iter().all(|(name, _)| names.contains(name)));
        for role in policy::roles() {
            assert!(role.part_of.is_none_or(|into| names.contains(&into)), "{}", role.name);
        }
    }
}
