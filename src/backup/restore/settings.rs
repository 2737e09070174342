//! How PostgreSQL is told to recover. Pure.

use std::collections::BTreeMap;

use super::choose::Target;
use crate::api::OWNED_PARAMETERS;
use crate::backup::layout::Epoch;
use crate::backup::wal::position_text;

/// What a recovery must have at least as much of as the server that wrote the WAL, and what pg_controldata calls it.
/// <https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-ADMIN>
const AT_LEAST: [(&str, &str, u64); 5] = [
    ("max_connections", "max_connections setting", 100),
    ("max_worker_processes", "max_worker_processes setting", 8),
    ("max_wal_senders", "max_wal_senders setting", 10),
    ("max_prepared_transactions", "max_prepared_xacts setting", 0),
    ("max_locks_per_transaction", "max_locks_per_xact setting", 64),
];

/// The users' settings that matter to a recovery: what WAL may need to be understood, and memory.
const TAKEN: [&str; 7] = [
    "shared_preload_libraries",
    "shared_buffers",
    "huge_pages",
    "wal_level",
    "track_commit_timestamp",
    "max_wal_size",
    "maintenance_io_concurrency",
];

/// What pg_controldata says of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control(BTreeMap<String, String>);

impl Control {
    /// Reads its answer in the C locale.
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        Self(text.lines().filter_map(line).collect())
    }

    fn of(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether a primary was shut down in order.
    pub fn is_shut_down_primary(&self) -> bool {
        self.of("Database cluster state") == Some("shut down")
    }

    /// The timeline of the last checkpoint.
    pub fn timeline(&self) -> Option<u32> {
        self.of("Latest checkpoint's TimeLineID")?.parse().ok()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.of(name)?.parse().ok()
    }
}

/// A recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// What PostgreSQL runs for each file of WAL.
    pub restore_command: String,
    /// The timeline to follow.
    pub timeline: u32,
    /// Up to where.
    pub target: Target,
    /// The users' settings.
    pub parameters: BTreeMap<String, String>,
}

impl Recovery {
    /// PostgreSQL's settings, for its command line: there, nothing in the data directory overrides them.
    ///
    /// With `hot_standby` off nobody connects, and a source whose `max_connections` and the like were raised meanwhile does not
    /// stop the recovery. Files of WAL that the new timeline completes are kept for the archive, which is not written yet.
    pub fn settings(&self, control: &Control) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = self
            .parameters
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .filter(|(name, _)| TAKEN.contains(&name.as_str()))
            .collect();
        for (name, said, least) in AT_LEAST {
            let mine = self.parameters.iter().find(|(given, _)| given.eq_ignore_ascii_case(name));
            let mine = mine.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(least);
            all.insert(name.to_owned(), mine.max(control.number(said).unwrap_or(0)).to_string());
        }
        let fixed = [
            ("listen_addresses", ""),
            ("hot_standby", "off"),
            ("archive_mode", "on"),
            ("archive_command", ""),
            ("archive_library", ""),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("log_line_prefix", ""),
            ("lc_messages", "C"),
            ("recovery_target_action", "promote"),
            ("recovery_target_inclusive", "on"),
        ];
        all.extend(fixed.map(|(name, value)| (name.to_owned(), value.to_owned())));
        all.insert("restore_command".to_owned(), self.restore_command.clone());
        all.insert("recovery_target_timeline".to_owned(), self.timeline.to_string());
        let target = match &self.target {
            Target::End => None,
            // PostgreSQL counts microseconds, and a later one would not be wanted.
            Target::Time(at) => {
                Some(("recovery_target_time", at.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string()))
            }
            Target::Lsn(lsn) => Some(("recovery_target_lsn", position_text(*lsn))),
            Target::Name(name) => Some(("recovery_target_name", name.clone())),
            Target::Immediate => Some(("recovery_target", "immediate".to_owned())),
        };
        all.extend(target.map(|(name, value)| (name.to_owned(), value)));
        all
    }
}

/// The settings that `ALTER SYSTEM` made, without those that are this database's own to say: the source's sockets and archive
/// are not its.
pub fn altered(text: &str) -> String {
    let name = |line: &str| line.split(['=', ' ', '\t']).next().unwrap_or_default().to_ascii_lowercase();
    let kept = text.lines().filter(|line| !OWNED_PARAMETERS.contains(&name(line.trim_start()).as_str()));
    kept.map(|line| format!("{line}\n")).collect()
}

/// PostgreSQL's `restore_command`: it goes through a shell, after PostgreSQL has replaced what begins with a percent sign.
pub fn restore_command(program: &str, from: &str, epoch: Epoch) -> String {
    let word = |text: &str| format!("'{}'", text.replace('\'', r"'\''")).replace('%', "%%");
    format!("{} agent wal-fetch --from {} --epoch {epoch} %f \"%p\"", word(program), word(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "Database cluster state:               in production\n\
        Latest checkpoint's TimeLineID:       3\n\
        max_connections setting:              400\n\
        max_worker_processes setting:         8\n\
        max_prepared_xacts setting:           7\n";

    fn settings(target: Target, parameters: &[(&str, &str)]) -> BTreeMap<String, String> {
        let parameters =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let recovery =
            Recovery { restore_command: "fetch %f %p".to_owned(), timeline: 3, target, parameters };
        recovery.settings(&Control::parse(CONTROL))
    }

    #[test]
    fn what_the_source_had_is_the_least() {
        let mine = [
            ("max_connections", "50"),
            ("Max_Worker_Processes", "20"),
            ("work_mem", "1GB"),
            ("Shared_Buffers", "1GB"),
        ];
        let settings = settings(Target::End, &mine);
        let of = |name: &str| settings.get(name).map(String::as_str);
        assert_eq!(of("max_connections"), Some("400"));
        assert_eq!(of("max_worker_processes"), Some("20"));
        assert_eq!(of("max_prepared_transactions"), Some("7"));
        assert_eq!(of("max_locks_per_transaction"), Some("64"));
        assert_eq!((of("work_mem"), of("shared_buffers")), (None, Some("1GB")));
        assert_eq!((of("hot_standby"), of("recovery_target_timeline")), (Some("off"), Some("3")));
        assert!(settings.keys().all(|name| {
            !name.starts_with("recovery_target_")
                || ["recovery_target_timeline", "recovery_target_action", "recovery_target_inclusive"]
                    .contains(&name.as_str())
        }));
    }

    #[test]
    fn targets_are_what_postgres_reads() {
        let at: jiff::Timestamp = "2026-11-22T03:00:00.1234567+01:00".parse().unwrap();
        for (target, name, value) in [
            (Target::Time(at), "recovery_target_time", "2026-11-22 02:00:00.123456+00"),
            (Target::Lsn(0x1_0300_0028), "recovery_target_lsn", "1/3000028"),
            (Target::Name("before it's gone".to_owned()), "recovery_target_name", "before it's gone"),
            (Target::Immediate, "recovery_target", "immediate"),
        ] {
            assert_eq!(settings(target, &[]).get(name).map(String::as_str), Some(value));
        }
    }

    #[test]
    fn what_the_source_owned_is_not_taken_over() {
        let text =
            "# Do not edit\nwork_mem = '8MB'\nArchive_Command = 'x = y'\nport=5433\n restore_command 'z'\n";
        assert_eq!(altered(text), "# Do not edit\nwork_mem = '8MB'\n");
    }

    #[test]
    fn the_command_survives_the_shell_and_postgres() {
        let epoch = Epoch { major: 16, system_identifier: 7 };
        assert_eq!(
            restore_command("dbctl", "s3://b/a%20'x", epoch),
            r#"'dbctl' agent wal-fetch --from 's3://b/a%%20'\''x' --epoch 16-7 %f "%p""#
        );
    }
}
