//! Who may do what: dbctl's controller and the members' pods run with their roles and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::external::runtime;
use crate::journeys::ready_with;
use crate::support::{Access, Sandbox, eventually};

/// dbctl's controller.
pub const CONTROLLER: &str = "system:serviceaccount:dbctl-system:dbctl-controller";

/// What those users were denied.
pub fn denied(log: &[Access], users: &[&str]) -> Vec<String> {
    let denied = log.iter().filter(|line| !line.allowed && users.contains(&line.user.as_str()));
    denied.map(|line| format!("{}: {}", line.user, line.what())).collect()
}

/// The same of every account that no person has: the controller runs with the roles of the manifests in every journey.
pub fn denied_to_accounts(log: &[Access]) -> Vec<String> {
    let accounts =
        log.iter().map(|line| line.user.as_str()).filter(|user| user.starts_with("system:serviceaccount:"));
    let accounts: BTreeSet<&str> = accounts.collect();
    denied(log, &accounts.into_iter().collect::<Vec<_>>())
}

/// What a user asked for and was allowed.
fn used(log: &[Access], user: &str) -> BTreeSet<String> {
    log.iter().filter(|line| line.user == user && line.allowed).map(Access::what).collect()
}

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// Each verb of a Role's rules, as the count names it.
fn verbs_of(rules: &Value) -> BTreeSet<String> {
    let mut verbs = BTreeSet::new();
    for rule in rules.as_array().unwrap() {
        for verb in rule["verbs"].as_array().unwrap() {
            let group = rule["apiGroups"][0].as_str().unwrap();
            let resource = dbctl::install::qualified(group, rule["resources"][0].as_str().unwrap(), "");
            verbs.insert(format!("{} {resource}", verb.as_str().unwrap()));
        }
    }
    verbs
}

/// What members were seen to ask for over a whole life, which the journey below sees again each time.
const MEMBERS_NEED: [&str; 8] = [
    "create configmaps",
    "get configmaps",
    "list configmaps",
    "list pods",
    "patch configmaps",
    "patch pods",
    "watch configmaps",
    "watch pods",
];

/// Some verbs are needed rarely, such as a read after a conflict: without one, a life may pass, and the next may not.
#[test]
fn the_members_role_lacks_nothing_that_they_need() {
    let held = verbs_of(&dbctl::plan::rules(dbctl::api::Names("own")));
    assert_eq!(held, BTreeSet::from(MEMBERS_NEED.map(str::to_owned)));
}

#[test]
fn a_whole_life_takes_each_verb_of_the_members_role_and_no_other() {
    let sandbox = Sandbox::own();
    let members = "system:serviceaccount:default:own";
    sandbox.run(&["create", "own", "--replicas", "1", "--storage", "1Gi", "--wait"]).ok();
    sandbox.run(&["scale", "own", "--replicas", "3", "--wait"]).ok();
    ready_with(&sandbox, "own", 3);
    runtime().block_on(async {
        let client = sandbox.client().await;
        let databases: Api<DynamicObject> =
            Api::default_namespaced_with(client.clone(), &resource("db.example.com", "v1alpha1", "Database"));
        let change = json!({
            "metadata": { "annotations": { "db.example.com/restart": "{" } },
            "spec": { "parameters": { "work_mem": "7MB" } },
        });
        databases.patch("own", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
        // What is lost of Patroni's own is made again by whoever leads.
        let maps: Api<DynamicObject> = Api::default_namespaced_with(client, &resource("", "v1", "ConfigMap"));
        maps.delete("own-sync", &DeleteParams::default()).await.unwrap();
    });
    eventually("the setting is taken up", || match sandbox.sql("own", "show work_mem") {
        shown if shown == "7MB" => Ok(()),
        shown => Err(shown),
    });
    eventually("the request is answered", || {
        let operations = sandbox.database("own")["status"]["operations"].clone();
        if operations[0]["phase"] == "Rejected" { Ok(()) } else { Err(operations.to_string()) }
    });
    fail_over(&sandbox);
    // A lock that has changed under its holder is read afresh.
    let conflicts = json!({
        "errors": [{ "status": 409, "rate": 0.5 }],
        "for": { "users": [members], "verbs": ["patch"], "resources": ["configmaps"] },
    });
    runtime().block_on(sandbox.faults(Some(conflicts)));
    let wanted = verbs_of(&dbctl::plan::rules(dbctl::api::Names("own")));
    eventually("every verb of the members' role is used", || {
        let unused: Vec<String> =
            wanted.difference(&used(&runtime().block_on(sandbox.access()), members)).cloned().collect();
        if unused.is_empty() { Ok(()) } else { Err(format!("{unused:?}")) }
    });
    runtime().block_on(sandbox.faults(None));
    ready_with(&sandbox, "own", 3);
    sandbox.run(&["scale", "own", "--replicas", "2", "--wait"]).ok();
    sandbox.run(&["delete", "own", "--deletion-policy", "delete", "--yes"]).ok();

    let log = runtime().block_on(sandbox.access());
    assert_eq!(denied(&log, &[CONTROLLER, members]), Vec::<String>::new());
    assert_eq!(used(&log, members), wanted);
    let table = include_str!("../../src/install/needs.txt");
    // A stale role is stripped only where a dead primary left one.
    let known: BTreeSet<String> = table.lines().chain(["patch pods"]).map(str::to_owned).collect();
    let beyond: Vec<String> = used(&log, CONTROLLER).difference(&known).cloned().collect();
    assert!(beyond.is_empty(), "not in the table: {beyond:?}");
}

/// The primary's pod is killed; another member leads.
fn fail_over(sandbox: &Sandbox) {
    let before = sandbox.database("own")["status"]["primary"].as_str().unwrap().to_owned();
    runtime().block_on(async {
        let pods: Api<DynamicObject> =
            Api::default_namespaced_with(sandbox.client().await, &resource("", "v1", "Pod"));
        pods.delete(&before, &DeleteParams::default().grace_period(0)).await.unwrap();
    });
    eventually("all members are ready again", || {
        let status = sandbox.database("own")["status"].clone();
        let ready = status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        let made_anew: BTreeMap<&str, &Value> = status["instances"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| (member["name"].as_str().unwrap(), &member["timeline"]))
            .collect();
        if ready && made_anew.len() == 3 { Ok(()) } else { Err(status.to_string()) }
    });
}
