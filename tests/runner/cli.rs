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

/// The snapshots' errors, each with what belongs to it, without its indentation.
fn errors_in(directory: &Path, found: &mut std::collections::BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            errors_in(&path, found);
        } else if path.extension().is_some_and(|end| end == "snap") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut error: Option<String> = None;
            for line in text.lines().map(str::trim).chain(["$ "]) {
                let begins = line.starts_with("error: ");
                if begins || line.starts_with("$ ") || line.starts_with("--- ") {
                    found.extend(error.take());
                }
                if begins {
                    error = Some(line.to_owned());
                } else if let Some(error) = &mut error {
                    error.push('\n');
                    error.push_str(line);
                }
            }
        }
    }
}

/// What failed, why, and what to do; a list for whoever wants to read them all.
#[test]
fn every_error_says_what_failed_why_and_what_to_do() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut errors = std::collections::BTreeSet::new();
    for directory in ["tests", "src"] {
        errors_in(&root.join(directory), &mut errors);
    }
    errors.iter().for_each(|error| println!("{}\n", error.trim_end()));
    assert!(errors.len() > 40, "{}", errors.len());
    for error in &errors {
        let first = error.lines().next().unwrap().strip_prefix("error: ").unwrap();
        assert!(first.starts_with(|begins: char| begins.is_lowercase()), "it is no fragment: {error}");
        assert!(!first.ends_with('.'), "it is a sentence of its own: {error}");
        // clap's own say what is wrong with an argument; ours what failed, and behind a colon or comma why.
        let claps = error.contains("try '--help'");
        assert!(claps || first.contains(": ") || first.contains(", "), "it says no reason: {error}");
        let next = ["\nhint: ", "\ntip: ", "\nUsage: ", "try '--help'", "`dbctl ", ": set spec."];
        assert!(next.iter().any(|next| error.contains(next)), "it does not say what to do: {error}");
    }
}
