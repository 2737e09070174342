//! StatefulSets, Services and Jobs together with the rest.

use serde_json::json;

use super::server::{CLAIMS, JOBS, PODS, Plane, SETS, containers, running, stateful_set};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

#[tokio::test(flavor = "multi_thread")]
async fn once_all_is_as_it_should_be_nothing_is_written() {
    let plane = Plane::start().await;
    plane.node("node").await;
    let port = json!({"selector": {"app": "s"}, "ports": [{"port": 5432}]});
    plane
        .post(
            SERVICES,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": port}),
        )
        .await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "s"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "s"}}}});
    plane.post("/apis/policy/v1/namespaces/default/poddisruptionbudgets", budget).await;
    plane.post(SETS, stateful_set("s", 3)).await;
    for pod in ["s-0", "s-1", "s-2"] {
        let path = format!("{PODS}/{pod}");
        plane.eventually(&path, |pod| pod["spec"]["nodeName"] == "node").await;
        plane.status(&path, running()).await;
    }
    plane.eventually(&format!("{SETS}/s"), |set| set["status"]["availableReplicas"] == 3).await;
    plane
        .eventually("/apis/policy/v1/namespaces/default/poddisruptionbudgets/s", |budget| {
            budget["status"]["disruptionsAllowed"] == 1 && budget["status"]["expectedPods"] == 3
        })
        .await;
    let slices = plane
        .eventually(SLICES, |slices| {
            slices["items"][0]["endpoints"].as_array().is_some_and(|all| all.len() == 3)
        })
        .await;
    assert_eq!(slices["items"].as_array().unwrap().len(), 1);
    let older = plane
        .eventually("/api/v1/namespaces/default/endpoints/s", |older| {
            older["subsets"][0]["addresses"].as_array().is_some_and(|all| all.len() == 3)
        })
        .await;
    assert_eq!(older["subsets"][0]["ports"][0]["port"], 5432);
    // The wait ends only after a while without a write.
    plane.settled().await;

    plane.delete(&format!("{SERVICES}/s")).await;
    plane.gone("/api/v1/namespaces/default/endpoints/s").await;
    plane.eventually(SLICES, |slices| slices["items"].as_array().is_some_and(Vec::is_empty)).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_is_survived() {
    let mut plane = Plane::start().await;
    plane.node("node").await;
    plane.post(SETS, stateful_set("s", 1)).await;
    let before = plane.eventually(&format!("{PODS}/s-0"), |pod| pod["spec"]["nodeName"] == "node").await;
    plane.restart_server().await;
    plane.merge(&format!("{SETS}/s"), json!({"spec": {"replicas": 2}})).await;
    plane.eventually(&format!("{PODS}/s-1"), |pod| pod["spec"]["nodeName"] == "node").await;
    plane.eventually(&format!("{CLAIMS}/data-s-1"), |claim| claim["status"]["phase"] == "Bound").await;
    let after = plane.get(&format!("{PODS}/s-0")).await.unwrap();
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_goes_from_the_highest_down_pod_by_pod() {
    let plane = Plane::start().await;
    plane.node("node").await;
    let mut set = stateful_set("s", 2);
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
    plane.post(SETS, set).await;
    for pod in ["s-0", "s-1"] {
        plane.eventually(&format!("{PODS}/{pod}"), |pod| pod["spec"]["nodeName"] == "node").await;
        plane.status(&format!("{PODS}/{pod}"), running()).await;
    }
    plane.eventually(&format!("{SETS}/s"), |set| set["status"]["readyReplicas"] == 2).await;
    let changed = json!({"spec": {"template": {"spec": {"containers": [{"name": "one", "image": "i:2"}]}}}});
    plane.merge(&format!("{SETS}/s"), changed).await;
    let image =
        |wanted: &'static str| move |pod: &serde_json::Value| pod["spec"]["containers"][0]["image"] == wanted;
    for pod in ["s-1", "s-0"] {
        // No node runs here: it is the test that ends and starts containers.
        let path = format!("{PODS}/{pod}");
        plane
            .eventually(&path, |pod| pod["metadata"]["deletionTimestamp"].is_string() || image("i:2")(pod))
            .await;
        if pod == "s-1" {
            assert!(image("i:1")(&plane.get(&format!("{PODS}/s-0")).await.unwrap()));
        }
        if plane.get(&path).await.is_some_and(|pod| pod["metadata"]["deletionTimestamp"].is_string()) {
            plane.delete_with(&path, json!({"gracePeriodSeconds": 0})).await;
        }
        plane.eventually(&path, image("i:2")).await;
        plane.status(&path, running()).await;
    }
    plane
        .eventually(&format!("{SETS}/s"), |set| {
            set["status"]["updatedReplicas"] == 2
                && set["status"]["readyReplicas"] == 2
                && set["status"]["currentRevision"] == set["status"]["updateRevision"]
        })
        .await;
    let revisions = plane.get("/apis/apps/v1/namespaces/default/controllerrevisions").await.unwrap();
    assert_eq!(revisions["items"].as_array().unwrap().len(), 2);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_badly_after_its_limit_and_one_that_says_so_goes_at_once() {
    let plane = Plane::start().await;
    plane.node("node").await;
    let job = |name: &str, fields: serde_json::Value| {
        let mut spec = containers();
        spec["restartPolicy"] = json!("Never");
        let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": {"spec": spec}}});
        for (key, value) in fields.as_object().unwrap() {
            job["spec"][key] = value.clone();
        }
        job
    };
    let pods_of = |job: &str| format!("{PODS}?labelSelector=job-name%3D{job}");
    for (name, fields, phase, condition) in
        [("bad", json!({}), "Failed", "Failed"), ("good", json!({"completions": 1}), "Succeeded", "Complete")]
    {
        plane.post(JOBS, job(name, fields)).await;
        let pods =
            plane.eventually(&pods_of(name), |pods| pods["items"][0]["spec"]["nodeName"] == "node").await;
        let pod = pods["items"][0]["metadata"]["name"].as_str().unwrap();
        assert_eq!(pods["items"][0]["metadata"]["finalizers"], json!(["batch.kubernetes.io/job-tracking"]));
        plane.status(&format!("{PODS}/{pod}"), json!({"phase": phase})).await;
        plane
            .eventually(&format!("{JOBS}/{name}"), |job| job["status"]["conditions"][1]["type"] == condition)
            .await;
        plane.eventually(&pods_of(name), |pods| pods["items"][0]["metadata"]["finalizers"].is_null()).await;
    }
    plane.settled().await;
    plane.merge(&format!("{JOBS}/good"), json!({"spec": {"ttlSecondsAfterFinished": 0}})).await;
    plane.gone(&format!("{JOBS}/good")).await;
    let left = plane.get(&pods_of("good")).await.unwrap();
    assert_eq!(left["items"], json!([]));
    plane.stop().await;
}
