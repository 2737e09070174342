//! Tables over whole plans, as far as they are about backups.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::agent::{ArchiveError, ArchiveReport};
use crate::api::{CATALOG_KEY, LABEL_DATABASE, Names, reason};
use crate::plan::notes::ARCHIVE;
use crate::plan::text::{at, list, text};
use crate::plan::world::World;
use crate::plan::{Action, Kind, RELEASE, backup_due, label, name_of};

const CRON: &str = "db-backup";

fn on(more: Value) -> Value {
    let mut backup = json!({ "enabled": true, "schedule": "0 3 * * *", "destination": "s3://b/p" });
    json_patch::merge(&mut backup, &more);
    json!({ "backup": backup })
}

fn has(world: &World, kind: Kind, name: &str) -> bool {
    world.observed.get(kind, name).is_some()
}

/// Status, reason and message of BackupsHealthy.
fn says(world: &World) -> (String, String, String) {
    let conditions = world.plan().status.conditions;
    let found = conditions.into_iter().find(|condition| condition.type_ == "BackupsHealthy").unwrap();
    (found.status, found.reason, found.message)
}

fn note(world: &World, map: &str, key: &str) -> Option<String> {
    text(world.get(Kind::ConfigMap, map), &format!("/metadata/annotations/{}", key.replace('/', "~1")))
        .map(str::to_owned)
}

fn command(world: &World) -> String {
    let config = text(world.get(Kind::ConfigMap, "db-config"), "/metadata/annotations/config").unwrap();
    let config: Value = serde_json::from_str(config).unwrap();
    config["postgresql"]["parameters"]["archive_command"].as_str().unwrap().to_owned()
}

#[test]
fn the_schedule_is_a_cron_job_that_needs_no_data() {
    let mut world = World::settled(on(json!({ "credentialsSecret": "keys", "retention": 5 })));
    assert_eq!(world.plan().actions, vec![]);
    let cron = world.get(Kind::CronJob, CRON).clone();
    assert_eq!(cron["metadata"]["ownerReferences"][0]["uid"], "uid-1");
    let pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"].clone();
    let env = list(&pod, "/containers/0/env").iter();
    let names: Vec<&str> = env.map(|variable| text(variable, "/name").unwrap()).collect();
    let mut rest = cron["spec"].clone();
    rest["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["env"] = json!(names);
    insta::assert_snapshot!(serde_yaml::to_string(&rest).unwrap(), @"
    concurrencyPolicy: Forbid
    failedJobsHistoryLimit: 3
    jobTemplate:
      metadata:
        labels:
          app.kubernetes.io/instance: db
          app.kubernetes.io/managed-by: dbctl
          app.kubernetes.io/name: postgresql-backup
          db.example.com/database: db
      spec:
        backoffLimit: 2
        podFailurePolicy:
          rules:
          - action: Ignore
            onPodConditions:
            - status: 'True'
              type: DisruptionTarget
        template:
          metadata:
            labels:
              app.kubernetes.io/instance: db
              app.kubernetes.io/managed-by: dbctl
              app.kubernetes.io/name: postgresql-backup
              db.example.com/database: db
          spec:
            automountServiceAccountToken: true
            containers:
            - command:
              - dbctl
              - agent
              - backup
              - --to
              - s3://b/p
              - --archive
              - uid-1
              - --database
              - db
              - --keep
              - '5'
              env:
              - POD_NAME
              - POD_NAMESPACE
              - TMPDIR
              - PATRONI_SUPERUSER_USERNAME
              - PATRONI_SUPERUSER_PASSWORD
              - PATRONI_REPLICATION_USERNAME
              - PATRONI_REPLICATION_PASSWORD
              - BACKUP_CREDENTIALS
              - SECURITY_DIRECTORY
              image: dbctl/postgres:16.15
              name: backup
              resources:
                requests:
                  cpu: 100m
                  memory: 128Mi
              securityContext:
                allowPrivilegeEscalation: false
                capabilities:
                  drop:
                  - ALL
                readOnlyRootFilesystem: true
              terminationMessagePolicy: FallbackToLogsOnError
              volumeMounts:
              - mountPath: /tmp
                name: tmp
              - mountPath: /etc/dbctl/backup
                name: backup-credentials
                readOnly: true
              - mountPath: /etc/dbctl/security
                name: security
                readOnly: true
            enableServiceLinks: false
            restartPolicy: Never
            securityContext:
              fsGroup: 999
              runAsGroup: 999
              runAsNonRoot: true
              runAsUser: 999
              seccompProfile:
                type: RuntimeDefault
            serviceAccountName: db
            volumes:
            - emptyDir: {}
              name: tmp
            - name: backup-credentials
              secret:
                defaultMode: 288
                optional: true
                secretName: keys
            - name: security
              projected:
                defaultMode: 288
                sources:
                - secret:
                    items:
                    - key: ca.crt
                      path: ca.crt
                    name: db-tls
    schedule: 0 3 * * *
    startingDeadlineSeconds: 3600
    successfulJobsHistoryLimit: 3
    suspend: false
    timeZone: Etc/UTC
    ");

    // What is changed reaches it.
    world.edit(json!({ "backup": { "schedule": "@hourly", "timeZone": "Europe/Berlin", "credentialsSecret": null } }));
    world.settle();
    let cron = world.get(Kind::CronJob, CRON);
    assert_eq!(
        (text(cron, "/spec/schedule"), text(cron, "/spec/timeZone")),
        (Some("@hourly"), Some("Europe/Berlin"))
    );
    assert!(
        !cron.to_string().contains("BACKUP_CREDENTIALS") && !cron.to_string().contains("/etc/dbctl/backup")
    );
    // Turned off, it goes; what is known stays.
    world.edit(json!({ "backup": { "enabled": false } }));
    world.settle();
    assert!(!has(&world, Kind::CronJob, CRON) && has(&world, Kind::ConfigMap, "db-backups"));
    assert_eq!(note(&world, "db-config", ARCHIVE).as_deref(), Some("uid-1"));
}

#[test]
fn words_that_kubernetes_would_expand_reach_the_command_as_they_are() {
    let world = World::settled(on(json!({ "destination": "s3://b/$(HOME)$" })));
    let pod = &world.get(Kind::CronJob, CRON)["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["command"][4], "s3://b/$$(HOME)$$");
}

#[test]
fn a_paused_database_has_its_schedule_rest() {
    let mut world = World::settled(on(json!({})));
    for (value, suspended) in [("true", true), ("no", false)] {
        let paused = [("db.example.com/paused".to_owned(), value.to_owned())];
        world.database.as_mut().unwrap().metadata.annotations = Some(paused.into());
        world.settle();
        assert_eq!(world.get(Kind::CronJob, CRON)["spec"]["suspend"], suspended, "{value}");
    }
}

#[test]
fn members_have_the_credentials_whether_or_not_backups_are_on() {
    for (backup, mounted) in [
        (json!({ "credentialsSecret": "keys" }), true),
        (json!({ "credentialsSecret": "keys", "enabled": false }), true),
        (json!({}), false),
    ] {
        let world = World::settled(on(backup.clone()));
        let pod = &world.get(Kind::StatefulSet, "db")["spec"]["template"]["spec"];
        let volume = list(pod, "/volumes").iter().find(|volume| volume["name"] == "backup-credentials");
        let secret = json!({ "secretName": "keys", "optional": true, "defaultMode": 0o440 });
        assert_eq!(volume.map(|volume| &volume["secret"]), mounted.then_some(&secret), "{backup}");
        let mount = list(pod, "/containers/0/volumeMounts")
            .iter()
            .find(|mount| mount["name"] == "backup-credentials");
        assert_eq!(mount.is_some_and(|mount| mount["readOnly"] == true), mounted);
        let variable =
            list(pod, "/containers/0/env").iter().find(|variable| variable["name"] == "BACKUP_CREDENTIALS");
        let path = variable.and_then(|variable| text(variable, "/value"));
        assert_eq!(path, mount.and_then(|mount| text(mount, "/mountPath")));
    }
}

#[test]
fn a_new_destination_reaches_members_that_run() {
    let mut world = World::settled(json!({}));
    assert_eq!(command(&world), "true");
    world.edit(on(json!({})));
    let plan = world.pass(usize::MAX);
    assert!(
        !plan.actions.iter().any(|action| matches!(action, Action::Apply(a) if a.kind == Kind::StatefulSet))
    );
    world.settle();
    assert_eq!(command(&world), r#"dbctl agent wal-push --to 's3://b/p' --archive 'uid-1' "%p""#);
    world.edit(json!({ "backup": { "destination": "gs://c" } }));
    world.settle();
    assert!(command(&world).contains("'gs://c'"));
    world.edit(json!({ "backup": null }));
    world.settle();
    assert_eq!(command(&world), "true");
}

#[test]
fn an_archive_keeps_its_id_for_as_long_as_there_is_data() {
    let mut world = World::settled(on(json!({})));
    let both = |world: &World| (note(world, "db-config", ARCHIVE), note(world, "db-config", RELEASE));
    assert_eq!(both(&world), (Some("uid-1".into()), Some("16.15".into())));
    // What is noted of one thing takes nothing else away.
    world.edit(json!({ "version": "16.16" }));
    for pod in world.pods() {
        world.observed.remove(Kind::Pod, &pod);
    }
    world.settle();
    assert_eq!(both(&world), (Some("uid-1".into()), Some("16.16".into())));
    world.delete();
    world.settle();
    world.recreate(on(json!({})));
    world.settle();
    assert_eq!(both(&world).0.as_deref(), Some("uid-1"));
    assert!(command(&world).contains("'uid-1'"));
    // Patroni's object was lost, and written again by Patroni.
    world.observed.remove(Kind::ConfigMap, "db-config");
    world.settle();
    assert_eq!(both(&world).0.as_deref(), Some("uid-1"));
    // A hand decides.
    let other = json!({ "metadata": { "annotations": { ARCHIVE: "by-hand" } } });
    world.change(Kind::ConfigMap, "db-config", other);
    world.settle();
    assert_eq!((both(&world).0.as_deref(), command(&world).contains("'by-hand'")), (Some("by-hand"), true));
}

#[test]
fn data_that_was_given_up_takes_its_archive_id_along() {
    let mut world = World::settled(on(json!({})));
    world.edit(json!({ "deletionPolicy": "Delete" }));
    world.settle();
    world.delete();
    world.settle();
    assert!(!has(&world, Kind::ConfigMap, "db-backups") && !has(&world, Kind::ConfigMap, "db-config"));
    world.recreate(on(json!({})));
    world.settle();
    assert_eq!(note(&world, "db-config", ARCHIVE).as_deref(), Some("uid-2"));
}

/// Whatever was done when the controller ended, no member ever archives under another id.
#[test]
fn a_pass_that_was_cut_short_changes_no_id() {
    for limit in 0..24 {
        let mut world = World::new(crate::plan::world::database(on(json!({}))));
        world.pass(limit);
        world.settle();
        assert_eq!(note(&world, "db-config", ARCHIVE).as_deref(), Some("uid-1"), "{limit}");
        assert_eq!(note(&world, "db-backups", ARCHIVE).as_deref(), Some("uid-1"), "{limit}");
        assert!(command(&world).contains("'uid-1'"));
    }
}

#[test]
fn pods_of_jobs_are_no_members() {
    let mut world = World::settled(on(json!({})));
    let before = world.plan();
    let owner = json!({ "kind": "Job", "name": "db-backup-1", "uid": "j" });
    let pod = json!({
        "metadata": { "name": "db-backup-1-x2x4y", "labels": Names("db").backup_labels(), "ownerReferences": [owner] },
        "spec": { "nodeName": "node" }, "status": { "podIP": "10.0.0.9" },
    });
    world.observed.insert(Kind::Pod, pod.clone());
    assert_eq!(world.plan(), before);
    for (key, value) in Names("db").selector() {
        assert_eq!(key == LABEL_DATABASE, label(&pod, &key) == Some(value.as_str()), "selected by {key}");
    }
    for (kind, name, path) in [
        (Kind::Service, "db", "/spec/selector"),
        (Kind::Service, "db-ro", "/spec/selector"),
        (Kind::Service, "db-headless", "/spec/selector"),
        (Kind::PodDisruptionBudget, "db", "/spec/selector/matchLabels"),
        (Kind::StatefulSet, "db", "/spec/selector/matchLabels"),
    ] {
        let selector = at(world.get(kind, name), path).unwrap().as_object().unwrap().clone();
        assert!(selector.iter().any(|(key, value)| label(&pod, key) != value.as_str()), "{kind} {name}");
    }
    // Patroni selects by the labels of its configuration.
    let file = text(world.get(Kind::ConfigMap, "db-patroni"), "/data/patroni.yml").unwrap();
    let file: Value = serde_json::from_str(file).unwrap();
    let selected = file["kubernetes"]["labels"].as_object().unwrap();
    assert!(selected.iter().any(|(key, value)| label(&pod, key) != value.as_str()));
}

#[test]
fn anothers_cron_job_is_not_touched() {
    let mut world = World::settled(json!({}));
    let theirs = json!({ "metadata": { "name": CRON, "uid": "x" }, "spec": { "schedule": "1 1 1 1 1" } });
    world.observed.insert(Kind::CronJob, theirs.clone());
    world.settle();
    assert_eq!(world.plan().status.conditions[0].status, "True", "without backups nobody needs the name");
    world.edit(on(json!({})));
    world.settle();
    assert_eq!(world.plan().status.conditions[0].reason, reason::NAME_TAKEN);
    assert_eq!(world.get(Kind::CronJob, CRON), &theirs);
}

// Health ------------------------------------------------------------------------------------------

/// Ten in the morning; the schedule is three at night.
fn ten() -> jiff::Timestamp {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

fn healthy() -> World {
    let mut world = World::settled(on(json!({})));
    world.now = ten();
    catalog(&mut world, &["2026-11-22T03:00:02Z", "2026-11-21T03:00:02Z"]);
    world.settle();
    world.now = ten();
    world.events.clear();
    world
}

fn catalog(world: &mut World, begun: &[&str]) {
    let entry = |begun: &&str| {
        let at: jiff::Timestamp = begun.parse().unwrap();
        json!({ "id": format!("b-{}", at.as_second()), "startedAt": at, "stoppedAt": at + SignedDuration::from_secs(4),
            "from": "db-1", "bytes": 12_897_484, "size": 31_000_000 })
    };
    let entries: Vec<Value> = begun.iter().map(entry).collect();
    let text = json!({ "backups": entries, "earliest": "2026-11-21T03:00:06Z", "latest": null }).to_string();
    world.change(Kind::ConfigMap, "db-backups", json!({ "data": { CATALOG_KEY: text } }));
}

fn waits(waiting: u64, since: &str, error: Option<(&str, &str)>) -> ArchiveReport {
    ArchiveReport {
        waiting,
        oldest_waiting: (waiting > 0).then(|| since.parse().unwrap()),
        last_error: error.map(|(at, error)| ArchiveError {
            at: at.parse().unwrap(),
            error: error.to_owned(),
            file: "000000010000000000000007".to_owned(),
        }),
    }
}

/// A Job of the schedule, or of a request.
fn job(world: &mut World, name: &str, ended: Option<(&str, &str)>, words: Option<&str>) {
    let conditions: Vec<Value> = ended
        .map(|(kind, at)| json!({ "type": kind, "status": "True", "lastTransitionTime": at, "message": "the backoff limit" }))
        .into_iter()
        .collect();
    let owner = json!({ "kind": "CronJob", "name": CRON, "uid": "c" });
    let metadata = json!({ "name": name, "uid": name, "labels": Names("db").backup_labels(), "ownerReferences": [owner], "creationTimestamp": world.now });
    world.observed.insert(Kind::Job, json!({ "metadata": metadata, "status": { "conditions": conditions } }));
    if let Some(words) = words {
        let mut labels = json!(Names("db").backup_labels());
        labels["batch.kubernetes.io/job-name"] = json!(name);
        let owner = json!({ "kind": "Job", "name": name, "uid": name });
        let state = json!({ "terminated": { "message": words } });
        let pod = json!({
            "metadata": { "name": format!("{name}-x"), "labels": labels, "ownerReferences": [owner] },
            "status": { "containerStatuses": [{ "name": "backup", "state": state }] },
        });
        world.observed.insert(Kind::Pod, pod);
    }
}

#[test]
fn the_condition_says_whether_what_was_written_can_be_restored() {
    type Break = fn(&mut World);
    let cases: [(&str, Break, (&str, &str)); 23] = [
        ("all is well", |_| {}, ("True", reason::BACKUPS_CURRENT)),
        ("off", |w| w.edit(json!({ "backup": { "enabled": false } })), ("Unknown", reason::BACKUPS_DISABLED)),
        ("none yet", |w| catalog(w, &[]), ("False", reason::NO_BACKUP)),
        (
            "no catalog",
            |w| drop(w.observed.remove(Kind::ConfigMap, "db-backups")),
            ("False", reason::NO_BACKUP),
        ),
        (
            "on its way",
            |w| archives(w, "db-0", waits(1, "2026-11-22T09:59:10Z", None)),
            ("True", reason::BACKUPS_CURRENT),
        ),
        (
            "waits",
            |w| archives(w, "db-0", waits(1, "2026-11-22T09:58:59Z", None)),
            ("False", reason::ARCHIVING_FAILING),
        ),
        (
            "a replica's waits",
            |w| archives(w, "db-2", waits(9, "2026-11-22T09:00:00Z", None)),
            ("False", reason::ARCHIVING_FAILING),
        ),
        (
            "fails since long",
            |w| archives(w, "db-0", waits(1, "2026-11-22T09:59:59Z", Some(("2026-11-22T09:58:00Z", "no")))),
            ("False", reason::ARCHIVING_FAILING),
        ),
        (
            "failed just now",
            |w| archives(w, "db-0", waits(1, "2026-11-22T09:59:59Z", Some(("2026-11-22T09:59:59Z", "no")))),
            ("True", reason::BACKUPS_CURRENT),
        ),
        (
            "failed, and nothing waits",
            |w| archives(w, "db-0", waits(0, "", Some(("2026-11-22T08:00:00Z", "no")))),
            ("True", reason::BACKUPS_CURRENT),
        ),
        (
            "failed",
            |w| job(w, "j", Some(("Failed", "2026-11-22T09:00:00Z")), None),
            ("False", reason::BACKUP_FAILED),
        ),
        (
            "failed before the last good one",
            |w| job(w, "j", Some(("Failed", "2026-11-22T03:00:01Z")), None),
            ("True", reason::BACKUPS_CURRENT),
        ),
        (
            "failed, and a later one is done",
            |w| {
                job(w, "j", Some(("Failed", "2026-11-22T09:00:00Z")), None);
                job(w, "k", Some(("Complete", "2026-11-22T09:30:00Z")), None);
            },
            ("True", reason::BACKUPS_CURRENT),
        ),
        (
            "a second one failed after a good one",
            |w| {
                job(w, "j", Some(("Complete", "2026-11-22T09:00:00Z")), None);
                job(w, "k", Some(("Failed", "2026-11-22T09:30:00Z")), None);
            },
            ("False", reason::BACKUP_FAILED),
        ),
        (
            "the first failed",
            |w| {
                catalog(w, &[]);
                job(w, "j", Some(("Failed", "2026-11-22T09:00:00Z")), None);
            },
            ("False", reason::BACKUP_FAILED),
        ),
        ("one runs", |w| job(w, "j", None, None), ("True", reason::BACKUPS_CURRENT)),
        (
            "late, but not yet",
            |w| w.now = "2026-11-23T03:59:00Z".parse().unwrap(),
            ("True", reason::BACKUPS_CURRENT),
        ),
        ("late", |w| w.now = "2026-11-23T04:01:00Z".parse().unwrap(), ("False", reason::BACKUP_OVERDUE)),
        (
            "late, and one runs",
            |w| {
                w.now = "2026-11-23T04:01:00Z".parse().unwrap();
                job(w, "j", None, None);
            },
            ("True", reason::BACKUPS_CURRENT),
        ),
        (
            "late, and one hangs",
            |w| {
                w.now = "2026-11-23T03:00:00Z".parse().unwrap();
                job(w, "j", None, None);
                w.now = "2026-11-24T04:01:00Z".parse().unwrap();
            },
            ("False", reason::BACKUP_OVERDUE),
        ),
        (
            "by its own time zone",
            |w| {
                w.edit(json!({ "backup": { "timeZone": "America/New_York" } }));
                // Three in New York is eight; the last one, of three, is from before that.
                w.now = "2026-11-22T09:01:00Z".parse().unwrap();
            },
            ("False", reason::BACKUP_OVERDUE),
        ),
        (
            "archiving outweighs the rest",
            |w| {
                catalog(w, &[]);
                archives(w, "db-1", waits(3, "2026-11-22T09:00:00Z", None));
            },
            ("False", reason::ARCHIVING_FAILING),
        ),
        (
            "another's Job",
            |w| {
                job(w, "j", Some(("Failed", "2026-11-22T09:00:00Z")), None);
                w.change(Kind::Job, "j", json!({ "metadata": { "ownerReferences": null } }));
            },
            ("True", reason::BACKUPS_CURRENT),
        ),
    ];
    for (what, breaks, (status, reason)) in cases {
        let mut world = healthy();
        breaks(&mut world);
        let said = says(&world);
        assert_eq!((said.0.as_str(), said.1.as_str()), (status, reason), "{what}: {}", said.2);
        let due = backup_due(world.database.as_ref().unwrap(), &world.observed);
        let late = due.is_some_and(|due| due < world.now);
        match reason {
            reason::BACKUP_OVERDUE => assert!(late, "{what}: {due:?}"),
            reason::BACKUPS_CURRENT => assert!(!late, "{what}: {due:?}"),
            _ => {}
        }
    }
}

#[test]
fn the_first_backup_is_due_by_when_its_schedule_was_made() {
    let mut world = World::settled(on(json!({})));
    let due = |world: &World| backup_due(world.database.as_ref().unwrap(), &world.observed);
    assert_eq!(due(&world), None);
    world.change(Kind::CronJob, CRON, json!({ "metadata": { "creationTimestamp": "2026-11-22T03:00:00Z" } }));
    assert_eq!(due(&world), "2026-11-23T04:00:00Z".parse().ok());
    catalog(&mut world, &["2026-11-24T03:00:00Z"]);
    assert_eq!(due(&world), "2026-11-25T04:00:00Z".parse().ok());
    world.edit(json!({ "backup": { "enabled": false } }));
    assert_eq!(due(&world), None);
}

fn archives(world: &mut World, member: &str, report: ArchiveReport) {
    world.observed.archives.insert(member.to_owned(), report);
}

#[test]
fn the_message_has_the_stores_own_words() {
    let mut world = healthy();
    archives(&mut world, "db-1", waits(40, "2026-11-22T08:00:00Z", None));
    let refused = "failed to put wal/x: AccessDenied: no right to write";
    archives(&mut world, "db-0", waits(4, "2026-11-22T09:00:00Z", Some(("2026-11-22T09:59:59Z", refused))));
    insta::assert_snapshot!(says(&world).2, @"WAL of db-0 and db-1 waits to be archived since 2026-11-22 09:00:00 UTC: failed to put wal/x: AccessDenied: no right to write; it cannot be restored before it is, and fills the volumes");
    let before = says(&world);
    // One more file is no news.
    archives(&mut world, "db-0", waits(5, "2026-11-22T09:00:00Z", Some(("2026-11-22T10:00:30Z", refused))));
    assert_eq!(says(&world), before);
    // Pods of before the Secret was named.
    world.edit(json!({ "backup": { "credentialsSecret": "keys" } }));
    assert!(says(&world).2.ends_with("a deleted pod comes back with it"), "{}", says(&world).2);

    let mut world = healthy();
    archives(&mut world, "db-0", waits(4, "2026-11-22T09:00:00Z", None));
    insta::assert_snapshot!(says(&world).2, @"WAL of db-0 waits to be archived since 2026-11-22 09:00:00 UTC: no failure was noted, so it is slower than what is written, or hangs, or cannot be run; it cannot be restored before it is, and fills the volumes");
    let mut world = healthy();
    let log = "sending\nerror: failed to put base/x: AccessDenied: no right to write\n";
    job(&mut world, "db-backup-29384729", Some(("Failed", "2026-11-22T09:00:00Z")), Some(log));
    insta::assert_snapshot!(says(&world).2, @"the backup of Job db-backup-29384729 failed at 2026-11-22 09:00:00 UTC: failed to put base/x: AccessDenied: no right to write; the last good one ended at 2026-11-22 03:00:06 UTC");
    catalog(&mut world, &[]);
    world.observed.remove(Kind::Pod, "db-backup-29384729-x");
    insta::assert_snapshot!(says(&world).2, @"the backup of Job db-backup-29384729 failed at 2026-11-22 09:00:00 UTC: the backoff limit; there is no good one yet");
    world.observed.remove(Kind::Job, "db-backup-29384729");
    insta::assert_snapshot!(says(&world).2, @"no backup has been taken yet: the schedule's next is due at 2026-11-23 03:00:00 UTC; `dbctl backup-now db` takes one now");
    let mut world = healthy();
    world.now = "2026-11-25T04:01:00Z".parse().unwrap();
    insta::assert_snapshot!(says(&world).2, @"the last backup ended at 2026-11-22 03:00:06 UTC, and none has been taken since, though one was due at 2026-11-23 03:00:00 UTC; `kubectl describe cronjob db-backup` may say why");
}

#[test]
fn what_changes_is_told_once() {
    let mut world = healthy();
    let told = |world: &mut World| -> Vec<String> {
        // Twice, to see that it is said once.
        world.pass(usize::MAX);
        world.pass(usize::MAX);
        world.events.drain(..).map(|event| format!("{} {}", event.reason, event.warning)).collect()
    };
    assert_eq!(told(&mut world), Vec::<String>::new());
    archives(&mut world, "db-0", waits(1, "2026-11-22T09:00:00Z", None));
    assert_eq!(told(&mut world), ["ArchivingFailing true"]);
    // Not heard of is not mended.
    world.observed.archives.clear();
    assert_eq!(told(&mut world), Vec::<String>::new());
    assert_eq!(says(&world).1, reason::ARCHIVING_FAILING);
    archives(&mut world, "db-0", waits(0, "", None));
    assert_eq!(told(&mut world), ["ArchivingRecovered false"]);
    job(&mut world, "j", Some(("Failed", "2026-11-22T09:30:00Z")), None);
    assert_eq!(told(&mut world), ["BackupFailed true"]);
    job(&mut world, "k", Some(("Failed", "2026-11-22T09:40:00Z")), None);
    assert_eq!(told(&mut world), ["BackupFailed true"]);
    catalog(&mut world, &["2026-11-22T09:50:00Z", "2026-11-22T03:00:02Z"]);
    assert_eq!(told(&mut world), ["BackupCompleted false"]);
    // One that is listed anew and is old is no news.
    catalog(&mut world, &["2026-11-20T03:00:00Z"]);
    assert_eq!(told(&mut world).iter().filter(|told| told.starts_with("BackupC")).count(), 0);
}

#[test]
fn the_status_lists_what_there_is() {
    let world = healthy();
    let status = world.plan().status;
    assert_eq!(status.last_backup_time.unwrap().0.to_string(), "2026-11-22T03:00:06Z");
    assert_eq!(status.earliest_recovery_time.unwrap().0.to_string(), "2026-11-21T03:00:06Z");
    assert_eq!(status.backups.len(), 2);
    let first = &status.backups[0];
    assert_eq!((first.from.as_deref(), first.size_bytes), (Some("db-1"), Some(12_897_484)));
    // What was known stays known while the catalog is gone.
    let mut world = world;
    world.observed.remove(Kind::ConfigMap, "db-backups");
    assert_eq!(world.plan().status.backups.len(), 2);
    assert_eq!(name_of(world.get(Kind::ConfigMap, "db-config")), "db-config");
}

// Verifications -----------------------------------------------------------------------------------

const VERIFY: &str = "db-verify";

#[test]
fn verifications_have_a_schedule_of_their_own() {
    let mut world = World::settled(on(
        json!({ "verify": "0 5 * * 0", "timeZone": "Europe/Berlin", "credentialsSecret": "keys" }),
    ));
    assert_eq!(world.plan().actions, vec![]);
    let mut rest = world.get(Kind::CronJob, VERIFY)["spec"].clone();
    let pod = &mut rest["jobTemplate"]["spec"]["template"]["spec"];
    let env = list(pod, "/containers/0/env").iter();
    let names: Vec<&str> = env.map(|variable| text(variable, "/name").unwrap()).collect();
    // No password of a member's is there: it speaks with none.
    insta::assert_snapshot!(names.join(" "), @"POD_NAME POD_NAMESPACE TMPDIR SOCKET_DIRECTORY POSTGRES_MAJOR SCRATCH_DIRECTORY BACKUP_CREDENTIALS");
    let backups = world.get(Kind::CronJob, CRON)["spec"].clone();
    let container = pod["containers"][0].clone();
    insta::assert_snapshot!(serde_json::to_string(&container["command"]).unwrap(), @r#"["dbctl","agent","verify","--to","s3://b/p","--archive","uid-1","--database","db"]"#);
    let mounts: Vec<&str> =
        list(&container, "/volumeMounts").iter().filter_map(|mount| text(mount, "/mountPath")).collect();
    assert_eq!(mounts, ["/tmp", "/run/postgresql", "/scratch", "/etc/dbctl/backup"]);
    for volume in list(pod, "/volumes").iter().filter(|volume| volume["name"] != "backup-credentials") {
        assert_eq!(volume["emptyDir"], json!({}), "{volume}");
    }
    let own =
        |spec: &Value| ["schedule", "timeZone", "suspend", "concurrencyPolicy"].map(|key| spec[key].clone());
    assert_eq!(own(&rest), [json!("0 5 * * 0"), json!("Europe/Berlin"), json!(false), json!("Forbid")]);
    assert_eq!(own(&backups)[0], "0 3 * * *");
    // It rests with the other, and goes when it is not wanted any more.
    let paused = [("db.example.com/paused".to_owned(), "true".to_owned())];
    world.database.as_mut().unwrap().metadata.annotations = Some(paused.into());
    world.settle();
    assert_eq!(world.get(Kind::CronJob, VERIFY)["spec"]["suspend"], true);
    world.database.as_mut().unwrap().metadata.annotations = None;
    world.edit(json!({ "backup": { "verify": null } }));
    world.settle();
    assert!(!has(&world, Kind::CronJob, VERIFY) && has(&world, Kind::CronJob, CRON));
    world.edit(json!({ "backup": { "verify": "@weekly" } }));
    world.settle();
    assert!(has(&world, Kind::CronJob, VERIFY));
    world.edit(json!({ "backup": { "enabled": false } }));
    world.settle();
    assert!(!has(&world, Kind::CronJob, VERIFY) && !has(&world, Kind::CronJob, CRON));
}

/// What was found of each backup, the newest first: nothing, that it is good, or what is wrong with it.
fn found(world: &mut World, all: &[Option<Option<&str>>]) {
    let entry = |(number, found): (usize, &Option<Option<&str>>)| {
        let at = ten() - SignedDuration::from_hours(7 + 24 * i64::try_from(number).unwrap());
        let at = at + SignedDuration::from_nanos(7);
        let mut entry = json!({ "id": format!("b-{number}"), "startedAt": at, "stoppedAt": at });
        if let Some(problem) = found {
            entry["verifiedAt"] = json!(ten() + SignedDuration::from_nanos(7));
            entry["verifyProblem"] = json!(problem);
        }
        entry
    };
    let entries: Vec<Value> = all.iter().enumerate().map(entry).collect();
    let text = json!({ "backups": entries }).to_string();
    world.change(Kind::ConfigMap, "db-backups", json!({ "data": { CATALOG_KEY: text } }));
}

#[test]
fn a_damaged_backup_is_told_of_until_one_as_new_is_good() {
    let (good, bad, unknown) = (Some(None), Some(Some("check x: torn")), None);
    for (all, reason) in [
        (vec![good, unknown], reason::BACKUPS_CURRENT),
        (vec![bad, good], reason::BACKUP_DAMAGED),
        // A newer one that nobody has looked at does not mend it, and an older one that is good neither.
        (vec![unknown, bad, good], reason::BACKUP_DAMAGED),
        (vec![good, bad], reason::BACKUPS_CURRENT),
        (vec![unknown, good, bad], reason::BACKUPS_CURRENT),
        (vec![unknown, unknown], reason::BACKUPS_CURRENT),
    ] {
        let mut world = healthy();
        found(&mut world, &all);
        assert_eq!(says(&world).1, reason, "{all:?}");
    }
    let mut world = healthy();
    found(&mut world, &[bad, good]);
    insta::assert_snapshot!(says(&world).2, @"backup b-0 is damaged, as was found at 2026-11-22 10:00:00 UTC: failed to check x: torn; the newest that is known to be good is b-1; take another with `dbctl backup-now db`, and have it looked at with `dbctl backup verify db`");
    found(&mut world, &[unknown, bad]);
    insta::assert_snapshot!(says(&world).2, @"backup b-1 is damaged, as was found at 2026-11-22 10:00:00 UTC: failed to check x: torn; none is known to be good; have the newest looked at with `dbctl backup verify db`");
    assert_eq!(world.plan().status.backups[1].verify_problem.as_deref(), Some("check x: torn"));
}

#[test]
fn what_verifications_find_is_told_once() {
    let mut world = healthy();
    let told = |world: &mut World| -> Vec<String> {
        world.pass(usize::MAX);
        world.pass(usize::MAX);
        world.events.drain(..).map(|event| format!("{} {}", event.reason, event.warning)).collect()
    };
    let (good, bad) = (Some(None), Some(Some("check x: torn")));
    found(&mut world, &[None]);
    told(&mut world);
    found(&mut world, &[bad]);
    assert_eq!(told(&mut world), ["BackupDamaged true"]);
    found(&mut world, &[good]);
    assert_eq!(told(&mut world), ["BackupVerified false"]);
    // One that came to no result says nothing of the backup, and is told of all the same.
    world.now = ten() + SignedDuration::from_mins(1);
    verification(
        &mut world,
        "db-verify-29",
        "error: failed to restore backup b-0 to check it: /scratch has 1 B free\n",
    );
    assert_eq!(told(&mut world), ["VerificationFailed true"]);
    let (status, reason, message) = says(&world);
    assert_eq!((status.as_str(), reason.as_str()), ("True", reason::BACKUPS_CURRENT));
    assert!(
        message.ends_with("failed to restore backup b-0 to check it: /scratch has 1 B free"),
        "{message}"
    );
}

/// The API server hands out times by the second.
#[test]
fn what_is_finer_than_a_second_is_no_change() {
    let mut world = healthy();
    found(&mut world, &[Some(None), Some(Some("check x: torn"))]);
    world.settle();
    let status = world.database.as_mut().unwrap().status.as_mut().unwrap();
    *status = serde_json::from_value(json!(status)).unwrap();
    let plan = world.plan();
    assert_eq!(plan.actions, vec![]);
}

/// A Job of the schedule that failed.
fn verification(world: &mut World, name: &str, words: &str) {
    job(world, name, Some(("Failed", "2026-11-22T10:05:00Z")), Some(words));
    let labels = json!(Names("db").verify_labels());
    let owner = json!([{ "kind": "CronJob", "name": VERIFY, "uid": "v" }]);
    world.change(Kind::Job, name, json!({ "metadata": { "labels": labels, "ownerReferences": owner } }));
}
