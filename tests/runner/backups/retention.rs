//! Which backups stay, and what becomes of one that is killed.

use std::path::PathBuf;

use dbctl::api::BACKUP_NAME;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::bucket::put_secret;
use super::cluster::{Contents, NAME, SIZE, archived_up_to_now, back_up, backups_are, create};
use super::local::unpack;
use super::wal::Place;
use crate::external::runtime;
use crate::stores::{Action, FaultProxy, Rule, S3sFs};
use crate::support::{Sandbox, eventually};

/// The pods of backups that run.
fn running(sandbox: &Sandbox) -> Vec<String> {
    runtime().block_on(async {
        let pods: Api<Pod> = Api::default_namespaced(sandbox.client().await);
        let listed =
            pods.list(&ListParams::default().labels(&format!("app.kubernetes.io/name={BACKUP_NAME}"))).await;
        let runs =
            |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        listed.unwrap().into_iter().filter(runs).map(|pod| pod.name_any()).collect()
    })
}

/// The ids that `dbctl backups` lists, newest first.
fn listed(sandbox: &Sandbox) -> Vec<String> {
    let answer = sandbox.run(&["backups", NAME, "-o", "name"]).ok();
    answer.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn the_newest_stay_with_their_wal_and_a_killed_one_is_none() {
    let server = S3sFs::start();
    let proxy = FaultProxy::before(server.address());
    let place = Place::s3(&server.url(), &server.key(), "r");
    let sandbox = Sandbox::own();
    sandbox.start();
    put_secret(&sandbox, &proxy.url(), &server.key());
    let more = ["--backup-credentials", "bucket", "--backup-retention", "2"];
    create(&sandbox, "1", &place.url, &more);
    sandbox.sql(NAME, "create table t as select 1 as n");
    let id = |entry: Value| entry["id"].as_str().unwrap().to_owned();
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(id(back_up(&sandbox)));
        archived_up_to_now(&sandbox, &place);
    }
    let root =
        |contents: &Contents| -> PathBuf { server.bucket().join("r").join(contents.epoch.to_string()) };
    let contents = Contents::of(&place);
    assert_eq!(contents.good(), taken[1..]);
    assert!(!root(&contents).join("base").join(&taken[0]).join("base.0000.tar.zst").exists());
    // All that the older one of them needs, and nothing from before.
    let first = contents.backups.iter().find(|found| found.id.to_string() == taken[1]).unwrap();
    let start = first.good().unwrap().start_lsn;
    assert_eq!(
        contents.archive.segments.keys().next().unwrap().start(SIZE).unwrap(),
        start / SIZE.bytes() * SIZE.bytes()
    );
    let last = archived_up_to_now(&sandbox, &place);
    assert_eq!(Contents::of(&place).gaps(start, last), []);
    taken[1..].iter().for_each(|id| drop(unpack(&root(&contents).join("base").join(id))));

    // The store stands still in the middle of the fourth, and its pod is killed.
    proxy.rule(Rule::new(Action::Hang).key("base.0000.tar.zst"));
    sandbox.run(&["backup-now", NAME]).ok();
    eventually("the fourth sends its data", || {
        let asked = proxy.asked();
        if asked.iter().any(|asked| asked.key.contains("base.0000.tar.zst") && asked.answer.is_none()) {
            Ok(())
        } else {
            Err(format!("{:?}", asked.last()))
        }
    });
    let pods = running(&sandbox);
    assert_eq!(pods.len(), 1, "{pods:?}");
    sandbox.run(&["sandbox", "fault", "pod", &pods[0], "--kill"]).ok();
    let told = backups_are(&sandbox, "False", "BackupFailed");
    assert!(told.contains("the last good one ended at"), "{told}");
    proxy.clear();
    let contents = Contents::of(&place);
    assert_eq!((contents.good(), contents.backups.len()), (taken[1..].to_vec(), 3));
    assert_eq!(listed(&sandbox), [&taken[2], &taken[1]].map(String::as_str));

    taken.push(id(back_up(&sandbox)));
    assert_eq!(Contents::of(&place).good(), taken[2..]);
    assert_eq!(listed(&sandbox), [&taken[3], &taken[2]].map(String::as_str));
    backups_are(&sandbox, "True", "BackupsCurrent");
    drop(unpack(&root(&contents).join("base").join(&taken[3])));
}
