//! The PodDisruptionBudget: voluntary disruptions take one member at a time.

use serde_json::json;

use super::context::Context;
use super::object::uid_of;
use super::ownership::{Owner, owner};
use super::{Action, Kind};

/// Made for two members or more; a single one it would only nail to its node.
pub fn plan(cx: &Context<'_>) -> Option<Action> {
    let name = cx.names.main();
    if cx.spec().replicas > 1 {
        let rest = json!({ "spec": {
            "maxUnavailable": 1, "selector": { "matchLabels": cx.names.selector() },
        } });
        return cx.apply_action(Kind::PodDisruptionBudget, cx.owned(Kind::PodDisruptionBudget, &name, rest));
    }
    let live = cx.observed.get(Kind::PodDisruptionBudget, &name)?;
    let ours = matches!(owner(cx, Kind::PodDisruptionBudget, live), Owner::Ours | Owner::Orphaned);
    ours.then(|| Action::Delete {
        kind: Kind::PodDisruptionBudget,
        uid: uid_of(live).map(str::to_owned),
        name,
    })
}
