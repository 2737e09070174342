//! Faults of open watches.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Active, Faults, Request, count};

/// How often chance is asked about each watch.
const PERIOD: Duration = Duration::from_secs(1);

/// What happens to a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// It is cut off.
    Drop,
    /// It ends with 410 Expired.
    Expire,
}

/// The faults of one watch.
#[derive(Debug)]
pub struct WatchFaults {
    request: Request,
    changed: watch::Receiver<Option<Arc<Active>>>,
    /// The faults that are on, where they are meant for this watch.
    active: Option<Arc<Active>>,
    /// The last order of faults that this watch has obeyed.
    obeyed: u64,
    next: Instant,
}

impl Faults {
    /// The faults of a watch that begins, resuming from a version or with what is there.
    pub fn of_watch(&self, request: Request, resumes: Option<u64>) -> WatchFaults {
        let mut watching = WatchFaults {
            request,
            changed: self.active.subscribe(),
            active: None,
            obeyed: self.generations.load(Ordering::Relaxed),
            next: Instant::now() + PERIOD,
        };
        watching.read();
        // What lies before the moment when all watches expired is not there any more.
        if let (Some(active), Some(version)) = (&watching.active, resumes)
            && version < active.version
        {
            watching.obeyed = active.generation - 1;
        }
        watching
    }

    /// The faults of a watch that no fault reaches.
    pub fn of_exempt_watch(&self) -> WatchFaults {
        let (_, changed) = watch::channel(None);
        let obeyed = self.generations.load(Ordering::Relaxed);
        WatchFaults { request: Request::default(), changed, active: None, obeyed, next: Instant::now() }
    }
}

impl WatchFaults {
    fn read(&mut self) {
        let active = self.changed.borrow_and_update().clone();
        self.active = active.filter(|active| active.spec.target.matches(&self.request));
    }

    /// Whether the watch is to be silent.
    pub fn stalled(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.spec.watch_stall)
    }

    /// What happens to it now.
    pub fn now(&mut self) -> Option<Strike> {
        if self.changed.has_changed().unwrap_or(false) {
            self.read();
            self.next = Instant::now() + PERIOD;
        }
        let active = self.active.as_ref()?;
        if active.spec.expire_watches && active.generation > self.obeyed {
            self.obeyed = active.generation;
            count(&active.tally.expired);
            return Some(Strike::Expire);
        }
        let (drop, expire) = (active.spec.watch_drop_rate, active.spec.watch_expire_rate);
        if (drop == 0.0 && expire == 0.0) || Instant::now() < self.next {
            return None;
        }
        self.next += PERIOD;
        let drawn = active.chance(&self.request).f64();
        if drawn < drop {
            count(&active.tally.dropped);
            Some(Strike::Drop)
        } else if drawn < drop + expire {
            count(&active.tally.expired);
            Some(Strike::Expire)
        } else {
            None
        }
    }

    /// Waits until [`Self::now`] may have something new to say.
    pub async fn stirs(&mut self) {
        let chance = self
            .active
            .as_ref()
            .is_some_and(|active| active.spec.watch_drop_rate > 0.0 || active.spec.watch_expire_rate > 0.0);
        let changed = async {
            // The server's end is noticed elsewhere.
            if self.changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            self.changed.mark_changed();
        };
        if chance {
            tokio::select! {
                () = changed => {}
                () = sleep_until(self.next) => {}
            }
        } else {
            changed.await;
        }
    }
}
