//! What is told, as Prometheus reads it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::certificate::{Certificate, Source};
use super::readers::Readers;
use super::readers::tests::Script;
use super::sighting::Waiting;
use super::*;
use crate::api::{Database, DatabaseStatus, Failover};
use crate::controller::cache::Key;
use crate::controller::lease::Claim;
use crate::metrics::CONTENT_TYPE;
use crate::plan::{Kind, Observed};
use crate::reviews::ReviewError;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use tokio_util::sync::CancellationToken;

fn key() -> Key {
    ("shop".to_owned(), "orders-db".to_owned())
}

fn moved(second: i64, to: &str, reason: &str, seconds: f64) -> Failover {
    let at = |second| Some(Time(jiff::Timestamp::from_second(second).unwrap()));
    Failover {
        from: Some("orders-db-0".into()),
        to: to.into(),
        reason: reason.into(),
        started_at: at(second),
        writable_at: at(second + 1),
        duration_seconds: Some(seconds),
        timeline: None,
    }
}

fn status(failovers: Vec<Failover>) -> DatabaseStatus {
    DatabaseStatus { failovers, ..Default::default() }
}

fn sighting(primary: &str, lags: &[(&str, i64)]) -> Sighting {
    let lags = lags.iter().map(|(member, lag)| ((*member).to_owned(), *lag)).collect();
    Sighting { primary: Some(primary.to_owned()), lags, ..Sighting::default() }
}

/// What is said of every Database, whatever is known of it.
const ALWAYS: [&str; 3] = ["database_info", "database_members_", "database_condition"];

/// The other lines about Databases, in an order of their own.
fn lines(metrics: &Metrics) -> String {
    let page = metrics.render().unwrap();
    let own =
        |line: &&str| line.starts_with("database_") && !ALWAYS.iter().any(|name| line.starts_with(name));
    let mut lines: Vec<_> = page.lines().filter(own).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn the_page_is_prometheus_text() {
    let metrics = Metrics::default();
    let before = status(vec![moved(100, "orders-db-1", "Switchover", 0.8)]);
    metrics.databases.observe(
        &key(),
        Some(&before),
        &before,
        &sighting("orders-db-1", &[("orders-db-0", 5)]),
    );
    let after = status(vec![moved(200, "orders-db-0", "PrimaryLost", 2.4), before.failovers[0].clone()]);
    metrics.databases.observe(&key(), Some(&before), &after, &sighting("orders-db-0", &[("orders-db-1", 0)]));
    let page = metrics.render().unwrap();
    let own: Vec<_> = page.lines().filter(|line| line.contains("failover") || *line == "# EOF").collect();
    insta::assert_snapshot!(own.join("\n"), @r#"
    # HELP database_failover Changes of primary.
    # TYPE database_failover counter
    database_failover_total{namespace="shop",database="orders-db",reason="PrimaryLost"} 1
    # HELP database_failover_duration_seconds How long nobody could write during a change of primary.
    # TYPE database_failover_duration_seconds histogram
    database_failover_duration_seconds_sum{namespace="shop",database="orders-db"} 2.4
    database_failover_duration_seconds_count{namespace="shop",database="orders-db"} 1
    database_failover_duration_seconds_bucket{le="0.5",namespace="shop",database="orders-db"} 0
    database_failover_duration_seconds_bucket{le="1.0",namespace="shop",database="orders-db"} 0
    database_failover_duration_seconds_bucket{le="1.5",namespace="shop",database="orders-db"} 0
    database_failover_duration_seconds_bucket{le="2.0",namespace="shop",database="orders-db"} 0
    database_failover_duration_seconds_bucket{le="3.0",namespace="shop",database="orders-db"} 1
    database_failover_duration_seconds_bucket{le="5.0",namespace="shop",database="orders-db"} 1
    database_failover_duration_seconds_bucket{le="10.0",namespace="shop",database="orders-db"} 1
    database_failover_duration_seconds_bucket{le="15.0",namespace="shop",database="orders-db"} 1
    database_failover_duration_seconds_bucket{le="22.0",namespace="shop",database="orders-db"} 1
    database_failover_duration_seconds_bucket{le="30.0",namespace="shop",database="orders-db"} 1
    database_failover_duration_seconds_bucket{le="60.0",namespace="shop",database="orders-db"} 1
    database_failover_duration_seconds_bucket{le="300.0",namespace="shop",database="orders-db"} 1
    database_failover_duration_seconds_bucket{le="+Inf",namespace="shop",database="orders-db"} 1
    # EOF
    "#);
}

#[test]
fn a_change_counts_once_and_only_when_writes_are_back() {
    let metrics = Metrics::default();
    let count = |metrics: &Metrics| {
        lines(metrics).lines().filter(|line| line.starts_with("database_failover_total")).collect::<String>()
    };
    let sight = sighting("orders-db-1", &[]);
    let one = moved(100, "orders-db-1", "PrimaryLost", 2.0);
    let open = Failover { writable_at: None, duration_seconds: None, ..one.clone() };
    metrics.databases.observe(&key(), None, &status(vec![open]), &sight);
    assert_eq!(count(&metrics), "");
    for _ in 0..3 {
        metrics.databases.observe(&key(), None, &status(vec![one.clone()]), &sight);
    }
    let once = r#"database_failover_total{namespace="shop",database="orders-db",reason="PrimaryLost"} 1"#;
    assert_eq!(count(&metrics), once);
    // Another process has counted it already.
    let next = Metrics::default();
    let known = status(vec![one]);
    next.databases.observe(&key(), Some(&known), &known, &sight);
    assert_eq!(count(&next), "");
}

#[test]
fn what_is_no_longer_so_is_no_longer_told() {
    let metrics = Metrics::default();
    let none = DatabaseStatus::default();
    let split: DatabaseStatus = serde_json::from_value(json!({ "conditions": [{ "type": "Writable",
        "status": "False", "reason": "SplitBrainSuspected", "message": "", "lastTransitionTime": "2026-11-22T10:00:00Z" }] }))
    .unwrap();
    let two = [("orders-db-1", 7), ("orders-db-2", 0)];
    metrics.databases.observe(&key(), None, &split, &sighting("orders-db-0", &two));
    insta::assert_snapshot!(lines(&metrics), @r#"
    database_primary_info{namespace="shop",database="orders-db",primary="orders-db-0"} 1
    database_replication_lag_bytes{namespace="shop",database="orders-db",member="orders-db-1"} 7
    database_replication_lag_bytes{namespace="shop",database="orders-db",member="orders-db-2"} 0
    database_split_brain_suspected{namespace="shop",database="orders-db"} 1
    "#);
    metrics.databases.observe(&key(), None, &none, &sighting("orders-db-1", &[("orders-db-0", 0)]));
    insta::assert_snapshot!(lines(&metrics), @r#"
    database_primary_info{namespace="shop",database="orders-db",primary="orders-db-1"} 1
    database_replication_lag_bytes{namespace="shop",database="orders-db",member="orders-db-0"} 0
    database_split_brain_suspected{namespace="shop",database="orders-db"} 0
    "#);
    metrics.databases.observe(&key(), None, &none, &Sighting::default());
    insta::assert_snapshot!(lines(&metrics), @r#"database_split_brain_suspected{namespace="shop",database="orders-db"} 0"#);
    metrics.databases.forget(&key());
    assert_eq!(lines(&metrics), "");
}

#[test]
fn a_sighting_is_read_from_locks_and_answers() {
    let mut observed = Observed::default();
    let labels = json!({ "db.example.com/database": "db" });
    observed.insert(
        Kind::ConfigMap,
        json!({ "metadata": { "name": "db-leader", "annotations": { "leader": "db-0", "optime": "900" } } }),
    );
    for (name, status) in [("db-0", json!({})), ("db-1", json!({ "replay_lsn": 400 })), ("db-2", json!({}))] {
        let annotations = json!({ "status": status.to_string() });
        let metadata = json!({ "name": name, "labels": labels, "annotations": annotations });
        observed.insert(Kind::Pod, json!({ "metadata": metadata }));
    }
    let answer = |value| serde_json::from_value(value).unwrap();
    let primary = json!({ "role": "primary", "state": "running", "xlog": { "location": 1000 } });
    observed.answers.insert("db-0".into(), answer(primary));
    let now = jiff::Timestamp::from_second(1_000).unwrap();
    let spec = json!({ "version": "16.15", "replicas": 2, "storage": { "size": "1Gi" } });
    let mut database: Database = serde_json::from_value(
        json!({ "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": { "name": "db" }, "spec": spec }),
    )
    .unwrap();
    let seen = |observed: &Observed| Sighting::of(&database, observed, now);
    // db-2 has said nothing, so nothing is said of it.
    assert_eq!(seen(&observed), Sighting { wanted: 2, ..sighting("db-0", &[("db-1", 600)]) });
    let oldest_waiting = jiff::Timestamp::from_second(930).ok();
    let report = crate::agent::ArchiveReport { waiting: 3, oldest_waiting, last_error: None };
    observed.archives.insert("db-0".into(), report);
    assert_eq!(seen(&observed).waiting["db-0"], Waiting { files: 3, seconds: 70 });
    database.metadata.annotations = Some([("db.example.com/paused".to_owned(), "true".to_owned())].into());
    assert!(Sighting::of(&database, &observed, now).paused);
}

#[test]
fn verifications_are_told() {
    let metrics = Metrics::default();
    let status = |problem: Option<&str>| {
        let good = json!({ "id": "a", "verifiedAt": "1970-01-01T00:16:40Z" });
        let newest = json!({ "id": "b", "verifiedAt": "1970-01-01T00:33:20Z", "verifyProblem": problem });
        serde_json::from_value::<DatabaseStatus>(json!({ "backups": [{ "id": "c" }, newest, good] })).unwrap()
    };
    let seen = |failed: &[&str]| Sighting {
        failed_verifications: failed.iter().map(|uid| (*uid).to_owned()).collect(),
        ..Sighting::default()
    };
    let own = |metrics: &Metrics| {
        let all = lines(metrics);
        all.lines()
            .filter(|line| line.contains("verif") || line.contains("damaged"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    // What failed before this process is no news.
    metrics.databases.observe(&key(), None, &status(None), &seen(&["old"]));
    insta::assert_snapshot!(own(&metrics), @r#"
    database_backup_damaged{namespace="shop",database="orders-db"} 0
    database_backup_verified_timestamp_seconds{namespace="shop",database="orders-db"} 2000
    "#);
    metrics.databases.observe(&key(), None, &status(Some("no")), &seen(&["old", "new"]));
    metrics.databases.observe(&key(), None, &status(Some("no")), &seen(&["old", "new"]));
    insta::assert_snapshot!(own(&metrics), @r#"
    database_backup_damaged{namespace="shop",database="orders-db"} 1
    database_backup_verified_timestamp_seconds{namespace="shop",database="orders-db"} 1000
    database_backup_verify_failures_total{namespace="shop",database="orders-db"} 1
    "#);
    metrics.databases.forget(&key());
    assert_eq!(lines(&metrics), "");
}

#[test]
fn archiving_and_backups_are_told() {
    let metrics = Metrics::default();
    let status = |ids: &[&str]| {
        let backups: Vec<_> = ids.iter().map(|id| json!({ "id": id })).collect();
        let last = (!ids.is_empty()).then_some("1970-01-01T00:16:40Z");
        serde_json::from_value::<DatabaseStatus>(json!({ "backups": backups, "lastBackupTime": last }))
            .unwrap()
    };
    let seen = |failed: &[&str], waiting: Option<Waiting>| Sighting {
        waiting: waiting.map(|waiting| ("orders-db-0".to_owned(), waiting)).into_iter().collect(),
        failed_backups: failed.iter().map(|uid| (*uid).to_owned()).collect(),
        ..Sighting::default()
    };
    // What was there before is another's count.
    metrics.databases.observe(&key(), Some(&status(&["a"])), &status(&["a"]), &seen(&["x"], None));
    for _ in 0..2 {
        let waiting = Some(Waiting { files: 3, seconds: 70 });
        metrics.databases.observe(&key(), None, &status(&["b", "a"]), &seen(&["x", "y"], waiting));
    }
    insta::assert_snapshot!(lines(&metrics), @r#"
    database_backup_last_success_timestamp_seconds{namespace="shop",database="orders-db"} 1000
    database_backup_total{namespace="shop",database="orders-db",outcome="failed"} 1
    database_backup_total{namespace="shop",database="orders-db",outcome="succeeded"} 1
    database_split_brain_suspected{namespace="shop",database="orders-db"} 0
    database_wal_archive_waiting_files{namespace="shop",database="orders-db",member="orders-db-0"} 3
    database_wal_archive_waiting_seconds{namespace="shop",database="orders-db",member="orders-db-0"} 70
    "#);
    // Retention removes one: that is no end of a backup.
    metrics.databases.observe(&key(), None, &status(&["b"]), &seen(&[], None));
    insta::assert_snapshot!(lines(&metrics), @r#"
    database_backup_last_success_timestamp_seconds{namespace="shop",database="orders-db"} 1000
    database_backup_total{namespace="shop",database="orders-db",outcome="failed"} 1
    database_backup_total{namespace="shop",database="orders-db",outcome="succeeded"} 1
    database_split_brain_suspected{namespace="shop",database="orders-db"} 0
    "#);
    metrics.databases.observe(&key(), None, &status(&[]), &seen(&[], None));
    assert!(!lines(&metrics).contains("last_success"));
    metrics.databases.forget(&key());
    assert_eq!(lines(&metrics), "");
}

#[tokio::test]
async fn it_is_served() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let metrics = Arc::new(Metrics::default());
    metrics.databases.observe(&key(), None, &DatabaseStatus::default(), &sighting("orders-db-0", &[]));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let config = MetricsConfig { listener: Arc::new(listener), to: Reached::ByAnyone };
    let serving = tokio::spawn(serve(metrics, nobody(), &config, stop.clone()).unwrap());
    let answer = reqwest::get(format!("http://{address}/metrics")).await.unwrap();
    assert_eq!(answer.headers()["content-type"], CONTENT_TYPE);
    assert!(answer.text().await.unwrap().contains("database_primary_info"));
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// A client of an API server that is not there.
fn nobody() -> kube::Client {
    let service = tower::service_fn(async |_: http::Request<kube::client::Body>| {
        Err::<http::Response<kube::client::Body>, _>(tower::BoxError::from("nobody is there"))
    });
    kube::Client::new(service, "default")
}

/// Over the wire: what is told to whom, and that there is nothing without TLS.
#[tokio::test]
async fn it_is_served_to_readers_alone() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let script = Script::default().knows("good", "prometheus", true).knows("other", "somebody", false);
    let script = Arc::new(script);
    let readers = Readers::new(script.clone(), crate::controller::lease::now);
    let router = super::serve::guarded(Arc::new(Metrics::default()), readers);
    let source = Source::Made(std::net::Ipv4Addr::LOCALHOST.into());
    let certificate = Arc::new(Certificate::open(source, std::time::SystemTime::now()).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let tls = certificate.server_config().unwrap();
    let serving = tokio::spawn(super::port::serve(listener, Some(tls), router, stop.clone()));

    let client = reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap();
    let ask = async |path: &str, token: Option<&str>| {
        let request = client.get(format!("https://{address}{path}"));
        token.map_or(request.try_clone().unwrap(), |token| request.bearer_auth(token)).send().await.unwrap()
    };
    for (token, code) in [(None, 401), (Some("made-up"), 401), (Some("other"), 403), (Some("good"), 200)] {
        let answer = ask("/metrics", token).await;
        assert_eq!(answer.status().as_u16(), code, "{token:?}");
        let told = answer.headers().contains_key("www-authenticate");
        let metrics = answer.text().await.unwrap().contains("dbctl_build_info");
        assert_eq!((told, metrics), (code == 401, code == 200), "{token:?}");
    }
    // There is nothing else, not for them either.
    for path in ["/", "/healthz", "/metrics/"] {
        assert_eq!(ask(path, Some("good")).await.status().as_u16(), 404, "{path}");
    }
    *script.fails.lock().unwrap() = Some(ReviewError::Unreadable);
    assert_eq!(ask("/metrics", Some("another")).await.status().as_u16(), 503);
    assert!(reqwest::get(format!("http://{address}/metrics")).await.is_err());
    assert!(reqwest::get(format!("https://{address}/metrics")).await.is_err(), "nobody signed it");
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// Where the API server is not there, nobody is let in; and a certificate of one's own is one that clients can check.
#[tokio::test]
async fn a_certificate_of_ones_own_is_shown_and_read_again() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().unwrap();
    let renew = || {
        let made = rcgen::generate_simple_self_signed(vec!["metrics.example".to_owned()]).unwrap();
        std::fs::write(directory.path().join("tls.crt"), made.cert.pem()).unwrap();
        std::fs::write(directory.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
        made.cert.pem()
    };
    let listener = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let to = Reached::ByReaders { certificate: Some(directory.path().to_owned()) };
    let config = MetricsConfig { listener, to };
    let stop = CancellationToken::new();
    let none = serve(Arc::default(), nobody(), &config, stop.clone()).err().unwrap().to_string();
    assert!(none.contains("tls.crt"), "{none}");

    let first = renew();
    let serving = tokio::spawn(serve(Arc::default(), nobody(), &config, stop.clone()).unwrap());
    let trusting = |certificate: &str| {
        let root = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([root]).resolve("metrics.example", address);
        let url = format!("https://metrics.example:{}/metrics", address.port());
        client.build().unwrap().get(url).bearer_auth("good").send()
    };
    assert_eq!(trusting(&first).await.unwrap().status().as_u16(), 503);
    let second = renew();
    let begin = std::time::Instant::now();
    while trusting(&second).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it is not read again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(trusting(&first).await.is_err());
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// Connections that say nothing keep nobody out, and a stop does not wait for them.
#[tokio::test]
async fn who_says_nothing_keeps_nobody_waiting() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let config = MetricsConfig { listener, to: Reached::ByAnyone };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(Arc::default(), nobody(), &config, stop.clone()).unwrap());
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let answer = reqwest::get(format!("http://{address}/metrics")).await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), serving).await;
    ended.expect("it waits").unwrap().unwrap();
}

#[test]
fn what_waits_and_who_works_are_told() {
    let metrics = Metrics::default();
    let says = |metrics: &Metrics, line: &str| metrics.render().unwrap().lines().any(|own| own == line);
    assert!(says(&metrics, "dbctl_controller_leader 0"));
    metrics.work.begin(&Claim::always());
    assert!(says(&metrics, "dbctl_controller_leader 1"));
    metrics.work.heard(key());
    metrics.work.heard(key());
    metrics.work.heard(("shop".to_owned(), "other".to_owned()));
    assert!(says(&metrics, "dbctl_controller_queue_depth 2"));
    metrics.work.taken(&key());
    metrics.work.taken(&key());
    assert!(says(&metrics, "dbctl_controller_queue_depth 1"));
}

#[test]
fn passes_and_requests_are_counted() {
    let metrics = Metrics::default();
    for (outcome, millis) in [(Outcome::Done, 20), (Outcome::Done, 2000), (Outcome::Failed, 30)] {
        metrics.process.pass(outcome, Duration::from_millis(millis));
    }
    metrics.process.request(&http::Method::GET, Some(http::StatusCode::OK));
    metrics.process.request(&http::Method::PATCH, None);
    let page = metrics.render().unwrap();
    for line in [
        "dbctl_controller_reconciles_total{outcome=\"done\"} 2",
        "dbctl_controller_reconciles_total{outcome=\"conflict\"} 0",
        "dbctl_controller_reconciles_total{outcome=\"failed\"} 1",
        "dbctl_controller_reconcile_duration_seconds_count 3",
        "dbctl_controller_reconcile_duration_seconds_bucket{le=\"0.05\"} 2",
        "dbctl_controller_api_requests_total{method=\"GET\",code=\"200\"} 1",
        "dbctl_controller_api_requests_total{method=\"PATCH\",code=\"none\"} 1",
    ] {
        assert!(page.lines().any(|own| own == line), "{line} in {page}");
    }
}

/// A Database of which everything can be told.
fn all_of_it() -> (DatabaseStatus, DatabaseStatus, Sighting) {
    let at = "1970-01-01T00:16:40Z";
    let condition = |kind: &str, status: &str, reason: &str| json!({ "type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": at });
    let new = json!({
        "phase": "Upgrading", "version": "16.14", "readyReplicas": 2, "lastBackupTime": at,
        "outage": { "reason": "PrimaryDied", "startedAt": at },
        "upgrade": { "from": "16.14", "to": "16.15", "step": "Replicas" },
        "backups": [{ "id": "a", "verifiedAt": at }],
        "failovers": [{ "to": "orders-db-1", "reason": "PrimaryDied", "writableAt": at, "durationSeconds": 2.5 }],
        "conditions": [condition("Ready", "True", "R"), condition("Writable", "False", "NoLeader"), condition("UpToDate", "Unknown", "U")],
    });
    let member = || "orders-db-1".to_owned();
    let seen = Sighting {
        wanted: 3,
        rooms: [(member(), crate::plan::Room { size: 100, free: 40 })].into(),
        waiting: [(member(), Waiting { files: 3, seconds: 70 })].into(),
        certificates: vec![("server", jiff::Timestamp::from_second(95_000).unwrap())],
        backup_due: jiff::Timestamp::from_second(90_000).ok(),
        ..sighting("orders-db-0", &[("orders-db-1", 7)])
    };
    (DatabaseStatus::default(), serde_json::from_value(new).unwrap(), seen)
}

#[test]
fn everything_in_the_table_is_told_and_nothing_else() {
    let metrics = Metrics::default();
    let (old, new, seen) = all_of_it();
    metrics.databases.observe(&key(), Some(&old), &old, &Sighting::default());
    metrics.databases.passed(&key(), jiff::Timestamp::from_second(2000).unwrap());
    let failed = || BTreeSet::from(["uid".to_owned()]);
    let seen = Sighting { failed_backups: failed(), failed_verifications: failed(), ..seen };
    metrics.databases.observe(&key(), Some(&old), &new, &seen);
    metrics.process.request(&http::Method::GET, Some(http::StatusCode::OK));
    let page = metrics.render().unwrap();
    let told: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let table: BTreeSet<&str> = super::metrics().iter().map(|metric| metric.registered()).collect();
    assert_eq!(told, table);
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let metrics = super::metrics();
        let metric = metrics.iter().find(|metric| metric.series().iter().any(|own| own == name)).expect(name);
        let labels: Vec<&str> = rest
            .split("=\"")
            .filter_map(|part| part.rsplit(['{', ',']).next())
            .filter(|part| !part.contains(['"', ' ', '}']) && *part != "le")
            .collect();
        assert_eq!(labels, metric.labels, "{line}");
    }
    let own: Vec<&str> =
        page.lines().filter(|line| line.starts_with("database_") && !line.contains("bucket")).collect();
    metrics.databases.forget(&key());
    assert!(!metrics.render().unwrap().contains("orders-db"));
    insta::assert_snapshot!(own.join("\n"), @r#"
    database_info{namespace="shop",database="orders-db",phase="Upgrading",version="16.14",paused="false"} 1
    database_condition{namespace="shop",database="orders-db",condition="Ready",reason="R"} 1
    database_condition{namespace="shop",database="orders-db",condition="Writable",reason="NoLeader"} 0
    database_last_pass_timestamp_seconds{namespace="shop",database="orders-db"} 2000
    database_members_wanted{namespace="shop",database="orders-db"} 3
    database_members_ready{namespace="shop",database="orders-db"} 2
    database_primary_info{namespace="shop",database="orders-db",primary="orders-db-0"} 1
    database_outage{namespace="shop",database="orders-db",reason="PrimaryDied"} 1
    database_split_brain_suspected{namespace="shop",database="orders-db"} 0
    database_failover_total{namespace="shop",database="orders-db",reason="PrimaryDied"} 1
    database_replication_lag_bytes{namespace="shop",database="orders-db",member="orders-db-1"} 7
    database_volume_size_bytes{namespace="shop",database="orders-db",member="orders-db-1"} 100
    database_volume_free_bytes{namespace="shop",database="orders-db",member="orders-db-1"} 40
    database_wal_archive_waiting_seconds{namespace="shop",database="orders-db",member="orders-db-1"} 70
    database_wal_archive_waiting_files{namespace="shop",database="orders-db",member="orders-db-1"} 3
    database_certificate_expiry_timestamp_seconds{namespace="shop",database="orders-db",certificate="server"} 95000
    database_backup_last_success_timestamp_seconds{namespace="shop",database="orders-db"} 1000
    database_backup_due_timestamp_seconds{namespace="shop",database="orders-db"} 90000
    database_backup_total{namespace="shop",database="orders-db",outcome="succeeded"} 1
    database_backup_total{namespace="shop",database="orders-db",outcome="failed"} 1
    database_backup_verified_timestamp_seconds{namespace="shop",database="orders-db"} 1000
    database_backup_verify_failures_total{namespace="shop",database="orders-db"} 1
    database_backup_damaged{namespace="shop",database="orders-db"} 0
    database_upgrade_info{namespace="shop",database="orders-db",from="16.14",to="16.15",step="Replicas"} 1
    database_failover_duration_seconds_sum{namespace="shop",database="orders-db"} 2.5
    database_failover_duration_seconds_count{namespace="shop",database="orders-db"} 1
    "#);
}
