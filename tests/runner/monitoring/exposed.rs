//! Every metric and label that a rule or the dashboard names is one that is served.

use std::collections::BTreeSet;

use dbctl::metrics::Metric;
use regex::Regex;
use serde_json::Value;

use super::{alerts, file, list, text};

/// What Prometheus adds to what members serve: see podmonitor.yaml.
const OF_MEMBERS: [&str; 3] = ["namespace", "database", "member"];
/// Words of the language that are followed by no bracket.
const WORDS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

/// A metric by the name of one of its series, and its labels in Prometheus.
fn served(series: &str) -> Option<BTreeSet<&'static str>> {
    let has = |metric: &&&'static Metric| metric.series().iter().any(|own| own == series);
    let le = series.ends_with("_bucket").then_some("le");
    let controller = dbctl::controller::metrics();
    if let Some(metric) = controller.iter().find(has) {
        return Some(metric.labels.iter().copied().chain(le).collect());
    }
    let agent = dbctl::agent::metrics();
    let metric = agent.iter().find(has)?;
    Some(metric.labels.iter().copied().chain(OF_MEMBERS).collect())
}

/// The metrics of an expression, each with the labels that it is picked by; and those that are grouped by.
fn parse(expression: &str) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    let labels = |text: &str| -> Vec<String> {
        let names = Regex::new("[a-zA-Z_][a-zA-Z0-9_]*").unwrap();
        names.find_iter(text).map(|name| name.as_str().to_owned()).collect()
    };
    let without_strings = Regex::new(r#""[^"]*""#).unwrap().replace_all(expression, "").into_owned();
    let plain = Regex::new(r"\[[^\]]*\]").unwrap().replace_all(&without_strings, "").into_owned();
    let clause = Regex::new(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)").unwrap();
    let grouped = clause.captures_iter(&plain).flat_map(|found| labels(&found[1])).collect();
    let plain = clause.replace_all(&plain, "").into_owned();
    let mut metrics = Vec::new();
    let name = Regex::new(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\(|\{([^}]*)\})?").unwrap();
    for found in name.captures_iter(&plain) {
        let function = found.get(2).is_some_and(|after| after.as_str() == "(");
        if function || WORDS.contains(&&found[1]) {
            continue;
        }
        metrics.push((
            found[1].to_owned(),
            found.get(3).map(|in_it| labels(in_it.as_str())).unwrap_or_default(),
        ));
    }
    (metrics, grouped)
}

/// What is wrong with an expression.
fn problems(expression: &str) -> Vec<String> {
    let (metrics, grouped) = parse(expression);
    let mut problems = Vec::new();
    let mut known = BTreeSet::new();
    for (metric, labels) in &metrics {
        let Some(has) = served(metric) else {
            problems.push(format!("nobody serves {metric}"));
            continue;
        };
        let lacks = labels.iter().filter(|label| !has.contains(label.as_str()));
        problems.extend(lacks.map(|label| format!("{metric} has no label {label}")));
        known.extend(has);
    }
    let unknown = grouped.iter().filter(|label| !known.contains(label.as_str()));
    problems.extend(unknown.map(|label| format!("nothing has the label {label}")));
    if metrics.is_empty() {
        problems.push("it names no metric".to_owned());
    }
    problems
}

#[test]
fn rules_name_what_is_served() {
    for alert in alerts() {
        let expression = text(&alert, "/expr");
        assert_eq!(problems(expression), Vec::<String>::new(), "{expression}");
    }
}

#[test]
fn what_is_not_served_is_found() {
    for (expression, wrong) in [
        ("database_pg_up > 0", "nobody serves database_pg_up"),
        ("sum by (naem) (pg_up)", "nothing has the label naem"),
        (r#"rate(database_failover_total{cause="x"}[5m])"#, "database_failover_total has no label cause"),
        ("database_failover_duration_seconds", "nobody serves database_failover_duration_seconds"),
        ("time() - 5", "it names no metric"),
    ] {
        assert_eq!(problems(expression), [wrong]);
    }
}

/// Every `expr` in there, however deep.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" => found.push(text.clone()),
                    other => expressions(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_shows_what_is_served() {
    let dashboard: Value = serde_json::from_str(&file("manifests/monitoring/dashboard.json")).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 30, "{found:?}");
    for expression in &found {
        assert_eq!(problems(expression), Vec::<String>::new(), "{expression}");
    }
    let values = Regex::new(r"^label_values\((.*), (\w+)\)$").unwrap();
    let variables =
        list(&dashboard, "/templating/list").iter().filter(|variable| variable["type"] == "query");
    for variable in variables {
        let query = values.captures(text(variable, "/query/query")).unwrap();
        assert_eq!(problems(&format!("max by ({}) ({})", &query[2], &query[1])), Vec::<String>::new());
    }
    let mut ids: Vec<_> = list(&dashboard, "/panels").iter().map(|panel| panel["id"].as_u64()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), list(&dashboard, "/panels").len());
}

/// promtool reads the dashboard's expressions as well as the rules'.
#[test]
fn the_dashboards_expressions_are_promql() {
    let dashboard: Value = serde_json::from_str(&file("manifests/monitoring/dashboard.json")).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let rules: Vec<Value> = found
        .iter()
        .enumerate()
        .map(|(index, expr)| {
            let expr = expr.replace("$__rate_interval", "5m");
            serde_json::json!({ "record": format!("panel:{index}"), "expr": expr })
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(directory.path().join("dashboard.yaml"), groups.to_string()).unwrap();
    super::promtool::run(directory.path(), &["check", "rules", "dashboard.yaml"]);
}
