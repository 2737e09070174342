//! What a pass wants done.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Kind;
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
    /// Change Patroni's dynamic configuration through a member's REST API.
    PatchPatroniConfig {
        /// The member to ask: the holder of the lock.
        member: String,
        /// A JSON merge patch.
        patch: Value,
    },
    /// Ask Patroni to move the primary's role.
    Switchover {
        /// The member that holds the lock.
        leader: String,
        /// The member that is to hold it.
        candidate: String,
    },
    /// Write the status.
    PatchStatus(Box<DatabaseStatus>),
    /// Tell the user.
    PublishEvent(Event),
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
