//! How long to wait before a container is started, or an image looked for, again; pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(300);
/// A container that ran this long is taken for healthy again.
const RESET: Duration = Duration::from_secs(600);

/// The waits of one container: none, 10 s, 20 s, … 5 minutes.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// As after a first failure, which did not have to wait.
    pub fn begun() -> Self {
        Self { last: Some(Duration::ZERO) }
    }

    /// The wait after it ran for that long.
    pub fn next(&mut self, ran: Duration) -> Duration {
        if ran >= RESET {
            self.last = None;
        }
        let wait = match self.last {
            None => Duration::ZERO,
            Some(Duration::ZERO) => FIRST,
            Some(last) => (last * 2).min(MOST),
        };
        self.last = Some(wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_the_others_ever_later() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..9).map(|_| backoff.next(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(backoff.next(RESET), Duration::ZERO);
        assert_eq!(backoff.next(Duration::ZERO), FIRST);
        assert_eq!(Backoff::begun().next(Duration::ZERO), FIRST);
    }
}
