//! How long to leave an object alone after an error: longer each time, for each object by itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Errors in a row, by object.
#[derive(Debug, Default)]
pub struct Backoff(Mutex<HashMap<(String, String), u32>>);

impl Backoff {
    /// Notes an error and says how long to wait.
    pub fn after_error(&self, key: &(String, String)) -> Duration {
        let mut errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = errors.entry(key.clone()).or_default();
        let delay = FIRST.saturating_mul(1 << (*count).min(7)).min(LONGEST);
        *count = count.saturating_add(1);
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
    }
}
