//! Claims and volumes.

use serde_json::json;

use super::server::{CLAIMS, PODS, Plane, SETS, containers, stateful_set};
use crate::sandbox::controllers::Config;

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gets_a_volume_grows_is_kept_while_used_and_leaves_it_released() {
    let plane = Plane::start().await;
    plane.node("node").await;
    plane.post(SETS, stateful_set("s", 2)).await;
    for pod in ["s-0", "s-1"] {
        plane.eventually(&format!("{PODS}/{pod}"), |pod| pod["spec"]["nodeName"] == "node").await;
    }
    let claim = format!("{CLAIMS}/data-s-0");
    let bound = plane.eventually(&claim, |claim| claim["status"]["phase"] == "Bound").await;
    assert_eq!(bound["status"]["capacity"]["storage"], "1Gi");
    assert_eq!(bound["spec"]["storageClassName"], "standard");
    assert_eq!(bound["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], "node");
    let handle = format!("pvc-{}", bound["metadata"]["uid"].as_str().unwrap());
    assert_eq!(bound["spec"]["volumeName"], handle);
    let volume = format!("/api/v1/persistentvolumes/{handle}");
    let made = plane.eventually(&volume, |volume| volume["status"]["phase"] == "Bound").await;
    assert_eq!(made["spec"]["csi"]["driver"], "sandbox.dbctl");
    assert_eq!(made["spec"]["csi"]["volumeHandle"], handle);
    assert_eq!(made["spec"]["persistentVolumeReclaimPolicy"], "Delete");

    plane.merge(&claim, json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}})).await;
    // The rest is the node's, and there is none here.
    let grown = plane.eventually(&claim, |claim| claim["status"]["conditions"].is_array()).await;
    assert_eq!(grown["status"]["conditions"][0]["type"], "FileSystemResizePending");
    assert_eq!(grown["status"]["capacity"]["storage"], "1Gi");
    assert_eq!(plane.get(&volume).await.unwrap()["spec"]["capacity"]["storage"], "2Gi");

    // In use: it waits for its pod. The pod's successor waits for another claim.
    plane.delete(&claim).await;
    plane.settled().await;
    let waiting = plane.get(&claim).await.unwrap();
    assert_eq!(waiting["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    plane.delete_with(&format!("{PODS}/s-0"), json!({"gracePeriodSeconds": 0})).await;
    plane.eventually(&volume, |volume| volume["status"]["phase"] == "Released").await;
    let old = bound["metadata"]["uid"].clone();
    plane
        .eventually(&claim, |claim| claim["status"]["phase"] == "Bound" && claim["metadata"]["uid"] != old)
        .await;

    // What the node does at the end: the object may go, as nothing is bound to it.
    plane.delete(&volume).await;
    plane.gone(&volume).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_of_another_cluster_is_taken_or_refused_as_configured() {
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "fast-ssd",
        "resources": {"requests": {"storage": "1Gi"}}}});
    let mut spec = containers();
    spec["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});

    let plane = Plane::start().await;
    plane.node("node").await;
    plane.post(CLAIMS, claim.clone()).await;
    plane.post(PODS, pod.clone()).await;
    plane.eventually(&format!("{PODS}/p"), |pod| pod["spec"]["nodeName"] == "node").await;
    plane.stop().await;

    let plane = Plane::start_with(Config { any_storage_class: false, ..Config::default() }).await;
    plane.node("node").await;
    plane.post(CLAIMS, claim).await;
    plane.post(PODS, pod).await;
    let unscheduled = plane
        .eventually(&format!("{PODS}/p"), |pod| pod["status"]["conditions"][0]["reason"] == "Unschedulable")
        .await;
    assert!(unscheduled["spec"]["nodeName"].is_null());
    let events = plane
        .eventually("/api/v1/namespaces/default/events", |events| {
            events.to_string().contains("ProvisioningFailed")
        })
        .await;
    assert!(
        events.to_string().contains("storageclass.storage.k8s.io \\\"fast-ssd\\\" not found"),
        "{events}"
    );
    plane.stop().await;
}
