//! The safety checklist of backups, `tests/checklist.txt`: which tests show what, and, from the output of a run of all tests,
//! whether they passed. A name that is no test's fails here, or in the library's test of the same kind.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const CHECKLIST: &str = include_str!("../checklist.txt");
const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");
/// How many items there are.
const ITEMS: usize = 28;
/// Names the file with the output of `cargo test`.
const OUTPUT: &str = "DBCTL_TEST_OUTPUT";

/// A thing that must hold.
struct Item {
    title: &'static str,
    /// Names of tests in the library and in this binary.
    lib: Vec<&'static str>,
    runner: Vec<&'static str>,
    /// Words of ARCHITECTURE.md on what no test shows.
    texts: Vec<&'static str>,
}

fn items() -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    for line in CHECKLIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(what) = line.strip_prefix("    ") else {
            let (number, _) = line.split_once(' ').unwrap();
            assert_eq!(number.parse(), Ok(items.len() + 1), "{line}");
            items.push(Item { title: line, lib: vec![], runner: vec![], texts: vec![] });
            continue;
        };
        let item = items.last_mut().unwrap();
        match what.split_once(' ').unwrap() {
            ("lib", name) => item.lib.push(name),
            ("runner", name) => item.runner.push(name),
            ("text", words) => item.texts.push(words),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(items.len(), ITEMS);
    items
}

/// What of all tests passed, failed or was ignored, as a run printed it.
fn outcomes(output: &str) -> BTreeMap<&str, &str> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "));
    lines.map(|(name, outcome)| (name, outcome.split(',').next().unwrap_or(outcome))).collect()
}

/// The table, and the items that are not shown.
fn table(items: &[Item], outcomes: &BTreeMap<&str, &str>) -> (String, Vec<usize>) {
    let (mut table, mut bad) = (String::new(), Vec::new());
    for (number, item) in (1..).zip(items) {
        let tests = item.lib.iter().chain(&item.runner);
        let told: Vec<_> = tests.map(|name| (name, *outcomes.get(name).unwrap_or(&"did not run"))).collect();
        let passed = told.iter().filter(|(_, outcome)| *outcome == "ok").count();
        let all = passed == told.len();
        if !all {
            bad.push(number);
        }
        let said = match (told.len(), all) {
            (0, _) => "no test".to_owned(),
            (count, true) => format!("passed ({count})"),
            (count, false) => format!("NOT SHOWN ({passed} of {count})"),
        };
        table += &format!("{:105} {said}\n", item.title);
        for (name, outcome) in told {
            table += &format!("      {name}: {outcome}\n");
        }
        item.texts.iter().for_each(|words| table += &format!("      ARCHITECTURE.md: {words} …\n"));
    }
    (table, bad)
}

#[test]
fn the_tests_that_the_checklist_names_are_there() {
    let items = items();
    let output = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let there: BTreeSet<&str> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let output =
        Command::new(std::env::current_exe().unwrap()).args(["--list", "--ignored"]).output().unwrap();
    let rarely = String::from_utf8(output.stdout).unwrap();
    for item in &items {
        let named = item.lib.len() + item.runner.len() + item.texts.len();
        assert!(named > 0, "{}: nothing shows it", item.title);
        for name in &item.runner {
            assert!(there.contains(name), "{}: there is no test {name}", item.title);
            assert!(
                !rarely.contains(&format!("{name}: test")),
                "{}: {name} does not run each time",
                item.title
            );
        }
        for words in &item.texts {
            assert!(ARCHITECTURE.contains(words), "{}: ARCHITECTURE.md does not say {words:?}", item.title);
        }
    }
}

#[test]
fn what_did_not_pass_is_not_shown() {
    let items = items();
    let all: Vec<&str> = items.iter().flat_map(|item| item.lib.iter().chain(&item.runner)).copied().collect();
    let run = |but: &str, outcome: &str| {
        let line = |name: &&str| format!("test {name} ... {}\n", if *name == but { outcome } else { "ok" });
        all.iter().map(line).collect::<String>()
    };
    let bad = |output: &str| table(&items, &outcomes(output)).1;
    assert_eq!(bad(&run("", "")), [0; 0]);
    assert_eq!(bad("").len(), items.iter().filter(|item| item.lib.len() + item.runner.len() > 0).count());
    let one = items[14].lib[0];
    for outcome in ["FAILED", "ignored, why", "has been running for over 60 seconds"] {
        assert_eq!(bad(&run(one, outcome)), [15], "{outcome}");
    }
    assert_eq!(bad(&run("", "").replace(&format!("test {one} ... ok\n"), "")), [15]);
}

/// `cargo test 2>&1 | tee FILE; DBCTL_TEST_OUTPUT=FILE cargo test --test runner -- --ignored --nocapture the_checklist_is_shown`
#[test]
#[ignore = "reads the output of a run of all tests, which DBCTL_TEST_OUTPUT names"]
fn the_checklist_is_shown() {
    let file = std::env::var(OUTPUT).unwrap_or_else(|_| panic!("{OUTPUT} names no file"));
    let output = std::fs::read_to_string(file).unwrap();
    let (table, bad) = table(&items(), &outcomes(&output));
    println!("\n{table}");
    assert_eq!(bad, [0; 0], "items that are not shown");
}
