//! dbctl's own installation: the definition of Databases, and who works for them.

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::{Notes, read};
use crate::api::{DBCTL_VERSION, crd};
use crate::cli::doctor::evidence::{Cluster, Controllers, Definition, LeaseState, Unread};
use crate::cli::install::found;
use crate::cli::session::Session;
use crate::cli::version;
use crate::install::{ACCOUNT, NAMESPACE};

/// After that long, a Lease that is renewed has been.
const RENEWED: Duration = Duration::from_secs(4);

/// The definition, and who works.
pub async fn cluster_wide(session: &Session, everywhere: bool, cluster: &mut Cluster, notes: &mut Notes) {
    let definitions: Api<CustomResourceDefinition> = Api::all(session.client.clone());
    let name = crd().name_any();
    let (definition, controllers) =
        tokio::join!(read(definitions.get_opt(&name)), controllers(session, everywhere));
    cluster.definition = notes.take("the definition of Databases", definition).map(|found| match found {
        None => Definition::Missing,
        Some(found) if found.metadata.deletion_timestamp.is_some() => Definition::Going,
        Some(found) => Definition::There(found.annotations().get(DBCTL_VERSION).cloned()),
    });
    if !cluster.sandbox {
        let what = format!("the controller in namespace {NAMESPACE}");
        let found = notes.take(&what, controllers);
        cluster.controllers = found.map(|(place, found)| {
            cluster.place = place;
            found
        });
    }
}

/// Who works for the databases that are looked at, and where: in dbctl's own namespace, or beside them.
async fn controllers(session: &Session, everywhere: bool) -> Result<(String, Controllers), Unread> {
    let mut places = vec![NAMESPACE.to_owned(), session.namespace.clone()];
    places.dedup();
    let own = format!("{ACCOUNT}-{}", session.namespace);
    let works = |lease: &Lease| {
        let name = lease.metadata.name.as_deref().unwrap_or_default();
        everywhere || name == ACCOUNT || name == own
    };
    let found = join_all(places.iter().map(|place| controllers_in(session, place, &works))).await;
    let mut unread = None;
    let mut all = Vec::new();
    for (place, found) in places.into_iter().zip(found) {
        match found {
            Ok(found) => all.push((place, found)),
            Err(error) => unread = unread.or(Some(error)),
        }
    }
    let rank = |(_, found): &(String, Controllers)| match &found.lease {
        Some(lease) if lease.alive => 0,
        _ if found.deployment.is_some() => 1,
        Some(_) => 2,
        None => 3,
    };
    all.sort_by_key(rank);
    match (all.into_iter().next(), unread) {
        // Where one place cannot be seen, nobody knows that nobody works.
        (Some(found), unread) if rank(&found) == 0 || unread.is_none() => Ok(found),
        (_, Some(unread)) => Err(unread),
        (found, None) => Ok(found.unwrap_or_else(|| (NAMESPACE.to_owned(), Controllers::default()))),
    }
}

async fn controllers_in(
    session: &Session,
    place: &str,
    works: &impl Fn(&Lease) -> bool,
) -> Result<Controllers, Unread> {
    let client = || session.client.clone();
    let leases: Api<Lease> = Api::namespaced(client(), place);
    let deployments: Api<Deployment> = Api::namespaced(client(), place);
    let pods: Api<Pod> = Api::namespaced(client(), place);
    let ours = ListParams::default().labels(&found::labels());
    let everything = ListParams::default();
    let (all, deployments, pods) =
        tokio::join!(read(leases.list(&everything)), read(deployments.list(&ours)), read(pods.list(&ours)));
    let (all, deployments) = (all?, deployments?);
    let mut lease = newest(&all.items, works);
    // Clocks of two machines differ: one that is renewed while somebody looks is alive, whatever the time.
    if let Some(quiet) = lease.clone().filter(|lease| !lease.alive) {
        tokio::time::sleep(RENEWED).await;
        let again = newest(&read(leases.list(&everything)).await?.items, works);
        lease =
            again.map(|again| LeaseState { alive: again.alive || again.renewed != quiet.renewed, ..again });
    }
    let deployment = deployments.iter().map(found::Controller::of).next();
    Ok(Controllers {
        lease,
        deployment: deployment.map(|deployment| (deployment.ready, deployment.replicas)),
        pods: pods.into_iter().flatten().filter_map(|pod| serde_json::to_value(pod).ok()).collect(),
    })
}

/// The Lease that was renewed last.
fn newest(leases: &[Lease], works: &impl Fn(&Lease) -> bool) -> Option<LeaseState> {
    let now = Timestamp::now();
    let held = leases
        .iter()
        .filter(|lease| works(lease))
        .filter_map(|lease| Some((lease, version::tenancy(lease, now)?)));
    held.min_by_key(|(_, held)| held.silent).map(|(lease, held)| LeaseState {
        holder: held.holder.to_owned(),
        version: held.version.map(str::to_owned),
        renewed: lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0),
        alive: held.silent <= held.lease,
    })
}
