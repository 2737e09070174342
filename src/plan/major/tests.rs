//! The machine by tables, and as a whole: members and Patroni's objects in a small world in which every write may be the last
//! of a pass.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;

use super::machine::{Next, Seen, State, next, undone};
use super::request::unfit;
use crate::agent::{Facts, Made, MajorReport, MajorState};
use crate::api::{MajorStage, MajorUpgrade, PgVersion};

const OLD: &str = "7";
const NEW: &str = "9";

fn version(text: &str) -> PgVersion {
    text.parse().unwrap()
}

fn mark(stage: MajorStage) -> MajorUpgrade {
    MajorUpgrade {
        id: "x".to_owned(),
        from: version("16.15"),
        to: version("17.11"),
        stage,
        link: false,
        initialize: OLD.to_owned(),
        member: None,
        system_identifier: None,
        took: None,
        reason: None,
        closed_at: Timestamp::UNIX_EPOCH,
        writable_at: None,
    }
}

#[test]
fn one_major_version_at_a_time() {
    for (from, to, says) in [
        ("16.15", "17.11", None),
        ("16.15", "18.6", Some("go through 17, 18, one after the other")),
        ("16.15", "16.16", Some("takes no major upgrade")),
        ("17.11", "16.15", Some("never goes back")),
    ] {
        let found = unfit(version(from), version(to));
        assert_eq!(found.is_some(), says.is_some(), "{from} {to}");
        assert!(found.unwrap_or_default().contains(says.unwrap_or_default()));
    }
}

/// A database in small: what agents, Patroni and a StatefulSet make of what is written.
#[derive(Clone, Debug)]
struct World {
    mark: MajorUpgrade,
    template: PgVersion,
    members: BTreeMap<String, Member>,
    initialize: Option<String>,
    holder: Option<String>,
    /// Keys in Patroni's objects that speak of the old data.
    old_keys: bool,
    /// Whether pg_upgrade fails.
    fails: bool,
    /// Data that was started on as a database, by system identifier.
    started: Vec<String>,
}

#[derive(Clone, Debug)]
struct Member {
    release: PgVersion,
    terminating: bool,
    /// Of what database the data is, and whether new data took the place of old that is kept.
    data: Option<String>,
    kept: bool,
    facts: (i64, i64, bool),
    runs: bool,
    state: MajorState,
}

impl World {
    fn new(fails: bool) -> Self {
        let member = |facts| Member {
            release: version("16.15"),
            terminating: false,
            data: Some(OLD.to_owned()),
            kept: false,
            facts,
            runs: true,
            state: MajorState::Unknown,
        };
        // The second has moved to a newer timeline while all were told to stop.
        let members = [
            ("db-0", member((1, 500, true))),
            ("db-1", member((2, 400, true))),
            ("db-2", member((2, 400, false))),
        ];
        Self {
            mark: mark(MajorStage::Stopping),
            template: version("16.15"),
            members: members.map(|(name, member)| (name.to_owned(), member)).into(),
            initialize: Some(OLD.to_owned()),
            holder: Some("db-0".to_owned()),
            old_keys: true,
            fails,
            started: Vec::new(),
        }
    }

    fn state(&self) -> State {
        let members = self.members.iter().map(|(name, member)| {
            let data = member.data.clone().map(|system_identifier| Facts {
                major: if system_identifier == OLD { 16 } else { 17 },
                timeline: member.facts.0,
                checkpoint: member.facts.1,
                shut_down: member.facts.2,
                system_identifier,
            });
            let made = (member.state == MajorState::Made)
                .then(|| Made { system_identifier: NEW.to_owned(), ..Made::default() });
            let words = if member.state == MajorState::Failed { "no".to_owned() } else { String::new() };
            let report = (member.state != MajorState::Unknown).then(|| MajorReport {
                id: "x".to_owned(),
                state: member.state,
                words,
                data,
                made,
            });
            Seen {
                name: name.clone(),
                release: Some(member.release),
                terminating: member.terminating,
                report,
            }
        });
        let primary = self.holder.clone().filter(|holder| self.members[holder].runs);
        State {
            mark: self.mark.clone(),
            members: members.collect(),
            expected: self.members.keys().cloned().collect(),
            template: Some(self.template),
            cleared: !self.old_keys && self.initialize.is_none(),
            unlocked: self.holder.is_none(),
            initialize: self.initialize.clone(),
            complete: primary.is_some() && self.members.values().all(|member| member.runs),
            primary,
            backed_up: true,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    /// One write of the controller.
    fn act(&mut self) {
        let state = self.state();
        match next(&state) {
            Next::Mark(mark) => self.mark = *mark,
            Next::Return(mark) => {
                self.mark = *mark;
                self.initialize = Some(self.mark.initialize.clone());
            }
            // Cut short anywhere: only the first is deleted.
            Next::Replace(pods) => self.members.get_mut(&pods[0]).unwrap().terminating = true,
            Next::Clear if self.old_keys => (self.old_keys, self.holder) = (false, None),
            Next::Clear => self.initialize = None,
            Next::Unlock => self.holder = None,
            Next::Wait(_) => self.template = self.mark.release(),
        }
    }

    /// One step of a member: its pod's, its agent's or its Patroni's.
    fn step(&mut self, name: &str) {
        let (mark, template, holder) = (self.mark.clone(), self.template, self.holder.clone());
        let (initialize, fails) = (self.initialize.clone(), self.fails);
        let member = self.members.get_mut(name).unwrap();
        if member.terminating {
            (member.terminating, member.runs, member.state) = (false, false, MajorState::Unknown);
            member.release = template;
            return;
        }
        let chosen = mark.member.as_deref() == Some(name);
        let right = member.release == mark.release();
        if member.runs {
            if mark.stage == MajorStage::Opened && holder.as_deref() == Some(name) {
                member.state = MajorState::Finished;
            }
            return;
        }
        let start = match mark.stage {
            MajorStage::Stopping | MajorStage::Clearing => false,
            MajorStage::Upgrading if chosen && right && !member.kept => {
                if fails {
                    member.state = MajorState::Failed;
                } else {
                    (member.kept, member.data) = (true, Some(NEW.to_owned()));
                    member.state = MajorState::Made;
                }
                return;
            }
            MajorStage::Upgrading => false,
            MajorStage::Opened if !right => false,
            MajorStage::Opened => {
                let led = holder.is_some() && initialize.as_deref() == Some(NEW);
                if led {
                    member.data = Some(NEW.to_owned());
                }
                member.data.as_deref() == Some(NEW)
            }
            MajorStage::Undoing | MajorStage::Returning => {
                if member.kept {
                    (member.kept, member.data) = (false, Some(OLD.to_owned()));
                    return;
                }
                mark.stage == MajorStage::Returning
                    && right
                    && (mark.member.is_none() || chosen || holder.is_some())
            }
            MajorStage::Undone if member.kept => {
                (member.kept, member.data) = (false, Some(OLD.to_owned()));
                return;
            }
            MajorStage::Finished | MajorStage::Undone => true,
        };
        if !start {
            member.state = match mark.stage {
                MajorStage::Undoing | MajorStage::Returning => MajorState::Undone,
                MajorStage::Upgrading | MajorStage::Clearing if member.kept => MajorState::Made,
                _ => MajorState::Waiting,
            };
            return;
        }
        (member.runs, member.state) = (true, MajorState::Running);
        let data = member.data.clone();
        self.started.extend(data.clone());
        // Patroni: who comes first leads, where its data is of the database that there is.
        if self.holder.is_none() && (self.initialize.is_none() || self.initialize == data) {
            (self.holder, self.initialize) = (Some(name.to_owned()), data);
        }
    }
}

proptest! {
    /// Whatever is interleaved, and whenever somebody aborts: it ends, all members run on one and the same data, and nobody
    /// ever ran on the new data of an upgrade that was taken back.
    #[test]
    fn it_ends_with_one_database(
        order in proptest::collection::vec(0usize..5, 0..200),
        abort in proptest::option::of(0usize..120),
        fails: bool,
    ) {
        let mut world = World::new(fails);
        let names: Vec<String> = world.members.keys().cloned().collect();
        let rest = (0..400).map(|n| n % 4);
        for (turn, what) in order.into_iter().chain(rest).enumerate() {
            if abort == Some(turn) && world.mark.stage.can_be_undone() {
                world.mark = undone(&world.mark, "it was aborted".to_owned());
            }
            match names.get(what) {
                Some(name) => world.step(name),
                None => world.act(),
            }
        }
        prop_assert!(world.mark.stage.is_over(), "{world:?}");
        let data = if world.mark.stage == MajorStage::Finished { NEW } else { OLD };
        prop_assert!(world.members.values().all(|member| member.runs && member.data.as_deref() == Some(data)), "{world:?}");
        prop_assert_eq!(world.initialize.as_deref(), Some(data));
        prop_assert!(world.started.iter().all(|started| started == data), "{:?}", world.started);
        if fails {
            prop_assert_eq!(world.mark.stage, MajorStage::Undone);
        } else if abort.is_none() {
            prop_assert_eq!(world.mark.stage, MajorStage::Finished);
            prop_assert_eq!(world.mark.member.as_deref(), Some("db-1"), "the newest history wins");
        }
    }
}

#[test]
fn nobody_is_upgraded_who_may_lack_something() {
    let mut world = World::new(false);
    world.template = version("17.11");
    for member in world.members.values_mut() {
        (member.release, member.runs, member.state) = (version("17.11"), false, MajorState::Waiting);
    }
    let chosen = |world: &World| match next(&world.state()) {
        Next::Mark(mark) => (mark.stage, mark.member.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(chosen(&world), (MajorStage::Upgrading, Some("db-1".to_owned())));
    // The newest was not shut down in order.
    world.members.get_mut("db-1").unwrap().facts.2 = false;
    assert_eq!(chosen(&world), (MajorStage::Undoing, None));
    // One that has not said what it has may be the newest.
    world.members.get_mut("db-2").unwrap().state = MajorState::Unknown;
    assert!(matches!(next(&world.state()), Next::Wait(words) if words.starts_with("db-2 ")));
    // Data of another database counts for nothing.
    let mut world = World { members: world.members.clone(), ..world };
    world.members.get_mut("db-2").unwrap().state = MajorState::Waiting;
    for name in ["db-1", "db-2"] {
        world.members.get_mut(name).unwrap().data = Some("5".to_owned());
    }
    assert_eq!(chosen(&world), (MajorStage::Upgrading, Some("db-0".to_owned())));
}

#[test]
fn what_was_cleared_decides_who_returns_first() {
    let at = |stage| MajorUpgrade { member: Some("db-1".to_owned()), ..mark(stage) };
    assert_eq!(undone(&at(MajorStage::Upgrading), String::new()).member, None);
    assert_eq!(undone(&at(MajorStage::Clearing), String::new()).member.as_deref(), Some("db-1"));
    for stage in [MajorStage::Opened, MajorStage::Finished, MajorStage::Undoing, MajorStage::Returning] {
        assert!(!stage.can_be_undone());
    }
}
