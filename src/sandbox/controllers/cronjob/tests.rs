use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};

use super::plan::{Plan, plan};

fn cron(spec: Value, last: Option<&str>) -> CronJob {
    let mut spec = spec;
    spec["jobTemplate"] = json!({"metadata": {"labels": {"app": "b"}}, "spec": {"template": {}}});
    let object = json!({
        "metadata": {"name": "b", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T12:00:30Z"},
        "spec": spec, "status": {"lastScheduleTime": last},
    });
    serde_json::from_value(object).unwrap()
}

fn job(name: &str, end: Option<&str>, hour: i32) -> Arc<Job> {
    let time = format!("2026-01-01T{hour:02}:00:00Z");
    let conditions = end.map(|end| json!([{"type": end, "status": "True"}]));
    let object = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "creationTimestamp": time},
        "status": {"conditions": conditions, "completionTime": end.map(|_| time)},
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn at(time: &str) -> Timestamp {
    format!("2026-01-01T{time}Z").parse().unwrap()
}

fn made(plan: &Plan) -> Option<String> {
    let job = plan.create.as_ref()?;
    job.metadata.annotations.as_ref()?.get("batch.kubernetes.io/cronjob-scheduled-timestamp").cloned()
}

#[test]
fn a_time_that_is_due_is_served_once_and_the_latest_of_several() {
    let hourly = json!({"schedule": "0 * * * *"});
    for (case, spec, last, now, expected) in [
        ("before the first", hourly.clone(), None, "12:59:59", None),
        ("on time", hourly.clone(), None, "13:00:00", Some("2026-01-01T13:00:00Z")),
        ("served", hourly.clone(), Some("2026-01-01T13:00:00Z"), "13:30:00", None),
        ("several missed", hourly, None, "15:30:00", Some("2026-01-01T15:00:00Z")),
        ("too late", json!({"schedule": "0 * * * *", "startingDeadlineSeconds": 60}), None, "13:30:00", None),
        (
            "just in time",
            json!({"schedule": "0 * * * *", "startingDeadlineSeconds": 60}),
            None,
            "13:00:59",
            Some("2026-01-01T13:00:00Z"),
        ),
        ("suspended", json!({"schedule": "0 * * * *", "suspend": true}), None, "13:00:00", None),
        (
            "another zone",
            json!({"schedule": "0 22 * * *", "timeZone": "Asia/Tokyo"}),
            None,
            "13:00:05",
            Some("2026-01-01T13:00:00Z"),
        ),
    ] {
        let plan = plan(&cron(spec, last), &[], at(now));
        assert_eq!(made(&plan).as_deref(), expected, "{case}");
        assert_eq!(plan.complaint, None, "{case}");
    }
}

#[test]
fn the_next_look_is_at_the_next_time_or_within_a_minute() {
    let pause = |now| plan(&cron(json!({"schedule": "0 * * * *"}), None), &[], at(now)).recheck;
    assert_eq!(pause("12:59:50"), Some(Duration::from_secs(10)));
    assert_eq!(pause("12:01:00"), Some(Duration::from_secs(60)));
}

#[test]
fn runs_beside_each_other_are_as_the_policy_says() {
    let running = [job("old", None, 12)];
    let with = |policy: &str| {
        plan(
            &cron(json!({"schedule": "0 * * * *", "concurrencyPolicy": policy}), None),
            &running,
            at("13:00:00"),
        )
    };
    let allow = with("Allow");
    assert!(allow.create.is_some() && allow.delete.is_empty());
    assert_eq!(allow.status.active.unwrap()[0].name.as_deref(), Some("old"));
    let forbid = with("Forbid");
    assert!(forbid.create.is_none() && forbid.delete.is_empty());
    assert_eq!(forbid.complaint.unwrap().0, "JobAlreadyActive");
    assert_eq!(forbid.status.last_schedule_time, None);
    let replace = with("Replace");
    assert!(replace.create.is_some());
    assert_eq!(replace.delete, running);
    assert_eq!(replace.status.active, None);
}

#[test]
fn only_so_many_ended_jobs_are_kept() {
    let mut jobs: Vec<Arc<Job>> =
        (1..=5).map(|hour| job(&format!("good-{hour}"), Some("Complete"), hour)).collect();
    jobs.extend((1..=2).map(|hour| job(&format!("bad-{hour}"), Some("Failed"), hour)));
    let plan = plan(&cron(json!({"schedule": "0 * * * *"}), None), &jobs, at("12:30:00"));
    let names: Vec<_> = plan.delete.iter().map(|job| job.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["good-1", "good-2", "bad-1"]);
    assert_eq!(plan.status.last_successful_time.unwrap().0, at("05:00:00"));
}

#[test]
fn a_job_bears_the_templates_labels_the_owner_and_the_time_in_its_name() {
    let job = plan(&cron(json!({"schedule": "0 * * * *"}), None), &[], at("13:00:01")).create.unwrap();
    let job = serde_json::to_value(job).unwrap();
    assert_eq!(job["metadata"]["name"], "b-29454540");
    assert_eq!(job["metadata"]["labels"], json!({"app": "b"}));
    assert_eq!(job["metadata"]["ownerReferences"][0]["kind"], "CronJob");
    assert_eq!(job["metadata"]["ownerReferences"][0]["controller"], true);
}

#[test]
fn what_cannot_be_read_is_said() {
    for (spec, reason) in [
        (json!({"schedule": "61 * * * *"}), "UnparseableSchedule"),
        (json!({"schedule": "0 * * * *", "timeZone": "Not/AZone"}), "UnknownTimeZone"),
    ] {
        let plan = plan(&cron(spec, None), &[], at("13:00:00"));
        assert_eq!(plan.complaint.map(|complaint| complaint.0), Some(reason));
        assert!(plan.create.is_none());
    }
}
