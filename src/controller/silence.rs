//! Since when a member has not answered. One answer that is missing says little.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cache::Key;
use crate::plan::{Kind, Observed};

/// When each silent member was first found silent, by Database.
#[derive(Debug, Default)]
pub struct Silence(Mutex<HashMap<Key, HashMap<String, Instant>>>);

impl Silence {
    /// Takes in who is silent now, and says for how long each has been. One that fell silent and is not asked any more,
    /// because it is down, stays silent.
    pub fn note(&self, key: &Key, observed: &mut Observed, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = all.entry(key.clone()).or_default();
        since.retain(|name, _| {
            !observed.answers.contains_key(name) && observed.get(Kind::Pod, name).is_some()
        });
        observed.silent.extend(since.keys().map(|name| (name.clone(), Duration::ZERO)));
        for (name, silent) in &mut observed.silent {
            *silent = now.duration_since(*since.entry(name.clone()).or_insert(now));
        }
        if since.is_empty() {
            all.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn silence_lasts_until_an_answer() {
        let (silence, key, start) = (Silence::default(), ("n".to_owned(), "db".to_owned()), Instant::now());
        let look = |silent: &[&str], answers: &[&str], after: u64| {
            let mut observed = Observed::default();
            for pod in ["db-0", "db-1"] {
                observed.insert(Kind::Pod, serde_json::json!({ "metadata": { "name": pod } }));
            }
            observed.silent.extend(silent.iter().map(|name| ((*name).to_owned(), Duration::ZERO)));
            observed.answers.extend(answers.iter().map(|name| ((*name).to_owned(), Default::default())));
            silence.note(&key, &mut observed, start + Duration::from_secs(after));
            observed.silent.into_values().map(|silent| silent.as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(look(&["db-0"], &["db-1"], 0), [0]);
        assert_eq!(look(&["db-0", "db-1"], &[], 3), [3, 0]);
        // It is down, and not asked.
        assert_eq!(look(&["db-1"], &[], 5), [5, 2]);
        assert_eq!(look(&["db-1"], &["db-0"], 6), [3]);
        assert_eq!(look(&[], &["db-0", "db-1"], 7), Vec::<u64>::new());
        assert_eq!(look(&["db-0"], &[], 9), [0]);
    }
}
