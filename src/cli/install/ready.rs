//! Waiting until the controllers are ready.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt};

use super::found::labels;
use crate::cli::error::{CliError, Result};
use crate::cli::progress::{Step, Steps};
use crate::cli::session::Session;
use crate::cli::{Context, output};
use crate::install::{ACCOUNT, Installation};

/// Waits until as many as are wanted are ready, and none of an earlier kind is left.
///
/// # Errors
/// Where that is not so in time; what keeps them from it is said.
pub async fn until_ready(
    context: &Context,
    session: &Session,
    wanted: &Installation,
    timeout: Duration,
) -> Result<()> {
    let mut steps = Steps::new(context.ui);
    let what = output::count(wanted.replicas, "controller");
    steps.set("ready", Step::Working, format!("waiting until {what} of this version can work"));
    let deployments: Api<Deployment> = Api::namespaced(session.streaming.clone(), &wanted.namespace);
    let ready = await_condition(deployments, ACCOUNT, |deployment: Option<&Deployment>| {
        deployment.is_some_and(is_ready)
    });
    let ended = tokio::time::timeout(timeout, ready).await;
    let (step, text) = match &ended {
        Ok(Ok(_)) => (Step::Done, format!("{what} ready")),
        _ => (Step::Failed, "not ready in time".to_owned()),
    };
    steps.set("ready", step, text);
    steps.finish();
    match ended {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(CliError::failed(format!("wait for the controllers: {error}"))),
        Err(_) => Err(too_late(context, session, wanted, timeout).await),
    }
}

/// By the rule of `kubectl rollout status`.
fn is_ready(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let Some(status) = &deployment.status else { return false };
    let is = |count: Option<i32>| count.unwrap_or(0) == wanted;
    status.observed_generation >= deployment.metadata.generation
        && is(status.updated_replicas)
        && is(status.replicas)
        && is(status.available_replicas)
}

async fn too_late(
    context: &Context,
    session: &Session,
    wanted: &Installation,
    timeout: Duration,
) -> CliError {
    let deployments: Api<Deployment> = Api::namespaced(session.client.clone(), &wanted.namespace);
    let pods: Api<Pod> = Api::namespaced(session.client.clone(), &wanted.namespace);
    let mut details = Vec::new();
    if let Ok(Some(deployment)) = deployments.get_opt(ACCOUNT).await {
        details.extend(complaints(&deployment));
    }
    if let Ok(pods) = pods.list(&ListParams::default().labels(&labels())).await {
        details.extend(pods.iter().filter_map(trouble));
    }
    let (namespace, waited) = (&wanted.namespace, humantime::format_duration(timeout));
    CliError::timed_out(format!("the controllers are not ready after {waited}; they may still become so"))
        .details(details)
        .hint(format!("look at them: kubectl -n {namespace} describe pods -l {}", labels()))
        .hint(format!("the images are {} and {}", wanted.image, wanted.image_template))
        .hint(format!("ask again: {} version", context.invocation()))
}

/// What the Deployment itself complains of, such as pods that the API server does not take.
fn complaints(deployment: &Deployment) -> Vec<String> {
    let conditions = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter_map(|condition| {
            let (kind, status) = (condition.type_.as_deref()?, condition.status.as_deref()?);
            let bad = (kind == "ReplicaFailure") == (status == "True");
            bad.then(|| format!("{kind}: {}", condition.message.as_deref().unwrap_or_default()))
        })
        .collect()
}

/// Why a pod is not ready.
fn trouble(pod: &Pod) -> Option<String> {
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().next();
    if container.is_some_and(|container| container.ready) {
        return None;
    }
    let conditions = status.conditions.iter().flatten();
    let unplaced = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .find_map(|condition| condition.message.clone());
    let words = container.and_then(state).or(unplaced).or_else(|| status.message.clone());
    Some(format!("{name}: {}", words.unwrap_or_else(|| "not ready".to_owned())))
}

fn state(container: &ContainerStatus) -> Option<String> {
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let said = last.and_then(|ended| ended.message.as_deref()).map(str::trim);
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or("waiting");
    let words = said.or(waiting.message.as_deref()).unwrap_or_default();
    Some(if words.is_empty() { reason.to_owned() } else { format!("{reason}: {words}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn deployment(status: Value) -> Deployment {
        let metadata = json!({ "name": "d", "generation": 3 });
        let spec = json!({ "replicas": 2, "selector": {}, "template": {} });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec, "status": status })).unwrap()
    }

    #[test]
    fn only_the_whole_rollout_is_ready() {
        let status = |generation: i64, updated: i32, all: i32, available: i32| {
            json!({
                "observedGeneration": generation, "updatedReplicas": updated, "replicas": all,
                "availableReplicas": available,
            })
        };
        for (status, ready) in [
            (json!({}), false),
            (status(3, 2, 2, 2), true),
            // What is known of the one before.
            (status(2, 2, 2, 2), false),
            (status(3, 1, 2, 2), false),
            (status(3, 2, 3, 2), false),
            (status(3, 2, 2, 1), false),
        ] {
            assert_eq!(is_ready(&deployment(status.clone())), ready, "{status}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status, "message": "m" });
        let found = complaints(&deployment(json!({ "conditions": [
            condition("ReplicaFailure", "True"), condition("Available", "False"), condition("Progressing", "True"),
        ] })));
        assert_eq!(found, ["ReplicaFailure: m", "Available: m"]);
        let pod = |status: Value| -> Pod {
            serde_json::from_value(json!({ "metadata": { "name": "p" }, "status": status })).unwrap()
        };
        let container = |ready: bool, state: Value, last: Value| {
            json!({ "containerStatuses": [{
                "name": "c", "image": "", "imageID": "", "ready": ready, "restartCount": 1, "state": state,
                "lastState": last,
            }] })
        };
        let pull = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } });
        let again = json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 5m" } });
        let ended = json!({ "terminated": { "exitCode": 1, "message": "error: failed to list\n" } });
        let unplaced =
            json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": "no node" }] });
        for (status, wanted) in [
            (container(true, json!({ "running": {} }), json!({})), None),
            (container(false, pull, json!({})), Some("p: ImagePullBackOff: no such image")),
            (container(false, again, ended), Some("p: CrashLoopBackOff: error: failed to list")),
            (container(false, json!({ "running": {} }), json!({})), Some("p: not ready")),
            (unplaced, Some("p: no node")),
        ] {
            assert_eq!(trouble(&pod(status.clone())).as_deref(), wanted, "{status}");
        }
    }
}
