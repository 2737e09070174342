//! Alerts about what ought never to be: two primaries, a restore that stands still, a certificate that nobody renews, and a
//! database that nobody looks after.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::journey::{Watch, begin, cordon, database, roles, superuser};
use crate::access::CONTROLLER;
use crate::backups::cluster::{NAME, back_up, create, directory};
use crate::external::runtime;
use crate::journeys::ready_with;
use crate::support::{Sandbox, eventually};

/// Patroni's own pause, as `patronictl pause` makes it.
fn pause_patroni(sandbox: &Sandbox, paused: bool) {
    runtime().block_on(async {
        let maps: Api<ConfigMap> = Api::default_namespaced(sandbox.client().await);
        let name = format!("{NAME}-config");
        let map = maps.get(&name).await.unwrap();
        let mut config: Value = serde_json::from_str(&map.metadata.annotations.unwrap()["config"]).unwrap();
        config["pause"] = if paused { json!(true) } else { Value::Null };
        let change = json!({ "metadata": { "annotations": { "config": config.to_string() } } });
        maps.patch(&name, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    });
    eventually("every Patroni has seen it", || {
        let members = runtime().block_on(crate::security::addresses(sandbox, 2)).0;
        let seen = members.iter().all(|address| {
            runtime().block_on(async {
                let answer = reqwest::get(format!("http://{address}:8008/patroni")).await.ok()?;
                let answer: Value = serde_json::from_str(&answer.text().await.ok()?).ok()?;
                Some(answer["pause"].as_bool().unwrap_or_default() == paused)
            }) == Some(true)
        });
        if seen { Ok(()) } else { Err("not yet".to_owned()) }
    });
}

#[test]
fn alerts_about_two_primaries_fire_and_end() {
    let Some(sandbox) = begin() else { return };
    let watch = Watch::new(&sandbox);
    let (_, replica) = database(&sandbox);
    // Two mistakes: Patroni does nothing, and somebody promotes by hand.
    pause_patroni(&sandbox, true);
    superuser(&sandbox, &replica, "select pg_promote()");
    watch.fire_at_least("two primaries", "DatabaseSplitBrainSuspected");
    pause_patroni(&sandbox, false);
    ready_with(&sandbox, NAME, 2);
    watch.fire("one primary again", &[]);
}

#[test]
fn alerts_about_a_restore_that_stands_still_fire_and_end() {
    let store = directory();
    let Some(sandbox) = begin() else { return };
    let watch = Watch::new(&sandbox);
    let url = format!("file://{}", store.path().display());
    create(&sandbox, "2", &url, &["--version", "16.15"]);
    back_up(&sandbox);
    roles(&sandbox);
    cordon(&sandbox, true);
    sandbox.run(&["restore", NAME, "--in-place", "--yes"]).ok();
    watch.fire("a restore whose pods find no node", &["DatabaseMaintenanceLong"]);
    cordon(&sandbox, false);
    ready_with(&sandbox, NAME, 2);
    watch.fire("a restore that is done", &[]);
}

/// A certificate of somebody's own that ends after so many days, for that database.
fn certificate(sandbox: &Sandbox, days: u64) {
    let from_now = |days: u64| SystemTime::now() + Duration::from_secs(days * 24 * 3600);
    let authority = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let trusted = params.self_signed(&authority).unwrap().pem();
    let issuer = Issuer::from_params(&params, &authority);
    let key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(vec!["db.default.svc".to_owned()]).unwrap();
    own.not_before = SystemTime::now().into();
    own.not_after = from_now(days).into();
    let certificate = own.signed_by(&key, &issuer).unwrap().pem();
    let secret = json!({
        "metadata": { "name": "mine" },
        "stringData": { "tls.crt": certificate, "tls.key": key.serialize_pem(), "ca.crt": trusted },
    });
    runtime().block_on(async {
        let secrets: Api<Secret> = Api::default_namespaced(sandbox.client().await);
        match secrets.get_opt("mine").await.unwrap() {
            Some(_) => {
                drop(secrets.patch("mine", &PatchParams::default(), &Patch::Merge(secret)).await.unwrap());
            }
            None => {
                let secret = serde_json::from_value(secret).unwrap();
                drop(secrets.create(&PostParams::default(), &secret).await.unwrap());
            }
        }
    });
}

#[test]
fn alerts_about_a_certificate_that_nobody_renews_fire_and_end() {
    let Some(sandbox) = begin() else { return };
    let watch = Watch::new(&sandbox);
    certificate(&sandbox, 3);
    let create =
        ["create", NAME, "--replicas", "1", "--storage", "1Gi", "--certificate-secret", "mine", "--wait"];
    sandbox.run(&create).ok();
    watch.fire("a certificate with three days left", &["DatabaseCertificateExpiring"]);
    certificate(&sandbox, 90);
    watch.fire("one with three months", &[]);
}

/// `cargo test --test runner -- --ignored nobody_looks_after`
#[test]
#[ignore = "takes seven minutes: the alert is about how long ago something was"]
fn alerts_about_a_database_that_nobody_looks_after_fire_and_end() {
    let Some(sandbox) = begin() else { return };
    let watch = Watch::new(&sandbox);
    database(&sandbox);
    // The controller leads, and sees what changes; but no pass over this database comes to its end.
    let fault = json!({
        "errors": [{ "status": 500, "rate": 1.0 }],
        "for": { "users": [CONTROLLER], "verbs": ["get"], "resources": ["secrets"] },
    });
    runtime().block_on(sandbox.faults(Some(fault)));
    // Secrets that were found are looked for again after two minutes, and passes fail from then on.
    std::thread::sleep(Duration::from_secs(300));
    watch.fire_at_least("passes that have failed for five minutes", "DatabaseNotReconciled");
    runtime().block_on(sandbox.faults(None));
    watch.fire("passes that do not", &[]);
}
