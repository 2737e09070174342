//! Tables of StatefulSets, Deployments, Jobs and their like.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    AGE, Column, Layout, NAME, age, age::human, container_names_and_images, items, joined, labels, name,
    number, selector, text, text_or,
};

const CONTAINERS: Column = ("Containers", "string", 1, "Names of the template's containers.");
const IMAGES: Column = ("Images", "string", 1, "Images of the template's containers.");
const SELECTOR: Column = ("Selector", "string", 1, "Labels of the pods it keeps.");

pub(super) fn layout(group: &str, kind: &str) -> Option<Layout> {
    Some(match (group, kind) {
        ("apps", "StatefulSet") => Layout {
            columns: &[
                NAME,
                ("Ready", "string", 0, "Pods that are ready, of those wanted."),
                AGE,
                CONTAINERS,
                IMAGES,
            ],
            cells: stateful_set,
        },
        ("apps", "Deployment") => Layout {
            columns: &[
                NAME,
                ("Ready", "string", 0, "Pods that are ready, of those wanted."),
                ("Up-to-date", "string", 0, "Pods that run the newest template."),
                ("Available", "string", 0, "Pods that have been ready for long enough."),
                AGE,
                CONTAINERS,
                IMAGES,
                SELECTOR,
            ],
            cells: deployment,
        },
        ("apps", "ReplicaSet") => Layout {
            columns: &[
                NAME,
                ("Desired", "integer", 0, "Pods wanted."),
                ("Current", "integer", 0, "Pods there."),
                ("Ready", "integer", 0, "Pods that are ready."),
                AGE,
                CONTAINERS,
                IMAGES,
                SELECTOR,
            ],
            cells: replica_set,
        },
        ("apps", "ControllerRevision") => Layout {
            columns: &[
                NAME,
                ("Controller", "string", 0, "What it is a revision of."),
                ("Revision", "string", 0, "Its number."),
                AGE,
            ],
            cells: revision,
        },
        ("batch", "Job") => Layout {
            columns: &[
                NAME,
                ("Status", "string", 0, "How far it is."),
                ("Completions", "string", 0, "Pods that succeeded, of those wanted."),
                ("Duration", "string", 0, "How long it took, or takes."),
                AGE,
                CONTAINERS,
                IMAGES,
                SELECTOR,
            ],
            cells: job,
        },
        ("batch", "CronJob") => Layout {
            columns: &[
                NAME,
                ("Schedule", "string", 0, "When it runs."),
                ("Timezone", "string", 0, "The time zone of the schedule."),
                ("Suspend", "boolean", 0, "Whether it pauses."),
                ("Active", "integer", 0, "Jobs that run now."),
                ("Last Schedule", "string", 0, "Time since it last made a job."),
                AGE,
                CONTAINERS,
                IMAGES,
                SELECTOR,
            ],
            cells: cron_job,
        },
        ("policy", "PodDisruptionBudget") => Layout {
            columns: &[
                NAME,
                ("Min Available", "string", 0, "Pods that must stay."),
                ("Max Unavailable", "string", 0, "Pods that may go."),
                ("Allowed Disruptions", "integer", 0, "Evictions that are allowed now."),
                AGE,
            ],
            cells: budget,
        },
        _ => return None,
    })
}

fn template(object: &Value) -> [Value; 2] {
    container_names_and_images(items(object, "/spec/template/spec/containers"))
}

fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!("{}/{}", number(object, "/status/readyReplicas"), number(object, "/spec/replicas"));
    let [names, images] = template(object);
    vec![name(object), json!(ready), age(object, now), names, images]
}

fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!("{}/{}", number(object, "/status/readyReplicas"), number(object, "/spec/replicas"));
    let [names, images] = template(object);
    vec![
        name(object),
        json!(ready),
        json!(number(object, "/status/updatedReplicas")),
        json!(number(object, "/status/availableReplicas")),
        age(object, now),
        names,
        images,
        json!(selector(object.pointer("/spec/selector"))),
    ]
}

fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = template(object);
    let count = |pointer: &str| json!(number(object, pointer));
    vec![
        name(object),
        count("/spec/replicas"),
        count("/status/replicas"),
        count("/status/readyReplicas"),
        age(object, now),
        names,
        images,
        json!(selector(object.pointer("/spec/selector"))),
    ]
}

fn revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owner =
        items(object, "/metadata/ownerReferences").iter().find(|owner| owner["controller"] == json!(true));
    let owner = owner.map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let kind = text(owner, "/kind").to_lowercase();
            let group = text(owner, "/apiVersion").split_once('/').map(|(group, _)| format!(".{group}"));
            format!("{kind}{}/{}", group.unwrap_or_default(), text(owner, "/name"))
        },
    );
    vec![name(object), json!(owner), json!(number(object, "/revision")), age(object, now)]
}

fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let holds = |wanted: &str| {
        items(object, "/status/conditions")
            .iter()
            .any(|condition| condition["type"] == json!(wanted) && condition["status"] == json!("True"))
    };
    let status = if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if !text(object, "/metadata/deletionTimestamp").is_empty() {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else {
        ["FailureTarget", "SuccessCriteriaMet"].into_iter().find(|wanted| holds(wanted)).unwrap_or("Running")
    };
    let succeeded = number(object, "/status/succeeded");
    let completions = match object.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if number(object, "/spec/parallelism") > 1 => {
            format!("{succeeded}/1 of {}", number(object, "/spec/parallelism"))
        }
        None => format!("{succeeded}/1"),
    };
    let time = |pointer: &str| text(object, pointer).parse::<Timestamp>().ok();
    let duration = time("/status/startTime").map_or_else(String::new, |start| {
        human(time("/status/completionTime").unwrap_or(now).as_second() - start.as_second())
    });
    let [names, images] = template(object);
    vec![
        name(object),
        json!(status),
        json!(completions),
        json!(duration),
        age(object, now),
        names,
        images,
        json!(selector(object.pointer("/spec/selector"))),
    ]
}

fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let last = text(object, "/status/lastScheduleTime");
    let last = if last.is_empty() { "<none>".to_owned() } else { super::age::since(last, now) };
    let pod = object.pointer("/spec/jobTemplate/spec").cloned().unwrap_or_default();
    let [names, images] = container_names_and_images(items(&pod, "/template/spec/containers"));
    vec![
        name(object),
        json!(text(object, "/spec/schedule")),
        json!(text_or(object, "/spec/timeZone", "<none>")),
        json!(object.pointer("/spec/suspend") == Some(&json!(true))),
        json!(items(object, "/status/active").len()),
        json!(last),
        age(object, now),
        names,
        images,
        json!(selector(pod.get("selector"))),
    ]
}

fn budget(object: &Value, now: Timestamp) -> Vec<Value> {
    let amount = |pointer: &str| match object.pointer(pointer) {
        Some(Value::String(share)) => json!(share),
        Some(Value::Number(count)) => json!(count.to_string()),
        _ => json!("N/A"),
    };
    vec![
        name(object),
        amount("/spec/minAvailable"),
        amount("/spec/maxUnavailable"),
        json!(number(object, "/status/disruptionsAllowed")),
        age(object, now),
    ]
}

/// For tables of Services, which show the same.
pub(super) fn plain_selector(object: &Value) -> String {
    let text = labels(object.pointer("/spec/selector"));
    joined([text.as_str()])
}
