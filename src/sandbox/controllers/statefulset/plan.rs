//! What to do next about a StatefulSet. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::claims::{self, Claims};
use super::pod::{self, NAME_LABEL};
use crate::sandbox::controllers::meta::{
    is_deleting, is_finished, is_ready, label, name, phase, ready_since,
};
use crate::sandbox::controllers::revision::{HASH_LABEL, Revision};

/// All that a decision rests on. `pods` are those the set controls.
pub(super) struct Observed<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) claims: &'a Claims,
    pub(super) current: &'a Revision,
    pub(super) update: &'a Revision,
    pub(super) now: Timestamp,
}

/// One thing to do; those of one plan may be done in any order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Make the claims, then the pod.
    Start { claims: Vec<PersistentVolumeClaim>, pod: Option<Box<Pod>> },
    /// Delete the pod.
    Stop { pod: Arc<Pod>, why: &'static str },
    /// Give the pod the label with its name back.
    Label(Arc<Pod>),
    /// Set a claim's owners.
    Own { claim: Arc<PersistentVolumeClaim>, owners: Vec<OwnerReference> },
}

/// What to do, what to report, and when to look again if nothing happens.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) status: StatefulSetStatus,
    pub(super) recheck: Option<Duration>,
}

/// Where a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Available,
    /// Ready, but not for long enough yet.
    Settling(Duration),
    Unready,
}

struct Planner<'a> {
    seen: &'a Observed<'a>,
    replicas: BTreeMap<i32, Option<&'a Arc<Pod>>>,
    condemned: BTreeMap<i32, &'a Arc<Pod>>,
    ordered: bool,
    actions: Vec<Action>,
    recheck: Option<Duration>,
}

/// Decides the next step towards what the set asks for.
pub(super) fn plan(seen: &Observed<'_>) -> Plan {
    let mut planner = Planner::new(seen);
    if !is_deleting(&seen.set.metadata) {
        planner.own_claims();
        if planner.fill() && planner.shrink() {
            planner.roll();
        }
    }
    planner.await_settling();
    let status = status(seen, &planner.replicas);
    Plan { actions: planner.actions, status, recheck: planner.recheck }
}

impl<'a> Planner<'a> {
    fn new(seen: &'a Observed<'a>) -> Self {
        let spec = &seen.set.spec;
        let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        let wanted = start..start.saturating_add(spec.replicas.unwrap_or(1).max(0));
        let mut replicas: BTreeMap<i32, Option<&Arc<Pod>>> =
            wanted.clone().map(|each| (each, None)).collect();
        let mut condemned = BTreeMap::new();
        for pod in seen.pods {
            match pod::ordinal(name(&seen.set.metadata), name(&pod.metadata)) {
                Some(ordinal) if wanted.contains(&ordinal) => _ = replicas.insert(ordinal, Some(pod)),
                Some(ordinal) => _ = condemned.insert(ordinal, pod),
                None => {}
            }
        }
        let ordered = spec.pod_management_policy.as_deref() != Some("Parallel");
        Self { seen, replicas, condemned, ordered, actions: Vec::new(), recheck: None }
    }

    fn look_again(&mut self, pause: Duration) {
        self.recheck = Some(self.recheck.map_or(pause, |other| other.min(pause)));
    }

    /// Makes and replaces the pods that should be there. True where the pass may go on to take others away.
    fn fill(&mut self) -> bool {
        for (ordinal, pod) in self.replicas.clone() {
            let go_on = match pod {
                None => self.start(ordinal),
                Some(pod) => self.keep(ordinal, pod),
            };
            if !go_on && self.ordered {
                return false;
            }
        }
        true
    }

    fn start(&mut self, ordinal: i32) -> bool {
        if claims::any_leaving(self.seen.set, ordinal, self.seen.claims) {
            self.look_again(Duration::from_secs(1));
            return false;
        }
        let claims = claims::missing(self.seen.set, ordinal, self.seen.claims);
        let pod = pod::build(self.seen.set, self.revision_for(ordinal), ordinal);
        self.actions.push(Action::Start { claims, pod: Some(Box::new(pod)) });
        false
    }

    fn keep(&mut self, ordinal: i32, pod: &'a Arc<Pod>) -> bool {
        if is_deleting(&pod.metadata) {
            return false;
        }
        if is_finished(pod) {
            self.actions.push(Action::Stop { pod: Arc::clone(pod), why: "it has ended" });
            return false;
        }
        if phase(pod) == "Pending" && !claims::any_leaving(self.seen.set, ordinal, self.seen.claims) {
            let claims = claims::missing(self.seen.set, ordinal, self.seen.claims);
            if !claims.is_empty() {
                self.actions.push(Action::Start { claims, pod: None });
            }
        }
        if label(&pod.metadata, NAME_LABEL) != Some(name(&pod.metadata)) {
            self.actions.push(Action::Label(Arc::clone(pod)));
        }
        health(self.seen, pod) == Health::Available
    }

    /// A rolling update with a partition keeps pods below it on the old template, also when they start anew.
    fn revision_for(&self, ordinal: i32) -> &'a Revision {
        match partition(self.seen.set) {
            Some(partition) if ordinal < partition => self.seen.current,
            _ => self.seen.update,
        }
    }

    /// Takes surplus pods away, the highest first.
    fn shrink(&mut self) -> bool {
        let first_unready = self
            .replicas
            .iter()
            .filter_map(|(ordinal, pod)| pod.map(|pod| (*ordinal, pod)))
            .chain(self.condemned.iter().map(|(ordinal, pod)| (*ordinal, *pod)))
            .filter(|(_, pod)| health(self.seen, pod) == Health::Unready)
            .map(|(ordinal, _)| ordinal)
            .min();
        let mut go_on = true;
        for (ordinal, pod) in self.condemned.clone().into_iter().rev() {
            go_on = false;
            if !is_deleting(&pod.metadata) {
                let unready = health(self.seen, pod) == Health::Unready;
                // Going down in order, an unready pod is waited for, unless it is the only one in the way.
                if !(self.ordered && unready && first_unready != Some(ordinal)) {
                    self.actions.push(Action::Stop { pod: Arc::clone(pod), why: "the set is scaled down" });
                }
            }
            if self.ordered {
                break;
            }
        }
        go_on || !self.ordered
    }

    /// Replaces pods of an older revision, the highest first, one at a time.
    fn roll(&mut self) {
        let Some(partition) = partition(self.seen.set) else { return };
        for (ordinal, pod) in self.replicas.clone().into_iter().rev() {
            let Some(pod) = pod else { return };
            if ordinal < partition {
                return;
            }
            let outdated = label(&pod.metadata, HASH_LABEL) != Some(self.seen.update.name.as_str());
            if outdated && !is_deleting(&pod.metadata) {
                let stopped = self.actions.iter().any(
                    |action| matches!(action, Action::Stop { pod: other, .. } if Arc::ptr_eq(other, pod)),
                );
                if !stopped {
                    self.actions.push(Action::Stop { pod: Arc::clone(pod), why: "its template has changed" });
                }
                return;
            }
            if health(self.seen, pod) != Health::Available {
                return;
            }
        }
    }

    fn own_claims(&mut self) {
        let kept = self.replicas.iter().map(|(ordinal, pod)| (*ordinal, *pod, false));
        let leaving = self.condemned.iter().map(|(ordinal, pod)| (*ordinal, Some(*pod), true));
        for (ordinal, pod, condemned) in kept.chain(leaving) {
            for (_, claim) in claims::names(self.seen.set, ordinal) {
                let Some(claim) = self.seen.claims.get(&claim) else { continue };
                let pod = pod.map(|pod| &**pod);
                if let Some(owners) = claims::owners(self.seen.set, pod, condemned, claim) {
                    self.actions.push(Action::Own { claim: Arc::clone(claim), owners });
                }
            }
        }
    }

    fn await_settling(&mut self) {
        for pod in self.seen.pods {
            if let Health::Settling(rest) = health(self.seen, pod) {
                self.look_again(rest);
            }
        }
    }
}

/// From which number on pods follow the template; nothing where they wait to be deleted by somebody.
fn partition(set: &StatefulSet) -> Option<i32> {
    let strategy = set.spec.update_strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return None;
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    Some(rolling.and_then(|rolling| rolling.partition).unwrap_or(0))
}

fn health(seen: &Observed<'_>, pod: &Pod) -> Health {
    if phase(pod) != "Running" || !is_ready(pod) || is_deleting(&pod.metadata) {
        return Health::Unready;
    }
    let settle = i64::from(seen.set.spec.min_ready_seconds.unwrap_or(0));
    let since = ready_since(pod).map_or(seen.now, |since| since.0);
    let rest = since.as_second() + settle - seen.now.as_second();
    match u64::try_from(rest) {
        Ok(rest) if settle > 0 && rest > 0 => Health::Settling(Duration::from_secs(rest)),
        _ => Health::Available,
    }
}

/// The counts as they are now; zero is left out where Kubernetes leaves it out.
fn status(seen: &Observed<'_>, replicas: &BTreeMap<i32, Option<&Arc<Pod>>>) -> StatefulSetStatus {
    let count = |holds: &dyn Fn(&Pod) -> bool| {
        i32::try_from(seen.pods.iter().filter(|pod| holds(pod)).count()).unwrap_or(i32::MAX)
    };
    let some = |count: i32| (count > 0).then_some(count);
    let of = |revision: &Revision| {
        let name = revision.name.clone();
        count(&move |pod: &Pod| {
            !is_deleting(&pod.metadata) && label(&pod.metadata, HASH_LABEL) == Some(name.as_str())
        })
    };
    let ready = count(&|pod| phase(pod) == "Running" && is_ready(pod));
    let updated = of(seen.update);
    let wanted = i32::try_from(replicas.len()).unwrap_or(i32::MAX);
    // A rolling update is over when every pod is new and ready; only then the new revision is the current one.
    let rolled = partition(seen.set).is_some() && updated == wanted && ready == wanted;
    let (current_name, current) = if rolled {
        (seen.update.name.clone(), updated)
    } else {
        (seen.current.name.clone(), of(seen.current))
    };
    let old = seen.set.status.as_ref();
    StatefulSetStatus {
        available_replicas: Some(count(&|pod| health(seen, pod) == Health::Available)),
        collision_count: Some(old.and_then(|status| status.collision_count).unwrap_or(0)),
        conditions: old.and_then(|status| status.conditions.clone()),
        current_replicas: some(current),
        current_revision: Some(current_name),
        observed_generation: seen.set.metadata.generation,
        ready_replicas: some(ready),
        replicas: count(&|_| true),
        update_revision: Some(seen.update.name.clone()),
        updated_replicas: some(updated),
    }
}
