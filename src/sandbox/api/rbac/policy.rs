//! The roles and bindings that every cluster has, as far as they are about what this server has.

use serde_json::{Value, json};

use super::Rule;

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const BOTH: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const CORE: &[&str] = &[""];
const EVENTS: &[&str] = &["", "events.k8s.io"];
const RBAC: &[&str] = &["rbac.authorization.k8s.io"];
const REVIEWS: &[&str] = &["authentication.k8s.io"];
const ACCESS: &[&str] = &["authorization.k8s.io"];

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Rule {
    let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
    Rule { verbs: owned(verbs), api_groups: owned(groups), resources: owned(resources), ..Rule::default() }
}

fn urls(paths: &[&str]) -> Rule {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    Rule { verbs: vec!["get".to_owned()], non_resource_urls: paths, ..Rule::default() }
}

/// What nothing is missing from.
pub fn everything() -> Vec<Rule> {
    let any = || vec!["*".to_owned()];
    vec![rule(&["*"], &["*"], &["*"]), Rule { verbs: any(), non_resource_urls: any(), ..Rule::default() }]
}

/// A ClusterRole of the policy.
pub struct Role {
    /// Its name.
    pub name: &'static str,
    /// What it allows.
    pub rules: Vec<Rule>,
    /// Which role takes it up, by that role's name.
    pub part_of: Option<&'static str>,
    /// Which labels it takes others up by.
    pub takes_up: Option<&'static str>,
}

/// The label by which a role is taken up into another.
pub fn aggregation_label(into: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{into}")
}

fn role(name: &'static str, rules: Vec<Rule>) -> Role {
    Role { name, rules, part_of: None, takes_up: None }
}

fn sum(name: &'static str, part_of: Option<&'static str>) -> Role {
    Role { name, rules: Vec::new(), part_of, takes_up: Some(name) }
}

fn part(name: &'static str, part_of: &'static str, rules: Vec<Rule>) -> Role {
    Role { part_of: Some(part_of), ..role(name, rules) }
}

/// The ClusterRoles.
pub fn roles() -> Vec<Role> {
    let mut roles = vec![role("cluster-admin", everything())];
    roles.extend(of_everybody());
    roles.extend(of_users());
    roles.extend(of_components());
    roles
}

fn of_everybody() -> Vec<Role> {
    let health = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let discovery = ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"];
    vec![
        role("system:discovery", vec![urls(&[&discovery[..], &health[..]].concat())]),
        role("system:public-info-viewer", vec![urls(&health)]),
        role(
            "system:basic-user",
            vec![
                rule(&["create"], ACCESS, &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
                rule(&["create"], REVIEWS, &["selfsubjectreviews"]),
            ],
        ),
        role(
            "system:monitoring",
            vec![urls(&["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/readyz", "/readyz/*"])],
        ),
        role(
            "system:service-account-issuer-discovery",
            vec![urls(&[
                "/.well-known/openid-configuration",
                "/.well-known/openid-configuration/",
                "/openid/v1/jwks",
            ])],
        ),
    ]
}

fn of_users() -> Vec<Role> {
    let connections = ["pods/attach", "pods/exec", "pods/portforward", "pods/proxy"];
    let workloads = [
        "daemonsets",
        "deployments",
        "deployments/rollback",
        "deployments/scale",
        "replicasets",
        "replicasets/scale",
        "statefulsets",
        "statefulsets/scale",
    ];
    let state = [
        "controllerrevisions",
        "daemonsets",
        "daemonsets/status",
        "deployments",
        "deployments/scale",
        "deployments/status",
        "replicasets",
        "replicasets/scale",
        "replicasets/status",
        "statefulsets",
        "statefulsets/scale",
        "statefulsets/status",
    ];
    let objects = [
        "configmaps",
        "events",
        "persistentvolumeclaims",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "secrets",
        "serviceaccounts",
        "services",
        "services/proxy",
    ];
    let seen = [
        "configmaps",
        "endpoints",
        "persistentvolumeclaims",
        "persistentvolumeclaims/status",
        "pods",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "serviceaccounts",
        "services",
        "services/status",
    ];
    let told = [
        "bindings",
        "events",
        "limitranges",
        "namespaces/status",
        "pods/log",
        "pods/status",
        "replicationcontrollers/status",
        "resourcequotas",
        "resourcequotas/status",
    ];
    let network = ["ingresses", "networkpolicies"];
    vec![
        sum("admin", None),
        sum("edit", Some("admin")),
        sum("view", Some("edit")),
        part(
            "system:aggregate-to-admin",
            "admin",
            vec![
                rule(&["create"], ACCESS, &["localsubjectaccessreviews"]),
                rule(BOTH, RBAC, &["rolebindings", "roles"]),
            ],
        ),
        part(
            "system:aggregate-to-edit",
            "edit",
            vec![
                rule(READ, CORE, &[&connections[..], &["secrets", "services/proxy"]].concat()),
                rule(&["impersonate"], CORE, &["serviceaccounts"]),
                rule(WRITE, CORE, &[&["pods"], &connections[..]].concat()),
                rule(&["create"], CORE, &["pods/eviction"]),
                rule(WRITE, CORE, &objects),
                rule(&["create"], CORE, &["serviceaccounts/token"]),
                rule(WRITE, &["apps"], &workloads),
                rule(WRITE, &["autoscaling"], &["horizontalpodautoscalers"]),
                rule(WRITE, &["batch"], &["cronjobs", "jobs"]),
                rule(WRITE, &["policy"], &["poddisruptionbudgets"]),
                rule(WRITE, &["networking.k8s.io"], &network),
                rule(BOTH, &["coordination.k8s.io"], &["leases"]),
            ],
        ),
        part(
            "system:aggregate-to-view",
            "view",
            vec![
                rule(READ, CORE, &seen),
                rule(READ, CORE, &told),
                rule(READ, CORE, &["namespaces"]),
                rule(READ, &["discovery.k8s.io"], &["endpointslices"]),
                rule(READ, &["apps"], &state),
                rule(
                    READ,
                    &["autoscaling"],
                    &["horizontalpodautoscalers", "horizontalpodautoscalers/status"],
                ),
                rule(READ, &["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
                rule(READ, &["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
                rule(READ, &["networking.k8s.io"], &["ingresses", "ingresses/status", "networkpolicies"]),
            ],
        ),
    ]
}

fn of_components() -> Vec<Role> {
    vec![
        role(
            "system:auth-delegator",
            vec![
                rule(&["create"], REVIEWS, &["tokenreviews"]),
                rule(&["create"], ACCESS, &["subjectaccessreviews"]),
            ],
        ),
        role(
            "system:kubelet-api-admin",
            vec![
                rule(READ, CORE, &["nodes"]),
                rule(&["proxy"], CORE, &["nodes"]),
                rule(&["*"], CORE, &["nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats"]),
            ],
        ),
        role("system:node", node()),
        role(
            "system:node-proxier",
            vec![
                rule(&["list", "watch"], CORE, &["endpoints", "services"]),
                rule(READ, CORE, &["nodes"]),
                rule(&["create", "patch", "update"], EVENTS, &["events"]),
                rule(&["list", "watch"], &["discovery.k8s.io"], &["endpointslices"]),
            ],
        ),
        role("system:kube-controller-manager", controller_manager()),
        role("system:kube-scheduler", scheduler()),
        role(
            "system:persistent-volume-provisioner",
            vec![
                rule(&["create", "delete", "get", "list", "watch"], CORE, &["persistentvolumes"]),
                rule(&["get", "list", "update", "watch"], CORE, &["persistentvolumeclaims"]),
                rule(READ, &["storage.k8s.io"], &["storageclasses"]),
                rule(&["watch"], CORE, &["events"]),
                rule(&["create", "patch", "update"], EVENTS, &["events"]),
            ],
        ),
    ]
}

fn node() -> Vec<Rule> {
    vec![
        rule(&["create"], REVIEWS, &["tokenreviews"]),
        rule(&["create"], ACCESS, &["localsubjectaccessreviews", "subjectaccessreviews"]),
        rule(READ, CORE, &["services"]),
        rule(&["create", "get", "list", "watch"], CORE, &["nodes"]),
        rule(&["patch", "update"], CORE, &["nodes", "nodes/status"]),
        rule(&["create", "patch", "update"], EVENTS, &["events"]),
        rule(READ, CORE, &["pods"]),
        rule(&["create", "delete"], CORE, &["pods"]),
        rule(&["patch", "update"], CORE, &["pods/status"]),
        rule(&["create"], CORE, &["pods/eviction"]),
        rule(READ, CORE, &["configmaps", "secrets"]),
        rule(&["get"], CORE, &["endpoints", "persistentvolumeclaims", "persistentvolumes"]),
        rule(&["get", "patch", "update"], CORE, &["persistentvolumeclaims/status"]),
        rule(&["create"], CORE, &["serviceaccounts/token"]),
        rule(&["get"], CORE, &["serviceaccounts"]),
        rule(&["create", "delete", "get", "patch", "update"], &["coordination.k8s.io"], &["leases"]),
        rule(READ, &["storage.k8s.io"], &["csidrivers"]),
    ]
}

fn controller_manager() -> Vec<Rule> {
    vec![
        rule(&["create", "patch", "update"], EVENTS, &["events"]),
        rule(&["create", "get", "list", "update", "watch"], &["coordination.k8s.io"], &["leases"]),
        rule(&["create"], CORE, &["secrets", "serviceaccounts"]),
        rule(&["delete"], CORE, &["secrets"]),
        rule(&["get"], CORE, &["configmaps", "namespaces", "secrets", "serviceaccounts"]),
        rule(&["update"], CORE, &["secrets", "serviceaccounts"]),
        rule(&["create"], REVIEWS, &["tokenreviews"]),
        rule(&["create"], ACCESS, &["subjectaccessreviews"]),
        rule(&["list", "watch"], &["*"], &["*"]),
        rule(&["create"], CORE, &["serviceaccounts/token"]),
    ]
}

fn scheduler() -> Vec<Rule> {
    vec![
        rule(&["create", "patch", "update"], EVENTS, &["events"]),
        rule(&["create", "get", "list", "update", "watch"], &["coordination.k8s.io"], &["leases"]),
        rule(READ, CORE, &["namespaces", "nodes"]),
        rule(&["delete", "get", "list", "watch"], CORE, &["pods"]),
        rule(&["create"], CORE, &["bindings", "pods/binding"]),
        rule(&["patch", "update"], CORE, &["pods/status"]),
        rule(
            READ,
            CORE,
            &["persistentvolumeclaims", "persistentvolumes", "replicationcontrollers", "services"],
        ),
        rule(READ, &["apps"], &["replicasets", "statefulsets"]),
        rule(READ, &["policy"], &["poddisruptionbudgets"]),
        rule(READ, &["storage.k8s.io"], &["csidrivers", "storageclasses"]),
        rule(&["create"], REVIEWS, &["tokenreviews"]),
        rule(&["create"], ACCESS, &["subjectaccessreviews"]),
    ]
}

/// The ClusterRoleBindings: a role, bound by its own name, and to whom.
pub fn bindings() -> Vec<(&'static str, Value)> {
    let subjects = |kind: &str, names: &[&str]| {
        let each = names.iter().map(|name| json!({"apiGroup": RBAC[0], "kind": kind, "name": name}));
        Value::Array(each.collect())
    };
    vec![
        ("cluster-admin", subjects("Group", &["system:masters"])),
        ("system:basic-user", subjects("Group", &["system:authenticated"])),
        ("system:discovery", subjects("Group", &["system:authenticated"])),
        ("system:kube-controller-manager", subjects("User", &["system:kube-controller-manager"])),
        ("system:kube-scheduler", subjects("User", &["system:kube-scheduler"])),
        ("system:monitoring", subjects("Group", &["system:monitoring"])),
        ("system:node", json!([])),
        ("system:node-proxier", subjects("User", &["system:kube-proxy"])),
        ("system:public-info-viewer", subjects("Group", &["system:authenticated", "system:unauthenticated"])),
        ("system:service-account-issuer-discovery", subjects("Group", &["system:serviceaccounts"])),
    ]
}
