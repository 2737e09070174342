//! What Prometheus is told: who leads, who lags, what moved and for how long nobody could write, and whether what was
//! written is archived and backed up.
//!
//! Everything is told from what a pass saw. Of changes of primary and ends of backups, only those count that happen while
//! this process looks: what was there before is another one's count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::cache::Key;
use super::health::Health;
use crate::api::{DatabaseStatus, Failover, reason};
use crate::plan::{Observed, Room, Task, View, failed_jobs};

/// Seconds: a switchover takes about one, a proven death two or three, an unproven one the lock's whole life of twenty.
const BUCKETS: [f64; 12] = [0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 15.0, 22.0, 30.0, 60.0, 300.0];
/// The text format's own name for itself.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDatabase {
    namespace: String,
    database: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    namespace: String,
    database: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPrimary {
    namespace: String,
    database: String,
    primary: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMember {
    namespace: String,
    database: String,
    member: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    namespace: String,
    database: String,
    outcome: String,
}

impl OfDatabase {
    fn new(key: &Key) -> Self {
        Self { namespace: key.0.clone(), database: key.1.clone() }
    }

    fn reason(&self, reason: &str) -> OfReason {
        let Self { namespace, database } = self.clone();
        OfReason { namespace, database, reason: reason.to_owned() }
    }

    fn primary(&self, primary: &str) -> OfPrimary {
        let Self { namespace, database } = self.clone();
        OfPrimary { namespace, database, primary: primary.to_owned() }
    }

    fn member(&self, member: &str) -> OfMember {
        let Self { namespace, database } = self.clone();
        OfMember { namespace, database, member: member.to_owned() }
    }

    fn outcome(&self, outcome: &str) -> OfOutcome {
        let Self { namespace, database } = self.clone();
        OfOutcome { namespace, database, outcome: outcome.to_owned() }
    }
}

/// How backups end.
const OUTCOMES: [&str; 2] = ["succeeded", "failed"];

/// What of a member's WAL waits to be archived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many files.
    pub files: i64,
    /// For how many seconds the oldest has.
    pub seconds: i64,
}

/// What a pass saw of the members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// The member that holds the lock and runs as primary.
    pub primary: Option<String>,
    /// How many bytes of WAL each other member has still to replay, where that is known.
    pub lags: BTreeMap<String, i64>,
    /// Room on each member's volume, where that is known.
    pub rooms: BTreeMap<String, Room>,
    /// What of each member's WAL waits to be archived, where that is known.
    pub waiting: BTreeMap<String, Waiting>,
    /// The uids of Jobs whose backup failed.
    pub failed_backups: BTreeSet<String>,
    /// The same of verifications: they found damage, or nothing at all.
    pub failed_verifications: BTreeSet<String>,
}

impl Sighting {
    /// Reads it from what was observed.
    pub fn of(name: &str, observed: &Observed, now: jiff::Timestamp) -> Self {
        let view = &View::new(name, observed);
        let primary = view.running_primary();
        let end = primary
            .and_then(|primary| primary.answer)
            .and_then(|answer| answer.xlog.location)
            .max(view.lock.optime);
        let holder = view.lock.holder.as_deref();
        let replayed = |member: &crate::plan::Member<'_>| {
            let answered = member.answer.and_then(|answer| answer.xlog.replayed_location);
            answered.or_else(|| member.status.as_ref().and_then(|status| status.replay_lsn))
        };
        let lags = view.members.iter().filter(|member| Some(member.name) != holder).filter_map(|member| {
            Some((member.name.to_owned(), end?.saturating_sub(replayed(member)?).max(0)))
        });
        let waits = |report: &crate::agent::ArchiveReport| Waiting {
            files: i64::try_from(report.waiting).unwrap_or(i64::MAX),
            seconds: report.oldest_waiting.map_or(0, |oldest| now.duration_since(oldest).as_secs().max(0)),
        };
        let archives = observed.archives.iter().map(|(member, report)| (member.clone(), waits(report)));
        Self {
            primary: primary.map(|primary| primary.name.to_owned()),
            lags: lags.collect(),
            rooms: observed.rooms.clone(),
            waiting: archives.collect(),
            failed_backups: failed_jobs(Task::Backup, name, observed),
            failed_verifications: failed_jobs(Task::Verify, name, observed),
        }
    }
}

/// What tells one change of primary from another.
type Change = (String, Option<jiff::Timestamp>);

fn change(failover: &Failover) -> Change {
    (failover.to.clone(), failover.started_at.as_ref().map(|time| time.0))
}

/// What was told of a Database: what must be taken back when it changes or goes.
#[derive(Debug, Default)]
struct Told {
    counted: BTreeSet<Change>,
    reasons: BTreeSet<String>,
    primary: Option<String>,
    members: BTreeSet<String>,
    rooms: BTreeSet<String>,
    archiving: BTreeSet<String>,
    backups: BTreeSet<String>,
    failed_backups: BTreeSet<String>,
    failed_verifications: BTreeSet<String>,
}

/// Everything that is told.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    failovers: Family<OfReason, Counter>,
    durations: Family<OfDatabase, Histogram, fn() -> Histogram>,
    primaries: Family<OfPrimary, Gauge>,
    lags: Family<OfMember, Gauge>,
    split_brains: Family<OfDatabase, Gauge>,
    volume_sizes: Family<OfMember, Gauge>,
    volume_free: Family<OfMember, Gauge>,
    waiting_seconds: Family<OfMember, Gauge>,
    waiting_files: Family<OfMember, Gauge>,
    last_backups: Family<OfDatabase, Gauge>,
    backups: Family<OfOutcome, Counter>,
    verified: Family<OfDatabase, Gauge>,
    failed_verifications: Family<OfDatabase, Counter>,
    damaged: Family<OfDatabase, Gauge>,
    told: Mutex<HashMap<Key, Told>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            failovers: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            primaries: Family::default(),
            lags: Family::default(),
            split_brains: Family::default(),
            volume_sizes: Family::default(),
            volume_free: Family::default(),
            waiting_seconds: Family::default(),
            waiting_files: Family::default(),
            last_backups: Family::default(),
            backups: Family::default(),
            verified: Family::default(),
            failed_verifications: Family::default(),
            damaged: Family::default(),
            told: Mutex::default(),
        };
        let registry = &mut metrics.registry;
        // The format adds `_total` to a counter's name.
        registry.register("database_failover", "Changes of primary", metrics.failovers.clone());
        registry.register(
            "database_failover_duration_seconds",
            "How long nobody could write during a change of primary",
            metrics.durations.clone(),
        );
        registry.register("database_primary_info", "The running primary", metrics.primaries.clone());
        registry.register(
            "database_replication_lag_bytes",
            "WAL that a replica has still to replay",
            metrics.lags.clone(),
        );
        registry.register(
            "database_split_brain_suspected",
            "1 while more than one member says that it runs as primary",
            metrics.split_brains.clone(),
        );
        registry.register(
            "database_volume_size_bytes",
            "Size of the volume with a member's data",
            metrics.volume_sizes.clone(),
        );
        registry.register(
            "database_volume_free_bytes",
            "What PostgreSQL may still write of it",
            metrics.volume_free.clone(),
        );
        registry.register(
            "database_wal_archive_waiting_seconds",
            "For how long a member's oldest WAL file has waited to be archived",
            metrics.waiting_seconds.clone(),
        );
        registry.register(
            "database_wal_archive_waiting_files",
            "WAL files of a member that wait to be archived",
            metrics.waiting_files.clone(),
        );
        registry.register(
            "database_backup_last_success_timestamp_seconds",
            "When the newest good backup ended",
            metrics.last_backups.clone(),
        );
        registry.register("database_backup", "Backups that ended", metrics.backups.clone());
        registry.register(
            "database_backup_verified_timestamp_seconds",
            "When a backup was last restored and found to be good",
            metrics.verified.clone(),
        );
        registry.register(
            "database_backup_verify_failures",
            "Verifications of backups that found damage, or came to no result",
            metrics.failed_verifications.clone(),
        );
        registry.register(
            "database_backup_damaged",
            "1 while the newest backup that was verified is damaged",
            metrics.damaged.clone(),
        );
        metrics
    }
}

impl Metrics {
    fn told(&self) -> MutexGuard<'_, HashMap<Key, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what a pass saw; `old` is the status before it, `new` the one after.
    pub fn observe(
        &self,
        key: &Key,
        old: Option<&DatabaseStatus>,
        new: &DatabaseStatus,
        sighting: &Sighting,
    ) {
        let mut all = self.told();
        let told = all.entry(key.clone()).or_insert_with(|| {
            let before = old.map(|status| status.failovers.iter().map(change).collect());
            let backups = old.map(|status| status.backups.iter().map(|backup| backup.id.clone()).collect());
            Told {
                counted: before.unwrap_or_default(),
                backups: backups.unwrap_or_default(),
                failed_backups: sighting.failed_backups.clone(),
                failed_verifications: sighting.failed_verifications.clone(),
                ..Told::default()
            }
        });
        let of = OfDatabase::new(key);
        for failover in new.failovers.iter().filter(|failover| failover.writable_at.is_some()) {
            if told.counted.insert(change(failover)) {
                told.reasons.insert(failover.reason.clone());
                self.failover(&of, failover);
            }
        }
        if told.primary != sighting.primary {
            if let Some(gone) = &told.primary {
                self.primaries.remove(&of.primary(gone));
            }
            told.primary.clone_from(&sighting.primary);
        }
        if let Some(primary) = &sighting.primary {
            self.primaries.get_or_create(&of.primary(primary)).set(1);
        }
        for gone in told.members.iter().filter(|member| !sighting.lags.contains_key(*member)) {
            self.lags.remove(&of.member(gone));
        }
        told.members = sighting.lags.keys().cloned().collect();
        for (member, lag) in &sighting.lags {
            self.lags.get_or_create(&of.member(member)).set(*lag);
        }
        let split = new.conditions.iter().any(|condition| condition.reason == reason::SPLIT_BRAIN);
        self.split_brains.get_or_create(&of).set(i64::from(split));
        self.rooms(&of, told, sighting);
        self.archiving(&of, told, sighting);
        self.backups(&of, told, new, sighting);
        self.verifications(&of, told, new, sighting);
    }

    fn rooms(&self, of: &OfDatabase, told: &mut Told, sighting: &Sighting) {
        for gone in told.rooms.iter().filter(|member| !sighting.rooms.contains_key(*member)) {
            self.volume_sizes.remove(&of.member(gone));
            self.volume_free.remove(&of.member(gone));
        }
        told.rooms = sighting.rooms.keys().cloned().collect();
        let bytes = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        for (member, room) in &sighting.rooms {
            self.volume_sizes.get_or_create(&of.member(member)).set(bytes(room.size));
            self.volume_free.get_or_create(&of.member(member)).set(bytes(room.free));
        }
    }

    fn archiving(&self, of: &OfDatabase, told: &mut Told, sighting: &Sighting) {
        for gone in told.archiving.iter().filter(|member| !sighting.waiting.contains_key(*member)) {
            self.waiting_seconds.remove(&of.member(gone));
            self.waiting_files.remove(&of.member(gone));
        }
        told.archiving = sighting.waiting.keys().cloned().collect();
        for (member, waiting) in &sighting.waiting {
            self.waiting_seconds.get_or_create(&of.member(member)).set(waiting.seconds);
            self.waiting_files.get_or_create(&of.member(member)).set(waiting.files);
        }
    }

    fn backups(&self, of: &OfDatabase, told: &mut Told, new: &DatabaseStatus, sighting: &Sighting) {
        if let Some(last) = &new.last_backup_time {
            self.last_backups.get_or_create(of).set(last.0.as_second());
        } else {
            self.last_backups.remove(of);
        }
        let count = |outcome: &str, ended: usize| {
            let ended = u64::try_from(ended).unwrap_or(u64::MAX);
            if ended > 0 {
                self.backups.get_or_create(&of.outcome(outcome)).inc_by(ended);
            }
        };
        let listed: BTreeSet<String> = new.backups.iter().map(|backup| backup.id.clone()).collect();
        count(OUTCOMES[0], listed.difference(&told.backups).count());
        count(OUTCOMES[1], sighting.failed_backups.difference(&told.failed_backups).count());
        told.backups = listed;
        told.failed_backups.clone_from(&sighting.failed_backups);
    }

    fn verifications(&self, of: &OfDatabase, told: &mut Told, new: &DatabaseStatus, sighting: &Sighting) {
        let good = new.backups.iter().filter(|backup| backup.verify_problem.is_none());
        let at = good.filter_map(|backup| backup.verified_at.as_ref()).map(|at| at.0.as_second()).max();
        if let Some(at) = at {
            self.verified.get_or_create(of).set(at);
        } else {
            self.verified.remove(of);
        }
        if let Some(newest) = new.backups.iter().find(|backup| backup.verified_at.is_some()) {
            self.damaged.get_or_create(of).set(i64::from(newest.verify_problem.is_some()));
        } else {
            self.damaged.remove(of);
        }
        let failed = sighting.failed_verifications.difference(&told.failed_verifications).count();
        if failed > 0 {
            let failed = u64::try_from(failed).unwrap_or(u64::MAX);
            self.failed_verifications.get_or_create(of).inc_by(failed);
        }
        told.failed_verifications.clone_from(&sighting.failed_verifications);
    }

    fn failover(&self, of: &OfDatabase, failover: &Failover) {
        self.failovers.get_or_create(&of.reason(&failover.reason)).inc();
        if let Some(seconds) = failover.duration_seconds {
            self.durations.get_or_create(of).observe(seconds);
        }
    }

    /// Takes back everything that was told of a Database that is gone.
    pub fn forget(&self, key: &Key) {
        let Some(told) = self.told().remove(key) else { return };
        let of = OfDatabase::new(key);
        for reason in &told.reasons {
            self.failovers.remove(&of.reason(reason));
        }
        for member in &told.members {
            self.lags.remove(&of.member(member));
        }
        if let Some(primary) = &told.primary {
            self.primaries.remove(&of.primary(primary));
        }
        self.durations.remove(&of);
        self.split_brains.remove(&of);
        for member in &told.rooms {
            self.volume_sizes.remove(&of.member(member));
            self.volume_free.remove(&of.member(member));
        }
        for member in &told.archiving {
            self.waiting_seconds.remove(&of.member(member));
            self.waiting_files.remove(&of.member(member));
        }
        self.last_backups.remove(&of);
        self.verified.remove(&of);
        self.failed_verifications.remove(&of);
        self.damaged.remove(&of);
        for outcome in OUTCOMES {
            self.backups.remove(&of.outcome(outcome));
        }
    }

    /// Everything, in Prometheus' text format.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// Listens, and answers `GET /metrics` until `stop`.
///
/// # Errors
/// Where it cannot listen there.
pub async fn serve(
    metrics: Arc<Metrics>,
    address: SocketAddr,
    health: Health,
    stop: CancellationToken,
) -> std::io::Result<impl Future<Output = std::io::Result<()>>> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tracing::info!("metrics at http://{bound}/metrics");
    let router =
        Router::new().route("/metrics", get(move || async move { page(&metrics) })).merge(health.routes());
    Ok(axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).into_future())
}

fn page(metrics: &Metrics) -> Response {
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Kind;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

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

    /// The lines with values, in an order of their own.
    fn lines(metrics: &Metrics) -> String {
        let page = metrics.render().unwrap();
        let mut lines: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    #[test]
    fn the_page_is_prometheus_text() {
        let metrics = Metrics::default();
        let before = status(vec![moved(100, "orders-db-1", "Switchover", 0.8)]);
        metrics.observe(&key(), Some(&before), &before, &sighting("orders-db-1", &[("orders-db-0", 5)]));
        let after = status(vec![moved(200, "orders-db-0", "PrimaryLost", 2.4), before.failovers[0].clone()]);
        metrics.observe(&key(), Some(&before), &after, &sighting("orders-db-0", &[("orders-db-1", 0)]));
        insta::assert_snapshot!(metrics.render().unwrap(), @r#"
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
        # HELP database_primary_info The running primary.
        # TYPE database_primary_info gauge
        database_primary_info{namespace="shop",database="orders-db",primary="orders-db-0"} 1
        # HELP database_replication_lag_bytes WAL that a replica has still to replay.
        # TYPE database_replication_lag_bytes gauge
        database_replication_lag_bytes{namespace="shop",database="orders-db",member="orders-db-1"} 0
        # HELP database_split_brain_suspected 1 while more than one member says that it runs as primary.
        # TYPE database_split_brain_suspected gauge
        database_split_brain_suspected{namespace="shop",database="orders-db"} 0
        # EOF
        "#);
    }

    #[test]
    fn a_change_counts_once_and_only_when_writes_are_back() {
        let metrics = Metrics::default();
        let count = |metrics: &Metrics| {
            lines(metrics)
                .lines()
                .filter(|line| line.starts_with("database_failover_total"))
                .collect::<String>()
        };
        let sight = sighting("orders-db-1", &[]);
        let one = moved(100, "orders-db-1", "PrimaryLost", 2.0);
        let open = Failover { writable_at: None, duration_seconds: None, ..one.clone() };
        metrics.observe(&key(), None, &status(vec![open]), &sight);
        assert_eq!(count(&metrics), "");
        for _ in 0..3 {
            metrics.observe(&key(), None, &status(vec![one.clone()]), &sight);
        }
        let once = r#"database_failover_total{namespace="shop",database="orders-db",reason="PrimaryLost"} 1"#;
        assert_eq!(count(&metrics), once);
        // Another process has counted it already.
        let next = Metrics::default();
        let known = status(vec![one]);
        next.observe(&key(), Some(&known), &known, &sight);
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
        metrics.observe(&key(), None, &split, &sighting("orders-db-0", &two));
        insta::assert_snapshot!(lines(&metrics), @r#"
        database_primary_info{namespace="shop",database="orders-db",primary="orders-db-0"} 1
        database_replication_lag_bytes{namespace="shop",database="orders-db",member="orders-db-1"} 7
        database_replication_lag_bytes{namespace="shop",database="orders-db",member="orders-db-2"} 0
        database_split_brain_suspected{namespace="shop",database="orders-db"} 1
        "#);
        metrics.observe(&key(), None, &none, &sighting("orders-db-1", &[("orders-db-0", 0)]));
        insta::assert_snapshot!(lines(&metrics), @r#"
        database_primary_info{namespace="shop",database="orders-db",primary="orders-db-1"} 1
        database_replication_lag_bytes{namespace="shop",database="orders-db",member="orders-db-0"} 0
        database_split_brain_suspected{namespace="shop",database="orders-db"} 0
        "#);
        metrics.observe(&key(), None, &none, &Sighting::default());
        insta::assert_snapshot!(lines(&metrics), @r#"database_split_brain_suspected{namespace="shop",database="orders-db"} 0"#);
        metrics.forget(&key());
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
        for (name, status) in
            [("db-0", json!({})), ("db-1", json!({ "replay_lsn": 400 })), ("db-2", json!({}))]
        {
            let annotations = json!({ "status": status.to_string() });
            let metadata = json!({ "name": name, "labels": labels, "annotations": annotations });
            observed.insert(Kind::Pod, json!({ "metadata": metadata }));
        }
        let answer = |value| serde_json::from_value(value).unwrap();
        let primary = json!({ "role": "primary", "state": "running", "xlog": { "location": 1000 } });
        observed.answers.insert("db-0".into(), answer(primary));
        let now = jiff::Timestamp::from_second(1_000).unwrap();
        let seen = |observed: &Observed| Sighting::of("db", observed, now);
        // db-2 has said nothing, so nothing is said of it.
        assert_eq!(seen(&observed), sighting("db-0", &[("db-1", 600)]));
        let oldest_waiting = jiff::Timestamp::from_second(930).ok();
        let report = crate::agent::ArchiveReport { waiting: 3, oldest_waiting, last_error: None };
        observed.archives.insert("db-0".into(), report);
        assert_eq!(seen(&observed).waiting["db-0"], Waiting { files: 3, seconds: 70 });
    }

    #[test]
    fn verifications_are_told() {
        let metrics = Metrics::default();
        let status = |problem: Option<&str>| {
            let good = json!({ "id": "a", "verifiedAt": "1970-01-01T00:16:40Z" });
            let newest = json!({ "id": "b", "verifiedAt": "1970-01-01T00:33:20Z", "verifyProblem": problem });
            serde_json::from_value::<DatabaseStatus>(json!({ "backups": [{ "id": "c" }, newest, good] }))
                .unwrap()
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
        metrics.observe(&key(), None, &status(None), &seen(&["old"]));
        insta::assert_snapshot!(own(&metrics), @r#"
        database_backup_damaged{namespace="shop",database="orders-db"} 0
        database_backup_verified_timestamp_seconds{namespace="shop",database="orders-db"} 2000
        "#);
        metrics.observe(&key(), None, &status(Some("no")), &seen(&["old", "new"]));
        metrics.observe(&key(), None, &status(Some("no")), &seen(&["old", "new"]));
        insta::assert_snapshot!(own(&metrics), @r#"
        database_backup_damaged{namespace="shop",database="orders-db"} 1
        database_backup_verified_timestamp_seconds{namespace="shop",database="orders-db"} 1000
        database_backup_verify_failures_total{namespace="shop",database="orders-db"} 1
        "#);
        metrics.forget(&key());
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
        metrics.observe(&key(), Some(&status(&["a"])), &status(&["a"]), &seen(&["x"], None));
        for _ in 0..2 {
            let waiting = Some(Waiting { files: 3, seconds: 70 });
            metrics.observe(&key(), None, &status(&["b", "a"]), &seen(&["x", "y"], waiting));
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
        metrics.observe(&key(), None, &status(&["b"]), &seen(&[], None));
        insta::assert_snapshot!(lines(&metrics), @r#"
        database_backup_last_success_timestamp_seconds{namespace="shop",database="orders-db"} 1000
        database_backup_total{namespace="shop",database="orders-db",outcome="failed"} 1
        database_backup_total{namespace="shop",database="orders-db",outcome="succeeded"} 1
        database_split_brain_suspected{namespace="shop",database="orders-db"} 0
        "#);
        metrics.observe(&key(), None, &status(&[]), &seen(&[], None));
        assert!(!lines(&metrics).contains("last_success"));
        metrics.forget(&key());
        assert_eq!(lines(&metrics), "");
    }

    #[tokio::test]
    async fn it_is_served() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let metrics = Arc::new(Metrics::default());
        metrics.observe(&key(), None, &DatabaseStatus::default(), &sighting("orders-db-0", &[]));
        // A port that was free a moment ago.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let stop = CancellationToken::new();
        let health = Health::new(Vec::new(), None);
        let serving = tokio::spawn(serve(metrics, address, health, stop.clone()).await.unwrap());
        let answer = reqwest::get(format!("http://{address}/metrics")).await.unwrap();
        assert_eq!(answer.headers()["content-type"], CONTENT_TYPE);
        assert!(answer.text().await.unwrap().contains("database_primary_info"));
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
