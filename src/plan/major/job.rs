//! The Jobs of a major upgrade: the rehearsal, and the backups before and after it.

use serde_json::{Value, json};

use crate::api::PgVersion;
use crate::plan::backup::{self, Run, RunState, Task};
use crate::plan::context::Context;
use crate::plan::object::{name_of, owners};
use crate::plan::{Action, Kind, certificates, pod};

/// `app.kubernetes.io/name` of a rehearsal's Job and pod: what selects members does not select them.
const LABEL: &str = "postgresql-rehearsal";
/// Where its volume is.
const SCRATCH: &str = "/scratch";
/// What of the members' environment it needs.
const SHARED: [&str; 6] = [
    "POD_NAME",
    "POD_NAMESPACE",
    "TMPDIR",
    "SOCKET_DIRECTORY",
    "POSTGRES_MAJOR",
    "PATRONI_SUPERUSER_PASSWORD",
];
/// Seconds for which it is kept after its end.
const KEPT_SECONDS: i32 = 86_400;

/// The rehearsal's name.
pub fn rehearsal_name(cx: &Context<'_>, id: &str) -> String {
    cx.names.verify_job(id).replacen("-verify-", "-rehearse-", 1)
}

/// The id under which the first backup of the new release is asked for.
pub fn after(id: &str) -> String {
    format!("{id}-after")
}

/// How far a Job is; `None` where there is none.
pub enum Outcome {
    /// There is none.
    Absent,
    /// It runs.
    Active,
    /// It went well.
    Done,
    /// It did not, and why.
    Failed(String),
    /// It is somebody else's.
    Foreign,
}

/// How far the Job of that name is.
pub fn outcome(cx: &Context<'_>, name: &str) -> Outcome {
    let Some(job) = cx.observed.get(Kind::Job, name) else { return Outcome::Absent };
    if !owners(job).iter().any(|owner| owner["uid"] == cx.uid) {
        return Outcome::Foreign;
    }
    let run = Run::of(job, Task::Verify);
    match run.state {
        RunState::Active => Outcome::Active,
        RunState::Complete(_) => Outcome::Done,
        RunState::Failed(_) => Outcome::Failed(run.words(cx)),
    }
}

/// Makes the backup's Job, or its verification's.
pub fn backup(cx: &Context<'_>, task: Task, id: &str, entry: Option<&str>) -> Option<Action> {
    let wanted = backup::enabled(cx)?;
    Some(backup::requested(cx, &wanted, task, id, entry))
}

/// Makes the rehearsal's Job: it speaks with the primary at that address.
pub fn rehearsal(cx: &Context<'_>, id: &str, host: &str, from: PgVersion, to: PgVersion) -> Action {
    let name = rehearsal_name(cx, id);
    let mut command: Vec<String> = ["dbctl", "agent", "rehearse", "--host", host].map(str::to_owned).to_vec();
    command.extend(["--from".to_owned(), from.to_string(), "--to".to_owned(), to.to_string()]);
    let free = cx.view.members.iter().filter_map(|member| member.room).map(|room| room.free).min();
    command.extend(free.iter().flat_map(|free| ["--free".to_owned(), free.to_string()]));
    let mut labels = cx.names.labels();
    labels.insert("app.kubernetes.io/name".to_owned(), LABEL.to_owned());
    let mut body = cx.owned(
        Kind::Job,
        &name,
        json!({ "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": { "metadata": { "labels": labels }, "spec": pod_spec(cx, command, from, to) },
        } }),
    );
    body["metadata"]["labels"] = json!(labels);
    debug_assert_eq!(name_of(&body), name);
    Action::Create(Kind::Job, body)
}

fn pod_spec(cx: &Context<'_>, command: Vec<String>, from: PgVersion, to: PgVersion) -> Value {
    let places = [("tmp", pod::TMP_MOUNT), ("run", pod::SOCKET_MOUNT), ("scratch", SCRATCH)];
    let volumes: Vec<Value> =
        places.iter().map(|(name, _)| json!({ "name": name, "emptyDir": {} })).collect();
    let mounts: Vec<Value> =
        places.iter().map(|(name, path)| json!({ "name": name, "mountPath": path })).collect();
    let shared = |variable: &Value| SHARED.iter().any(|name| variable["name"] == *name);
    let mut environment: Vec<Value> = pod::environment(cx, to).into_iter().filter(shared).collect();
    environment.push(pod::previous(from));
    environment.push(json!({ "name": "SCRATCH_DIRECTORY", "value": SCRATCH }));
    let mut spec = pod::placement(cx);
    let rest = json!({
        "serviceAccountName": cx.names.main(),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "restartPolicy": "Never",
        "securityContext": pod::security(),
        // The primary's node has pulled the new image by the time that its pod needs it.
        "affinity": { "podAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": { "matchLabels": primary(cx) },
            },
        }] } },
        "containers": [{
            "name": "rehearse",
            "image": pod::image(cx, to),
            "command": command,
            "env": environment,
            "resources": { "requests": { "cpu": "100m", "memory": "512Mi" } },
            "securityContext": pod::container_security(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    });
    if let Value::Object(rest) = rest {
        spec.extend(rest);
    }
    certificates::into_pod(cx, &mut spec, false);
    Value::Object(spec)
}

fn primary(cx: &Context<'_>) -> Value {
    let mut labels = cx.names.selector();
    labels.insert(crate::api::LABEL_ROLE.to_owned(), crate::api::ROLE_PRIMARY.to_owned());
    json!(labels)
}
