//! When a primary must end because its Patroni no longer lives. Pure.
//!
//! Patroni demotes a primary that cannot renew the leader lock, as long as Patroni runs. Where it is frozen or hangs, the
//! lock expires after the ttl, somebody else is elected, and the old primary would go on writing. On a machine of one's own
//! a hardware watchdog stands against that; in a pod this does: it ends the container before the lock can be another's.

use std::fmt;
use std::time::Duration;

use crate::patroni::TTL_SECONDS;

/// How long Patroni may be silent on a primary: five seconds less than the lock lives, since its last renewal lies a little
/// before its last sign of life.
pub const LIMIT: Duration = Duration::from_secs(TTL_SECONDS as u64 - 5);
/// The silence after which the API server is asked for the lock: one renewal is missing for certain, not yet two.
pub const DOUBT: Duration = Duration::from_secs(8);

/// What is known at one moment. Times are those of a clock that does not stop while the machine sleeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The moment.
    pub now: Duration,
    /// How long the agent itself had not run before it.
    pub gap: Duration,
    /// PostgreSQL runs here and is not a replica.
    pub primary: bool,
    /// Patroni was told to take its hands off; nobody is elected meanwhile.
    pub paused: bool,
    /// When Patroni last gave a sign of life: it had news of the API, or agreed with all others to go on without it.
    pub alive: Duration,
    /// What the API server says of the lock; `None` where it was not asked, or does not answer.
    pub lock: Option<SeenLock>,
}

/// The leader lock as the API server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenLock {
    /// This member's, last renewed then.
    Ours(Duration),
    /// Another member's.
    Taken,
    /// Nobody's.
    Free,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Fine,
    /// Ask the API server for the lock.
    Doubt,
    /// End the container.
    Fence(Reason),
}

/// Why the container ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Patroni has given no sign of life for so long.
    Silent(Duration),
    /// The lock has not been renewed for so long, and Patroni gives no sign of life.
    Expiring(Duration),
    /// Another member holds the lock, and Patroni gives no sign of life.
    Taken,
    /// Everything here stood still for so long.
    Frozen(Duration),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(time) | Self::Expiring(time) => write!(
                f,
                "fenced: Patroni has not renewed the leader lock for {} s, so this primary ended before another could be elected",
                time.as_secs()
            ),
            Self::Taken => f.write_str("fenced: another member holds the leader lock, and Patroni here does not see it, so this primary ended"),
            Self::Frozen(time) => write!(
                f,
                "fenced: this pod stood still for {} s, in which another member could become primary, so it ended",
                time.as_secs()
            ),
        }
    }
}

/// Decides. Replicas are never ended, nor is a primary for the slowness of an answer alone: the lock that the API server
/// shows as renewed saves it.
pub fn decide(seen: &Seen) -> Decision {
    if !seen.primary || seen.paused {
        return Decision::Fine;
    }
    if seen.gap >= LIMIT {
        return Decision::Fence(Reason::Frozen(seen.gap));
    }
    let since = |then: Duration| seen.now.saturating_sub(then);
    let silence = since(seen.alive);
    if silence < DOUBT {
        return Decision::Fine;
    }
    match seen.lock {
        Some(SeenLock::Taken) => Decision::Fence(Reason::Taken),
        Some(SeenLock::Ours(renewed)) if since(renewed) >= LIMIT => {
            Decision::Fence(Reason::Expiring(since(renewed)))
        }
        Some(SeenLock::Ours(_)) => Decision::Doubt,
        Some(SeenLock::Free) | None if silence >= LIMIT => Decision::Fence(Reason::Silent(silence)),
        Some(SeenLock::Free) | None => Decision::Doubt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    /// A primary at second 100 whose Patroni gave its last sign of life so long ago.
    fn silent(seconds: u64) -> Seen {
        Seen { now: at(100), gap: at(1), primary: true, alive: at(100 - seconds), ..Seen::default() }
    }

    #[test]
    fn a_primary_ends_only_when_its_patroni_is_silent_and_the_lock_not_renewed() {
        let with = |seen: Seen, lock| Seen { lock: Some(lock), ..seen };
        let ours = |ago: u64| SeenLock::Ours(at(100 - ago));
        let cases = [
            ("well", silent(0), Decision::Fine),
            ("a slow loop", silent(7), Decision::Fine),
            ("silent for a while", silent(8), Decision::Doubt),
            ("not yet", silent(14), Decision::Doubt),
            ("silent too long, and nobody to ask", silent(15), Decision::Fence(Reason::Silent(at(15)))),
            ("only its answers are slow", with(silent(60), ours(3)), Decision::Doubt),
            ("renewed just in time", with(silent(60), ours(14)), Decision::Doubt),
            ("not renewed", with(silent(60), ours(15)), Decision::Fence(Reason::Expiring(at(15)))),
            // It read the API, then hung before it renewed: its last sign of life is younger than the lock.
            ("hung before renewing", with(silent(10), ours(15)), Decision::Fence(Reason::Expiring(at(15)))),
            ("an old lock, but alive", with(silent(2), ours(60)), Decision::Fine),
            ("taken", with(silent(9), SeenLock::Taken), Decision::Fence(Reason::Taken)),
            ("taken, but alive: Patroni demotes it", with(silent(3), SeenLock::Taken), Decision::Fine),
            ("free", with(silent(10), SeenLock::Free), Decision::Doubt),
            ("free for long", with(silent(16), SeenLock::Free), Decision::Fence(Reason::Silent(at(16)))),
            ("frozen", Seen { gap: at(15), ..silent(0) }, Decision::Fence(Reason::Frozen(at(15)))),
            ("nearly frozen", Seen { gap: at(14), ..silent(0) }, Decision::Fine),
        ];
        for (about, seen, expected) in cases {
            assert_eq!(decide(&seen), expected, "{about}");
            let replica = Seen { primary: false, ..seen.clone() };
            assert_eq!(decide(&replica), Decision::Fine, "a replica: {about}");
            let paused = Seen { paused: true, ..seen };
            assert_eq!(decide(&paused), Decision::Fine, "paused: {about}");
        }
    }

    #[test]
    fn a_primary_ends_before_the_lock_can_expire() {
        assert!(LIMIT < at(TTL_SECONDS as u64) && DOUBT < LIMIT);
        let reason = Reason::Silent(at(15)).to_string();
        assert_eq!(
            reason,
            "fenced: Patroni has not renewed the leader lock for 15 s, so this primary ended before another could be elected"
        );
    }
}
