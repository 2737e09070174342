//! Reads what a plan needs to know.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use kube::Client;

use super::cache::{Cache, Key};
use super::known::Known;
use super::resource::{namespaced, plain};
use super::retry;
use crate::api::{Database, Names};
use crate::patroni::{self, TTL_SECONDS};
use crate::plan::{Kind, LockAge, Observed, View, needed_by};

/// A lock is renewed every few seconds; beyond its ttl there is a little for the watch to tell of it.
const LOCK_LIFETIME: Duration = Duration::from_secs(TTL_SECONDS.unsigned_abs() + 2);
/// Reads by name at a time.
const LOOKUPS: usize = 8;

/// What there is of that Database.
///
/// # Errors
/// Where the API server does not answer a read by name.
pub async fn observe(
    client: &Client,
    cache: &Cache,
    known: &Known,
    patroni: &patroni::Client,
    key: &Key,
    database: &Database,
) -> Result<Observed, kube::Error> {
    let name = &key.1;
    let mut observed = Observed::default();
    for ((kind, object_name), entry) in cache.of(key) {
        if kind == Kind::ConfigMap && object_name == Names(name).leader() {
            let expired = Instant::now().duration_since(entry.changed) > LOCK_LIFETIME;
            observed.lock_age = if expired { LockAge::Expired } else { LockAge::Fresh };
        }
        observed.insert(kind, entry.object);
    }
    if database.metadata.deletion_timestamp.is_some() {
        // The last look decides whether anything is left to remove.
        known.forget(key);
    }
    for secret in known.of(key, Instant::now()) {
        observed.insert(Kind::Secret, secret);
    }
    look_up_missing(client, known, key, database, &mut observed).await?;
    ask_holder(patroni, name, &mut observed).await;
    Ok(observed)
}

/// Objects of a needed name that no label showed: somebody else's, or our own that the watch has yet to tell of. Once
/// everything is there this reads nothing but, now and then, whether the Secrets still are.
async fn look_up_missing(
    client: &Client,
    known: &Known,
    key: &Key,
    database: &Database,
    observed: &mut Observed,
) -> Result<(), kube::Error> {
    let missing: Vec<(Kind, String)> = needed_by(database, observed)
        .into_iter()
        .filter(|(kind, name)| observed.get(*kind, name).is_none())
        .collect();
    let lookups = missing.into_iter().map(|(kind, name)| async move {
        let api = namespaced(client, &key.0, kind);
        // A Secret's content is not needed here.
        let found = if kind == Kind::Secret {
            retry::read(|| api.get_metadata_opt(&name))
                .await?
                .and_then(|object| serde_json::to_value(object).ok())
        } else {
            retry::read(|| api.get_opt(&name)).await?.map(plain)
        };
        Ok::<_, kube::Error>(found.map(|object| (kind, object)))
    });
    let found: Vec<_> = stream::iter(lookups).buffer_unordered(LOOKUPS).try_collect().await?;
    for (kind, object) in found.into_iter().flatten() {
        let object = Arc::new(object);
        if kind == Kind::Secret {
            known.found(key, object.clone(), Instant::now());
        }
        observed.insert(kind, object);
    }
    Ok(())
}

/// Asks the holder of the lock what it is. No answer is an observation too.
async fn ask_holder(patroni: &patroni::Client, name: &str, observed: &mut Observed) {
    let view = View::new(name, observed);
    let holder = view.holder().map(|member| (member.name.to_owned(), member.address().map(str::to_owned)));
    let Some((holder, Some(address))) = holder else { return };
    let Ok(address) = address.parse::<IpAddr>() else { return };
    match patroni.ask(address).await {
        Ok(answer) => drop(observed.answers.insert(holder, answer)),
        Err(error) => tracing::debug!(member = %holder, %error, "the holder of the lock did not answer"),
    }
}
