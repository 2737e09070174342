//! What stands before Patroni: that the volume's data is what it should be after a restore in place, that nothing of a
//! restore that was cut short is taken for data, that the data is this database's, and that the database may write where its
//! backups go.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use ulid::Ulid;

use super::aside::follow;
use super::identity;
use super::member::Member;
use super::restoring::{Note, clear};
use super::store::StoreError as ApiError;
use super::wal::database;
use crate::api::{Mark, Stage};
use crate::backup::claim::{self, ClaimError, Owner};
use crate::backup::store::{DestinationError, Patience, Settings, Store, StoreError};
use crate::patroni::DynamicConfig;

/// The part of the template that is the agent's.
pub(super) const OWN: &str = "dbctl";

/// A destination that a new database needs the claim of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Archive {
    to: String,
    id: String,
}

/// What the template says to the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Where backups go.
    archive: Option<Archive>,
    /// The id of the restore in place that the template is written after.
    restore: Option<Ulid>,
}

impl Told {
    /// Takes it from the configuration, which is Patroni's then.
    pub(super) fn take(config: &mut Value) -> Self {
        let Some(own) = config.as_object_mut().and_then(|config| config.remove(OWN)) else {
            return Self::default();
        };
        let text = |key: &str| own.pointer(key)?.as_str().map(str::to_owned);
        let archive = || Some(Archive { to: text("/archive/to")?, id: text("/archive/id")? });
        let restore = text("/restore").and_then(|id| Ulid::from_string(&id).ok());
        Self { archive: archive(), restore }
    }
}

/// Why Patroni was not started.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The volume.
    #[error("remove what is left of a restore: {0}")]
    Volume(#[from] std::io::Error),
    /// The volume, where data is to be moved.
    #[error("make room for the data of restore {id}, and nothing is started on what is there: {source}")]
    Aside {
        /// The restore in place.
        id: Ulid,
        /// What came of it.
        source: std::io::Error,
    },
    /// What stands beside the data cannot be read.
    #[error("read the note of the last restore in place, without which nothing is started: {0}")]
    Mark(#[from] serde_json::Error),
    /// The configuration is another restore's.
    #[error("start before this pod's configuration is that of restore {0}")]
    Outdated(Ulid),
    /// The Kubernetes API.
    #[error("start a restore anew: {0}")]
    Api(#[from] ApiError),
    /// The volume holds another database's data.
    #[error(
        "start on {path}, which holds data of another database (system identifier {found}, this one's is {noted}): it is left as it \
         is; if nothing in it is needed, delete this member's claim and then its pod, and it is copied from the primary"
    )]
    OtherDatabase {
        /// The directory.
        path: std::path::PathBuf,
        /// Whose it is.
        found: u64,
        /// Whose it should be.
        noted: String,
    },
    /// Not a destination.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The destination is another's, or cannot be asked.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The destination cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How often it is looked whether members may start.
const LOOK: Duration = Duration::from_secs(1);
/// How long a configuration that is behind is waited for: it reaches a pod that is there only with its next container.
const BEHIND: Duration = Duration::from_secs(3);

/// Whether Patroni may be started beside that mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clearance {
    /// It may.
    Free,
    /// All members are to be stopped.
    Held,
    /// The pod's configuration says nothing of that restore yet.
    Behind,
}

/// A pod of an older template reads the same mark as one of the newest, so none of them starts on data that was replaced.
fn clearance(mark: &Mark, told: &Told) -> Clearance {
    match mark.stage {
        Stage::Stopping | Stage::Stopped => Clearance::Held,
        Stage::Restoring | Stage::Done if told.restore == Some(mark.id) => Clearance::Free,
        Stage::Restoring | Stage::Done => Clearance::Behind,
    }
}

/// Waits until members may start. Without the Kubernetes API nobody knows, and Patroni would wait for it as well.
async fn last_restore(member: &Member, told: &Told) -> Result<Option<Mark>, AdmitError> {
    let mut said = false;
    loop {
        match member.store.read("config").await.map(|map| Mark::of(&map)) {
            Ok(mark) => match mark? {
                None => return Ok(None),
                Some(mark) => match clearance(&mark, told) {
                    Clearance::Free => return Ok(Some(mark)),
                    Clearance::Behind => {
                        tokio::time::sleep(BEHIND).await;
                        return Err(AdmitError::Outdated(mark.id));
                    }
                    Clearance::Held if !said => {
                        tracing::info!("waiting: restore {} has all members stop first", mark.id);
                        said = true;
                    }
                    Clearance::Held => {}
                },
            },
            Err(error) if !said => {
                tracing::warn!("waiting until it is known of which restore the data should be: {error}");
                said = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Makes sure of all of it.
///
/// # Errors
/// Where Patroni must not be started.
pub(super) async fn admit(member: &Member, told: &Told) -> Result<(), AdmitError> {
    let data = &member.environment.data;
    if let Some(mark) = last_restore(member, told).await? {
        let (id, data) = (mark.id, data.clone());
        let done = tokio::task::spawn_blocking(move || follow(&data, &mark)).await;
        let done = done.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        done.map_err(|source| AdmitError::Aside { id, source })?;
    }
    let archive = told.archive.as_ref();
    if Note::read(data)?.is_some() {
        tracing::warn!("a restore into {} was cut short; what is left of it goes", data.display());
        clear(data)?;
        member.store.end_begun(&member.environment.name).await?;
    }
    // Patroni would end, and say so only in its log. Where nobody can say whose it is, it is left to Patroni.
    if !is_empty(data) {
        let noted = member.store.read("config").await.ok().and_then(|map| DynamicConfig::of(&map).initialize);
        return match (identity::foreign(data, noted.as_deref()), noted) {
            (Some(found), Some(noted)) => Err(AdmitError::OtherDatabase { path: data.clone(), found, noted }),
            _ => Ok(()),
        };
    }
    let Some(archive) = archive else { return Ok(()) };
    // A member of a database that is there comes without it.
    let known = member.store.read("config").await.map(|map| DynamicConfig::of(&map).initialize);
    if known.is_ok_and(|id| id.is_some_and(|id| !id.is_empty())) {
        return Ok(());
    }
    let store = Store::open(&archive.to.parse()?, &Settings::of_process(), Patience::SHORT)?;
    let owner = Owner { archive: archive.id.clone(), database: database(|name| std::env::var(name).ok()) };
    Ok(claim::hold(&store, &owner).await?)
}

fn is_empty(data: &Path) -> bool {
    std::fs::read_dir(data).map_or(true, |mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patroni_does_not_see_what_is_not_its_own() {
        let mut config = json!({ "scope": "db", "dbctl": { "archive": { "to": "s3://b/x", "id": "u-1" } } });
        let archive = Some(Archive { to: "s3://b/x".to_owned(), id: "u-1".to_owned() });
        assert_eq!(Told::take(&mut config), Told { archive, restore: None });
        assert_eq!(config, json!({ "scope": "db" }));
        assert_eq!(Told::take(&mut config), Told::default());
        let id = Ulid::from_parts(5, 5);
        let mut config = json!({ "dbctl": { "restore": id.to_string() } });
        assert_eq!(Told::take(&mut config).restore, Some(id));
    }

    #[test]
    fn nobody_starts_while_members_stop_or_with_an_older_configuration() {
        let (id, older) = (Ulid::from_parts(5, 5), Ulid::from_parts(4, 4));
        let told = |restore: Option<Ulid>| Told { archive: None, restore };
        for (stage, current, other) in [
            ("Stopping", Clearance::Held, Clearance::Held),
            ("Stopped", Clearance::Held, Clearance::Held),
            ("Restoring", Clearance::Free, Clearance::Behind),
            ("Done", Clearance::Free, Clearance::Behind),
        ] {
            let mark: Mark = serde_json::from_value(json!({ "id": id, "old": id, "stage": stage })).unwrap();
            assert_eq!(clearance(&mark, &told(Some(id))), current, "{stage}");
            for behind in [None, Some(older)] {
                assert_eq!(clearance(&mark, &told(behind)), other, "{stage}");
            }
        }
    }
}
