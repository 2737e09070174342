//! Journeys that need a machine's own means: networks, volumes and control groups of pods. They need root on Linux.

use serde_json::{Value, json};

use crate::support::{Sandbox, eventually};

/// Gives a pod exactly these faults, as `dbctl sandbox fault` does; what became of them.
async fn fault(sandbox: &Sandbox, pod: &str, wanted: Value) -> Value {
    let client = sandbox.client().await;
    let request = http::Request::put(format!("/api/v1/nodes/sandbox/proxy/faults/default/{pod}"));
    let answer = client.request_text(request.body(wanted.to_string().into_bytes()).unwrap()).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[track_caller]
fn applied(answer: &Value) {
    let faults = answer["faults"].as_array().unwrap();
    assert!(!faults.is_empty() && faults.iter().all(|fault| fault["status"] == "applied"), "{answer}");
}

/// The primary, once it is another one than before and somebody can write to it.
fn new_primary(sandbox: &Sandbox, former: &str) -> String {
    eventually(&format!("another primary than {former}"), || {
        let database = sandbox.database("db");
        let primary = database["status"]["primary"].as_str().unwrap_or_default().to_owned();
        let write = sandbox.run(&["connect", "db", "--", "-XAtqc", "insert into t values (2)"]);
        if !primary.is_empty() && primary != former && write.code == 0 {
            Ok(primary)
        } else {
            Err(format!("{primary}: {}", write.transcript()))
        }
    })
}

/// Two members, of which the replica confirms commits: before it does, nobody could follow the primary without a loss.
fn ready(sandbox: &Sandbox) {
    eventually("two members and a standby that confirms commits", || {
        let status = &sandbox.database("db")["status"];
        let conditions = status["conditions"].as_array();
        let ready =
            conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
        if ready && status["readyReplicas"] == 2 { Ok(()) } else { Err(status.to_string()) }
    });
}

/// What this machine still has of a sandbox, by its mark and its home: namespaces, links, mounts.
fn left(sandbox: &Sandbox, mark: &str) -> Vec<String> {
    let mut now = machine();
    let home = sandbox.home().display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    now.retain(|name| name.contains(mark));
    now.extend(mounts.lines().filter(|line| line.contains(&home)).map(str::to_owned));
    now
}

/// What the names of a sandbox's namespaces and links have in common, from those of a pod.
fn mark(sandbox: &Sandbox, pod: &str) -> String {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let uid = runtime.block_on(async {
        let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
            kube::Api::default_namespaced(sandbox.client().await);
        pods.get(pod).await.unwrap().metadata.uid.unwrap()
    });
    let own = machine().into_iter().find_map(|name| {
        let name = name.rsplit_once('/')?.1.to_owned();
        Some(name.strip_prefix("dbctl-")?.strip_suffix(&format!("-{uid}"))?.to_owned())
    });
    own.unwrap()
}

/// The machine's namespaces and links.
fn machine() -> Vec<String> {
    let names =
        ["/run/netns", "/sys/class/net"].map(|directory| std::fs::read_dir(directory).into_iter().flatten());
    names.into_iter().flatten().map(|entry| entry.unwrap().path().display().to_string()).collect()
}

#[test]
fn a_primary_that_is_cut_off_frozen_or_killed_is_replaced_and_comes_back() {
    if !rustix::process::geteuid().is_root() || !std::path::Path::new("/dev/loop-control").exists() {
        eprintln!("SKIPPED a database with networks and volumes of its own: it needs root and loop devices");
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.run(&["sandbox", "up", "--network=namespaces", "--volumes=bounded"]).ok();
    let refused = sandbox.run(&["sandbox", "up", "--network=loopback"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("made with --network=namespaces"),
        "{}",
        refused.transcript()
    );
    sandbox.run(&["create", "db", "--replicas", "2", "--storage", "1Gi", "--wait"]).ok();
    sandbox.sql("db", "create table t (n int); insert into t values (1)");
    ready(&sandbox);
    let mark = mark(&sandbox, "db-0");
    assert!(left(&sandbox, &mark).len() > 3);
    let address = sandbox.sql("db", "select inet_server_addr()");
    assert!(address.starts_with("198.18."), "{address}");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let first = sandbox.database("db")["status"]["primary"].as_str().unwrap().to_owned();
    applied(&runtime.block_on(fault(&sandbox, &first, json!({"cutApi": true, "cutPeers": true}))));
    let second = new_primary(&sandbox, &first);
    runtime.block_on(fault(&sandbox, &first, json!({})));
    ready(&sandbox);

    applied(&runtime.block_on(fault(&sandbox, &second, json!({"freeze": true}))));
    let third = new_primary(&sandbox, &second);
    runtime.block_on(fault(&sandbox, &second, json!({})));
    ready(&sandbox);

    applied(&runtime.block_on(fault(&sandbox, &third, json!({"kill": true}))));
    eventually("the row is there", || {
        let answer = sandbox.run(&["connect", "db", "--", "-XAtqc", "select count(*) >= 3 from t"]);
        if answer.stdout.trim() == "t" { Ok(()) } else { Err(answer.transcript()) }
    });

    // What a killed sandbox left is in nobody's way.
    let answer = sandbox.run(&["sandbox", "status", "-o", "json"]).ok();
    let about: Value = serde_json::from_str(&answer.stdout).unwrap();
    let pid = rustix::process::Pid::from_raw(about["pid"].as_i64().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    ready(&sandbox);
    assert_eq!(sandbox.sql("db", "select count(*) >= 3 from t"), "t");
    sandbox.run(&["sandbox", "down"]).ok();
    assert_eq!(left(&sandbox, &mark), Vec::<String>::new());
}
