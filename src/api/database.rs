//! The `Database` resource: what a user may ask for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use kube::{CustomResource, KubeSchema};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{DatabaseStatus, PgVersion, Quantity};

/// The form of a backup destination.
pub(super) const DESTINATION: &str = r"^(s3|gs|az)://[^/\s]+(/\S*)?$|^file:///\S+$";
/// The form of a cron schedule. Whether it is one is checked by those who can; a pattern keeps out what is none at all.
const SCHEDULE: &str = r"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|\S+( +\S+){4})$";

/// A position in the WAL.
pub(super) const LSN: &str = "^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$";

/// The largest number of members, the limit of what one primary should feed directly.
pub const REPLICAS_MAX: i32 = 9;

/// A replicated PostgreSQL database.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "db.example.com",
    version = "v1alpha1",
    kind = "Database",
    plural = "databases",
    shortname = "db",
    namespaced,
    status = "DatabaseStatus",
    derive = "PartialEq",
    doc = "A replicated PostgreSQL database, run by dbctl.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.ready",
        description = "Members that are ready, of those asked for"
    ),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Last Backup", type_ = "date", json_path = ".status.lastBackupTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = kube::core::Rule::new("size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 40 characters that begins with a letter"),
    validation = kube::core::Rule::new("!has(self.status) || !has(self.status.version) || int(self.spec.version.split('.')[0]) - int(self.status.version.split('.')[0]) <= 1")
        .message("spec.version may be at most one major version above the running one: upgrade one major at a time"),
    validation = kube::core::Rule::new("!has(self.status) || !has(self.status.version) || int(self.spec.version.split('.')[0]) >= int(self.status.version.split('.')[0])")
        .message("spec.version cannot go back to an older major version than the running one")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.restoreFrom) == has(oldSelf.restoreFrom)", "restoreFrom cannot be added or removed after creation"),
    validation = kube::core::Rule::new("!self.synchronous || self.replicas < 2 || !has(self.parameters) || !('synchronous_commit' in self.parameters) || self.parameters['synchronous_commit'].matches('^(?i)(on|true|yes|1|remote_write|remote_apply)$')")
        .message("parameters.synchronous_commit may be on, remote_write or remote_apply while synchronous is true: with less, a failover loses commits that were acknowledged; set synchronous to false to allow that")
)]
pub struct DatabaseSpec {
    /// Number of members: one primary, the others replicas.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: i32,

    /// Exact PostgreSQL release.
    pub version: PgVersion,

    /// The volume of each member.
    pub storage: Storage,

    /// Scheduled base backups and the WAL archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,

    /// What happens to volumes, credentials and history when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Whether a failover may lose no acknowledged commit (Patroni's quorum synchronous mode, with two or more
    /// members); false trades that for latency. While it is true, the parameter synchronous_commit may be on,
    /// remote_write or remote_apply.
    #[serde(default = "yes")]
    pub synchronous: bool,

    /// postgresql.conf settings. Those that dbctl owns are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "parameters_schema")]
    pub parameters: BTreeMap<String, String>,

    /// CPU and memory of the database container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Lines for pg_hba.conf, placed before dbctl's last ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "hba_schema")]
    pub hba: Vec<String>,

    /// How connections are secured; without it, by certificates that dbctl makes and renews.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// Where members may run; without it they are spread softly over nodes and zones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,

    /// How this database is first filled; without it, empty. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
}

/// The volume of each member.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)", "storageClassName is immutable"))]
pub struct Storage {
    /// Size of each member's volume; it can grow, never shrink.
    #[x_kube(validation = ("!isQuantity(self) || quantity(self).compareTo(quantity(oldSelf)) >= 0", "storage cannot shrink"))]
    pub size: Quantity,
    /// Storage class; without it the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// Scheduled base backups and the WAL archive.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!self.enabled || (has(self.destination) && has(self.schedule))", "an enabled backup needs a destination and a schedule"))]
pub struct Backup {
    /// Whether backups are taken and WAL is archived.
    #[serde(default)]
    pub enabled: bool,
    /// When base backups are taken: cron with five fields, for example `0 3 * * *`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 100),
        regex(pattern = SCHEDULE)
    )]
    pub schedule: Option<String>,
    /// How many good base backups are kept.
    #[serde(default = "fourteen")]
    #[schemars(range(min = 1, max = 1000))]
    pub retention: i32,
    /// Where backups go: s3://, gs://, az:// or file://.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = DESTINATION))]
    pub destination: Option<String>,
    /// Secret with the destination's credentials (`AWS_ACCESS_KEY_ID`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret: Option<String>,
    /// Time zone of the schedules, for example Europe/Berlin; UTC without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// When the newest backup is restored into a throw-away instance and checked: cron with five fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 100),
        regex(pattern = SCHEDULE)
    )]
    pub verify: Option<String>,
}

/// What happens to the data when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum DeletionPolicy {
    /// Volumes, credentials and history stay; creating the database again by the same name adopts them.
    #[default]
    Retain,
    /// Volumes, credentials and history are deleted too.
    Delete,
}

/// CPU and memory of a container.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// What is set aside: `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts_schema")]
    pub requests: BTreeMap<String, Quantity>,
    /// What is not exceeded: `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts_schema")]
    pub limits: BTreeMap<String, Quantity>,
}

/// How connections are secured.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Secret with the server's certificate, its key, and the authorities that clients and members trust (`tls.crt`, `tls.key`,
    /// `ca.crt`); somebody else renews it, and members take what is new within seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub certificate_secret: Option<String>,
}

/// Where members may run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels that a member's node must carry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that members tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Priority class of the members' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// How a database is first filled.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.destination) != has(self.database)", "restoreFrom needs either destination or database"),
    validation = ("!(has(self.targetTime) && has(self.targetLsn)) && !(has(self.targetTime) && has(self.targetName)) && !(has(self.targetLsn) && has(self.targetName))", "restoreFrom has at most one of targetTime, targetLsn and targetName"),
    validation = ("self == oldSelf", "restoreFrom is immutable")
)]
pub struct RestoreFrom {
    /// A backup destination: s3://, gs://, az:// or file://. It is read with the credentials of spec.backup.credentialsSecret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = DESTINATION))]
    pub destination: Option<String>,
    /// A Database in the same namespace, whose destination is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub database: Option<String>,
    /// The base backup to start from; without it the newest that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub backup: Option<String>,
    /// The instant to recover to (RFC 3339): everything that was committed by then. Without any target, the end of the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub target_time: Option<String>,
    /// The WAL position to recover to, for example 0/3000148.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 17), regex(pattern = LSN))]
    pub target_lsn: Option<String>,
    /// The restore point to recover to, which pg_create_restore_point made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub target_name: Option<String>,
}

/// Settings that dbctl or Patroni sets itself; `spec.parameters` may not hold them.
///
/// Patroni forces the first group (<https://patroni.readthedocs.io/en/latest/patroni_configuration.html>); the second
/// are what replication, failover and archiving stand on.
pub const OWNED_PARAMETERS: &[&str] = &[
    "cluster_name",
    "hot_standby",
    "listen_addresses",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "recovery_target_action",
    "recovery_target_inclusive",
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "synchronous_standby_names",
    "wal_log_hints",
    "archive_command",
    "archive_library",
    "archive_mode",
    "data_directory",
    "config_file",
    "external_pid_file",
    "fsync",
    "full_page_writes",
    "hba_file",
    "ident_file",
    "unix_socket_directories",
    "wal_level",
    "ssl",
    "ssl_cert_file",
    "ssl_key_file",
];

fn one() -> i32 {
    1
}

fn yes() -> bool {
    true
}

fn fourteen() -> i32 {
    14
}

/// A map of settings with one rule per owned name: one rule over all of them would need a budget that the API
/// server's estimator does not grant for sure.
fn parameters_schema(_: &mut SchemaGenerator) -> Schema {
    let rules: Vec<_> = OWNED_PARAMETERS
        .iter()
        .map(|name| {
            serde_json::json!({
                "rule": format!("!('{name}' in self)"),
                "message": format!("{name} is set by dbctl and cannot be given"),
            })
        })
        .collect();
    json_schema!({
        "type": "object",
        "maxProperties": 256,
        "additionalProperties": { "type": "string", "maxLength": 1024 },
        "x-kubernetes-validations": rules
    })
}

fn amounts_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "pattern": r"^\+?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE]-?[0-9]+)?$"
        }
    })
}

fn hba_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": { "type": "string", "minLength": 1, "maxLength": 1024, "pattern": r"^[^\r\n]+$" }
    })
}
