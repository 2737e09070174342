//! The checks that the CRD makes, and those it cannot make, for clients that want the answer before they send.

use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

use super::database::{DESTINATION, LSN};
use super::hba::hba_problem;
use super::{
    Backup, DatabaseSpec, DatabaseStatus, Names, OWNED_PARAMETERS, PgVersion, Quantity, REPLICAS_MAX,
    Resources, RestoreFrom, name_problem, parameter_problem, value_problem,
};

/// A field and what is wrong with it; the message ends a sentence that begins with the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Violation {
    /// Path of the field, for example `spec.replicas`.
    pub field: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

static DESTINATION_FORM: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(DESTINATION).ok());

static LSN_FORM: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(LSN).ok());

static PARAMETER: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?$").ok());

/// A list of violations in the making.
struct Checks(Vec<Violation>);

impl Checks {
    fn wrong(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Violation { field: field.to_owned(), message: message.into() });
    }

    fn require(&mut self, holds: bool, field: &str, message: impl Into<String>) {
        if !holds {
            self.wrong(field, message);
        }
    }
}

/// What is wrong with a Database of that name and spec.
pub fn check_spec(name: &str, spec: &DatabaseSpec) -> Vec<Violation> {
    let mut checks = Checks(Vec::new());
    if let Some(problem) = name_problem(name) {
        checks.wrong("metadata.name", problem);
    }
    checks.require(
        (1..=REPLICAS_MAX).contains(&spec.replicas),
        "spec.replicas",
        format!("{} is not allowed: 1 to {REPLICAS_MAX}", spec.replicas),
    );
    check_size(&mut checks, &spec.storage.size);
    for (name, value) in &spec.parameters {
        let field = format!("spec.parameters.{name}");
        // To PostgreSQL, `Fsync` is `fsync`.
        let owned = OWNED_PARAMETERS.iter().any(|owned| owned.eq_ignore_ascii_case(name));
        checks.require(!owned, &field, "is set by dbctl and cannot be given");
        let named = PARAMETER.as_ref().is_some_and(|form| form.is_match(name));
        checks.require(
            named,
            &field,
            "is not the name of a setting: letters, digits, '_', and '.' before an extension's",
        );
        let one_line = !value.contains(char::is_control);
        let problem =
            parameter_problem(name, spec.version).or_else(|| value_problem(name, value).filter(|_| one_line));
        if let Some(problem) = problem.filter(|_| named && !owned) {
            checks.wrong(&field, problem);
        }
        checks.require(one_line, &field, "must be one line without control characters");
        checks.require(value.len() <= 1024, &field, "is too long: at most 1024 characters");
    }
    check_commit(&mut checks, spec);
    if let Some(resources) = &spec.resources {
        check_resources(&mut checks, resources);
    }
    for (index, line) in spec.hba.iter().enumerate() {
        let good = !line.trim().is_empty() && line.len() <= 1024 && !line.contains(['\n', '\r']);
        let field = format!("spec.hba[{index}]");
        checks.require(good, &field, "must be one line of at most 1024 characters");
        if let Some(problem) = hba_problem(line).filter(|_| good) {
            checks.wrong(&field, problem);
        }
    }
    if let Some(secret) = spec.tls.as_ref().and_then(|tls| tls.certificate_secret.as_ref()) {
        check_certificate(&mut checks, name, secret);
    }
    if let Some(backup) = &spec.backup {
        check_backup(&mut checks, backup);
    }
    if let Some(from) = &spec.restore_from {
        check_restore(&mut checks, from);
    }
    checks.0
}

/// The form of a Secret's name.
static SECRET: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$").ok());

fn check_certificate(checks: &mut Checks, name: &str, secret: &str) {
    let field = "spec.tls.certificateSecret";
    let good = secret.len() <= 253 && SECRET.as_ref().is_some_and(|form| form.is_match(secret));
    checks.require(good, field, format!("{secret:?} is not the name of a Secret"));
    let own = Names(name).secrets().iter().any(|own| own == secret);
    checks.require(
        !own,
        field,
        format!("{secret:?} is what dbctl itself uses: it names a Secret of your own"),
    );
}

/// What makes a commit wait for a standby, in PostgreSQL's spellings of it.
const WAITING_COMMITS: [&str; 6] = ["on", "true", "yes", "1", "remote_write", "remote_apply"];

/// With `off` or `local`, a commit is acknowledged before any standby has it, whatever Patroni asks for.
fn check_commit(checks: &mut Checks, spec: &DatabaseSpec) {
    if !spec.synchronous || spec.replicas < 2 {
        return;
    }
    let given = spec.parameters.iter().filter(|(name, _)| name.eq_ignore_ascii_case("synchronous_commit"));
    for (name, value) in given {
        let waits = WAITING_COMMITS.iter().any(|known| known.eq_ignore_ascii_case(value));
        checks.require(
            waits,
            &format!("spec.parameters.{name}"),
            format!(
                "{value:?} is not allowed while spec.synchronous is true: on, remote_write or remote_apply; with less, a \
                 failover loses commits that were acknowledged, which synchronous: false allows"
            ),
        );
    }
}

/// The API server takes no pod whose container may use less than is set aside for it.
fn check_resources(checks: &mut Checks, resources: &Resources) {
    for (name, limit) in &resources.limits {
        if let Some(request) = resources.requests.get(name).filter(|request| *request > limit) {
            checks.wrong(
                &format!("spec.resources.limits.{name}"),
                format!(
                    "{limit} is less than spec.resources.requests.{name}, {request}: it must be at least that"
                ),
            );
        }
    }
}

/// No cluster fits into less: whoever asks for it forgot the unit.
const SMALLEST_VOLUME: i128 = 1 << 20;

fn check_size(checks: &mut Checks, size: &Quantity) {
    let text = size.as_str();
    let problem = match size.value() {
        ..=0 => format!("{text:?} is not allowed: must be above zero, for example 50Gi"),
        1..SMALLEST_VOLUME if text.ends_with('m') => {
            let meant = text.trim_end_matches('m');
            format!(
                "{text:?} is not allowed: m means thousandths, here of a byte; write {meant}Mi for mebibytes"
            )
        }
        bytes @ 1..SMALLEST_VOLUME => {
            format!("{text:?} is not allowed: that is {bytes} bytes; write it with a unit, for example 50Gi")
        }
        _ => return,
    };
    checks.wrong("spec.storage.size", problem);
}

fn check_destination(checks: &mut Checks, field: &str, destination: &str) {
    let good = DESTINATION_FORM.as_ref().is_some_and(|form| form.is_match(destination));
    checks.require(
        good,
        field,
        format!("{destination:?} is not a destination: s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH or file:///PATH"),
    );
}

fn check_cron(checks: &mut Checks, field: &str, schedule: &str) {
    if let Err(error) = croner::Cron::from_str(schedule) {
        checks.wrong(
            field,
            format!("{schedule:?} is not a schedule ({error}): five fields, for example \"0 3 * * *\""),
        );
    }
}

fn check_backup(checks: &mut Checks, backup: &Backup) {
    if backup.enabled {
        checks.require(
            backup.destination.is_some(),
            "spec.backup.destination",
            "is needed by an enabled backup",
        );
        checks.require(backup.schedule.is_some(), "spec.backup.schedule", "is needed by an enabled backup");
    }
    if let Some(destination) = &backup.destination {
        check_destination(checks, "spec.backup.destination", destination);
    }
    for (field, cron) in [("spec.backup.schedule", &backup.schedule), ("spec.backup.verify", &backup.verify)]
    {
        if let Some(cron) = cron {
            check_cron(checks, field, cron);
        }
    }
    if let Some(zone) = &backup.time_zone {
        checks.require(
            jiff::tz::TimeZone::get(zone).is_ok(),
            "spec.backup.timeZone",
            format!("{zone:?} is not a time zone: for example UTC or Europe/Berlin"),
        );
    }
    checks.require(
        (1..=1000).contains(&backup.retention),
        "spec.backup.retention",
        format!("{} is not allowed: 1 to 1000", backup.retention),
    );
}

fn check_restore(checks: &mut Checks, from: &RestoreFrom) {
    checks.require(
        from.destination.is_some() != from.database.is_some(),
        "spec.restoreFrom",
        "needs either destination or database",
    );
    if let Some(destination) = &from.destination {
        check_destination(checks, "spec.restoreFrom.destination", destination);
    }
    if let Some(time) = &from.target_time {
        checks.require(
            jiff::Timestamp::from_str(time).is_ok(),
            "spec.restoreFrom.targetTime",
            format!("{time:?} is not an instant: for example 2026-11-22T03:00:00Z"),
        );
    }
    if let Some(lsn) = &from.target_lsn {
        checks.require(
            LSN_FORM.as_ref().is_some_and(|form| form.is_match(lsn)),
            "spec.restoreFrom.targetLsn",
            format!("{lsn:?} is not a WAL position: for example 0/3000148"),
        );
    }
    if let Some(name) = &from.target_name {
        checks.require(
            (1..=63).contains(&name.len()) && !name.contains(char::is_control),
            "spec.restoreFrom.targetName",
            format!("{name:?} is not the name of a restore point: at most 63 bytes"),
        );
    }
    let targets = [&from.target_time, &from.target_lsn, &from.target_name];
    checks.require(
        targets.iter().filter(|target| target.is_some()).count() <= 1,
        "spec.restoreFrom",
        "has at most one of targetTime, targetLsn and targetName",
    );
}

/// What is wrong with changing a Database from one spec to another, given what it runs.
pub fn check_change(
    old: &DatabaseSpec,
    new: &DatabaseSpec,
    status: Option<&DatabaseStatus>,
) -> Vec<Violation> {
    let mut checks = Checks(Vec::new());
    checks.require(
        new.storage.size >= old.storage.size,
        "spec.storage.size",
        format!("storage cannot shrink from {} to {}", old.storage.size, new.storage.size),
    );
    checks.require(
        old.storage.storage_class_name == new.storage.storage_class_name,
        "spec.storage.storageClassName",
        "storageClassName is immutable",
    );
    checks.require(old.restore_from == new.restore_from, "spec.restoreFrom", "restoreFrom is immutable");
    let running =
        status.and_then(|status| status.version.as_deref()).and_then(|text| PgVersion::from_str(text).ok());
    if let Some(running) = running {
        checks.require(
            new.version.major() <= running.major() + 1,
            "spec.version",
            format!("cannot jump from {running} to {}: upgrade one major version at a time", new.version),
        );
        checks.require(
            new.version.major() >= running.major(),
            "spec.version",
            format!("cannot go back from {running} to {}: an older major cannot read the data", new.version),
        );
    }
    checks.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> DatabaseSpec {
        let mut base = json!({ "version": "16.3", "storage": { "size": "1Gi" } });
        json_patch::merge(&mut base, &value);
        serde_json::from_value(base).unwrap()
    }

    fn fields(violations: &[Violation]) -> Vec<&str> {
        violations.iter().map(|v| v.field.as_str()).collect()
    }

    #[test]
    fn good_specs_pass() {
        for value in [
            json!({}),
            json!({ "replicas": 9, "parameters": { "work_mem": "64MB" }, "hba": ["host all all 10.0.0.0/8 reject"] }),
            json!({ "backup": { "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/p", "timeZone": "Europe/Berlin" } }),
            json!({ "backup": { "enabled": false } }),
            json!({ "replicas": 1, "parameters": { "synchronous_commit": "off" } }),
            json!({ "replicas": 3, "parameters": { "synchronous_commit": "Remote_Apply" } }),
            json!({ "replicas": 3, "synchronous": false, "parameters": { "synchronous_commit": "local" } }),
            json!({ "restoreFrom": { "database": "orders-db", "targetTime": "2026-11-22T03:00:00Z" } }),
            json!({ "resources": { "requests": { "cpu": "500m", "memory": "1Gi" }, "limits": { "memory": "1024Mi" } } }),
            json!({ "resources": { "limits": { "cpu": "1", "memory": "1Gi" } } }),
        ] {
            assert_eq!(check_spec("orders-db", &spec(value.clone())), vec![], "{value}");
        }
    }

    #[test]
    fn a_size_in_thousandths_is_told_from_one_in_mebibytes() {
        let wrong = check_spec("db", &spec(json!({ "storage": { "size": "10m" } })));
        let text = wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(text.contains("thousandths") && text.contains("write 10Mi"), "{text}");
    }

    #[test]
    fn each_bad_field_is_named() {
        for (value, field) in [
            (json!({ "replicas": 0 }), "spec.replicas"),
            (json!({ "replicas": 10 }), "spec.replicas"),
            (json!({ "storage": { "size": "0" } }), "spec.storage.size"),
            (json!({ "storage": { "size": "-1Gi" } }), "spec.storage.size"),
            (json!({ "storage": { "size": "5" } }), "spec.storage.size"),
            (json!({ "storage": { "size": "500m" } }), "spec.storage.size"),
            (json!({ "parameters": { "archive_command": "x" } }), "spec.parameters.archive_command"),
            (json!({ "parameters": { "Archive_Command": "x" } }), "spec.parameters.Archive_Command"),
            (json!({ "parameters": { "work_mem": "1MB'\nfsync = off" } }), "spec.parameters.work_mem"),
            (json!({ "parameters": { "a = 1": "" } }), "spec.parameters.a = 1"),
            (
                json!({ "replicas": 2, "parameters": { "synchronous_commit": "off" } }),
                "spec.parameters.synchronous_commit",
            ),
            (
                json!({ "replicas": 3, "parameters": { "Synchronous_Commit": "LOCAL" } }),
                "spec.parameters.Synchronous_Commit",
            ),
            (
                json!({ "resources": { "requests": { "cpu": "1", "memory": "1Gi" }, "limits": { "cpu": "1", "memory": "500Mi" } } }),
                "spec.resources.limits.memory",
            ),
            (json!({ "hba": ["a\nb"] }), "spec.hba[0]"),
            (json!({ "tls": { "certificateSecret": "" } }), "spec.tls.certificateSecret"),
            (json!({ "tls": { "certificateSecret": "My_Own" } }), "spec.tls.certificateSecret"),
            (json!({ "parameters": { "ssl": "off" } }), "spec.parameters.ssl"),
            (json!({ "hba": ["# fine", "garbage"] }), "spec.hba[1]"),
            (json!({ "backup": { "enabled": true, "schedule": "0 3 * * *" } }), "spec.backup.destination"),
            (json!({ "backup": { "destination": "ftp://x" } }), "spec.backup.destination"),
            (json!({ "backup": { "schedule": "99 * * * *" } }), "spec.backup.schedule"),
            (json!({ "backup": { "timeZone": "Mars/Base" } }), "spec.backup.timeZone"),
            (json!({ "backup": { "retention": 0 } }), "spec.backup.retention"),
            (json!({ "restoreFrom": {} }), "spec.restoreFrom"),
            (
                json!({ "restoreFrom": { "database": "a", "targetLsn": "3000148" } }),
                "spec.restoreFrom.targetLsn",
            ),
            (json!({ "restoreFrom": { "database": "a", "targetName": "" } }), "spec.restoreFrom.targetName"),
            (
                json!({ "restoreFrom": { "database": "a", "targetName": "x", "targetLsn": "0/3000148" } }),
                "spec.restoreFrom",
            ),
            (
                json!({ "restoreFrom": { "database": "a", "targetTime": "noon" } }),
                "spec.restoreFrom.targetTime",
            ),
        ] {
            assert_eq!(fields(&check_spec("orders-db", &spec(value.clone()))), [field], "{value}");
        }
        assert_eq!(fields(&check_spec("Orders", &spec(json!({})))), ["metadata.name"]);
    }

    #[test]
    fn changes_that_would_lose_data_are_refused() {
        let old = spec(json!({ "storage": { "size": "2Gi" } }));
        let running = DatabaseStatus { version: Some("16.3".into()), ..Default::default() };
        for (value, field) in [
            (json!({ "storage": { "size": "1Gi" } }), "spec.storage.size"),
            (
                json!({ "storage": { "size": "2Gi", "storageClassName": "fast" } }),
                "spec.storage.storageClassName",
            ),
            (json!({ "storage": { "size": "2Gi" }, "version": "18.1" }), "spec.version"),
            (json!({ "storage": { "size": "2Gi" }, "version": "15.1" }), "spec.version"),
        ] {
            assert_eq!(fields(&check_change(&old, &spec(value.clone()), Some(&running))), [field], "{value}");
        }
        let up = spec(json!({ "storage": { "size": "3Gi" }, "version": "17.1" }));
        assert_eq!(check_change(&old, &up, Some(&running)), vec![]);
    }
}
