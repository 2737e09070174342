//! The Services: to the primary, to the replicas, and the members' own names.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::context::Context;
use super::{Action, Kind};
use crate::api::{LABEL_ROLE, ROLE_PRIMARY, ROLE_REPLICA};
use crate::patroni::REST_PORT;

/// PostgreSQL's port.
pub const POSTGRES_PORT: u16 = 5432;

fn port(name: &str, number: u16) -> Value {
    json!({ "name": name, "port": number, "targetPort": number, "protocol": "TCP" })
}

/// All three.
pub fn plan(cx: &Context<'_>) -> Vec<Action> {
    let to_role = |role: &str| -> Value {
        let mut selector: BTreeMap<String, String> = cx.names.selector();
        selector.insert(LABEL_ROLE.to_owned(), role.to_owned());
        json!({ "spec": {
            "type": "ClusterIP", "selector": selector, "ports": [port("postgres", POSTGRES_PORT)],
        } })
    };
    let headless = json!({ "spec": {
        "type": "ClusterIP",
        "clusterIP": "None",
        // Members find each other before they are ready.
        "publishNotReadyAddresses": true,
        "selector": cx.names.selector(),
        "ports": [port("postgres", POSTGRES_PORT), port("patroni", REST_PORT)],
    } });
    [
        (cx.names.main(), to_role(ROLE_PRIMARY)),
        (cx.names.read_only_service(), to_role(ROLE_REPLICA)),
        (cx.names.headless_service(), headless),
    ]
    .into_iter()
    .filter_map(|(name, rest)| cx.apply_action(Kind::Service, cx.owned(Kind::Service, &name, rest)))
    .collect()
}
