//! What Patroni is asked for and answers only when it is done, which takes seconds. No pass waits for it: the answer is
//! remembered here, and later passes see it. What a restart of the controller forgets, they see from the lock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cache::Key;
use crate::patroni::{Client, Credentials, PatroniError};
use crate::plan::{Ask, AskOutcome, Asked};

/// Something to ask for, and whom.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Address of the member to ask.
    pub address: IpAddr,
    /// What it is asked for.
    pub ask: Ask,
    /// What for.
    pub cause: String,
    /// Who asks.
    pub credentials: Credentials,
}

impl Asking {
    /// Asks, and waits for the answer.
    pub async fn put(&self, patroni: &Client) -> Result<String, PatroniError> {
        let (address, who) = (self.address, &self.credentials);
        match &self.ask {
            Ask::Switchover { leader, candidate, insist } => {
                patroni.switchover(address, who, leader, insist.then_some(candidate.as_str())).await
            }
            Ask::Failover { candidate } => patroni.failover(address, who, candidate).await,
            Ask::Restart { .. } => patroni.restart(address, who).await,
        }
    }
}

/// How long what came of one is remembered: the next pass takes it in.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The last ask of each Database.
#[derive(Debug, Default)]
pub struct Asks(Mutex<HashMap<Key, Entry>>);

#[derive(Debug)]
struct Entry {
    asked: Asked,
    ended: Option<Instant>,
}

impl Asks {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last one, if it is not long done.
    pub fn of(&self, key: &Key, now: Instant) -> Option<Asked> {
        let fresh = |entry: &&Entry| entry.ended.is_none_or(|ended| now.duration_since(ended) < REMEMBERED);
        self.all().get(key).filter(fresh).map(|entry| entry.asked.clone())
    }

    /// Notes that one begins. `false` where another is still under way: one at a time.
    pub fn begin(&self, key: &Key, asking: &Asking) -> bool {
        let mut all = self.all();
        if all.get(key).is_some_and(|entry| entry.ended.is_none()) {
            return false;
        }
        let Asking { ask, cause, .. } = asking.clone();
        let asked = Asked { ask, cause, outcome: AskOutcome::UnderWay };
        all.insert(key.clone(), Entry { asked, ended: None });
        true
    }

    /// Notes what came of the one under way.
    pub fn end(&self, key: &Key, outcome: AskOutcome, now: Instant) {
        if let Some(entry) = self.all().get_mut(key) {
            entry.asked.outcome = outcome;
            entry.ended = Some(now);
        }
    }

    /// Forgets a Database that is gone.
    pub fn forget(&self, key: &Key) {
        self.all().retain(|of, entry| of != key || entry.ended.is_none());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let (asks, key) = (Asks::default(), ("n".to_owned(), "db".to_owned()));
        let asking = |cause: &str| Asking {
            address: "127.0.0.1".parse().unwrap(),
            ask: Ask::Restart { member: "db-1".into() },
            cause: cause.into(),
            credentials: Credentials { username: "u".into(), password: "p".into() },
        };
        assert!(asks.begin(&key, &asking("1")) && !asks.begin(&key, &asking("2")));
        asks.forget(&key);
        let now = Instant::now();
        asks.end(&key, AskOutcome::Done("restarted".into()), now);
        assert_eq!(asks.of(&key, now + REMEMBERED), None);
        let asked = asks.of(&key, now).unwrap();
        assert_eq!((asked.cause.as_str(), asked.outcome), ("1", AskOutcome::Done("restarted".into())));
        assert!(asks.begin(&key, &asking("3")));
        asks.end(&key, AskOutcome::Failed("no".into()), now);
        asks.forget(&key);
        assert_eq!(asks.of(&key, now), None);
    }
}
