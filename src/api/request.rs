//! Requests: imperative verbs, written as annotations on a Database.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{GROUP, PgVersion};

/// How long after it was made a request may still be taken up.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Annotations of [`GROUP`] that are settings, not requests.
const SETTINGS: &[&str] = &["paused"];

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Take a base backup now.
    Backup,
    /// Move the primary's role.
    Failover,
    /// Restart members.
    Restart,
    /// Replace the data from a backup.
    Restore,
    /// Go on with a rollout that has halted.
    Resume,
    /// Upgrade the data to the next major version.
    Upgrade,
    /// Take a major upgrade back.
    AbortUpgrade,
    /// Make new passwords.
    RotateCredentials,
    /// Restore a backup aside, and check it.
    Verify,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Verb; 9] = [
        Self::Backup,
        Self::Failover,
        Self::Restart,
        Self::Restore,
        Self::Resume,
        Self::Upgrade,
        Self::AbortUpgrade,
        Self::RotateCredentials,
        Self::Verify,
    ];

    /// It takes long, disturbs nobody, and keeps nobody from anything but from doing the same at the same time.
    pub fn is_aside(self) -> bool {
        matches!(self, Self::Backup | Self::Verify)
    }

    /// The annotation that holds a request of this verb.
    pub fn annotation(self) -> String {
        format!("{GROUP}/{self}")
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backup => "backup",
            Self::Failover => "failover",
            Self::Restart => "restart",
            Self::Restore => "restore",
            Self::Resume => "resume",
            Self::Upgrade => "upgrade",
            Self::AbortUpgrade => "abort-upgrade",
            Self::RotateCredentials => "rotate-credentials",
            Self::Verify => "verify",
        })
    }
}

impl FromStr for Verb {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|verb| verb.to_string() == text).ok_or(())
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Made by who asks; a request of an id that was answered is not run again.
    pub id: Ulid,
    /// UID of the Database that is meant, so that a re-created one does not run it.
    pub uid: String,
    /// The verb's own arguments.
    #[serde(flatten)]
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

/// What a backup request asks for: nothing more than a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupArguments {}

/// What a request for a verification asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyArguments {
    /// The backup's id; the newest good one without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
}

/// What a request to go on asks for: nothing more than that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResumeArguments {}

/// What a request for a major upgrade asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpgradeArguments {
    /// The release to go to; spec.version must say the same.
    pub to: PgVersion,
    /// Share files with the old data, which cannot be gone back to then once the new was started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub link: bool,
    /// Go without a backup where none is configured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_backup: bool,
}

/// What a request to take a major upgrade back asks for: nothing more than that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AbortUpgradeArguments {}

/// What a request for new passwords asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RotateArguments {
    /// Whose.
    pub of: CredentialsOf,
}

/// Whose passwords.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialsOf {
    /// Both.
    #[default]
    All,
    /// That of the applications' role: Secret `NAME-app`.
    App,
    /// Those that members use among themselves, and the superuser's: Secret `NAME-internal`.
    Internal,
}

/// What a failover request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FailoverArguments {
    /// The member that is to be primary; the fittest without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The primary that whoever asks saw. If another one leads by now, the request is about something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Promote although commits may be lost.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// What a restart request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestartArguments {
    /// The one member to restart; all without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

/// What a request for a restore in place asks for: new data, or the old data back, or the end of what is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RestoreArguments {
    /// The base backup to begin with; the newest that fits without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Everything that was committed by then: RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_time: Option<String>,
    /// Up to that WAL position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_lsn: Option<String>,
    /// Up to that restore point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_name: Option<String>,
    /// The old data is removed before the new is made, for volumes without room for both.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub without_old: bool,
    /// Put the old data back, in place of a restore that did not come to its end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub undo: bool,
    /// Remove kept data: the ids of the restores that moved it aside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub discard: Vec<Ulid>,
}

/// Why a request is not taken up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No such verb.
    #[error(
        "unknown verb {0:?}: known are backup, failover, restart, restore, resume, upgrade, abort-upgrade, rotate-credentials and verify"
    )]
    UnknownVerb(String),
    /// Not the JSON of a request.
    #[error("malformed {verb} request: {problem}")]
    Malformed {
        /// The annotation's verb.
        verb: String,
        /// What the parser said.
        problem: String,
    },
    /// For another object.
    #[error("the {0} request names another object's uid")]
    OtherObject(Verb),
    /// Too old.
    #[error("the {0} request is more than an hour old")]
    Expired(Verb),
}

impl Request {
    /// Reads a request from its annotation.
    ///
    /// # Errors
    /// Where the text is not a request's JSON.
    pub fn parse(verb: Verb, text: &str) -> Result<Self, RequestError> {
        serde_json::from_str(text)
            .map_err(|error| RequestError::Malformed { verb: verb.to_string(), problem: error.to_string() })
    }

    /// The arguments that its verb takes.
    ///
    /// # Errors
    /// Where they are not such arguments.
    pub fn arguments<T: serde::de::DeserializeOwned>(&self, verb: Verb) -> Result<T, RequestError> {
        serde_json::from_value(serde_json::Value::Object(self.arguments.clone()))
            .map_err(|error| RequestError::Malformed { verb: verb.to_string(), problem: error.to_string() })
    }

    /// Whether it is meant for this object, now.
    ///
    /// # Errors
    /// Where it names another object, or is too old.
    pub fn check(&self, verb: Verb, uid: &str, now: jiff::Timestamp) -> Result<(), RequestError> {
        let made = i64::try_from(self.id.timestamp_ms()).unwrap_or(i64::MAX);
        let lifetime = i64::try_from(LIFETIME.as_millis()).unwrap_or(i64::MAX);
        if self.uid != uid {
            Err(RequestError::OtherObject(verb))
        } else if made.saturating_add(lifetime) < now.as_millisecond() {
            Err(RequestError::Expired(verb))
        } else {
            Ok(())
        }
    }
}

/// A request annotation as found: the verb's text, the raw value, and what it means.
pub type Found = (String, String, Result<(Verb, Request), RequestError>);

/// The requests among a Database's annotations, good or bad.
pub fn requests(annotations: &BTreeMap<String, String>) -> Vec<Found> {
    annotations
        .iter()
        .filter_map(|(key, text)| {
            let verb = key.strip_prefix(GROUP)?.strip_prefix('/')?;
            if SETTINGS.contains(&verb) {
                return None;
            }
            let parsed = Verb::from_str(verb)
                .map_err(|()| RequestError::UnknownVerb(verb.to_owned()))
                .and_then(|known| Request::parse(known, text).map(|request| (known, request)));
            Some((verb.to_owned(), text.clone(), parsed))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_good_and_bad_requests_and_leaves_settings() {
        let id = Ulid::from_parts(1_000, 7);
        let annotations = BTreeMap::from([
            ("db.example.com/failover".to_owned(), format!(r#"{{"id":"{id}","uid":"u","to":"db-1"}}"#)),
            ("db.example.com/restart".to_owned(), "{".to_owned()),
            ("db.example.com/dance".to_owned(), "{}".to_owned()),
            ("db.example.com/paused".to_owned(), "true".to_owned()),
            ("example.com/backup".to_owned(), "{}".to_owned()),
        ]);
        let found = requests(&annotations);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].2, Err(RequestError::UnknownVerb("dance".into())));
        let (verb, request) = found[1].2.clone().unwrap();
        assert_eq!((verb, request.id, request.arguments["to"].as_str()), (Verb::Failover, id, Some("db-1")));
        assert!(matches!(&found[2].2, Err(RequestError::Malformed { verb, .. }) if verb == "restart"));
    }

    #[test]
    fn arguments_are_those_of_the_verb() {
        let read = |text: &str| {
            let id = Ulid::from_parts(1, 1);
            let text = format!(r#"{{"id":"{id}","uid":"u"{text}}}"#);
            Request::parse(Verb::Failover, &text).unwrap().arguments::<FailoverArguments>(Verb::Failover)
        };
        let forced = FailoverArguments { to: Some("db-1".into()), from: None, force: true };
        assert_eq!(read(r#","to":"db-1","force":true"#), Ok(forced));
        assert_eq!(read(""), Ok(FailoverArguments::default()));
        for wrong in [r#","too":"db-1""#, r#","force":"yes""#, r#","to":1"#] {
            assert!(matches!(read(wrong), Err(RequestError::Malformed { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_request_is_for_one_object_and_one_hour() {
        let request =
            Request { id: Ulid::from_parts(1_000_000, 0), uid: "u".into(), arguments: Default::default() };
        let at = |ms| jiff::Timestamp::from_millisecond(ms).unwrap();
        assert_eq!(request.check(Verb::Backup, "u", at(1_000_000 + 3_600_000)), Ok(()));
        assert_eq!(
            request.check(Verb::Backup, "u", at(1_000_001 + 3_600_000)),
            Err(RequestError::Expired(Verb::Backup))
        );
        assert_eq!(
            request.check(Verb::Backup, "v", at(1_000_000)),
            Err(RequestError::OtherObject(Verb::Backup))
        );
    }
}
