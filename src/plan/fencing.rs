//! Who may not be taken for the primary: a pod that does not hold the lock, whatever its label says. A dead, frozen or
//! cut-off pod cannot drop its own label, and would stay behind the write Service.

use super::context::Context;
use super::object::label;
use super::text::text;
use super::view::Member;
use super::{Action, Kind};
use crate::api::{LABEL_ROLE, ROLE_PRIMARY};

/// The labels to strip.
pub fn plan(cx: &Context<'_>) -> Vec<Action> {
    // Without the lock there is nothing to hold a label against.
    if cx.observed.get(Kind::ConfigMap, &cx.names.leader()).is_none() {
        return Vec::new();
    }
    let stale = |member: &&Member<'_>| {
        label(member.pod, LABEL_ROLE) == Some(ROLE_PRIMARY)
            && cx.view.lock.holder.as_deref() != Some(member.name)
    };
    let strip = |member: &Member<'_>| Action::StripRole {
        pod: member.name.to_owned(),
        version: text(member.pod, "/metadata/resourceVersion").map(str::to_owned),
    };
    cx.view.members.iter().filter(stale).map(strip).collect()
}

/// The members that say of themselves that they run as primary. More than one may be a split brain.
pub fn claimants<'c, 'a>(cx: &'c Context<'a>) -> Vec<&'c Member<'a>> {
    let claims = |member: &&Member<'_>| member.answer.is_some_and(crate::patroni::Answer::is_running_primary);
    cx.view.members.iter().filter(claims).collect()
}
