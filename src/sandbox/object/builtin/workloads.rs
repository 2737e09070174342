//! Checks of StatefulSets, Deployments, Jobs and CronJobs.

use serde_json::{Value, json};

use super::{items, not_negative, one_of, pod_checks, storage, text};
use crate::sandbox::object::selector::LabelSelector;
use crate::sandbox::object::{Cause, FieldError};

/// A CronJob's name, a dash and eleven characters make a Job's name, which is a label.
const CRON_NAME_MAX: usize = 52;

/// The selector must be there, select something, and select the template's pods.
fn selector(spec: &Value, kind: &str, errors: &mut Vec<FieldError>) {
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.push(FieldError::required("spec.selector", ""));
        return;
    }
    match LabelSelector::from_object(selector) {
        Err(problem) => errors.push(FieldError::invalid("spec.selector", selector, &problem.to_string())),
        Ok(parsed) if parsed.is_everything() => {
            let detail = format!("empty selector is invalid for {}", kind.to_lowercase());
            errors.push(FieldError::invalid("spec.selector", selector, &detail));
        }
        Ok(parsed) if !parsed.matches_object(&spec["template"]) => {
            let labels = spec.pointer("/template/metadata/labels").cloned().unwrap_or(json!({}));
            let detail = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid("spec.template.metadata.labels", &labels, detail));
        }
        Ok(_) => {}
    }
}

fn restart_policy(spec: &Value, allowed: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    let policy = text(spec, "/template/spec/restartPolicy");
    if !allowed.contains(&policy) {
        let path = format!("{path}.template.spec.restartPolicy");
        errors.push(FieldError::not_supported(path, &json!(policy), allowed.iter().copied()));
    }
}

/// Checks a StatefulSet. The pod spec of its template is judged when a pod is made of it, since the volumes of its
/// claims are not there yet.
pub(super) fn stateful_set(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    let policy = text(spec, "/podManagementPolicy");
    if !["OrderedReady", "Parallel"].contains(&policy) {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.push(FieldError::invalid("spec.podManagementPolicy", &json!(policy), detail));
    }
    let strategy = text(spec, "/updateStrategy/type");
    match strategy {
        "OnDelete" if spec.pointer("/updateStrategy/rollingUpdate").is_some() => {
            let value = &spec["updateStrategy"]["rollingUpdate"];
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid("spec.updateStrategy.rollingUpdate", value, detail));
        }
        "OnDelete" | "RollingUpdate" => {
            let rolling = &spec["updateStrategy"]["rollingUpdate"];
            not_negative(rolling, "partition", "spec.updateStrategy.rollingUpdate", errors);
        }
        other => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid("spec.updateStrategy", &json!({"type": other}), detail));
        }
    }
    let retention = &spec["persistentVolumeClaimRetentionPolicy"];
    for field in ["whenDeleted", "whenScaled"] {
        one_of(retention, field, &["Delete", "Retain"], "spec.persistentVolumeClaimRetentionPolicy", errors);
    }
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        not_negative(spec, field, "spec", errors);
    }
    selector(spec, text(object, "/kind"), errors);
    pod_checks::template_labels(&spec["template"], "spec.template", errors);
    restart_policy(spec, &["Always"], "spec", errors);
    for (index, claim) in items(spec, "/volumeClaimTemplates").iter().enumerate() {
        storage::claim(&claim["spec"], &format!("spec.volumeClaimTemplates[{index}].spec"), errors);
    }
}

/// Checks a Deployment, ReplicaSet or DaemonSet.
pub(super) fn replicated(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        not_negative(spec, field, "spec", errors);
    }
    selector(spec, text(object, "/kind"), errors);
    restart_policy(spec, &["Always"], "spec", errors);
    pod_checks::template(&spec["template"], "spec.template", errors);
}

/// Checks the spec of a Job.
pub(super) fn job(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let numbers =
        ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"];
    for field in numbers {
        not_negative(spec, field, path, errors);
    }
    one_of(spec, "completionMode", &["Indexed", "NonIndexed"], path, errors);
    if text(spec, "/completionMode") == "Indexed" && spec.get("completions").is_none() {
        let detail = "when completion mode is Indexed";
        errors.push(FieldError::required(format!("{path}.completions"), detail));
    }
    pod_checks::template(&spec["template"], &format!("{path}.template"), errors);
    restart_policy(spec, &["OnFailure", "Never"], path, errors);
}

/// Checks a CronJob.
pub(super) fn cron_job(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    if text(object, "/metadata/name").len() > CRON_NAME_MAX {
        let detail = format!("must be no more than {CRON_NAME_MAX} characters");
        errors.push(FieldError::invalid("metadata.name", &object["metadata"]["name"], &detail));
    }
    schedule(spec, errors);
    one_of(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], "spec", errors);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(spec, field, "spec", errors);
    }
    job(&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec", errors);
}

fn schedule(spec: &Value, errors: &mut Vec<FieldError>) {
    let schedule = text(spec, "/schedule");
    if schedule.is_empty() {
        errors.push(FieldError::required("spec.schedule", ""));
    } else if schedule.contains("TZ=") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(FieldError::invalid("spec.schedule", &json!(schedule), detail));
    } else if let Err(problem) = schedule.parse::<croner::Cron>() {
        errors.push(FieldError::invalid("spec.schedule", &json!(schedule), &problem.to_string()));
    }
    let Some(zone) = spec.get("timeZone").and_then(Value::as_str) else { return };
    if zone.is_empty() {
        let detail = "timeZone must be nil or non-empty string";
        errors.push(FieldError::new("spec.timeZone", Cause::Invalid, Some(&json!(zone)), detail));
    } else if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(FieldError::invalid("spec.timeZone", &json!(zone), detail));
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        errors.push(FieldError::invalid("spec.timeZone", &json!(zone), &format!("unknown time zone {zone}")));
    }
}
