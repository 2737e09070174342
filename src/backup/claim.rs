//! Whose a destination is.
//!
//! Two clusters in one archive could restore neither. The system identifier does not tell them apart: a restored clone has
//! its source's. So a destination's root holds a claim with the archive id of the database that came first. The id is kept
//! with the objects that outlive a Database, so that one that is created again over retained data goes on in its archive.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout::CLAIM;
use super::store::{Created, Store, StoreError};

/// The version of the layout.
const FORMAT: u32 = 1;

/// The content of `claim.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The layout's version.
    pub format: u32,
    /// The archive's id.
    pub archive: String,
    /// For people: namespace and name of the database that came first.
    pub database: String,
    /// When, by the clock of whoever wrote it.
    pub claimed_at: Timestamp,
}

/// Who writes into a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The archive's id.
    pub archive: String,
    /// Namespace and name of the database.
    pub database: String,
}

/// Why a destination may not be written to.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It is another's.
    #[error(
        "write to {destination}: it is the archive of {database} ({archive}) since {claimed_at}, and another database must never write there; \
         give this one a destination of its own"
    )]
    Taken {
        /// The destination.
        destination: String,
        /// Whose it is.
        database: String,
        /// The id of that archive.
        archive: String,
        /// Since when.
        claimed_at: Timestamp,
    },
    /// The claim is not one that this release can read.
    #[error("read the claim {destination}/{CLAIM}: {problem}")]
    Unreadable {
        /// The destination.
        destination: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The claim of a destination, if there is one.
///
/// # Errors
/// Where it cannot be read.
pub async fn find(store: &Store) -> Result<Option<Claim>, ClaimError> {
    match store.get(CLAIM).await? {
        Some(bytes) => parse(store, &bytes).map(Some),
        None => Ok(None),
    }
}

/// Makes sure that the destination is this owner's: claims it where nobody has.
///
/// # Errors
/// Where it is another's, or cannot be asked.
pub async fn hold(store: &Store, owner: &Owner) -> Result<(), ClaimError> {
    let claim = match find(store).await? {
        Some(claim) => claim,
        None => make(store, owner).await?,
    };
    if claim.archive == owner.archive {
        return Ok(());
    }
    Err(ClaimError::Taken {
        destination: store.destination().to_string(),
        database: claim.database,
        archive: claim.archive,
        claimed_at: claim.claimed_at,
    })
}

/// Writes the claim; returns the one that is there then.
async fn make(store: &Store, owner: &Owner) -> Result<Claim, ClaimError> {
    let claim = Claim {
        format: FORMAT,
        archive: owner.archive.clone(),
        database: owner.database.clone(),
        claimed_at: Timestamp::now(),
    };
    let text = serde_json::to_vec_pretty(&claim).map_err(|error| ClaimError::Unreadable {
        destination: store.destination().to_string(),
        problem: error.to_string(),
    })?;
    match store.create(CLAIM, Bytes::from(text)).await? {
        Created::Mine => Ok(claim),
        Created::Other(bytes) => parse(store, &bytes),
    }
}

fn parse(store: &Store, bytes: &[u8]) -> Result<Claim, ClaimError> {
    let unreadable =
        |problem| ClaimError::Unreadable { destination: store.destination().to_string(), problem };
    let claim: Claim = serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
    if claim.format == FORMAT {
        Ok(claim)
    } else {
        Err(unreadable(format!("it is of format {}, and this release knows {FORMAT}", claim.format)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(archive: &str) -> Owner {
        Owner { archive: archive.to_owned(), database: format!("shop/{archive}") }
    }

    #[tokio::test]
    async fn a_destination_has_one_owner() {
        let store = Store::in_memory();
        assert_eq!(find(&store).await.unwrap(), None);
        hold(&store, &owner("first")).await.unwrap();
        hold(&store, &owner("first")).await.unwrap();
        let error = hold(&store, &owner("second")).await.unwrap_err();
        assert!(
            error.to_string().starts_with("write to s3://memory/p: it is the archive of shop/first (first)")
        );
        assert_eq!(find(&store).await.unwrap().unwrap().archive, "first");
    }

    #[tokio::test]
    async fn of_many_at_once_one_wins() {
        let store = Store::in_memory();
        let owners: Vec<Owner> = (0..8).map(|n| owner(&n.to_string())).collect();
        let all = futures::future::join_all(owners.iter().map(|owner| hold(&store, owner))).await;
        assert_eq!(all.iter().filter(|result| result.is_ok()).count(), 1);
    }

    #[tokio::test]
    async fn what_is_no_claim_is_not_overwritten() {
        for text in
            ["", "{}", r#"{"format":2,"archive":"a","database":"b","claimedAt":"2026-11-22T00:00:00Z"}"#]
        {
            let store = Store::in_memory();
            store.put(CLAIM, text.into()).await.unwrap();
            assert!(matches!(hold(&store, &owner("a")).await, Err(ClaimError::Unreadable { .. })), "{text}");
            assert_eq!(store.get(CLAIM).await.unwrap(), Some(text.into()));
        }
    }
}
