//! Every refusal of scale, resize, delete, pause and of taking data up again, as a user reads it.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::Bench;
use crate::support::{Sandbox, eventually};

/// The command, its exit code and what it said, for a snapshot.
pub(crate) fn row(table: &mut String, sandbox: &Sandbox, args: &[&str]) -> i32 {
    let answer = sandbox.run(args);
    let said = answer.stderr.replace(env!("CARGO_BIN_EXE_dbctl"), "dbctl");
    let _ = writeln!(table, "$ dbctl {}   → {}", args.join(" "), answer.code);
    for line in said.trim_end().lines() {
        let _ = writeln!(table, "    {line}");
    }
    answer.code
}

fn expansion(bench: &Bench, allowed: bool) {
    bench.runtime.block_on(async {
        let classes: Api<StorageClass> = Api::all(bench.sandbox.client().await);
        let patch = Patch::Merge(json!({ "allowVolumeExpansion": allowed }));
        classes.patch("standard", &PatchParams::default(), &patch).await.unwrap();
    });
}

#[test]
fn each_refusal_says_why_and_what_to_do() {
    let bench = Bench::new(Sandbox::own());
    bench.sandbox.run(&["create", "db", "--version", "16.15", "--storage", "1Gi", "--wait"]).ok();
    let mut table = String::new();
    let mut refused = |args: &[&str], code: i32| {
        let mut own = String::new();
        assert_eq!(row(&mut own, &bench.sandbox, args), code, "{own}");
        table.push_str(&own);
    };
    for command in [
        "scale none --replicas 3",
        "resize none --storage 2Gi",
        "pause none",
        "resume none",
        "delete none --yes",
    ] {
        refused(&command.split(' ').collect::<Vec<_>>(), 6);
    }
    refused(&["scale", "db", "--replicas", "10"], 2);
    refused(&["resize", "db", "--storage", "5 potatoes"], 2);
    refused(&["resize", "db", "--storage", "512Mi"], 5);
    expansion(&bench, false);
    refused(&["resize", "db", "--storage", "2Gi", "--dry-run"], 5);
    refused(&["resize", "db", "--storage", "2Gi"], 5);
    expansion(&bench, true);
    refused(&["delete", "db"], 2);
    refused(&["delete", "db", "--final-backup", "--yes"], 5);

    bench.sandbox.run(&["pause", "db"]).ok();
    for command in [
        "scale db --replicas 3 --wait",
        "resize db --storage 2Gi --wait",
        "failover db --yes",
        "restart db --yes",
        "backup-now db",
        "delete db --yes",
    ] {
        refused(&command.split(' ').collect::<Vec<_>>(), 5);
    }
    eventually("its status says so", || {
        let page = bench.sandbox.run(&["status", "db"]);
        if page.stdout.contains("dbctl is paused here") { Ok(()) } else { Err(page.transcript()) }
    });
    bench.sandbox.run(&["resume", "db"]).ok();

    bench.sandbox.run(&["delete", "db", "--yes"]).ok();
    refused(&["delete", "db", "--final-backup", "--yes"], 5);
    refused(&["create", "db", "--version", "18.6"], 5);
    refused(&["create", "db", "--version", "16.15", "--restore-from", "file:///nowhere"], 5);
    let notes = |annotations: serde_json::Value| {
        bench.runtime.block_on(async {
            let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(bench.sandbox.client().await);
            let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
            claims.patch("data-db-0", &PatchParams::default(), &patch).await.unwrap();
        });
    };
    notes(json!({ "db.example.com/system-identifier": "4711" }));
    refused(&["create", "db", "--version", "16.15"], 5);
    notes(json!({ "db.example.com/system-identifier": null }));
    bench.runtime.block_on(async {
        let maps: Api<ConfigMap> = Api::default_namespaced(bench.sandbox.client().await);
        maps.delete("db-config", &DeleteParams::default()).await.unwrap();
    });
    refused(&["create", "db", "--version", "16.15"], 5);

    let identifier = regex::Regex::new("identifier [0-9]{10,}").unwrap();
    let table = identifier.replace_all(&table, "identifier [ID]").into_owned();
    println!("{table}");
    insta::assert_snapshot!("refusals", table);
}
