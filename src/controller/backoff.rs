//! How long to leave an object alone after an error: longer each time, for each object by itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);
/// After a write that was based on something older, the watch has most likely told of the newer by then.
const FIRST_CONFLICT: Duration = Duration::from_millis(200);
/// Where it has not told of it several times over, something else is wrong; and the newer may still come at any time.
const LONGEST_CONFLICT: Duration = Duration::from_secs(5);

/// Errors in a row, by object.
#[derive(Debug, Default)]
pub struct Backoff(Mutex<HashMap<(String, String), Count>>);

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    errors: u32,
    conflicts: u32,
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(10)).min(longest)
}

impl Backoff {
    /// Notes an error and says how long to wait.
    pub fn after_error(&self, key: &(String, String)) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(key.clone()).or_default();
        let delay = doubled(FIRST, count.errors, LONGEST);
        count.errors = count.errors.saturating_add(1);
        delay
    }

    /// Notes that somebody was faster and says how long to wait.
    pub fn after_conflict(&self, key: &(String, String)) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(key.clone()).or_default();
        let delay = doubled(FIRST_CONFLICT, count.conflicts, LONGEST_CONFLICT);
        count.conflicts = count.conflicts.saturating_add(1);
        delay
    }

    /// Notes that all went well.
    pub fn reset(&self, key: &(String, String)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_a_minute_for_each_object_alone() {
        let backoff = Backoff::default();
        let (a, b) = (("n".to_owned(), "a".to_owned()), ("n".to_owned(), "b".to_owned()));
        let delays: Vec<u128> = (0..9).map(|_| backoff.after_error(&a).as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert_eq!(backoff.after_error(&b).as_millis(), 500);
        backoff.reset(&a);
        assert_eq!(backoff.after_error(&a).as_millis(), 500);
        let delays: Vec<u128> = (0..7).map(|_| backoff.after_conflict(&a).as_millis()).collect();
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}
