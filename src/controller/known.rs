//! Secrets that were found by name. They are not watched: whoever may watch Secrets reads them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cache::Key;
use crate::plan::{Held, name_of};

/// How long a Secret that was found counts as still there. One that is not there is looked for in each pass.
const LIFETIME: Duration = Duration::from_secs(120);

/// Metadata of Secrets, and what their certificates say, by Database.
#[derive(Debug, Default)]
pub struct Known(Mutex<HashMap<Key, HashMap<String, Found>>>);

#[derive(Debug)]
struct Found {
    object: Arc<Value>,
    held: Option<Held>,
    at: Instant,
}

impl Known {
    /// What was found lately, and of certificates what they say.
    pub fn of(&self, key: &Key, now: Instant) -> Vec<(Arc<Value>, Option<Held>)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |found: &&Found| now.duration_since(found.at) < LIFETIME;
        all.get(key)
            .into_iter()
            .flat_map(HashMap::values)
            .filter(fresh)
            .map(|found| (found.object.clone(), found.held.clone()))
            .collect()
    }

    /// Notes one that was found.
    pub fn found(&self, key: &Key, object: Arc<Value>, held: Option<Held>, at: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name_of(&object).to_owned();
        all.entry(key.clone()).or_default().insert(name, Found { object, held, at });
    }

    /// Forgets a Database's.
    pub fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_found_is_known_for_a_while() {
        let (known, now) = (Known::default(), Instant::now());
        let key = |name: &str| ("n".to_owned(), name.to_owned());
        known.found(&key("a"), Arc::new(json!({ "metadata": { "name": "a-app" } })), None, now);
        assert_eq!(known.of(&key("a"), now).len(), 1);
        assert!(known.of(&key("b"), now).is_empty());
        assert!(known.of(&key("a"), now + LIFETIME).is_empty());
        known.found(&key("a"), Arc::new(json!({ "metadata": { "name": "a-app" } })), None, now + LIFETIME);
        assert_eq!(known.of(&key("a"), now + LIFETIME).len(), 1);
        known.forget(&key("a"));
        assert!(known.of(&key("a"), now + LIFETIME).is_empty());
    }
}
