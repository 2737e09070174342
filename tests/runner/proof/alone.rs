//! Patroni alone, for comparison: the same software, settings and probes, with nothing of dbctl's about it.

use dbctl::api::PgVersion;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::cluster::NAMESPACE;

/// Every password of it: it lives as long as the test.
pub const PASSWORD: &str = "alone";

/// Completes the configuration with what only the pod knows, and becomes Patroni.
const START: &str = r#"umask 077
sed -e "s|@SOCKETS@|$SOCKETS|g" "$CONFIG" > "$SOCKETS/patroni.yml"
exec patroni "$SOCKETS/patroni.yml""#;

pub fn selector(name: &str) -> String {
    format!("application=patroni,cluster-name={name}")
}

fn labels(name: &str) -> Value {
    json!({"application": "patroni", "cluster-name": name})
}

/// As dbctl sets them, and Patroni's defaults otherwise.
fn configuration(name: &str) -> Value {
    json!({
        "scope": name,
        "kubernetes": {
            "labels": {"application": "patroni"},
            "scope_label": "cluster-name",
            "role_label": "role",
            "context": null,
        },
        "bootstrap": {
            "dcs": {
                "ttl": 20,
                "loop_wait": 5,
                "retry_timeout": 5,
                "maximum_lag_on_failover": 1 << 20,
                "failsafe_mode": true,
                "check_timeline": true,
                "synchronous_mode": "quorum",
                "postgresql": {
                    "use_pg_rewind": true,
                    "use_slots": true,
                    "parameters": {
                        "wal_sender_timeout": "10s",
                        "max_wal_senders": "20",
                        "max_replication_slots": "20",
                        "max_slot_wal_keep_size": "256MB",
                        "wal_keep_size": "256MB",
                        "password_encryption": "scram-sha-256",
                        "logging_collector": "off",
                    },
                    "pg_hba": [
                        "local all postgres trust",
                        "local replication standby trust",
                        "host replication standby all scram-sha-256",
                        "host all all all scram-sha-256",
                    ],
                },
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
        },
        "postgresql": {
            "use_unix_socket": true,
            "use_unix_socket_repl": true,
            "remove_data_directory_on_rewind_failure": true,
            "remove_data_directory_on_diverged_timelines": true,
            "basebackup": [{"checkpoint": "fast"}],
            "pgpass": "@SOCKETS@/pgpass",
            "parameters": {"unix_socket_directories": "@SOCKETS@"},
        },
    })
}

fn environment() -> Value {
    let plain = |name: &str, value: &str| json!({"name": name, "value": value});
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!([
        field("POD_IP", "status.podIP"),
        field("PATRONI_NAME", "metadata.name"),
        field("PATRONI_KUBERNETES_NAMESPACE", "metadata.namespace"),
        plain("PATRONI_POSTGRESQL_DATA_DIR", "/data/pgdata"),
        plain("PATRONI_POSTGRESQL_LISTEN", "$(POD_IP):5432"),
        plain("PATRONI_POSTGRESQL_CONNECT_ADDRESS", "$(POD_IP):5432"),
        plain("PATRONI_RESTAPI_LISTEN", "$(POD_IP):8008"),
        plain("PATRONI_RESTAPI_CONNECT_ADDRESS", "$(POD_IP):8008"),
        plain("PATRONI_RESTAPI_USERNAME", "patroni"),
        plain("PATRONI_RESTAPI_PASSWORD", PASSWORD),
        plain("PATRONI_SUPERUSER_USERNAME", "postgres"),
        plain("PATRONI_SUPERUSER_PASSWORD", PASSWORD),
        plain("PATRONI_REPLICATION_USERNAME", "standby"),
        plain("PATRONI_REPLICATION_PASSWORD", PASSWORD),
        plain("SOCKETS", "/sockets"),
        plain("CONFIG", "/config/patroni.yml"),
        plain("TMPDIR", "/tmp"),
    ])
}

fn probe(path: &str, period: i64, timeout: i64, failures: i64) -> Value {
    json!({
        "httpGet": {"path": path, "port": 8008},
        "periodSeconds": period, "timeoutSeconds": timeout, "failureThreshold": failures,
    })
}

fn stateful_set(name: &str, count: usize) -> Value {
    let container = json!({
        "name": "postgres",
        "image": format!("dbctl/postgres:{}", PgVersion::DEFAULT),
        "command": ["sh", "-c", START],
        "env": environment(),
        "ports": [{"name": "postgres", "containerPort": 5432}, {"name": "patroni", "containerPort": 8008}],
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "config", "mountPath": "/config"},
            {"name": "sockets", "mountPath": "/sockets"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
        // As dbctl has them.
        "startupProbe": probe("/liveness", 1, 5, 600),
        "readinessProbe": probe("/readiness", 2, 2, 3),
        "livenessProbe": probe("/liveness", 5, 4, 4),
    });
    json!({
        "replicas": count,
        "serviceName": format!("{name}-members"),
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": labels(name)},
        "template": {
            "metadata": {"labels": labels(name)},
            "spec": {
                "serviceAccountName": name,
                "terminationGracePeriodSeconds": 300,
                "securityContext": {"runAsUser": 999, "runAsGroup": 999, "fsGroup": 999},
                "containers": [container],
                "volumes": [
                    {"name": "config", "configMap": {"name": format!("{name}-patroni")}},
                    {"name": "sockets", "emptyDir": {}},
                    {"name": "tmp", "emptyDir": {}},
                ],
            },
        },
        "volumeClaimTemplates": [{
            "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Gi"}}},
        }],
    })
}

/// Its objects: group, version, kind, name, and what is in them.
fn objects(name: &str, count: usize) -> Vec<(&'static str, &'static str, String, Value)> {
    let rules = json!([
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "get", "list", "watch", "patch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
    ]);
    let port = json!([{"name": "postgres", "port": 5432, "targetPort": 5432}]);
    let mut primary = labels(name);
    primary["role"] = json!("primary");
    vec![
        ("", "ServiceAccount", name.to_owned(), json!({})),
        ("rbac.authorization.k8s.io", "Role", name.to_owned(), json!({"rules": rules})),
        (
            "rbac.authorization.k8s.io",
            "RoleBinding",
            name.to_owned(),
            json!({
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
            }),
        ),
        (
            "",
            "ConfigMap",
            format!("{name}-patroni"),
            json!({"data": {"patroni.yml": configuration(name).to_string()}}),
        ),
        ("", "Service", name.to_owned(), json!({"spec": {"selector": primary, "ports": port}})),
        (
            "",
            "Service",
            format!("{name}-members"),
            json!({"spec": {"clusterIP": "None", "publishNotReadyAddresses": true, "selector": labels(name), "ports": port}}),
        ),
        ("apps", "StatefulSet", name.to_owned(), json!({"spec": stateful_set(name, count)})),
    ]
}

/// Makes it. It is there when its sight says so.
pub async fn create(client: &Client, name: &str, count: usize) {
    for (group, kind, object, mut body) in objects(name, count) {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), NAMESPACE, &resource);
        body["apiVersion"] = json!(resource.api_version);
        body["kind"] = json!(kind);
        body["metadata"] = json!({"name": object});
        api.patch(&object, &PatchParams::apply("proof"), &Patch::Apply(&body)).await.unwrap();
    }
}
