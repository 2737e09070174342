//! Passwords change while everybody goes on, and are told nobody.

use std::net::SocketAddr;

use dbctl::backup::server::Tls;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

use super::whispers::Whispers;
use super::{Content, LOOK, NAME, addresses, change, login, secret, until_streaming};
use crate::backups::cluster::{as_superuser_of, as_superuser_of_member, back_up, create, directory};
use crate::external::runtime;
use crate::proof::load::Load;
use crate::proof::session::{Login, Session};
use crate::support::{Sandbox, eventually};

/// How often containers were started anew, of all pods.
fn restarts(sandbox: &Sandbox) -> i32 {
    let pods = runtime().block_on(async {
        let pods: Api<Pod> = Api::default_namespaced(sandbox.client().await);
        pods.list(&ListParams::default().labels("db.example.com/database")).await.unwrap()
    });
    let statuses = pods.into_iter().filter_map(|pod| pod.status?.container_statuses).flatten();
    statuses.map(|status| status.restart_count).sum()
}

/// Each replica checks the certificate of whom it streams from; backups change nothing in that.
fn replicas_verify(sandbox: &Sandbox) {
    let found = runtime().block_on(async {
        let pods: Api<Pod> = Api::default_namespaced(sandbox.client().await);
        pods.list(&ListParams::default().labels("db.example.com/role=replica")).await.unwrap().items
    });
    assert_eq!(found.len(), 2);
    for name in found.into_iter().filter_map(|pod| pod.metadata.name) {
        let sql = "select conninfo ~ 'sslmode=verify-ca' from pg_stat_wal_receiver";
        assert_eq!(as_superuser_of_member(sandbox, NAME, &name, sql), "t", "{name}");
    }
}

/// A session with that role and password.
fn opens(at: SocketAddr, tls: &Tls, user: &str, password: &str) -> Result<(), String> {
    let database = if user == "app" { "app" } else { "postgres" }.to_owned();
    let login =
        Login { user: user.to_owned(), password: password.to_owned(), database, tls: Some(tls.clone()) };
    runtime().block_on(Session::open(at, &login)).map(drop)
}

#[test]
fn passwords_change_under_load_nobody_is_cut_off_and_none_is_told() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sandbox = Sandbox::alone();
    let whispers = Whispers::listen();
    let store = directory();
    create(&sandbox, "3", &format!("file://{}", store.path().display()), &[]);
    let runtime = runtime();
    let (_, service) = runtime.block_on(addresses(&sandbox, 3));
    let service = SocketAddr::new(service, 5432);
    until_streaming(&sandbox, 2);
    let secrets = || {
        runtime.block_on(async { (secret(&sandbox, "db-app").await, secret(&sandbox, "db-internal").await) })
    };
    let (app, internal) = secrets();
    let tls = Tls::trusting(app["ca.crt"].as_bytes()).unwrap();

    replicas_verify(&sandbox);
    let load = Load::start(&sandbox, NAME, 3);
    let session = runtime.block_on(Session::open(service, &login(&sandbox, Some(tls.clone())))).unwrap();
    let pid = || runtime.block_on(session.query("select pg_backend_pid()", 100 * LOOK)).unwrap();
    let (before, began, started) = (pid(), load.now(), restarts(&sandbox));
    println!(
        "{}",
        sandbox.run(&["rotate-credentials", NAME, "--yes", "--wait", "--timeout", "4m"]).ok().transcript()
    );

    // In use at once, everywhere, and the former ones are of no use.
    let (new_app, new_internal) = secrets();
    assert!(
        new_app["uri"].contains(&new_app["password"]) && new_app["uri-ro"].contains(&new_app["password"])
    );
    for (user, old, new) in [
        ("app", &app["password"], &new_app["password"]),
        ("postgres", &internal["superuser-password"], &new_internal["superuser-password"]),
        ("dbctl_rewind", &internal["rewind-password"], &new_internal["rewind-password"]),
    ] {
        let refused = opens(service, &tls, user, old).expect_err("the former password still opens");
        assert!(refused.contains("password authentication failed"), "{user}: {refused}");
        opens(service, &tls, user, new).unwrap_or_else(|why| panic!("{user}: {why}"));
    }
    assert_eq!(internal["rest-password"], new_internal["rest-password"], "Patronis ask each other with it");
    assert_ne!(internal["replication-password"], new_internal["replication-password"]);
    assert_eq!((pid(), restarts(&sandbox)), (before, started), "a session or a container is another");
    let ended = load.now();
    let (told, gap) = (load.told(began), load.longest_gap(began, ended));
    println!(
        "in {:.0} s of load the longest gap was {:.3} s; told: {told:?}",
        (ended - began).as_secs_f64(),
        gap.as_secs_f64()
    );
    assert!(told.keys().all(|why| why.contains("takes no writes")), "{told:?}");
    // Who streams has to log in again.
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_replication";
    assert_eq!(as_superuser_of(&sandbox, NAME, cut), "2");
    until_streaming(&sandbox, 2);

    // One that somebody chose: the clients of before have it.
    let own: Content =
        [("password", app["password"].clone())].map(|(key, value)| (key.to_owned(), value)).into();
    runtime.block_on(change(&sandbox, "db-app", own));
    eventually("the password of before opens again", || opens(service, &tls, "app", &app["password"]));

    // What asks Patroni for something, and what streams a backup, has the new ones.
    eventually("commits wait for a replica again", || match sandbox.run(&["failover", NAME, "--dry-run"]) {
        answer if answer.code == 0 => Ok(()),
        answer => Err(answer.transcript()),
    });
    sandbox.run(&["failover", NAME, "--yes", "--wait"]).ok();
    until_streaming(&sandbox, 2);
    back_up(&sandbox);
    let (rows, lost, doubles) = load.end();
    println!("{rows} rows acknowledged, {lost} lost");
    assert!(rows > 500);
    assert_eq!((lost, doubles), (0, 0));
    let (last_app, last_internal) = secrets();
    whispers.end(&sandbox, &[app, internal, new_app, new_internal, last_app, last_internal]);
}
