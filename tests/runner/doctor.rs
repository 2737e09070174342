//! What `dbctl doctor` says of databases to which the very thing was done.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dbctl::api::Database;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::{Value, json};

use crate::backups::cluster::{NAME, as_superuser, back_up, create, directory};
use crate::external::runtime;
use crate::journeys::ready_with;
use crate::security::{Content, change, secret};
use crate::support::{Answer, Sandbox, eventually};

/// What it finds, as programs get it, with its exit code.
fn examine(sandbox: &Sandbox, args: &[&str]) -> (i32, Vec<Value>) {
    let answer = sandbox.run(&[&["doctor"], args, &["-o", "json"]].concat());
    let told: Value =
        serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{}", answer.transcript()));
    let findings = told["findings"].as_array().unwrap().clone();
    assert_eq!(told["healthy"].as_bool().unwrap(), answer.code == 0, "{}", answer.transcript());
    // Volumes without bounds are as full as the machine's own disk, which is none of a test's business.
    let fills = |finding: &Value| ["VolumeFilling", "VolumeNearlyFull"].contains(&text(finding, "code"));
    (answer.code, findings.into_iter().filter(|finding| !fills(finding)).collect())
}

fn text<'a>(finding: &'a Value, field: &str) -> &'a str {
    finding[field].as_str().unwrap_or_default()
}

/// Waits until the first, worst finding has that code; returns it, after a look at the page for people.
#[track_caller]
fn first(sandbox: &Sandbox, code: &str) -> Value {
    let found = eventually(&format!("{code} comes first"), || {
        let (_, findings) = examine(sandbox, &[NAME]);
        match findings.first() {
            Some(finding) if text(finding, "code") == code => Ok(finding.clone()),
            _ => Err(format!("{findings:#?}")),
        }
    });
    let page = sandbox.run(&["doctor", NAME]);
    assert_eq!(page.code, 3, "{}", page.transcript());
    println!("{}", page.stdout);
    narrow(&page);
    found
}

/// Lines of at most 80 columns, but for commands; and no colours in a pipe.
#[track_caller]
fn narrow(page: &Answer) {
    for line in page
        .stdout
        .lines()
        .filter(|line| ![" next ", "dbctl ", "kubectl "].iter().any(|word| line.contains(word)))
    {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(!page.stdout.contains('\x1b'), "{}", page.transcript());
}

/// Waits until nothing is wrong.
#[track_caller]
fn well(sandbox: &Sandbox) {
    eventually("nothing is wrong", || {
        let (_, findings) = examine(sandbox, &[NAME]);
        let well = findings.iter().all(|finding| text(finding, "severity") == "note");
        if well { Ok(()) } else { Err(format!("{findings:#?}")) }
    });
}

fn status(sandbox: &Sandbox) -> (String, String) {
    let database = sandbox.database(NAME);
    let instances = database["status"]["instances"].as_array().unwrap();
    let replica = instances.iter().find(|instance| instance["role"] == "replica").unwrap();
    (text(&database["status"], "primary").to_owned(), text(replica, "name").to_owned())
}

/// What pods see of a member's volume.
fn volume(sandbox: &Sandbox, member: &str) -> PathBuf {
    let claim = runtime().block_on(async {
        let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(sandbox.client().await);
        claims.get(&format!("data-{member}")).await.unwrap()
    });
    sandbox.home().join("sandbox/volumes").join(claim.spec.unwrap().volume_name.unwrap()).join("data")
}

/// Leaves that much room on a volume, in MiB.
fn fill(volume: &Path, left: u64) {
    let room = statvfs(volume).unwrap();
    let free = room.f_bavail * room.f_frsize;
    let file = File::options().create(true).append(true).open(volume.join("filler")).unwrap();
    let end = file.metadata().unwrap().len();
    fallocate(&file, FallocateFlags::empty(), end, free.saturating_sub(left << 20)).unwrap();
}

#[test]
fn an_archive_a_frozen_member_and_a_full_disk_are_named_as_causes() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
        eprintln!("SKIPPED a doctor's round: volumes that can be full need root and loop devices");
        return;
    }
    let store = directory();
    let sandbox = Sandbox::own();
    // A sandbox that does not run is not started to be looked at.
    let (code, findings) = examine(&sandbox, &[]);
    assert_eq!((code, text(&findings[0], "code")), (3, "ApiServerSilent"));
    assert!(!sandbox.kubeconfig().exists());

    sandbox.run(&["sandbox", "up", "--volumes=bounded"]).ok();
    let url = format!("file://{}", store.path().display());
    create(&sandbox, "3", &url, &[]);
    back_up(&sandbox);
    ready_with(&sandbox, NAME, 3);
    well(&sandbox);
    let page = sandbox.run(&["doctor"]).ok();
    assert!(page.stdout.starts_with("database default/db: nothing is wrong"), "{}", page.transcript());
    assert_eq!(sandbox.run(&["doctor", "nosuch"]).code, 6);

    let (primary, replica) = status(&sandbox);
    // The destination refuses.
    let mode = |bits| std::fs::set_permissions(store.path(), Permissions::from_mode(bits)).unwrap();
    mode(0);
    as_superuser(&sandbox, "select pg_switch_wal() from pg_logical_emit_message(true, 'x', 'x')");
    let finding = first(&sandbox, "ArchivingFails");
    assert!(text(&finding, "why").contains("denied"), "{finding}");
    assert!(
        text(&finding, "next").is_empty() && finding["next"][0].as_str().unwrap().contains(&url),
        "{finding}"
    );
    mode(0o755);
    well(&sandbox);

    // A member that stands still: it is silent, and all is told below that.
    sandbox.run(&["sandbox", "fault", "pod", &replica, "--freeze"]).ok();
    let finding = eventually("the frozen member is named", || {
        let (_, findings) = examine(&sandbox, &[NAME]);
        let about = |finding: &&Value| text(finding, "what").starts_with(&replica);
        findings.iter().find(about).cloned().ok_or_else(|| format!("{findings:#?}"))
    });
    assert!(
        ["MemberSilent", "MemberNotReady", "CrashLoop", "PostgresDown"].contains(&text(&finding, "code")),
        "{finding}"
    );
    sandbox.run(&["sandbox", "fault", "clear"]).ok();
    well(&sandbox);

    // The primary's volume is filled.
    let (primary_now, _) = status(&sandbox);
    assert_eq!(primary_now, primary);
    let place = volume(&sandbox, &primary);
    fill(&place, 8);
    let finding = first(&sandbox, "VolumeFull");
    assert!(text(&finding, "what").contains(&primary), "{finding}");
    let next = finding["next"][0].as_str().unwrap();
    assert!(next.ends_with("resize db --storage 8Gi --wait"), "{finding}");
    std::fs::remove_file(place.join("filler")).unwrap();
    well(&sandbox);
}

/// That `key` of a Secret holds something else.
fn damage(sandbox: &Sandbox, name: &str, key: &str, value: &str) {
    let content = Content::from([(key.to_owned(), value.to_owned())]);
    runtime().block_on(change(sandbox, name, content));
}

#[test]
fn certificates_that_cannot_be_used_are_named_and_no_key_is() {
    let sandbox = Sandbox::own();
    sandbox.run(&["create", NAME, "--replicas", "1", "--storage", "1Gi", "--wait"]).ok();
    well(&sandbox);
    let [authority, server] = ["db-ca", "db-tls"].map(|name| runtime().block_on(secret(&sandbox, name)));

    // No controller replaces an authority that clients trust: it needs its key back.
    damage(&sandbox, "db-ca", "tls.key", &server["tls.key"]);
    let finding = first(&sandbox, "AuthorityUnusable");
    assert_eq!(finding["what"], "Secret db-ca has a tls.key that is not that of its tls.crt");
    assert!(text(&finding, "since").len() > 10, "{finding}");
    assert!(finding["next"].to_string().contains("describe secret db-ca"), "{finding}");
    let told = sandbox.run(&["doctor", NAME, "-o", "json"]).stdout;
    for line in authority["tls.key"].lines().chain(server["tls.key"].lines()) {
        assert!(!told.contains(line), "{told}");
    }
    damage(&sandbox, "db-ca", "tls.key", &authority["tls.key"]);

    // What the controller would mend waits while it is paused.
    sandbox.run(&["pause", NAME]).ok();
    damage(&sandbox, "db-tls", "tls.crt", "none");
    let finding = eventually("the certificate is named", || {
        let finding = first(&sandbox, "Paused");
        let consequences = finding["consequences"].to_string();
        let told = consequences.contains("Secret db-tls has a tls.crt that is no certificate");
        if told { Ok(finding) } else { Err(finding.to_string()) }
    });
    assert!(finding["next"][0].as_str().unwrap().ends_with("resume db"), "{finding}");
    damage(&sandbox, "db-tls", "tls.crt", &server["tls.crt"]);
    sandbox.run(&["resume", NAME]).ok();
    well(&sandbox);
}

#[test]
fn a_release_that_there_is_not_is_named_with_the_kubelets_words() {
    let sandbox = Sandbox::own();
    sandbox
        .run(&["create", NAME, "--replicas", "2", "--version", "16.15", "--storage", "1Gi", "--wait"])
        .ok();
    ready_with(&sandbox, NAME, 2);
    runtime().block_on(async {
        let databases: Api<Database> = Api::default_namespaced(sandbox.client().await);
        let change = Patch::Merge(json!({ "spec": { "version": "16.99" } }));
        databases.patch(NAME, &PatchParams::default(), &change).await.unwrap();
    });
    let finding = first(&sandbox, "ImagePull");
    assert!(text(&finding, "what").contains("16.99") && text(&finding, "why").contains("16.99"), "{finding}");
    let halted = first(&sandbox, "RolloutHalted");
    assert!(halted["next"][0].as_str().unwrap().ends_with("upgrade db --resume --wait"), "{halted}");
    assert!(text(&halted, "why").contains("halted") && halted["since"].is_string(), "{halted}");
    sandbox.run(&["upgrade", NAME, "--abort", "--yes", "--wait"]).ok();
    well(&sandbox);
}

#[test]
fn a_controller_and_a_node_that_are_gone_are_named_before_what_comes_of_it() {
    let mut sandbox = Sandbox::apart();
    sandbox.external().elect_controller();
    sandbox.run(&["create", NAME, "--replicas", "2", "--storage", "1Gi", "--wait"]).ok();
    ready_with(&sandbox, NAME, 2);
    well(&sandbox);

    sandbox.external().kill_controller();
    sandbox.run(&["scale", NAME, "--replicas", "3"]).ok();
    let finding = eventually("the controller is named, and what waits for it", || {
        let (_, findings) = examine(&sandbox, &[NAME]);
        match findings.first() {
            Some(finding)
                if text(finding, "code") == "ControllerSilent" && finding["consequences"].is_array() =>
            {
                Ok(finding.clone())
            }
            _ => Err(format!("{findings:#?}")),
        }
    });
    assert!(text(&finding, "since").len() > 10, "{finding}");
    assert_eq!(finding["consequences"][0], "the newest change of db is not answered");
    first(&sandbox, "ControllerSilent");
    sandbox.external().elect_controller();
    ready_with(&sandbox, NAME, 3);
    well(&sandbox);

    sandbox.kill();
    let finding = first(&sandbox, "NodeNotReady");
    let consequences = finding["consequences"].to_string();
    assert!(consequences.contains("nobody can write to db"), "{finding}");
    sandbox.revive();
    ready_with(&sandbox, NAME, 3);
}
