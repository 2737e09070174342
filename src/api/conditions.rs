//! The five conditions of a Database, and how a new verdict is merged into what is there.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The condition types; all of them are always present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// Every member is there and streaming, and the write Service leads to a primary that accepts writes.
    Ready,
    /// A primary holds the lock, runs as primary, and is what the write Service leads to.
    Writable,
    /// The last backup is young enough and WAL archiving does not fail.
    BackupsHealthy,
    /// Volumes are bound and have room.
    StorageHealthy,
    /// Every pod runs the spec.
    UpToDate,
}

impl ConditionType {
    /// All types, in the order in which they are listed.
    pub const ALL: [ConditionType; 5] =
        [Self::Ready, Self::Writable, Self::BackupsHealthy, Self::StorageHealthy, Self::UpToDate];
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Reasons of conditions and events.
#[expect(missing_docs, reason = "each name is its meaning, and the message beside it says the rest")]
pub mod reason {
    pub const ALL_MEMBERS_READY: &str = "AllMembersReady";
    pub const ARCHIVING_FAILING: &str = "ArchivingFailing";
    pub const BACKUPS_CURRENT: &str = "BackupsCurrent";
    pub const BACKUPS_DISABLED: &str = "BackupsDisabled";
    pub const BACKUP_DAMAGED: &str = "BackupDamaged";
    pub const BACKUP_FAILED: &str = "BackupFailed";
    pub const BACKUP_OVERDUE: &str = "BackupOverdue";
    pub const CERTIFICATE_EXPIRED: &str = "CertificateExpired";
    pub const CERTIFICATE_UNUSABLE: &str = "CertificateUnusable";
    pub const CLAIMS_BOUND: &str = "ClaimsBound";
    pub const CLAIM_PENDING: &str = "ClaimPending";
    pub const CLAIM_TERMINATING: &str = "ClaimTerminating";
    pub const CONFIG_PENDING: &str = "ConfigPending";
    pub const CREATING: &str = "Creating";
    pub const DELETING: &str = "Deleting";
    pub const EVEN_REPLICAS: &str = "EvenReplicas";
    pub const HISTORY_MISSING: &str = "HistoryMissing";
    pub const INVALID_SPEC: &str = "InvalidSpec";
    pub const MEMBER_ISOLATED: &str = "MemberIsolated";
    pub const MEMBERS_MISSING: &str = "MembersMissing";
    pub const MEMBER_NOT_READY: &str = "MemberNotReady";
    pub const NAME_TAKEN: &str = "NameTaken";
    pub const NO_BACKUP: &str = "NoBackup";
    pub const NO_ENDPOINT: &str = "NoEndpoint";
    pub const NO_LEADER: &str = "NoLeader";
    pub const NO_SAFE_CANDIDATE: &str = "NoSafeCandidate";
    pub const OTHER_MAJOR: &str = "OtherMajor";
    pub const PAUSED: &str = "Paused";
    pub const PODS_OUTDATED: &str = "PodsOutdated";
    pub const PODS_UP_TO_DATE: &str = "PodsUpToDate";
    pub const PRIMARY_ACCEPTS_WRITES: &str = "PrimaryAcceptsWrites";
    pub const PRIMARY_NOT_RUNNING: &str = "PrimaryNotRunning";
    pub const PRIMARY_SUSPECT: &str = "PrimarySuspect";
    pub const RESIZE_PENDING: &str = "ResizePending";
    pub const RESIZE_REFUSED: &str = "ResizeRefused";
    pub const RESTART_PENDING: &str = "RestartPending";
    pub const RESTORE_FAILED: &str = "RestoreFailed";
    pub const RESTORE_SOURCE: &str = "RestoreSource";
    pub const RESTORING: &str = "Restoring";
    pub const ROLLOUT_HALTED: &str = "RolloutHalted";
    pub const SCALING: &str = "Scaling";
    pub const SECRET_MISSING: &str = "SecretMissing";
    pub const SPLIT_BRAIN: &str = "SplitBrainSuspected";
    pub const SYNC_DEGRADED: &str = "SyncDegraded";
    pub const UPGRADE_NEEDED: &str = "UpgradeNeeded";
    pub const UPGRADING: &str = "Upgrading";
    pub const VOLUME_FILLING: &str = "VolumeFilling";
    pub const VOLUME_FULL: &str = "VolumeFull";
    pub const VOLUME_NEARLY_FULL: &str = "VolumeNearlyFull";
}

/// What a condition says now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None` is `Unknown`.
    pub status: Option<bool>,
    /// One of [`reason`]'s constants.
    pub reason: &'static str,
    /// What is so and, where something is wrong, what to do next.
    pub message: String,
}

impl Verdict {
    /// It is so.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Some(true), reason, message: message.into() }
    }

    /// It is not so.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Some(false), reason, message: message.into() }
    }

    /// It cannot be told.
    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: None, reason, message: message.into() }
    }

    fn status_text(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// The conditions that say `verdicts`. `lastTransitionTime` moves only where the status flips.
pub fn merge_conditions(
    existing: &[Condition],
    verdicts: &[(ConditionType, Verdict)],
    generation: Option<i64>,
    now: jiff::Timestamp,
) -> Vec<Condition> {
    verdicts
        .iter()
        .map(|(kind, verdict)| {
            let type_ = kind.to_string();
            let status = verdict.status_text().to_owned();
            let since = existing
                .iter()
                .find(|old| old.type_ == type_ && old.status == status)
                .map_or(Time(now), |old| old.last_transition_time.clone());
            Condition {
                type_,
                status,
                reason: verdict.reason.to_owned(),
                message: verdict.message.clone(),
                last_transition_time: since,
                observed_generation: generation,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_when_the_status_flips() {
        let t = |s: i64| jiff::Timestamp::from_second(s).unwrap();
        let say = |v: Verdict| vec![(ConditionType::Ready, v)];
        let first = merge_conditions(&[], &say(Verdict::no(reason::CREATING, "a")), Some(1), t(1));
        let same = merge_conditions(&first, &say(Verdict::no(reason::NO_LEADER, "b")), Some(2), t(2));
        assert_eq!(same[0].last_transition_time, Time(t(1)));
        assert_eq!((same[0].reason.as_str(), same[0].observed_generation), ("NoLeader", Some(2)));
        let flipped =
            merge_conditions(&same, &say(Verdict::yes(reason::ALL_MEMBERS_READY, "c")), Some(2), t(3));
        assert_eq!(flipped[0].last_transition_time, Time(t(3)));
    }
}
