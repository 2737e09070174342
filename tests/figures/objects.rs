//! The objects of one database of three members, as a cluster holds them.

use serde_json::{Value, json};

/// Members of each database.
pub const MEMBERS: usize = 3;

/// An object and where it is made.
pub struct Object {
    /// Path of its resource.
    pub path: String,
    /// What is made.
    pub body: Value,
    /// What is written to its status afterwards.
    pub status: Option<Value>,
}

/// The namespace of the database of that number.
pub fn namespace(number: usize) -> String {
    format!("team-{}", number % 20)
}

/// The name of the database of that number.
pub fn name(number: usize) -> String {
    format!("orders-{number}")
}

fn labels(name: &str) -> Value {
    json!({"app.kubernetes.io/name": "postgres", "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": "dbctl", "app.kubernetes.io/version": "18.6", "db.example.com/database": name})
}

/// Everything that belongs to the database of that number.
pub fn of_database(number: usize) -> Vec<Object> {
    let (namespace, name) = (namespace(number), name(number));
    let core = |plural: &str| format!("/api/v1/namespaces/{namespace}/{plural}");
    let group = |group: &str, plural: &str| format!("/apis/{group}/namespaces/{namespace}/{plural}");
    let meta = |suffix: &str| json!({"name": format!("{name}{suffix}"), "labels": labels(&name)});
    let plain = |path: String, body: Value| Object { path, body, status: None };
    let secret = |suffix: &str| {
        let data = json!({"password": "c2VjcmV0LXNlY3JldC1zZWNyZXQ=", "username": "cG9zdGdyZXM="});
        plain(core("secrets"), json!({"metadata": meta(suffix), "type": "Opaque", "data": data}))
    };
    let map = |suffix: &str, annotations: Value, data: Value| {
        let mut metadata = meta(suffix);
        metadata["annotations"] = annotations;
        plain(core("configmaps"), json!({"metadata": metadata, "data": data}))
    };
    let service = |suffix: &str| {
        let selector = json!({"db.example.com/database": name});
        let spec =
            json!({"clusterIP": "None", "selector": selector, "ports": [{"name": "postgres", "port": 5432}]});
        plain(core("services"), json!({"metadata": meta(suffix), "spec": spec}))
    };
    let slice = |suffix: &str| {
        let endpoints: Vec<Value> = (0..MEMBERS)
            .map(|member| {
                json!({"addresses": [address(number, member)], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": format!("{name}-{member}"), "namespace": namespace}})
            })
            .collect();
        let body = json!({"metadata": meta(suffix), "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "postgres", "port": 5432, "protocol": "TCP"}]});
        plain(group("discovery.k8s.io/v1", "endpointslices"), body)
    };
    let config =
        "ttl: 30\nloop_wait: 10\nretry_timeout: 10\nsynchronous_mode: true\npostgresql:\n  parameters:\n";
    let leader = json!({"acquireTime": "2026-11-22T10:00:00.000000+00:00", "leader": format!("{name}-0"),
        "renewTime": "2026-11-22T10:00:00.000000+00:00", "optime": "50331648", "transitions": "1", "ttl": "30"});
    let spec = json!({"replicas": MEMBERS, "version": "18.6", "storage": {"size": "10Gi"}});
    let mut objects = vec![
        plain(
            group("db.example.com/v1alpha1", "databases"),
            json!({"apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": meta(""), "spec": spec}),
        ),
        plain(core("serviceaccounts"), json!({"metadata": meta("")})),
        secret(""),
        secret("-internal"),
        secret("-replication"),
        map("", json!({}), json!({"patroni.yml": config.repeat(6)})),
        map("-leader", leader, json!({})),
        map(
            "-config",
            json!({"config": config.repeat(3), "history": "[[1,50331648,\"no recovery target\"]]"}),
            json!({}),
        ),
        map("-sync", json!({"leader": format!("{name}-0"), "sync_standby": format!("{name}-1")}), json!({})),
        map("-failover", json!({}), json!({})),
        service(""),
        service("-replicas"),
        service("-members"),
        slice(""),
        slice("-replicas"),
        slice("-members"),
        plain(
            group("coordination.k8s.io/v1", "leases"),
            json!({"metadata": meta(""), "spec": {
            "holderIdentity": name, "leaseDurationSeconds": 15, "renewTime": "2026-11-22T10:00:00.000000Z"}}),
        ),
        plain(
            group("policy/v1", "poddisruptionbudgets"),
            json!({"metadata": meta(""), "spec": {
            "maxUnavailable": 1, "selector": {"matchLabels": {"db.example.com/database": name}}}}),
        ),
        plain(
            group("apps/v1", "statefulsets"),
            json!({"metadata": meta(""), "spec": {
            "replicas": MEMBERS, "serviceName": format!("{name}-members"), "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"db.example.com/database": name}},
            "template": {"metadata": {"labels": labels(&name)}, "spec": pod_spec(&name, "data")}}}),
        ),
    ];
    for member in 0..MEMBERS {
        let claim = json!({"metadata": {"name": format!("data-{name}-{member}"), "labels": labels(&name)}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "volumeName": format!("pvc-{number}-{member}"),
            "resources": {"requests": {"storage": "10Gi"}}}});
        objects.push(plain(core("persistentvolumeclaims"), claim));
        objects.push(pod(number, member));
    }
    objects
}

fn address(number: usize, member: usize) -> String {
    format!("10.{}.{}.{}", number / 250, number % 250, member + 1)
}

/// A member's pod.
pub fn pod(number: usize, member: usize) -> Object {
    let (namespace, name) = (namespace(number), name(number));
    let pod = format!("{name}-{member}");
    let mut labels = labels(&name);
    labels["apps.kubernetes.io/pod-index"] = member.to_string().into();
    labels["controller-revision-hash"] = format!("{name}-6c9f8d7b5").into();
    labels["statefulset.kubernetes.io/pod-name"] = pod.as_str().into();
    labels["role"] = if member == 0 { "primary" } else { "replica" }.into();
    let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "controller": true,
        "blockOwnerDeletion": true, "uid": format!("00000000-0000-4000-8000-{number:012}")}]);
    let state = format!(
        "{{\"conn_url\":\"postgres://{pod}:5432/postgres\",\"api_url\":\"http://{pod}:8008/patroni\",\"state\":\"running\",\
         \"role\":\"replica\",\"version\":\"4.1.0\",\"xlog_location\":50331648,\"timeline\":1}}"
    );
    let mut spec = pod_spec(&name, &format!("data-{pod}"));
    spec["nodeName"] = format!("worker-{}", number % 40).into();
    spec["hostname"] = pod.as_str().into();
    let body = json!({"metadata": {"name": pod, "labels": labels, "annotations": {"status": state},
        "ownerReferences": owner}, "spec": spec});
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "lastProbeTime": null,
        "observedGeneration": 1, "lastTransitionTime": "2026-11-22T10:00:00Z"})
    };
    let kinds = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let status = json!({"phase": "Running", "podIP": address(number, member), "hostIP": "10.0.0.7", "qosClass": "Burstable",
        "podIPs": [{"ip": address(number, member)}], "hostIPs": [{"ip": "10.0.0.7"}], "observedGeneration": 1,
        "startTime": "2026-11-22T10:00:00Z", "conditions": kinds.map(condition), "containerStatuses": [{
            "name": "postgres", "ready": true, "started": true, "restartCount": 0, "image": "dbctl/postgres:18.6",
            "imageID": "docker.io/dbctl/postgres@sha256:9b1e4a2f0c5d7e8f9a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d1e2f",
            "containerID": format!("containerd://{number:064}"), "lastState": {},
            "state": {"running": {"startedAt": "2026-11-22T10:00:00Z"}}}]});
    Object { path: format!("/api/v1/namespaces/{namespace}/pods"), body, status: Some(status) }
}

fn pod_spec(name: &str, claim: &str) -> Value {
    let reference = |field: &str| json!({"fieldRef": {"apiVersion": "v1", "fieldPath": field}});
    let from = |key: &str| json!({"secretKeyRef": {"name": format!("{name}-internal"), "key": key}});
    let probe = |path: &str| {
        json!({"httpGet": {"path": path, "port": 8008, "scheme": "HTTP"}, "periodSeconds": 10,
        "timeoutSeconds": 5, "failureThreshold": 3, "successThreshold": 1})
    };
    json!({
        "serviceAccountName": name, "terminationGracePeriodSeconds": 30, "subdomain": format!("{name}-members"),
        "securityContext": {"fsGroup": 999, "runAsNonRoot": true, "runAsUser": 999},
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100,
            "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"db.example.com/database": name}}}}]}},
        "containers": [{
            "name": "postgres", "image": "dbctl/postgres:18.6", "command": ["dbctl", "agent", "run"],
            "env": [
                {"name": "POD_NAME", "valueFrom": reference("metadata.name")},
                {"name": "POD_NAMESPACE", "valueFrom": reference("metadata.namespace")},
                {"name": "POD_IP", "valueFrom": reference("status.podIP")},
                {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"},
                {"name": "PATRONI_CONFIG_FILE", "value": "/etc/patroni/patroni.yml"},
                {"name": "SOCKET_DIRECTORY", "value": "/run/postgresql"},
                {"name": "SUPERUSER_PASSWORD", "valueFrom": from("superuser")},
                {"name": "REPLICATION_PASSWORD", "valueFrom": from("replication")},
            ],
            "ports": [{"name": "postgres", "containerPort": 5432}, {"name": "patroni", "containerPort": 8008}],
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
            "livenessProbe": probe("/liveness"), "readinessProbe": probe("/readiness"), "startupProbe": probe("/startup"),
            "volumeMounts": [
                {"name": "data", "mountPath": "/var/lib/postgresql/data"}, {"name": "config", "mountPath": "/etc/patroni"},
                {"name": "run", "mountPath": "/run/postgresql"}, {"name": "shm", "mountPath": "/dev/shm"},
            ],
        }],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": claim}}, {"name": "config", "configMap": {"name": name}},
            {"name": "run", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    })
}
