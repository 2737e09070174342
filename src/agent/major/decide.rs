//! What a member may do by the mark of a major upgrade, before it starts Patroni. Pure.

use super::disk::Progress;
use crate::api::{MajorStage, MajorUpgrade};

/// What a member does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It starts Patroni.
    Go,
    /// It waits, and starts nothing.
    Wait,
    /// It upgrades its data, and looks again.
    Upgrade,
    /// It moves its data aside, and then starts Patroni, which clones the primary's.
    SetAside,
    /// It puts its old data back, and looks again.
    Undo,
}

/// What the member is, and has.
#[derive(Clone, Debug)]
pub struct Own<'a> {
    /// Its name.
    pub name: &'a str,
    /// The major version of its image's programs.
    pub programs: u8,
    /// The system identifier of its data; `None` where there is no data.
    pub identifier: Option<String>,
    /// How far the upgrade is on its volume.
    pub progress: Progress,
    /// Something of the upgrade is on its volume.
    pub keeps: bool,
}

/// What Patroni's objects say.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The system identifier of the database that there is.
    pub initialize: Option<String>,
    /// Who holds the leader lock.
    pub holder: Option<String>,
}

/// What to do.
pub fn decide(mark: &MajorUpgrade, own: &Own<'_>, seen: &Seen) -> Step {
    let chosen = mark.member.as_deref() == Some(own.name);
    let right = own.programs == mark.release().major();
    let swapped = matches!(own.progress, Progress::Swapped(_));
    match mark.stage {
        // It was away while the others went back: what it has is of no database that there is.
        MajorStage::Undone if swapped && own.identifier.as_deref() != Some(&mark.initialize) => Step::Undo,
        // What is left on the volume goes while PostgreSQL runs.
        MajorStage::Finished | MajorStage::Undone => Step::Go,
        MajorStage::Stopping | MajorStage::Clearing => Step::Wait,
        MajorStage::Upgrading if chosen && right && !swapped => Step::Upgrade,
        MajorStage::Upgrading => Step::Wait,
        MajorStage::Opened if !right => Step::Wait,
        MajorStage::Opened => {
            let new = own.identifier.is_some() && own.identifier == mark.system_identifier;
            let led = seen.holder.is_some() && seen.initialize == mark.system_identifier;
            match (new, led) {
                (true, _) => Step::Go,
                (false, true) => Step::SetAside,
                (false, false) => Step::Wait,
            }
        }
        MajorStage::Undoing | MajorStage::Returning if own.keeps => Step::Undo,
        MajorStage::Undoing => Step::Wait,
        MajorStage::Returning if !right => Step::Wait,
        // Where nobody is named, Patroni's objects are as they were, and it says itself who may lead.
        MajorStage::Returning if chosen || mark.member.is_none() || seen.holder.is_some() => Step::Go,
        MajorStage::Returning => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::major::disk::Made;

    fn mark(stage: MajorStage) -> MajorUpgrade {
        let text = r#"{"id":"x","from":"16.15","to":"17.11","stage":"Stopping","initialize":"7","member":"db-0",
            "systemIdentifier":"9","closedAt":"1970-01-01T00:00:00Z"}"#;
        serde_json::from_str::<MajorUpgrade>(text).unwrap().at(stage)
    }

    fn own(name: &str, programs: u8, identifier: Option<&str>) -> Own<'static> {
        let name = if name == "db-0" { "db-0" } else { "db-1" };
        Own {
            name,
            programs,
            identifier: identifier.map(str::to_owned),
            progress: Progress::Before,
            keeps: false,
        }
    }

    #[test]
    fn who_may_start_when() {
        use MajorStage::{Clearing, Finished, Opened, Returning, Stopping, Undoing, Undone, Upgrading};
        use Step::{Go, SetAside, Upgrade, Wait};
        let nobody = Seen::default();
        let old = Seen { initialize: Some("7".to_owned()), holder: Some("db-0".to_owned()) };
        let new = Seen { initialize: Some("9".to_owned()), holder: Some("db-0".to_owned()) };
        let free = Seen { initialize: Some("9".to_owned()), holder: None };
        for (stage, name, programs, data, seen, step) in [
            (Stopping, "db-0", 17, Some("7"), &old, Wait),
            (Stopping, "db-1", 16, Some("7"), &old, Wait),
            (Upgrading, "db-0", 17, Some("7"), &nobody, Upgrade),
            (Upgrading, "db-0", 16, Some("7"), &nobody, Wait),
            (Upgrading, "db-1", 17, Some("7"), &nobody, Wait),
            (Clearing, "db-0", 17, Some("9"), &nobody, Wait),
            (Opened, "db-0", 17, Some("9"), &nobody, Go),
            (Opened, "db-0", 16, Some("9"), &nobody, Wait),
            // Nobody is cloned from the old database, nor from one that is not there.
            (Opened, "db-1", 17, Some("7"), &nobody, Wait),
            (Opened, "db-1", 17, Some("7"), &old, Wait),
            (Opened, "db-1", 17, Some("7"), &free, Wait),
            (Opened, "db-1", 17, Some("7"), &new, SetAside),
            (Opened, "db-1", 17, None, &new, SetAside),
            (Opened, "db-1", 17, None, &nobody, Wait),
            // Cloned already, and started again.
            (Opened, "db-1", 17, Some("9"), &free, Go),
            // Its volume was lost.
            (Opened, "db-0", 17, None, &nobody, Wait),
            (Finished, "db-1", 17, Some("9"), &nobody, Go),
            (Undoing, "db-0", 16, Some("7"), &nobody, Wait),
            (Returning, "db-0", 16, Some("7"), &nobody, Go),
            (Returning, "db-0", 17, Some("7"), &nobody, Wait),
            (Returning, "db-1", 16, Some("7"), &nobody, Wait),
            (Returning, "db-1", 16, Some("7"), &old, Go),
            (Undone, "db-1", 16, Some("7"), &nobody, Go),
        ] {
            let found = decide(&mark(stage), &own(name, programs, data), seen);
            assert_eq!(found, step, "{stage:?} {name} {programs} {data:?} {seen:?}");
        }
    }

    #[test]
    fn where_nobody_is_named_all_return() {
        let mark = MajorUpgrade { member: None, ..mark(MajorStage::Returning) };
        assert_eq!(decide(&mark, &own("db-1", 16, Some("7")), &Seen::default()), Step::Go);
    }

    #[test]
    fn what_was_begun_is_ended_or_put_back() {
        let made =
            Own { progress: Progress::Made(Made::default()), keeps: true, ..own("db-0", 17, Some("7")) };
        let none = Seen::default();
        assert_eq!(decide(&mark(MajorStage::Upgrading), &made, &none), Step::Upgrade);
        let swapped = Own { progress: Progress::Swapped(Made::default()), ..made.clone() };
        assert_eq!(decide(&mark(MajorStage::Upgrading), &swapped, &none), Step::Wait);
        for stage in [MajorStage::Undoing, MajorStage::Returning] {
            for own in [&made, &swapped] {
                assert_eq!(decide(&mark(stage), own, &none), Step::Undo);
            }
        }
        let late = Own { identifier: Some("9".to_owned()), ..swapped.clone() };
        assert_eq!(decide(&mark(MajorStage::Undone), &late, &none), Step::Undo, "it was away meanwhile");
        assert_eq!(decide(&mark(MajorStage::Undone), &swapped, &none), Step::Go, "it was cloned since");
        assert_eq!(decide(&mark(MajorStage::Finished), &late, &none), Step::Go);
    }
}
