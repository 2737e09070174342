//! Who may reach what: the controller, and the members of databases.

use serde_json::{Value, json};

use super::objects::{Installation, METRICS_PORT, selector};
use super::rbac::{ACCOUNT, metadata};
use crate::agent::AGENT_PORT;
use crate::api::LABEL_DATABASE;
use crate::patroni::REST_PORT;
use crate::plan::POSTGRES_PORT;

/// Name of the policy for the members of databases.
const DATABASES: &str = "dbctl-databases";
/// That of DNS.
const DNS_PORT: u16 = 53;

fn tcp(ports: &[u16]) -> Vec<Value> {
    ports.iter().map(|port| json!({ "protocol": "TCP", "port": port })).collect()
}

/// Pods of databases, and of their backups.
fn of_databases() -> Value {
    json!({ "matchExpressions": [{ "key": LABEL_DATABASE, "operator": "Exists" }] })
}

fn namespace(name: &str) -> Value {
    json!({ "matchLabels": { "kubernetes.io/metadata.name": name } })
}

/// The controller asks the API server and members, and is asked for metrics: who may have them is its own business. An API server
/// is no pod, so it is known by its port alone; the kubelet's probes come from the node, which no policy keeps out.
///
/// <https://kubernetes.io/docs/concepts/services-networking/network-policies/>
pub fn controller(installation: &Installation) -> Value {
    let databases = installation.watch.as_deref().map_or_else(|| json!({}), namespace);
    let mut names = tcp(&[DNS_PORT]);
    names.push(json!({ "protocol": "UDP", "port": DNS_PORT }));
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": metadata(ACCOUNT, Some(&installation.namespace)),
        "spec": {
            "podSelector": { "matchLabels": selector() },
            "policyTypes": ["Ingress", "Egress"],
            // Prometheus may run in any namespace of the cluster.
            "ingress": [{ "from": [{ "namespaceSelector": {} }], "ports": tcp(&[METRICS_PORT]) }],
            "egress": [
                { "ports": names },
                { "ports": tcp(&installation.api_ports) },
                {
                    "to": [{ "namespaceSelector": databases, "podSelector": of_databases() }],
                    "ports": tcp(&[REST_PORT, AGENT_PORT]),
                },
            ],
        },
    })
}

/// Anybody may ask members for data, as PostgreSQL itself asks who they are; what moves roles is for members and the
/// controller, which runs in that namespace, alone. What members reach is not narrowed: stores of backups are anywhere. `place`
/// is where the databases are; without it, whoever applies it says where.
pub fn databases_policy(place: Option<&str>, controller: &str) -> Value {
    let controller = json!({
        "namespaceSelector": namespace(controller),
        "podSelector": { "matchLabels": selector() },
    });
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": metadata(DATABASES, place),
        "spec": {
            "podSelector": of_databases(),
            "policyTypes": ["Ingress"],
            "ingress": [
                { "ports": tcp(&[POSTGRES_PORT]) },
                { "from": [{ "podSelector": of_databases() }, controller], "ports": tcp(&[REST_PORT, AGENT_PORT]) },
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::Names;

    /// Every port that a member listens on is one that a policy speaks of.
    #[test]
    fn members_are_reached_at_all_their_ports() {
        let (_, template) = crate::plan::sample_pods().swap_remove(0);
        let ports: BTreeSet<u64> = template["spec"]["containers"][0]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| port["containerPort"].as_u64().unwrap())
            .collect();
        let policy = databases_policy(None, "ops");
        let allowed: BTreeSet<u64> = policy["spec"]["ingress"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|rule| rule["ports"].as_array().unwrap())
            .map(|port| port["port"].as_u64().unwrap())
            .collect();
        assert_eq!(ports, allowed);
        assert!(template["metadata"]["labels"].get(LABEL_DATABASE).is_some());
        assert!(Names("db").backup_labels().contains_key(LABEL_DATABASE));
    }

    #[test]
    fn a_controller_of_one_namespace_reaches_no_members_elsewhere() {
        let mut wanted = Installation::new("ops");
        let to = |wanted: &Installation| {
            controller(wanted)["spec"]["egress"][2]["to"][0]["namespaceSelector"].clone()
        };
        assert_eq!(to(&wanted), json!({}));
        wanted.watch = Some("shop".to_owned());
        assert_eq!(to(&wanted), namespace("shop"));
    }
}
