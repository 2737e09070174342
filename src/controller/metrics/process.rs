//! What is told of the controller itself: its passes, what waits for one, and what it asks of the Kubernetes API.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::table::{API_REQUESTS, BUILD, LEADER, QUEUE, RECONCILE_SECONDS, RECONCILES};
use crate::controller::cache::Key;
use crate::controller::lease::Claim;
use crate::metrics::number;

/// Seconds: a pass over a well database takes milliseconds, one that waits for a silent member two seconds.
const BUCKETS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0];

/// How a pass ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All that was to be done is.
    Done,
    /// Something was newer than what it was based on.
    Conflict,
    /// Something could not be read or done.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAnswer {
    method: String,
    code: String,
}

/// Counts of this process.
#[derive(Debug)]
pub struct Process {
    passes: Family<OfOutcome, Counter>,
    durations: Histogram,
    requests: Family<OfAnswer, Counter>,
}

impl Process {
    /// All at nothing, and part of the registry.
    pub fn new(registry: &mut Registry) -> Self {
        let own = Self {
            passes: Family::default(),
            durations: Histogram::new(BUCKETS),
            requests: Family::default(),
        };
        // That nothing has failed yet is worth knowing too.
        for outcome in [Outcome::Done, Outcome::Conflict, Outcome::Failed] {
            drop(own.passes.get_or_create(&of(outcome)));
        }
        registry.register(RECONCILES.registered(), RECONCILES.help, own.passes.clone());
        registry.register(RECONCILE_SECONDS.registered(), RECONCILE_SECONDS.help, own.durations.clone());
        registry.register(API_REQUESTS.registered(), API_REQUESTS.help, own.requests.clone());
        own
    }

    /// A pass has ended.
    pub fn pass(&self, outcome: Outcome, took: Duration) {
        self.passes.get_or_create(&of(outcome)).inc();
        self.durations.observe(took.as_secs_f64());
    }

    /// A request to the Kubernetes API was answered, or was not.
    pub fn request(&self, method: &http::Method, code: Option<http::StatusCode>) {
        let code = code.map_or_else(|| "none".to_owned(), |code| code.as_u16().to_string());
        self.requests.get_or_create(&OfAnswer { method: method.to_string(), code }).inc();
    }
}

fn of(outcome: Outcome) -> OfOutcome {
    let outcome = match outcome {
        Outcome::Done => "done",
        Outcome::Conflict => "conflict",
        Outcome::Failed => "failed",
    };
    OfOutcome { outcome }
}

/// Whether this process works, and for what.
#[derive(Debug, Default)]
pub struct Work {
    waiting: Mutex<HashSet<Key>>,
    claim: OnceLock<Claim>,
}

impl Work {
    /// It begins, and may act by that claim.
    pub fn begin(&self, claim: &Claim) {
        let _ = self.claim.set(claim.clone());
    }

    /// Something was heard of a Database.
    pub fn heard(&self, key: Key) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// A pass over it begins, or there is nothing to pass over.
    pub fn taken(&self, key: &Key) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn depth(&self) -> u64 {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len();
        u64::try_from(waiting).unwrap_or(u64::MAX)
    }
}

impl Collector for Work {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let leads = self.claim.get().is_some_and(Claim::holds);
        let samples = [
            BUILD.sample(&[env!("CARGO_PKG_VERSION")], 1.0),
            LEADER.sample(&[], f64::from(u8::from(leads))),
            QUEUE.sample(&[], number(self.depth())),
        ];
        samples.iter().try_for_each(|sample| sample.of.encode(&mut encoder, [sample]))
    }
}
