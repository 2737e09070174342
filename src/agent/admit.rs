//! What stands before Patroni: that the database may write where its backups go, and that nothing of a restore that was cut
//! short is taken for data.

use std::path::Path;

use serde_json::Value;

use super::member::Member;
use super::restoring::{Note, clear};
use super::store::StoreError as ApiError;
use super::wal::database;
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

impl Archive {
    /// Takes it from the configuration, which is Patroni's then.
    pub(super) fn take(config: &mut Value) -> Option<Self> {
        let own = config.as_object_mut()?.remove(OWN)?;
        let text = |key: &str| own.pointer(key)?.as_str().map(str::to_owned);
        Some(Self { to: text("/archive/to")?, id: text("/archive/id")? })
    }
}

/// Why Patroni was not started.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The volume.
    #[error("remove what is left of a restore: {0}")]
    Volume(#[from] std::io::Error),
    /// The Kubernetes API.
    #[error("start a restore anew: {0}")]
    Api(#[from] ApiError),
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

/// Makes sure of both.
///
/// # Errors
/// Where Patroni must not be started.
pub(super) async fn admit(member: &Member, archive: Option<&Archive>) -> Result<(), AdmitError> {
    let data = &member.environment.data;
    if Note::read(data)?.is_some() {
        tracing::warn!("a restore into {} was cut short; what is left of it goes", data.display());
        clear(data)?;
        member.store.end_begun(&member.environment.name).await?;
    }
    let Some(archive) = archive.filter(|_| is_empty(data)) else { return Ok(()) };
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
        let expected = Archive { to: "s3://b/x".to_owned(), id: "u-1".to_owned() };
        assert_eq!(Archive::take(&mut config), Some(expected));
        assert_eq!(config, json!({ "scope": "db" }));
        assert_eq!(Archive::take(&mut config), None);
    }
}
