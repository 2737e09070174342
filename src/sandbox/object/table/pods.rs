//! The table of pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Layout, NAME, age, age::since, items, name, number, text, text_or};

pub(super) fn layout(group: &str, kind: &str) -> Option<Layout> {
    ((group, kind) == ("", "Pod")).then_some(Layout {
        columns: &[
            NAME,
            ("Ready", "string", 0, "Containers that are ready, of all containers."),
            ("Status", "string", 0, "The pod's phase, or what keeps it from it."),
            ("Restarts", "string", 0, "How often its containers were restarted, and when last."),
            AGE,
            ("IP", "string", 1, "The pod's address."),
            ("Node", "string", 1, "The node it runs on."),
            ("Nominated Node", "string", 1, "The node it is to run on after a preemption."),
            ("Readiness Gates", "string", 1, "Further conditions it waits for, and those that hold."),
        ],
        cells,
    })
}

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let statuses = items(pod, "/status/containerStatuses");
    let ready = statuses
        .iter()
        .filter(|status| status["ready"] == json!(true) && status.pointer("/state/running").is_some());
    let all = items(pod, "/spec/containers").len();
    vec![
        name(pod),
        json!(format!("{}/{all}", ready.count())),
        json!(status(pod)),
        json!(restarts(pod, now)),
        age(pod, now),
        json!(text_or(pod, "/status/podIP", "<none>")),
        json!(text_or(pod, "/spec/nodeName", "<none>")),
        json!(text_or(pod, "/status/nominatedNodeName", "<none>")),
        json!(gates(pod)),
    ]
}

fn gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let holds = |gate: &&Value| {
        items(pod, "/status/conditions").iter().any(|condition| {
            condition["type"] == gate["conditionType"] && condition["status"] == json!("True")
        })
    };
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
}

fn restarts(pod: &Value, now: Timestamp) -> String {
    let statuses = items(pod, "/status/containerStatuses");
    let count: i64 = statuses.iter().map(|status| number(status, "/restartCount")).sum();
    let last = statuses.iter().map(|status| text(status, "/lastState/terminated/finishedAt")).max();
    match last {
        Some(last) if count > 0 && !last.is_empty() => format!("{count} ({} ago)", since(last, now)),
        _ => count.to_string(),
    }
}

/// Why a container waits or ended.
fn container_reason(status: &Value) -> Option<String> {
    let waiting = text(status, "/state/waiting/reason");
    if !waiting.is_empty() {
        return Some(waiting.to_owned());
    }
    let ended = status.pointer("/state/terminated")?;
    let reason = text(ended, "/reason");
    if !reason.is_empty() {
        return Some(reason.to_owned());
    }
    let signal = number(ended, "/signal");
    Some(if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", number(ended, "/exitCode"))
    })
}

/// What the status column says: the phase, unless a container has more to say.
fn status(pod: &Value) -> String {
    let mut reason = text(pod, "/status/phase").to_owned();
    let own = text(pod, "/status/reason");
    if !own.is_empty() {
        own.clone_into(&mut reason);
    }
    let (init, done) = init_reason(pod);
    if let Some(init) = init {
        reason = init;
    }
    if done {
        let statuses = items(pod, "/status/containerStatuses");
        let mut running = false;
        for status in statuses.iter().rev() {
            if let Some(found) = container_reason(status) {
                reason = found;
            } else if status["ready"] == json!(true) && status.pointer("/state/running").is_some() {
                running = true;
            }
        }
        if reason == "Completed" && running {
            reason = if has_ready_condition(pod) { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if !text(pod, "/metadata/deletionTimestamp").is_empty() {
        reason = if own == "NodeLost" { "Unknown" } else { "Terminating" }.to_owned();
    }
    reason
}

fn has_ready_condition(pod: &Value) -> bool {
    items(pod, "/status/conditions")
        .iter()
        .any(|condition| condition["type"] == json!("Ready") && condition["status"] == json!("True"))
}

/// What the init containers are at, and whether they are through.
fn init_reason(pod: &Value) -> (Option<String>, bool) {
    let all = items(pod, "/spec/initContainers").len();
    for (index, status) in items(pod, "/status/initContainerStatuses").iter().enumerate() {
        let ended = status.pointer("/state/terminated");
        if ended.is_some_and(|ended| number(ended, "/exitCode") == 0) || status["started"] == json!(true) {
            continue;
        }
        let reason = match container_reason(status) {
            Some(reason) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{index}/{all}"),
        };
        return (Some(reason), false);
    }
    (None, true)
}
