//! Scheduling, and pods on nodes that are no more.

use serde_json::json;

use super::server::{PODS, Plane, containers, running};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_for_a_node_and_says_so() {
    let plane = Plane::start().await;
    let mut spec = containers();
    spec["nodeSelector"] = json!({"disk": "fast"});
    plane
        .post(PODS, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}))
        .await;
    let pod = format!("{PODS}/p");
    let message = |wanted: &'static str| {
        move |pod: &serde_json::Value| pod["status"]["conditions"][0]["message"] == wanted
    };
    plane.eventually(&pod, message("no nodes available to schedule pods")).await;
    plane.node("node").await;
    let told = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    plane.eventually(&pod, message(told)).await;
    plane
        .eventually("/api/v1/namespaces/default/events", |events| {
            events.to_string().contains("FailedScheduling")
        })
        .await;
    plane.merge("/api/v1/nodes/node", json!({"metadata": {"labels": {"disk": "fast"}}})).await;
    let bound = plane.eventually(&pod, |pod| pod["spec"]["nodeName"] == "node").await;
    assert_eq!(bound["status"]["conditions"][0]["status"], "True");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_fenced_node_go_without_it_unless_they_bear_its_taint() {
    let plane = Plane::start().await;
    plane.node("node").await;
    let key = "node.kubernetes.io/out-of-service";
    for (name, tolerations) in
        [("p", json!([])), ("left", json!([])), ("stays", json!([{"key": key, "operator": "Exists"}]))]
    {
        let spec = json!({
            "nodeName": "node", "containers": [{"name": "one", "image": "i:1"}], "tolerations": tolerations,
        });
        plane
            .post(PODS, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))
            .await;
        plane.status(&format!("{PODS}/{name}"), running()).await;
    }
    plane.delete(&format!("{PODS}/p")).await;
    plane.settled().await;
    assert!(plane.get(&format!("{PODS}/p")).await.unwrap()["metadata"]["deletionTimestamp"].is_string());
    plane.status("/api/v1/nodes/node", json!({"conditions": [{"type": "Ready", "status": "Unknown"}]})).await;
    let taint = json!({"key": key, "effect": "NoExecute", "value": "nodeshutdown"});
    plane.merge("/api/v1/nodes/node", json!({"spec": {"taints": [taint]}})).await;
    plane.gone(&format!("{PODS}/p")).await;
    plane.gone(&format!("{PODS}/left")).await;
    plane.settled().await;
    assert!(plane.get(&format!("{PODS}/stays")).await.unwrap()["metadata"]["deletionTimestamp"].is_null());
    plane.stop().await;
}
