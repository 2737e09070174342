//! Services' addresses: a listener for each that has ready endpoints, and none for one that has not, so that clients are
//! refused at once.

mod carry;
mod front;
mod table;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};

use super::network::Apart;
pub(super) use carry::carry;
use front::Front;
use table::table;

/// Proxies for all Services, for ever.
pub(super) async fn run(client: Client, apart: Apart) {
    let (services, service_changes) = mirror::<Service>(client.clone());
    let (slices, slice_changes) = mirror::<EndpointSlice>(client);
    let changes = futures::stream::select(service_changes, slice_changes);
    futures::pin_mut!(changes);
    let mut fronts: BTreeMap<SocketAddr, Front> = BTreeMap::new();
    while changes.next().await.is_some() {
        let (services, slices) = (services.state(), slices.state());
        let table =
            table(services.iter().map(AsRef::as_ref), slices.iter().map(AsRef::as_ref).collect::<Vec<_>>());
        fronts.retain(|address, _| table.contains_key(address));
        for (address, backends) in table {
            fronts.entry(address).or_insert_with(|| Front::open(address, apart.clone())).lead_to(backends);
        }
    }
}

/// A cache of all objects of a kind, and a signal for each change of it.
fn mirror<K>(client: Client) -> (Store<K>, impl futures::Stream<Item = ()> + Send)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(Api::<K>::all(client), watcher::Config::default())
        .default_backoff()
        .inspect_err(|error| tracing::debug!(%error, "a watch of the proxy is retried"))
        .reflect(writer)
        // Between Init and InitDone the cache still holds what it did.
        .filter_map(|event| {
            let counts = matches!(
                event,
                Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone)
            );
            std::future::ready(counts.then_some(()))
        });
    (store, events)
}
