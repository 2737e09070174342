//! What the command line answers to bad input and without a cluster: stdout, stderr and exit code.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::support::{Answer, dbctl};

/// Runs it in an empty home, which must still be empty afterwards.
fn refused(args: &[&str]) -> String {
    refused_with(args, "")
}

fn refused_with(args: &[&str], input: &str) -> String {
    let home = tempfile::Builder::new().prefix("dbctl-").tempdir_in("/tmp").unwrap();
    let answer = run(home.path(), args, input);
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "made {left:?}");
    assert!(answer.stderr.lines().count() <= 24, "more than a screen:\n{}", answer.stderr);
    answer.transcript().replace(&home.path().display().to_string(), "[HOME]")
}

fn run(home: &Path, args: &[&str], input: &str) -> Answer {
    let mut child = dbctl(home)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn bad_flags_name_the_field_and_what_is_allowed() {
    insta::assert_snapshot!("replicas", refused(&["--sandbox", "create", "orders-db", "--replicas", "10"]));
    insta::assert_snapshot!(
        "version",
        refused(&["--sandbox", "create", "orders-db", "--version", "sixteen"])
    );
    insta::assert_snapshot!(
        "storage",
        refused(&["--sandbox", "create", "orders-db", "--storage", "5 potatoes"])
    );
    insta::assert_snapshot!("unknown-flag", refused(&["--sandbox", "create", "orders-db", "--replica", "3"]));
    insta::assert_snapshot!("name", refused(&["--sandbox", "create", "Orders_DB"]));
    insta::assert_snapshot!(
        "owned-parameter",
        refused(&["--sandbox", "create", "o", "--parameter", "archive_mode=off"])
    );
}

#[test]
fn bad_files_name_the_place() {
    let file = |text| refused_with(&["--sandbox", "create", "-f", "-"], text);
    insta::assert_snapshot!("file-not-yaml", file("spec: [1, 2\nreplicas: }"));
    insta::assert_snapshot!(
        "file-other-kind",
        file("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
    );
    insta::assert_snapshot!(
        "file-unknown-field",
        file(
            "apiVersion: db.example.com/v1alpha1\nkind: Database\nmetadata: {name: a}\n\
             spec: {version: '16.15', storage: {size: 1Gi}, replica: 3}\n"
        )
    );
    insta::assert_snapshot!("file-missing", refused(&["--sandbox", "create", "-f", "/nonexistent/db.yaml"]));
}

#[test]
fn without_a_cluster_it_says_what_was_tried() {
    let answer = refused(&["--kubeconfig", "/nonexistent/kubeconfig", "list"]);
    insta::assert_snapshot!("no-cluster", answer);
}
