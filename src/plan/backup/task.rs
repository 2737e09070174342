//! What Jobs are made for.

use std::collections::BTreeMap;

use super::Wanted;
use crate::api::{BACKUP_NAME, Names, VERIFY_NAME, Verb};

/// What a Job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// It takes a backup.
    Backup,
    /// It restores one aside and checks it.
    Verify,
}

impl Task {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Backup, Self::Verify];

    /// How it is asked for; also the agent's word for it, and the name of the container.
    pub fn verb(self) -> Verb {
        match self {
            Self::Backup => Verb::Backup,
            Self::Verify => Verb::Verify,
        }
    }

    /// Its schedule, if it has one.
    pub fn cron<'a>(self, wanted: &Wanted<'a>) -> Option<&'a str> {
        match self {
            Self::Backup => Some(wanted.schedule),
            Self::Verify => wanted.verify,
        }
    }

    /// The CronJob's name.
    pub fn schedule(self, names: &Names<'_>) -> String {
        match self {
            Self::Backup => names.backup_schedule(),
            Self::Verify => names.verify_schedule(),
        }
    }

    /// The name of the Job of a request.
    pub fn job(self, names: &Names<'_>, request: &str) -> String {
        match self {
            Self::Backup => names.backup_job(request),
            Self::Verify => names.verify_job(request),
        }
    }

    /// Labels of its Jobs and their pods.
    pub fn labels(self, names: &Names<'_>) -> BTreeMap<String, String> {
        match self {
            Self::Backup => names.backup_labels(),
            Self::Verify => names.verify_labels(),
        }
    }

    /// `app.kubernetes.io/name` of those.
    pub fn label(self) -> &'static str {
        match self {
            Self::Backup => BACKUP_NAME,
            Self::Verify => VERIFY_NAME,
        }
    }

    /// How often one of the schedule is begun again that failed. A damaged backup stays damaged.
    pub fn retries(self) -> i32 {
        match self {
            Self::Backup => 2,
            Self::Verify => 1,
        }
    }

    /// What its pod does, after its name.
    pub fn story(self) -> &'static str {
        match self {
            Self::Backup => "takes the backup",
            Self::Verify => "verifies the backup",
        }
    }
}
