//! The configuration that Patroni is given, rendered from the spec.
//!
//! Two parts: the *template*, a file that each member completes with its own name and addresses, and within it, as
//! `bootstrap.dcs`, the *dynamic configuration*, which Patroni copies into `NAME-config` when the database is made and
//! which is changed only there from then on. So everything that a user may change is in the dynamic part: a change
//! reaches running members without a restart of their pods. The numbers and their reasons: Patroni's lock can expire
//! no faster than 20 s, `loop_wait + 2 * retry_timeout` must fit in it, and a multiple of loop_wait lets replicas act
//! at once when it does.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::{DatabaseSpec, LABEL_DATABASE, LABEL_ROLE, Names, PgVersion, ROLE_PRIMARY, ROLE_REPLICA};

/// Seconds after which a lock that nobody renews is free: the least that Patroni takes.
pub const TTL_SECONDS: i64 = 20;
const LOOP_WAIT_SECONDS: i64 = 5;
/// The same until every member of a new database is there: each step of that waits for somebody's next loop.
pub const FIRST_LOOP_WAIT_SECONDS: i64 = 1;
const RETRY_TIMEOUT_SECONDS: i64 = 5;
/// How long a primary whose PostgreSQL died may take to start again before a replica takes over. Where commits wait for
/// replicas none is lost by going there at once, and that is faster: writes stop for 0.6 to 0.9 s, against 1.8 to 3.2 s for
/// a restart with hardly anything to recover, and 18 s with 745 MB of WAL (12.5 s with a timeout of 10 s). It also ends
/// what a restart cannot, such as a full disk.
const PRIMARY_START_TIMEOUT_SYNCHRONOUS: i64 = 0;
/// Otherwise what no replica has yet would be lost, so a recovery of this many seconds is worth the wait.
const PRIMARY_START_TIMEOUT_ASYNCHRONOUS: i64 = 60;
/// A replica that is further behind than this does not stand for election (asynchronous databases).
const MAXIMUM_LAG_ON_FAILOVER: i64 = 1 << 20;
/// Patroni's default is to keep every timeline's history in an annotation, which has a size limit.
const MAX_TIMELINES_HISTORY: i64 = 100;

/// How a new data directory reaches the disk, from 17 on: the file system at once, not a thousand files one by one.
const SYNC_METHOD: &str = "syncfs";

/// The key of the template in ConfigMap `NAME-patroni`.
pub const CONFIG_KEY: &str = "patroni.yml";
/// PostgreSQL's superuser.
pub const SUPERUSER: &str = "postgres";
/// Whom members stream as.
pub const REPLICATION_USER: &str = "dbctl_replication";
/// Whom pg_rewind connects as.
pub const REWIND_USER: &str = "dbctl_rewind";
/// User name of the REST API.
pub const REST_USER: &str = "dbctl";
/// The users' role, and the database it owns.
pub const APP_NAME: &str = "app";

/// The dynamic configuration. `members`: how many there are or are asked for, whichever is more; `archive`: the id of the
/// archive that WAL goes to.
pub fn dynamic(spec: &DatabaseSpec, members: i32, archive: &str) -> Value {
    let (synchronous, start_timeout) = if spec.synchronous && members >= 2 {
        (json!("quorum"), PRIMARY_START_TIMEOUT_SYNCHRONOUS)
    } else {
        (json!(false), PRIMARY_START_TIMEOUT_ASYNCHRONOUS)
    };
    json!({
        "ttl": TTL_SECONDS,
        "loop_wait": LOOP_WAIT_SECONDS,
        "retry_timeout": RETRY_TIMEOUT_SECONDS,
        "maximum_lag_on_failover": MAXIMUM_LAG_ON_FAILOVER,
        "max_timelines_history": MAX_TIMELINES_HISTORY,
        "failsafe_mode": true,
        "check_timeline": true,
        "synchronous_mode": synchronous,
        "primary_start_timeout": start_timeout,
        "postgresql": {
            "use_pg_rewind": true,
            "use_slots": true,
            "parameters": parameters(spec, archive),
            "pg_hba": pg_hba(spec, "hostssl"),
        },
    })
}

fn parameters(spec: &DatabaseSpec, archive: &str) -> BTreeMap<String, String> {
    // A replica that is gone must not fill the volume with the WAL that its slot keeps.
    let kept_mb = (spec.storage.size.value() / 4 / (1 << 20)).max(256);
    // A primary that crashed and is rewound goes on from the start of a checkpoint before the fork, and its slot on the new
    // primary begins at the fork: without this it may ask for what was removed already, and never stream again.
    let recent_mb = kept_mb.min(RECENT_WAL_MB);
    let (archive_command, archive_timeout) = archiving(spec, archive);
    let ours = [
        // A frozen replica would hold commits for this long.
        ("wal_sender_timeout", "10s".to_owned()),
        // A replica that was cut off looks for the primary anew after this long.
        ("wal_receiver_timeout", "10s".to_owned()),
        // Eight replicas, their base backups (two each), and room for others' streams.
        ("max_wal_senders", "20".to_owned()),
        ("max_replication_slots", "20".to_owned()),
        ("max_slot_wal_keep_size", format!("{kept_mb}MB")),
        ("wal_keep_size", format!("{recent_mb}MB")),
        ("password_encryption", "scram-sha-256".to_owned()),
        // The certificate is each member's own affair, and so is whether it has one.
        ("ssl_min_protocol_version", "TLSv1.2".to_owned()),
        // The container's log is the log.
        ("logging_collector", "off".to_owned()),
        // Every member, or what the primary had not archived when it was lost never would be. It takes a restart to change,
        // so it is on whether or not there is an archive.
        ("archive_mode", "always".to_owned()),
        ("archive_command", archive_command),
        ("archive_timeout", archive_timeout),
    ];
    // To PostgreSQL, `Work_Mem` is `work_mem`.
    let given = |name: &str| spec.parameters.keys().any(|given| given.eq_ignore_ascii_case(name));
    let ours = ours.into_iter().filter(|(name, _)| !given(name));
    let mut all: BTreeMap<String, String> = ours.map(|(name, value)| (name.to_owned(), value)).collect();
    all.extend(spec.parameters.clone());
    all
}

/// The most WAL that is kept for nobody in particular, in MiB.
const RECENT_WAL_MB: i128 = 512;

/// How long a change may wait in a segment that does not fill, in seconds: so much a restore may lack at most.
const ARCHIVE_TIMEOUT_SECONDS: u32 = 60;

/// `archive_command` and `archive_timeout`. A server reads both anew while it runs.
fn archiving(spec: &DatabaseSpec, archive: &str) -> (String, String) {
    let backup = spec.backup.as_ref().filter(|backup| backup.enabled);
    match backup.and_then(|backup| backup.destination.as_deref()) {
        Some(to) => (archive_command(to, archive), format!("{ARCHIVE_TIMEOUT_SECONDS}s")),
        None => ("true".to_owned(), "0".to_owned()),
    }
}

/// The command that takes one WAL file to the archive. The server replaces `%p`, and has a shell run the rest.
/// <https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-ARCHIVE-COMMAND>
fn archive_command(to: &str, archive: &str) -> String {
    let word = |text: &str| format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%"));
    format!(r#"dbctl agent wal-push --to {} --archive {} "%p""#, word(to), word(archive))
}

/// Lets in who does not speak TLS too, by a dynamic configuration: while a database goes over to TLS, not every member does.
pub fn plain_access(dynamic: &mut Value, spec: &DatabaseSpec) {
    dynamic["postgresql"]["pg_hba"] = json!(pg_hba(spec, "host"));
}

/// First what Patroni needs, so that no line of the user's can lock it out; then the user's; then everybody, by
/// password. The socket's directory belongs to the pod alone, and only its own user may connect there.
fn pg_hba(spec: &DatabaseSpec, host: &str) -> Vec<String> {
    let first = [
        format!("local all {SUPERUSER} trust"),
        format!("local replication {REPLICATION_USER} trust"),
        format!("{host} replication {REPLICATION_USER} all scram-sha-256"),
        format!("{host} all {REWIND_USER} all scram-sha-256"),
    ];
    let last = ["local all all scram-sha-256".to_owned(), format!("{host} all all all scram-sha-256")];
    first.into_iter().chain(spec.hba.iter().cloned()).chain(last).collect()
}

/// initdb's options: a locale that no update of the C library changes, since such a change corrupts indexes.
/// From 17 on PostgreSQL has one of its own with full Unicode case mapping; before, only C is always there.
fn initdb(version: PgVersion) -> Value {
    if version.major() >= 17 {
        json!([
            { "encoding": "UTF8" },
            { "locale": "C" },
            { "locale-provider": "builtin" },
            { "builtin-locale": "C.UTF-8" },
            { "sync-method": SYNC_METHOD },
            "data-checksums"
        ])
    } else {
        json!([{ "encoding": "UTF8" }, { "locale": "C" }, "data-checksums"])
    }
}

/// pg_basebackup's options. Without the first it waits for the next scheduled checkpoint.
fn basebackup(version: PgVersion) -> Value {
    if version.major() >= 17 {
        json!([{ "checkpoint": "fast" }, { "sync-method": SYNC_METHOD }])
    } else {
        json!([{ "checkpoint": "fast" }])
    }
}

/// The file that each member completes. No line of it differs between members.
pub fn template(name: &str, spec: &DatabaseSpec, version: PgVersion, members: i32, archive: &str) -> Value {
    // Every pod of the database carries these, so they may select; Patroni puts them on what it makes.
    let mut labels = Names(name).labels();
    labels.remove(LABEL_DATABASE);
    let mut first = dynamic(spec, members, archive);
    first["loop_wait"] = json!(FIRST_LOOP_WAIT_SECONDS);
    json!({
        "scope": name,
        "kubernetes": {
            "labels": labels,
            "scope_label": LABEL_DATABASE,
            "role_label": LABEL_ROLE,
            "leader_label_value": ROLE_PRIMARY,
            "follower_label_value": ROLE_REPLICA,
            // Otherwise Patroni looks for a kubeconfig context named "kind-kind".
            "context": null,
        },
        "bootstrap": {
            "dcs": first,
            "initdb": initdb(version),
            "post_bootstrap": "dbctl agent post-bootstrap",
        },
        "postgresql": {
            "use_unix_socket": true,
            "use_unix_socket_repl": true,
            "remove_data_directory_on_rewind_failure": true,
            "remove_data_directory_on_diverged_timelines": true,
            "basebackup": basebackup(version),
        },
    })
}

/// The merge patch that turns the live dynamic configuration into the wanted one, or nothing. Keys that others set
/// (such as `pause`) stay, but for PostgreSQL's parameters, which the spec alone decides.
pub fn config_patch(live: &Value, wanted: &Value) -> Option<Value> {
    let patch = difference(live, wanted, false);
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn difference(live: &Value, wanted: &Value, whole: bool) -> Map<String, Value> {
    let none = Map::new();
    let live = live.as_object().unwrap_or(&none);
    let wanted = wanted.as_object().unwrap_or(&none);
    let mut patch = Map::new();
    for (key, value) in wanted {
        match (live.get(key), value) {
            (Some(old), new) if old == new => {}
            (Some(old @ Value::Object(_)), Value::Object(_)) => {
                let inner = difference(old, value, key == "parameters");
                if !inner.is_empty() {
                    patch.insert(key.clone(), Value::Object(inner));
                }
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    if whole {
        let gone = live.keys().filter(|key| !wanted.contains_key(*key));
        patch.extend(gone.map(|key| (key.clone(), Value::Null)));
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: Value) -> DatabaseSpec {
        let mut base = json!({ "replicas": 3, "version": "16.15", "storage": { "size": "4Gi" } });
        json_patch::merge(&mut base, &value);
        serde_json::from_value(base).unwrap()
    }

    #[test]
    fn commits_wait_for_a_quorum_only_where_there_is_somebody_to_wait_for() {
        for (value, members, mode, start) in [
            (json!({}), 3, json!("quorum"), 0),
            (json!({}), 2, json!("quorum"), 0),
            (json!({}), 1, json!(false), 60),
            (json!({ "synchronous": false }), 3, json!(false), 60),
        ] {
            let dynamic = dynamic(&spec(value), members, "id");
            assert_eq!(
                (&dynamic["synchronous_mode"], &dynamic["primary_start_timeout"]),
                (&mode, &json!(start))
            );
        }
    }

    #[test]
    fn timing_is_within_patronis_rule() {
        let dynamic = dynamic(&spec(json!({})), 3, "id");
        let of = |key: &str| dynamic[key].as_i64().unwrap();
        assert!(of("loop_wait") + 2 * of("retry_timeout") <= of("ttl"));
        for loop_wait in [of("loop_wait"), FIRST_LOOP_WAIT_SECONDS] {
            assert_eq!(of("ttl") % loop_wait, 0);
        }
    }

    #[test]
    fn a_new_database_is_made_in_quick_loops() {
        let spec = spec(json!({}));
        let first = &template("db", &spec, "16.15".parse().unwrap(), 3, "id")["bootstrap"]["dcs"];
        let wanted = dynamic(&spec, 3, "id");
        assert_eq!(config_patch(first, &wanted), Some(json!({ "loop_wait": wanted["loop_wait"] })));
    }

    #[test]
    fn how_files_reach_the_disk_is_said_only_to_those_who_know_it() {
        for (version, said) in [("16.15", false), ("17.0", true), ("18.6", true)] {
            let template = template("db", &spec(json!({})), version.parse().unwrap(), 3, "id");
            for options in [&template["bootstrap"]["initdb"], &template["postgresql"]["basebackup"]] {
                assert_eq!(options.to_string().contains("sync-method"), said, "{version}");
            }
        }
    }

    #[test]
    fn users_settings_and_lines_are_taken_in() {
        let spec = spec(
            json!({ "parameters": { "work_mem": "8MB", "max_wal_senders": "40" }, "hba": ["host all all 10.0.0.0/8 reject"] }),
        );
        let postgresql = &dynamic(&spec, 3, "id")["postgresql"];
        assert_eq!(postgresql["parameters"]["work_mem"], "8MB");
        assert_eq!(postgresql["parameters"]["max_wal_senders"], "40");
        assert_eq!(postgresql["parameters"]["max_slot_wal_keep_size"], "1024MB");
        assert_eq!(postgresql["parameters"]["wal_keep_size"], "512MB");
        let hba: Vec<&str> =
            postgresql["pg_hba"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
        let place = |line: &str| hba.iter().position(|found| *found == line).unwrap();
        assert!(
            place("hostssl replication dbctl_replication all scram-sha-256")
                < place("host all all 10.0.0.0/8 reject")
        );
        assert!(place("host all all 10.0.0.0/8 reject") < place("hostssl all all all scram-sha-256"));
        let mut dynamic = dynamic(&spec, 3, "id");
        plain_access(&mut dynamic, &spec);
        let text = dynamic["postgresql"]["pg_hba"].to_string();
        assert!(text.contains("\"host all all all scram-sha-256\"") && !text.contains("hostssl"), "{text}");
    }

    #[test]
    fn every_member_archives_and_only_a_destination_makes_it_go_anywhere() {
        let of = |value: Value| {
            let parameters = dynamic(&spec(value), 3, "0a-1b")["postgresql"]["parameters"].clone();
            assert_eq!(parameters["archive_mode"], "always");
            let text = |name: &str| parameters[name].as_str().unwrap_or("-").to_owned();
            (text("archive_command"), text("archive_timeout"))
        };
        let backup =
            |to: &str| json!({ "backup": { "enabled": true, "schedule": "0 3 * * *", "destination": to } });
        let no = ("true".to_owned(), "0".to_owned());
        assert_eq!(of(json!({})), no);
        assert_eq!(of(json!({ "backup": { "enabled": false, "destination": "s3://b/p" } })), no);
        let to = |to: &str| of(backup(to));
        let plain = r#"dbctl agent wal-push --to 's3://b/p' --archive '0a-1b' "%p""#;
        assert_eq!(to("s3://b/p"), (plain.to_owned(), "60s".to_owned()));
        let odd = r#"dbctl agent wal-push --to 's3://b/a'\''b%%20$(c)"' --archive '0a-1b' "%p""#;
        assert_eq!(to(r#"s3://b/a'b%20$(c)""#).0, odd);
        let mut own = backup("s3://b/p");
        own["parameters"] = json!({ "Archive_Timeout": "10min" });
        assert_eq!(of(own), (plain.to_owned(), "-".to_owned()));
    }

    #[test]
    fn the_locale_does_not_come_from_the_c_library() {
        let of = |version: &str| initdb(version.parse().unwrap()).to_string();
        for new in ["17.0", "18.6"] {
            assert!(of(new).contains(r#"{"locale-provider":"builtin"}"#), "{new}");
        }
        for old in ["14.0", "15.1", "16.15"] {
            assert!(of(old).contains(r#"{"locale":"C"}"#) && !of(old).contains("provider"), "{old}");
        }
    }

    #[test]
    fn a_patch_changes_what_differs_and_leaves_others_keys() {
        let wanted = json!({ "ttl": 20, "postgresql": { "use_slots": true, "parameters": { "a": "1" }, "pg_hba": ["x"] } });
        assert_eq!(config_patch(&wanted, &wanted), None);
        let live = json!({ "ttl": 30, "pause": true, "postgresql": { "use_slots": true, "parameters": { "a": "1", "b": "2" }, "pg_hba": ["y"], "other": 1 } });
        assert_eq!(
            config_patch(&live, &wanted),
            Some(json!({ "ttl": 20, "postgresql": { "parameters": { "b": null }, "pg_hba": ["x"] } }))
        );
        let mut patched = live;
        let patch = config_patch(&patched, &wanted).unwrap();
        json_patch::merge(&mut patched, &patch);
        assert_eq!(config_patch(&patched, &wanted), None);
        assert_eq!(patched["pause"], true);
    }
}
