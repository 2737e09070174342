//! What a pass saw, as far as it is told.

use std::collections::{BTreeMap, BTreeSet};

use crate::agent::ArchiveReport;
use crate::api::{Database, PAUSED};
use crate::plan::{Member, Observed, Room, Task, View, backup_due, certificate_expiries, failed_jobs};

/// What of a member's WAL waits to be archived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many files.
    pub files: u64,
    /// For how many seconds the oldest has.
    pub seconds: i64,
}

/// What a pass saw of a Database and its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// How many members are asked for.
    pub wanted: i32,
    /// dbctl is paused there.
    pub paused: bool,
    /// The member that holds the lock and runs as primary.
    pub primary: Option<String>,
    /// How many bytes of WAL each other member has still to replay, where that is known.
    pub lags: BTreeMap<String, i64>,
    /// Room on each member's volume, where that is known.
    pub rooms: BTreeMap<String, Room>,
    /// What of each member's WAL waits to be archived, where that is known.
    pub waiting: BTreeMap<String, Waiting>,
    /// When certificates end, by whose they are: `server`, `authority`.
    pub certificates: Vec<(&'static str, jiff::Timestamp)>,
    /// When the next backup must have ended.
    pub backup_due: Option<jiff::Timestamp>,
    /// The uids of Jobs whose backup failed.
    pub failed_backups: BTreeSet<String>,
    /// The same of verifications: they found damage, or nothing at all.
    pub failed_verifications: BTreeSet<String>,
}

impl Sighting {
    /// Reads it from what was observed.
    pub fn of(database: &Database, observed: &Observed, now: jiff::Timestamp) -> Self {
        let name = database.metadata.name.as_deref().unwrap_or_default();
        let annotations = database.metadata.annotations.as_ref();
        let view = &View::new(name, observed);
        let primary = view.running_primary();
        let end = primary
            .and_then(|primary| primary.answer)
            .and_then(|answer| answer.xlog.location)
            .max(view.lock.optime);
        let holder = view.lock.holder.as_deref();
        let replayed = |member: &Member<'_>| {
            let answered = member.answer.and_then(|answer| answer.xlog.replayed_location);
            answered.or_else(|| member.status.as_ref().and_then(|status| status.replay_lsn))
        };
        let lags = view.members.iter().filter(|member| Some(member.name) != holder).filter_map(|member| {
            Some((member.name.to_owned(), end?.saturating_sub(replayed(member)?).max(0)))
        });
        let waits = |report: &ArchiveReport| Waiting {
            files: report.waiting,
            seconds: report.oldest_waiting.map_or(0, |oldest| now.duration_since(oldest).as_secs().max(0)),
        };
        let archives = observed.archives.iter().map(|(member, report)| (member.clone(), waits(report)));
        Self {
            wanted: database.spec.replicas,
            paused: annotations.and_then(|all| all.get(PAUSED)).is_some_and(|value| value == "true"),
            primary: primary.map(|primary| primary.name.to_owned()),
            lags: lags.collect(),
            rooms: observed.rooms.clone(),
            waiting: archives.collect(),
            certificates: certificate_expiries(database, observed),
            backup_due: backup_due(database, observed),
            failed_backups: failed_jobs(Task::Backup, name, observed),
            failed_verifications: failed_jobs(Task::Verify, name, observed),
        }
    }
}
