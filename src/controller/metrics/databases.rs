//! What is told of Databases: of each, what the last pass saw, and what has been counted since this process looks.
//!
//! Of changes of primary and ends of backups, only those count that happen while this process looks: what was there before
//! is another one's count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;

use super::sighting::Sighting;
use super::table::{
    BACKUP_DUE, BACKUPS, CERTIFICATE_EXPIRY, CONDITION, DAMAGED, FAILOVER_SECONDS, FAILOVERS, INFO, LAG,
    LAST_BACKUP, LAST_PASS, OF_DATABASES, OUTAGE, PRIMARY, READY, SPLIT_BRAIN, UPGRADE, VERIFIED,
    VERIFY_FAILURES, VOLUME_FREE, VOLUME_SIZE, WAITING_FILES, WAITING_SECONDS, WANTED,
};
use crate::api::{DatabaseStatus, Failover, reason};
use crate::controller::cache::Key;
use crate::metrics::{Kind, Metric, Sample, number};

/// Seconds: a switchover takes about one, a proven death two or three, an unproven one the lock's whole life of twenty.
const BUCKETS: [f64; 12] = [0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 15.0, 22.0, 30.0, 60.0, 300.0];

/// What tells one change of primary from another.
type Change = (String, Option<jiff::Timestamp>);

fn change(failover: &Failover) -> Change {
    (failover.to.clone(), failover.started_at.as_ref().map(|time| time.0))
}

/// A sample as it is kept: of a thousand Databases there are twenty thousand, each of which names its own.
#[derive(Debug)]
struct Kept {
    of: &'static Metric,
    /// What labels say beside namespace and name, one after the other.
    labels: Box<str>,
    value: f64,
}

/// No label's value has it.
const BETWEEN: &str = "\0";

impl Kept {
    fn of(sample: &Sample) -> Self {
        let labels: Vec<&str> =
            sample.labels.iter().skip(OWN_LABELS).map(|(_, value)| value.as_str()).collect();
        Self { of: sample.of, labels: labels.join(BETWEEN).into(), value: sample.value }
    }

    fn sample(&self, key: &Key) -> Sample {
        // There are as many as the metric has, however empty.
        let labels: Vec<&str> = self.labels.split(BETWEEN).collect();
        Of(key).labelled(self.of, &labels, self.value)
    }
}

/// What is told of a Database.
#[derive(Debug)]
struct Told {
    /// What the last pass saw.
    seen: Box<[Kept]>,
    last_pass: Option<Kept>,
    counted: BTreeSet<Change>,
    failovers: BTreeMap<String, u64>,
    durations: Option<Histogram>,
    backups: BTreeSet<String>,
    failed_backups: BTreeSet<String>,
    /// Backups that ended: well, and not.
    ended: [u64; 2],
    failed_verifications: BTreeSet<String>,
    unverified: u64,
}

impl Told {
    fn begin(old: Option<&DatabaseStatus>, sighting: &Sighting) -> Self {
        let before = old.map(|status| status.failovers.iter().map(change).collect());
        let backups = old.map(|status| status.backups.iter().map(|backup| backup.id.clone()).collect());
        Self {
            seen: Box::default(),
            last_pass: None,
            counted: before.unwrap_or_default(),
            failovers: BTreeMap::new(),
            durations: None,
            backups: backups.unwrap_or_default(),
            failed_backups: sighting.failed_backups.clone(),
            ended: [0; 2],
            failed_verifications: sighting.failed_verifications.clone(),
            unverified: 0,
        }
    }

    fn count(&mut self, new: &DatabaseStatus, sighting: &Sighting) {
        for failover in new.failovers.iter().filter(|failover| failover.writable_at.is_some()) {
            if self.counted.insert(change(failover)) {
                *self.failovers.entry(failover.reason.clone()).or_default() += 1;
                if let Some(seconds) = failover.duration_seconds {
                    self.durations.get_or_insert_with(|| Histogram::new(BUCKETS)).observe(seconds);
                }
            }
        }
        let more = |now: &BTreeSet<String>, before: &BTreeSet<String>| {
            u64::try_from(now.difference(before).count()).unwrap_or(u64::MAX)
        };
        let listed: BTreeSet<String> = new.backups.iter().map(|backup| backup.id.clone()).collect();
        self.ended[0] += more(&listed, &self.backups);
        self.ended[1] += more(&sighting.failed_backups, &self.failed_backups);
        self.unverified += more(&sighting.failed_verifications, &self.failed_verifications);
        self.backups = listed;
        self.failed_backups.clone_from(&sighting.failed_backups);
        self.failed_verifications.clone_from(&sighting.failed_verifications);
    }

    /// All that is not counted.
    fn all(&self) -> impl Iterator<Item = &Kept> {
        self.seen.iter().chain(&self.last_pass)
    }

    /// What has been counted, as far as anything was.
    fn counts(&self, key: &Key) -> Vec<Sample> {
        let of = Of(key);
        let mut all: Vec<Sample> = self
            .failovers
            .iter()
            .map(|(reason, count)| of.labelled(&FAILOVERS, &[reason], number(*count)))
            .collect();
        let outcomes = ["succeeded", "failed"].into_iter().zip(self.ended).filter(|(_, count)| *count > 0);
        all.extend(outcomes.map(|(outcome, count)| of.labelled(&BACKUPS, &[outcome], number(count))));
        all.extend((self.unverified > 0).then(|| of.value(&VERIFY_FAILURES, number(self.unverified))));
        all
    }
}

/// Namespace and name come first in each metric of Databases.
const OWN_LABELS: usize = 2;

/// Samples of one Database.
struct Of<'a>(&'a Key);

impl Of<'_> {
    fn labelled(&self, metric: &'static Metric, labels: &[&str], value: f64) -> Sample {
        let own = [self.0.0.as_str(), self.0.1.as_str()];
        metric.sample(&own.iter().chain(labels).copied().collect::<Vec<_>>(), value)
    }

    fn value(&self, metric: &'static Metric, value: f64) -> Sample {
        self.labelled(metric, &[], value)
    }

    fn flag(&self, metric: &'static Metric, is: bool) -> Sample {
        self.value(metric, f64::from(u8::from(is)))
    }

    fn time(&self, metric: &'static Metric, at: jiff::Timestamp) -> Sample {
        // Seconds of our time are far from what is not exact.
        self.value(metric, at.as_second() as f64)
    }

    /// Everything that a pass saw.
    fn seen(&self, new: &DatabaseStatus, sighting: &Sighting) -> Vec<Sample> {
        let mut all = self.standing(new, sighting);
        for (member, lag) in &sighting.lags {
            all.push(self.labelled(&LAG, &[member], number(lag.unsigned_abs())));
        }
        for (member, room) in &sighting.rooms {
            all.push(self.labelled(&VOLUME_SIZE, &[member], number(room.size)));
            all.push(self.labelled(&VOLUME_FREE, &[member], number(room.free)));
        }
        for (member, waiting) in &sighting.waiting {
            all.push(self.labelled(&WAITING_SECONDS, &[member], number(waiting.seconds.unsigned_abs())));
            all.push(self.labelled(&WAITING_FILES, &[member], number(waiting.files)));
        }
        for (certificate, end) in &sighting.certificates {
            all.push(self.labelled(&CERTIFICATE_EXPIRY, &[certificate], end.as_second() as f64));
        }
        all.extend(self.backups(new, sighting));
        all
    }

    fn standing(&self, new: &DatabaseStatus, sighting: &Sighting) -> Vec<Sample> {
        let phase = new.phase.map(|phase| phase.to_string()).unwrap_or_default();
        let version = new.version.clone().unwrap_or_default();
        let paused = if sighting.paused { "true" } else { "false" };
        let split = new.conditions.iter().any(|condition| condition.reason == reason::SPLIT_BRAIN);
        let mut all = vec![
            self.labelled(&INFO, &[&phase, &version, paused], 1.0),
            self.value(&WANTED, f64::from(sighting.wanted)),
            self.value(&READY, f64::from(new.ready_replicas)),
            self.flag(&SPLIT_BRAIN, split),
        ];
        for condition in &new.conditions {
            let is = match condition.status.as_str() {
                "True" => 1.0,
                "False" => 0.0,
                _ => continue,
            };
            all.push(self.labelled(&CONDITION, &[&condition.type_, &condition.reason], is));
        }
        all.extend(sighting.primary.iter().map(|primary| self.labelled(&PRIMARY, &[primary], 1.0)));
        all.extend(new.outage.iter().map(|outage| self.labelled(&OUTAGE, &[&outage.reason], 1.0)));
        let upgrade = new.upgrade.iter();
        all.extend(upgrade.map(|at| self.labelled(&UPGRADE, &[&at.from, &at.to, &at.step], 1.0)));
        all
    }

    fn backups(&self, new: &DatabaseStatus, sighting: &Sighting) -> Vec<Sample> {
        let last = new.last_backup_time.as_ref().map(|last| self.time(&LAST_BACKUP, last.0));
        let due = sighting.backup_due.map(|due| self.time(&BACKUP_DUE, due));
        let good = new.backups.iter().filter(|backup| backup.verify_problem.is_none());
        let at = good.filter_map(|backup| backup.verified_at.as_ref()).map(|at| at.0).max();
        let newest = new.backups.iter().find(|backup| backup.verified_at.is_some());
        let damaged = newest.map(|newest| self.flag(&DAMAGED, newest.verify_problem.is_some()));
        [last, due, at.map(|at| self.time(&VERIFIED, at)), damaged].into_iter().flatten().collect()
    }
}

/// What is told of each Database.
#[derive(Debug, Default)]
pub struct Databases(Mutex<BTreeMap<Key, Told>>);

impl Databases {
    fn told(&self) -> MutexGuard<'_, BTreeMap<Key, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let told = all.entry(key.clone()).or_insert_with(|| Told::begin(old, sighting));
        told.count(new, sighting);
        told.seen = Of(key).seen(new, sighting).iter().map(Kept::of).collect();
    }

    /// Tells that a pass came to its end.
    pub fn passed(&self, key: &Key, now: jiff::Timestamp) {
        if let Some(told) = self.told().get_mut(key) {
            told.last_pass = Some(Kept::of(&Of(key).time(&LAST_PASS, now)));
        }
    }

    /// Takes back everything that was told of a Database that is gone.
    pub fn forget(&self, key: &Key) {
        self.told().remove(key);
    }
}

impl Collector for Databases {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.told();
        let counts: Vec<Sample> = all.iter().flat_map(|(key, told)| told.counts(key)).collect();
        let kept = || all.iter().flat_map(|(key, told)| told.all().map(move |kept| (key, kept)));
        for metric in OF_DATABASES {
            if metric.kind != Kind::Histogram {
                let own = kept().filter(|(_, kept)| kept.of.name == metric.name);
                let own: Vec<Sample> = own.map(|(key, kept)| kept.sample(key)).collect();
                metric.encode(&mut encoder, own.iter().chain(&counts))?;
            }
        }
        let durations = all.iter().filter_map(|(key, told)| Some((key, told.durations.as_ref()?)));
        let durations: Vec<(&Key, &Histogram)> = durations.collect();
        if durations.is_empty() {
            return Ok(());
        }
        let help = format!("{}.", FAILOVER_SECONDS.help);
        let mut family =
            encoder.encode_descriptor(FAILOVER_SECONDS.name, &help, None, MetricType::Histogram)?;
        for (key, histogram) in durations {
            let labels = [("namespace", key.0.as_str()), ("database", key.1.as_str())];
            histogram.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
