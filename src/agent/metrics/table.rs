//! Every metric of a member, and the statements that they are read with.
//!
//! What postgres_exporter has too bears its name and means the same, but for labels that clients choose or that nobody
//! sums by: those are left out, and the values are sums over them.
//! <https://github.com/prometheus-community/postgres_exporter>

use crate::metrics::Metric;

const NONE: &[&str] = &[];
const DATNAME: &[&str] = &["datname"];
const SLOT: &[&str] = &["slot_name", "slot_type"];
const SESSIONS: &[&str] = &["datname", "usename", "state"];

macro_rules! gauges {
    ($($name:ident = $text:literal $labels:ident $help:literal;)*) => {
        $(pub static $name: Metric = Metric::gauge($text, $labels, $help);)*
    };
}

macro_rules! counters {
    ($($name:ident = $text:literal $labels:ident $help:literal;)*) => {
        $(pub static $name: Metric = Metric::counter($text, $labels, $help);)*
    };
}

const FAILED_LABELS: &[&str] = &["query"];
const LOCKS_LABELS: &[&str] = &["datname", "mode"];
const SLOT_STATUS: &[&str] = &["slot_name", "slot_type", "wal_status"];

gauges! {
    UP = "pg_up" NONE "1 where PostgreSQL took a connection and answered";
    FAILED = "dbctl_metrics_failed" FAILED_LABELS "1 where these metrics could not be read, or not in time";
    VOLUME_SIZE = "dbctl_volume_size_bytes" NONE "Size of the volume with the data";
    VOLUME_FREE = "dbctl_volume_free_bytes" NONE "What PostgreSQL may still write of it";
    IS_REPLICA = "pg_replication_is_replica" NONE "1 on a replica";
    LAG = "pg_replication_lag_seconds" NONE "How long ago the last replayed transaction was committed; 0 where all that was received is replayed";
    STARTED = "pg_postmaster_start_time_seconds" NONE "When PostgreSQL was started";
    MAX_CONNECTIONS = "pg_settings_max_connections" NONE "How many connections there may be";
    SESSIONS_COUNT = "pg_stat_activity_count" SESSIONS "Sessions in this state";
    SESSIONS_LONGEST = "pg_stat_activity_max_tx_duration" SESSIONS "Seconds since the oldest transaction of those began";
    TRANSACTIONS = "pg_long_running_transactions" NONE "Transactions that are open";
    OLDEST = "pg_long_running_transactions_oldest_timestamp_seconds" NONE "For how many seconds the oldest of them has been";
    BACKENDS = "pg_stat_database_numbackends" DATNAME "Sessions in this database";
    LOCKS = "pg_locks_count" LOCKS_LABELS "Locks that are held or waited for";
    SLOT_ACTIVE = "pg_replication_slots_slot_is_active" SLOT "1 while somebody streams from it";
    SLOT_SAFE = "pg_replication_slots_safe_wal_size_bytes" SLOT "What may be written before the WAL that it needs goes";
    SLOT_KEPT = "pg_replication_slots_pg_wal_lsn_diff" SLOT "WAL that is kept for it, in bytes";
    SLOT_WAL = "pg_replication_slots_wal_status" SLOT_STATUS "Always 1; whether the WAL that it needs is there";
    WAL_FILES = "pg_wal_segments" NONE "Files of WAL";
    WAL_SIZE = "pg_wal_size_bytes" NONE "What they take";
    ARCHIVE_AGE = "pg_stat_archiver_last_archive_age" NONE "Seconds since WAL was last archived from here";
    SIZE = "pg_database_size_bytes" DATNAME "What a database takes";
}

counters! {
    COMMITS = "pg_stat_database_xact_commit" DATNAME "Transactions that were committed";
    ROLLBACKS = "pg_stat_database_xact_rollback" DATNAME "Transactions that were rolled back";
    BLOCKS_READ = "pg_stat_database_blks_read" DATNAME "Blocks that were read from disk";
    BLOCKS_HIT = "pg_stat_database_blks_hit" DATNAME "Blocks that were found in the buffer cache";
    ROWS_RETURNED = "pg_stat_database_tup_returned" DATNAME "Rows that queries went over";
    ROWS_FETCHED = "pg_stat_database_tup_fetched" DATNAME "Rows that index scans fetched";
    ROWS_INSERTED = "pg_stat_database_tup_inserted" DATNAME "Rows that were inserted";
    ROWS_UPDATED = "pg_stat_database_tup_updated" DATNAME "Rows that were updated";
    ROWS_DELETED = "pg_stat_database_tup_deleted" DATNAME "Rows that were deleted";
    CONFLICTS = "pg_stat_database_conflicts" DATNAME "Queries of a replica that replay cancelled";
    TEMPORARY_BYTES = "pg_stat_database_temp_bytes" DATNAME "What queries wrote to temporary files";
    DEADLOCKS = "pg_stat_database_deadlocks" DATNAME "Deadlocks that were found";
    ARCHIVED = "pg_stat_archiver_archived_count" NONE "WAL files that were archived from here";
    ARCHIVE_FAILED = "pg_stat_archiver_failed_count" NONE "Tries to archive one that failed";
    // Up to release 16.
    TIMED = "pg_stat_bgwriter_checkpoints_timed_total" NONE "Checkpoints that were due; up to release 16";
    REQUESTED = "pg_stat_bgwriter_checkpoints_req_total" NONE "Checkpoints that were asked for; up to release 16";
    WRITE_TIME = "pg_stat_bgwriter_checkpoint_write_time_total" NONE "Milliseconds that checkpoints took to write; up to release 16";
    SYNC_TIME = "pg_stat_bgwriter_checkpoint_sync_time_total" NONE "Milliseconds that checkpoints took to sync; up to release 16";
    BUFFERS = "pg_stat_bgwriter_buffers_checkpoint_total" NONE "Buffers that checkpoints wrote; up to release 16";
    // From release 17 on.
    TIMED_17 = "pg_stat_checkpointer_num_timed_total" NONE "Checkpoints that were due; from release 17 on";
    REQUESTED_17 = "pg_stat_checkpointer_num_requested_total" NONE "Checkpoints that were asked for; from release 17 on";
    WRITE_TIME_17 = "pg_stat_checkpointer_write_time_total" NONE "Milliseconds that checkpoints took to write; from release 17 on";
    SYNC_TIME_17 = "pg_stat_checkpointer_sync_time_total" NONE "Milliseconds that checkpoints took to sync; from release 17 on";
    BUFFERS_17 = "pg_stat_checkpointer_buffers_written_total" NONE "Buffers that checkpoints wrote; from release 17 on";
}

/// A statement, whose rows hold values of metrics in columns, and their labels in columns of the labels' names.
#[derive(Debug)]
pub struct Query {
    /// What it is called where it fails.
    pub name: &'static str,
    /// The first major release that it is for, and the first that it is not for any more.
    pub majors: std::ops::Range<u32>,
    /// Metrics, and the columns with their values.
    pub columns: &'static [(&'static Metric, &'static str)],
    /// The statement.
    pub sql: &'static str,
}

/// Every release that there may be.
const ALL: std::ops::Range<u32> = 0..u32::MAX;

/// The statements, those that have to look at many files last. The first is what tells that PostgreSQL answers.
pub static QUERIES: [Query; 11] = [
    Query {
        name: "server",
        majors: ALL,
        columns: &[
            (&IS_REPLICA, "is_replica"),
            (&LAG, "lag"),
            (&STARTED, "started"),
            (&MAX_CONNECTIONS, "max_connections"),
        ],
        sql: "select pg_is_in_recovery()::int as is_replica, \
              case when not pg_is_in_recovery() or pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() then 0 \
              else greatest(0, extract(epoch from now() - pg_last_xact_replay_timestamp())) end as lag, \
              extract(epoch from pg_postmaster_start_time()) as started, \
              current_setting('max_connections')::int as max_connections",
    },
    Query {
        name: "activity",
        majors: ALL,
        columns: &[(&SESSIONS_COUNT, "count"), (&SESSIONS_LONGEST, "longest")],
        sql: "select datname, usename, state, count(*), \
              coalesce(max(extract(epoch from now() - xact_start)), 0) as longest from pg_stat_activity \
              where pid <> pg_backend_pid() and datname is not null and state is not null group by 1, 2, 3",
    },
    Query {
        name: "transactions",
        majors: ALL,
        columns: &[(&TRANSACTIONS, "count"), (&OLDEST, "oldest")],
        sql: "select count(*), coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0) as oldest \
              from pg_stat_activity where state is distinct from 'idle' and query not like 'autovacuum:%' \
              and xact_start is not null and pid <> pg_backend_pid()",
    },
    Query {
        name: "databases",
        majors: ALL,
        columns: &[
            (&BACKENDS, "numbackends"),
            (&COMMITS, "xact_commit"),
            (&ROLLBACKS, "xact_rollback"),
            (&BLOCKS_READ, "blks_read"),
            (&BLOCKS_HIT, "blks_hit"),
            (&ROWS_RETURNED, "tup_returned"),
            (&ROWS_FETCHED, "tup_fetched"),
            (&ROWS_INSERTED, "tup_inserted"),
            (&ROWS_UPDATED, "tup_updated"),
            (&ROWS_DELETED, "tup_deleted"),
            (&CONFLICTS, "conflicts"),
            (&TEMPORARY_BYTES, "temp_bytes"),
            (&DEADLOCKS, "deadlocks"),
        ],
        sql: "select datname, numbackends, xact_commit, xact_rollback, blks_read, blks_hit, tup_returned, \
              tup_fetched, tup_inserted, tup_updated, tup_deleted, conflicts, temp_bytes, deadlocks \
              from pg_stat_database where datname is not null",
    },
    Query {
        name: "locks",
        majors: ALL,
        columns: &[(&LOCKS, "count")],
        sql: "select d.datname, lower(l.mode) as mode, count(*) from pg_locks l join pg_database d on d.oid = l.database \
              where l.pid is distinct from pg_backend_pid() group by 1, 2",
    },
    Query {
        name: "slots",
        majors: ALL,
        columns: &[
            (&SLOT_ACTIVE, "active"),
            (&SLOT_KEPT, "kept"),
            (&SLOT_SAFE, "safe_wal_size"),
            (&SLOT_WAL, "one"),
        ],
        sql: "select slot_name, slot_type, active::int, safe_wal_size, wal_status, 1 as one, \
              pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end, \
              restart_lsn) as kept from pg_replication_slots",
    },
    Query {
        name: "archiver",
        majors: ALL,
        columns: &[(&ARCHIVED, "archived_count"), (&ARCHIVE_FAILED, "failed_count"), (&ARCHIVE_AGE, "age")],
        sql: "select archived_count, failed_count, extract(epoch from now() - last_archived_time) as age \
              from pg_stat_archiver",
    },
    Query {
        name: "checkpoints",
        majors: 0..17,
        columns: &[
            (&TIMED, "checkpoints_timed"),
            (&REQUESTED, "checkpoints_req"),
            (&WRITE_TIME, "checkpoint_write_time"),
            (&SYNC_TIME, "checkpoint_sync_time"),
            (&BUFFERS, "buffers_checkpoint"),
        ],
        sql: "select checkpoints_timed, checkpoints_req, checkpoint_write_time, checkpoint_sync_time, buffers_checkpoint \
              from pg_stat_bgwriter",
    },
    Query {
        name: "checkpoints",
        majors: 17..u32::MAX,
        columns: &[
            (&TIMED_17, "num_timed"),
            (&REQUESTED_17, "num_requested"),
            (&WRITE_TIME_17, "write_time"),
            (&SYNC_TIME_17, "sync_time"),
            (&BUFFERS_17, "buffers_written"),
        ],
        sql: "select num_timed, num_requested, write_time, sync_time, buffers_written from pg_stat_checkpointer",
    },
    Query {
        name: "wal",
        majors: ALL,
        columns: &[(&WAL_FILES, "count"), (&WAL_SIZE, "size")],
        sql: "select count(*), coalesce(sum(size), 0) as size from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'",
    },
    Query {
        name: "sizes",
        majors: ALL,
        columns: &[(&SIZE, "size")],
        sql: "select datname, pg_database_size(oid) as size from pg_database where datallowconn",
    },
];

/// All metrics of a member.
pub fn metrics() -> Vec<&'static Metric> {
    let own = [&UP, &FAILED, &VOLUME_SIZE, &VOLUME_FREE];
    let read = QUERIES.iter().flat_map(|query| query.columns).map(|(metric, _)| *metric);
    own.into_iter().chain(read).collect()
}
