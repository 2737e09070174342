//! What Patroni and its agents would write and answer, for databases that nobody runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dbctl::agent::AGENT_PORT;
use dbctl::api::{LABEL_ROLE, Names, ROLE_PRIMARY, ROLE_REPLICA};
use dbctl::patroni::{CONFIG_KEY, REST_PORT};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::node::merge;
use super::rest::{Request, listen};
use super::{Error, Key};

/// Patroni's `loop_wait`: how often the holder of each lock renews it.
const RENEWAL: Duration = Duration::from_secs(5);
/// Renewals at a time.
const AT_ONCE: usize = 16;
const LSN: i64 = 50_331_648;

#[derive(Default)]
struct State {
    members: BTreeMap<String, Ipv4Addr>,
    config: Option<Value>,
    made: bool,
    /// Members that were asked since `Clusters::begin`.
    asked: BTreeSet<String>,
}

impl State {
    /// The first member leads.
    fn leads(&self, member: &str) -> bool {
        self.members.keys().next().is_some_and(|first| first == member)
    }
}

/// All databases.
pub struct Clusters {
    client: Client,
    members: usize,
    all: Mutex<HashMap<Key, State>>,
    /// When each database was first seen to be looked at as a whole.
    looked: Mutex<HashMap<Key, Instant>>,
}

impl Clusters {
    /// For databases of that many members.
    pub fn new(client: Client, members: usize) -> Self {
        Self { client, members, all: Mutex::default(), looked: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Key, State>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looked(&self) -> MutexGuard<'_, HashMap<Key, Instant>> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is noted anew who is asked.
    pub fn begin(&self) {
        self.all().values_mut().for_each(|state| state.asked.clear());
        self.looked().clear();
    }

    /// Databases all of whose members were asked, and when the last one was.
    pub fn seen(&self) -> (usize, Option<Instant>) {
        let looked = self.looked();
        (looked.len(), looked.values().max().copied())
    }

    /// Answers at that address for a member.
    pub async fn listen(
        self: &Arc<Self>,
        namespace: &str,
        database: &str,
        member: &str,
        address: Ipv4Addr,
    ) -> std::io::Result<()> {
        let key = (namespace.to_owned(), database.to_owned());
        let (clusters, name) = (self.clone(), member.to_owned());
        let patroni = move |request: Request| {
            let (clusters, key, name) = (clusters.clone(), key.clone(), name.clone());
            async move { clusters.answer(&key, &name, request).await }
        };
        listen(address, REST_PORT, Arc::new(patroni)).await?;
        let report = json!({ "postmaster": "running", "disk": { "size": 1_i64 << 30, "free": 900 << 20 } });
        let agent = move |_| std::future::ready(report.to_string());
        listen(address, AGENT_PORT, Arc::new(agent)).await
    }

    async fn answer(&self, key: &Key, member: &str, request: Request) -> String {
        if request.method != "PATCH" {
            self.note(key, member);
            let leads = self.all().get(key).is_some_and(|state| state.leads(member));
            return answer(leads).to_string();
        }
        let patch = serde_json::from_slice(&request.body).unwrap_or_default();
        let config = {
            let mut all = self.all();
            let config = all.entry(key.clone()).or_default().config.get_or_insert_default();
            json_patch::merge(config, &patch);
            config.clone()
        };
        let annotations = json!({ "config": config.to_string() });
        if let Err(error) = self.annotate(key, &Names(&key.1).dynamic_config(), annotations).await {
            eprintln!("configuration of {}: {error}", key.1);
        }
        config.to_string()
    }

    fn note(&self, key: &Key, member: &str) {
        let mut all = self.all();
        let Some(state) = all.get_mut(key) else { return };
        if state.asked.insert(member.to_owned()) && state.asked.len() == state.members.len() {
            self.looked().insert(key.clone(), Instant::now());
        }
    }

    async fn annotate(&self, key: &Key, name: &str, annotations: Value) -> Result<(), kube::Error> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.0);
        let patch = merge(json!({ "metadata": { "annotations": annotations } }));
        maps.patch_metadata(name, &PatchParams::default(), &patch).await.map(drop)
    }

    /// Whether the member has been seen.
    pub fn knows(&self, namespace: &str, database: &str, member: &str) -> bool {
        let key = (namespace.to_owned(), database.to_owned());
        self.all().get(&key).is_some_and(|state| state.members.contains_key(member))
    }

    /// A member has its address. Says whether all have now, so that the database can be made.
    pub fn note_member(&self, namespace: &str, database: &str, member: &str, address: Ipv4Addr) -> bool {
        let key = (namespace.to_owned(), database.to_owned());
        let mut all = self.all();
        let state = all.entry(key).or_default();
        state.members.insert(member.to_owned(), address);
        state.members.len() == self.members
    }

    /// Waits until so many databases are made.
    pub async fn all_made(&self, count: usize) {
        while self.all().values().filter(|state| state.made).count() < count {
            tokio::time::sleep(RENEWAL / 10).await;
        }
    }

    /// Writes what Patroni writes once a database is there.
    pub async fn make(&self, client: &Client, namespace: &str, database: &str) -> Result<(), Error> {
        let key = &(namespace.to_owned(), database.to_owned());
        let members = self.all().get(key).map(|state| state.members.clone()).unwrap_or_default();
        let (names, maps) = (Names(&key.1), Api::<ConfigMap>::namespaced(client.clone(), &key.0));
        let file = maps.get(&names.config()).await?.data.unwrap_or_default();
        let file: Value = serde_yaml::from_str(file.get(CONFIG_KEY).ok_or("no configuration")?)?;
        let runs = maps.get_metadata(&names.dynamic_config()).await?;
        let runs = runs.annotations().get("config").and_then(|text| serde_json::from_str(text).ok());
        let config = {
            let mut all = self.all();
            let config = &mut all.entry(key.clone()).or_default().config;
            config.get_or_insert_with(|| runs.unwrap_or_else(|| file["bootstrap"]["dcs"].clone())).to_string()
        };
        for (name, annotations) in written(names, &members, &config) {
            self.write(&maps, &key.1, &name, annotations).await?;
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), &key.0);
        for (number, (member, address)) in members.iter().enumerate() {
            let said = json!({ "annotations": { "status": status(*address, number == 0).to_string() },
                "labels": { LABEL_ROLE: if number == 0 { ROLE_PRIMARY } else { ROLE_REPLICA } } });
            let patch = merge(json!({ "metadata": said }));
            pods.patch_metadata(member, &PatchParams::default(), &patch).await?;
        }
        if let Some(state) = self.all().get_mut(key) {
            state.made = true;
        }
        Ok(())
    }

    /// A member makes what it misses.
    async fn write(
        &self,
        maps: &Api<ConfigMap>,
        database: &str,
        name: &str,
        annotations: Value,
    ) -> Result<(), Error> {
        let labels = json!(Names(database).labels());
        let patch = json!({ "metadata": { "name": name, "labels": labels, "annotations": annotations } });
        match maps.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                maps.create(&PostParams::default(), &serde_json::from_value(patch)?).await?;
            }
            other => drop(other?),
        }
        Ok(())
    }

    /// Renews all locks for as long as it is polled, each every five seconds.
    pub async fn renew(self: Arc<Self>) {
        let mut turn = 0;
        let mut interval = tokio::time::interval(RENEWAL / 50);
        loop {
            interval.tick().await;
            // A fiftieth of them at a time.
            turn = (turn + 1) % 50;
            let due: Vec<Key> = {
                let all = self.all();
                let made = all.iter().filter(|(_, state)| state.made);
                made.filter(|(key, _)| lot(key) % 50 == turn).map(|(key, _)| key.clone()).collect()
            };
            let clusters = self.as_ref();
            let renewals = stream::iter(due).map(|key| async move {
                let annotations = json!({ "renewTime": jiff::Timestamp::now().to_string() });
                if let Err(error) = clusters.annotate(&key, &Names(&key.1).leader(), annotations).await {
                    eprintln!("lock of {}: {error}", key.1);
                }
            });
            renewals.buffer_unordered(AT_ONCE).collect::<()>().await;
        }
    }
}

/// Spreads keys evenly.
fn lot(key: &Key) -> usize {
    key.1.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// The annotations of its four ConfigMaps.
fn written(names: Names<'_>, members: &BTreeMap<String, Ipv4Addr>, config: &str) -> Vec<(String, Value)> {
    let now = jiff::Timestamp::now().to_string();
    let first = members.keys().next().cloned().unwrap_or_default();
    let standbys: Vec<&str> = members.keys().skip(1).map(String::as_str).collect();
    let slots: Vec<String> = members.keys().map(|member| member.replace('-', "_")).collect();
    let failsafe: BTreeMap<&String, String> =
        members.iter().map(|(member, address)| (member, api_url(*address))).collect();
    let lock = json!({ "leader": first, "ttl": "20", "renewTime": now, "acquireTime": now, "transitions": "0",
        "optime": LSN.to_string(), "failsafe": json!(failsafe).to_string(), "retain_slots": json!(slots).to_string() });
    let sync = json!({ "leader": first, "sync_standby": standbys.join(","),
        "quorum": standbys.len().saturating_sub(1).to_string() });
    let config = json!({ "initialize": "7710889929550461628", "config": config });
    vec![
        (names.dynamic_config(), config),
        (names.sync(), sync),
        (names.failover(), json!({})),
        (names.leader(), lock),
    ]
}

fn api_url(address: Ipv4Addr) -> String {
    format!("http://{address}:{REST_PORT}/patroni")
}

/// The annotation of a member's pod.
fn status(address: Ipv4Addr, leads: bool) -> Value {
    let mut status = json!({ "conn_url": format!("postgres://{address}:5432/postgres"), "api_url": api_url(address),
        "state": "running", "role": if leads { "primary" } else { "replica" }, "version": "4.1.5",
        "xlog_location": LSN, "timeline": 1 });
    if !leads {
        let replica = json!({ "replication_state": "streaming", "replay_lsn": LSN, "receive_lsn": LSN });
        json_patch::merge(&mut status, &replica);
    }
    status
}

/// `GET /patroni`.
fn answer(leads: bool) -> Value {
    let now = jiff::Timestamp::now().as_second();
    let mut answer = json!({ "state": "running", "role": if leads { "primary" } else { "replica" }, "timeline": 1,
        "postmaster_start_time": "2026-11-22 10:00:00.000000+00:00", "dcs_last_seen": now,
        "database_system_identifier": "7710889929550461628" });
    let more = if leads {
        json!({ "xlog": { "location": LSN }, "replication": [] })
    } else {
        json!({ "replication_state": "streaming", "xlog": { "received_location": LSN, "replayed_location": LSN,
            "replayed_timestamp": "2026-11-22 10:00:00.000000+00:00", "paused": false } })
    };
    json_patch::merge(&mut answer, &more);
    answer
}
