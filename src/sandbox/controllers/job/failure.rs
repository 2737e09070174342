//! What a Job's `podFailurePolicy` says about a pod that has failed. Pure.

use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::Pod;

use crate::sandbox::controllers::meta::{name, namespace};

/// What becomes of the Job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The failure counts, as without a policy.
    Count,
    /// The failure does not count.
    Ignore,
    /// The whole Job has failed, for this reason.
    Fail(String),
}

/// The first rule that fits decides.
pub(super) fn judge(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (index, rule) in rules.enumerate() {
        if let Some(what) = fits(rule, pod) {
            return match rule.action.as_str() {
                "FailJob" => Verdict::Fail(format!("{what} matching FailJob rule at index {index}")),
                "Ignore" => Verdict::Ignore,
                _ => Verdict::Count,
            };
        }
    }
    Verdict::Count
}

/// What about the pod a rule fits, in words.
fn fits(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let place = format!("{}/{}", namespace(&pod.metadata), name(&pod.metadata));
    if let Some(wanted) = &rule.on_exit_codes {
        let (container, code) = ended_so(wanted, pod)?;
        return Some(format!("Container {container} for pod {place} failed with exit code {code}"));
    }
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let found = conditions.find(|condition| {
        rule.on_pod_conditions.iter().flatten().any(|pattern| {
            let status = pattern.status.as_deref().unwrap_or("True");
            pattern.type_ == condition.type_ && status == condition.status
        })
    })?;
    Some(format!("Pod {place} has condition {}", found.type_))
}

/// The first container that ended with such a code.
fn ended_so(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let containers =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    containers
        .filter(|container| wanted.container_name.as_ref().is_none_or(|only| *only == container.name))
        .filter_map(|container| {
            let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
            Some((container.name.clone(), code))
        })
        .find(|(_, code)| {
            let listed = wanted.values.contains(code);
            *code != 0 && if wanted.operator == "NotIn" { !listed } else { listed }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn verdict(rules: Value, code: i32, condition: &str) -> Verdict {
        let spec = json!({"podFailurePolicy": {"rules": rules}, "template": {}});
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": "Failed",
            "conditions": [{"type": condition, "status": "True"}],
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code}}}]}});
        judge(&serde_json::from_value(spec).unwrap(), &serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = json!([
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
            {"action": "Ignore", "onExitCodes": {"containerName": "c", "operator": "NotIn", "values": [1]}},
        ]);
        assert_eq!(verdict(rules.clone(), 42, "DisruptionTarget"), Verdict::Ignore);
        assert_eq!(
            verdict(rules.clone(), 42, "Ready"),
            Verdict::Fail(
                "Container c for pod n/p failed with exit code 42 matching FailJob rule at index 1".into()
            )
        );
        assert_eq!(verdict(rules.clone(), 7, "Ready"), Verdict::Ignore);
        assert_eq!(verdict(rules, 1, "Ready"), Verdict::Count);
    }
}
