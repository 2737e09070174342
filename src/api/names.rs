//! Names of a database and of the objects made for it, and the labels they carry.

use std::collections::BTreeMap;
use std::fmt;

/// The API group.
pub const GROUP: &str = "db.example.com";
/// The field manager of every server-side apply.
pub const FIELD_MANAGER: &str = "dbctl";
/// Annotation of the Database definition, and of the Lease of the controller that works: the version of the dbctl that wrote
/// it.
pub const DBCTL_VERSION: &str = "db.example.com/dbctl-version";
/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Holds a deleted Database until what its deletion policy asks for is done.
pub const FINALIZER: &str = "db.example.com/cleanup";
/// Label with the database's name on every object of it.
pub const LABEL_DATABASE: &str = "db.example.com/database";
/// Label that Patroni keeps on each pod.
pub const LABEL_ROLE: &str = "db.example.com/role";
/// Annotation of a Database that, where it says `true`, has the schedule of backups rest.
pub const PAUSED: &str = "db.example.com/paused";

/// `app.kubernetes.io/name` of backups' Jobs and their pods: what selects members does not select them.
pub const BACKUP_NAME: &str = "postgresql-backup";

/// The same of verifications of backups.
pub const VERIFY_NAME: &str = "postgresql-verify";

/// [`LABEL_ROLE`] of the holder of the leader lock.
pub const ROLE_PRIMARY: &str = "primary";
/// [`LABEL_ROLE`] of a running replica.
pub const ROLE_REPLICA: &str = "replica";

/// Longest name of a database: with `-headless` and a member's ordinal it stays a DNS label (63 characters), and with
/// a StatefulSet's revision hash a label value.
const NAME_MAX: usize = 40;

/// A database's name: a DNS label of at most 40 characters that begins with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseName(String);

/// What is wrong with a database's name, or nothing.
pub fn name_problem(name: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let wrong = if name.is_empty() {
        "is empty"
    } else if name.len() > NAME_MAX {
        "is too long"
    } else if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        "does not begin with a lower-case letter"
    } else if name.ends_with('-') {
        "ends with '-'"
    } else if !name.bytes().all(plain) {
        "has characters other than a-z, 0-9 and '-'"
    } else {
        return None;
    };
    Some(format!(
        "{name:?} {wrong}: a name has at most {NAME_MAX} characters of a-z, 0-9 and '-', begins with a letter and does not end with '-'"
    ))
}

impl std::str::FromStr for DatabaseName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name_problem(name) {
            Some(problem) => Err(problem),
            None => Ok(Self(name.to_owned())),
        }
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for DatabaseName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// The names of the objects that belong to one database.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a>(pub &'a str);

impl Names<'_> {
    /// StatefulSet, write Service, PodDisruptionBudget, ServiceAccount, Role and RoleBinding.
    pub fn main(&self) -> String {
        self.0.to_owned()
    }

    /// Service that leads to the replicas.
    pub fn read_only_service(&self) -> String {
        format!("{}-ro", self.0)
    }

    /// Service that clients outside the cluster reach: the primary, or the replicas.
    pub fn external_service(&self, replicas: bool) -> String {
        format!("{}-external{}", self.0, if replicas { "-ro" } else { "" })
    }

    /// Service that gives members their DNS names.
    pub fn headless_service(&self) -> String {
        format!("{}-headless", self.0)
    }

    /// ConfigMap with the rendered Patroni configuration.
    pub fn config(&self) -> String {
        format!("{}-patroni", self.0)
    }

    /// Patroni's leader lock.
    pub fn leader(&self) -> String {
        format!("{}-leader", self.0)
    }

    /// Patroni's dynamic configuration, system identifier and history.
    pub fn dynamic_config(&self) -> String {
        format!("{}-config", self.0)
    }

    /// Patroni's manual failover requests.
    pub fn failover(&self) -> String {
        format!("{}-failover", self.0)
    }

    /// Patroni's list of synchronous standbys.
    pub fn sync(&self) -> String {
        format!("{}-sync", self.0)
    }

    /// The four ConfigMaps that Patroni keeps.
    pub fn patroni_objects(&self) -> [String; 4] {
        [self.leader(), self.dynamic_config(), self.failover(), self.sync()]
    }

    /// Secret with the passwords that members use among themselves.
    pub fn internal_secret(&self) -> String {
        format!("{}-internal", self.0)
    }

    /// Secret for users: how to connect.
    pub fn app_secret(&self) -> String {
        format!("{}-app", self.0)
    }

    /// Secret with the authority that signs the server's certificate.
    pub fn authority_secret(&self) -> String {
        format!("{}-ca", self.0)
    }

    /// Secret with the server's certificate.
    pub fn certificate_secret(&self) -> String {
        format!("{}-tls", self.0)
    }

    /// Every Secret.
    pub fn secrets(&self) -> [String; 4] {
        [self.internal_secret(), self.app_secret(), self.authority_secret(), self.certificate_secret()]
    }

    /// CronJob that takes backups.
    pub fn backup_schedule(&self) -> String {
        format!("{}-backup", self.0)
    }

    /// The one Job that takes the backup that a request asks for.
    pub fn backup_job(&self, request: &str) -> String {
        format!("{}-backup-{}", self.0, tail(request))
    }

    /// CronJob that verifies backups.
    pub fn verify_schedule(&self) -> String {
        format!("{}-verify", self.0)
    }

    /// The one Job of the verification that a request asks for.
    pub fn verify_job(&self, request: &str) -> String {
        format!("{}-verify-{}", self.0, tail(request))
    }

    /// ConfigMap with what is known of backups.
    pub fn backups(&self) -> String {
        format!("{}-backups", self.0)
    }

    /// The member with that ordinal.
    pub fn member(&self, ordinal: i32) -> String {
        format!("{}-{ordinal}", self.0)
    }

    /// The volume claim of the member with that ordinal.
    pub fn claim(&self, ordinal: i32) -> String {
        format!("data-{}-{ordinal}", self.0)
    }

    /// The ordinal of a member's pod, if the name is one of a member.
    pub fn ordinal(&self, pod: &str) -> Option<i32> {
        let ordinal = pod.strip_prefix(self.0)?.strip_prefix('-')?;
        let number: i32 = ordinal.parse().ok()?;
        (number.to_string() == ordinal && number >= 0).then_some(number)
    }

    /// Labels of every object of the database.
    pub fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("app.kubernetes.io/name".into(), "postgresql".into()),
            ("app.kubernetes.io/instance".into(), self.0.into()),
            ("app.kubernetes.io/managed-by".into(), FIELD_MANAGER.into()),
            (LABEL_DATABASE.into(), self.0.into()),
        ])
    }

    /// Labels of backups' Jobs and their pods.
    pub fn backup_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels();
        labels.insert("app.kubernetes.io/name".into(), BACKUP_NAME.into());
        labels
    }

    /// Labels of verifications' Jobs and their pods.
    pub fn verify_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels();
        labels.insert("app.kubernetes.io/name".into(), VERIFY_NAME.into());
        labels
    }

    /// Selector of the members' pods. Jobs' pods carry [`LABEL_DATABASE`] too, so the name alone is not enough.
    pub fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("app.kubernetes.io/name".into(), "postgresql".into()),
            (LABEL_DATABASE.into(), self.0.into()),
        ])
    }
}

/// The end of a request's id, a ULID: its random part.
fn tail(request: &str) -> String {
    let tail: String = request.chars().skip(request.chars().count().saturating_sub(10)).collect();
    tail.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels_that_begin_with_a_letter() {
        for good in ["a", "orders-db", "o2", &"x".repeat(40)] {
            assert_eq!(name_problem(good), None);
        }
        for bad in ["", "2fast", "-a", "a-", "Orders", "a_b", "a.b", "é", &"x".repeat(41)] {
            assert!(name_problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_request_has_one_job_with_a_name_that_fits() {
        let longest = "x".repeat(NAME_MAX);
        let name = Names(&longest).backup_job("01JD6Z2V6E8K3Q4R5T6Y7W8X9Z");
        assert_eq!(name, format!("{longest}-backup-5t6y7w8x9z"));
        assert!(name.len() <= 63 && Names(&longest).backup_schedule().len() <= 52);
        assert!(Names("db").selector().iter().any(|(key, value)| Names("db").backup_labels()[key] != *value));
        let name = Names(&longest).verify_job("01JD6Z2V6E8K3Q4R5T6Y7W8X9Z");
        assert!(name.len() <= 63 && Names(&longest).verify_schedule().len() <= 52);
        assert!(Names("db").selector().iter().any(|(key, value)| Names("db").verify_labels()[key] != *value));
    }

    #[test]
    fn ordinals_are_read_back_only_from_members() {
        let names = Names("db");
        assert_eq!(names.ordinal(&names.member(12)), Some(12));
        for other in ["db", "db-", "db-x", "db-01", "db--1", "db-ro", "other-1", "dbx-1"] {
            assert_eq!(names.ordinal(other), None, "{other}");
        }
    }
}
