//! README's runbook and list of metrics.

use std::collections::BTreeSet;

use dbctl::metrics::Metric;
use regex::Regex;

use super::{alerts, file, text};

/// A section of README, to the next heading of its rank.
fn section(title: &str) -> String {
    let readme = file("README.md");
    let begin =
        readme.find(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("README has no section {title:?}"));
    let rest = &readme[begin + 1..];
    rest[..rest.find("\n## ").unwrap_or(rest.len())].to_owned()
}

#[test]
fn each_alert_has_its_runbook() {
    let runbook = section("Runbook");
    let mut titles: BTreeSet<String> =
        runbook.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned).collect();
    for alert in alerts() {
        let name = text(&alert, "/alert");
        let anchor = format!("README.md#{}", name.to_lowercase());
        assert_eq!(text(&alert, "/annotations/runbook_url"), anchor);
        assert!(titles.remove(name), "README's runbook says nothing of {name}");
        // What to type, with the names that README's examples have.
        let command = text(&alert, "/annotations/command")
            .replace("-n {{ $labels.namespace }} ", "")
            .replace("{{ $labels.database }}", "orders-db");
        let rest = runbook.split(&format!("\n### {name}\n")).nth(1).unwrap();
        let own = rest.split("\n### ").next().unwrap();
        assert!(own.contains(&command), "{name}: {command} is not in {own}");
    }
    assert!(titles.is_empty(), "no alerts: {titles:?}");
}

#[test]
fn each_metric_is_listed_and_no_other() {
    let listing = section("Monitoring");
    let names = Regex::new("`((?:database|dbctl|pg)_[a-z0-9_]+)`").unwrap();
    let listed: BTreeSet<String> = names.captures_iter(&listing).map(|found| found[1].to_owned()).collect();
    let served = dbctl::controller::metrics().into_iter().chain(dbctl::agent::metrics());
    let served: BTreeSet<String> = served.map(|Metric { name, .. }| (*name).to_owned()).collect();
    let missing: Vec<_> = served.difference(&listed).collect();
    let wrong: Vec<_> = listed.difference(&served).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "not listed: {missing:?}; not served: {wrong:?}");
}
