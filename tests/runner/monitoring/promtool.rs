//! promtool, Prometheus' own tool: it checks rules and runs their tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{alerts, groups, list, text, yaml};

/// Where `.ci/run` puts it.
const FETCHED: &str = "target/promtool/usr/bin";
/// The annotations with values in them: the tests tell them in full. The others are the same for each alert.
const RENDERED: [&str; 2] = ["summary", "command"];

/// promtool, from the PATH or from where `.ci/run` puts it.
pub fn promtool() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(FETCHED);
    let mut places = std::env::split_paths(&path).chain([fetched]).map(|place| place.join("promtool"));
    places.find(|place| place.is_file()).unwrap_or_else(|| {
        panic!(
            "promtool is neither on the PATH nor in {FETCHED}. `.ci/run` fetches it; by hand, without Prometheus itself: \
             mkdir -p target/promtool && cd target/promtool && apt-get download prometheus && dpkg -x prometheus_*.deb ."
        )
    })
}

/// Runs promtool there, and shows what it says where it fails.
#[track_caller]
pub fn run(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new(promtool()).args(arguments).current_dir(directory).output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

/// The rules as promtool reads them, from the one place where they are.
pub fn write_rules(directory: &Path) {
    let mut groups = groups();
    let rules = groups.iter_mut().filter_map(|group| group["rules"].as_array_mut()).flatten();
    for rule in rules {
        let annotations = rule["annotations"].as_object_mut().unwrap();
        annotations.retain(|name, _| RENDERED.contains(&name.as_str()));
    }
    let rules = serde_yaml::to_string(&json!({ "groups": groups })).unwrap();
    std::fs::write(directory.join("rules.yaml"), rules).unwrap();
}

/// The files with tests, by name.
fn tests() -> BTreeMap<String, Value> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/monitoring");
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names
        .map(|name| {
            let name = name.into_string().unwrap();
            let content = yaml(&format!("tests/monitoring/{name}"));
            (name, content)
        })
        .collect()
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() {
    let directory = tempfile::tempdir().unwrap();
    write_rules(directory.path());
    run(directory.path(), &["check", "rules", "rules.yaml"]);
    for name in tests().keys() {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/monitoring").join(name);
        std::fs::copy(from, directory.path().join(name)).unwrap();
        let said = run(directory.path(), &["test", "rules", name]);
        assert!(said.contains("SUCCESS"), "{said}");
    }
}

#[test]
fn each_alert_has_a_test_that_it_fires_and_others_that_it_does_not() {
    let mut seen: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    let mut paused: BTreeMap<String, usize> = BTreeMap::new();
    for test in tests().values().flat_map(|file| list(file, "/tests").to_vec()) {
        for case in list(&test, "/alert_rule_test") {
            let name = text(case, "/alertname").to_owned();
            let fires = !list(case, "/exp_alerts").is_empty();
            seen.entry(name.clone()).or_default()[usize::from(fires)] += 1;
            let series = test["input_series"].as_array().into_iter().flatten();
            if series.clone().any(|series| text(series, "/series").contains(r#"paused="true""#)) {
                assert!(!fires, "{name} fires for a paused database");
                *paused.entry(name).or_default() += 1;
            }
        }
    }
    for alert in alerts() {
        let name = text(&alert, "/alert");
        let counts = seen.remove(name).unwrap_or_default();
        assert!(counts[0] > 0 && counts[1] > 0, "{name} is tested {counts:?} times");
        // One of them knows no databases.
        let about = text(&alert, "/expr").contains("database_");
        assert!(!about || paused.contains_key(name), "{name} is not tested with a paused database");
    }
    assert!(seen.is_empty(), "tests of alerts that are not there: {seen:?}");
}

#[test]
fn annotations_that_tests_leave_out_hold_no_values() {
    for alert in alerts() {
        for (name, value) in alert["annotations"].as_object().unwrap() {
            let value = value.as_str().unwrap();
            assert!(RENDERED.contains(&name.as_str()) || !value.contains("{{"), "{name}: {value}");
        }
    }
}
