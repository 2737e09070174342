//! Whom the sandbox's own database controller acts as: its service account, with the role of `manifests/rbac.yaml` and
//! nothing else, as in a cluster.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::api::FIELD_MANAGER;
use crate::cli::error::{CliError, Result};
use crate::install::{ACCOUNT, NAMESPACE, Scope, apply, namespace_object, rbac};
use crate::sandbox::process;

/// How long a token is asked for.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How often the clock is looked at: a machine that slept wakes up to a token that has expired.
const POLL: Duration = Duration::from_secs(20);

/// A token in a file, and when it is to be replaced.
#[derive(Debug)]
pub struct Identity {
    file: PathBuf,
    renew: Timestamp,
}

/// Makes the account, its role and the binding, and gets a token.
///
/// # Errors
/// Where the API server refuses, or the file cannot be written.
pub async fn prepare(admin: &Client, state: &Path) -> Result<Identity> {
    let failed = |error: &dyn Display| CliError::failed(format!("give the controller its role: {error}"));
    for object in std::iter::once(namespace_object(NAMESPACE)).chain(rbac(NAMESPACE, Scope::Cluster)) {
        apply(admin, FIELD_MANAGER, object).await.map_err(|error| failed(&error))?;
    }
    let mut identity = Identity { file: state.join("controller-token"), renew: Timestamp::UNIX_EPOCH };
    identity.renew(admin).await.map_err(|error| failed(&error))?;
    Ok(identity)
}

/// Why there is no new token.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("get a token for the controller: {0}")]
    Api(#[from] kube::Error),
    #[error("write the controller's token: {0}")]
    File(#[from] std::io::Error),
}

impl Identity {
    /// The file that always holds a good token.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Replaces the token before it expires, until told to stop.
    pub async fn keep(
        mut self,
        admin: Client,
        stop: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = stop.cancelled() => return Ok(()),
            }
            if Timestamp::now() >= self.renew
                && let Err(error) = self.renew(&admin).await
            {
                tracing::warn!("failed to {error}");
            }
        }
    }

    async fn renew(&mut self, admin: &Client) -> Result<(), RenewError> {
        let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), NAMESPACE);
        let spec = TokenRequestSpec {
            expiration_seconds: i64::try_from(LIFETIME.as_secs()).ok(),
            ..Default::default()
        };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let answer = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await?;
        let status = answer.status.unwrap_or_default();
        process::write_atomically(&self.file, status.token.unwrap_or_default().as_bytes(), 0o600)?;
        self.renew = renewal(Timestamp::now(), status.expiration_timestamp.map(|time| time.0));
        Ok(())
    }
}

/// After four fifths of what is left.
fn renewal(now: Timestamp, expires: Option<Timestamp>) -> Timestamp {
    let left = expires.map_or(SignedDuration::ZERO, |expires| expires.duration_since(now));
    now + (left * 4 / 5).max(SignedDuration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_while_it_is_still_good() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(renewal(at(1000), Some(at(2000))), at(1800));
        assert_eq!(renewal(at(1000), Some(at(900))), at(1000));
        assert_eq!(renewal(at(1000), None), at(1000));
    }
}
