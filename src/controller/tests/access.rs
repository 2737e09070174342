//! The controller's role: all of it is used, and nothing else is asked for.

use std::collections::BTreeSet;

use k8s_openapi::api::storage::v1::StorageClass;

use super::*;
use crate::install::{RULES, qualified};

/// What was asked for, from the API server's own count: verb and resource, and whether it was allowed.
async fn asked(cluster: &Cluster, user: &str) -> BTreeSet<(String, bool)> {
    let request = http::Request::get("/debug/access").body(Vec::new()).unwrap();
    let log: Vec<Value> = cluster.client.request(request).await.unwrap();
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    log.iter()
        .filter(|line| line["user"] == user && line["path"].is_null())
        .map(|line| {
            let resource =
                qualified(&text(line, "group"), &text(line, "resource"), &text(line, "subresource"));
            (format!("{} {resource}", text(line, "verb")), line["allowed"] == true)
        })
        .collect()
}

/// Everything that a controller does in a Database's life, and what it rarely does.
async fn whole_life(cluster: &Cluster) {
    cluster.create_database("bad", json!({ "replicas": "many" })).await;
    let backup = json!({ "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/p" });
    let storage = json!({ "size": "1Gi", "storageClassName": "fast" });
    let class = json!({ "metadata": { "name": "fast" }, "provisioner": "x", "allowVolumeExpansion": true });
    let classes: Api<StorageClass> = Api::all(cluster.client.clone());
    classes.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
    let spec = json!({ "deletionPolicy": "Delete", "backup": backup, "storage": storage });
    cluster.create_database("db", spec).await;
    eventually("the StatefulSet is made", || cluster.has(Kind::StatefulSet, "db")).await;
    cluster.play("db", 2).await;
    cluster.wait_for("db", "Ready", "True", "AllMembersReady").await;
    take_backup(cluster).await;
    assert_eq!(cluster.read_metrics(Some("admin")).await.0, 200);
    // A hand changes everything that the controller keeps.
    for (kind, name) in needed("db", 2).into_iter().chain([(Kind::CronJob, "db-backup".to_owned())]) {
        let object = plain(cluster.api(kind).get(&name).await.unwrap());
        let Some(applied) = object["metadata"]["annotations"][APPLIED].as_str().map(str::to_owned) else {
            continue;
        };
        cluster.annotate(kind, &name, json!({ APPLIED: "changed" })).await;
        eventually("it is repaired", || async {
            plain(cluster.api(kind).get(&name).await.unwrap())["metadata"]["annotations"][APPLIED] == applied
        })
        .await;
    }
    // A Database that cannot be read is complained of again and again, in one event.
    for n in 0..2 {
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { "again": n.to_string() } } }));
        cluster.databases().patch("bad", &PatchParams::default(), &patch).await.unwrap();
        let events: Api<k8s_openapi::api::events::v1::Event> =
            Api::default_namespaced(cluster.client.clone());
        eventually("it is said again", || async {
            let all = events.list(&ListParams::default()).await.unwrap();
            all.iter().any(|event| event.series.as_ref().is_some_and(|series| series.count > n + 1))
        })
        .await;
    }
    grow(cluster).await;
    let patch = Patch::Merge(json!({ "spec": { "replicas": 1, "backup": { "enabled": false } } }));
    cluster.databases().patch("db", &PatchParams::default(), &patch).await.unwrap();
    eventually("the budget goes", || async { !cluster.has(Kind::PodDisruptionBudget, "db").await }).await;
    eventually("the schedule goes", || async { !cluster.has(Kind::CronJob, "db-backup").await }).await;
    cluster.databases().delete("db", &DeleteParams::default()).await.unwrap();
    eventually("its pods are stopped", || async {
        let pods = cluster.api(Kind::Pod).list(&ListParams::default()).await.unwrap();
        !pods.items.is_empty() && pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_some())
    })
    .await;
    for pod in ["db-0", "db-1"] {
        cluster.api(Kind::Pod).delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
    eventually("the Database is gone", || async {
        cluster.databases().get_opt("db").await.unwrap().is_none()
    })
    .await;
}

/// Claims grow, and the StatefulSet is replaced; what the garbage collector does in between, is done here.
async fn grow(cluster: &Cluster) {
    let patch = Patch::Merge(json!({ "spec": { "storage": { "size": "2Gi" } } }));
    cluster.databases().patch("db", &PatchParams::default(), &patch).await.unwrap();
    eventually("a claim asks for more", || async {
        let claim = plain(cluster.api(Kind::PersistentVolumeClaim).get("data-db-0").await.unwrap());
        claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
    })
    .await;
    let sets = cluster.api(Kind::StatefulSet);
    eventually("the StatefulSet is to go without its pods", || async {
        let set = sets.get("db").await.unwrap();
        set.metadata.finalizers.is_some_and(|all| all == ["orphan"])
    })
    .await;
    for pod in ["db-0", "db-1"] {
        let free = Patch::Merge(json!({ "metadata": { "ownerReferences": null } }));
        cluster.api(Kind::Pod).patch(pod, &PatchParams::default(), &free).await.unwrap();
    }
    let gone = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    sets.patch("db", &PatchParams::default(), &gone).await.unwrap();
    eventually("it is made anew with larger volumes", || async {
        let set = sets.get_opt("db").await.unwrap().map(plain).unwrap_or_default();
        set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "2Gi"
    })
    .await;
}

/// A request for a backup becomes a Job, and no more than one.
async fn take_backup(cluster: &Cluster) {
    let database = cluster.databases().get("db").await.unwrap();
    let id = ulid::Ulid::new().to_string();
    let request = json!({ "id": id, "uid": database.metadata.uid }).to_string();
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { "db.example.com/backup": request } } }));
    cluster.databases().patch("db", &PatchParams::default(), &patch).await.unwrap();
    let name = crate::api::Names("db").backup_job(&id);
    eventually("its Job is made", || cluster.has(Kind::Job, &name)).await;
    eventually("it is said to run", || async {
        let database = cluster.databases().get("db").await.unwrap();
        database.data["status"]["operations"][0]["phase"] == "Running"
    })
    .await;
    assert_eq!(cluster.api(Kind::Job).list(&ListParams::default()).await.unwrap().items.len(), 1);
}

fn user() -> String {
    format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}")
}

#[tokio::test]
async fn each_verb_of_the_controllers_role_is_used_and_nothing_else_is_asked_for() {
    let cluster = Cluster::start(lax_definition()).await;
    whole_life(&cluster).await;
    let asked = asked(&cluster, &user()).await;
    let denied: Vec<_> = asked.iter().filter(|(_, allowed)| !allowed).collect();
    assert!(denied.is_empty(), "denied: {denied:?}");
    let used: BTreeSet<String> = asked.into_iter().map(|(what, _)| what).collect();

    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/src/install/needs.txt");
    let seen: String = used.iter().map(|what| format!("{what}\n")).collect();
    if std::env::var_os("DBCTL_UPDATE_NEEDS").is_some() {
        std::fs::write(table, &seen).unwrap();
    }
    let known = std::fs::read_to_string(table).unwrap();
    assert_eq!(seen, known, "if this is meant, run again with DBCTL_UPDATE_NEEDS=1");
    cluster.stop().await;
}

/// The one verb that the controller holds only to hand it on.
#[tokio::test]
async fn what_the_controller_does_not_hold_it_cannot_grant() {
    let mut role = rbac(NAMESPACE, Scope::Cluster);
    let rules = role[1]["rules"].as_array_mut().unwrap();
    let pods = rules.iter_mut().find(|rule| rule["resources"][0] == "pods").unwrap();
    pods["verbs"].as_array_mut().unwrap().retain(|verb| verb != "patch");
    let cluster = Cluster::start_with(lax_definition(), &role).await;
    cluster.create_database("db", json!({})).await;
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::default_namespaced(cluster.client.clone());
    eventually("the grant is refused", || async {
        let all = events.list(&ListParams::default()).await.unwrap();
        all.iter().any(|event| {
            let note = event.note.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("ReconcileFailed")
                && note.contains("Role db")
                && note.contains("not currently held")
        })
    })
    .await;
    assert!(!cluster.has(Kind::Role, "db").await && !cluster.has(Kind::StatefulSet, "db").await);
    cluster.stop().await;
}

/// The count itself: a controller with one verb less is denied something.
#[tokio::test]
async fn a_controller_without_a_verb_is_denied_it() {
    for (resource, verb) in [("secrets", "get"), ("endpointslices", "watch"), ("statefulsets", "create")] {
        assert!(RULES.iter().any(|rule| rule.resource == resource && rule.verbs.contains(&verb)));
        let mut role = rbac(NAMESPACE, Scope::Cluster);
        for rule in role[1]["rules"].as_array_mut().unwrap() {
            if rule["resources"][0] == resource {
                rule["verbs"].as_array_mut().unwrap().retain(|held| held != verb);
            }
        }
        let cluster = Cluster::start_with(lax_definition(), &role).await;
        cluster.create_database("db", json!({})).await;
        eventually("it is denied", || async {
            let asked = asked(&cluster, &user()).await;
            asked.iter().any(|(what, allowed)| !allowed && what.starts_with(&format!("{verb} {resource}")))
        })
        .await;
        cluster.stop().await;
    }
}
