//! The Job that takes one backup, and the one that verifies it. The former needs no volume: it asks a member for all data. The
//! latter asks nobody, and has one that goes with its pod.

use serde_json::{Map, Value, json};

use super::{Task, Wanted};
use crate::plan::context::Context;
use crate::plan::{certificates, members, notes, pod};

/// The volume with the destination's credentials.
pub const CREDENTIALS: &str = "backup-credentials";
/// Where it is mounted: one file for each key of the Secret.
const CREDENTIALS_MOUNT: &str = "/etc/dbctl/backup";
/// Readable for the pod's group.
const CREDENTIALS_MODE: i32 = 0o440;
/// Seconds for which the Job of a request is kept after its end.
const KEPT_SECONDS: i32 = 86_400;
/// A backup that streams needs little, whatever the database's size; to verify one, PostgreSQL runs.
const CPU: &str = "100m";
const MEMORY: [&str; 2] = ["128Mi", "512Mi"];
/// What of the members' environment a backup needs too.
const SHARED: [&str; 7] = [
    "POD_NAME",
    "POD_NAMESPACE",
    "TMPDIR",
    "PATRONI_SUPERUSER_USERNAME",
    "PATRONI_SUPERUSER_PASSWORD",
    "PATRONI_REPLICATION_USERNAME",
    "PATRONI_REPLICATION_PASSWORD",
];
/// The same of a verification: it speaks with no member, and has none of their passwords.
const SHARED_TO_VERIFY: [&str; 5] =
    ["POD_NAME", "POD_NAMESPACE", "TMPDIR", "SOCKET_DIRECTORY", "POSTGRES_MAJOR"];
/// Where a verification has its volume.
const SCRATCH_MOUNT: &str = "/scratch";

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

/// What a Job of the schedule is like.
pub fn scheduled(cx: &Context<'_>, wanted: &Wanted<'_>, task: Task) -> Value {
    spec(cx, task, task.retries(), words(cx, wanted, task))
}

/// That of the Job of a request. Whoever asked hears of a failure at once, and the Job goes by itself.
pub fn requested(
    cx: &Context<'_>,
    wanted: &Wanted<'_>,
    task: Task,
    request: &str,
    backup: Option<&str>,
) -> Value {
    let mut words = words(cx, wanted, task);
    words.extend(["--request".to_owned(), request.to_owned()]);
    words.extend(backup.iter().flat_map(|backup| ["--backup".to_owned(), (*backup).to_owned()]));
    let mut spec = spec(cx, task, 0, words);
    spec["ttlSecondsAfterFinished"] = json!(KEPT_SECONDS);
    spec
}

/// The spec of a Job that begins again that often where it fails.
fn spec(cx: &Context<'_>, task: Task, retries: i32, words: Vec<String>) -> Value {
    let disrupted = json!({ "type": "DisruptionTarget", "status": "True" });
    json!({
        "backoffLimit": retries,
        // A drained node is no failure of the backup's.
        "podFailurePolicy": { "rules": [{ "action": "Ignore", "onPodConditions": [disrupted] }] },
        "template": {
            "metadata": { "labels": task.labels(&cx.names) },
            "spec": pod_spec(cx, task, words),
        },
    })
}

fn pod_spec(cx: &Context<'_>, task: Task, words: Vec<String>) -> Value {
    let mut volumes: Vec<Value> =
        places(task).iter().map(|(name, _)| json!({ "name": name, "emptyDir": {} })).collect();
    volumes.extend(credentials(cx));
    let mut spec: Map<String, Value> = pod::placement(cx);
    let rest = json!({
        "serviceAccountName": cx.names.main(),
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "restartPolicy": "Never",
        "securityContext": pod::security(),
        "containers": [container(cx, task, words)],
        "volumes": volumes,
    });
    if let Value::Object(rest) = rest {
        spec.extend(rest);
    }
    // A verification speaks with no member.
    if task == Task::Backup {
        certificates::into_pod(cx, &mut spec, false);
    }
    Value::Object(spec)
}

/// The volumes that live as long as the pod, and where they are mounted.
fn places(task: Task) -> &'static [(&'static str, &'static str)] {
    match task {
        Task::Backup => &[("tmp", pod::TMP_MOUNT)],
        Task::Verify => &[("tmp", pod::TMP_MOUNT), ("run", pod::SOCKET_MOUNT), ("scratch", SCRATCH_MOUNT)],
    }
}

fn environment(cx: &Context<'_>, task: Task) -> Vec<Value> {
    let (names, scratch) = match task {
        Task::Backup => (SHARED.as_slice(), None),
        Task::Verify => (
            SHARED_TO_VERIFY.as_slice(),
            Some(json!({ "name": "SCRATCH_DIRECTORY", "value": SCRATCH_MOUNT })),
        ),
    };
    let shared = |variable: &Value| names.iter().any(|name| variable["name"] == *name);
    let all = pod::environment(cx, members::version(cx)).into_iter().filter(shared);
    all.chain(scratch).chain(credentials(cx).map(|_| credentials_variable())).collect()
}

fn container(cx: &Context<'_>, task: Task, words: Vec<String>) -> Value {
    let mut mounts: Vec<Value> =
        places(task).iter().map(|(name, path)| json!({ "name": name, "mountPath": path })).collect();
    mounts.extend(credentials(cx).map(|_| credentials_mount()));
    let [little, more] = MEMORY;
    let memory = if task == Task::Verify { more } else { little };
    // Kubernetes puts the environment in place of `$(NAME)`, and a `$` in place of two.
    let command: Vec<String> = words.into_iter().map(|word| word.replace('$', "$$")).collect();
    json!({
        "name": task.verb().to_string(),
        "image": pod::image(cx, members::version(cx)),
        "command": command,
        "env": environment(cx, task),
        "resources": { "requests": { "cpu": CPU, "memory": memory } },
        "securityContext": pod::container_security(),
        // Why it failed is the last line of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    })
}

/// The command, as the agent reads it.
fn words(cx: &Context<'_>, wanted: &Wanted<'_>, task: Task) -> Vec<String> {
    let verb = task.verb().to_string();
    let mut words = vec!["dbctl", "agent", &verb, "--to", wanted.destination];
    words.extend(["--archive", notes::archive(cx), "--database", cx.names.0]);
    let keep = wanted.keep.to_string();
    words.extend((task == Task::Backup).then_some(["--keep", &keep]).into_iter().flatten());
    words.into_iter().map(str::to_owned).collect()
}
