//! What the API server said of tokens a moment ago.

use std::collections::HashMap;
use std::time::Duration;

/// How long it counts that somebody may read. So long, somebody whose token or right is taken back still may.
const ALLOWED: Duration = Duration::from_secs(60);
/// How long it counts that somebody may not. So long, somebody who was just given the right may have to wait.
const REFUSED: Duration = Duration::from_secs(10);
/// How many answers are kept: readers are few, and whoever tries tokens shall not fill the memory.
const MOST: usize = 256;

/// What was said of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its user may read.
    Allowed,
    /// It is nobody's.
    Unknown,
    /// Its user, by name, may not.
    Forbidden(String),
}

impl Verdict {
    fn lasts(&self) -> Duration {
        match self {
            Self::Allowed => ALLOWED,
            Self::Unknown | Self::Forbidden(_) => REFUSED,
        }
    }
}

/// Answers by tokens' keys, and until when they count.
#[derive(Debug, Default)]
pub struct Answers(HashMap<Vec<u8>, (Verdict, Duration)>);

impl Answers {
    /// What counts now.
    pub fn get(&self, key: &[u8], now: Duration) -> Option<Verdict> {
        let (verdict, until) = self.0.get(key)?;
        (now < *until).then(|| verdict.clone())
    }

    /// Keeps an answer. Where there is no room, the one that ends first goes: refusals do before rights, so that who tries many
    /// tokens drives out nobody who may read.
    pub fn put(&mut self, key: Vec<u8>, verdict: Verdict, now: Duration) {
        self.0.retain(|_, (_, until)| now < *until);
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            let first =
                self.0.iter().min_by_key(|(_, (verdict, until))| (verdict == &Verdict::Allowed, *until));
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                self.0.remove(&first);
            }
        }
        let until = now.saturating_add(verdict.lasts());
        self.0.insert(key, (verdict, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn key(number: usize) -> Vec<u8> {
        number.to_be_bytes().to_vec()
    }

    #[test]
    fn an_answer_counts_for_its_time() {
        let forbidden = Verdict::Forbidden("me".to_owned());
        for (verdict, lasts) in [(Verdict::Allowed, 60), (Verdict::Unknown, 10), (forbidden, 10)] {
            let mut answers = Answers::default();
            answers.put(key(1), verdict.clone(), at(1000));
            for (after, counts) in [(0, true), (lasts - 1, true), (lasts, false), (lasts + 1, false)] {
                let found = answers.get(&key(1), at(1000 + after));
                assert_eq!(found, counts.then(|| verdict.clone()), "{verdict:?} after {after} s");
            }
            assert_eq!(answers.get(&key(2), at(1000)), None);
        }
    }

    #[test]
    fn a_later_answer_replaces_an_earlier_one() {
        let mut answers = Answers::default();
        answers.put(key(1), Verdict::Allowed, at(0));
        answers.put(key(1), Verdict::Unknown, at(5));
        assert_eq!(answers.get(&key(1), at(6)), Some(Verdict::Unknown));
        assert_eq!(answers.get(&key(1), at(20)), None);
    }

    #[test]
    fn no_number_of_tokens_fills_it_or_drives_out_who_may_read() {
        let mut answers = Answers::default();
        answers.put(key(0), Verdict::Allowed, at(0));
        for number in 1..=10 * MOST {
            answers.put(key(number), Verdict::Unknown, at(55));
            assert!(answers.0.len() <= MOST);
        }
        // It ends before all those do.
        assert_eq!(answers.get(&key(0), at(59)), Some(Verdict::Allowed));
        assert_eq!(answers.get(&key(10 * MOST), at(59)), Some(Verdict::Unknown));
        // And with readers alone, the one who asked longest ago goes.
        for number in 0..=MOST {
            answers.put(key(number), Verdict::Allowed, at(100 + number as u64 / 100));
        }
        assert_eq!(answers.0.len(), MOST);
        assert_eq!(answers.get(&key(MOST), at(103)), Some(Verdict::Allowed));
        assert_eq!((0..=MOST).filter(|number| answers.get(&key(*number), at(103)).is_none()).count(), 1);
    }

    #[test]
    fn what_has_ended_is_not_kept() {
        let mut answers = Answers::default();
        for number in 0..MOST {
            answers.put(key(number), Verdict::Allowed, at(0));
        }
        answers.put(key(MOST), Verdict::Unknown, at(60));
        assert_eq!(answers.0.len(), 1);
    }
}
