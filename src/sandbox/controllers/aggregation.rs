//! ClusterRoles that are the sum of others: their rules follow from the labels of those.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::cache::Cache;
use super::context::Context;
use super::error::absent_is_fine;
use super::meta::{Key, is_deleting, name};
use super::queue::{Outcome, Queue};
use super::run::{Tasks, feed};
use super::selector;

const MANAGER: &str = "clusterrole-aggregation-controller";

/// Starts the controller.
pub(super) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let roles = Cache::<ClusterRole>::new();
    let (queue, requests) = Queue::new();
    let all = roles.clone();
    // Whatever role changes, any sum may.
    feed(&roles, &queue, move |_| {
        let sums = all.all().into_iter().filter(|role| role.aggregation_rule.is_some());
        sums.map(|role| name(&role.metadata).to_owned()).collect::<Vec<_>>()
    });
    tasks.watch(roles.clone(), Api::all(context.client.clone()));
    tasks.controller("clusterrole-aggregation", requests, 2, move |context, name: String| {
        let roles = roles.clone();
        async move {
            roles.synced().await;
            reconcile(&context, &roles, &name).await
        }
    });
}

async fn reconcile(context: &Context, roles: &Cache<ClusterRole>, own: &str) -> Outcome {
    let Some(role) = roles.get(&Key::new("", own)).filter(|role| !is_deleting(&role.metadata)) else {
        return Ok(None);
    };
    if role.aggregation_rule.is_none() {
        return Ok(None);
    }
    let wanted = sum(&role, &roles.all());
    if role.rules.as_deref().unwrap_or_default() == wanted {
        return Ok(None);
    }
    let body = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": own }, "rules": wanted,
    });
    let api = Api::<ClusterRole>::all(context.client.clone());
    let params = PatchParams::apply(MANAGER).force();
    absent_is_fine(api.patch(own, &params, &Patch::Apply(&body)).await)?;
    Ok(None)
}

/// The rules of all roles that are selected, each once, by the roles' names.
fn sum(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let selectors = role.aggregation_rule.as_ref().and_then(|rule| rule.cluster_role_selectors.as_ref());
    let mut rules = Vec::<PolicyRule>::new();
    for selector in selectors.into_iter().flatten() {
        for other in all {
            let labels = other.metadata.labels.as_ref();
            if other.metadata.name == role.metadata.name || !selector::matches(selector, labels) {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_sum_has_every_rule_once_in_the_order_of_names() {
        let role = |name: &str, labels: Value, verbs: &[&str]| -> ClusterRole {
            let rules: Vec<Value> = verbs.iter().map(|verb| json!({ "verbs": [verb] })).collect();
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "rules": rules}))
                .unwrap()
        };
        let mut own = role("own", json!({"into": "own"}), &["stale"]);
        let selectors = json!({"clusterRoleSelectors": [{"matchLabels": {"into": "own"}}, {"matchLabels": {"also": "1"}}]});
        own.aggregation_rule = serde_json::from_value(selectors).unwrap();
        let all = [
            role("a", json!({"into": "own"}), &["get", "list"]),
            role("b", json!({"into": "other"}), &["delete"]),
            role("c", json!({"also": "1"}), &["get", "watch"]),
            own.clone(),
        ];
        let all: Vec<Arc<ClusterRole>> = all.into_iter().map(Arc::new).collect();
        let verbs: Vec<String> = sum(&own, &all).into_iter().flat_map(|rule| rule.verbs).collect();
        assert_eq!(verbs, ["get", "list", "watch"]);
    }
}
