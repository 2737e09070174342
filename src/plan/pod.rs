//! The members' pod.

use serde_json::{Map, Value, json};

use super::backup::{credentials, credentials_mount, credentials_variable};
use super::context::Context;
use super::secrets::{APP_PASSWORD, internal};
use super::services::POSTGRES_PORT;
use super::text::at;
use super::view::{CONTAINER, LABEL_VERSION, TEMPLATE};
use super::{certificates, compare};
use crate::agent::AGENT_PORT;
use crate::api::{PgVersion, Resources};
use crate::patroni::{CONFIG_KEY, REPLICATION_USER, REST_PORT, REST_USER, REWIND_USER, SUPERUSER};

/// Where the volume is mounted.
const DATA_MOUNT: &str = "/var/lib/postgresql/data";
/// PostgreSQL insists on a directory of its own with mode 0700, which the mount itself is not.
const PGDATA: &str = "/var/lib/postgresql/data/pgdata";
const CONFIG_MOUNT: &str = "/etc/patroni";
/// Where sockets are.
pub const SOCKET_MOUNT: &str = "/run/postgresql";
/// Where what is passing may lie.
pub const TMP_MOUNT: &str = "/tmp";
/// The postgres user of the image.
const RUN_AS: i64 = 999;
/// A fast shutdown writes a checkpoint first; a killed one costs a crash recovery.
const GRACE_SECONDS: i64 = 300;

/// The same where Patroni hangs. By then the agent has ended a primary, unless all of the pod stands still: and that must be
/// over before it moves again, since for a moment it would still take writes that wait for nobody else.
const HUNG_GRACE_SECONDS: i64 = 1;

/// The pod template for that release. It carries a hash of itself, which its pods then carry too.
pub fn template(cx: &Context<'_>, version: PgVersion) -> Value {
    let mut labels = cx.names.labels();
    labels.insert(LABEL_VERSION.to_owned(), version.to_string());
    let mut template = json!({ "metadata": { "labels": labels }, "spec": spec(cx, version) });
    template["metadata"]["annotations"] = json!({ TEMPLATE: compare::hash(&template) });
    template
}

fn spec(cx: &Context<'_>, version: PgVersion) -> Value {
    let mut security = security();
    // Otherwise each start walks the whole volume.
    security["fsGroupChangePolicy"] = json!("OnRootMismatch");
    let mut spec = json!({
        "serviceAccountName": cx.names.main(),
        "automountServiceAccountToken": true,
        // A Service named `patroni` would otherwise put PATRONI_* into the environment.
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": security,
        "topologySpreadConstraints": spread(cx),
        "containers": [container(cx, version)],
        "volumes": [
            { "name": "config", "configMap": { "name": cx.names.config() } },
            { "name": "run", "emptyDir": {} },
            { "name": "tmp", "emptyDir": {} },
            // The runtime's default of 64 MiB is too little for parallel queries.
            { "name": "shm", "emptyDir": { "medium": "Memory" } },
        ],
    });
    if let Some(volumes) = spec.pointer_mut("/volumes").and_then(Value::as_array_mut) {
        volumes.extend(credentials(cx));
    }
    if let Some(spec) = spec.as_object_mut() {
        certificates::into_pod(cx, spec, true);
        spec.extend(placement(cx));
    }
    spec
}

/// Where the spec wants pods to run, as fields of a pod's spec.
pub fn placement(cx: &Context<'_>) -> Map<String, Value> {
    let mut spec = Map::new();
    let Some(placement) = &cx.spec().placement else { return spec };
    put(&mut spec, "nodeSelector", !placement.node_selector.is_empty(), json!(placement.node_selector));
    put(&mut spec, "tolerations", !placement.tolerations.is_empty(), json!(placement.tolerations));
    let class = &placement.priority_class_name;
    put(&mut spec, "priorityClassName", class.is_some(), json!(class));
    spec
}

/// As whom a pod runs.
pub fn security() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": RUN_AS,
        "runAsGroup": RUN_AS,
        "fsGroup": RUN_AS,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// What a container may do.
pub fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    })
}

/// The image for that release.
pub fn image(cx: &Context<'_>, version: PgVersion) -> String {
    cx.settings.image.replace("{version}", &version.to_string())
}

fn put(map: &mut Map<String, Value>, key: &str, wanted: bool, value: Value) {
    if wanted {
        map.insert(key.to_owned(), value);
    }
}

/// Softly: on a cluster with too few nodes all members still run.
fn spread(cx: &Context<'_>) -> Value {
    let constraint = |key: &str| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": cx.names.selector() },
        })
    };
    json!([constraint("kubernetes.io/hostname"), constraint("topology.kubernetes.io/zone")])
}

fn container(cx: &Context<'_>, version: PgVersion) -> Value {
    let mut container = json!({
        "name": CONTAINER,
        "image": image(cx, version),
        "command": ["dbctl", "agent", "run"],
        "env": own_environment(cx, version),
        "ports": [
            { "name": "postgres", "containerPort": POSTGRES_PORT, "protocol": "TCP" },
            { "name": "patroni", "containerPort": REST_PORT, "protocol": "TCP" },
            { "name": "agent", "containerPort": AGENT_PORT, "protocol": "TCP" },
        ],
        "securityContext": container_security(),
        // Why the agent or Patroni ended is then in the pod's status, and from there in the Database's.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            { "name": "data", "mountPath": DATA_MOUNT },
            { "name": "config", "mountPath": CONFIG_MOUNT, "readOnly": true },
            { "name": "run", "mountPath": SOCKET_MOUNT },
            { "name": "tmp", "mountPath": TMP_MOUNT },
            { "name": "shm", "mountPath": "/dev/shm" },
        ],
        // Patroni answers only once it has reached the Kubernetes API, so a start may take long when that is down.
        "startupProbe": probe("/liveness", 1, 5, 600),
        // The write Service leads to a new primary only once this passes, where its pod was not ready before.
        "readinessProbe": probe("/readiness", 1, 2, 4),
        // Never by the state of PostgreSQL: only a hung Patroni is killed, later than the agent ends a primary for it and
        // before the lock's ttl is over.
        "livenessProbe": probe("/liveness", 3, 3, 5),
    });
    let before = super::major::previous(cx, version).map(previous);
    if let Some(environment) = container.get_mut("env").and_then(Value::as_array_mut) {
        environment.extend(before);
    }
    container["livenessProbe"]["terminationGracePeriodSeconds"] = json!(HUNG_GRACE_SECONDS);
    if credentials(cx).is_some() {
        for (list, item) in [("env", credentials_variable()), ("volumeMounts", credentials_mount())] {
            container
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .for_each(|all| all.push(item.clone()));
        }
    }
    if let (Some(container), Some(resources)) = (container.as_object_mut(), &cx.spec().resources) {
        container.insert("resources".to_owned(), amounts(resources));
    }
    container
}

fn probe(path: &str, period: i64, timeout: i64, failures: i64) -> Value {
    json!({
        "httpGet": { "path": path, "port": REST_PORT, "scheme": "HTTP" },
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    })
}

fn amounts(resources: &Resources) -> Value {
    let mut amounts = Map::new();
    put(&mut amounts, "requests", !resources.requests.is_empty(), json!(resources.requests));
    put(&mut amounts, "limits", !resources.limits.is_empty(), json!(resources.limits));
    Value::Object(amounts)
}

/// What members have as files, which are read again when they change, is not in their environment too.
fn own_environment(cx: &Context<'_>, version: PgVersion) -> Vec<Value> {
    let mut all = environment(cx, version);
    if certificates::secret(cx).is_some() {
        all.retain(|variable| at(variable, "/valueFrom/secretKeyRef").is_none());
    }
    all
}

/// Every path that the agent needs is here: programs in the sandbox see the host's paths instead of these.
/// PostgreSQL itself inherits nothing that begins with `PATRONI_`: Patroni keeps that from it.
pub fn environment(cx: &Context<'_>, version: PgVersion) -> Vec<Value> {
    let plain = |name: &str, value: &str| json!({ "name": name, "value": value });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    let secret = |name: &str, secret: &str, key: &str| json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": secret, "key": key } } });
    let keys = cx.names.internal_secret();
    let mut all = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IP", "status.podIP"),
        plain("PGDATA", PGDATA),
        plain("TMPDIR", TMP_MOUNT),
        plain("SOCKET_DIRECTORY", SOCKET_MOUNT),
        plain("POSTGRES_MAJOR", &version.major().to_string()),
        plain("PATRONI_CONFIG_FILE", &format!("{CONFIG_MOUNT}/{CONFIG_KEY}")),
        plain("PATRONI_SUPERUSER_USERNAME", SUPERUSER),
        secret("PATRONI_SUPERUSER_PASSWORD", &keys, internal::SUPERUSER),
        plain("PATRONI_REPLICATION_USERNAME", REPLICATION_USER),
        secret("PATRONI_REPLICATION_PASSWORD", &keys, internal::REPLICATION),
        plain("PATRONI_REWIND_USERNAME", REWIND_USER),
        secret("PATRONI_REWIND_PASSWORD", &keys, internal::REWIND),
        secret("PATRONI_APP_PASSWORD", &cx.names.app_secret(), APP_PASSWORD),
    ];
    // Elsewhere it is a file, which is read again when it changes.
    if certificates::secret(cx).is_none() {
        all.push(plain("PATRONI_RESTAPI_USERNAME", REST_USER));
        all.push(secret("PATRONI_RESTAPI_PASSWORD", &keys, internal::REST));
    }
    all
}

/// The variable with the release before, whose programs the image has beside its own. The image itself knows where they are.
pub fn previous(release: PgVersion) -> Value {
    json!({ "name": "POSTGRES_PREVIOUS", "value": release.to_string() })
}
