//! What is known of a database's members: from the status, and from their pods.

use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::ResourceExt;

use crate::api::{Database, Instance, Names};

/// The container that PostgreSQL runs in.
pub const CONTAINER: &str = "postgres";

/// A member as shown to a user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    /// Its pod's name.
    pub name: String,
    /// What the controller says about it.
    pub instance: Instance,
    /// Whether its pod is ready.
    pub ready: bool,
    /// What keeps its pod from running, or what it is at.
    pub story: String,
    /// Where it runs.
    pub node: Option<String>,
    /// How often its container was started again.
    pub restarts: i32,
    /// When its pod was made.
    pub created: Option<jiff::Timestamp>,
    /// Its address.
    pub ip: Option<String>,
    /// Whether there is a pod at all.
    pub exists: bool,
}

impl Member {
    /// One word or phrase for where it stands.
    pub fn state(&self) -> String {
        match &self.instance.state {
            Some(state) if self.exists && (self.ready || self.story.is_empty()) => state.clone(),
            _ if self.story.is_empty() => "starting".to_owned(),
            _ => self.story.clone(),
        }
    }
}

/// The label selector of a database's members, as text.
pub fn selector(name: &str) -> String {
    Names(name).selector().iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// The members: those that are asked for, and those that are there besides.
pub fn members(database: &Database, pods: &[Pod]) -> Vec<Member> {
    let name = database.name_any();
    let names = Names(&name);
    let instances = database.status.as_ref().map(|status| status.instances.as_slice()).unwrap_or_default();
    let wanted = (0..database.spec.replicas).map(|ordinal| names.member(ordinal));
    let mut all: Vec<String> = wanted
        .chain(pods.iter().map(ResourceExt::name_any).filter(|pod| names.ordinal(pod).is_some()))
        .collect();
    all.sort_by_key(|member| names.ordinal(member));
    all.dedup();
    all.into_iter()
        .map(|member| {
            let instance = instances.iter().find(|instance| instance.name == member).cloned();
            let pod = pods.iter().find(|pod| pod.name_any() == member);
            of(member, instance.unwrap_or_default(), pod)
        })
        .collect()
}

fn of(name: String, instance: Instance, pod: Option<&Pod>) -> Member {
    let Some(pod) = pod else {
        return Member { name, instance, story: "not made yet".to_owned(), ..Default::default() };
    };
    let status = pod.status.clone().unwrap_or_default();
    let container = status.container_statuses.iter().flatten().find(|container| container.name == CONTAINER);
    Member {
        name,
        instance,
        ready: is_ready(pod),
        story: story(pod),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        restarts: container.map_or(0, |container| container.restart_count),
        created: pod.creation_timestamp().map(|time| time.0),
        ip: status.pod_ip,
        exists: true,
    }
}

/// Whether a pod's condition Ready is true, and nothing takes the pod away.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Why a pod is not running, in a few words; nothing where it runs.
fn story(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "terminating".to_owned();
    }
    let Some(status) = &pod.status else { return "waiting".to_owned() };
    let all =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for container in all {
        match &container.state {
            Some(ContainerState { waiting: Some(waiting), .. }) => {
                let reason = waiting.reason.as_deref().unwrap_or("waiting");
                if reason == "PodInitializing" {
                    continue;
                }
                // Why it ended says more than how long it is not started again.
                let ended = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
                let why =
                    ended.filter(|_| reason == "CrashLoopBackOff").and_then(|ended| ended.message.as_deref());
                return with_message(reason, why.or(waiting.message.as_deref()));
            }
            Some(ContainerState { terminated: Some(ended), .. }) if ended.exit_code != 0 => {
                return with_message(
                    &format!("ended with exit code {}", ended.exit_code),
                    ended.message.as_deref(),
                );
            }
            _ => {}
        }
    }
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        return with_message(
            condition.reason.as_deref().unwrap_or("Unschedulable"),
            condition.message.as_deref(),
        );
    }
    match status.phase.as_deref() {
        Some("Running") => String::new(),
        Some("Pending") | None => "waiting to be started".to_owned(),
        Some(other) => other.to_lowercase(),
    }
}

fn with_message(reason: &str, message: Option<&str>) -> String {
    match message.map(str::trim).filter(|message| !message.is_empty()) {
        Some(message) => format!("{reason}: {}", message.lines().next_back().unwrap_or_default()),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "db-0" }, "status": status })).unwrap()
    }

    #[test]
    fn stories_come_from_what_is_in_the_way() {
        let waiting = |reason: &str, message: &str| {
            json!({ "phase": "Pending", "containerStatuses": [{
                "name": "postgres", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "waiting": { "reason": reason, "message": message } },
            }] })
        };
        let ended = |mut status: Value| {
            status["containerStatuses"][0]["lastState"] = json!({ "terminated": {
                "exitCode": 1, "message": "starting\nit holds data of PostgreSQL 16\n" } });
            status
        };
        for (status, expected) in [
            (json!({ "phase": "Running" }), ""),
            (json!({ "phase": "Pending" }), "waiting to be started"),
            (waiting("ErrImagePull", "no release 16.99"), "ErrImagePull: no release 16.99"),
            (waiting("ContainerCreating", ""), "ContainerCreating"),
            (waiting("CrashLoopBackOff", "back-off 10s"), "CrashLoopBackOff: back-off 10s"),
            (
                ended(waiting("CrashLoopBackOff", "back-off 10s")),
                "CrashLoopBackOff: it holds data of PostgreSQL 16",
            ),
            (
                json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node" }] }),
                "Unschedulable: no node",
            ),
        ] {
            assert_eq!(story(&pod(status.clone())), expected, "{status}");
        }
    }

    #[test]
    fn members_are_those_asked_for_and_those_there() {
        let database: Database = serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": { "name": "db" },
            "spec": { "replicas": 2, "version": "18.6", "storage": { "size": "1Gi" } },
            "status": { "instances": [{ "name": "db-0", "role": "primary", "state": "running" }] },
        }))
        .unwrap();
        let named = |name: &str| {
            let mut pod =
                pod(json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] }));
            pod.metadata.name = Some(name.to_owned());
            pod
        };
        let shown = members(&database, &[named("db-10"), named("db-0"), named("db-backup-x")]);
        let states: Vec<_> = shown.iter().map(|m| (m.name.as_str(), m.state())).collect();
        assert_eq!(
            states,
            [("db-0", "running".into()), ("db-1", "not made yet".into()), ("db-10", "starting".into())]
        );
    }
}
