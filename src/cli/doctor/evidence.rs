//! What a diagnosis is made of: plain data, read at one time.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use crate::agent::AgentReport;
use crate::api::Database;
use crate::plan::{Held, Observed};

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// What, for example `pods`.
    pub what: String,
    /// Why, in the words of whoever refused.
    pub why: String,
    /// Whoever asks may not; the thing itself may be well.
    pub forbidden: bool,
}

/// All that is looked at.
#[derive(Debug, Default)]
pub struct Evidence {
    /// What belongs to the whole cluster.
    pub cluster: Cluster,
    /// The databases.
    pub databases: Vec<Patient>,
    /// Deleted databases whose data was kept, as `NAMESPACE/NAME`.
    pub retained: Vec<String>,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

/// What belongs to the whole cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    /// How this program is run again.
    pub command: String,
    /// Why the API server does not answer at all.
    pub silent: Option<String>,
    /// It is a sandbox, which has a controller of its own.
    pub sandbox: bool,
    /// This program's version.
    pub client: String,
    /// The definition of Databases; `None` where it could not be read.
    pub definition: Option<Definition>,
    /// The namespace in which a controller is looked for.
    pub place: String,
    /// What is known of the controllers; `None` where it could not be read.
    pub controllers: Option<Controllers>,
}

/// The definition of Databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    /// There is none.
    Missing,
    /// It is being deleted, and with it every Database.
    Going,
    /// It is there, written by that version of dbctl.
    There(Option<String>),
}

/// Those that may work for databases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Controllers {
    /// Who holds, or last held, the Lease.
    pub lease: Option<LeaseState>,
    /// Ready pods of the Deployment and how many are asked for; `None` where there is no Deployment.
    pub deployment: Option<(i32, i32)>,
    /// The Deployment's pods.
    pub pods: Vec<Value>,
}

/// A Lease of controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseState {
    /// Who holds it, or did.
    pub holder: String,
    /// That one's version.
    pub version: Option<String>,
    /// When it was last renewed.
    pub renewed: Option<Timestamp>,
    /// It was seen to be renewed, or is young enough.
    pub alive: bool,
}

/// A Secret with a certificate, as far as it is anybody's business: no key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certified {
    /// What it holds.
    pub held: Held,
    /// When it was last written.
    pub written: Option<Timestamp>,
    /// Of which Certificate cert-manager made it, if it did.
    pub issued_for: Option<String>,
}

/// A database, and what there is of it.
#[derive(Debug)]
pub struct Patient {
    /// How this program is run again for it.
    pub command: String,
    /// How kubectl is run for it; `None` in the sandbox, where `dbctl` tells the same.
    pub kubectl: Option<String>,
    /// The object.
    pub database: Database,
    /// Its objects, and what members answered.
    pub observed: Observed,
    /// Why members did not answer, by member.
    pub silent: BTreeMap<String, String>,
    /// What their agents said.
    pub reports: BTreeMap<String, AgentReport>,
    /// The nodes that its pods are on; `None` for one that is not there any more.
    pub nodes: BTreeMap<String, Option<Value>>,
    /// The Secrets that it needs, and whether each is there.
    pub secrets: BTreeMap<String, bool>,
    /// Those with certificates; `None` for one that is not there. What could not be read is not in it.
    pub certificates: BTreeMap<String, Option<Certified>>,
    /// Events about its objects.
    pub events: Vec<Event>,
    /// The last lines of its members' logs.
    pub logs: BTreeMap<String, String>,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

impl Patient {
    /// Nothing but the object is known.
    pub fn of(database: Database) -> Self {
        Self {
            command: "dbctl".to_owned(),
            kubectl: Some("kubectl".to_owned()),
            database,
            observed: Observed::default(),
            silent: BTreeMap::new(),
            reports: BTreeMap::new(),
            nodes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            certificates: BTreeMap::new(),
            events: Vec::new(),
            logs: BTreeMap::new(),
            unread: Vec::new(),
        }
    }

    /// The newest warning about that object for one of those reasons, or for any where none is named, in the words of
    /// whoever published it. What the kubelet says again in one word is passed over.
    pub fn warning(&self, name: &str, reasons: &[&str]) -> Option<String> {
        let about = |event: &&Event| {
            event.involved_object.name.as_deref() == Some(name)
                && event.type_.as_deref() == Some("Warning")
                && event.message.as_deref().is_some_and(|message| !message.starts_with("Error: "))
                && event
                    .reason
                    .as_deref()
                    .is_some_and(|reason| reasons.is_empty() || reasons.contains(&reason))
        };
        let newest =
            self.events.iter().filter(about).max_by_key(|event| super::super::events::time(event))?;
        newest.message.as_deref().map(|message| message.trim().replace('\n', " "))
    }
}
