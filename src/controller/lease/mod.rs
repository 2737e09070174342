//! Which of several controllers works: the one that holds the Lease. The others wait with warm caches.
//!
//! It keeps two from doing the same work twice; it is not what keeps a database from having two primaries. Every write has
//! its own precondition for that, since between a look at a clock and the arrival of a request any time may pass.

mod election;
mod keep;
#[cfg(test)]
mod simulation;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::random::{NoRandomness, password};

pub use election::Terms;
pub use keep::{LeaseConfig, LeaseError, Tenure};

/// Until when this controller may act; shared by all that do.
#[derive(Clone, Debug)]
pub struct Claim(Arc<AtomicU64>);

impl Claim {
    /// Of the only controller that there is.
    pub fn always() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    fn none() -> Self {
        Self(Arc::default())
    }

    fn extend(&self, deadline: Option<Duration>) {
        let millis = deadline.map_or(0, |deadline| u64::try_from(deadline.as_millis()).unwrap_or(0));
        self.0.store(millis, Ordering::Release);
    }

    /// Whether it may act now.
    pub fn holds(&self) -> bool {
        let until = self.0.load(Ordering::Acquire);
        until == u64::MAX || now() < Duration::from_millis(until)
    }
}

/// A name that no other process has, and none ever had: a container that is started anew is another holder than before.
///
/// # Errors
/// Where the system gives no randomness.
pub fn identity(of: &str) -> Result<String, NoRandomness> {
    Ok(format!("{of}_{}", password()?.to_ascii_lowercase().get(..10).unwrap_or_default()))
}

/// Since the machine was started, sleep included: the monotonic clock stands still while a machine is suspended, and a
/// lease does not.
pub(super) fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_ends_by_itself() {
        let claim = Claim::none();
        assert!(!claim.holds());
        claim.extend(Some(now() + Duration::from_secs(3600)));
        assert!(claim.holds());
        claim.extend(Some(now()));
        assert!(!claim.holds());
        assert!(Claim::always().holds());
    }
}
