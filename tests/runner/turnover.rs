//! Controllers come and go under load: nobody who writes notices, and what is asked for meanwhile is done by the next one.

use std::time::Duration;

use dbctl::api::Database;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::external::runtime;
use crate::journeys::ready_with;
use crate::proof::load::Load;
use crate::proof::session::Session;
use crate::support::{Sandbox, eventually};

const NAME: &str = "db";

/// Who holds the controllers' Lease.
fn leader(sandbox: &Sandbox) -> Option<String> {
    runtime().block_on(async {
        let leases: Api<Lease> = Api::namespaced(sandbox.client().await, "dbctl-system");
        leases
            .get_opt("dbctl-controller")
            .await
            .unwrap()?
            .spec?
            .holder_identity
            .filter(|holder| !holder.is_empty())
    })
}

/// Waits until somebody else holds it.
#[track_caller]
fn until_another_leads(sandbox: &Sandbox, before: Option<&str>) -> String {
    eventually("another controller leads", || {
        let now = leader(sandbox);
        now.clone().filter(|now| Some(now.as_str()) != before).ok_or_else(|| format!("{now:?}"))
    })
}

/// Asks for a setting, and waits until it is in force.
#[track_caller]
fn set(sandbox: &Sandbox, work_mem: &str) {
    runtime().block_on(async {
        let databases: Api<Database> = Api::default_namespaced(sandbox.client().await);
        let change = Patch::Merge(json!({ "spec": { "parameters": { "work_mem": work_mem } } }));
        databases.patch(NAME, &PatchParams::default(), &change).await.unwrap();
    });
    eventually("the setting is in force", || match sandbox.sql(NAME, "show work_mem") {
        shown if shown == work_mem => Ok(()),
        shown => Err(shown),
    });
}

#[test]
fn writes_go_on_while_controllers_are_replaced_and_killed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut sandbox = Sandbox::apart();
    sandbox.external().elect_controller();
    sandbox.run(&["create", NAME, "--replicas", "3", "--storage", "1Gi", "--wait"]).ok();
    let primary = ready_with(&sandbox, NAME, 3)["status"]["primary"].clone();
    let load = Load::start(&sandbox, NAME, 3);
    let runtime = runtime();
    let session = runtime.block_on(Session::open(load.service(), &load.login())).unwrap();
    let pid = || runtime.block_on(session.query("select pg_backend_pid()", Duration::from_secs(10))).unwrap();
    let before = pid();
    let began = load.now();

    let mut leads = until_another_leads(&sandbox, None);
    // In order, as a Deployment replaces them; then without a word; then with nobody to take over for a while.
    for (killed, work_mem) in [(false, "5MB"), (true, "6MB")] {
        sandbox.external().add_controller();
        let from = load.now();
        sandbox.external().succeed_controller(killed);
        set(&sandbox, work_mem);
        let next = until_another_leads(&sandbox, Some(&leads));
        let (took, gap) = (load.now() - from, load.longest_gap(from, load.now()));
        println!(
            "{leads} {}, {next} leads: the next change is in force after {:.1} s; longest gap of writes {:.3} s",
            if killed { "killed" } else { "replaced" },
            took.as_secs_f64(),
            gap.as_secs_f64()
        );
        leads = next;
    }
    sandbox.external().kill_controller();
    let from = load.now();
    eventually("writes went on for some seconds", || {
        if load.now() > from + Duration::from_secs(5) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    sandbox.external().elect_controller();
    set(&sandbox, "7MB");
    let ended = load.now();

    assert_eq!(pid(), before, "the session is another");
    let (told, gap) = (load.told(began), load.longest_gap(began, ended));
    println!(
        "in {:.0} s of load the longest gap was {:.3} s; told: {told:?}",
        (ended - began).as_secs_f64(),
        gap.as_secs_f64()
    );
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(sandbox.database(NAME)["status"]["primary"], primary, "the role has moved");
    let (rows, lost, doubles) = load.end();
    println!("{rows} rows acknowledged, {lost} lost");
    assert!(rows > 500);
    assert_eq!((lost, doubles), (0, 0));
}
