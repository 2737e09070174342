//! The observed objects, read as a Patroni cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::object::{LockAge, label, name_of, terminating};
use super::text::{at, list, number, text};
use super::{Kind, Observed, Room};
use crate::api::{LABEL_DATABASE, MajorUpgrade, Mark, Names};
use crate::patroni::{Answer, DynamicConfig, Lock, MemberStatus, PendingFailover, Sync};

/// Label of a pod with the release it was made for.
pub const LABEL_VERSION: &str = "app.kubernetes.io/version";
/// Annotation of a pod, and of the template it was made from, with a hash of the template.
pub const TEMPLATE: &str = "db.example.com/template";
/// The database container.
pub const CONTAINER: &str = "postgres";

/// A member's pod.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// The number at the end of it.
    pub ordinal: i32,
    /// The pod.
    pub pod: &'a Value,
    /// What it says of itself.
    pub status: Option<MemberStatus>,
    /// What it answered when asked.
    pub answer: Option<&'a Answer>,
    /// For how long it has not answered, if it was asked.
    pub silent: Duration,
    /// It answers, but has not heard of the Kubernetes API for much longer than another member.
    pub isolated: bool,
    /// Room on its volume, where it is known.
    pub room: Option<Room>,
}

/// How much longer, in seconds: two of Patroni's loops, and a little for a slow one.
const ISOLATED: i64 = 12;

/// One answer that is late says nothing; this long a silence does.
const SUSPICIOUS: Duration = Duration::from_secs(3);

impl<'a> Member<'a> {
    /// Its pod is ready and not on its way out.
    pub fn ready(&self) -> bool {
        let ready = list(self.pod, "/status/conditions")
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        ready && !terminating(self.pod)
    }

    /// The release its pod was made for.
    pub fn version(&self) -> Option<&'a str> {
        label(self.pod, LABEL_VERSION)
    }

    /// The hash of the template that its pod was made from.
    pub fn template(&self) -> Option<&'a str> {
        at(self.pod, "/metadata/annotations")?.get(TEMPLATE)?.as_str()
    }

    /// What is known of the database container.
    pub fn container(&self) -> Option<&'a Value> {
        list(self.pod, "/status/containerStatuses").iter().find(|status| status["name"] == CONTAINER)
    }

    /// It has not answered for longer than a busy machine takes.
    pub fn is_silent(&self) -> bool {
        self.answer.is_none() && self.silent >= SUSPICIOUS
    }

    /// Its pod's address.
    pub fn address(&self) -> Option<&'a str> {
        text(self.pod, "/status/podIP").filter(|address| !address.is_empty())
    }

    /// It runs as primary: by its own answer, else by what it last wrote, as long as the node finds it ready.
    pub fn is_running_primary(&self) -> bool {
        match (self.answer, &self.status) {
            (Some(answer), _) => answer.is_running_primary(),
            (None, Some(status)) => status.is_running_primary() && self.ready() && !self.is_silent(),
            (None, None) => false,
        }
    }

    /// It runs as a replica that streams.
    pub fn streams(&self) -> bool {
        self.status.as_ref().is_some_and(MemberStatus::is_streaming_replica)
    }

    /// It runs as a replica that streams, and its node finds it ready.
    pub fn is_streaming_replica(&self) -> bool {
        self.ready() && self.streams()
    }

    /// Its timeline.
    pub fn timeline(&self) -> Option<i64> {
        let answered = self.answer.and_then(|answer| answer.timeline);
        answered.or_else(|| self.status.as_ref().and_then(|status| status.timeline))
    }

    /// Why its container does not run, in Kubernetes' words.
    pub fn waiting(&self) -> Option<String> {
        let container = self.container()?;
        let state = at(container, "/state/waiting").or_else(|| at(container, "/state/terminated"))?;
        let reason = text(state, "/reason").unwrap_or("not running");
        // What the program said last tells more than how long the next start is put off.
        let said = text(container, "/lastState/terminated/message").or_else(|| text(state, "/message"));
        let said = said.and_then(|said| said.lines().rfind(|line| !line.trim().is_empty()));
        Some(match said {
            Some(said) => format!("{reason}: {}", said.trim().chars().take(500).collect::<String>()),
            None => reason.to_owned(),
        })
    }
}

/// Everything that a plan decides by.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The pods, by ordinal.
    pub members: Vec<Member<'a>>,
    /// The leader lock.
    pub lock: Lock,
    /// Whether the lock is renewed.
    pub lock_age: LockAge,
    /// The synchronous state.
    pub sync: Sync,
    /// Patroni's dynamic configuration.
    pub config: DynamicConfig,
    /// A change of primary that Patroni was asked for and that is not done.
    pub pending: PendingFailover,
    /// The last restore in place.
    pub mark: Option<Mark>,
    /// The mark of a major upgrade, of one that is over too.
    pub major: Option<MajorUpgrade>,
    /// The StatefulSet.
    pub stateful_set: Option<&'a Value>,
    /// Pods that the write Service leads to.
    pub write_endpoints: BTreeSet<String>,
}

impl<'a> View<'a> {
    /// Reads what was observed.
    pub fn new(name: &'a str, observed: &'a Observed) -> Self {
        let names = Names(name);
        let config_map = |name: String| observed.get(Kind::ConfigMap, &name);
        let mut members: Vec<_> =
            observed.all(Kind::Pod).filter_map(|pod| member(names, observed, pod)).collect();
        members.sort_by_key(|member| member.ordinal);
        Self {
            members,
            lock: config_map(names.leader()).map(Lock::of).unwrap_or_default(),
            lock_age: observed.lock_age,
            sync: config_map(names.sync()).map(Sync::of).unwrap_or_default(),
            config: config_map(names.dynamic_config()).map(DynamicConfig::of).unwrap_or_default(),
            pending: config_map(names.failover()).map(PendingFailover::of).unwrap_or_default(),
            // What cannot be read blocks all else.
            mark: config_map(names.dynamic_config()).and_then(|map| Mark::of(map).ok().flatten()),
            major: config_map(names.dynamic_config()).and_then(MajorUpgrade::of),
            stateful_set: observed.get(Kind::StatefulSet, &names.main()),
            write_endpoints: write_endpoints(names, observed),
        }
    }

    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&Member<'a>> {
        self.members.iter().find(|member| member.name == name)
    }

    /// The member that holds the lock.
    pub fn holder(&self) -> Option<&Member<'a>> {
        self.member(self.lock.holder.as_deref()?)
    }

    /// The lock's holder runs as primary, and the lock is alive or the holder has just answered.
    pub fn running_primary(&self) -> Option<&Member<'a>> {
        self.holder().filter(|holder| {
            holder.is_running_primary() && (holder.answer.is_some() || self.lock_age == LockAge::Fresh)
        })
    }

    /// The database has been made: there is data. Patroni's configuration says so, and where that was lost, the others of
    /// its objects do.
    pub fn initialized(&self) -> bool {
        self.config.initialize.as_deref().is_some_and(|id| !id.is_empty())
            || self.lock.holder.is_some()
            || self.lock.optime.is_some()
            || self.sync.leader.is_some()
            || self.major.is_some()
    }

    /// How many members the StatefulSet is told to have.
    pub fn stateful_replicas(&self) -> Option<i32> {
        number(self.stateful_set?, "/spec/replicas")
    }
}

fn member<'a>(names: Names<'_>, observed: &'a Observed, pod: &'a Value) -> Option<Member<'a>> {
    let name = name_of(pod);
    if label(pod, LABEL_DATABASE) != Some(names.0) {
        return None;
    }
    Some(Member {
        name,
        ordinal: names.ordinal(name)?,
        pod,
        status: MemberStatus::of(pod),
        answer: observed.answers.get(name),
        isolated: observed.answers.get(name).is_some_and(|answer| isolated(answer, observed)),
        room: observed.rooms.get(name).copied(),
        silent: observed.silent.get(name).copied().unwrap_or_default(),
    })
}

fn isolated(answer: &Answer, observed: &Observed) -> bool {
    let newest = observed.answers.values().filter_map(|answer| answer.dcs_last_seen).max();
    // Those who agree say so too.
    answer.role == "primary" && answer.failsafe_mode_is_active
        || answer.dcs_last_seen.zip(newest).is_some_and(|(own, newest)| newest - own > ISOLATED)
}

fn write_endpoints(names: Names<'_>, observed: &Observed) -> BTreeSet<String> {
    observed
        .all(Kind::EndpointSlice)
        .filter(|slice| label(slice, "kubernetes.io/service-name") == Some(names.main().as_str()))
        .flat_map(|slice| list(slice, "/endpoints"))
        // Nothing said counts as ready, says the API's documentation.
        .filter(|endpoint| at(endpoint, "/conditions/ready").and_then(Value::as_bool) != Some(false))
        .filter_map(|endpoint| text(endpoint, "/targetRef/name"))
        .map(str::to_owned)
        .collect()
}
