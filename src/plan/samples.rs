//! The pods that databases lead to, for what must hold of every one of them.

use serde_json::{Value, json};

use super::context::Context;
use super::{Action, Observed, Settings, Task, backup, major, pod};
use crate::api::Database;

/// The pod templates of a database that asks for everything: its members', those of a backup, a verification, and the
/// rehearsal of a major upgrade.
pub fn sample_pods() -> Vec<(&'static str, Value)> {
    let database: Database = serde_json::from_value(json!({
        "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
        "metadata": { "name": "db", "namespace": "shop", "uid": "u" },
        "spec": {
            "replicas": 3,
            "version": "17.11",
            "storage": { "size": "1Gi" },
            "backup": {
                "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/p", "verify": "0 5 * * 0",
                "credentialsSecret": "keys",
            },
        },
    }))
    .unwrap();
    let (observed, settings) = (Observed::default(), Settings::default());
    let cx = &Context::new(&database, &observed, &settings);
    let wanted = backup::enabled(cx).unwrap();
    let before = "16.15".parse().unwrap();
    let job = |action| match action {
        Action::Create(_, body) => body["spec"]["template"].clone(),
        other => panic!("{other:?}"),
    };
    let rehearsal =
        major::rehearsal(cx, "01J0000000000000000000000", "10.0.0.1", before, database.spec.version);
    vec![
        ("member", pod::template(cx, database.spec.version)),
        ("backup", job(backup::requested(cx, &wanted, Task::Backup, "01J0000000000000000000000", None))),
        ("verify", job(backup::requested(cx, &wanted, Task::Verify, "01J0000000000000000000000", None))),
        ("rehearse", job(rehearsal)),
    ]
}
