//! A restore in place, step by step. What stands beside the data (the [`Mark`]) is what decides; each pass goes on from it and
//! from what is there, so that it makes no difference who began it, or how often the controller started anew since:
//!
//! 1. `Stopping`: the StatefulSet has no members, and no agent starts Patroni any more. Back from here: nothing was touched.
//! 2. `Stopped`: nobody has a pod, by a fresh look that is later than the mark; what Patroni knew is noted.
//! 3. `Restoring`: Patroni's objects know of no data. The first member moves its own aside and restores; the others have no pod.
//! 4. `Done`: a primary runs on what was restored. The others come, move their data aside, and are cloned.
//!
//! A member that starts later, whatever its pod was made from, reads the mark before its Patroni starts (`agent/admit`). One
//! without a pod cannot take the lock: its token went with the pod.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::blocked::Blocked;
use super::context::Context;
use super::text::text;
use super::{Action, Kind};
use crate::api::{DISCARD, Mark, REPLACED, RESTORED, Stage, reason};

/// Annotations of `NAME-config`, to write if it is still as it was seen, and what goes with that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marking {
    /// The version of `NAME-config` that was seen.
    pub version: Option<String>,
    /// The annotations; those without a value go.
    pub annotations: BTreeMap<String, Option<String>>,
    /// What comes before.
    pub with: With,
}

/// What comes before the annotations are written, and must have gone well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// Nothing.
    Nothing,
    /// A fresh look that finds no pod of a member.
    Gone,
    /// The same, and what Patroni knows is noted beside.
    Noted,
    /// The same look, and Patroni's objects lose what they say of the data.
    Forgotten,
    /// The same look, and Patroni's objects say again what was noted.
    PutBack,
}

/// The restore that is under way.
pub fn under_way<'c>(cx: &'c Context<'_>) -> Option<&'c Mark> {
    cx.view.mark.as_ref().filter(|mark| mark.is_under_way())
}

/// What else has to wait for it, in words.
pub fn busy(cx: &Context<'_>) -> Option<String> {
    under_way(cx).map(|mark| format!("waiting until restore {} is done", mark.id))
}

/// How many members there may be meanwhile.
pub fn members(cx: &Context<'_>) -> Option<i32> {
    match under_way(cx)?.stage {
        Stage::Stopping | Stage::Stopped => Some(0),
        // One makes the data; the others would only wait for it.
        Stage::Restoring if !cx.view.initialized() => Some(1),
        Stage::Restoring | Stage::Done => None,
    }
}

/// What stands beside the data and cannot be read: nothing is safe then.
pub fn blocked(cx: &Context<'_>) -> Option<Blocked> {
    let name = cx.names.dynamic_config();
    let error = Mark::of(cx.observed.get(Kind::ConfigMap, &name)?).err()?;
    Blocked::failed(
        reason::RESTORE_FAILED,
        format!(
            "annotation {RESTORED} of ConfigMap {name:?}, which says what data the volumes should hold, cannot be read ({error}), \
             and no member starts: put it back as it was"
        ),
    )
}

/// The next step, if it is time for it.
pub fn advance(cx: &Context<'_>) -> Option<Action> {
    let mark = under_way(cx)?;
    let gone = cx.view.members.is_empty() && cx.view.stateful_replicas().is_none_or(|count| count == 0);
    let (stage, with) = match mark.stage {
        Stage::Stopping if !gone => return None,
        Stage::Stopping if mark.undo => (Stage::Done, With::PutBack),
        // What was noted of the old data stays so until it is over with it.
        Stage::Stopping if mark.old != mark.id => (Stage::Stopped, With::Gone),
        Stage::Stopping => (Stage::Stopped, With::Noted),
        Stage::Stopped => gone.then_some((Stage::Restoring, With::Forgotten))?,
        Stage::Restoring => {
            cx.view.running_primary().filter(|_| cx.view.initialized())?;
            (Stage::Done, With::Nothing)
        }
        Stage::Done => return None,
    };
    let mut annotations = vec![(RESTORED, Some(Mark { stage, ..mark.clone() }.text()))];
    // There is no way back any more.
    annotations.extend((stage == Stage::Done).then_some((REPLACED, None)));
    Some(annotate(cx, annotations, with))
}

/// Begins one: from here on no member starts.
pub fn begin(cx: &Context<'_>, mark: &Mark) -> Action {
    let mut annotations = vec![(RESTORED, Some(mark.text()))];
    // What an earlier one has noted is not this one's way back, unless it is about the same old data.
    annotations.extend((mark.old == mark.id).then_some((REPLACED, None)));
    annotate(cx, annotations, With::Nothing)
}

/// Has members remove what they keep of those ids.
pub fn discard(cx: &Context<'_>, ids: &str) -> Action {
    annotate(cx, vec![(DISCARD, Some(ids.to_owned()))], With::Nothing)
}

fn annotate(cx: &Context<'_>, annotations: Vec<(&str, Option<String>)>, with: With) -> Action {
    let map = cx.observed.get(Kind::ConfigMap, &cx.names.dynamic_config());
    let version = map.and_then(|map| text(map, "/metadata/resourceVersion")).map(str::to_owned);
    let annotations = annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Action::Mark(Marking { version, annotations, with })
}

/// Completes the agent's part of the configuration, and the pods' template: both tell which restore they are written after.
pub fn fill(cx: &Context<'_>, file: &mut Value) {
    if let Some(mark) = &cx.view.mark {
        file["dbctl"]["restore"] = json!(mark.id);
    }
}

/// The template, with the restore that it is written after. That makes no pod outdated: none is there while the id changes.
pub fn annotated(cx: &Context<'_>, template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(mark) = &cx.view.mark {
        template["metadata"]["annotations"][RESTORED] = json!(mark.id);
    }
    template
}
