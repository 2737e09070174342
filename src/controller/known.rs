//! Secrets that were found by name. They are not watched: whoever may watch Secrets reads them all.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cache::Key;
use super::packed::{Packed, Packer};
use crate::plan::{Held, name_of};

/// How long a Secret that was found counts as still there. One that is not there is looked for in each pass.
const LIFETIME: Duration = Duration::from_secs(120);

/// Metadata of Secrets, and what their certificates say, by Database.
#[derive(Debug, Default)]
pub struct Known {
    all: Mutex<HashMap<Key, Vec<Found>>>,
    packer: Packer,
}

#[derive(Debug)]
struct Found {
    name: Box<str>,
    object: Packed,
    held: Option<Held>,
    at: Instant,
}

impl Known {
    /// What was found lately, and of certificates what they say.
    ///
    /// # Errors
    /// Where one cannot be unpacked.
    pub fn of(&self, key: &Key, now: Instant) -> Result<Vec<(Value, Option<Held>)>, serde_json::Error> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |found: &&Found| now.duration_since(found.at) < LIFETIME;
        let found = all.get(key).into_iter().flatten().filter(fresh);
        let found: Vec<_> = found.map(|found| (found.object.clone(), found.held.clone())).collect();
        drop(all);
        found.into_iter().map(|(object, held)| Ok((self.packer.unpack(&object)?, held))).collect()
    }

    /// Notes one that was found.
    pub fn found(&self, key: &Key, object: &Value, held: Option<Held>, at: Instant) {
        let found = Found { name: name_of(object).into(), object: self.packer.pack(object), held, at };
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let all = all.entry(key.clone()).or_default();
        all.retain(|other| other.name != found.name);
        all.push(found);
    }

    /// Forgets a Database's.
    pub fn forget(&self, key: &Key) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
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
        known.found(&key("a"), &json!({ "metadata": { "name": "a-app" } }), None, now);
        assert_eq!(known.of(&key("a"), now).unwrap().len(), 1);
        assert!(known.of(&key("b"), now).unwrap().is_empty());
        assert!(known.of(&key("a"), now + LIFETIME).unwrap().is_empty());
        known.found(&key("a"), &json!({ "metadata": { "name": "a-app" } }), None, now + LIFETIME);
        assert_eq!(known.of(&key("a"), now + LIFETIME).unwrap().len(), 1);
        known.forget(&key("a"));
        assert!(known.of(&key("a"), now + LIFETIME).unwrap().is_empty());
    }
}
