//! Alerts about databases to which the very thing was done: what the controller and the agents say then, kept up for as long
//! as the alerts wait for, is given to promtool.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dbctl::api::{CATALOG_KEY, Database};
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use regex::Regex;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::{Value, json};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{alerts, promtool, text};
use crate::backups::cluster::{NAME, back_up, backups_are, create, directory};
use crate::external::runtime;
use crate::journeys::ready_with;
use crate::proof::session::trusting;
use crate::support::{Sandbox, eventually};

/// For how many minutes what was said is kept up: longer than any alert waits.
const MINUTES: u32 = 130;

pub(super) struct Watch<'a> {
    sandbox: &'a Sandbox,
    rules: tempfile::TempDir,
}

impl<'a> Watch<'a> {
    pub(super) fn new(sandbox: &'a Sandbox) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let rules = tempfile::tempdir().unwrap();
        promtool::write_rules(rules.path());
        Self { sandbox, rules }
    }

    fn page(&self, url: &str) -> Option<String> {
        runtime().block_on(async { reqwest::get(url).await.ok()?.error_for_status().ok()?.text().await.ok() })
    }

    /// All series, with the labels that Prometheus would add.
    fn series(&self) -> Vec<(String, f64)> {
        let status = self.sandbox.run(&["sandbox", "status", "-o", "json"]);
        let status: Value = serde_json::from_str(&status.stdout).unwrap();
        let mut all = Vec::new();
        let Some(url) = status["metrics"].as_str() else { return all };
        all.extend(samples(&self.page(url).expect(url), ""));
        let pods = runtime().block_on(async {
            let pods = Api::<Pod>::default_namespaced(self.sandbox.client().await);
            pods.list(&ListParams::default().labels("app.kubernetes.io/name=postgresql")).await.unwrap()
        });
        for pod in pods {
            let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
            let page = address.and_then(|at| self.page(&format!("http://{at}:8009/metrics")));
            let labels = format!("member=\"{}\"", pod.name_any());
            all.extend(page.iter().flat_map(|page| samples(page, &labels)));
        }
        all
    }

    /// The alerts that fire if all stays as it is now, and ages with it.
    pub(super) fn firing(&self) -> BTreeSet<String> {
        let now = jiff::Timestamp::now().as_second() as f64;
        let mut test =
            String::from("rule_files: [rules.yaml]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n");
        test.push_str("    input_series:\n");
        for (series, value) in self.series() {
            // promtool's time begins at zero.
            let values = if series.contains("_timestamp_seconds{") {
                format!("{}+60x{MINUTES}", value - now)
            } else {
                format!("{value}x{MINUTES}")
            };
            let _ = writeln!(test, "      - {}", json!({ "series": series, "values": values }));
        }
        // Each is said not to fire, and promtool tells which of them do.
        test.push_str("    alert_rule_test:\n");
        for alert in alerts() {
            let case = json!({ "eval_time": format!("{MINUTES}m"), "alertname": text(&alert, "/alert"), "exp_alerts": [] });
            let _ = writeln!(test, "      - {case}");
        }
        std::fs::write(self.rules.path().join("now.yaml"), &test).unwrap();
        let output = std::process::Command::new(promtool::promtool())
            .args(["test", "rules", "now.yaml"])
            .current_dir(self.rules.path())
            .output()
            .unwrap();
        let said =
            [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        let fires = Regex::new(r"alertname: ?(\w+), time").unwrap();
        let fires: BTreeSet<String> = fires.captures_iter(&said).map(|found| found[1].to_owned()).collect();
        assert_eq!(output.status.success(), fires.is_empty(), "{said}\n{test}");
        fires
    }

    /// Waits until exactly those fire.
    #[track_caller]
    pub(super) fn fire(&self, what: &str, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        eventually(what, || {
            let fires = self.firing();
            if fires == expected { Ok(()) } else { Err(format!("{fires:?}")) }
        });
        println!("{what}: {expected:?}");
    }

    /// Waits until that one fires, perhaps with others that follow from the same.
    #[track_caller]
    pub(super) fn fire_at_least(&self, what: &str, expected: &str) {
        let fires = eventually(what, || {
            let fires = self.firing();
            if fires.contains(expected) { Ok(fires) } else { Err(format!("{fires:?}")) }
        });
        println!("{what}: {fires:?}");
    }
}

/// A page's samples, each with labels of its place.
fn samples(page: &str, place: &str) -> Vec<(String, f64)> {
    let mut all = Vec::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let comma = if labels.is_empty() || place.is_empty() { "" } else { "," };
        all.push((format!("{name}{{{labels}{comma}{place}}}"), value.parse().unwrap()));
    }
    all
}

/// What pods see of a member's volume.
fn volume(sandbox: &Sandbox, member: &str) -> PathBuf {
    let claim = runtime().block_on(async {
        let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(sandbox.client().await);
        claims.get(&format!("data-{member}")).await.unwrap()
    });
    sandbox.home().join("sandbox/volumes").join(claim.spec.unwrap().volume_name.unwrap()).join("data")
}

/// Takes room of a volume, so that that share of it is used.
fn fill(volume: &Path, percent: u64) {
    let room = statvfs(volume).unwrap();
    let (all, free) = (room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize);
    let file = File::options().create(true).append(true).open(volume.join("filler")).unwrap();
    let end = file.metadata().unwrap().len();
    fallocate(&file, FallocateFlags::empty(), end, free - all / 100 * (100 - percent)).unwrap();
}

/// Nodes take no further pods, or do.
pub(super) fn cordon(sandbox: &Sandbox, cordoned: bool) {
    runtime().block_on(async {
        let nodes: Api<Node> = Api::all(sandbox.client().await);
        let change = Patch::Merge(json!({ "spec": { "unschedulable": cordoned } }));
        nodes.patch("sandbox", &PatchParams::default(), &change).await.unwrap();
    });
}

fn delete_pod(sandbox: &Sandbox, name: &str) {
    let now = DeleteParams::default().grace_period(0);
    runtime().block_on(async {
        Api::<Pod>::default_namespaced(sandbox.client().await).delete(name, &now).await.unwrap();
    });
}

fn replica_of(database: &Value) -> String {
    let instances = database["status"]["instances"].as_array().unwrap();
    let replica = instances.iter().find(|instance| instance["role"] == "replica").unwrap();
    replica["name"].as_str().unwrap().to_owned()
}

/// The sandbox, with volumes that can be full.
pub(super) fn begin() -> Option<Sandbox> {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
        eprintln!("SKIPPED alerts of a whole life: volumes that can be full need root and loop devices");
        return None;
    }
    let sandbox = Sandbox::own();
    sandbox.run(&["sandbox", "up", "--volumes=bounded"]).ok();
    Some(sandbox)
}

/// A database at rest, and its primary and replica.
pub(super) fn database(sandbox: &Sandbox) -> (String, String) {
    sandbox
        .run(&["create", NAME, "--replicas", "2", "--version", "16.15", "--storage", "4Gi", "--wait"])
        .ok();
    roles(sandbox)
}

pub(super) fn roles(sandbox: &Sandbox) -> (String, String) {
    let database = ready_with(sandbox, NAME, 2);
    (database["status"]["primary"].as_str().unwrap().to_owned(), replica_of(&database))
}

#[test]
fn alerts_about_backups_fire_and_end() {
    let store = directory();
    let Some(sandbox) = begin() else { return };
    let watch = Watch::new(&sandbox);
    let url = format!("file://{}", store.path().display());
    create(&sandbox, "2", &url, &["--version", "16.15"]);
    back_up(&sandbox);
    watch.fire("a database at rest", &[]);
    archive(&sandbox, &watch, store.path());
    catalog(&sandbox, &watch);
}

#[test]
fn alerts_about_lag_and_volumes_fire_and_end() {
    let Some(sandbox) = begin() else { return };
    let watch = Watch::new(&sandbox);
    let (primary, replica) = database(&sandbox);
    lag(&sandbox, &watch, &primary, &replica);
    volumes(&sandbox, &watch, &replica);
}

#[test]
fn alerts_about_what_waits_for_a_decision_fire_and_end() {
    let Some(sandbox) = begin() else { return };
    let watch = Watch::new(&sandbox);
    database(&sandbox);
    upgrade(&sandbox, &watch);
    name_taken(&sandbox, &watch);
}

/// Every value that is served is in the tables, and PostgreSQL answered all that it was asked.
fn everything_is_served(series: &[(String, f64)]) {
    let tables = dbctl::controller::metrics().into_iter().chain(dbctl::agent::metrics());
    let known: BTreeSet<String> = tables.flat_map(|metric| metric.series()).collect();
    let names: BTreeSet<&str> = series.iter().filter_map(|(name, _)| name.split('{').next()).collect();
    let unknown: Vec<_> = names.iter().filter(|name| !known.contains(**name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(!names.contains("dbctl_metrics_failed"), "{series:?}");
    let value = |name: &str| series.iter().find(|(own, _)| own == name).map(|(_, value)| *value);
    for member in ["db-0", "db-1"] {
        assert_eq!(value(&format!("pg_up{{member=\"{member}\"}}")), Some(1.0));
        assert_eq!(value(&format!("pg_settings_max_connections{{member=\"{member}\"}}")), Some(100.0));
    }
    assert_eq!(value("dbctl_controller_leader{}"), Some(1.0));
    assert!(value("dbctl_controller_reconciles_total{outcome=\"done\"}") > Some(1.0));
    assert!(value("dbctl_controller_api_requests_total{method=\"GET\",code=\"200\"}") > Some(1.0));
}

#[test]
fn alerts_about_lost_members_fire_and_end() {
    let Some(sandbox) = begin() else { return };
    let watch = Watch::new(&sandbox);
    let (primary, replica) = database(&sandbox);
    everything_is_served(&watch.series());
    cordon(&sandbox, true);
    delete_pod(&sandbox, &replica);
    watch.fire("a lost replica of two members", &["DatabaseCommitsUnprotected", "DatabaseMemberLost"]);
    delete_pod(&sandbox, &primary);
    watch.fire("nobody left", &["DatabaseMemberLost", "DatabaseNotWritable"]);
    sandbox.run(&["pause", NAME]).ok();
    watch.fire("the same of a paused database", &[]);
    sandbox.run(&["resume", NAME]).ok();
    cordon(&sandbox, false);
    ready_with(&sandbox, NAME, 2);
    watch.fire("all of them back", &[]);

    // Whoever is deleted is missed by nobody, and what is not there says nothing.
    sandbox.run(&["delete", NAME, "--yes", "--deletion-policy", "delete"]).ok();
    watch.fire("a deleted database", &[]);
    sandbox.run(&["sandbox", "down"]).ok();
    watch.fire("no controller", &["DbctlControllerDown"]);
}

/// The destination of backups takes nothing any more.
fn archive(sandbox: &Sandbox, watch: &Watch<'_>, store: &Path) {
    let mode = |bits| std::fs::set_permissions(store, std::fs::Permissions::from_mode(bits)).unwrap();
    mode(0);
    let (primary, _) = roles(sandbox);
    superuser(sandbox, &primary, "select pg_logical_emit_message(true, 'x', 'x'); select pg_switch_wal()");
    watch.fire("an archive that takes nothing", &["DatabaseArchivingFailing"]);
    mode(0o755);
    backups_are(sandbox, "True", "BackupsCurrent");
    watch.fire("one that does again", &[]);
}

/// What is known of backups is that the newest is days old, and damaged.
fn catalog(sandbox: &Sandbox, watch: &Watch<'_>) {
    runtime().block_on(async {
        let maps: Api<ConfigMap> = Api::default_namespaced(sandbox.client().await);
        let map = maps.get(&format!("{NAME}-backups")).await.unwrap();
        let mut catalog: Value = serde_json::from_str(&map.data.unwrap()[CATALOG_KEY]).unwrap();
        let entry = &mut catalog["backups"][0];
        entry["startedAt"] = json!("2020-01-01T00:00:00Z");
        entry["stoppedAt"] = json!("2020-01-01T00:00:04Z");
        entry["verifiedAt"] = json!("2020-01-01T00:01:00Z");
        entry["verifyProblem"] = json!("read base.0000.tar.zst: its hash is another");
        let change = Patch::Merge(json!({ "data": { CATALOG_KEY: catalog.to_string() } }));
        maps.patch(&map.metadata.name.unwrap(), &PatchParams::default(), &change).await.unwrap();
    });
    watch.fire("an old and damaged backup", &["DatabaseBackupDamaged", "DatabaseBackupOverdue"]);
    back_up(sandbox);
    sandbox.run(&["backup", "verify", NAME, "--wait"]).ok();
    watch.fire("a new one that is good", &[]);
}

/// The replica takes WAL and does not replay it. A pause would be ended by Patroni.
fn lag(sandbox: &Sandbox, watch: &Watch<'_>, primary: &str, replica: &str) {
    sandbox.run(&["sandbox", "fault", "pod", replica, "--freeze", "--only", "startup"]).ok();
    for _ in 0..20 {
        let more = "select count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) from generate_series(1, 16)";
        superuser(sandbox, primary, more);
    }
    watch.fire("a replica that does not replay", &["DatabaseMemberLost", "DatabaseReplicationLag"]);
    sandbox.run(&["sandbox", "fault", "clear"]).ok();
    watch.fire("one that does", &[]);
}

/// Its volumes, nearly full.
fn volumes(sandbox: &Sandbox, watch: &Watch<'_>, member: &str) {
    let volume = volume(sandbox, member);
    fill(&volume, 85);
    watch.fire("a volume that fills", &["DatabaseDiskFilling"]);
    fill(&volume, 96);
    watch.fire("a volume that is nearly full", &["DatabaseDiskFilling", "DatabaseDiskNearlyFull"]);
    std::fs::remove_file(volume.join("filler")).unwrap();
    watch.fire("room again", &[]);
}

/// A release that there is not. The command would say so; whoever edits the object finds out this way.
fn upgrade(sandbox: &Sandbox, watch: &Watch<'_>) {
    runtime().block_on(async {
        let databases: Api<Database> = Api::default_namespaced(sandbox.client().await);
        let change = Patch::Merge(json!({ "spec": { "version": "16.99" } }));
        databases.patch(NAME, &PatchParams::default(), &change).await.unwrap();
    });
    watch.fire("an upgrade to a release that does not exist", &["DatabaseUpgradeHalted"]);
    sandbox.run(&["upgrade", NAME, "--abort", "--yes", "--wait"]).ok();
    watch.fire("one that was taken back", &[]);
}

/// A Database whose Service is somebody else's.
fn name_taken(sandbox: &Sandbox, watch: &Watch<'_>) {
    runtime().block_on(async {
        let services: Api<Service> = Api::default_namespaced(sandbox.client().await);
        let service = json!({ "metadata": { "name": "taken" }, "spec": { "ports": [{ "port": 80 }] } });
        services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    });
    sandbox.run(&["create", "taken", "--replicas", "1", "--storage", "1Gi"]).ok();
    watch.fire("a name that is somebody else's", &["DatabaseFailed", "DatabaseMemberLost"]);
    sandbox.run(&["delete", "taken", "--yes"]).ok();
    eventually("it is gone", || match sandbox.run(&["status", "taken"]) {
        answer if answer.code == 6 => Ok(()),
        answer => Err(answer.transcript()),
    });
    watch.fire("gone", &[]);
}

/// SQL on a member, as its superuser.
pub(super) fn superuser(sandbox: &Sandbox, member: &str, sql: &str) {
    let (address, password, tls) = runtime().block_on(async {
        let client = sandbox.client().await;
        let pod = Api::<Pod>::default_namespaced(client.clone()).get(member).await.unwrap();
        let tls = trusting(client.clone(), NAME).await;
        let secrets: Api<Secret> = Api::default_namespaced(client);
        let data = secrets.get(&format!("{NAME}-internal")).await.unwrap().data.unwrap();
        let password = String::from_utf8(data["superuser-password"].0.clone()).unwrap();
        (pod.status.unwrap().pod_ip.unwrap(), password, tls)
    });
    let mut config = tokio_postgres::Config::new();
    config.host(&address).user("postgres").password(password).dbname("postgres");
    config.connect_timeout(Duration::from_secs(10));
    runtime().block_on(async {
        let tls = MakeRustlsConnect::new((*tls.config()).clone());
        let (client, connection) = config.connect(tls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.simple_query(sql).await.unwrap();
        drop(client);
        let _ = connection.await;
    });
}
