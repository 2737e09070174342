//! One controller of several works.

use k8s_openapi::api::coordination::v1::Lease;

use super::*;

async fn holder(cluster: &Cluster) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    leases.get_opt(ACCOUNT).await.unwrap()?.spec?.holder_identity
}

async fn held_by(cluster: &Cluster, who: &str) {
    eventually("the Lease changes hands", || async { holder(cluster).await.as_deref() == Some(who) }).await;
}

#[tokio::test]
async fn another_takes_over_from_one_that_stops_and_from_one_that_hangs() {
    let mut cluster = Cluster::start(lax_definition()).await;
    held_by(&cluster, "first").await;
    let token = |stop: &CancellationToken| stop.child_token();
    let second = token(&cluster.stop);
    let waiting = tokio::spawn(run(cluster.client.clone(), elected("second"), second.clone()));
    cluster.create_database("db", json!({})).await;
    eventually("the first works", || cluster.has(Kind::StatefulSet, "db")).await;
    assert_eq!(holder(&cluster).await.as_deref(), Some("first"));

    // Nothing of it is heard any more: its Lease has to end by itself.
    cluster.controller.abort();
    held_by(&cluster, "second").await;
    cluster.create_database("other", json!({})).await;
    eventually("the second works", || cluster.has(Kind::StatefulSet, "other")).await;

    // One that is told to stop gives it back, and what it did is done by then.
    let third = tokio::spawn(run(cluster.client.clone(), elected("third"), token(&cluster.stop)));
    second.cancel();
    waiting.await.unwrap().unwrap();
    held_by(&cluster, "third").await;
    cluster.controller = third;
    cluster.stop().await;
}

#[tokio::test]
async fn it_is_ready_when_it_stands_by_or_works_and_says_its_version() {
    let mut cluster = Cluster::start(lax_definition()).await;
    held_by(&cluster, "first").await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let says = |path: &'static str| async move {
        let answer = reqwest::get(format!("http://{address}{path}")).await.ok()?;
        let ready = answer.status().is_success();
        Some((ready, answer.text().await.unwrap()))
    };
    let config = ControllerConfig { health: Some(Arc::new(listener)), ..elected("second") };
    let second = tokio::spawn(run(cluster.client.clone(), config, cluster.stop.child_token()));
    eventually("it stands by", || async {
        says("/readyz").await.is_some_and(|(ready, text)| ready && text.starts_with("standing by"))
    })
    .await;
    cluster.controller.abort();
    held_by(&cluster, "second").await;
    eventually("it works", || async { says("/readyz").await == Some((true, "working\n".to_owned())) }).await;
    assert_eq!(says("/healthz").await, Some((true, "ok\n".to_owned())));
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let version = leases.get(ACCOUNT).await.unwrap().annotations()[crate::api::DBCTL_VERSION].clone();
    assert_eq!(version, crate::api::VERSION);
    cluster.controller = second;
    cluster.stop().await;
}

#[tokio::test]
async fn one_that_stands_by_ends_when_it_is_told_to() {
    let cluster = Cluster::start(lax_definition()).await;
    held_by(&cluster, "first").await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = ControllerConfig { health: Some(Arc::new(listener)), ..elected("second") };
    let stop = CancellationToken::new();
    let second = tokio::spawn(run(cluster.client.clone(), config, stop.clone()));
    eventually("it stands by", || async {
        reqwest::get(format!("http://{address}/readyz"))
            .await
            .is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    stop.cancel();
    let ended = tokio::time::timeout(PATIENCE, second).await;
    ended.expect("it does not end").unwrap().unwrap();
    assert_eq!(holder(&cluster).await.as_deref(), Some("first"));
    cluster.stop().await;
}

#[tokio::test]
async fn one_that_loses_the_lease_ends() {
    let cluster = Cluster::start(lax_definition()).await;
    held_by(&cluster, "first").await;
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let taken = Patch::Merge(json!({ "spec": { "holderIdentity": "somebody" } }));
    leases.patch(ACCOUNT, &PatchParams::default(), &taken).await.unwrap();
    let Cluster { controller, stop, api, .. } = cluster;
    let ended = controller.await.unwrap();
    assert!(matches!(ended, Err(crate::controller::ControllerError::Lease(_))), "{ended:?}");
    stop.cancel();
    api.finished().await.unwrap();
}

#[tokio::test]
async fn without_the_right_to_hold_it_a_controller_says_so() {
    let role: Vec<_> = rbac(NAMESPACE, Scope::Cluster)
        .into_iter()
        .filter(|object| !object["metadata"]["name"].as_str().unwrap_or_default().ends_with("-lease"))
        .collect();
    let Cluster { controller, stop, api, .. } = Cluster::start_with(lax_definition(), &role).await;
    let ended = controller.await.unwrap().unwrap_err().to_string();
    assert!(
        ended.starts_with("take Lease dbctl-system/dbctl-controller: ") && ended.contains("forbidden"),
        "{ended}"
    );
    stop.cancel();
    api.finished().await.unwrap();
}
