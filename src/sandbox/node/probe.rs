//! When a probe's results count; pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

/// A probe's numbers, with Kubernetes' defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    pub delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub successes: u32,
    pub failures: u32,
}

impl Timing {
    pub fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            let given = value.and_then(|value| u64::try_from(value).ok());
            Duration::from_secs(given.unwrap_or(default))
        };
        let at_least_one = |duration: Duration| duration.max(Duration::from_secs(1));
        let count = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        Self {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: at_least_one(seconds(probe.period_seconds, 10)),
            timeout: at_least_one(seconds(probe.timeout_seconds, 1)),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        }
    }
}

/// What a run of equal results amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Healthy,
    Unhealthy,
}

/// Counts results until they reach a threshold.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    timing: Timing,
    last: Option<bool>,
    run: u32,
}

impl Counter {
    pub fn new(timing: Timing) -> Self {
        Self { timing, last: None, run: 0 }
    }

    /// Counts a result; a verdict once enough equal ones came in a row, and again with each further one.
    pub fn count(&mut self, success: bool) -> Option<Verdict> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        match success {
            true if self.run >= self.timing.successes => Some(Verdict::Healthy),
            false if self.run >= self.timing.failures => Some(Verdict::Unhealthy),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_minima() {
        let timing = Timing::of(&Probe::default());
        assert_eq!(timing.period, Duration::from_secs(10));
        assert_eq!((timing.delay, timing.timeout), (Duration::ZERO, Duration::from_secs(1)));
        assert_eq!((timing.successes, timing.failures), (1, 3));
        let odd = Probe { period_seconds: Some(0), timeout_seconds: Some(-3), ..Probe::default() };
        assert_eq!(Timing::of(&odd).period, Duration::from_secs(1));
        assert_eq!(Timing::of(&odd).timeout, Duration::from_secs(1));
    }

    #[test]
    fn only_runs_count() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut counter = Counter::new(Timing::of(&probe));
        let (healthy, unhealthy) = (Some(Verdict::Healthy), Some(Verdict::Unhealthy));
        let table = [
            (true, None),
            (false, None),
            (true, None),
            (true, healthy),
            (true, healthy),
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, unhealthy),
            (false, unhealthy),
        ];
        for (step, (success, expected)) in table.into_iter().enumerate() {
            assert_eq!(counter.count(success), expected, "step {step}");
        }
    }
}
