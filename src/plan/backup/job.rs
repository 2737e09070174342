//! The Job that takes one backup. It needs no volume of data: it asks a member for all of it.

use serde_json::{Map, Value, json};

use super::Wanted;
use crate::plan::context::Context;
use crate::plan::{members, notes, pod};

/// The volume with the destination's credentials.
pub const CREDENTIALS: &str = "backup-credentials";
/// Where it is mounted: one file for each key of the Secret.
const CREDENTIALS_MOUNT: &str = "/etc/dbctl/backup";
/// Readable for the pod's group.
const CREDENTIALS_MODE: i32 = 0o440;
/// Seconds for which the Job of a request is kept after its end.
const KEPT_SECONDS: i32 = 86_400;
/// A backup that streams needs little, whatever the database's size.
const CPU: &str = "100m";
const MEMORY: &str = "128Mi";
/// What of the members' environment a backup needs too.
const SHARED: [&str; 9] = [
    "POD_NAME",
    "POD_NAMESPACE",
    "TMPDIR",
    "PATRONI_SUPERUSER_USERNAME",
    "PATRONI_SUPERUSER_PASSWORD",
    "PATRONI_REPLICATION_USERNAME",
    "PATRONI_REPLICATION_PASSWORD",
    "PATRONI_RESTAPI_USERNAME",
    "PATRONI_RESTAPI_PASSWORD",
];

/// The volume with the credentials, in the pods of members and of backups; `None` where the pod's own identity is used.
/// Whether backups are on does not matter, so that to turn them on needs no new pods.
pub fn credentials(cx: &Context<'_>) -> Option<Value> {
    let secret = cx.spec().backup.as_ref()?.credentials_secret.as_deref()?;
    let secret = json!({ "secretName": secret, "optional": true, "defaultMode": CREDENTIALS_MODE });
    Some(json!({ "name": CREDENTIALS, "secret": secret }))
}

/// Where [`credentials`] is mounted.
pub fn credentials_mount() -> Value {
    json!({ "name": CREDENTIALS, "mountPath": CREDENTIALS_MOUNT, "readOnly": true })
}

/// The variable that says so.
pub fn credentials_variable() -> Value {
    json!({ "name": "BACKUP_CREDENTIALS", "value": CREDENTIALS_MOUNT })
}

/// The spec of a Job that takes one backup, and begins again that often where it fails.
pub fn spec(cx: &Context<'_>, wanted: &Wanted<'_>, request: Option<&str>, retries: i32) -> Value {
    let disrupted = json!({ "type": "DisruptionTarget", "status": "True" });
    json!({
        "backoffLimit": retries,
        // A drained node is no failure of the backup's.
        "podFailurePolicy": { "rules": [{ "action": "Ignore", "onPodConditions": [disrupted] }] },
        "template": {
            "metadata": { "labels": cx.names.backup_labels() },
            "spec": pod_spec(cx, wanted, request),
        },
    })
}

/// That of the Job of a request. Whoever asked hears of a failure at once, and the Job goes by itself.
pub fn requested(cx: &Context<'_>, wanted: &Wanted<'_>, request: &str) -> Value {
    let mut spec = spec(cx, wanted, Some(request), 0);
    spec["ttlSecondsAfterFinished"] = json!(KEPT_SECONDS);
    spec
}

fn pod_spec(cx: &Context<'_>, wanted: &Wanted<'_>, request: Option<&str>) -> Value {
    let mut volumes = vec![json!({ "name": "tmp", "emptyDir": {} })];
    volumes.extend(credentials(cx));
    let mut spec: Map<String, Value> = pod::placement(cx);
    let rest = json!({
        "serviceAccountName": cx.names.main(),
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "restartPolicy": "Never",
        "securityContext": pod::security(),
        "containers": [container(cx, wanted, request)],
        "volumes": volumes,
    });
    if let Value::Object(rest) = rest {
        spec.extend(rest);
    }
    Value::Object(spec)
}

fn container(cx: &Context<'_>, wanted: &Wanted<'_>, request: Option<&str>) -> Value {
    let version = members::version(cx);
    let own = credentials(cx).is_some();
    let shared = |variable: &Value| SHARED.iter().any(|name| variable["name"] == *name);
    let mut environment: Vec<Value> = pod::environment(cx, version).into_iter().filter(shared).collect();
    environment.extend(own.then(credentials_variable));
    let mut mounts = vec![json!({ "name": "tmp", "mountPath": pod::TMP_MOUNT })];
    mounts.extend(own.then(credentials_mount));
    json!({
        "name": "backup",
        "image": pod::image(cx, version),
        "command": command(cx, wanted, request),
        "env": environment,
        "resources": { "requests": { "cpu": CPU, "memory": MEMORY } },
        "securityContext": pod::container_security(),
        // Why it failed is the last line of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    })
}

fn command(cx: &Context<'_>, wanted: &Wanted<'_>, request: Option<&str>) -> Vec<String> {
    let keep = wanted.keep.to_string();
    let mut words = vec!["dbctl", "agent", "backup", "--to", wanted.destination];
    words.extend(["--archive", notes::archive(cx), "--database", cx.names.0, "--keep", &keep]);
    words.extend(request.iter().flat_map(|request| ["--request", *request]));
    // Kubernetes puts the environment in place of `$(NAME)`, and a `$` in place of two.
    words.into_iter().map(|word| word.replace('$', "$$")).collect()
}
