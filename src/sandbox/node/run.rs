//! One pod on this node: what it is, what its containers do, and whether it is to end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::cgroup::Group;
use super::exec::Live;
use super::faults::State;
use super::frontier::Frontier;
use super::status::{Facts, waiting};

/// Whether a pod's containers are to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// Asked to end, and killed at that time.
    By(Instant),
    Now,
}

/// A pod that this node runs.
#[derive(Debug)]
pub(super) struct Run {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Where its logs are.
    pub logs: PathBuf,
    /// The pod as the API server last told it.
    pub pod: watch::Sender<Arc<Pod>>,
    /// What its containers do.
    pub facts: watch::Sender<Facts>,
    pub stop: watch::Sender<Stop>,
    /// The control groups of its containers that run.
    groups: Mutex<BTreeMap<String, Group>>,
    /// The containers whose processes stand still.
    pub frozen: watch::Sender<BTreeSet<String>>,
    /// What was done to it for a test's sake.
    pub faults: tokio::sync::Mutex<State>,
    /// What stands between it and the API server.
    pub frontier: OnceLock<Result<Frontier, String>>,
    /// Its volumes that it can write to, by their names.
    volumes: Mutex<BTreeMap<String, Place>>,
    /// The containers that run, by name.
    live: Mutex<BTreeMap<String, Live>>,
}

/// A volume that a pod can write to.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub directory: PathBuf,
    /// What a persistent volume is called.
    pub handle: Option<String>,
}

impl Run {
    pub fn new(pod: Arc<Pod>, logs: PathBuf, host: String, address: Option<String>) -> Self {
        let namespace = pod.namespace().unwrap_or_default();
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let logs = logs.join(format!("{namespace}_{name}_{uid}"));
        let facts = facts(&pod, host, address, Timestamp::now());
        Self {
            namespace,
            name,
            uid,
            logs,
            pod: watch::Sender::new(pod),
            facts: watch::Sender::new(facts),
            stop: watch::Sender::new(Stop::No),
            groups: Mutex::default(),
            frozen: watch::Sender::new(BTreeSet::new()),
            faults: tokio::sync::Mutex::default(),
            frontier: OnceLock::new(),
            volumes: Mutex::default(),
            live: Mutex::default(),
        }
    }

    /// The pod as it is now.
    pub fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.pod.borrow())
    }

    /// Changes a container's status.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut ContainerStatus)) {
        self.facts.send_if_modified(|facts| {
            let Some(status) =
                facts.init.iter_mut().chain(&mut facts.main).find(|status| status.name == name)
            else {
                return false;
            };
            let before = status.clone();
            change(status);
            *status != before
        });
    }

    /// A container's status.
    pub fn status(&self, name: &str) -> Option<ContainerStatus> {
        let facts = self.facts.borrow();
        facts.init.iter().chain(&facts.main).find(|status| status.name == name).cloned()
    }

    /// The names of the containers that run, init containers too.
    pub fn running(&self) -> Vec<String> {
        let facts = self.facts.borrow();
        let runs =
            |status: &&ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
        facts.init.iter().chain(&facts.main).filter(runs).map(|status| status.name.clone()).collect()
    }

    /// The control groups of the containers that run, by their names.
    pub fn groups(&self) -> BTreeMap<String, Group> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A container runs in a control group now, or its last one is gone.
    pub fn set_group(&self, container: &str, group: Option<Group>) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        match group {
            Some(group) => drop(groups.insert(container.to_owned(), group)),
            None => drop(groups.remove(container)),
        }
    }

    /// The volumes that it can write to.
    pub fn volumes(&self) -> BTreeMap<String, Place> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_volumes(&self, volumes: BTreeMap<String, Place>) {
        *self.volumes.lock().unwrap_or_else(PoisonError::into_inner) = volumes;
    }

    /// Waits until a container is not frozen: whatever is started in one that is would stand still too.
    pub async fn thawed(&self, container: &str) {
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen.contains(container)).await;
    }

    /// The way into a container, while it runs.
    pub fn live(&self, container: &str) -> Option<Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).get(container).cloned()
    }

    /// A container runs now, or does not any more.
    pub fn set_live(&self, container: &str, live: Option<Live>) {
        let mut all = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        match live {
            Some(live) => drop(all.insert(container.to_owned(), live)),
            None => drop(all.remove(container)),
        }
    }

    /// A container's log of its nth start.
    pub fn log(&self, container: &str, start: i32) -> PathBuf {
        self.logs.join(container).join(format!("{start}.log"))
    }
}

/// What is known of a pod that this node takes, or takes again after it was away.
fn facts(pod: &Pod, host: String, address: Option<String>, now: Timestamp) -> Facts {
    let status = pod.status.as_ref();
    let former = |statuses: Option<&Vec<ContainerStatus>>, name: &str| {
        statuses.and_then(|statuses| statuses.iter().find(|status| status.name == name)).cloned()
    };
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    let spec = pod.spec.as_ref();
    let containers = |list: Option<&Vec<Container>>, before: Option<&Vec<ContainerStatus>>| {
        let list = list.into_iter().flatten();
        list.map(|container| first_status(container, former(before, &container.name), now)).collect()
    };
    let started = status.and_then(|status| status.start_time.clone()).map_or(now, |time| time.0);
    Facts {
        init: containers(spec.and_then(|spec| spec.init_containers.as_ref()), init),
        main: containers(spec.map(|spec| &spec.containers), main),
        address,
        host,
        started,
        over: false,
        failure: None,
    }
}

/// A container before its start. One that ran before this node was away counts as restarted, its end as a kill.
fn first_status(container: &Container, former: Option<ContainerStatus>, now: Timestamp) -> ContainerStatus {
    let former = former.unwrap_or_default();
    let had_run = former.container_id.is_some();
    let state = former.state.unwrap_or_default();
    let ended = state.terminated.or_else(|| {
        state.running.map(|running| ContainerStateTerminated {
            container_id: former.container_id.clone(),
            exit_code: 137,
            reason: Some("Error".to_owned()),
            message: Some("it ended with the node".to_owned()),
            started_at: running.started_at,
            finished_at: Some(Time(now)),
            ..ContainerStateTerminated::default()
        })
    });
    let last =
        ended.map(|terminated| ContainerState { terminated: Some(terminated), ..ContainerState::default() });
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting("ContainerCreating", None)),
        last_state: Some(last.or(former.last_state).unwrap_or_default()),
        restart_count: former.restart_count + i32::from(had_run),
        started: Some(false),
        ..ContainerStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken(status: serde_json::Value) -> ContainerStatus {
        let pod = json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "postgres:1.2"}]},
            "status": status,
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        facts(&pod, "127.1.0.2".to_owned(), None, Timestamp::UNIX_EPOCH).main.remove(0)
    }

    #[test]
    fn a_new_pod_has_no_past() {
        let status = taken(json!({}));
        assert_eq!((status.restart_count, status.last_state), (0, Some(ContainerState::default())));
        assert_eq!(status.state.unwrap().waiting.unwrap().reason.as_deref(), Some("ContainerCreating"));
        assert_eq!(status.image, "postgres:1.2");
    }

    #[test]
    fn what_ran_when_the_node_went_was_killed() {
        let before = |state: serde_json::Value, id: &str| {
            json!({"containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 3, "containerID": id,
                "state": state, "lastState": {"terminated": {"exitCode": 5}},
            }]})
        };
        let status = taken(before(json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}), "sandbox://1"));
        let last = status.last_state.unwrap().terminated.unwrap();
        assert_eq!((status.restart_count, status.ready, last.exit_code), (4, false, 137));
        assert_eq!(last.container_id.as_deref(), Some("sandbox://1"));
        let status = taken(before(json!({"terminated": {"exitCode": 9}}), "sandbox://1"));
        assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 9);
        let status = taken(before(json!({"waiting": {"reason": "CrashLoopBackOff"}}), "sandbox://1"));
        assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 5);
    }
}
