use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::plan::{Plan, parse_indexes, plan, write_indexes};

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut spec = spec;
    spec["template"] = json!({"spec": {"restartPolicy": "Never", "containers": []}});
    serde_json::from_value(json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec, "status": status}))
        .unwrap()
}

/// Pods by letters: A active, R ready, S succeeded, F failed just now, O failed long ago, T terminating; small:
/// counted and let go before.
fn pods(states: &str) -> Vec<Pod> {
    let pod = |(index, letter): (usize, char)| {
        let phase = match letter.to_ascii_uppercase() {
            'S' => "Succeeded",
            'F' | 'O' => "Failed",
            _ => "Running",
        };
        let ended =
            if letter.eq_ignore_ascii_case(&'O') { "2025-12-31T00:00:00Z" } else { "2026-01-01T00:09:58Z" };
        let mut pod = json!({
            "metadata": {"name": format!("p{index}"), "uid": format!("uid{index}"),
                         "annotations": {"batch.kubernetes.io/job-completion-index": index.to_string()},
                         "creationTimestamp": format!("2026-01-01T00:00:0{index}Z")},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": if letter == 'R' { "True" } else { "False" }}],
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": 1, "finishedAt": ended}}}]},
        });
        if letter.is_ascii_uppercase() {
            pod["metadata"]["finalizers"] = json!(["batch.kubernetes.io/job-tracking"]);
        }
        if letter == 'T' {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    };
    states.chars().enumerate().map(pod).collect()
}

/// What a plan does and reports: `+2` made, `-p0` deleted, `~p0` let go, counts, and conditions that hold.
fn words(plan: &Plan) -> String {
    let mut words = Vec::new();
    if !plan.create.is_empty() {
        words.push(format!("+{}", plan.create.len()));
    }
    words.extend(plan.delete.iter().map(|name| format!("-{name}")));
    words.extend(plan.release.iter().map(|name| format!("~{name}")));
    let status = &plan.status;
    for (letter, count) in [('a', status.active), ('s', status.succeeded), ('f', status.failed)] {
        words.extend(count.map(|count| format!("{letter}{count}")));
    }
    let conditions = status.conditions.iter().flatten().filter(|each| each.status == "True");
    words.extend(conditions.map(|each| each.type_.clone()));
    words.join(" ")
}

#[test]
fn a_job_runs_until_enough_pods_have_ended_well_or_too_many_badly() {
    let one = json!({"completions": 1, "parallelism": 1, "backoffLimit": 1});
    let many = json!({"completions": 5, "parallelism": 2, "backoffLimit": 1});
    let queue = json!({"parallelism": 2, "backoffLimit": 1});
    let none = json!(null);
    for (case, spec, status, states, expected) in [
        ("new", &one, &none, "", "+1"),
        ("running", &one, &none, "A", "a1"),
        ("succeeded", &one, &none, "S", "~p0 s1 SuccessCriteriaMet Complete"),
        ("counted already", &one, &json!({"succeeded": 1}), "s", "s1 SuccessCriteriaMet Complete"),
        (
            "counted, not yet let go",
            &one,
            &json!({"succeeded": 1, "uncountedTerminatedPods": {"succeeded": ["uid0"]}}),
            "S",
            "~p0 s1 SuccessCriteriaMet Complete",
        ),
        ("failed once: after a pause", &one, &none, "F", "~p0 f1"),
        ("failed once long ago", &one, &none, "O", "+1 ~p0 f1"),
        ("failed too often", &one, &json!({"failed": 1}), "oF", "~p1 f2 FailureTarget Failed"),
        ("several", &many, &none, "SAR", "~p0 a2 s1"),
        ("several, one missing", &many, &none, "SA", "+1 ~p0 a1 s1"),
        ("several, too many", &many, &none, "RAAR", "-p2 -p1 a4"),
        ("several, the rest", &many, &json!({"succeeded": 4}), "", "+1 s4"),
        ("failed with others running", &many, &json!({"failed": 1}), "FA", "-p1 ~p0 f2 FailureTarget"),
        ("work queue starts", &queue, &none, "", "+2"),
        ("work queue: one is through", &queue, &none, "SA", "~p0 a1 s1"),
        ("work queue: all are through", &queue, &none, "SS", "~p0 ~p1 s2 SuccessCriteriaMet Complete"),
        ("a deleted pod counts as failed", &one, &none, "T", "+1 ~p0 f1"),
    ] {
        assert_eq!(
            words(&plan(&job(spec.clone(), status.clone()), &pods(states), now())),
            expected,
            "{case}"
        );
    }
}

#[test]
fn a_suspended_job_has_no_pods_and_goes_on_where_it_was() {
    let asleep =
        plan(&job(json!({"completions": 1, "suspend": true}), json!({"succeeded": 0})), &pods("A"), now());
    assert_eq!(words(&asleep), "-p0 Suspended");
    assert_eq!(asleep.status.start_time, None);
    let awake = job(json!({"completions": 1}), serde_json::to_value(&asleep.status).unwrap());
    assert_eq!(words(&plan(&awake, &[], now())), "+1");
}

#[test]
fn a_job_that_takes_too_long_fails() {
    let spec = json!({"completions": 1, "activeDeadlineSeconds": 60});
    let started = |time: &str| job(spec.clone(), json!({"startTime": time}));
    let early = plan(&started("2026-01-01T00:09:30Z"), &pods("A"), now());
    assert_eq!((words(&early).as_str(), early.recheck), ("a1", Some(Duration::from_secs(30))));
    let late = plan(&started("2026-01-01T00:09:00Z"), &pods("A"), now());
    assert_eq!(words(&late), "-p0 FailureTarget");
    let reason = late.status.conditions.as_ref().unwrap()[0].reason.clone();
    assert_eq!(reason.as_deref(), Some("DeadlineExceeded"));
    let settled = job(spec.clone(), serde_json::to_value(&late.status).unwrap());
    assert_eq!(words(&plan(&settled, &[], now())), "FailureTarget Failed");
}

#[test]
fn an_ended_job_changes_no_more_and_goes_when_it_said() {
    let spec = json!({"completions": 1, "ttlSecondsAfterFinished": 60});
    let ended = plan(&job(spec.clone(), json!(null)), &pods("S"), now()).status;
    let ended = job(spec, serde_json::to_value(ended).unwrap());
    let again = plan(&ended, &pods("s"), now());
    assert_eq!(Some(&again.status), ended.status.as_ref());
    assert_eq!((again.expired, again.recheck), (false, Some(Duration::from_secs(60))));
    assert!(plan(&ended, &[], "2026-01-01T00:11:00Z".parse().unwrap()).expired);
}

#[test]
fn a_pass_that_changes_nothing_reports_the_same() {
    let spec = json!({"completions": 2, "parallelism": 1, "backoffLimit": 6});
    let first = plan(&job(spec.clone(), json!(null)), &pods("A"), now()).status;
    let later = "2026-01-01T02:00:00Z".parse().unwrap();
    let again = plan(&job(spec, serde_json::to_value(&first).unwrap()), &pods("A"), later).status;
    assert_eq!(first, again);
}

#[test]
fn an_indexed_job_runs_each_number_once() {
    let spec = json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"});
    let plan = plan(&job(spec, json!({"completedIndexes": "3"})), &pods("SA"), now());
    assert_eq!(plan.create, [Some(2)]);
    assert_eq!(plan.status.completed_indexes.as_deref(), Some("0,3"));
    for text in ["", "0", "0,1", "0-2,5", "1,3-7,9"] {
        assert_eq!(write_indexes(&parse_indexes(text)), text);
    }
}
