//! A pod's status from what its containers do; pure.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP,
    PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// What the status is made of.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Statuses of the init containers, in the order of the spec.
    pub init: Vec<ContainerStatus>,
    /// Statuses of the containers, in the order of the spec.
    pub main: Vec<ContainerStatus>,
    /// The pod's address.
    pub address: Option<String>,
    /// The node's address.
    pub host: String,
    /// When the node took the pod.
    pub started: Timestamp,
    /// The pod is to end, and nothing of it runs any more.
    pub over: bool,
    /// Why the node ends the pod by itself: a reason, and a sentence.
    pub failure: Option<(&'static str, &'static str)>,
}

/// A container that has not been started.
pub(super) fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// The status to be written: only the conditions that a node owns are in it.
pub(super) fn compose(pod: &Pod, facts: &Facts, now: Timestamp) -> PodStatus {
    let initialized = has_begun(facts) || facts.init.iter().all(|status| is_done(pod, status));
    let phase = phase(pod, facts, initialized);
    let failure = facts.failure.filter(|_| phase == "Failed");
    let conditions = conditions(pod, facts, initialized, &phase, now);
    let list = |statuses: &[ContainerStatus]| (!statuses.is_empty()).then(|| statuses.to_vec());
    PodStatus {
        phase: Some(phase),
        reason: failure.map(|(reason, _)| reason.to_owned()),
        message: failure.map(|(_, message)| message.to_owned()),
        conditions: Some(conditions),
        container_statuses: list(&facts.main),
        init_container_statuses: list(&facts.init),
        host_ip: Some(facts.host.clone()),
        host_ips: Some(vec![HostIP { ip: facts.host.clone() }]),
        pod_ip: facts.address.clone(),
        pod_ips: facts.address.clone().map(|ip| vec![PodIP { ip }]),
        start_time: Some(Time(facts.started)),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Whether a container is one that runs beside the main ones.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The statuses of containers that run beside the main ones.
fn sidecars<'a>(pod: &'a Pod, facts: &'a Facts) -> impl Iterator<Item = &'a ContainerStatus> {
    facts.init.iter().filter(|status| of_sidecar(pod, status))
}

fn of_sidecar(pod: &Pod, status: &ContainerStatus) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    containers.into_iter().any(|container| container.name == status.name && is_sidecar(container))
}

/// Whether a main container was started: from then on, the pod is initialized.
fn has_begun(facts: &Facts) -> bool {
    facts.main.iter().any(|status| status.container_id.is_some())
}

/// Whether the main containers need not wait for it any more.
fn is_done(pod: &Pod, status: &ContainerStatus) -> bool {
    exit_code(status) == Some(0) || of_sidecar(pod, status) && status.started == Some(true)
}

/// Whether a status says all that `wanted` does: then there is nothing to write.
pub(super) fn covers(status: &PodStatus, wanted: &PodStatus) -> bool {
    let conditions = |status: &PodStatus| status.conditions.clone().unwrap_or_default();
    let known = conditions(status);
    let said = conditions(wanted).iter().all(|condition| known.contains(condition));
    let rest = PodStatus { conditions: None, qos_class: status.qos_class.clone(), ..wanted.clone() };
    said && rest == PodStatus { conditions: None, ..status.clone() }
}

/// The patch that makes a status what is wanted: a condition without a reason takes away the one that was there.
pub(super) fn patch(wanted: &PodStatus) -> Value {
    let mut patch = json!(wanted);
    let conditions = patch.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        for field in ["reason", "message"] {
            condition.entry(field).or_insert(Value::Null);
        }
    }
    patch
}

fn exit_code(status: &ContainerStatus) -> Option<i32> {
    status.state.as_ref()?.terminated.as_ref().map(|terminated| terminated.exit_code)
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// `restartPolicy` of a pod.
pub(super) fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

fn phase(pod: &Pod, facts: &Facts, initialized: bool) -> String {
    // A pod that is over will not be restarted, whatever its policy.
    let policy = if facts.over { "Never" } else { restart_policy(pod) };
    if facts.over && facts.failure.is_some() {
        return "Failed".to_owned();
    }
    let init_failed = facts
        .init
        .iter()
        .filter(|status| !of_sidecar(pod, status))
        .any(|status| exit_code(status).is_some_and(|code| code != 0));
    if !initialized && (facts.over || init_failed && policy == "Never") {
        return "Failed".to_owned();
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in &facts.main {
        let was = status.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
        if is_running(status) {
            running += 1;
        } else if let Some(code) = exit_code(status) {
            stopped += 1;
            succeeded += usize::from(code == 0);
        } else if was {
            stopped += 1; // It waits for its next start.
        } else {
            waiting += 1;
        }
    }
    let phase = if !initialized || (waiting > 0 && !facts.over) {
        "Pending"
    } else if running > 0 || (!facts.over && sidecars(pod, facts).any(is_running)) {
        "Running" // Sidecars end after the others, and with them the pod.
    } else if stopped == succeeded && waiting == 0 && policy != "Always" {
        "Succeeded"
    } else if policy == "Never" {
        "Failed"
    } else {
        "Running"
    };
    phase.to_owned()
}

fn conditions(pod: &Pod, facts: &Facts, initialized: bool, phase: &str, now: Timestamp) -> Vec<PodCondition> {
    let all = sidecars(pod, facts).chain(&facts.main);
    let unready: Vec<&str> = all.filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    let incomplete: Vec<&str> =
        facts.init.iter().filter(|status| !is_done(pod, status)).map(|status| status.name.as_str()).collect();
    let complaint = |reason: &str, what: &str, names: &[&str]| {
        Some((reason.to_owned(), format!("containers with {what} status: [{}]", names.join(" "))))
    };
    let (containers, ready);
    if phase == "Succeeded" {
        containers = Some(("PodCompleted".to_owned(), String::new()));
        ready = containers.clone();
    } else if !unready.is_empty() {
        containers = complaint("ContainersNotReady", "unready", &unready);
        ready = containers.clone();
    } else {
        containers = None;
        ready = closed_gate(pod);
    }
    let not_initialized =
        if initialized { None } else { complaint("ContainersNotInitialized", "incomplete", &incomplete) };
    let sandbox = facts.address.is_none().then(|| ("PodNotSetUp".to_owned(), String::new()));
    let wanted = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", not_initialized),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", None),
    ];
    wanted.into_iter().map(|(kind, complaint)| condition(pod, kind, complaint, now)).collect()
}

/// The first of the pod's own readiness gates that is not open.
fn closed_gate(pod: &Pod) -> Option<(String, String)> {
    let gates = pod.spec.as_ref()?.readiness_gates.as_ref()?;
    let is_open = |kind: &str| former(pod, kind).is_some_and(|condition| condition.status == "True");
    let gate = gates.iter().find(|gate| !is_open(&gate.condition_type))?;
    let message =
        format!("corresponding condition of pod readiness gate {:?} is not \"True\"", gate.condition_type);
    Some(("ReadinessGatesNotReady".to_owned(), message))
}

fn former<'pod>(pod: &'pod Pod, kind: &str) -> Option<&'pod PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// True without a complaint; the time of transition stays unless the status flips.
fn condition(pod: &Pod, kind: &str, complaint: Option<(String, String)>, now: Timestamp) -> PodCondition {
    let status = if complaint.is_some() { "False" } else { "True" };
    let before = former(pod, kind).filter(|condition| condition.status == status);
    let since = before.and_then(|condition| condition.last_transition_time.clone());
    let (reason, message) = complaint.unzip();
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason,
        message: message.filter(|message| !message.is_empty()),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, state: serde_json::Value, ready: bool) -> ContainerStatus {
        let last =
            if state.get("last").is_some() { json!({"terminated": {"exitCode": 1}}) } else { json!({}) };
        serde_json::from_value(json!({
            "name": name, "image": "i", "imageID": "", "restartCount": 0, "ready": ready,
            "state": state.get("state").cloned().unwrap_or(state), "lastState": last,
        }))
        .unwrap()
    }

    fn running() -> serde_json::Value {
        json!({"running": {}})
    }
    fn ended(code: i32) -> serde_json::Value {
        json!({"terminated": {"exitCode": code}})
    }
    fn fresh() -> serde_json::Value {
        json!({"waiting": {"reason": "ContainerCreating"}})
    }
    fn crashing() -> serde_json::Value {
        json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "last": true})
    }

    fn facts(init: &[serde_json::Value], main: &[serde_json::Value], over: bool) -> Facts {
        let list = |states: &[serde_json::Value]| {
            let named = states.iter().enumerate();
            named
                .map(|(n, state)| container(&format!("c{n}"), state.clone(), state.get("running").is_some()))
                .collect()
        };
        Facts {
            init: list(init),
            main: list(main),
            address: Some("127.1.1.1".to_owned()),
            host: "127.1.0.2".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            over,
            failure: None,
        }
    }

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "restartPolicy": policy}}))
            .unwrap()
    }

    #[test]
    fn phases() {
        type Case<'a> = (&'a str, &'a [serde_json::Value], &'a [serde_json::Value], bool, &'a str);
        let cases: &[Case<'_>] = &[
            ("Always", &[], &[fresh()], false, "Pending"),
            ("Always", &[], &[running(), fresh()], false, "Pending"),
            ("Always", &[], &[running(), running()], false, "Running"),
            ("Always", &[], &[running(), crashing()], false, "Running"),
            ("Always", &[], &[crashing()], false, "Running"),
            ("Always", &[], &[ended(0)], false, "Running"),
            ("Always", &[], &[ended(137)], false, "Running"),
            ("Always", &[], &[ended(0)], true, "Succeeded"),
            ("Always", &[], &[ended(137)], true, "Failed"),
            ("Always", &[], &[fresh()], true, "Failed"),
            ("Never", &[], &[ended(0), ended(0)], false, "Succeeded"),
            ("Never", &[], &[ended(0), ended(1)], false, "Failed"),
            ("Never", &[], &[ended(1), running()], false, "Running"),
            ("OnFailure", &[], &[ended(1)], false, "Running"),
            ("OnFailure", &[], &[crashing()], false, "Running"),
            ("OnFailure", &[], &[ended(0)], false, "Succeeded"),
            ("Always", &[running()], &[fresh()], false, "Pending"),
            ("Always", &[ended(0)], &[running()], false, "Running"),
            ("Always", &[ended(1)], &[fresh()], false, "Pending"),
            ("Never", &[ended(1)], &[fresh()], false, "Failed"),
            ("Always", &[ended(1)], &[fresh()], true, "Failed"),
        ];
        for (number, (policy, init, main, over, expected)) in cases.iter().enumerate() {
            let status = compose(&pod(policy), &facts(init, main, *over), Timestamp::UNIX_EPOCH);
            assert_eq!(status.phase.as_deref(), Some(*expected), "case {number}");
        }
    }

    #[test]
    fn sidecars_are_done_once_they_have_started_and_count_as_ready_or_not() {
        let mut pod = pod("Never");
        let sidecar = json!([{"name": "c0", "restartPolicy": "Always"}]);
        pod.spec.as_mut().unwrap().init_containers = serde_json::from_value(sidecar).unwrap();
        let mut facts = facts(&[running()], &[fresh()], false);
        let phase = |facts: &Facts| compose(&pod, facts, Timestamp::UNIX_EPOCH).phase.unwrap();
        assert_eq!(found(&compose(&pod, &facts, Timestamp::UNIX_EPOCH), "Initialized").status, "False");
        facts.init[0].started = Some(true);
        assert_eq!(found(&compose(&pod, &facts, Timestamp::UNIX_EPOCH), "Initialized").status, "True");
        facts.main[0].state = serde_json::from_value(ended(0)).unwrap();
        assert_eq!(phase(&facts), "Running", "the sidecar still runs");
        facts.init[0].ready = false;
        let status = compose(&pod, &facts, Timestamp::UNIX_EPOCH);
        assert!(found(&status, "Ready").message.as_ref().unwrap().contains("c0"));
        facts.init[0].state = serde_json::from_value(ended(137)).unwrap();
        facts.main[0].container_id = Some("c".to_owned());
        assert_eq!(phase(&facts), "Succeeded");
        facts.failure = Some(("DeadlineExceeded", "too long"));
        facts.over = true;
        let status = compose(&pod, &facts, Timestamp::UNIX_EPOCH);
        assert_eq!(
            (status.phase.as_deref(), status.reason.as_deref()),
            (Some("Failed"), Some("DeadlineExceeded"))
        );
    }

    fn found<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
        status.conditions.as_ref().unwrap().iter().find(|condition| condition.type_ == kind).unwrap()
    }

    #[test]
    fn conditions_say_what_is_missing() {
        let status = compose(&pod("Always"), &facts(&[running()], &[fresh()], false), Timestamp::UNIX_EPOCH);
        let initialized = found(&status, "Initialized");
        assert_eq!(initialized.status, "False");
        assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [c0]"));
        let status =
            compose(&pod("Always"), &facts(&[], &[running(), crashing()], false), Timestamp::UNIX_EPOCH);
        let ready = found(&status, "Ready");
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("ContainersNotReady")));
        assert_eq!(ready.message.as_deref(), Some("containers with unready status: [c1]"));
        let status = compose(&pod("Never"), &facts(&[], &[ended(0)], false), Timestamp::UNIX_EPOCH);
        assert_eq!(found(&status, "Ready").reason.as_deref(), Some("PodCompleted"));
    }

    #[test]
    fn a_gate_keeps_a_pod_from_being_ready() {
        let mut gated = pod("Always");
        let gate = serde_json::from_value(json!([{"conditionType": "open"}])).unwrap();
        gated.spec.as_mut().unwrap().readiness_gates = Some(gate);
        let facts = facts(&[], &[running()], false);
        let status = compose(&gated, &facts, Timestamp::UNIX_EPOCH);
        assert_eq!(found(&status, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
        assert_eq!(found(&status, "ContainersReady").status, "True");
        gated.status =
            serde_json::from_value(json!({"conditions": [{"type": "open", "status": "True"}]})).unwrap();
        assert_eq!(found(&compose(&gated, &facts, Timestamp::UNIX_EPOCH), "Ready").status, "True");
    }

    #[test]
    fn a_status_is_written_only_for_what_it_does_not_say() {
        let pod = pod("Always");
        let facts = facts(&[], &[running()], false);
        let wanted = compose(&pod, &facts, Timestamp::UNIX_EPOCH);
        let mut written = wanted.clone();
        written.qos_class = Some("Burstable".to_owned());
        let foreign = PodCondition { type_: "foreign".to_owned(), ..PodCondition::default() };
        written.conditions.as_mut().unwrap().insert(0, foreign);
        assert!(covers(&written, &wanted));
        let mut unready = facts;
        unready.main[0].ready = false;
        assert!(!covers(&written, &compose(&pod, &unready, Timestamp::UNIX_EPOCH)));
        assert!(!covers(&PodStatus::default(), &wanted));
    }

    #[test]
    fn times_move_only_when_a_condition_flips() {
        let later = Timestamp::from_second(100).unwrap();
        let mut pod = pod("Always");
        let facts = facts(&[], &[running()], false);
        pod.status = Some(compose(&pod, &facts, Timestamp::UNIX_EPOCH));
        assert_eq!(compose(&pod, &facts, later), pod.status.clone().unwrap(), "nothing changed");
        let mut unready = facts;
        unready.main[0].ready = false;
        let status = compose(&pod, &unready, later);
        assert_eq!(found(&status, "Ready").last_transition_time, Some(Time(later)));
        assert_eq!(found(&status, "Initialized").last_transition_time, Some(Time(Timestamp::UNIX_EPOCH)));
    }
}
