//! The credentials. Made once, and changed only where that is asked for: the data and its members know the passwords.

use std::collections::BTreeMap;

use serde_json::Value;

use super::context::Context;
use super::services::POSTGRES_PORT;
use super::text::{at, list, text};
use super::view::{CONTAINER, Member};
use super::{Action, Kind, SecretPlan};
use crate::patroni::APP_NAME;

/// Keys of Secret `NAME-internal`.
pub mod internal {
    /// Password of PostgreSQL's superuser.
    pub const SUPERUSER: &str = "superuser-password";
    /// Password that replicas stream with.
    pub const REPLICATION: &str = "replication-password";
    /// Password that pg_rewind connects with.
    pub const REWIND: &str = "rewind-password";
    /// Password of Patroni's REST API.
    pub const REST: &str = "rest-password";
    /// All of them.
    pub const ALL: [&str; 4] = [SUPERUSER, REPLICATION, REWIND, REST];
    /// Those of roles in the data. Patronis ask each other with [`REST`] whether the primary may go on while the Kubernetes API
    /// is down: while two of them know different ones, it may not.
    pub const LOGINS: [&str; 3] = [SUPERUSER, REPLICATION, REWIND];
}

/// Key of the password in Secret `NAME-app`.
pub const APP_PASSWORD: &str = "password";
/// Key, in both Secrets, of the id of the request that their passwords were last changed for.
pub const ROTATION: &str = "rotation";
/// The annotation with the same, on the Secrets and on the pods that were told.
pub const ROTATED: &str = "db.example.com/rotation";

/// The files by which a member's pod has what is in the Secrets: a name for each, where the keys do not say whose they are.
pub mod file {
    /// The applications' password.
    pub const APP: &str = "app-password";
    /// [`ROTATION`](super::ROTATION) of `NAME-app`.
    pub const APP_ROTATION: &str = "app-rotation";
    /// [`ROTATION`](super::ROTATION) of `NAME-internal`.
    pub const INTERNAL_ROTATION: &str = "internal-rotation";
}

/// The Secrets that are missing. While members run, a missing one is not made anew, since they know the former's passwords:
/// see [`missing`]. Data that nobody runs on yet is given those of new Secrets by the first primary.
pub fn plan(cx: &Context<'_>) -> Vec<Action> {
    if known(cx) {
        return Vec::new();
    }
    let absent = |name: &String| cx.observed.get(Kind::Secret, name).is_none();
    let mut actions = Vec::new();
    if absent(&cx.names.internal_secret()) {
        actions.push(Action::CreateSecret(SecretPlan {
            body: cx.retained(Kind::Secret, &cx.names.internal_secret()),
            random: internal::ALL.map(str::to_owned).to_vec(),
            text: BTreeMap::new(),
        }));
    }
    if absent(&cx.names.app_secret()) {
        actions.push(Action::CreateSecret(SecretPlan {
            body: cx.retained(Kind::Secret, &cx.names.app_secret()),
            random: vec![APP_PASSWORD.to_owned()],
            text: app_text(cx),
        }));
    }
    actions
}

fn app_text(cx: &Context<'_>) -> BTreeMap<String, String> {
    // Short names are resolved in the pods of the same namespace only; these in the whole cluster.
    let host = |service: String| format!("{service}.{}.svc", cx.namespace);
    let uri = |host: &str| {
        format!(
            "postgresql://{APP_NAME}:{{{APP_PASSWORD}}}@{host}:{POSTGRES_PORT}/{APP_NAME}?sslmode=require"
        )
    };
    let write = host(cx.names.main());
    let read = host(cx.names.read_only_service());
    BTreeMap::from(
        [
            ("username", APP_NAME.to_owned()),
            ("dbname", APP_NAME.to_owned()),
            ("host", write.clone()),
            ("port", POSTGRES_PORT.to_string()),
            ("uri", uri(&write)),
            ("uri-ro", uri(&read)),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    )
}

/// There are those who know the passwords.
fn known(cx: &Context<'_>) -> bool {
    cx.view.initialized() && !cx.view.members.iter().all(never_ran)
}

/// Its container has not been made even once: what it waits for may well be the Secret.
fn never_ran(member: &Member<'_>) -> bool {
    let mut containers = list(member.pod, "/status/containerStatuses").iter();
    let waits = |container: &Value| {
        at(container, "/state/waiting").is_some()
            && at(container, "/lastState/terminated").is_none()
            && text(container, "/containerID").unwrap_or_default().is_empty()
    };
    member.status.is_none() && containers.any(|container| container["name"] == CONTAINER && waits(container))
}

/// The Secret that the data's passwords were in and that is gone.
pub fn missing(cx: &Context<'_>) -> Option<String> {
    let names = [cx.names.internal_secret(), cx.names.app_secret()];
    let gone = |name: &String| cx.observed.get(Kind::Secret, name).is_none();
    names.into_iter().find(gone).filter(|_| known(cx))
}
