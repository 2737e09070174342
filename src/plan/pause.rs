//! Somebody had dbctl keep its hands off: it looks, says what it sees, and changes nothing.

use super::backup;
use super::context::Context;
use super::{Action, Event};
use crate::api::{ConditionType, DatabaseStatus, PAUSED, Verdict, reason};

/// Whether that is so.
pub fn is_paused(cx: &Context<'_>) -> bool {
    let annotations = cx.database.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(PAUSED)).is_some_and(|value| value == "true")
}

/// What is still done: schedules are told to rest too.
pub fn plan(cx: &Context<'_>) -> Vec<Action> {
    backup::rest(cx)
}

/// What `UpToDate` says meanwhile.
pub fn verdict(cx: &Context<'_>) -> Option<Verdict> {
    is_paused(cx).then(|| {
        Verdict::no(
            reason::PAUSED,
            format!(
                "dbctl is paused here (annotation {PAUSED}): it changes nothing and takes up no request until `dbctl resume {}`; \
                 Patroni goes on electing",
                cx.names.0
            ),
        )
    })
}

/// Why a request is not taken up. It is answered at once, so that nothing that was asked for long ago happens by surprise
/// at the end of the pause.
pub fn refusal(cx: &Context<'_>) -> Option<String> {
    is_paused(cx).then(|| {
        format!("dbctl is paused here (annotation {PAUSED}): ask again after `dbctl resume {}`", cx.names.0)
    })
}

/// Tells when it begins and when it ends.
pub fn event(old: &DatabaseStatus, new: &DatabaseStatus) -> Option<Event> {
    let kind = ConditionType::UpToDate.to_string();
    let paused = |status: &DatabaseStatus| {
        status.conditions.iter().any(|each| each.type_ == kind && each.reason == reason::PAUSED)
    };
    match (paused(old), paused(new)) {
        (false, true) => Some(Event::normal("Paused", "dbctl changes nothing here until it is resumed")),
        (true, false) => Some(Event::normal("Resumed", "dbctl brings the database to its spec again")),
        _ => None,
    }
}
