//! Keys that wait for a reconcile: each at most once at a time, failures with growing pauses.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::ReconcileError;

/// First pause after a failure; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause: a server that comes back is noticed within it.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How long passes that run at the end may still take.
const GRACE: Duration = Duration::from_secs(2);

/// How a pass ended: done, or to be repeated after a while.
pub(super) type Outcome = Result<Option<Duration>, ReconcileError>;

/// The sending side of a controller's queue.
#[derive(Debug)]
pub(super) struct Queue<K>(mpsc::UnboundedSender<(K, Duration)>);

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The receiving side.
pub(super) type Requests<K> = mpsc::UnboundedReceiver<(K, Duration)>;

impl<K> Queue<K> {
    /// A queue and what reads it.
    pub(super) fn new() -> (Self, Requests<K>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Asks for a pass over that key, now.
    pub(super) fn add(&self, key: K) {
        self.add_after(key, Duration::ZERO);
    }

    /// Asks for a pass over that key after a while; an earlier request stays earlier.
    pub(super) fn add_after(&self, key: K, pause: Duration) {
        // The reader only goes away at the end of everything.
        let _ = self.0.send((key, pause));
    }
}

/// Which key runs when. Pure: time is an argument.
#[derive(Debug)]
struct Schedule<K> {
    due: BTreeMap<K, Instant>,
    running: BTreeSet<K>,
    failures: BTreeMap<K, u32>,
}

impl<K: Ord + Clone> Schedule<K> {
    fn new() -> Self {
        Self { due: BTreeMap::new(), running: BTreeSet::new(), failures: BTreeMap::new() }
    }

    fn add(&mut self, key: K, at: Instant) {
        let due = self.due.entry(key).or_insert(at);
        *due = at.min(*due);
    }

    /// Takes a key that is due and not running already.
    fn take(&mut self, now: Instant) -> Option<K> {
        let key = self.due.iter().find(|(key, at)| **at <= now && !self.running.contains(*key))?.0.clone();
        self.due.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// When the next key is due that is not running.
    fn wake(&self) -> Option<Instant> {
        self.due.iter().filter(|(key, _)| !self.running.contains(*key)).map(|(_, at)| *at).min()
    }

    fn finished(&mut self, key: K, outcome: &Outcome, now: Instant) {
        self.running.remove(&key);
        match outcome {
            Ok(again) => {
                self.failures.remove(&key);
                if let Some(pause) = again {
                    self.add(key, now + *pause);
                }
            }
            Err(_) => {
                let failures = self.failures.entry(key.clone()).or_insert(0);
                let pause = MIN_PAUSE.saturating_mul(1 << (*failures).min(20)).min(MAX_PAUSE);
                *failures += 1;
                self.add(key, now + pause);
            }
        }
    }
}

/// Runs `reconcile` for every key that is asked for, at most `limit` at once and never two for one key,
/// until `stop`.
pub(super) async fn work<K, F, Fut>(
    name: &'static str,
    mut requests: Requests<K>,
    limit: usize,
    stop: CancellationToken,
    reconcile: F,
) where
    K: Ord + Clone + std::fmt::Debug,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Outcome>,
{
    let mut schedule: Schedule<K> = Schedule::new();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < limit
            && let Some(key) = schedule.take(Instant::now())
        {
            let pass = reconcile(key.clone());
            running.push(async move { (key, pass.await) });
        }
        let wake = if running.len() < limit { schedule.wake() } else { None };
        tokio::select! {
            () = stop.cancelled() => break,
            request = requests.recv() => match request {
                Some((key, pause)) => schedule.add(key, Instant::now() + pause),
                None => break,
            },
            Some((key, outcome)) = running.next() => {
                report(name, &key, &outcome);
                schedule.finished(key, &outcome, Instant::now());
            }
            () = sleep_until(wake) => {}
        }
    }
    // Passes that run are given a moment to end; one cut short is made good by the next start.
    let rest = async { while running.next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, rest).await;
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn report<K: std::fmt::Debug>(name: &str, key: &K, outcome: &Outcome) {
    match outcome {
        Ok(_) => tracing::trace!(controller = name, ?key, "done"),
        Err(error) if error.is_conflict() => tracing::debug!(controller = name, ?key, "look again: {error}"),
        Err(error) => tracing::warn!(controller = name, ?key, "failed to {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Outcome {
        Err(ReconcileError::Malformed { what: "x".into(), reason: "y".into() })
    }

    #[test]
    fn a_key_never_runs_twice_at_once_and_a_request_meanwhile_is_kept() {
        let now = Instant::now();
        let mut schedule = Schedule::new();
        schedule.add("a", now);
        schedule.add("a", now);
        assert_eq!(schedule.take(now), Some("a"));
        schedule.add("a", now);
        assert_eq!(schedule.take(now), None);
        assert_eq!(schedule.wake(), None);
        schedule.finished("a", &Ok(None), now);
        assert_eq!(schedule.take(now), Some("a"));
        schedule.finished("a", &Ok(None), now);
        assert_eq!(schedule.take(now), None);
    }

    #[test]
    fn failures_pause_longer_each_time_and_a_success_forgets_them() {
        let now = Instant::now();
        let mut schedule = Schedule::new();
        let mut pauses = Vec::new();
        schedule.add("a", now);
        let mut at = now;
        for _ in 0..14 {
            assert_eq!(schedule.take(at), Some("a"));
            schedule.finished("a", &failure(), at);
            let wake = schedule.wake().unwrap();
            pauses.push(wake - at);
            at = wake;
        }
        assert_eq!(pauses[0], MIN_PAUSE);
        assert_eq!(pauses[1], MIN_PAUSE * 2);
        assert_eq!(pauses[13], MAX_PAUSE);
        assert_eq!(schedule.take(at), Some("a"));
        schedule.finished("a", &Ok(Some(Duration::from_secs(5))), at);
        assert_eq!(schedule.wake(), Some(at + Duration::from_secs(5)));
        assert!(schedule.failures.is_empty());
    }

    #[test]
    fn an_earlier_request_stays_earlier() {
        let now = Instant::now();
        let mut schedule = Schedule::new();
        schedule.add("a", now + Duration::from_secs(1));
        schedule.add("a", now + Duration::from_secs(9));
        assert_eq!(schedule.wake(), Some(now + Duration::from_secs(1)));
        assert_eq!(schedule.take(now), None);
    }

    #[tokio::test]
    async fn one_failing_key_does_not_hold_up_the_others() {
        let (queue, requests) = Queue::new();
        let (seen, mut results) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let worker = tokio::spawn(work("test", requests, 2, stop.clone(), move |key: u8| {
            let seen = seen.clone();
            async move {
                if key == 0 {
                    return failure();
                }
                seen.send(key).unwrap();
                Ok(None)
            }
        }));
        for key in [0, 1, 2] {
            queue.add(key);
        }
        let mut got = vec![results.recv().await.unwrap(), results.recv().await.unwrap()];
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        stop.cancel();
        worker.await.unwrap();
    }
}
