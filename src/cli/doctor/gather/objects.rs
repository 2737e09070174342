//! What Kubernetes knows of a database: its objects, events about them, and the nodes that its pods are on.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

use super::{Notes, read};
use crate::api::{LABEL_DATABASE, Names};
use crate::cli::doctor::evidence::{Patient, Unread};
use crate::cli::session::Session;
use crate::cli::{ask, events};
use crate::patroni::Lock;
use crate::plan::{Kind, NodeState, Observed, text};

/// The objects that belong to it.
pub async fn objects(session: &Session, name: &str, patient: &mut Patient, notes: &mut Notes) {
    let (client, namespace) = (&session.client, &session.namespace);
    let labelled = ListParams::default().labels(&format!("{LABEL_DATABASE}={name}"));
    let everything = ListParams::default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let all_events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let set = Names(name).main();
    let (pods, maps, slices, claims, jobs, set, all_events) = tokio::join!(
        read(pods.list(&labelled)),
        read(maps.list(&labelled)),
        read(slices.list(&labelled)),
        read(claims.list(&labelled)),
        read(jobs.list(&labelled)),
        read(sets.get_opt(&set)),
        read(all_events.list(&everything)),
    );
    let observed = &mut patient.observed;
    let pods = notes.take("pods", pods);
    pods.iter().flatten().for_each(|pod| ask::insert(observed, Kind::Pod, pod));
    let maps = notes.take("ConfigMaps", maps);
    maps.iter().flatten().for_each(|map| ask::insert(observed, Kind::ConfigMap, map));
    let slices = notes.take("EndpointSlices", slices);
    slices.iter().flatten().for_each(|slice| ask::insert(observed, Kind::EndpointSlice, slice));
    let claims = notes.take("claims", claims);
    claims.iter().flatten().for_each(|claim| ask::insert(observed, Kind::PersistentVolumeClaim, claim));
    let jobs = notes.take("Jobs", jobs);
    jobs.iter().flatten().for_each(|job| ask::insert(observed, Kind::Job, job));
    let set = notes.take("the StatefulSet", set).flatten();
    set.iter().for_each(|set| ask::insert(observed, Kind::StatefulSet, set));
    let lock = observed.get(Kind::ConfigMap, &Names(name).leader()).map(Lock::of).unwrap_or_default();
    observed.lock_age = ask::lock_age(&lock, Timestamp::now());
    let told = notes.take("events", all_events);
    patient.events = told.into_iter().flatten().filter(|event| events::concerns(name, event)).collect();
}

pub fn pods_nodes(observed: &Observed) -> BTreeSet<String> {
    let nodes = observed.all(Kind::Pod).filter_map(|pod| text(pod, "/spec/nodeName"));
    nodes.map(str::to_owned).collect()
}

/// The nodes, and which of them are gone.
pub async fn nodes(
    session: &Session,
    names: &BTreeSet<String>,
) -> Result<BTreeMap<String, Option<Value>>, Unread> {
    let api: Api<Node> = Api::all(session.client.clone());
    let found = join_all(names.iter().map(|name| read(api.get_opt(name)))).await;
    let mut all = BTreeMap::new();
    for (name, node) in names.iter().zip(found) {
        all.insert(name.clone(), node?.and_then(|node| serde_json::to_value(node).ok()));
    }
    Ok(all)
}

pub fn states(patient: &Patient) -> BTreeMap<String, NodeState> {
    let read = |node: &Value| serde_json::from_value::<Node>(node.clone()).ok();
    let known = patient.nodes.iter().filter_map(|(name, node)| Some((name.clone(), read(node.as_ref()?)?)));
    known.map(|(name, node)| (name, NodeState::from(&node))).collect()
}
