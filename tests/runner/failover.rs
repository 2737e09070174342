//! What a DBA types to move the primary's role, to restart, and to look back.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::external::runtime;
use crate::journeys::ready_with;
use crate::support::{Answer, Sandbox, eventually};

fn primary(sandbox: &Sandbox) -> String {
    sandbox.database("db")["status"]["primary"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn refused(answer: &Answer, code: i32, why: &str) {
    assert!(answer.code == code && answer.stderr.contains(why), "{}", answer.transcript());
}

fn cordon(sandbox: &Sandbox, node: &str, cordoned: bool) {
    runtime().block_on(async {
        let nodes: Api<Node> = Api::all(sandbox.client().await);
        let patch = Patch::Merge(json!({ "spec": { "unschedulable": cordoned } }));
        nodes.patch(node, &PatchParams::default(), &patch).await.unwrap();
    });
}

fn node_of(sandbox: &Sandbox, pod: &str) -> String {
    runtime().block_on(async {
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::default_namespaced(sandbox.client().await);
        pods.get(pod).await.unwrap().spec.unwrap().node_name.unwrap()
    })
}

#[test]
fn the_primarys_role_is_moved_restarts_go_in_order_and_history_tells() {
    let sandbox = Sandbox::alone();
    sandbox.run(&["sandbox", "up", "--nodes", "3"]).ok();
    sandbox.run(&["create", "db", "--replicas", "3", "--storage", "1Gi", "--wait"]).ok();
    sandbox.sql("db", "create table t (n int); insert into t values (1)");
    let first = primary(&sandbox);
    let run = |args: &[&str]| sandbox.run(args);

    refused(&run(&["failover", "db", "--to", "db-9", "--yes"]), 6, "there is no member db-9");
    refused(&run(&["failover", "db", "--to", &first, "--yes"]), 5, "is the primary already");
    refused(&run(&["failover", "db"]), 2, "--yes");
    refused(&run(&["failover", "nosuch", "--yes"]), 6, "nosuch");
    refused(&run(&["restart", "db", "--member", "db-9", "--yes"]), 6, "there is no member db-9");
    let shown = run(&["failover", "db", "--dry-run"]).ok();
    assert!(
        shown.stderr.contains("candidate") || shown.stdout.contains("candidate"),
        "{}",
        shown.transcript()
    );
    assert_eq!(primary(&sandbox), first);

    let moved = run(&["failover", "db", "--yes", "--wait"]).ok();
    let second = primary(&sandbox);
    assert!(
        second != first && moved.stderr.contains(&format!("{second} is the primary")),
        "{}",
        moved.transcript()
    );
    ready_with(&sandbox, "db", 3);

    let restarted = run(&["restart", "db", "--yes", "--wait"]).ok();
    let third = primary(&sandbox);
    assert!(third != second && restarted.stderr.contains("restarted"), "{}", restarted.transcript());
    ready_with(&sandbox, "db", 3);

    let node = node_of(&sandbox, &third);
    cordon(&sandbox, &node, true);
    eventually("the primary leaves the cordoned node", || match primary(&sandbox) {
        name if !name.is_empty() && name != third => Ok(()),
        name => Err(name),
    });
    cordon(&sandbox, &node, false);
    ready_with(&sandbox, "db", 3);

    let history = run(&["history", "db", "-o", "json"]).ok();
    let history: Value = serde_json::from_str(&history.stdout).unwrap();
    let told: Vec<_> =
        history["items"].as_array().unwrap().iter().map(|item| item["reason"].clone()).collect();
    assert_eq!(told, ["Switchover", "Restart", "NodeCordoned"]);
    let seconds = history["items"].as_array().unwrap().iter().map(|item| item["durationSeconds"].as_f64());
    assert!(seconds.into_iter().all(|seconds| seconds.is_some_and(|s| s >= 0.0)), "{history}");
    assert_eq!(sandbox.sql("db", "select count(*) from t"), "1");
}
