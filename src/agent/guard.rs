//! The watchdog's eyes and hand.

use std::time::Duration;

use jiff::Timestamp;

use super::member::{Member, clock};
use super::postmaster::is_primary;
use super::report::Fenced;
use super::watchdog::{DOUBT, Decision, Reason, Seen, SeenLock, decide};
use crate::patroni::{Answer, Lock};

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Patroni answers on the pod's own address in milliseconds.
const ANSWER: Duration = Duration::from_secs(1);
/// How long the note of the reason may hold up the end.
const NOTE: Duration = Duration::from_millis(100);

/// Looks until the container must end; returns why.
pub async fn watch(member: &Member) -> Reason {
    let mut watch =
        Watch { member, before: clock(), alive: clock(), seen: None, paused: false, renewal: None };
    loop {
        if let Decision::Fence(reason) = watch.look().await {
            return reason;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What is remembered between two looks.
struct Watch<'a> {
    member: &'a Member,
    before: Duration,
    alive: Duration,
    /// Patroni's `dcs_last_seen`.
    seen: Option<i64>,
    paused: bool,
    /// The lock's last renewal, in the holder's word, and when that was seen first.
    renewal: Option<(Option<Timestamp>, Duration)>,
}

impl Watch<'_> {
    async fn look(&mut self) -> Decision {
        let now = clock();
        let gap = now.saturating_sub(self.before);
        let before = std::mem::replace(&mut self.before, now);
        let primary = is_primary(&self.member.environment.data);
        if !primary {
            // A replica is asked nothing; what it becomes starts with a clean record.
            (self.alive, self.renewal) = (now, None);
            return Decision::Fine;
        }
        let mut seen = Seen { now, gap, primary, paused: self.paused, alive: self.alive, lock: None };
        if matches!(decide(&seen), Decision::Fence(Reason::Frozen(_))) {
            return decide(&seen);
        }
        let doubt = now.saturating_sub(self.alive) >= DOUBT;
        let (answer, lock) = tokio::join!(self.ask(), async {
            if doubt { self.member.store.read("leader").await.ok() } else { None }
        });
        self.take(answer, before);
        seen.lock = lock.map(|lock| self.read(&Lock::of(&lock), before));
        seen.now = clock();
        (seen.alive, seen.paused) = (self.alive, self.paused);
        decide(&seen)
    }

    async fn ask(&self) -> Option<Answer> {
        self.member.patroni.ask(self.member.environment.address, ANSWER).await.ok()
    }

    /// A sign of life lies somewhere between two looks: the earlier one counts.
    fn take(&mut self, answer: Option<Answer>, before: Duration) {
        let Some(answer) = answer else { return };
        self.paused = answer.pause;
        // Any change is one: clocks are set back now and then.
        let advanced = answer.dcs_last_seen.is_some() && answer.dcs_last_seen != self.seen;
        self.seen = answer.dcs_last_seen.or(self.seen);
        if advanced || answer.failsafe_mode_is_active {
            self.alive = self.alive.max(before);
        }
    }

    fn read(&mut self, lock: &Lock, before: Duration) -> SeenLock {
        match lock.holder.as_deref() {
            None => SeenLock::Free,
            Some(holder) if holder != self.member.environment.name => SeenLock::Taken,
            Some(_) => {
                let at = match self.renewal {
                    Some((renewed, at)) if renewed == lock.renewed => at,
                    Some(_) => before,
                    // The first look cannot know when it changed; the holder wrote it by this machine's clock.
                    None => before.saturating_sub(age(lock.renewed, Timestamp::now())),
                };
                self.renewal = Some((lock.renewed, at));
                SeenLock::Ours(at)
            }
        }
    }
}

fn age(renewed: Option<Timestamp>, now: Timestamp) -> Duration {
    let age = renewed.map(|renewed| now.duration_since(renewed));
    age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default()
}

/// Leaves the reason where the next container of this pod finds it. A disk that hangs must not hold up the end.
pub async fn note(member: &Member, reason: &Reason) {
    let path = member.fence_note();
    let fenced = Fenced { at: Timestamp::now(), reason: reason.to_string() };
    let write = tokio::task::spawn_blocking(move || {
        serde_json::to_vec(&fenced).map_err(std::io::Error::from).and_then(|text| std::fs::write(path, text))
    });
    let _ = tokio::time::timeout(NOTE, write).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_in_the_future_is_new() {
        let now: Timestamp = "2026-11-22T07:11:45Z".parse().unwrap();
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(age(at("2026-11-22T07:11:30.5Z"), now), Duration::from_millis(14_500));
        assert_eq!(age(at("2026-11-22T07:12:00Z"), now), Duration::ZERO);
        assert_eq!(age(None, now), Duration::ZERO);
    }
}
