//! Faults of real pods. Those that need root, or something of this machine, say so aloud where they cannot be had.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::processes::{self, resume, stop};
use super::*;
use crate::sandbox::node::shim::tests::launcher;
use crate::sandbox::node::shim::{Enter, Order, Spec, tree};
use crate::sandbox::node::tests::{Cluster, is_ready, status};
use crate::sandbox::node::{Isolation, VolumeMode};

/// A tree that a database might have: a main process, one that it let go of, and a heartbeat of the latter.
const TREE: &str = "touch \"$BEAT\"; setsid sh -c 'sh -c \"while :; do date +%s%N > \\\"$BEAT\\\"; sleep 0.02; done\" & exit 0' & \
    while :; do sleep 0.05; done";

async fn fault(cluster: &Cluster, pod: &str, wanted: Value) -> Value {
    cluster.ask("PUT", &format!("/faults/default/{pod}"), wanted).await
}

fn told<'a>(answer: &'a Value, name: &str) -> (&'a str, &'a str) {
    let list = answer["faults"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let found =
        list.iter().find(|fault| fault["name"] == name).unwrap_or_else(|| panic!("no {name} in {answer}"));
    (found["status"].as_str().unwrap(), found["reason"].as_str().unwrap_or_default())
}

fn applied(answer: &Value, name: &str) {
    assert_eq!(told(answer, name).0, "applied", "{answer}");
}

async fn until_said(cluster: &Cluster, reason: &str, text: &str) {
    for _ in 0..1000 {
        let events = cluster.api::<Event>().list(&ListParams::default()).await.unwrap();
        let said = |event: &Event| {
            event.reason.as_deref() == Some(reason)
                && event.message.as_deref().is_some_and(|message| message.contains(text))
        };
        if events.iter().any(said) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no event {reason} says {text:?}");
}

/// Waits until a file's content differs from what it was.
async fn until_changed(file: &std::path::Path, before: &str) -> String {
    for _ in 0..1000 {
        let now = std::fs::read_to_string(file).unwrap_or_default();
        if !now.is_empty() && now != before {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} stays {before:?}", file.display());
}

/// Whether a file changes within a time in which it would many times over.
async fn changes(file: &std::path::Path) -> bool {
    let before = std::fs::read_to_string(file).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = std::fs::read_to_string(file).unwrap();
    // An empty file is one that is being written.
    !before.is_empty() && !after.is_empty() && before != after
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_pod_stands_still_fails_its_probes_and_can_be_killed_and_deleted() {
    let cluster = Cluster::start().await;
    let container = json!({
        "env": [{"name": "BEAT", "value": "/beat/at"}],
        "volumeMounts": [{"name": "beat", "mountPath": "/beat"}],
        "readinessProbe": {"exec": {"command": ["test", "-s", "/beat/at"]}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1},
    });
    let spec = json!({"volumes": [{"name": "beat", "emptyDir": {}}]});
    let pod = cluster.pod("p", TREE, spec, container).await;
    let beat = cluster.root().join("v").join(&pod.uid().unwrap()[..8]).join("beat/at");
    cluster.until("p", "ready", is_ready).await;
    until_changed(&beat, "").await;

    let answer = fault(&cluster, "p", json!({"freeze": true})).await;
    applied(&answer, "freeze");
    assert_eq!(answer["wanted"], json!({"freeze": true}));
    assert!(!changes(&beat).await, "its processes go on");
    until_said(&cluster, "FaultInjected", "freeze").await;
    cluster.until("p", "not ready", |pod| !is_ready(pod)).await;
    let all = cluster.ask("GET", "/faults", Value::Null).await;
    assert_eq!(all["items"][0]["pod"]["name"], "p", "{all}");

    let answer = cluster.ask("DELETE", "/faults/default/p", Value::Null).await;
    assert_eq!((&answer["wanted"], &answer["faults"]), (&json!({}), &json!([])));
    until_said(&cluster, "FaultCleared", "freeze").await;
    let last = std::fs::read_to_string(&beat).unwrap();
    until_changed(&beat, &last).await;
    cluster.until("p", "ready again", is_ready).await;

    // For a time; what is cleared before is not cleared again.
    applied(&fault(&cluster, "p", json!({"freeze": true, "durationMs": 600_000})).await, "freeze");
    let answer = fault(&cluster, "p", json!({"freeze": true, "durationMs": 300})).await;
    assert_eq!(answer["wanted"], json!({"freeze": true, "durationMs": 300}));
    let until: jiff::Timestamp = answer["until"].as_str().unwrap().parse().unwrap();
    assert!(
        until.duration_since(jiff::Timestamp::now()) <= jiff::SignedDuration::from_millis(300),
        "{answer}"
    );
    let last = std::fs::read_to_string(&beat).unwrap();
    until_changed(&beat, &last).await;
    assert!(jiff::Timestamp::now() >= until, "cleared too soon");
    let answer = cluster.ask("GET", "/faults/default/p", Value::Null).await;
    assert_eq!((&answer["wanted"], &answer["until"]), (&json!({}), &Value::Null));

    // Killed while it is frozen: it is started anew, and what is started anew runs.
    applied(&fault(&cluster, "p", json!({"freeze": true})).await, "freeze");
    let answer = fault(&cluster, "p", json!({"freeze": true, "kill": true})).await;
    applied(&answer, "kill");
    let pod =
        cluster.until("p", "started again", |pod| status(pod).restart_count == 1 && is_ready(pod)).await;
    let ended = status(&pod).last_state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (137, Some("Error")));
    let last = std::fs::read_to_string(&beat).unwrap();
    until_changed(&beat, &last).await;

    applied(&fault(&cluster, "p", json!({"freeze": true})).await, "freeze");
    cluster.api::<Pod>().delete("p", &DeleteParams::default().grace_period(1)).await.unwrap();
    cluster.until_gone("p").await;
    assert_eq!(cluster.ask("GET", "/faults", Value::Null).await, json!({"items": []}));
    cluster.end().await;
}

/// Two heartbeats that are let go of, and a third one when the file `more` is there. Their names are not in this text.
const HEARTS: &str = "heart() { setsid -f sh -c \"$LOOP\" \"beat-$1\" \"$BEATS/$2\"; }; heart a a; heart b b; \
    while :; do if [ -e \"$BEATS/more\" ]; then rm \"$BEATS/more\"; heart a c; fi; sleep 0.05; done";
const HEART: &str = "while :; do date +%s%N > \"$1\"; sleep 0.02; done";

/// Whether that many of a pod's hearts stand still, at least. One that is about to start a program may wait, within the
/// kernel, for a child that has its command line yet and stands still.
fn stand(pod: &Pod, text: &str, least: usize) -> bool {
    let states = states(pod, text);
    states.len() >= least && states.iter().all(|state| matches!(state, 'T' | 'D'))
}

/// The states of a pod's processes whose command line contains a text.
fn states(pod: &Pod, text: &str) -> Vec<char> {
    let shims = processes::shims(&pod.uid().unwrap());
    let all = tree::alive_below(&shims).into_iter();
    all.filter(|(pid, _)| tree::command_line(*pid).join(" ").contains(text)).map(|(_, state)| state).collect()
}

async fn some_of_a_pods_processes(cluster: &Cluster) {
    let container = json!({
        "env": [{"name": "BEATS", "value": "/beats"}, {"name": "LOOP", "value": HEART}],
        "volumeMounts": [{"name": "beats", "mountPath": "/beats"}],
    });
    let spec = json!({"volumes": [{"name": "beats", "emptyDir": {}}]});
    let pod = cluster.pod("p", HEARTS, spec, container).await;
    let beats = cluster.root().join("v").join(&pod.uid().unwrap()[..8]).join("beats");
    cluster.until("p", "ready", is_ready).await;
    for name in ["a", "b"] {
        until_changed(&beats.join(name), "").await;
    }

    let answer = fault(cluster, "p", json!({"freezeProcesses": "beat-z", "killProcesses": "beat-z"})).await;
    for name in ["freezeProcesses", "killProcesses"] {
        let (status, reason) = told(&answer, name);
        assert_eq!(status, "refused");
        assert!(reason.contains("no process of the pod has \"beat-z\" in its command line"), "{reason}");
        assert!(reason.contains("beat-"), "{reason}");
    }
    assert_eq!(answer["wanted"], json!({}));

    let answer = fault(cluster, "p", json!({"freezeProcesses": "beat-a"})).await;
    assert!(
        told(&answer, "freezeProcesses").1.ends_with(" still, and new ones will: \"beat-a\""),
        "{answer}"
    );
    assert_eq!(answer["wanted"], json!({"freezeProcesses": "beat-a"}));
    assert!(stand(&pod, "beat-a", 1), "{:?}", states(&pod, "beat-a"));
    assert!(!changes(&beats.join("a")).await);
    let last = std::fs::read_to_string(beats.join("b")).unwrap();
    until_changed(&beats.join("b"), &last).await;
    std::fs::write(beats.join("more"), "").unwrap();
    // What starts it matches too, and may stand still before it does.
    let mut stands = false;
    for _ in 0..3000 {
        stands = stand(&pod, "beats/c", 1);
        if stands {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(stands, "one that begins later: {:?}", states(&pod, "beats/c"));

    // Both kinds at once, and the wider one ends first.
    applied(&fault(cluster, "p", json!({"freezeProcesses": "beat-a", "freeze": true})).await, "freeze");
    assert!(!changes(&beats.join("b")).await);
    fault(cluster, "p", json!({"freezeProcesses": "beat-a"})).await;
    let last = std::fs::read_to_string(beats.join("b")).unwrap();
    until_changed(&beats.join("b"), &last).await;
    assert!(!changes(&beats.join("a")).await);

    let answer = fault(cluster, "p", json!({"freezeProcesses": "beat-a", "killProcesses": "beat-b"})).await;
    applied(&answer, "killProcesses");
    assert!(told(&answer, "killProcesses").1.ends_with(" killed: \"beat-b\""), "{answer}");
    assert!(states(&pod, "beat-b").is_empty());
    assert!(stand(&pod, "beat-a", 2));
    assert_eq!(answer["wanted"], json!({"freezeProcesses": "beat-a"}));
    fault(cluster, "p", json!({})).await;
    for name in ["a", "c"] {
        let last = std::fs::read_to_string(beats.join(name)).unwrap_or_default();
        until_changed(&beats.join(name), &last).await;
    }
    let now = cluster.api::<Pod>().get("p").await.unwrap();
    assert_eq!(status(&now).restart_count, 0, "its main process was not touched");

    // The main process, which takes all others with it; its shim starts nothing while it is frozen.
    applied(&fault(cluster, "p", json!({"killProcesses": "heart a"})).await, "killProcesses");
    cluster.until("p", "started again", |pod| status(pod).restart_count == 1 && is_ready(pod)).await;
    applied(&fault(cluster, "p", json!({"freezeProcesses": "sh"})).await, "freezeProcesses");
    cluster.api::<Pod>().delete("p", &DeleteParams::default().grace_period(1)).await.unwrap();
    cluster.until_gone("p").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_of_a_pods_processes_stand_still_or_are_killed() {
    let cluster = Cluster::start().await;
    some_of_a_pods_processes(&cluster).await;
    cluster.end().await;
    if has_root("networks of pods") {
        let cluster = Cluster::start_as(Isolation::Namespaces, VolumeMode::Directories).await;
        some_of_a_pods_processes(&cluster).await;
        cluster.end().await;
    }
}

#[tokio::test]
async fn without_control_groups_signals_stop_a_whole_tree() {
    let home = tempfile::tempdir().unwrap();
    let beat = home.path().join("beat");
    let uid = ulid::Ulid::new().to_string();
    let env = [
        ("PATH", "/usr/bin:/bin"),
        ("BEAT", beat.to_str().unwrap()),
        (crate::sandbox::node::process::POD_MARK, &uid),
    ];
    // And one that forks all the time, so that there is always something new to stop.
    let script = format!("(while :; do /bin/true; done) & {TREE}");
    let spec = Spec {
        command: vec!["sh".to_owned(), "-c".to_owned(), script],
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        directory: "/".into(),
        enter: Enter::default(),
        ..Spec::default()
    };
    let mut process =
        launcher(home.path()).start(&ulid::Ulid::new().to_string(), spec, Vec::new()).await.unwrap();
    until_changed(&beat, "").await;
    let shims = tree::children_marked(&format!("{}={uid}", crate::sandbox::node::process::POD_MARK));
    assert_eq!(shims.len(), 1);
    for _ in 0..3 {
        assert!(stop(&shims).unwrap() >= 3, "main process, fork loop, runaway");
        let states: BTreeSet<char> = tree::alive_below(&shims).into_values().collect();
        // The loop may wait in vfork(2) for a child that stands still.
        assert!(states.is_subset(&BTreeSet::from(['D', 'T'])), "{states:?}");
        assert!(!changes(&beat).await);
        resume(&shims, &BTreeSet::new());
        let last = std::fs::read_to_string(&beat).unwrap();
        until_changed(&beat, &last).await;
    }
    // Some of them: the heartbeat, and not what else there is; a shim's own words mean nothing.
    let shim = launcher(home.path()).shim;
    let choice = |text: &str| some::Choice {
        uid: uid.clone(),
        group: None,
        text: text.to_owned(),
        shim: shim.clone(),
    };
    let found = choice("%N > \"/").stop(false).unwrap();
    let all = tree::alive_below(&shims);
    assert!(all.len() > found.len(), "{found:?} {all:?}");
    assert!(found.iter().all(|pid| matches!(all.get(pid), Some('T' | 'D'))), "{found:?} {all:?}");
    let error = choice(shim.last().unwrap()).stop(false).unwrap_err();
    assert!(error.contains("there are: ") && error.contains("/bin/true"), "{error}");
    resume(&shims, &BTreeSet::new());
    stop(&shims).unwrap();
    process.orders().give(Order::Kill);
    assert_eq!(process.wait().await.code, 137);
    assert!(tree::alive_below(&shims).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_loopback_the_way_to_the_api_is_cut_at_the_node_and_the_rest_says_why_not() {
    let cluster = Cluster::start().await;
    let pod = cluster.pod("p", "exec sleep 1000", json!({}), json!({})).await;
    cluster.until("p", "ready", is_ready).await;
    let kubeconfig =
        cluster.root().join(format!("sandbox/pods/{}/serviceaccount/kubeconfig", pod.uid().unwrap()));
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    config.read_timeout = Some(Duration::from_millis(500));
    let client = kube::Client::try_from(config).unwrap();
    client.apiserver_version().await.unwrap();

    let answer = fault(&cluster, "p", json!({"cutApi": true, "cutPeers": true, "fullDisk": true})).await;
    applied(&answer, "cutApi");
    assert_eq!(told(&answer, "cutPeers").0, "refused");
    assert!(told(&answer, "cutPeers").1.contains("needs --network=namespaces"), "{answer}");
    assert!(told(&answer, "fullDisk").1.contains("needs --volumes=bounded"), "{answer}");
    assert_eq!(answer["wanted"], json!({"cutApi": true}));
    assert!(client.apiserver_version().await.is_err());
    assert!(is_ready(&cluster.api::<Pod>().get("p").await.unwrap()), "its node still reaches it");
    fault(&cluster, "p", json!({})).await;
    client.apiserver_version().await.unwrap();

    for (body, expected) in [
        (json!({"slowDisk": {}}), "slowDisk: needs bytesPerSecond, iops, or both"),
        (json!({"slowDisk": {"iops": 0}}), "must be greater than 0"),
        (json!({"freeze": true, "durationMs": 0}), "durationMs: must be from 1 to 31536000000"),
        (json!({"freez": true}), "unknown field `freez`"),
        (json!({"killProcesses": " "}), "freezeProcesses and killProcesses: must not be empty"),
    ] {
        let request = ::http::Request::put("/api/v1/nodes/sandbox/proxy/faults/default/p");
        let request = request.body(body.to_string().into_bytes()).unwrap();
        let error = cluster.client.request_text(request).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    cluster.end().await;
}

/// How long it takes to write something small so many times that it is on the disk.
const WRITER: &str = "while :; do b=$(date +%s%N); for i in 1 2 3 4 5 6 7 8; do \
    dd if=/dev/zero of=\"$FILE\" bs=8k count=1 conv=fsync 2>/dev/null; done; e=$(date +%s%N); \
    echo $(( (e - b) / 1000000 )) > \"$TOOK.new\"; mv \"$TOOK.new\" \"$TOOK\"; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_is_slow_for_its_pod() {
    let cluster = Cluster::start().await;
    let container = json!({
        "env": [{"name": "FILE", "value": "/data/file"}, {"name": "TOOK", "value": "/data/took"}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    });
    let spec = json!({"volumes": [{"name": "data", "emptyDir": {}}]});
    let pod = cluster.pod("p", WRITER, spec, container).await;
    let took = cluster.root().join("v").join(&pod.uid().unwrap()[..8]).join("data/took");
    let quick: u64 = until_changed(&took, "").await.trim().parse().unwrap();
    let answer = fault(&cluster, "p", json!({"slowDisk": {"iops": 10}})).await;
    match told(&answer, "slowDisk") {
        ("applied", reason) => assert!(reason.contains("10 operations a second"), "{reason}"),
        (_, reason) => {
            eprintln!("SKIPPED a slow disk: {reason}");
            return cluster.end().await;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let slow = loop {
        let last = std::fs::read_to_string(&took).unwrap();
        let slow: u64 = until_changed(&took, &last).await.trim().parse().unwrap();
        if slow >= 400 {
            break slow;
        }
        assert!(Instant::now() < deadline, "eight writes take {slow} ms, {quick} ms before");
    };
    fault(&cluster, "p", json!({})).await;
    loop {
        let last = std::fs::read_to_string(&took).unwrap();
        let again: u64 = until_changed(&took, &last).await.trim().parse().unwrap();
        if again < slow / 2 {
            break;
        }
        assert!(Instant::now() < deadline, "still {again} ms");
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_beyond_its_memory_is_killed_and_says_so() {
    let cluster = Cluster::start().await;
    let script = "exec python3 -c 'x = bytearray(200 << 20); print(len(x), flush=True)'";
    let container = json!({"resources": {"limits": {"memory": "32Mi", "cpu": "1"}}});
    cluster.pod("p", script, json!({"restartPolicy": "Never"}), container).await;
    let pod = cluster
        .until("p", "ended", |pod| status(pod).state.is_some_and(|state| state.terminated.is_some()))
        .await;
    let ended = status(&pod).state.unwrap().terminated.unwrap();
    let nodes = Api::<k8s_openapi::api::core::v1::Node>::all(cluster.client.clone());
    let groups = nodes.get("sandbox").await.unwrap().annotations()["sandbox.dbctl/cgroups"].clone();
    if groups.split(',').any(|name| name == "memory") {
        assert_eq!((ended.exit_code, ended.reason.as_deref()), (137, Some("OOMKilled")));
    } else {
        eprintln!("SKIPPED killing for want of memory: control groups here: {groups}");
        until_said(&cluster, "LimitsNotKept", "memory").await;
        assert_eq!(ended.exit_code, 0);
    }
    cluster.end().await;
}

fn has_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: it needs root");
    }
    root
}

/// Serves its name at port 5000, and asks others: each line in $ASK is `NAME ADDRESS PORT`, each answer a file in $OUT.
const PEER: &str = r#"exec python3 -c '
import os, socket, threading, time
name, out = os.environ["HOSTNAME"], os.environ["OUT"]
def serve():
    server = socket.create_server((os.environ["LISTEN_ADDRESS"], 5000))
    while True:
        client, _ = server.accept()
        threading.Thread(target=echo, args=(client,), daemon=True).start()
def echo(client):
    while True:
        data = client.recv(10)
        if not data: return
        client.sendall(data)
threading.Thread(target=serve, daemon=True).start()
def ask(label, address, port):
    stream, n = None, 0
    while True:
        n += 1
        try:
            if stream is None:
                stream = socket.create_connection((address, port), timeout=0.4)
            if label == "api":
                answer, stream = "yes", None
            else:
                stream.sendall(b"x")
                answer = "yes" if stream.recv(1) == b"x" else "end"
        except socket.timeout:
            answer = "silent"
        except OSError as error:
            answer = str(error)
        if answer != "yes": stream = None
        with open(f"{out}/{label}.new", "w") as file: file.write(f"{n} {answer}")
        os.rename(f"{out}/{label}.new", f"{out}/{label}")
        time.sleep(0.02)
asked = set()
while True:
    try: lines = open(f"{out}/ask").read().splitlines()
    except OSError: lines = []
    for line in lines:
        if line not in asked:
            asked.add(line)
            label, address, port = line.split()
            threading.Thread(target=ask, args=(label, address, int(port)), daemon=True).start()
    time.sleep(0.02)
'"#;

async fn peer(cluster: &Cluster, name: &str) -> (String, std::path::PathBuf) {
    let container = json!({
        "env": [{"name": "OUT", "value": "/out"}], "volumeMounts": [{"name": "out", "mountPath": "/out"}],
        "readinessProbe": {"tcpSocket": {"port": 5000}, "periodSeconds": 1, "failureThreshold": 1},
    });
    let pod = cluster.pod(name, PEER, json!({"volumes": [{"name": "out", "emptyDir": {}}]}), container).await;
    let out = cluster.root().join("v").join(&pod.uid().unwrap()[..8]).join("out");
    let pod = cluster.until(name, "ready", is_ready).await;
    (pod.status.unwrap().pod_ip.unwrap(), out)
}

/// Waits until a question is answered so.
async fn until_answered(out: &std::path::Path, label: &str, wanted: &str) {
    let mut last = String::new();
    for _ in 0..1500 {
        last = std::fs::read_to_string(out.join(label)).unwrap_or_default();
        if last.split_once(' ').is_some_and(|(_, answer)| answer == wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{label} is not {wanted:?} but {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_with_networks_of_their_own_can_be_cut_off() {
    if !has_root("networks of pods") {
        return;
    }
    let mut cluster = Cluster::start_as(Isolation::Namespaces, VolumeMode::Directories).await;
    let ((a, asks_a), (b, asks_b)) = tokio::join!(peer(&cluster, "a"), peer(&cluster, "b"));
    assert!(a.starts_with("198.18.") && b.starts_with("198.18."), "{a} {b}");
    let api = cluster.api_for_pods();
    // b is also reached by a Service.
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "targetPort": 5000}]}});
    let service = cluster.make::<Service>(service).await;
    let front = service.spec.unwrap().cluster_ip.unwrap();
    assert!(front.starts_with("198.19."), "{front}");
    cluster
        .make::<k8s_openapi::api::discovery::v1::EndpointSlice>(json!({
            "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [b], "conditions": {"ready": true}}], "ports": [{"port": 5000}],
        }))
        .await;
    let questions = format!("b {b} 5000\nservice {front} 80\n");
    std::fs::write(asks_a.join("ask"), questions).unwrap();
    std::fs::write(asks_b.join("ask"), format!("a {a} 5000\n")).unwrap();
    let checks = [(&asks_a, "b"), (&asks_a, "service"), (&asks_b, "a")];
    for (out, label) in checks {
        until_answered(out, label, "yes").await;
    }

    let answer = fault(&cluster, "b", json!({"cutPeers": true})).await;
    applied(&answer, "cutPeers");
    for (out, label) in checks {
        until_answered(out, label, "silent").await;
    }
    // Its node, and who uses it from this machine, still reach it.
    assert!(tokio::net::TcpStream::connect((b.as_str(), 5000)).await.is_ok());
    assert!(tokio::net::TcpStream::connect((front.as_str(), 80)).await.is_ok());
    assert!(is_ready(&cluster.api::<Pod>().get("b").await.unwrap()));
    fault(&cluster, "b", json!({})).await;
    for (out, label) in checks {
        until_answered(out, label, "yes").await;
    }

    std::fs::write(asks_a.join("ask"), format!("api {api} 6443\n")).unwrap();
    until_answered(&asks_a, "api", "yes").await;
    applied(&fault(&cluster, "a", json!({"cutApi": true})).await, "cutApi");
    until_answered(&asks_a, "api", "silent").await;
    until_answered(&asks_a, "b", "yes").await;
    cluster.ask("DELETE", "/faults/default/a", Value::Null).await;
    until_answered(&asks_a, "api", "yes").await;

    // After a crash everything is made anew, and pods keep their addresses.
    cluster.crash_node().await;
    cluster.start_node().await;
    let again =
        cluster.until("b", "ready again", |pod| is_ready(pod) && status(pod).restart_count == 1).await;
    assert_eq!(again.status.unwrap().pod_ip.unwrap(), b);
    until_answered(&asks_a, "b", "yes").await;
    let names = cluster.network_names();
    assert!(names.iter().any(|name| name.ends_with("router")), "{names:?}");
    let left = {
        let root = cluster.root().to_owned();
        cluster.end().await;
        crate::sandbox::home::Home::at(root).unwrap()
    };
    assert_eq!(crate::sandbox::node::network::left(&left), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_volume_can_be_full_and_grow() {
    if !has_root("bounded volumes") || !std::path::Path::new("/dev/loop-control").exists() {
        eprintln!("SKIPPED bounded volumes: there must be loop devices, too");
        return;
    }
    let mut cluster = Cluster::start_as(Isolation::Loopback, VolumeMode::Bounded).await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "32Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain", "csi": {"driver": "sandbox.dbctl", "volumeHandle": "h"},
    }});
    let volumes = Api::<PersistentVolume>::all(cluster.client.clone());
    volumes.create(&PostParams::default(), &serde_json::from_value(volume).unwrap()).await.unwrap();
    let claim = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "storageClassName": "",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "32Mi"}}}});
    cluster.make::<PersistentVolumeClaim>(claim).await;
    let bound = Patch::Merge(json!({"status": {"phase": "Bound"}}));
    cluster.api::<PersistentVolumeClaim>().patch_status("c", &PatchParams::default(), &bound).await.unwrap();
    let script = "while :; do if dd if=/dev/zero of=\"$DATA/some\" bs=64k count=4 conv=fsync 2>\"$OUT/err\"; \
        then echo room > \"$OUT/now\"; else echo \"$(grep -o 'No space left' \"$OUT/err\" | head -1)\" > \"$OUT/now\"; fi; \
        rm -f \"$DATA/some\"; df -k --output=size \"$DATA\" | tail -1 > \"$OUT/size\"; sleep 0.05; done";
    let spec = json!({"volumes": [
        {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "out", "emptyDir": {}}]});
    let container = json!({
        "env": [{"name": "DATA", "value": "/data"}, {"name": "OUT", "value": "/out"}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "out", "mountPath": "/out"}],
    });
    let pod = cluster.pod("p", script, spec, container).await;
    let out = cluster.root().join("v").join(&pod.uid().unwrap()[..8]).join("out");
    let until = async |file: &str, what: &dyn Fn(&str) -> bool| {
        for _ in 0..1500 {
            let text = std::fs::read_to_string(out.join(file)).unwrap_or_default();
            if what(text.trim()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{file} stays {:?}", std::fs::read_to_string(out.join(file)));
    };
    until("now", &|text| text == "room").await;
    until("size", &|text| text.parse::<u64>().is_ok_and(|size| size < 32 << 10)).await;
    applied(&fault(&cluster, "p", json!({"fullDisk": true})).await, "fullDisk");
    until("now", &|text| text == "No space left").await;
    // This grows it at once, or where the kernel does not let this process do so, at its next use.
    let larger = Patch::Merge(json!({"spec": {"capacity": {"storage": "64Mi"}}}));
    volumes.patch("v", &PatchParams::default(), &larger).await.unwrap();
    fault(&cluster, "p", json!({})).await;
    until("now", &|text| text == "room").await;
    applied(&fault(&cluster, "p", json!({"fullDisk": true, "kill": true})).await, "fullDisk");

    cluster.until("p", "started again", |pod| status(pod).restart_count == 1 && is_ready(pod)).await;

    // After a crash nothing is full any more, and nothing is mounted twice.
    cluster.crash_node().await;
    cluster.start_node().await;
    cluster.until("p", "started again", |pod| status(pod).restart_count >= 2 && is_ready(pod)).await;
    until("now", &|text| text == "room").await;
    until("size", &|text| text.parse::<u64>().is_ok_and(|size| size > 40 << 10)).await;
    let mounts = || {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let home = cluster.root().display().to_string();
        text.lines().filter(|line| line.contains(&home)).count()
    };
    assert_eq!(mounts(), 1);
    cluster.api::<Pod>().delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    cluster.until_gone("p").await;
    for _ in 0..500 {
        if mounts() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(mounts(), 0, "nobody uses it any more");
    cluster.end().await;
}
