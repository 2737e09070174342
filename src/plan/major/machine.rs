//! How a major upgrade goes on from what is there: a pure function of its mark and of what members say. The mark is written
//! before what it stands for is done, so a pass that was cut short anywhere is simply done again.

use jiff::Timestamp;

use crate::agent::{Facts, MajorReport, MajorState};
use crate::api::{MajorStage, MajorUpgrade, PgVersion};

/// A member, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// The release that its pod was made for.
    pub release: Option<PgVersion>,
    /// Its pod is on its way out.
    pub terminating: bool,
    /// What it says of this upgrade; none where it says nothing, or speaks of another.
    pub report: Option<MajorReport>,
}

/// What there is.
#[derive(Clone, Debug)]
pub struct State {
    /// The mark.
    pub mark: MajorUpgrade,
    /// The members whose pods there are.
    pub members: Vec<Seen>,
    /// The members that there should be.
    pub expected: Vec<String>,
    /// The release that pods are made for, by what the StatefulSet says.
    pub template: Option<PgVersion>,
    /// Nothing of Patroni's objects speaks of the old data any more.
    pub cleared: bool,
    /// The leader lock is free.
    pub unlocked: bool,
    /// Patroni's `initialize`.
    pub initialize: Option<String>,
    /// Who runs as primary and holds the lock, if it can be written to.
    pub primary: Option<String>,
    /// Every member is there, and commits wait for whom they should.
    pub complete: bool,
    /// The first backup of the new release is there, or will not be.
    pub backed_up: bool,
    /// The time.
    pub now: Timestamp,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Write the mark anew.
    Mark(Box<MajorUpgrade>),
    /// Delete these pods: they are made again for the release that the mark asks for.
    Replace(Vec<String>),
    /// Take everything out of Patroni's objects that speaks of the old data.
    Clear,
    /// Take the holder out of the leader lock: it has stopped.
    Unlock,
    /// Write the mark, and give Patroni's `initialize` its old value.
    Return(Box<MajorUpgrade>),
    /// Wait, for what is said.
    Wait(String),
}

impl State {
    fn report(&self, name: &str) -> Option<&MajorReport> {
        self.members.iter().find(|member| member.name == name)?.report.as_ref()
    }

    fn at(&self, stage: MajorStage) -> MajorUpgrade {
        self.mark.at(stage)
    }
}

/// What is next.
pub fn next(state: &State) -> Next {
    let mark = &state.mark;
    if mark.stage.is_over() {
        return Next::Wait(String::new());
    }
    if state.template.is_some_and(|template| template != mark.release()) {
        return Next::Wait(format!("members' pods are to be made for {}", mark.release()));
    }
    let wrong = |member: &&Seen| member.release != Some(mark.release());
    let replace: Vec<String> = state
        .members
        .iter()
        .filter(wrong)
        .filter(|member| !member.terminating)
        .map(|member| member.name.clone())
        .collect();
    if !replace.is_empty() {
        return Next::Replace(replace);
    }
    if let Some(member) = state.members.iter().find(wrong) {
        return Next::Wait(format!("{} stops", member.name));
    }
    match mark.stage {
        MajorStage::Stopping => stopping(state),
        MajorStage::Upgrading => upgrading(state),
        MajorStage::Clearing if !state.cleared => Next::Clear,
        MajorStage::Clearing => Next::Mark(Box::new(state.at(MajorStage::Opened))),
        MajorStage::Opened => opened(state),
        MajorStage::Undoing => undoing(state),
        MajorStage::Returning => returning(state),
        MajorStage::Finished | MajorStage::Undone => Next::Wait(String::new()),
    }
}

/// Why it is taken back, and where to: only what has been taken from Patroni's objects makes it matter who starts first.
pub fn undone(mark: &MajorUpgrade, reason: String) -> MajorUpgrade {
    let member = mark.member.clone().filter(|_| mark.stage == MajorStage::Clearing);
    MajorUpgrade { reason: Some(reason), member, ..mark.at(MajorStage::Undoing) }
}

fn back(state: &State, reason: String) -> Next {
    Next::Mark(Box::new(undone(&state.mark, reason)))
}

/// Once every member waits, the one that has every commit is known: a primary that was shut down in order, and that nobody is
/// ahead of.
fn stopping(state: &State) -> Next {
    let mut known: Vec<(&str, &Facts)> = Vec::new();
    for name in &state.expected {
        let Some(report) = state.report(name) else {
            return Next::Wait(format!("{name} stops, and comes back with the new release's programs"));
        };
        if report.state != MajorState::Waiting || !report.words.is_empty() {
            let words = if report.words.is_empty() { "looks at its data" } else { &report.words };
            return Next::Wait(format!("{name}: {words}"));
        }
        // A member without data has nothing to say.
        known.extend(report.data.as_ref().map(|facts| (name.as_str(), facts)));
    }
    let of_it = |facts: &Facts| {
        facts.system_identifier == state.mark.initialize && facts.major == state.mark.from.major()
    };
    known.retain(|(_, facts)| of_it(facts));
    let newest = known.iter().map(|(_, facts)| (facts.timeline, facts.checkpoint)).max();
    let shut_down =
        known.iter().find(|(_, facts)| facts.shut_down && Some((facts.timeline, facts.checkpoint)) == newest);
    match shut_down {
        Some((name, _)) => {
            let mark = MajorUpgrade { member: Some((*name).to_owned()), ..state.at(MajorStage::Upgrading) };
            Next::Mark(Box::new(mark))
        }
        None => back(
            state,
            "no member was shut down in order as primary with everything that was written; restart the database, and try again"
                .to_owned(),
        ),
    }
}

fn upgrading(state: &State) -> Next {
    let Some(name) = &state.mark.member else {
        return back(state, "nobody is named whose data is upgraded".to_owned());
    };
    let Some(report) = state.report(name) else { return Next::Wait(format!("{name} does not answer")) };
    match (report.state, &report.made) {
        (MajorState::Failed, _) => back(state, report.words.clone()),
        (MajorState::Made, Some(made)) => {
            let system_identifier = Some(made.system_identifier.clone());
            let seconds = std::time::Duration::from_millis(made.milliseconds).as_secs_f64();
            let took = Some(format!("{seconds:.1} s of it for pg_upgrade ({})", made.method));
            Next::Mark(Box::new(MajorUpgrade { system_identifier, took, ..state.at(MajorStage::Clearing) }))
        }
        (MajorState::Upgrading, _) => Next::Wait(format!("{name} runs pg_upgrade: {}", report.words)),
        _ => Next::Wait(format!("{name} is about to run pg_upgrade {}", report.words).trim().to_owned()),
    }
}

fn opened(state: &State) -> Next {
    let Some(primary) = &state.primary else {
        return Next::Wait("waiting until the new primary accepts writes".to_owned());
    };
    if state.mark.writable_at.is_none() {
        let mark = MajorUpgrade { writable_at: Some(state.now), ..state.mark.clone() };
        return Next::Mark(Box::new(mark));
    }
    if !state.complete {
        return Next::Wait("the other members are cloned from the new primary".to_owned());
    }
    match state.report(primary) {
        Some(report) if report.state == MajorState::Finished => {}
        _ => return Next::Wait(format!("{primary} updates extensions and rebuilds statistics")),
    }
    if !state.backed_up {
        return Next::Wait("the first backup of the new release is being taken".to_owned());
    }
    Next::Mark(Box::new(state.at(MajorStage::Finished)))
}

fn undoing(state: &State) -> Next {
    if let Some(name) = &state.mark.member {
        match state.report(name) {
            Some(report) if report.state == MajorState::Undone && report.words.is_empty() => {}
            Some(report) if !report.words.is_empty() => {
                return Next::Wait(format!("{name}: {}", report.words));
            }
            _ => return Next::Wait(format!("{name} puts its old data back")),
        }
    }
    // Nobody runs Patroni then: whoever still holds the lock has stopped, and to wait until it expires helps nobody.
    let held = |name: &String| state.report(name).is_some_and(|report| report.state == MajorState::Undone);
    if !state.unlocked && state.expected.iter().all(held) {
        return Next::Unlock;
    }
    Next::Return(Box::new(state.at(MajorStage::Returning)))
}

fn returning(state: &State) -> Next {
    if state.initialize.as_deref() != Some(&state.mark.initialize) {
        return Next::Return(Box::new(state.mark.clone()));
    }
    if state.primary.is_none() {
        return Next::Wait("waiting until the old primary accepts writes again".to_owned());
    }
    let writable_at = state.mark.writable_at.or(Some(state.now));
    Next::Mark(Box::new(MajorUpgrade { writable_at, ..state.at(MajorStage::Undone) }))
}
