//! What is done to a cluster's members.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use super::cluster::{Cluster, Keeper, Member, NAMESPACE};
use crate::access::CONTROLLER;
use crate::support::dbctl;

/// One way in which things go wrong, or are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Switchover,
    DeletePod,
    ForceDelete,
    KillPostgres,
    KillPod,
    FreezePod,
    FreezePatroni,
    FreezePostgres,
    CutApi,
    CutPeers,
    CutAll,
    FullDisk,
    ApiOutage,
    ControllerAway,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Switchover => "switchover",
            Self::DeletePod => "graceful pod deletion",
            Self::ForceDelete => "forced pod deletion",
            Self::KillPostgres => "SIGKILL of postgres",
            Self::KillPod => "SIGKILL of the pod",
            Self::FreezePod => "frozen pod",
            Self::FreezePatroni => "frozen Patroni",
            Self::FreezePostgres => "frozen postgres",
            Self::CutApi => "pod cut off from the API",
            Self::CutPeers => "pod cut off from its peers",
            Self::CutAll => "pod cut off from everything",
            Self::FullDisk => "full disk",
            Self::ApiOutage => "API server down for all",
            Self::ControllerAway => "controller away",
        })
    }
}

impl Kind {
    /// Whether it is done to a member, and not to what all of them use.
    pub fn strikes_a_member(self) -> bool {
        !matches!(self, Self::ApiOutage | Self::ControllerAway)
    }

    /// Whether it lasts for a time.
    pub fn lasts(self) -> bool {
        !matches!(
            self,
            Self::Switchover | Self::DeletePod | Self::ForceDelete | Self::KillPostgres | Self::KillPod
        )
    }
}

/// Does it, for that long where it lasts. Returns when it is over, or why it could not be done.
pub async fn strike(
    cluster: &Cluster,
    kind: Kind,
    member: &Member,
    time: Duration,
) -> Result<Instant, String> {
    let over = Instant::now() + time;
    let millis = u64::try_from(time.as_millis()).unwrap();
    match kind {
        Kind::Switchover => switch_over(cluster, member).await?,
        Kind::DeletePod => delete(cluster, member, &DeleteParams::default()).await?,
        Kind::ForceDelete => delete(cluster, member, &DeleteParams::default().grace_period(0)).await?,
        Kind::KillPostgres => {
            let (postmaster, _) = postmaster(&member.uid)?;
            signal(&[postmaster], Signal::KILL);
        }
        Kind::KillPod => node(cluster, member, json!({"kill": true})).await?,
        Kind::FreezePod => node(cluster, member, json!({"freeze": true, "durationMs": millis})).await?,
        Kind::CutApi => node(cluster, member, json!({"cutApi": true, "durationMs": millis})).await?,
        Kind::CutPeers => node(cluster, member, json!({"cutPeers": true, "durationMs": millis})).await?,
        Kind::CutAll => {
            node(cluster, member, json!({"cutApi": true, "cutPeers": true, "durationMs": millis})).await?;
        }
        Kind::FullDisk => node(cluster, member, json!({"fullDisk": true, "durationMs": millis})).await?,
        Kind::FreezePatroni => freeze(vec![patroni(&member.uid)?], time),
        Kind::FreezePostgres => freeze(postmaster(&member.uid)?.1, time),
        Kind::ApiOutage => api(cluster, json!({"outage": "refuse", "durationMs": millis})).await?,
        Kind::ControllerAway => {
            let errors = json!([{"status": 503, "rate": 1.0}]);
            let only = json!({"users": [CONTROLLER]});
            let all = json!({"errors": errors, "watchStall": true, "for": only, "durationMs": millis});
            api(cluster, all).await?;
        }
    }
    Ok(if kind.lasts() { over } else { Instant::now() })
}

/// To whom is left open.
async fn switch_over(cluster: &Cluster, leader: &Member) -> Result<(), String> {
    match &cluster.keeper {
        Keeper::Dbctl { home } => {
            let mut command = tokio::process::Command::from(dbctl(home));
            let output = command.args(["--sandbox", "failover", &cluster.name, "--yes", "--wait"]).output();
            let output = output.await.map_err(|error| error.to_string())?;
            let told = String::from_utf8_lossy(&output.stderr);
            if output.status.success() { Ok(()) } else { Err(format!("{}: {told}", output.status)) }
        }
        Keeper::PatroniAlone => as_patronictl_does(cluster, leader).await,
    }
}

async fn as_patronictl_does(cluster: &Cluster, leader: &Member) -> Result<(), String> {
    let address = leader.address.ok_or("the leader has no address")?;
    let (user, password) = &cluster.rest;
    let request = reqwest::Client::new()
        .post(format!("http://{address}:8008/switchover"))
        .basic_auth(user, Some(password))
        .timeout(Duration::from_secs(40))
        .json(&json!({"leader": leader.name}));
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
    if status.is_success() { Ok(()) } else { Err(format!("{status}: {text}")) }
}

pub async fn delete(cluster: &Cluster, member: &Member, how: &DeleteParams) -> Result<(), String> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), NAMESPACE);
    pods.delete(&member.name, how).await.map(drop).map_err(|error| error.to_string())
}

/// Orders faults of the pod's node.
async fn node(cluster: &Cluster, member: &Member, wanted: Value) -> Result<(), String> {
    let path = format!("/api/v1/nodes/{}/proxy/faults/{NAMESPACE}/{}", member.node, member.name);
    let request = http::Request::put(path).body(wanted.to_string().into_bytes()).unwrap();
    let answer = cluster.client.request_text(request).await.map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    let faults = answer["faults"].as_array().cloned().unwrap_or_default();
    let applied = !faults.is_empty() && faults.iter().all(|fault| fault["status"] == "applied");
    if applied { Ok(()) } else { Err(answer["faults"].to_string()) }
}

/// Orders faults of the API server.
async fn api(cluster: &Cluster, wanted: Value) -> Result<(), String> {
    let request = http::Request::put("/debug/faults").header("content-type", "application/json");
    let request = request.body(wanted.to_string().into_bytes()).unwrap();
    cluster.client.request_text(request).await.map(drop).map_err(|error| error.to_string())
}

/// A process of this machine.
struct Process {
    parent: i32,
    command: Vec<String>,
    is_of_pod: bool,
}

/// The machine's processes. The node marks those that it starts for a pod.
fn processes(uid: &str) -> BTreeMap<i32, Process> {
    let mark = format!("DBCTL_SANDBOX_POD={uid}");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let read = |id: i32, name: &str| std::fs::read(format!("/proc/{id}/{name}"));
    let process = |id: i32| {
        let words = |text: Vec<u8>| -> Vec<String> {
            text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        };
        let stat = String::from_utf8_lossy(&read(id, "stat").ok()?).into_owned();
        // After the name in parentheses: the state, then the parent.
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        let is_of_pod = words(read(id, "environ").ok()?).contains(&mark);
        Some((id, Process { parent, command: words(read(id, "cmdline").ok()?), is_of_pod }))
    };
    ids.filter_map(process).collect()
}

/// The pod's Patroni.
fn patroni(uid: &str) -> Result<i32, String> {
    let processes = processes(uid);
    let is_patroni = |process: &Process| {
        process.is_of_pod && process.command.iter().take(4).any(|word| word.ends_with("/bin/patroni"))
    };
    let found = processes.iter().find(|(_, process)| is_patroni(process));
    found.map(|(id, _)| *id).ok_or_else(|| "no Patroni runs there".to_owned())
}

/// The pod's postmaster; with all processes below it.
fn postmaster(uid: &str) -> Result<(i32, Vec<i32>), String> {
    let processes = processes(uid);
    let is_postmaster = |process: &Process| {
        let [program, flag, ..] = process.command.as_slice() else { return false };
        process.is_of_pod && program.rsplit('/').next() == Some("postgres") && flag == "-D"
    };
    let found = processes.iter().find(|(_, process)| is_postmaster(process));
    let (id, _) = found.ok_or_else(|| "no postgres runs there".to_owned())?;
    let children = processes.iter().filter(|(_, process)| process.parent == *id).map(|(child, _)| *child);
    Ok((*id, std::iter::once(*id).chain(children).collect()))
}

fn signal(ids: &[i32], signal: Signal) {
    for id in ids.iter().filter_map(|id| Pid::from_raw(*id)) {
        // It may be gone already.
        let _ = rustix::process::kill_process(id, signal);
    }
}

/// Stops processes where they are, and lets them go on after that time.
fn freeze(ids: Vec<i32>, time: Duration) {
    signal(&ids, Signal::STOP);
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        // One that is gone may have left its number to another, which is none the worse for it.
        signal(&ids, Signal::CONT);
    });
}
