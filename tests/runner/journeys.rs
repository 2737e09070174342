//! Whole journeys on real PostgreSQL and real Patroni.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Answer, Sandbox, eventually};

/// The members that status lists with that role.
fn members(database: &Value, role: &str) -> Vec<String> {
    let instances = database["status"]["instances"].as_array().cloned().unwrap_or_default();
    instances.iter().filter(|i| i["role"] == role).map(|i| i["name"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the database is Ready with that many members, all replicas streaming.
#[track_caller]
pub fn ready_with(sandbox: &Sandbox, name: &str, count: usize) -> Value {
    eventually(&format!("{name} has {count} members, all ready"), || {
        let database = sandbox.database(name);
        let status = &database["status"];
        let ready = status["conditions"].as_array().is_some_and(|conditions| {
            conditions.iter().any(|c| {
                c["type"] == "Ready"
                    && c["status"] == "True"
                    && c["observedGeneration"] == database["metadata"]["generation"]
            })
        });
        let counted =
            members(&database, "replica").len() + 1 == count && status["readyReplicas"] == json!(count);
        if ready && counted { Ok(database) } else { Err(status.to_string()) }
    })
}

/// How many rows of table `t` a replica shows.
fn rows_on_replica(sandbox: &Sandbox, name: &str) -> Answer {
    sandbox.run(&["connect", name, "--replica", "--", "-XAtqc", "select count(*) from t"])
}

/// Every file and directory below, but for the cache and the home itself.
fn files_outside_cache(home: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(home).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|name| name != "cache").collect()
}

#[test]
fn create_write_scale_delete_and_come_back() {
    let sandbox = Sandbox::new();
    let made = sandbox.run(&["create", "orders-db", "--replicas", "3", "--storage", "1Gi", "--wait"]).ok();
    // In a cluster the Services' names are of no use from here: `connect` is.
    let way_in = if sandbox.is_own() { "psql" } else { "connect orders-db" };
    assert!(made.stdout.contains(way_in), "{}", made.transcript());
    let before = ready_with(&sandbox, "orders-db", 3);
    let primary = before["status"]["primary"].as_str().unwrap().to_owned();

    sandbox.sql("orders-db", "create table t (n int); insert into t values (1)");
    assert_eq!(
        sandbox.sql("orders-db", "select pg_is_in_recovery(), current_setting('data_checksums')"),
        "f|on"
    );
    // The read Service spreads connections: over some calls each replica answers.
    let mut answered = BTreeSet::new();
    eventually("both replicas show the row", || {
        let sql = "select inet_server_addr() from t where pg_is_in_recovery()";
        let answer = sandbox.run(&["connect", "orders-db", "--replica", "--", "-XAtqc", sql]);
        answered.insert(answer.stdout.trim().to_owned());
        answered.remove("");
        // Through a cluster's API server, one member is forwarded.
        let expected = if sandbox.is_own() { 2 } else { 1 };
        if answered.len() == expected { Ok(()) } else { Err(answer.transcript()) }
    });

    sandbox.run(&["scale", "orders-db", "--replicas", "5", "--wait"]).ok();
    let wide = ready_with(&sandbox, "orders-db", 5);
    assert_eq!(wide["status"]["primary"], json!(primary));
    assert_eq!(sandbox.sql("orders-db", "select count(*) from pg_stat_replication"), "4");
    sandbox.run(&["scale", "orders-db", "--replicas", "3", "--wait"]).ok();
    assert_eq!(ready_with(&sandbox, "orders-db", 3)["status"]["primary"], json!(primary));

    sandbox.run(&["delete", "orders-db", "--yes"]).ok();
    assert_eq!(sandbox.run(&["status", "orders-db"]).code, 6);
    sandbox.run(&["create", "orders-db", "--replicas", "3", "--storage", "1Gi", "--wait"]).ok();
    assert_eq!(sandbox.sql("orders-db", "select count(*) from t"), "1");
}

#[test]
fn deletion_policy_delete_leaves_nothing() {
    leaves_nothing(&Sandbox::new());
}

/// The API server, Kubernetes' controllers, the node and dbctl's controller: four processes, of which none knows more of
/// the others than an address.
#[test]
fn the_parts_work_apart() {
    leaves_nothing(&Sandbox::apart());
}

fn leaves_nothing(sandbox: &Sandbox) {
    let args =
        ["create", "gone", "--replicas", "1", "--storage", "1Gi", "--deletion-policy", "Delete", "--wait"];
    sandbox.run(&args).ok();
    let volumes = sandbox.home().join("sandbox/volumes");
    assert_eq!(std::fs::read_dir(&volumes).unwrap().count(), 1);
    sandbox.run(&["delete", "gone", "--yes"]).ok();
    eventually("the data directory is gone", || {
        let left: Vec<_> = std::fs::read_dir(&volumes).unwrap().map(|e| e.unwrap().path()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let left = runtime.block_on(async {
        let client = sandbox.client().await;
        let labelled = kube::api::ListParams::default().labels("db.example.com/database=gone");
        let mut left = Vec::new();
        for kind in ["ConfigMap", "Secret", "PersistentVolumeClaim", "Service", "Pod"] {
            let resource = kube::discovery::ApiResource::from_gvk_with_plural(
                &kube::core::GroupVersionKind::gvk("", "v1", kind),
                &format!("{}s", kind.to_lowercase()),
            );
            let api =
                kube::Api::<kube::core::DynamicObject>::default_namespaced_with(client.clone(), &resource);
            left.extend(api.list(&labelled).await.unwrap().items.into_iter().map(|o| o.metadata.name));
        }
        left
    });
    assert_eq!(left, Vec::<Option<String>>::new());
}

#[test]
fn a_killed_sandbox_comes_back_with_its_databases() {
    let mut sandbox = Sandbox::new();
    sandbox.run(&["create", "kept", "--replicas", "2", "--storage", "1Gi", "--wait"]).ok();
    sandbox.sql("kept", "create table t (n int); insert into t values (1), (2)");

    sandbox.kill();
    eventually("every process of it is gone", || match sandbox.processes() {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });

    sandbox.revive();
    // Until the node has taken its pods up again, a status may say what was so before.
    let read = ["connect", "kept", "--", "-XAtqc", "select count(*) from t where not pg_is_in_recovery()"];
    eventually("the primary shows both rows", || match sandbox.run(&read) {
        answer if answer.code == 0 && answer.stdout.trim() == "2" => Ok(()),
        answer => Err(answer.transcript()),
    });
    ready_with(&sandbox, "kept", 2);
    eventually("a replica shows both rows", || match rows_on_replica(&sandbox, "kept") {
        answer if answer.stdout.trim() == "2" => Ok(()),
        answer => Err(answer.transcript()),
    });
    let postmasters: Vec<_> =
        sandbox.processes().into_iter().filter(|(_, args)| args.contains("postgres -D ")).collect();
    assert_eq!(postmasters.len(), 2, "{postmasters:?}");

    if !sandbox.is_own() {
        return;
    }
    sandbox.run(&["sandbox", "down"]).ok();
    assert_eq!(sandbox.processes(), vec![]);
    sandbox.run(&["sandbox", "reset", "--yes"]).ok();
    assert_eq!(files_outside_cache(sandbox.home()), Vec::<String>::new());
}
