//! What is monitored is what is made: labels, ports, and commands.

use std::collections::BTreeMap;
use std::process::Stdio;

use dbctl::api::Names;
use dbctl::install::{NAMESPACE, Scope, rbac};
use serde_json::{Value, json};

use super::{alerts, list, text, yaml};
use crate::support::dbctl;

fn labels(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn within(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[test]
fn members_and_nothing_else_are_asked() {
    let monitor = yaml("manifests/monitoring/podmonitor.yaml");
    let selector = labels(&monitor["spec"]["selector"]["matchLabels"]);
    assert!(within(&selector, &Names("db").labels()));
    assert!(!within(&selector, &Names("db").backup_labels()));
    assert!(!within(&selector, &Names("db").verify_labels()));
    let endpoint = &list(&monitor, "/spec/podMetricsEndpoints")[0];
    assert_eq!((text(endpoint, "/port"), text(endpoint, "/path")), ("agent", "/metrics"));
    // As Prometheus writes a label's name.
    let label = dbctl::api::LABEL_DATABASE.replace(['.', '/'], "_");
    let from = format!("__meta_kubernetes_pod_label_{label}");
    let relabelled = list(endpoint, "/relabelings").iter().find(|rule| rule["targetLabel"] == "database");
    assert_eq!(relabelled.unwrap()["sourceLabels"], json!([from]));
}

#[test]
fn the_controller_is_asked_and_its_labels_stay() {
    let monitor = yaml("manifests/monitoring/servicemonitor.yaml");
    // Everything that is installed for the controller bears the labels of its account, its Service too.
    let account = &rbac(NAMESPACE, Scope::Cluster)[0];
    assert_eq!(text(account, "/kind"), "ServiceAccount");
    let own = labels(&account["metadata"]["labels"]);
    let selector = labels(&monitor["spec"]["selector"]["matchLabels"]);
    assert!(!selector.is_empty() && within(&selector, &own), "{own:?}");
    let endpoint = &list(&monitor, "/spec/endpoints")[0];
    assert_eq!((text(endpoint, "/port"), text(endpoint, "/path")), ("metrics", "/metrics"));
    // Of what it says, `namespace` is the database's.
    assert_eq!(endpoint["honorLabels"], true);
    assert_eq!(text(&monitor, "/metadata/namespace"), NAMESPACE);
}

#[test]
fn the_kustomization_names_every_file() {
    let kustomization = yaml("manifests/monitoring/kustomization.yaml");
    let mut named: Vec<String> =
        list(&kustomization, "/resources").iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    named.extend(["dashboard.json".to_owned(), "kustomization.yaml".to_owned()]);
    named.sort();
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/monitoring");
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut files: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
    files.sort();
    assert_eq!(named, files);
    assert_eq!(kustomization["configMapGenerator"][0]["files"], json!(["dashboard.json"]));
}

/// Each command is one that this binary has, with those arguments.
#[test]
fn each_alert_names_a_command() {
    for alert in alerts() {
        let command = text(&alert, "/annotations/command");
        let command = command
            .replace("{{ $labels.namespace }}", "shop")
            .replace("{{ $labels.database }}", "orders")
            .replace("SIZE", "20Gi");
        let mut words = command.split_whitespace();
        assert_eq!(words.next(), Some("dbctl"), "{command}");
        let home = tempfile::tempdir().unwrap();
        // It reads all arguments before it shows its help.
        let output = dbctl(home.path()).args(words).arg("--help").stdout(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{command}: {said}");
        let aimed = command.contains("-n shop") && command.contains("orders") || command == "dbctl list -A";
        assert!(aimed, "{command}");
    }
}

#[test]
fn each_alert_says_how_grave_it_is() {
    for alert in alerts() {
        let severity = text(&alert, "/labels/severity");
        assert!(["critical", "warning"].contains(&severity), "{alert}");
        for annotation in ["summary", "description", "command", "runbook_url"] {
            assert!(!text(&alert, &format!("/annotations/{annotation}")).is_empty());
        }
        assert!(!text(&alert, "/for").is_empty());
    }
}
