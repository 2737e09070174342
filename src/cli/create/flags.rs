//! Every field of a Database's spec as a flag.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::api::PgVersion;

/// The volume's size where nothing is said.
pub const DEFAULT_STORAGE: &str = "10Gi";
/// When base backups are taken where only their destination is said: at night.
const DEFAULT_SCHEDULE: &str = "0 3 * * *";

/// Flags that fill the spec. Values stay text here: they are checked with the whole object, so that one run names
/// everything that is wrong.
#[derive(Debug, Default, Args)]
pub struct SpecFlags {
    /// Number of members, 1 to 9: one primary, the others replicas [default: 1]
    #[arg(long, value_name = "N", help_heading = "Database", allow_negative_numbers = true)]
    replicas: Option<String>,

    /// Exact PostgreSQL release
    #[arg(long, value_name = "MAJOR.MINOR", help_heading = "Database", help = format!("Exact PostgreSQL release [default: {}]", PgVersion::DEFAULT))]
    version: Option<String>,

    /// Size of each member's volume, for example 50Gi [default: 10Gi]
    #[arg(long, value_name = "SIZE", help_heading = "Database", allow_negative_numbers = true)]
    storage: Option<String>,

    /// Storage class of the volumes [default: the cluster's]
    #[arg(long, value_name = "NAME", help_heading = "Database")]
    storage_class: Option<String>,

    /// What happens to volumes and credentials when the database is deleted [default: retain]
    #[arg(long, value_enum, ignore_case = true, value_name = "POLICY", help_heading = "Database")]
    deletion_policy: Option<DeletionFlag>,

    /// No failover loses an acknowledged commit (the default)
    #[arg(long, help_heading = "Database", overrides_with = "no_synchronous")]
    synchronous: bool,

    /// Trade that for latency: a failover may lose the last commits
    #[arg(long, help_heading = "Database", overrides_with = "synchronous")]
    no_synchronous: bool,

    /// Setting of postgresql.conf; may be repeated
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = pair, help_heading = "Database")]
    parameters: Vec<(String, String)>,

    /// Line of pg_hba.conf, placed before dbctl's last ones; may be repeated
    #[arg(long, value_name = "LINE", help_heading = "Database")]
    hba: Vec<String>,

    /// Secret with the server's certificate (tls.crt, tls.key, ca.crt) [default: dbctl makes and renews one]
    #[arg(long, value_name = "SECRET", help_heading = "Database")]
    certificate_secret: Option<String>,

    /// CPU that is set aside for each member, for example 500m
    #[arg(long, value_name = "AMOUNT", help_heading = "Resources and placement")]
    cpu: Option<String>,

    /// Memory that is set aside for each member, for example 1Gi
    #[arg(long, value_name = "AMOUNT", help_heading = "Resources and placement")]
    memory: Option<String>,

    /// CPU that no member exceeds
    #[arg(long, value_name = "AMOUNT", help_heading = "Resources and placement")]
    cpu_limit: Option<String>,

    /// Memory that no member exceeds
    #[arg(long, value_name = "AMOUNT", help_heading = "Resources and placement")]
    memory_limit: Option<String>,

    /// Label that a member's node must carry; may be repeated
    #[arg(long, value_name = "LABEL=VALUE", value_parser = pair, help_heading = "Resources and placement")]
    node_selector: Vec<(String, String)>,

    /// Taint that members tolerate; may be repeated
    #[arg(long = "toleration", value_name = "KEY[=VALUE][:EFFECT]", value_parser = toleration, help_heading = "Resources and placement")]
    tolerations: Vec<Value>,

    /// Priority class of the members' pods
    #[arg(long, value_name = "NAME", help_heading = "Resources and placement")]
    priority_class: Option<String>,

    /// Where backups go: s3://, gs://, az:// or file://
    #[arg(long = "backup-to", alias = "backup-destination", value_name = "URL", help_heading = "Backup")]
    backup_to: Option<String>,

    /// When base backups are taken: five cron fields [default: '0 3 * * *', with --backup-to]
    #[arg(long, value_name = "CRON", help_heading = "Backup")]
    backup_schedule: Option<String>,

    /// How many good base backups are kept [default: 14]
    #[arg(long, value_name = "N", help_heading = "Backup", value_parser = clap::value_parser!(i32))]
    backup_retention: Option<i32>,

    /// Secret with the destination's credentials
    #[arg(long, value_name = "SECRET", help_heading = "Backup")]
    backup_credentials: Option<String>,

    /// Time zone of the schedules [default: UTC]
    #[arg(long, value_name = "ZONE", help_heading = "Backup")]
    backup_time_zone: Option<String>,

    /// When the newest backup is restored and checked: five cron fields
    #[arg(long, value_name = "CRON", help_heading = "Backup")]
    backup_verify: Option<String>,

    /// Take no backups, whatever the file says
    #[arg(long, help_heading = "Backup")]
    no_backup: bool,

    /// Fill the new database from this backup destination (a URL), or from that of this database (a name)
    #[arg(long, value_name = "URL|NAME", help_heading = "Restore")]
    restore_from: Option<String>,

    /// The base backup to start from [default: the newest that fits]
    #[arg(long, value_name = "ID", help_heading = "Restore", requires = "restore_from")]
    restore_backup: Option<String>,

    /// The instant to recover to (RFC 3339) [default: the end of the archive]
    #[arg(long, value_name = "TIME", help_heading = "Restore", requires = "restore_from")]
    restore_time: Option<String>,
}

/// [`crate::api::DeletionPolicy`] as a flag.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DeletionFlag {
    /// They stay, and creating the database again by the same name adopts them
    Retain,
    /// They are deleted too
    Delete,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

fn toleration(text: &str) -> Result<Value, String> {
    let (rest, effect) = match text.rsplit_once(':') {
        Some((rest, effect)) if EFFECTS.contains(&effect) => (rest, Some(effect)),
        Some((_, effect)) => {
            return Err(format!("{effect:?} is not an effect: {}", EFFECTS.join(", ")));
        }
        None => (text, None),
    };
    let mut made = match rest.split_once('=') {
        _ if rest.is_empty() || rest.starts_with('=') => return Err("write KEY[=VALUE][:EFFECT]".to_owned()),
        Some((key, value)) => json!({ "key": key, "operator": "Equal", "value": value }),
        None => json!({ "key": rest, "operator": "Exists" }),
    };
    if let Some(effect) = effect {
        made["effect"] = json!(effect);
    }
    Ok(made)
}

/// The flag that fills a field, for messages.
pub fn flag_of(field: &str) -> Option<&'static str> {
    const FLAGS: &[(&str, &str)] = &[
        ("metadata.name", "NAME"),
        ("spec.replicas", "--replicas"),
        ("spec.version", "--version"),
        ("spec.storage.size", "--storage"),
        ("spec.storage.storageClassName", "--storage-class"),
        ("spec.parameters", "--parameter"),
        ("spec.hba", "--hba"),
        ("spec.tls.certificateSecret", "--certificate-secret"),
        ("spec.resources.requests.cpu", "--cpu"),
        ("spec.resources.requests.memory", "--memory"),
        ("spec.resources.limits.cpu", "--cpu-limit"),
        ("spec.resources.limits.memory", "--memory-limit"),
        ("spec.placement.priorityClassName", "--priority-class"),
        ("spec.backup.destination", "--backup-to"),
        ("spec.backup.schedule", "--backup-schedule"),
        ("spec.backup.retention", "--backup-retention"),
        ("spec.backup.timeZone", "--backup-time-zone"),
        ("spec.backup.verify", "--backup-verify"),
        ("spec.restoreFrom.targetTime", "--restore-time"),
        ("spec.restoreFrom", "--restore-from"),
    ];
    let below = |prefix: &str| {
        field.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    FLAGS.iter().find(|(prefix, _)| below(prefix)).map(|(_, flag)| *flag)
}

/// Puts a value at a path, making the objects on the way.
fn put(spec: &mut Map<String, Value>, path: &[&str], value: Value) {
    let [first, rest @ ..] = path else { return };
    if rest.is_empty() {
        spec.insert((*first).to_owned(), value);
        return;
    }
    let next = spec.entry(*first).or_insert_with(|| json!({}));
    if !next.is_object() {
        *next = json!({});
    }
    if let Value::Object(next) = next {
        put(next, rest, value);
    }
}

impl SpecFlags {
    /// Writes what was given into a spec.
    pub fn apply(&self, spec: &mut Map<String, Value>) {
        if let Some(replicas) = &self.replicas {
            // What is no number stays text, and is refused as such with the rest.
            let value = replicas.parse::<i64>().map_or_else(|_| json!(replicas), |number| json!(number));
            put(spec, &["replicas"], value);
        }
        let texts: [(&[&str], &Option<String>); 15] = [
            (&["version"], &self.version),
            (&["storage", "size"], &self.storage),
            (&["storage", "storageClassName"], &self.storage_class),
            (&["tls", "certificateSecret"], &self.certificate_secret),
            (&["resources", "requests", "cpu"], &self.cpu),
            (&["resources", "requests", "memory"], &self.memory),
            (&["resources", "limits", "cpu"], &self.cpu_limit),
            (&["resources", "limits", "memory"], &self.memory_limit),
            (&["placement", "priorityClassName"], &self.priority_class),
            (&["backup", "destination"], &self.backup_to),
            (&["backup", "schedule"], &self.backup_schedule),
            (&["backup", "credentialsSecret"], &self.backup_credentials),
            (&["backup", "timeZone"], &self.backup_time_zone),
            (&["backup", "verify"], &self.backup_verify),
            (&["restoreFrom", "backup"], &self.restore_backup),
        ];
        for (path, text) in texts {
            if let Some(text) = text {
                put(spec, path, json!(text));
            }
        }
        self.apply_rest(spec);
    }

    fn apply_rest(&self, spec: &mut Map<String, Value>) {
        match self.deletion_policy {
            Some(DeletionFlag::Retain) => put(spec, &["deletionPolicy"], json!("Retain")),
            Some(DeletionFlag::Delete) => put(spec, &["deletionPolicy"], json!("Delete")),
            None => {}
        }
        if self.synchronous || self.no_synchronous {
            put(spec, &["synchronous"], json!(self.synchronous));
        }
        for (name, value) in &self.parameters {
            put(spec, &["parameters", name], json!(value));
        }
        for (label, value) in &self.node_selector {
            put(spec, &["placement", "nodeSelector", label], json!(value));
        }
        if !self.hba.is_empty() {
            put(spec, &["hba"], json!(self.hba));
        }
        if !self.tolerations.is_empty() {
            put(spec, &["placement", "tolerations"], json!(self.tolerations));
        }
        if let Some(retention) = self.backup_retention {
            put(spec, &["backup", "retention"], json!(retention));
        }
        // Whoever says where or when backups go wants them.
        if self.backup_to.is_some() || self.backup_schedule.is_some() || self.no_backup {
            put(spec, &["backup", "enabled"], json!(!self.no_backup));
        }
        if self.backup_to.is_some()
            && spec.get("backup").is_none_or(|backup| backup.get("schedule").is_none())
        {
            put(spec, &["backup", "schedule"], json!(DEFAULT_SCHEDULE));
        }
        if let Some(from) = &self.restore_from {
            let field = if from.contains("://") { "destination" } else { "database" };
            put(spec, &["restoreFrom", field], json!(from));
        }
        if let Some(time) = &self.restore_time {
            put(spec, &["restoreFrom", "targetTime"], json!(time));
        }
    }
}

/// What a spec made of flags alone has besides them.
pub fn defaults(spec: &mut Map<String, Value>) {
    spec.entry("replicas").or_insert(json!(1));
    spec.entry("version").or_insert(json!(PgVersion::DEFAULT.to_string()));
    if spec.get("storage").and_then(|storage| storage.get("size")).is_none() {
        put(spec, &["storage", "size"], json!(DEFAULT_STORAGE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        spec: SpecFlags,
    }

    fn spec(args: &[&str]) -> Value {
        let line = Line::try_parse_from([&["x"], args].concat()).unwrap();
        let mut spec = Map::new();
        line.spec.apply(&mut spec);
        Value::Object(spec)
    }

    #[test]
    fn each_flag_fills_its_field_and_no_other() {
        for (args, expected) in [
            (vec!["--replicas", "3"], json!({ "replicas": 3 })),
            (vec!["--replicas", "three"], json!({ "replicas": "three" })),
            (
                vec!["--storage", "5Gi", "--storage-class", "fast"],
                json!({ "storage": { "size": "5Gi", "storageClassName": "fast" } }),
            ),
            (vec!["--deletion-policy", "Delete"], json!({ "deletionPolicy": "Delete" })),
            (vec!["--no-synchronous"], json!({ "synchronous": false })),
            (vec!["--no-synchronous", "--synchronous"], json!({ "synchronous": true })),
            (
                vec!["--parameter", "a=1", "--parameter", "b=x=y"],
                json!({ "parameters": { "a": "1", "b": "x=y" } }),
            ),
            (
                vec!["--cpu", "1", "--memory-limit", "1Gi"],
                json!({ "resources": { "requests": { "cpu": "1" }, "limits": { "memory": "1Gi" } } }),
            ),
            (
                vec!["--toleration", "a=b:NoExecute", "--toleration", "c"],
                json!({ "placement": { "tolerations": [
                    { "key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute" },
                    { "key": "c", "operator": "Exists" },
                ] } }),
            ),
            (
                vec!["--backup-to", "s3://b"],
                json!({ "backup": { "destination": "s3://b", "enabled": true, "schedule": "0 3 * * *" } }),
            ),
            (vec!["--no-backup"], json!({ "backup": { "enabled": false } })),
            (vec!["--restore-from", "s3://b/x"], json!({ "restoreFrom": { "destination": "s3://b/x" } })),
            (vec!["--restore-from", "orders-db"], json!({ "restoreFrom": { "database": "orders-db" } })),
        ] {
            assert_eq!(spec(&args), expected, "{args:?}");
        }
    }

    #[test]
    fn malformed_flags_say_how_to_write_them() {
        for args in [["--parameter", "novalue"], ["--toleration", "a:Never"], ["--toleration", "=b"]] {
            let line = Line::try_parse_from(["x", args[0], args[1]]);
            assert!(line.is_err(), "{args:?}");
        }
    }

    #[test]
    fn fields_lead_to_the_most_exact_flag() {
        assert_eq!(flag_of("spec.restoreFrom.targetTime"), Some("--restore-time"));
        assert_eq!(flag_of("spec.hba[0]"), Some("--hba"));
        assert_eq!(flag_of("spec.versions"), None);
    }
}
