//! Kubernetes objects as plain JSON, and what was observed of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use super::action::Asked;
use super::certificates::Held;
use super::text::{at, list, text};
use crate::agent::{ArchiveReport, MajorReport, Rotations};
use crate::api::{Database, Kept, Recovered};
use crate::patroni::{Answer, TTL_SECONDS};

/// The kinds that a pass reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the Kubernetes kind of that name")]
pub enum Kind {
    ServiceAccount,
    Role,
    RoleBinding,
    Secret,
    ConfigMap,
    Service,
    StatefulSet,
    PodDisruptionBudget,
    PersistentVolumeClaim,
    Pod,
    EndpointSlice,
    CronJob,
    Job,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 13] = [
        Self::ServiceAccount,
        Self::Role,
        Self::RoleBinding,
        Self::Secret,
        Self::ConfigMap,
        Self::Service,
        Self::StatefulSet,
        Self::PodDisruptionBudget,
        Self::PersistentVolumeClaim,
        Self::Pod,
        Self::EndpointSlice,
        Self::CronJob,
        Self::Job,
    ];

    /// The API group; empty for the core one.
    pub fn group(self) -> &'static str {
        match self {
            Self::Role | Self::RoleBinding => "rbac.authorization.k8s.io",
            Self::StatefulSet => "apps",
            Self::PodDisruptionBudget => "policy",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::CronJob | Self::Job => "batch",
            _ => "",
        }
    }

    /// `apiVersion`, as an object carries it.
    pub fn api_version(self) -> String {
        match self.group() {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        }
    }

    /// `kind`, as an object carries it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::Role => "Role",
            Self::RoleBinding => "RoleBinding",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::StatefulSet => "StatefulSet",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Pod => "Pod",
            Self::EndpointSlice => "EndpointSlice",
            Self::CronJob => "CronJob",
            Self::Job => "Job",
        }
    }

    /// The plural of the URL.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceaccounts",
            Self::Role => "roles",
            Self::RoleBinding => "rolebindings",
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::Service => "services",
            Self::StatefulSet => "statefulsets",
            Self::PodDisruptionBudget => "poddisruptionbudgets",
            Self::PersistentVolumeClaim => "persistentvolumeclaims",
            Self::Pod => "pods",
            Self::EndpointSlice => "endpointslices",
            Self::CronJob => "cronjobs",
            Self::Job => "jobs",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the leader lock is still being renewed, judged by the observer's own clock, as Patroni does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockAge {
    /// It was renewed within its ttl.
    #[default]
    Fresh,
    /// It was not.
    Expired,
}

/// Says that nothing runs on a node any more.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

impl From<&Node> for NodeState {
    fn from(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
        Self {
            cordoned: spec.and_then(|spec| spec.unschedulable) == Some(true),
            out_of_service: taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE),
        }
    }
}

/// Room on a volume, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// All of it.
    pub size: u64,
    /// What PostgreSQL may still write.
    pub free: u64,
}

impl Room {
    /// Too little is left for PostgreSQL's next two files of WAL, of 16 MiB each: it stops where it cannot make one.
    /// <https://www.postgresql.org/docs/current/disk-full.html>
    pub fn is_full(&self) -> bool {
        self.free < 32 << 20
    }
}

/// What matters of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// It takes no further pods: it is about to be drained.
    pub cordoned: bool,
    /// Somebody vouches that nothing runs on it any more: it has the taint `node.kubernetes.io/out-of-service`.
    /// <https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/#non-graceful-node-shutdown>
    pub out_of_service: bool,
}

impl LockAge {
    /// A lock is renewed every few seconds; beyond its ttl there is a little for the news of it to arrive.
    const LIFETIME: Duration = Duration::from_secs(TTL_SECONDS.unsigned_abs() + 2);

    /// By how long ago it was last renewed.
    pub fn after(age: Duration) -> Self {
        if age > Self::LIFETIME { Self::Expired } else { Self::Fresh }
    }
}

/// What matters of the Database that another is restored from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceDatabase {
    /// There is none of that name.
    Missing,
    /// It has no backup destination.
    Without,
    /// Its backup destination.
    At(String),
}

impl SourceDatabase {
    /// Reads it from the Database, where there is one.
    pub fn of(database: Option<&Database>) -> Self {
        let Some(database) = database else { return Self::Missing };
        let destination = database.spec.backup.as_ref().and_then(|backup| backup.destination.clone());
        destination.map_or(Self::Without, Self::At)
    }
}

/// What there is, in one namespace, that concerns one Database: the objects that carry its label, those that have a
/// name it needs whoever made them, and what its members answered.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    objects: BTreeMap<(Kind, String), Arc<Value>>,
    /// Answers to `GET /patroni` of the members that were asked and answered.
    pub answers: BTreeMap<String, Answer>,
    /// Members that were asked and did not answer in time, and for how long that has been so.
    pub silent: BTreeMap<String, Duration>,
    /// Room on the volumes of members' data.
    pub rooms: BTreeMap<String, Room>,
    /// What members have still to archive, where it is known.
    pub archives: BTreeMap<String, ArchiveReport>,
    /// What members keep of before restores in place; only of those whose agents know of that.
    pub kept: BTreeMap<String, Vec<Kept>>,
    /// How members' data was restored.
    pub recovered: BTreeMap<String, Recovered>,
    /// What members say of a major upgrade.
    pub majors: BTreeMap<String, MajorReport>,
    /// Which rotation's passwords members go by; of those whose agents answer.
    pub rotations: BTreeMap<String, Rotations>,
    /// Age of the leader lock.
    pub lock_age: LockAge,
    /// The uid of the pod of the lock's holder when the lock was seen to go to it; `None` where that was not seen.
    pub lock_pod: Option<String>,
    /// The nodes that members are on. Empty where the controller may not read nodes.
    pub nodes: BTreeMap<String, NodeState>,
    /// The Database that `spec.restoreFrom` names; `None` where it names none, or nobody has looked.
    pub source: Option<SourceDatabase>,
    /// The definition of Databases is being deleted, and all of them with it. Known only of one that is to take its data along.
    pub definition_going: bool,
    /// Whether volumes of a storage class may grow, of those that are asked for it and may be read.
    pub expansion: BTreeMap<String, bool>,
    /// What Secrets with certificates hold, by their names; of those that are there.
    pub certificates: BTreeMap<String, Held>,
    /// What Patroni was asked for last.
    pub asked: Option<Asked>,
}

impl Observed {
    /// Adds an object, or replaces the one of that kind and name.
    pub fn insert(&mut self, kind: Kind, object: impl Into<Arc<Value>>) {
        let object = object.into();
        self.objects.insert((kind, name_of(&object).to_owned()), object);
    }

    /// Takes an object away.
    pub fn remove(&mut self, kind: Kind, name: &str) -> Option<Arc<Value>> {
        self.objects.remove(&(kind, name.to_owned()))
    }

    /// The object of that kind and name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, name.to_owned())).map(Arc::as_ref)
    }

    /// All objects of a kind, by name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |((of, _), _)| *of == kind).map(|(_, object)| object.as_ref())
    }
}

/// `metadata.name`.
pub fn name_of(object: &Value) -> &str {
    text(object, "/metadata/name").unwrap_or_default()
}

/// `metadata.uid`.
pub fn uid_of(object: &Value) -> Option<&str> {
    text(object, "/metadata/uid")
}

/// A label's value.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    at(object, "/metadata/labels")?.get(key)?.as_str()
}

/// Whether it is on its way out.
pub fn terminating(object: &Value) -> bool {
    text(object, "/metadata/deletionTimestamp").is_some()
}

/// Its owner references.
pub fn owners(object: &Value) -> &[Value] {
    list(object, "/metadata/ownerReferences")
}
