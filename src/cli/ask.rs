//! Asking a database's members how they are, as the controller does: what is decided by must be younger than a status.
//!
//! A user's machine is seldom on the pods' network, so each member is asked through the API server's port-forward. Where
//! that is forbidden or fails, there is what the member last wrote on its own pod.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;
use tokio::time::Instant;

use super::error::Result;
use super::session::Session;
use super::{api_error, members};
use crate::api::{LABEL_DATABASE, Names};
use crate::patroni::{Answer, Lock, REST_PORT};
use crate::plan::{Kind, LockAge, NodeState, Observed};

/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a member is asked again that does not: plans call nobody silent for less.
const SILENCE: Duration = Duration::from_secs(3);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What was seen, and what was not.
#[derive(Debug, Default)]
pub struct Sight {
    /// What there is, as a plan reads it.
    pub observed: Observed,
    /// Why members did not answer, by member.
    pub silent: BTreeMap<String, String>,
}

/// Why a member did not answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Whoever asks has not the right.
    #[error("you may not forward ports to pods")]
    Forbidden,
    /// It takes too long.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    TooSlow,
    /// The API server's or the kubelet's words.
    #[error("{0}")]
    Refused(String),
    /// The API server does not answer.
    #[error("{0}")]
    Kube(#[from] kube::Error),
    /// Nothing came of the forwarding.
    #[error("the port was not forwarded")]
    NoStream,
    /// It speaks no HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// No such request can be made.
    #[error("{0}")]
    Request(#[from] http::Error),
    /// It answers something else.
    #[error("{0}")]
    Unreadable(#[from] serde_json::Error),
}

/// Reads what there is of a database, and asks every member.
///
/// # Errors
/// Where the API server does not answer, or something that is needed may not be read.
pub async fn look(session: &Session, name: &str, doing: &str) -> Result<Sight> {
    let mut observed =
        objects(session, name).await.map_err(|error| api_error::explain(session, doing, &error))?;
    let pods: Vec<(String, Option<String>)> = observed
        .all(Kind::Pod)
        .map(|pod| {
            let node = pod.pointer("/spec/nodeName").and_then(serde_json::Value::as_str);
            (crate::plan::name_of(pod).to_owned(), node.map(str::to_owned))
        })
        .collect();
    let asked = join_all(pods.iter().map(|(member, _)| ask(session, member)));
    let (answers, nodes) =
        tokio::join!(asked, nodes(session, pods.iter().filter_map(|(_, node)| node.clone())));
    let mut silent = BTreeMap::new();
    for ((member, _), answer) in pods.iter().zip(answers) {
        match answer {
            Ok(answer) => drop(observed.answers.insert(member.clone(), answer)),
            Err((why, silence)) => {
                // Only who was asked can have been silent.
                if !matches!(why, NoAnswer::Forbidden) {
                    observed.silent.insert(member.clone(), silence);
                }
                silent.insert(member.clone(), why.to_string());
            }
        }
    }
    observed.nodes = nodes;
    Ok(Sight { observed, silent })
}

/// The objects that a plan reads about members and their lock.
async fn objects(session: &Session, name: &str) -> kube::Result<Observed> {
    let (client, namespace) = (&session.client, &session.namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let of_members = ListParams::default().labels(&members::selector(name));
    let of_database = ListParams::default().labels(&format!("{LABEL_DATABASE}={name}"));
    let set = Names(name).main();
    let (pods, maps, slices, set) = tokio::try_join!(
        pods.list(&of_members),
        maps.list(&of_database),
        slices.list(&of_database),
        sets.get_opt(&set)
    )?;
    let mut observed = Observed::default();
    pods.iter().for_each(|pod| insert(&mut observed, Kind::Pod, pod));
    maps.iter().for_each(|map| insert(&mut observed, Kind::ConfigMap, map));
    slices.iter().for_each(|slice| insert(&mut observed, Kind::EndpointSlice, slice));
    set.iter().for_each(|set| insert(&mut observed, Kind::StatefulSet, set));
    let lock = observed.get(Kind::ConfigMap, &Names(name).leader()).map(Lock::of).unwrap_or_default();
    observed.lock_age = lock_age(&lock, jiff::Timestamp::now());
    Ok(observed)
}

/// Adds an object to what was observed.
pub fn insert(observed: &mut Observed, kind: Kind, object: &impl Serialize) {
    if let Ok(object) = serde_json::to_value(object) {
        observed.insert(kind, object);
    }
}

/// One look cannot tell whether a lock is being renewed but by comparing clocks, the holder's with this machine's. Where
/// they differ, the holder's own answer still tells.
pub fn lock_age(lock: &Lock, now: jiff::Timestamp) -> LockAge {
    let age = lock.renewed.and_then(|renewed| Duration::try_from(now.duration_since(renewed)).ok());
    LockAge::after(age.unwrap_or_default())
}

/// What is known of nodes; whoever may not read them, which belong to the whole cluster, knows nothing.
pub async fn nodes(session: &Session, names: impl Iterator<Item = String>) -> BTreeMap<String, NodeState> {
    let api: Api<Node> = Api::all(session.client.clone());
    let names: std::collections::BTreeSet<String> = names.collect();
    let found = join_all(names.iter().map(|name| api.get_opt(name))).await;
    let known = found.into_iter().filter_map(|node| node.ok().flatten());
    known.map(|node| (node.name_any(), NodeState::from(&node))).collect()
}

/// What a member says of itself, or why it said nothing and for how long.
///
/// # Errors
/// Where it does not answer within a few seconds, or may not be asked.
pub async fn ask(session: &Session, member: &str) -> Result<Answer, (NoAnswer, Duration)> {
    let begun = Instant::now();
    loop {
        match ask_once(session, member).await {
            Ok(answer) => return Ok(answer),
            Err(NoAnswer::Forbidden) => return Err((NoAnswer::Forbidden, Duration::ZERO)),
            Err(why) if begun.elapsed() >= SILENCE => return Err((why, begun.elapsed())),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn ask_once(session: &Session, member: &str) -> Result<Answer, NoAnswer> {
    Ok(serde_json::from_slice(&fetch(session, member, REST_PORT, "/patroni").await?)?)
}

/// What a pod answers at that port to `GET PATH`, whatever the status.
///
/// # Errors
/// Where it does not answer in time, or may not be asked.
pub async fn fetch(session: &Session, pod: &str, port: u16, path: &str) -> Result<bytes::Bytes, NoAnswer> {
    let pods: Api<Pod> = Api::namespaced(session.streaming.clone(), &session.namespace);
    let answer = async {
        let mut forwarder = pods.portforward(pod, &[port]).await.map_err(refusal)?;
        let stream = forwarder.take_stream(port).ok_or(NoAnswer::NoStream)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request =
            http::Request::get(path).header("host", "localhost").body(Empty::<bytes::Bytes>::new())?;
        let body = sender.send_request(request).await?.into_body().collect().await;
        connection.abort();
        Ok(body?.to_bytes())
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(NoAnswer::TooSlow))
}

/// An upgrade that was refused tells no more than its status.
fn refusal(error: kube::Error) -> NoAnswer {
    use kube::client::UpgradeConnectionError::ProtocolSwitch;
    match &error {
        kube::Error::Api(status) if status.code == 403 => NoAnswer::Forbidden,
        kube::Error::UpgradeConnection(ProtocolSwitch(code)) if code.as_u16() == 403 => NoAnswer::Forbidden,
        // kube shows the whole object otherwise.
        kube::Error::Api(status) => NoAnswer::Refused(status.message.clone()),
        _ => NoAnswer::Kube(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::OUT_OF_SERVICE;
    use serde_json::json;

    #[test]
    fn a_lock_is_fresh_for_as_long_as_it_lives() {
        let now = "2026-11-22T10:00:30Z".parse().unwrap();
        for (renewed, expected) in [
            (Some("2026-11-22T10:00:28Z"), LockAge::Fresh),
            (Some("2026-11-22T10:00:08Z"), LockAge::Fresh),
            (Some("2026-11-22T10:00:07Z"), LockAge::Expired),
            // A holder whose clock is ahead.
            (Some("2026-11-22T10:05:00Z"), LockAge::Fresh),
            (None, LockAge::Fresh),
        ] {
            let lock = Lock { renewed: renewed.map(|text| text.parse().unwrap()), ..Lock::default() };
            assert_eq!(lock_age(&lock, now), expected, "{renewed:?}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let refused = |code| {
            let status = json!({ "status": "Failure", "code": code, "reason": "x", "message": "pod db-0 does not have a host assigned" });
            refusal(kube::Error::Api(serde_json::from_value(status).unwrap())).to_string()
        };
        assert_eq!(refused(400), "pod db-0 does not have a host assigned");
        assert_eq!(refused(403), "you may not forward ports to pods");
    }

    #[test]
    fn nodes_are_told_by_their_marks() {
        let node = |spec| serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
        let read = |spec| NodeState::from(&node(spec));
        assert_eq!(read(json!({})), NodeState::default());
        assert!(read(json!({ "unschedulable": true })).cordoned);
        let taint = json!({ "taints": [{ "key": OUT_OF_SERVICE, "effect": "NoExecute" }] });
        assert!(read(taint).out_of_service);
    }
}
