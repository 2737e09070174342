//! Proof that the holder of the leader lock is dead, and the release of its lock. Patroni's election then starts at once
//! instead of when the lock expires. Nobody is named in it: who is elected is up to Patroni.
//!
//! Proof is the end of the very container that held the lock, or somebody's word that its node is off. A pod that is not
//! ready, is being deleted or is gone may still run, beyond anybody's reach. A container that was started in the dead one's
//! place does not hold the lock before it has renewed it, and then the compare-and-swap fails.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::context::Context;
use super::object::uid_of;
use super::text::{at, list, text};
use super::view::CONTAINER;
use super::{Action, Release};
use crate::patroni::Lock;

/// The kubelet tells times to the second, rounded down.
const SECOND: SignedDuration = SignedDuration::from_secs(1);
/// The kubelet's word for a container that it has lost sight of.
const LOST: &str = "ContainerStatusUnknown";

/// Why the lock is not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoProof {
    /// Nobody holds it.
    Free,
    /// The holder has no pod: that it is gone does not say that its processes are.
    NoPod,
    /// The holder's database container runs, or has not been seen to end.
    MayRun,
    /// It was renewed after that container's end, or so close to it that the one in its place may have done so.
    RenewedSince,
    /// It was taken before this pod was: by another pod of the same name, which may still run.
    OtherPod,
}

/// The end of a database container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its exit code.
    pub code: i64,
    /// The second in which it ended.
    pub at: Timestamp,
    /// The second in which the one in its place was started, if it was.
    pub replaced: Option<Timestamp>,
}

/// The last end of a pod's database container. `None` where there was none, or it was not seen.
pub fn ended(pod: &Value) -> Option<End> {
    let status = list(pod, "/status/containerStatuses").iter().find(|status| status["name"] == CONTAINER)?;
    let time = |from: &Value, path: &str| text(from, path)?.parse::<Timestamp>().ok();
    let (end, replaced) = if let Some(end) = at(status, "/state/terminated") {
        (end, None)
    } else {
        let replaced = match at(status, "/state/running") {
            Some(running) => Some(time(running, "/startedAt")?),
            // It waits to be started again.
            None => at(status, "/state/waiting").map(|_| None)?,
        };
        (at(status, "/lastState/terminated")?, replaced)
    };
    let known = text(end, "/containerID").is_some_and(|id| !id.is_empty());
    let finished = time(end, "/finishedAt").filter(|_| known && text(end, "/reason") != Some(LOST))?;
    Some(End {
        code: at(end, "/exitCode").and_then(Value::as_i64).unwrap_or_default(),
        at: finished,
        replaced,
    })
}

/// No database container of that pod runs now.
pub fn is_down(pod: &Value) -> bool {
    ended(pod).is_some_and(|end| end.replaced.is_none())
}

/// What proves that the pod, which has the lock holder's name, is the one that took the lock, and is dead; in words.
///
/// # Errors
/// What the proof lacks.
pub fn proof(lock: &Lock, pod: Option<&Value>, lock_pod: Option<&str>, off: bool) -> Result<String, NoProof> {
    let holder = lock.holder.as_deref().ok_or(NoProof::Free)?;
    let pod = pod.ok_or(NoProof::NoPod)?;
    let end = ended(pod);
    if end.is_none() && !off {
        return Err(NoProof::MayRun);
    }
    let started: Option<Timestamp> = text(pod, "/status/startTime").and_then(|time| time.parse().ok());
    // Both by the clock of the pod's node.
    let own = lock.acquired.zip(started).is_some_and(|(acquired, started)| started <= acquired);
    if !own || lock_pod.is_some_and(|uid| uid_of(pod) != Some(uid)) {
        return Err(NoProof::OtherPod);
    }
    if off {
        return Ok(format!("the node of {holder} is out of service"));
    }
    let End { code, at, replaced } = end.ok_or(NoProof::MayRun)?;
    let limit = replaced.unwrap_or_else(|| at.checked_add(SECOND).unwrap_or(Timestamp::MAX));
    if lock.renewed.is_none_or(|renewed| renewed >= limit) {
        return Err(NoProof::RenewedSince);
    }
    Ok(format!("the container of {holder} ended with exit code {code}"))
}

/// The release of a dead holder's lock, where there is somebody to take it.
pub fn plan(cx: &Context<'_>) -> Option<Action> {
    let view = &cx.view;
    let holder = view.lock.holder.clone()?;
    let pod = view.holder().map(|member| member.pod);
    let node = pod.and_then(|pod| text(pod, "/spec/nodeName")).and_then(|node| cx.observed.nodes.get(node));
    let off = node.is_some_and(|node| node.out_of_service);
    let proof = proof(&view.lock, pod, cx.observed.lock_pod.as_deref(), off).ok()?;
    if !somebody_fit(cx, &holder) || paused(cx) {
        return None;
    }
    let pod_uid = pod.filter(|_| !off).and_then(uid_of).map(str::to_owned);
    Some(Action::ReleaseLock(Release { holder, version: view.lock.version.clone()?, pod_uid, proof }))
}

/// A replica that has just answered and that Patroni would let lead. Without one the dead primary's restart is the
/// quickest way back.
fn somebody_fit(cx: &Context<'_>, holder: &str) -> bool {
    let listed = |name: &str| !cx.view.config.is_synchronous() || cx.view.sync.standbys.contains(name);
    cx.view.members.iter().any(|member| {
        member.name != holder
            && listed(member.name)
            && member.answer.is_some_and(crate::patroni::Answer::is_running_replica)
    })
}

fn paused(cx: &Context<'_>) -> bool {
    cx.view.config.config.as_ref().is_some_and(|config| config.get("pause") == Some(&Value::Bool(true)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lock(acquired: &str, renewed: &str) -> Lock {
        Lock {
            holder: Some("db-0".into()),
            acquired: acquired.parse().ok(),
            renewed: renewed.parse().ok(),
            version: Some("7".into()),
            ..Lock::default()
        }
    }

    fn terminated(name: &str, finished: &str) -> Value {
        let end =
            json!({ "exitCode": 137, "reason": "Error", "finishedAt": finished, "containerID": "x://1" });
        json!({ "name": name, "state": { "terminated": end } })
    }

    fn running(name: &str, last: Value) -> Value {
        json!({ "name": name, "state": { "running": { "startedAt": "2026-11-22T10:05:01Z" } }, "lastState": last["state"] })
    }

    fn pod(containers: Value) -> Value {
        json!({
            "metadata": { "name": "db-0", "uid": "u1" },
            "status": { "startTime": "2026-11-22T10:00:00Z", "containerStatuses": containers },
        })
    }

    #[test]
    fn only_the_end_of_the_very_container_is_proof() {
        let held = lock("2026-11-22T10:00:05Z", "2026-11-22T10:04:58Z");
        let dead = terminated(CONTAINER, "2026-11-22T10:05:00Z");
        let older = terminated(CONTAINER, "2026-11-22T10:03:00Z");
        let replaced = |by: &str, end: &Value| {
            let mut container = running(CONTAINER, end.clone());
            container["state"]["running"]["startedAt"] = json!(format!("2026-11-22T10:{by}Z"));
            container
        };
        let mut lost = dead.clone();
        lost["state"]["terminated"]["reason"] = json!(LOST);
        let waiting = json!({ "name": CONTAINER, "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": dead["state"] });
        let never = json!({ "name": CONTAINER, "state": { "waiting": { "reason": "ContainerCreating" } } });
        let mut going = pod(json!([running(CONTAINER, json!({ "state": {} }))]));
        going["metadata"]["deletionTimestamp"] = json!("2026-11-22T10:05:00Z");
        let mut unready = pod(json!([running(CONTAINER, json!({ "state": {} }))]));
        unready["status"]["conditions"] = json!([{ "type": "Ready", "status": "False" }]);
        for (what, pod, expected) in [
            ("it ended", pod(json!([dead])), Ok(())),
            ("it ended and waits to be started again", pod(json!([waiting])), Ok(())),
            ("not ready", unready, Err(NoProof::MayRun)),
            ("being deleted", going, Err(NoProof::MayRun)),
            (
                "a sidecar's end",
                pod(json!([terminated("sidecar", "2026-11-22T10:05:00Z"), running(CONTAINER, json!({}))])),
                Err(NoProof::MayRun),
            ),
            (
                "only a sidecar is told of",
                pod(json!([terminated("sidecar", "2026-11-22T10:05:00Z")])),
                Err(NoProof::MayRun),
            ),
            ("its place is taken, and the lock not renewed", pod(json!([replaced("05:01", &dead)])), Ok(())),
            (
                "its successor may have renewed",
                pod(json!([replaced("04:58", &dead)])),
                Err(NoProof::RenewedSince),
            ),
            ("an older container's end", pod(json!([replaced("03:01", &older)])), Err(NoProof::RenewedSince)),
            ("never started", pod(json!([never])), Err(NoProof::MayRun)),
            ("the node lost sight of it", pod(json!([lost])), Err(NoProof::MayRun)),
            (
                "renewed after its end",
                pod(json!([terminated(CONTAINER, "2026-11-22T10:04:57Z")])),
                Err(NoProof::RenewedSince),
            ),
        ] {
            assert_eq!(proof(&held, Some(&pod), None, false).map(drop), expected, "{what}");
        }
        assert_eq!(proof(&held, None, None, false), Err(NoProof::NoPod), "force-deleted");
        assert_eq!(proof(&Lock::default(), None, None, false), Err(NoProof::Free));
    }

    #[test]
    fn another_pod_of_that_name_proves_nothing() {
        let dead = pod(json!([terminated(CONTAINER, "2026-11-22T10:05:00Z")]));
        let before = lock("2026-11-22T09:59:00Z", "2026-11-22T10:04:58Z");
        assert_eq!(proof(&before, Some(&dead), None, false), Err(NoProof::OtherPod));
        let held = lock("2026-11-22T10:00:05Z", "2026-11-22T10:04:58Z");
        for (seen, good) in [(Some("u1"), true), (Some("u0"), false), (Some(""), false), (None, true)] {
            assert_eq!(proof(&held, Some(&dead), seen, false).is_ok(), good, "{seen:?}");
        }
        // Times that cannot be read prove nothing.
        assert_eq!(
            proof(&lock("", "2026-11-22T10:04:58Z"), Some(&dead), None, false),
            Err(NoProof::OtherPod)
        );
        assert_eq!(
            proof(&lock("2026-11-22T10:00:05Z", ""), Some(&dead), None, false),
            Err(NoProof::RenewedSince)
        );
    }

    #[test]
    fn a_node_that_is_vouched_to_be_off_is_proof_of_its_own_pod() {
        let held = lock("2026-11-22T10:00:05Z", "2026-11-22T10:04:58Z");
        let alive = pod(json!([running(CONTAINER, json!({}))]));
        assert!(proof(&held, Some(&alive), None, true).is_ok());
        assert_eq!(proof(&held, Some(&alive), Some("u0"), true), Err(NoProof::OtherPod));
        assert_eq!(proof(&held, None, None, true), Err(NoProof::NoPod));
    }
}
