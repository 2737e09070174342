//! Who reads the controller's metrics: with the rights that an installation gives, and what `manifests/monitoring` adds to them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{file, list, text, yaml};
use crate::access::{CONTROLLER, denied};
use crate::external::runtime;
use crate::install::{Cluster, Controller};
use crate::support::{Access, eventually};

/// Status and text of an answer to who asks with that token.
fn read(controller: &Controller, token: Option<&str>) -> (u16, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // As the ServiceMonitor has it: nobody knows the certificate.
    let client = reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap();
    let mut request = client.get(format!("https://{}/metrics", controller.metrics));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    runtime().block_on(async {
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    })
}

fn token(cluster: &Cluster, account: &str) -> String {
    cluster.kubectl(&format!("create token {account}")).ok().stdout.trim().to_owned()
}

/// What was asked of the API server by the controller.
fn asked(cluster: &Cluster) -> Vec<Access> {
    serde_json::from_str(&cluster.kubectl("get --raw /debug/access").ok().stdout).unwrap()
}

/// The command of README that binds an account, for that account.
fn binding(account: &str) -> String {
    let readme = file("README.md");
    let line = readme.lines().find(|line| line.starts_with("kubectl create clusterrolebinding ")).unwrap();
    line.trim_start_matches("kubectl ").replace("monitoring:prometheus", account)
}

#[test]
fn whom_the_cluster_lets_reads_the_metrics_and_nobody_else() {
    let cluster = Cluster::start();
    cluster.dbctl("install").ok();
    let controller = cluster.controller("");
    cluster.kubectl("create serviceaccount other").ok();
    let other = token(&cluster, "other");
    assert_eq!(read(&controller, None).0, 401);
    assert_eq!(read(&controller, Some("made-up")).0, 401);
    let (code, said) = read(&controller, Some(&other));
    assert_eq!(code, 403);
    assert!(said.contains("system:serviceaccount:default:other"), "{said}");
    // Without TLS there is nothing.
    let plain = format!("http://{}/metrics", controller.metrics);
    assert!(runtime().block_on(reqwest::get(plain)).is_err());

    // The account of `manifests/monitoring` reads, and may do nothing else.
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/monitoring/reader.yaml");
    cluster.kubectl(&format!("apply -f {reader}")).ok();
    let prometheus = token(&cluster, "dbctl-metrics-reader -n dbctl-system");
    let (code, page) = read(&controller, Some(&prometheus));
    assert_eq!(code, 200, "{page}");
    assert!(page.contains("dbctl_build_info{") && page.contains("dbctl_controller_leader 1"), "{page}");
    let secrets = cluster
        .kubectl("auth can-i get secrets -A --as=system:serviceaccount:dbctl-system:dbctl-metrics-reader");
    assert_eq!(secrets.stdout, "no\n");

    // Another account is let in once it is bound as README has it, as soon as its refusal no longer counts.
    cluster.kubectl(&binding("default:other")).ok();
    eventually("it may read", || match read(&controller, Some(&other)) {
        (200, _) => Ok(()),
        (code, said) => Err(format!("{code}: {said}")),
    });

    let log = asked(&cluster);
    assert_eq!(denied(&log, &[CONTROLLER]), Vec::<String>::new());
    let used: BTreeSet<String> =
        log.iter().filter(|line| line.user == CONTROLLER).map(Access::what).collect();
    for review in
        ["create tokenreviews.authentication.k8s.io", "create subjectaccessreviews.authorization.k8s.io"]
    {
        assert!(used.contains(review), "{used:?}");
    }
    let log = std::fs::read_to_string(&controller.log).unwrap();
    assert!(log.contains("metrics at https://"), "{log}");
    for token in [&other, &prometheus] {
        assert!(!log.contains(token.as_str()), "a token is in the log");
    }
}

/// With a Role for one namespace, too: the rights to ask are the cluster's.
#[test]
fn a_controller_for_one_namespace_knows_its_readers() {
    let cluster = Cluster::start();
    cluster.make_namespace("shop");
    cluster.dbctl("install --watch-namespace shop").ok();
    let controller = cluster.controller("--namespace=shop");
    cluster.kubectl("create serviceaccount other").ok();
    let other = token(&cluster, "other");
    assert_eq!(read(&controller, None).0, 401);
    assert_eq!(read(&controller, Some(&other)).0, 403);
    cluster.kubectl("create serviceaccount prometheus").ok();
    cluster.kubectl(&binding("default:prometheus")).ok();
    assert_eq!(read(&controller, Some(&token(&cluster, "prometheus"))).0, 200);
}

/// The ServiceMonitor shows the token of the account that is bound beside it.
#[test]
fn the_monitor_shows_the_token_of_the_reader() {
    let monitor = yaml("manifests/monitoring/servicemonitor.yaml");
    let endpoint = &list(&monitor, "/spec/endpoints")[0];
    assert_eq!(endpoint["scheme"], "https");
    assert_eq!(endpoint["tlsConfig"], json!({ "insecureSkipVerify": true }));
    let reader = file("manifests/monitoring/reader.yaml");
    let reader: Vec<Value> =
        reader.split("\n---\n").map(|document| serde_yaml::from_str(document).unwrap()).collect();
    let of = |kind: &str| reader.iter().find(|object| object["kind"] == kind).unwrap();
    let (account, secret, binding) = (of("ServiceAccount"), of("Secret"), of("ClusterRoleBinding"));
    let credentials = &endpoint["authorization"]["credentials"];
    assert_eq!(credentials, &json!({ "name": secret["metadata"]["name"], "key": "token" }));
    assert_eq!(secret["type"], "kubernetes.io/service-account-token");
    let name = &account["metadata"]["name"];
    assert_eq!(&secret["metadata"]["annotations"]["kubernetes.io/service-account.name"], name);
    for object in [account, secret, &monitor] {
        assert_eq!(text(object, "/metadata/namespace"), dbctl::install::NAMESPACE);
    }
    let subject =
        json!({ "kind": "ServiceAccount", "name": name, "namespace": account["metadata"]["namespace"] });
    assert_eq!(binding["subjects"], json!([subject]));
    assert_eq!(text(binding, "/roleRef/name"), dbctl::install::METRICS_READER);
    // What is installed for the controller is found by labels; this is none of it.
    for object in &reader {
        assert_eq!(text(object, "/metadata/labels/app.kubernetes.io~1component"), "monitoring");
    }
}
