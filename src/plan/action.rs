//! What a pass wants done.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Kind;
use super::certificates::Securing;
use super::inplace::Marking;
use crate::api::DatabaseStatus;

/// One write. They are carried out in order; where one fails, those after it wait for the next pass, but the status is
/// written all the same.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Put dbctl's finalizer on the Database.
    AddFinalizer,
    /// Take it off: the Database goes.
    RemoveFinalizer,
    /// Make an object that others write into later; where one of that name is there, leave it alone.
    Create(Kind, Value),
    /// Make a Secret with random values in it; where one of that name is there, leave it alone.
    CreateSecret(SecretPlan),
    /// Put new passwords into Secrets, and have the pods' files follow at once.
    Rotate(Rotate),
    /// Make, renew or hand on certificates.
    Secure(Securing),
    /// Server-side apply.
    Apply(Apply),
    /// Delete the object, if it is still the one that was seen.
    Delete {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// The uid it was seen with.
        uid: Option<String>,
    },
    /// Delete a member's pod, if it is still the one that was seen, so that the StatefulSet makes it anew. After a fresh read of
    /// the lock.
    ReplacePod {
        /// The pod.
        pod: String,
        /// The uid it was seen with.
        uid: String,
        /// It may hold the leader lock: there is nobody else.
        may_lead: bool,
    },
    /// Change annotations of a ConfigMap, if it is still as it was seen; null takes one away.
    Annotate {
        /// The ConfigMap.
        name: String,
        /// The version it was seen with.
        version: Option<String>,
        /// The annotations.
        annotations: Map<String, Value>,
    },
    /// Delete the StatefulSet and leave its pods, if it is still the one that was seen.
    Orphan {
        /// Its name.
        name: String,
        /// The uid it was seen with.
        uid: Option<String>,
    },
    /// Change a claim, if it is still the one that was seen. The StatefulSet made it, so an apply would own nothing in it.
    PatchClaim {
        /// Its name.
        name: String,
        /// The uid it was seen with.
        uid: Option<String>,
        /// A JSON merge patch.
        patch: Value,
    },
    /// Change Patroni's dynamic configuration through a member's REST API.
    PatchPatroniConfig {
        /// The member to ask: the holder of the lock.
        member: String,
        /// A JSON merge patch.
        patch: Value,
    },
    /// Ask Patroni for something that takes time.
    Ask {
        /// What it is asked for.
        ask: Ask,
        /// What for: the id of a request, or one CamelCase word.
        cause: String,
    },
    /// Take the role label off a pod that does not hold the lock, after a fresh read of the lock.
    StripRole {
        /// The pod.
        pod: String,
        /// The version of the pod that was seen.
        version: Option<String>,
    },
    /// Release the lock of a holder that is proven dead, if it is still the lock that was seen.
    ReleaseLock(Release),
    /// Write a step of a restore in place beside the data.
    Mark(Marking),
    /// Write the status.
    PatchStatus(Box<DatabaseStatus>),
    /// Tell the user.
    PublishEvent(Event),
}

/// What Patroni is asked for. It answers only when it is done, so no pass waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To move the primary's role; the leader is asked.
    Switchover {
        /// The member that holds the lock.
        leader: String,
        /// The member that is to hold it.
        candidate: String,
        /// Nobody else will do. Without this Patroni takes whoever of those that have every commit is first, and is quicker:
        /// where one is named, the others sleep for two seconds before they follow it, and commits wait for them.
        insist: bool,
    },
    /// To promote a member where nobody leads, whatever it lacks; it is asked itself.
    Failover {
        /// The member.
        candidate: String,
    },
    /// To restart a member's PostgreSQL; it is asked itself.
    Restart {
        /// The member.
        member: String,
    },
}

impl Ask {
    /// The member that is asked.
    pub fn whom(&self) -> &str {
        match self {
            Self::Switchover { leader, .. } => leader,
            Self::Failover { candidate } => candidate,
            Self::Restart { member } => member,
        }
    }
}

/// What Patroni was asked for last, as this controller remembers it: after a restart of the controller, nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What it was asked for.
    pub ask: Ask,
    /// What for.
    pub cause: String,
    /// What came of it.
    pub outcome: AskOutcome,
}

/// What came of an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskOutcome {
    /// No answer yet.
    UnderWay,
    /// Done, in Patroni's words.
    Done(String),
    /// Not done, and why.
    Failed(String),
}

/// A lock to release. Every part was seen, and all of it must still be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The member that holds it.
    pub holder: String,
    /// The version of the lock's ConfigMap.
    pub version: String,
    /// The uid of the holder's pod, where that is the proof.
    pub pod_uid: Option<String>,
    /// The proof, as a sentence.
    pub proof: String,
}

/// An object to apply, and what must hold for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Apply {
    /// Its kind.
    pub kind: Kind,
    /// What we want of it.
    pub body: Value,
    /// The uid of the object that was seen; `None` where there was none, and then nobody else's fields are taken over.
    pub uid: Option<String>,
    /// Apply only if a fresh read of the leader lock names a member of a lower ordinal than this: members from here on
    /// are removed.
    pub leader_below: Option<i32>,
}

/// A Secret whose random parts are made when it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretPlan {
    /// Name and labels.
    pub body: Value,
    /// Keys that hold a fresh password each.
    pub random: Vec<String>,
    /// Other keys; `{KEY}` stands for the value of a random one.
    pub text: BTreeMap<String, String>,
}

/// Passwords to change. What was changed already under that id is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// The request's id: the Secrets carry it, and agents tell it once they go by what is in them.
    pub id: String,
    /// The Secrets, with the keys that hold a password.
    pub secrets: Vec<(String, Vec<String>)>,
    /// The pods that have not been told of it.
    pub pods: Vec<String>,
}

/// An event on the Database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether something is wrong.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: String,
    /// What happened and, where something is wrong, what to do next.
    pub message: String,
}

impl Event {
    /// Something is wrong.
    pub fn warning(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.into(), message: message.into() }
    }

    /// Good to know.
    pub fn normal(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.into(), message: message.into() }
    }
}
