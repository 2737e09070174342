//! The release that the data is of, noted beside the data: a Database and its StatefulSet go, the data stays.

use serde_json::json;

use super::context::Context;
use super::text::at;
use super::{Action, Apply, Kind};
use crate::api::PgVersion;

/// Annotation on Patroni's `NAME-config` with the release that last ran.
pub const RELEASE: &str = "db.example.com/release";

/// What was noted.
pub fn recorded(cx: &Context<'_>) -> Option<PgVersion> {
    let map = cx.observed.get(Kind::ConfigMap, &cx.names.dynamic_config())?;
    at(map, "/metadata/annotations")?.get(RELEASE)?.as_str()?.parse().ok()
}

/// Notes what runs, where it is not noted yet. Patroni, which writes the rest of the object, leaves it alone.
pub fn plan(cx: &Context<'_>) -> Option<Action> {
    let runs: PgVersion = cx.view.running_primary()?.version()?.parse().ok()?;
    let name = cx.names.dynamic_config();
    let uid = super::uid_of(cx.observed.get(Kind::ConfigMap, &name)?)?.to_owned();
    if recorded(cx) == Some(runs) {
        return None;
    }
    let mut body = cx.retained(Kind::ConfigMap, &name);
    body["metadata"]["annotations"] = json!({ RELEASE: runs.to_string() });
    Some(Action::Apply(Apply { kind: Kind::ConfigMap, body, uid: Some(uid), leader_below: None }))
}
