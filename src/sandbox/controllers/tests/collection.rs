//! Garbage collection and namespaces.

use serde_json::{Value, json};

use super::super::Config;
use super::server::{CONFIGS, PODS, Plane, SETS, stateful_set};

fn config(name: &str, owners: &[&Value]) -> Value {
    let owners: Vec<Value> = owners
        .iter()
        .map(|owner| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"],
                   "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true})
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": owners}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_goes_and_what_has_another_owner_stays() {
    let plane = Plane::start().await;
    let one = plane.post(CONFIGS, config("one", &[])).await;
    let two = plane.post(CONFIGS, config("two", &[])).await;
    let child = plane.post(CONFIGS, config("child", &[&one])).await;
    plane.post(CONFIGS, config("grandchild", &[&child])).await;
    plane.post(CONFIGS, config("shared", &[&one, &two])).await;
    plane.delete(&format!("{CONFIGS}/one")).await;
    plane.gone(&format!("{CONFIGS}/child")).await;
    plane.gone(&format!("{CONFIGS}/grandchild")).await;
    let shared = plane
        .eventually(&format!("{CONFIGS}/shared"), |shared| {
            shared["metadata"]["ownerReferences"].as_array().is_some_and(|owners| owners.len() == 1)
        })
        .await;
    assert_eq!(shared["metadata"]["ownerReferences"][0]["name"], "two");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_foreground_the_last_goes_first_all_the_way_down() {
    let plane = Plane::start().await;
    let top = plane.post(CONFIGS, config("top", &[])).await;
    let middle = plane.post(CONFIGS, config("middle", &[&top])).await;
    let mut bottom = config("bottom", &[&middle]);
    bottom["metadata"]["finalizers"] = json!(["example.com/hold"]);
    plane.post(CONFIGS, bottom).await;
    plane.settled().await;
    plane.delete_with(&format!("{CONFIGS}/top"), json!({"propagationPolicy": "Foreground"})).await;
    plane
        .eventually(&format!("{CONFIGS}/bottom"), |bottom| {
            bottom["metadata"]["deletionTimestamp"].is_string()
        })
        .await;
    plane.settled().await;
    for name in ["top", "middle"] {
        let held = plane.get(&format!("{CONFIGS}/{name}")).await.unwrap();
        assert_eq!(held["metadata"]["finalizers"], json!(["foregroundDeletion"]), "{name}");
    }
    plane.merge(&format!("{CONFIGS}/bottom"), json!({"metadata": {"finalizers": null}})).await;
    for name in ["bottom", "middle", "top"] {
        plane.gone(&format!("{CONFIGS}/{name}")).await;
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaned_pods_run_on_and_a_new_set_of_that_name_takes_them_in() {
    let plane = Plane::start().await;
    plane.node("node").await;
    plane.post(SETS, stateful_set("s", 2)).await;
    let mut before = Vec::new();
    for pod in ["s-0", "s-1"] {
        let path = format!("{PODS}/{pod}");
        before.push(
            plane.eventually(&path, |pod| pod["spec"]["nodeName"] == "node").await["metadata"]["uid"].clone(),
        );
    }
    plane.settled().await;
    plane.delete_with(&format!("{SETS}/s"), json!({"propagationPolicy": "Orphan"})).await;
    plane.gone(&format!("{SETS}/s")).await;
    plane.settled().await;
    for pod in ["s-0", "s-1"] {
        assert!(plane.get(&format!("{PODS}/{pod}")).await.unwrap()["metadata"]["ownerReferences"].is_null());
    }
    let new = plane.post(SETS, stateful_set("s", 2)).await;
    for (pod, uid) in ["s-0", "s-1"].into_iter().zip(before) {
        let adopted = plane
            .eventually(&format!("{PODS}/{pod}"), |pod| {
                pod["metadata"]["ownerReferences"][0]["uid"] == new["metadata"]["uid"]
            })
            .await;
        assert_eq!(adopted["metadata"]["uid"], uid);
    }
    plane.eventually(&format!("{SETS}/s"), |set| set["status"]["replicas"] == 2).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_has_its_account_and_takes_everything_along() {
    let plane = Plane::start().await;
    plane
        .post(
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}),
        )
        .await;
    let account = "/api/v1/namespaces/x/serviceaccounts/default";
    let first = plane.eventually(account, |account| account["kind"] == "ServiceAccount").await;
    plane.delete(account).await;
    plane
        .eventually(account, |new| {
            new["metadata"]["uid"].is_string() && new["metadata"]["uid"] != first["metadata"]["uid"]
        })
        .await;
    let set = stateful_set("s", 1);
    plane.post("/apis/apps/v1/namespaces/x/statefulsets", set).await;
    plane.eventually("/api/v1/namespaces/x/persistentvolumeclaims/data-s-0", |claim| !claim.is_null()).await;
    plane.delete("/api/v1/namespaces/x").await;
    plane.gone("/api/v1/namespaces/x").await;
    plane.gone("/api/v1/namespaces/x/persistentvolumeclaims/data-s-0").await;
    plane.stop().await;
}

fn definition(version: &str) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
                 "names": {"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"},
                 "versions": [{"name": version, "served": true, "storage": true, "schema": schema}]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_changes_its_version_loses_nothing_and_one_that_goes_takes_along_what_it_owned() {
    const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let widgets = |version: &str| format!("/apis/example.com/{version}/namespaces/default/widgets");
    let plane = Plane::start().await;
    plane.post(DEFINITIONS, definition("v1alpha1")).await;
    plane.eventually(&widgets("v1alpha1"), |list| !list.is_null()).await;
    for name in ["one", "two"] {
        let widget =
            json!({"apiVersion": "example.com/v1alpha1", "kind": "Widget", "metadata": {"name": name}});
        let widget = plane.post(&widgets("v1alpha1"), widget).await;
        let mut child = config(&format!("child-of-{name}"), &[&widget]);
        let reference = &mut child["metadata"]["ownerReferences"][0];
        reference["apiVersion"] = json!("example.com/v1alpha1");
        reference["kind"] = json!("Widget");
        plane.post(CONFIGS, child).await;
    }
    plane.settled().await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    // The version that objects were stored in stays on record.
    let mut versions = definition("v1")["spec"]["versions"].clone();
    let mut before = definition("v1alpha1")["spec"]["versions"][0].clone();
    before["served"] = json!(false);
    before["storage"] = json!(false);
    versions.as_array_mut().unwrap().push(before);
    plane.merge(&path, json!({"spec": {"versions": versions}})).await;
    plane.eventually(&widgets("v1"), |list| list["items"].as_array().is_some_and(|all| all.len() == 2)).await;
    plane.settled().await;
    for name in ["one", "two"] {
        assert!(plane.get(&format!("{CONFIGS}/child-of-{name}")).await.is_some(), "{name}");
    }
    plane.delete(&format!("{}/one", widgets("v1"))).await;
    plane.gone(&format!("{CONFIGS}/child-of-one")).await;
    plane.delete(&path).await;
    plane.gone(&format!("{CONFIGS}/child-of-two")).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_is_told_whom_to_trust_and_is_told_again() {
    let config = Config { root_ca: Some("PEM".to_owned()), ..Config::default() };
    let plane = Plane::start_with(config).await;
    plane.post("/api/v1/namespaces", json!({"metadata": {"name": "young"}})).await;
    let told = |map: &Value| map["data"] == json!({"ca.crt": "PEM"});
    for space in ["default", "kube-system", "young"] {
        plane.eventually(&format!("/api/v1/namespaces/{space}/configmaps/kube-root-ca.crt"), told).await;
    }
    let path = format!("{CONFIGS}/kube-root-ca.crt");
    let first = plane.get(&path).await.unwrap();
    plane.delete(&path).await;
    let uid = &first["metadata"]["uid"];
    plane.eventually(&path, |map| told(map) && map["metadata"]["uid"] != *uid).await;
    plane.merge(&path, json!({"data": {"ca.crt": "another", "more": "x"}})).await;
    plane.eventually(&path, told).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_sums_others_up_follows_them() {
    const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let plane = Plane::start().await;
    let has = |role: &Value, resource: &str| {
        let rules = role["rules"].as_array();
        rules.is_some_and(|rules| rules.iter().any(|rule| rule["resources"].to_string().contains(resource)))
    };
    for (role, resource) in [("view", "pods"), ("edit", "statefulsets/scale"), ("admin", "rolebindings")] {
        plane.eventually(&format!("{ROLES}/{role}"), |found| has(found, resource)).await;
    }
    let more = json!({
        "metadata": {"name": "more", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"verbs": ["get"], "apiGroups": ["acme.example"], "resources": ["things"]}],
    });
    plane.post(ROLES, more).await;
    plane.eventually(&format!("{ROLES}/admin"), |role| has(role, "things")).await;
    plane.delete(&format!("{ROLES}/more")).await;
    plane.eventually(&format!("{ROLES}/admin"), |role| !has(role, "things")).await;
    plane.stop().await;
}
