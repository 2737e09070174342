//! The controller's ServiceAccount and its roles.

use serde_json::{Value, json};

use super::rights::{LEASES, REVIEWS, RULES, Rule};
use crate::api::FIELD_MANAGER;

/// Where the controller runs.
pub const NAMESPACE: &str = "dbctl-system";
/// The controller's ServiceAccount, and the name of its roles and bindings.
pub const ACCOUNT: &str = "dbctl-controller";

/// The ClusterRole of those who may read the controller's metrics. Nobody does by default.
pub const METRICS_READER: &str = "dbctl-metrics-reader";

/// What belongs to the whole cluster, and can be gone without.
const OF_CLUSTER: [&str; 3] = ["nodes", "storageclasses", "customresourcedefinitions"];

/// Which Databases the controller works for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Those of every namespace.
    Cluster,
    /// Those of one namespace.
    Namespace(&'a str),
}

/// The controller's ServiceAccount, its roles, and their bindings; and the role of those who may read its metrics. Of the
/// cluster's own scope, a controller for one namespace gets no more than the questions about those.
pub fn rbac(namespace: &str, scope: Scope<'_>) -> Vec<Value> {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(ACCOUNT, Some(namespace)),
    });
    let mut all = vec![account];
    match scope {
        Scope::Cluster => {
            all.extend(granted("Cluster", metadata(ACCOUNT, None), rules(|_| true), namespace));
        }
        Scope::Namespace(place) => {
            let within = rules(|resource| !OF_CLUSTER.contains(&resource) && !REVIEWS.contains(&resource));
            all.extend(granted("", metadata(ACCOUNT, Some(place)), within, namespace));
            // Of each namespace that has a controller, like its Lease.
            let own = metadata(&format!("{ACCOUNT}-{place}"), None);
            all.extend(granted("Cluster", own, rules(|resource| REVIEWS.contains(&resource)), namespace));
        }
    }
    all.extend(granted("", metadata(LEADER, Some(namespace)), vec![written(&LEASES)], namespace));
    all.push(json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": metadata(METRICS_READER, None),
        "rules": [{ "nonResourceURLs": ["/metrics"], "verbs": ["get"] }],
    }));
    all
}

const GROUP: &str = "rbac.authorization.k8s.io";

/// Name of the Role for the Lease and of its binding.
const LEADER: &str = "dbctl-controller-lease";

pub(super) fn metadata(name: &str, namespace: Option<&str>) -> Value {
    let mut metadata = json!({ "name": name, "labels": labels() });
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

/// A role, and its binding to the controller's account.
fn granted(prefix: &str, metadata: Value, rules: Vec<Value>, account_namespace: &str) -> [Value; 2] {
    let (group, role) = (GROUP, format!("{prefix}Role"));
    let name = metadata["name"].clone();
    [
        json!({ "apiVersion": format!("{group}/v1"), "kind": role, "metadata": metadata, "rules": rules }),
        json!({
            "apiVersion": format!("{group}/v1"),
            "kind": format!("{role}Binding"),
            "metadata": metadata,
            "roleRef": { "apiGroup": group, "kind": role, "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": account_namespace }],
        }),
    ]
}

fn written(rule: &Rule) -> Value {
    json!({ "apiGroups": [rule.group], "resources": [rule.resource], "verbs": rule.verbs })
}

/// The rules for those resources.
fn rules(about: impl Fn(&str) -> bool) -> Vec<Value> {
    RULES.iter().filter(|rule| about(rule.resource)).map(written).collect()
}

/// What the installation's objects carry.
pub(super) fn labels() -> Value {
    json!({
        "app.kubernetes.io/name": FIELD_MANAGER,
        "app.kubernetes.io/component": "controller",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
    })
}

/// The objects as `manifests/rbac.yaml` holds them.
///
/// # Errors
/// Where they cannot be written as YAML.
pub fn rbac_yaml(namespace: &str, scope: Scope<'_>) -> Result<String, serde_yaml::Error> {
    documents(
        "# What dbctl's controller may do. Generated: `dbctl generate rbac`; -n NAMESPACE is where it runs, --watch NAMESPACE\n\
         # narrows it to one namespace.\n",
        &rbac(namespace, scope),
    )
}

/// A comment, and objects as one YAML file.
///
/// # Errors
/// Where they cannot be written as YAML.
pub fn documents(comment: &str, objects: &[Value]) -> Result<String, serde_yaml::Error> {
    let mut text = comment.to_owned();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(object)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Names;

    /// The API server's own check, which a Role that grants more would not pass.
    #[test]
    fn the_controller_holds_all_that_it_grants() {
        for granted in crate::plan::rules(Names("db")).as_array().unwrap() {
            for verb in granted["verbs"].as_array().unwrap() {
                let held = RULES.iter().any(|rule| {
                    json!([rule.group]) == granted["apiGroups"]
                        && json!([rule.resource]) == granted["resources"]
                        && rule.verbs.contains(&verb.as_str().unwrap())
                });
                assert!(held, "{verb} {granted}");
            }
        }
    }

    #[test]
    fn one_namespace_needs_nothing_of_the_cluster_but_questions_about_readers() {
        let kinds = |scope| -> Vec<String> {
            rbac("ops", scope)
                .iter()
                .map(|o| format!("{} {}", o["kind"], o["metadata"]["namespace"]))
                .collect()
        };
        let one = rbac("ops", Scope::Namespace("shop"));
        let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
        assert_eq!([name(&one[3]), name(&one[4])], ["dbctl-controller-shop"; 2]);
        let held: Vec<String> = one[3]["rules"].as_array().unwrap().iter().map(Value::to_string).collect();
        assert_eq!(
            held,
            [
                r#"{"apiGroups":["authentication.k8s.io"],"resources":["tokenreviews"],"verbs":["create"]}"#,
                r#"{"apiGroups":["authorization.k8s.io"],"resources":["subjectaccessreviews"],"verbs":["create"]}"#,
            ]
        );
        let of_namespace = one[1]["rules"].to_string();
        assert!(of_namespace.contains("secrets") && !of_namespace.contains("reviews"), "{of_namespace}");
        assert_eq!(
            kinds(Scope::Cluster),
            [
                r#""ServiceAccount" "ops""#,
                r#""ClusterRole" null"#,
                r#""ClusterRoleBinding" null"#,
                r#""Role" "ops""#,
                r#""RoleBinding" "ops""#,
                r#""ClusterRole" null"#
            ]
        );
        assert_eq!(
            kinds(Scope::Namespace("shop")),
            [
                r#""ServiceAccount" "ops""#,
                r#""Role" "shop""#,
                r#""RoleBinding" "shop""#,
                r#""ClusterRole" null"#,
                r#""ClusterRoleBinding" null"#,
                r#""Role" "ops""#,
                r#""RoleBinding" "ops""#,
                r#""ClusterRole" null"#
            ]
        );
    }

    #[test]
    fn nobody_reads_metrics_by_default() {
        for scope in [Scope::Cluster, Scope::Namespace("shop")] {
            let all = rbac("ops", scope);
            assert_eq!(all.last().unwrap()["metadata"]["name"], METRICS_READER);
            let bound = all.iter().filter(|object| object["roleRef"]["name"] == METRICS_READER);
            assert_eq!(bound.count(), 0);
        }
    }
}
