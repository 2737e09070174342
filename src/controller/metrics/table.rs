//! Every metric of the controller.

use crate::metrics::Metric;

const DATABASE: &[&str] = &["namespace", "database"];
const MEMBER: &[&str] = &["namespace", "database", "member"];

pub static BUILD: Metric =
    Metric::gauge("dbctl_build_info", &["version"], "Always 1; the release of the controller");
pub static LEADER: Metric = Metric::gauge(
    "dbctl_controller_leader",
    &[],
    "1 while this controller works, 0 while it waits for another one to end or for its first lists",
);
pub static QUEUE: Metric = Metric::gauge(
    "dbctl_controller_queue_depth",
    &[],
    "Databases of which something was heard and that wait for a pass",
);
pub static RECONCILES: Metric = Metric::counter(
    "dbctl_controller_reconciles_total",
    &["outcome"],
    "Passes over a Database: done, conflict (based on something older, made again at once), or failed",
);
pub static RECONCILE_SECONDS: Metric =
    Metric::histogram("dbctl_controller_reconcile_duration_seconds", &[], "How long passes took");
pub static API_REQUESTS: Metric = Metric::counter(
    "dbctl_controller_api_requests_total",
    &["method", "code"],
    "Requests to the Kubernetes API by the answer's code; code `none` where there was no answer",
);

pub static INFO: Metric = Metric::gauge(
    "database_info",
    &["namespace", "database", "phase", "version", "paused"],
    "Always 1; the phase and release of a Database, and whether dbctl is paused there",
);
pub static CONDITION: Metric = Metric::gauge(
    "database_condition",
    &["namespace", "database", "condition", "reason"],
    "1 while the condition is true, 0 while it is false; absent while it is unknown",
);
pub static LAST_PASS: Metric = Metric::gauge(
    "database_last_pass_timestamp_seconds",
    DATABASE,
    "When the controller last looked at everything and did all that was to be done",
);
pub static WANTED: Metric = Metric::gauge("database_members_wanted", DATABASE, "Members that are asked for");
pub static READY: Metric =
    Metric::gauge("database_members_ready", DATABASE, "Members of those that are ready");
pub static PRIMARY: Metric = Metric::gauge(
    "database_primary_info",
    &["namespace", "database", "primary"],
    "Always 1; the running primary",
);
pub static OUTAGE: Metric = Metric::gauge(
    "database_outage",
    &["namespace", "database", "reason"],
    "1 while nobody can write to a database that could be written to before, and why",
);
pub static SPLIT_BRAIN: Metric = Metric::gauge(
    "database_split_brain_suspected",
    DATABASE,
    "1 while more than one member says that it runs as primary",
);
pub static FAILOVERS: Metric =
    Metric::counter("database_failover_total", &["namespace", "database", "reason"], "Changes of primary");
pub static FAILOVER_SECONDS: Metric = Metric::histogram(
    "database_failover_duration_seconds",
    DATABASE,
    "How long nobody could write during a change of primary",
);
pub static LAG: Metric =
    Metric::gauge("database_replication_lag_bytes", MEMBER, "WAL that a replica has still to replay");
pub static VOLUME_SIZE: Metric =
    Metric::gauge("database_volume_size_bytes", MEMBER, "Size of the volume with a member's data");
pub static VOLUME_FREE: Metric =
    Metric::gauge("database_volume_free_bytes", MEMBER, "What PostgreSQL may still write of it");
pub static WAITING_SECONDS: Metric = Metric::gauge(
    "database_wal_archive_waiting_seconds",
    MEMBER,
    "For how long a member's oldest WAL file has waited to be archived",
);
pub static WAITING_FILES: Metric = Metric::gauge(
    "database_wal_archive_waiting_files",
    MEMBER,
    "WAL files of a member that wait to be archived",
);
pub static CERTIFICATE_EXPIRY: Metric = Metric::gauge(
    "database_certificate_expiry_timestamp_seconds",
    &["namespace", "database", "certificate"],
    "When a certificate ends: that of the server, or that of the authority that dbctl signs it with",
);
pub static LAST_BACKUP: Metric = Metric::gauge(
    "database_backup_last_success_timestamp_seconds",
    DATABASE,
    "When the newest good backup ended",
);
pub static BACKUP_DUE: Metric = Metric::gauge(
    "database_backup_due_timestamp_seconds",
    DATABASE,
    "When the next backup must have ended, by the schedule and an hour; absent where backups are off",
);
pub static BACKUPS: Metric = Metric::counter(
    "database_backup_total",
    &["namespace", "database", "outcome"],
    "Backups that ended: succeeded or failed",
);
pub static VERIFIED: Metric = Metric::gauge(
    "database_backup_verified_timestamp_seconds",
    DATABASE,
    "When a backup was last restored and found to be good",
);
pub static VERIFY_FAILURES: Metric = Metric::counter(
    "database_backup_verify_failures_total",
    DATABASE,
    "Verifications of backups that found damage, or came to no result",
);
pub static DAMAGED: Metric = Metric::gauge(
    "database_backup_damaged",
    DATABASE,
    "1 while the newest backup that was verified is damaged",
);
pub static UPGRADE: Metric = Metric::gauge(
    "database_upgrade_info",
    &["namespace", "database", "from", "to", "step"],
    "1 while a version change is under way, and the step it is at",
);

/// Those of the process.
pub static OF_PROCESS: [&Metric; 6] =
    [&BUILD, &LEADER, &QUEUE, &RECONCILES, &RECONCILE_SECONDS, &API_REQUESTS];

/// Those of each Database. With a Database go all of its values.
pub static OF_DATABASES: [&Metric; 23] = [
    &INFO,
    &CONDITION,
    &LAST_PASS,
    &WANTED,
    &READY,
    &PRIMARY,
    &OUTAGE,
    &SPLIT_BRAIN,
    &FAILOVERS,
    &FAILOVER_SECONDS,
    &LAG,
    &VOLUME_SIZE,
    &VOLUME_FREE,
    &WAITING_SECONDS,
    &WAITING_FILES,
    &CERTIFICATE_EXPIRY,
    &LAST_BACKUP,
    &BACKUP_DUE,
    &BACKUPS,
    &VERIFIED,
    &VERIFY_FAILURES,
    &DAMAGED,
    &UPGRADE,
];

/// All of them.
pub fn metrics() -> Vec<&'static Metric> {
    OF_PROCESS.into_iter().chain(OF_DATABASES).collect()
}
