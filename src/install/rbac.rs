//! The controller's ServiceAccount and its roles.

use serde_json::{Value, json};

use super::rights::{LEASES, RULES, Rule};
use crate::api::FIELD_MANAGER;

/// Where the controller runs.
pub const NAMESPACE: &str = "dbctl-system";
/// The controller's ServiceAccount, and the name of its roles and bindings.
pub const ACCOUNT: &str = "dbctl-controller";

/// What belongs to the whole cluster.
const OF_CLUSTER: [&str; 3] = ["nodes", "storageclasses", "customresourcedefinitions"];

/// Which Databases the controller works for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Those of every namespace.
    Cluster,
    /// Those of one namespace.
    Namespace(&'a str),
}

/// The controller's ServiceAccount, its roles, and their bindings. Nothing of a cluster's own scope is needed, so a Role for
/// one namespace has the same rules.
pub fn rbac(namespace: &str, scope: Scope<'_>) -> Vec<Value> {
    let (prefix, place) = match scope {
        Scope::Cluster => ("Cluster", None),
        Scope::Namespace(place) => ("", Some(place)),
    };
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(ACCOUNT, Some(namespace)),
    });
    let mut all = vec![account];
    all.extend(granted(prefix, metadata(ACCOUNT, place), rules(scope), namespace));
    all.extend(granted("", metadata(LEADER, Some(namespace)), vec![written(&LEASES)], namespace));
    all
}

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
    let (group, role) = ("rbac.authorization.k8s.io", format!("{prefix}Role"));
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

fn rules(scope: Scope<'_>) -> Vec<Value> {
    // A Role grants nothing of the whole cluster's.
    let held = |rule: &&Rule| scope == Scope::Cluster || !OF_CLUSTER.contains(&rule.resource);
    RULES.iter().filter(held).map(written).collect()
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
    fn one_namespace_needs_no_cluster_role() {
        let kinds = |scope| -> Vec<String> {
            rbac("ops", scope)
                .iter()
                .map(|o| format!("{} {}", o["kind"], o["metadata"]["namespace"]))
                .collect()
        };
        assert_eq!(
            kinds(Scope::Cluster),
            [
                r#""ServiceAccount" "ops""#,
                r#""ClusterRole" null"#,
                r#""ClusterRoleBinding" null"#,
                r#""Role" "ops""#,
                r#""RoleBinding" "ops""#
            ]
        );
        assert_eq!(
            kinds(Scope::Namespace("shop")),
            [
                r#""ServiceAccount" "ops""#,
                r#""Role" "shop""#,
                r#""RoleBinding" "shop""#,
                r#""Role" "ops""#,
                r#""RoleBinding" "ops""#
            ]
        );
    }
}
