//! What the controller may do at the Kubernetes API.
//!
//! The table holds what the controller's own calls need, and what it grants to members' pods in their Role: an API server
//! lets nobody grant what they do not hold, unless they may `escalate` or `bind`, which amounts to everything.

use serde_json::{Value, json};

use crate::api::{FIELD_MANAGER, GROUP};

/// Where the controller runs.
pub const NAMESPACE: &str = "dbctl-system";
/// The controller's ServiceAccount, and the name of its roles and bindings.
pub const ACCOUNT: &str = "dbctl-controller";

/// Verbs on one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// API group; empty for the core one.
    pub group: &'static str,
    /// The resource, with its subresource where it is about one.
    pub resource: &'static str,
    /// The verbs, never `*`.
    pub verbs: &'static [&'static str],
}

impl Rule {
    /// The resource with its group, as `statefulsets.apps`, and its subresource behind a slash.
    pub fn qualified(&self) -> String {
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((self.resource, ""));
        qualified(self.group, resource, subresource)
    }
}

/// A resource in one word.
pub fn qualified(group: &str, resource: &str, subresource: &str) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    let slash = if subresource.is_empty() { "" } else { "/" };
    format!("{resource}{dot}{group}{slash}{subresource}")
}

const fn rule(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Rule {
    Rule { group, resource, verbs }
}

/// Everything that the controller may do. Each verb is used; a test runs it with nothing else and counts.
///
/// Objects of a Database are found by a watch on its label (`list`, `watch`) and, before anything is made, by name (`get`),
/// since one of that name may be somebody else's. An apply of what is not there yet needs both `create` and `patch`.
pub const RULES: &[Rule] = &[
    // The finalizer is part of the object itself.
    rule(GROUP, "databases", &["list", "watch", "patch"]),
    rule(GROUP, "databases/status", &["patch"]),
    // Each database's ServiceAccount, Role and RoleBinding; the garbage collector removes them.
    rule("", "serviceaccounts", &["get", "list", "watch", "create", "patch"]),
    rule("rbac.authorization.k8s.io", "roles", &["get", "list", "watch", "create", "patch"]),
    rule("rbac.authorization.k8s.io", "rolebindings", &["get", "list", "watch", "create", "patch"]),
    rule("", "services", &["get", "list", "watch", "create", "patch"]),
    rule("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    rule("apps", "statefulsets", &["get", "list", "watch", "create", "patch", "delete"]),
    rule("policy", "poddisruptionbudgets", &["get", "list", "watch", "create", "patch", "delete"]),
    // The schedule of backups, and one Job for each that is asked for; Jobs go by themselves.
    rule("batch", "cronjobs", &["get", "list", "watch", "create", "patch", "delete"]),
    rule("batch", "jobs", &["get", "list", "watch", "create"]),
    // `patch` is for Patroni, which keeps the role label, and for the label that a dead primary leaves; `delete` for pods
    // that somebody cut off from their StatefulSet.
    rule("", "pods", &["get", "list", "watch", "patch", "delete"]),
    // What outlives a Database goes by the controller's hand, where the deletion policy says so.
    rule("", "configmaps", &["get", "list", "watch", "create", "patch", "delete"]),
    rule("", "persistentvolumeclaims", &["get", "list", "watch", "patch", "delete"]),
    // Neither `list` nor `watch`: they would show the content of every Secret there is, and RBAC knows no labels to narrow
    // them by. Names it knows, but only as a list of whole ones, and a Database's name is the user's choice. So a Secret is
    // read by the name that dbctl gives it, and one whose name is not known cannot be.
    rule("", "secrets", &["get", "create", "delete"]),
    // Of the whole cluster, so a Role for one namespace goes without: then a cordoned node moves no primary, and a node that
    // is vouched to be off proves nothing.
    rule("", "nodes", &["list", "watch"]),
    // The same holds for these: without, whether volumes may grow is found out by trying.
    rule("storage.k8s.io", "storageclasses", &["get"]),
    // That of Databases: with it deleted, no Database takes its data along.
    rule("apiextensions.k8s.io", "customresourcedefinitions", &["get"]),
    rule("events.k8s.io", "events", &["create", "patch"]),
];

/// What it may do with Leases, in its own namespace only: by one, a single controller of several works.
pub const LEASES: Rule = rule("coordination.k8s.io", "leases", &["get", "create", "update"]);

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

fn metadata(name: &str, namespace: Option<&str>) -> Value {
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

fn labels() -> Value {
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
    let mut text = format!(
        "# What dbctl's controller may do. Generated: `dbctl generate rbac`; -n NAMESPACE is where it runs, --watch NAMESPACE\n\
         # narrows it to one namespace. The namespace must exist: kubectl create namespace {namespace}\n"
    );
    for object in rbac(namespace, scope) {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(&object)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::Names;

    #[test]
    fn the_manifest_has_not_drifted() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/rbac.yaml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        let wanted = rbac_yaml(NAMESPACE, Scope::Cluster).unwrap();
        assert!(committed == wanted, "run `cargo run -- generate rbac > manifests/rbac.yaml`");
    }

    /// What the controller was seen to ask for: the table that `controller::tests::access` writes and checks.
    const NEEDS: &str = include_str!("needs.txt");
    /// What it grants to members' pods, and seldom asks for itself.
    const GRANTED: [&str; 1] = ["patch pods"];

    fn covered(rules: &[(String, &str)], need: &str) -> bool {
        rules.iter().any(|(resource, verb)| need == format!("{verb} {resource}"))
    }

    #[test]
    fn a_role_without_any_one_of_its_verbs_is_too_small() {
        let all: Vec<(String, &str)> =
            RULES.iter().flat_map(|rule| rule.verbs.iter().map(|verb| (rule.qualified(), *verb))).collect();
        let lease = |need: &&str| need.ends_with(&LEASES.qualified());
        let leases: Vec<String> =
            LEASES.verbs.iter().map(|verb| format!("{verb} {}", LEASES.qualified())).collect();
        assert_eq!(
            BTreeSet::from_iter(NEEDS.lines().filter(lease)),
            leases.iter().map(String::as_str).collect()
        );
        let needs: Vec<&str> = NEEDS.lines().filter(|need| !lease(need)).chain(GRANTED).collect();
        for need in &needs {
            assert!(covered(&all, need), "the role lacks {need}");
        }
        for index in 0..all.len() {
            let mut fewer = all.clone();
            let (resource, verb) = fewer.remove(index);
            let suffices = needs.iter().all(|need| covered(&fewer, need));
            assert!(!suffices, "nothing needs {verb} {resource}");
        }
    }

    #[test]
    fn nothing_is_wild_and_nothing_runs_in_pods() {
        for rule in RULES {
            assert!(rule.verbs.iter().all(|verb| *verb != "*" && *verb != "escalate" && *verb != "bind"));
            assert!(rule.resource != "*" && rule.group != "*" && rule.resource != "pods/exec");
        }
    }

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
