//! The part of `tests/checklist.txt` that this binary's tests show; `tests/runner/checklist.rs` has the rest.

use std::collections::BTreeSet;
use std::process::Command;

const CHECKLIST: &str = include_str!("../../tests/checklist.txt");

#[test]
fn the_tests_that_the_checklist_names_are_there() {
    let output = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let there: BTreeSet<&str> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let named: BTreeSet<&str> =
        CHECKLIST.lines().filter_map(|line| line.trim().strip_prefix("lib ")).collect();
    assert!(!named.is_empty());
    assert_eq!(named.difference(&there).collect::<Vec<_>>(), [&""; 0], "named, and not there");
}
