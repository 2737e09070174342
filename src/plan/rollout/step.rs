//! The next step of a rollout: which pod is replaced, or that the primary's role moves, or what is waited for.

use jiff::Timestamp;

use super::super::assess::{Assessment, Move};
use super::super::backup::{self, RunState, Task};
use super::super::context::Context;
use super::super::object::{terminating, uid_of};
use super::super::scale::Scale;
use super::super::view::Member;
use super::super::{Action, cordon};
use super::gate::{self, Gate};
use super::note::Note;

/// Why a move is asked for.
pub const CAUSE: &str = "RollingUpdate";

/// What is done next. Each names the member that it is about, and what is said of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing: every pod is as it should be.
    Done,
    /// Something is waited for.
    Wait(Option<String>, String),
    /// This member does not come back.
    Halt(String, String),
    /// Its pod is replaced.
    Replace(String, String, Action),
    /// The primary's role moves away from it.
    Switchover(String, String, Action),
}

/// What steps are decided by.
pub struct Moment<'t, 'a> {
    /// The Database and what there is of it.
    pub cx: &'t Context<'a>,
    /// Who may be primary.
    pub assessment: &'t Assessment,
    /// How many members there are to be.
    pub scale: &'t Scale,
    /// What else is being done, where something is.
    pub busy: Option<String>,
    /// The time.
    pub now: Timestamp,
}

/// The members whose pods were made from another template.
pub fn outdated<'v, 'a>(cx: &'v Context<'a>, target: &str) -> Vec<&'v Member<'a>> {
    cx.view.members.iter().filter(|member| member.template() != Some(target)).collect()
}

/// The next step towards the note's template, which is what the StatefulSet makes pods from already.
pub fn next(at: &Moment<'_, '_>, note: &Note) -> Step {
    let Moment { cx, assessment, now, .. } = *at;
    let fresh = |member: &&Member<'_>| member.template() == Some(note.target.as_str());
    let mut waits = None;
    for member in cx.view.members.iter().filter(fresh) {
        match gate::judge(cx, assessment, member, note.to, now) {
            Gate::Passed => {}
            Gate::Waits(lacks) => waits = waits.or(Some((member.name, lacks))),
            Gate::Failed(why) => return Step::Halt(member.name.to_owned(), why),
        }
    }
    let old = outdated(cx, &note.target);
    if let Some(step) = absent(at) {
        return step;
    }
    if let Some(busy) = in_the_way(at) {
        return if old.is_empty() && waits.is_none() { Step::Done } else { Step::Wait(None, busy) };
    }
    // One that does not run by what it was made from may run by the new one; nobody misses it meanwhile.
    let own =
        |member: &Member<'_>| member.version().and_then(|version| version.parse().ok()).unwrap_or(note.from);
    let dead =
        |member: &&&Member<'_>| gate::is_down(member) || gate::failed(member, own(member), now).is_some();
    if let Some(member) = old.iter().rev().find(dead) {
        return replace(at, member, "does not run");
    }
    if let Some((name, lacks)) = waits {
        return Step::Wait(Some(name.to_owned()), format!("waiting for {name}, which {lacks}"));
    }
    let ill = old.iter().find_map(|member| Some((member.name, gate::lacks(cx, assessment, member)?)));
    if let Some((name, lacks)) = ill {
        let message =
            format!("waiting for {name}, which {lacks}: no other member is touched before it is well");
        return Step::Wait(Some(name.to_owned()), message);
    }
    let holder = cx.view.lock.holder.as_deref();
    if let Some(replica) = old.iter().rev().find(|member| holder != Some(member.name)) {
        return replace(at, replica, "is a replica");
    }
    match old.first() {
        None => Step::Done,
        Some(primary) if cx.view.members.len() == 1 => replace(at, primary, "is the only member"),
        Some(primary) => switchover(at, primary),
    }
}

/// A member that has no pod, or one on its way out.
fn absent(at: &Moment<'_, '_>) -> Option<Step> {
    let cx = at.cx;
    let replicas = cx.spec().replicas;
    let gone =
        (0..replicas).map(|ordinal| cx.names.member(ordinal)).find(|name| cx.view.member(name).is_none());
    if let Some(name) = gone {
        return Some(Step::Wait(Some(name.clone()), format!("waiting for {name}, whose pod is being made")));
    }
    if let Some(member) = cx.view.members.iter().find(|member| terminating(member.pod)) {
        let name = member.name.to_owned();
        return Some(Step::Wait(Some(name.clone()), format!("waiting for {name}, which is stopping")));
    }
    let surplus = cx.view.members.iter().find(|member| member.ordinal >= replicas)?;
    let name = surplus.name.to_owned();
    Some(Step::Wait(Some(name.clone()), format!("waiting until {name} is removed")))
}

/// What else goes on, and comes first.
pub fn in_the_way(at: &Moment<'_, '_>) -> Option<String> {
    let cx = at.cx;
    if let Some(busy) = &at.busy {
        return Some(busy.clone());
    }
    if let Some(waiting) = &at.scale.waiting {
        return Some(format!("waiting until the number of members is as asked for: {waiting}"));
    }
    if at.assessment.paused {
        return Some("waiting: Patroni is paused by somebody who works on this database".to_owned());
    }
    let runs = backup::runs(cx, Task::Backup);
    let run = runs.iter().find(|run| run.state == RunState::Active)?;
    // It may read from any of them.
    Some(format!("waiting until the backup is done that is being taken ({})", run.story(cx)))
}

fn replace(at: &Moment<'_, '_>, member: &Member<'_>, what: &str) -> Step {
    let name = member.name.to_owned();
    let Some(uid) = uid_of(member.pod) else {
        return Step::Wait(Some(name.clone()), format!("waiting for {name}"));
    };
    let alone = at.cx.view.members.len() == 1;
    let action = Action::ReplacePod { pod: name.clone(), uid: uid.to_owned(), may_lead: alone };
    Step::Replace(name.clone(), format!("replacing {name}, which {what}"), action)
}

fn switchover(at: &Moment<'_, '_>, primary: &Member<'_>) -> Step {
    let name = primary.name.to_owned();
    match at.assessment.choose(None, false) {
        Ok(chosen @ Move::Switchover { .. }) => {
            let ask = at.assessment.ask(&chosen, false);
            let message =
                format!("moving the primary's role from {name} to {}", at.assessment.heirs(&chosen, false));
            if cordon::repeats(at.cx, &ask) {
                return Step::Wait(Some(name), message);
            }
            Step::Switchover(name, message, Action::Ask { ask, cause: CAUSE.to_owned() })
        }
        Ok(Move::Failover { .. }) => Step::Wait(Some(name), "waiting for a primary".to_owned()),
        Err(refusal) => Step::Wait(
            Some(name.clone()),
            format!("waiting for somebody to take over from {name}: {refusal}"),
        ),
    }
}
