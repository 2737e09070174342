//! What `manifests/monitoring` holds: alerts, by promtool; and that it speaks of what there is.

mod exposed;
mod journey;
mod names;
mod promtool;
mod rare;
mod readers;
mod readme;

use std::path::PathBuf;

use serde_json::Value;

/// A file of the repository.
fn file(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &str) -> Value {
    serde_yaml::from_str(&file(path)).unwrap()
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("no {path} in {value}"))
}

fn list<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    value.pointer(path).and_then(Value::as_array).unwrap_or_else(|| panic!("no {path} in {value}"))
}

/// The groups of rules, as the Prometheus operator hands them on.
fn groups() -> Vec<Value> {
    list(&yaml("manifests/monitoring/prometheusrule.yaml"), "/spec/groups").to_vec()
}

/// All alerts.
fn alerts() -> Vec<Value> {
    groups().iter().flat_map(|group| list(group, "/rules").to_vec()).collect()
}
