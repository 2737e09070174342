//! Requests that an API server failed to answer are made once more: a pass makes many, and would seldom get through where
//! each may fail.

use std::future::Future;
use std::time::Duration;

use kube::Error;
use kube::runtime::utils::Backoff;

use super::random::jittered;

/// How long to wait before each further try. What still fails then is left to the next pass.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];
const FIRST_WATCH_PAUSE: Duration = Duration::from_millis(400);
const LONGEST_WATCH_PAUSE: Duration = Duration::from_secs(5);

/// Reads, with further tries after every failure that is not an answer.
///
/// # Errors
/// The last failure.
pub async fn read<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> Result<T, Error> {
    again(&PAUSES, call, read_may_pass).await
}

fn read_may_pass(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 409) || write_may_pass(error)
}

/// Writes, with further tries where the server says that it failed, or says nothing. Each of ours may be made twice: it
/// names the version or uid that it is about, or is refused where the object is already there.
///
/// # Errors
/// The last failure.
pub async fn write<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> Result<T, Error> {
    again(&PAUSES, call, write_may_pass).await
}

fn write_may_pass(error: &Error) -> bool {
    match error {
        Error::Api(status) => status.code >= 500 || status.code == 429,
        Error::HyperError(_) | Error::Service(_) => true,
        _ => false,
    }
}

async fn again<T, F: Future<Output = Result<T, Error>>>(
    pauses: &[Duration],
    call: impl Fn() -> F,
    may_pass: impl Fn(&Error) -> bool,
) -> Result<T, Error> {
    for pause in pauses {
        match call().await {
            Err(error) if may_pass(&error) => {
                tracing::debug!(%error, ?pause, "a request is made once more");
                tokio::time::sleep(jittered(*pause)).await;
            }
            other => return other,
        }
    }
    call().await
}

/// How long an interrupted watch waits, a little longer each time: what it does not tell meanwhile, nobody knows.
#[derive(Debug, Default)]
pub struct WatchPauses {
    times: u32,
}

impl Iterator for WatchPauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = FIRST_WATCH_PAUSE.saturating_mul(1 << self.times.min(10)).min(LONGEST_WATCH_PAUSE);
        self.times = self.times.saturating_add(1);
        Some(jittered(pause))
    }
}

impl Backoff for WatchPauses {
    fn reset(&mut self) {
        self.times = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use kube::core::Status;

    use super::*;

    fn failure(code: u16) -> Error {
        Error::Api(Status::failure("x", "y").with_code(code).boxed())
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_an_answer_is_not() {
        let pauses = [Duration::ZERO; 3];
        for (code, reads, writes) in
            [(500, 4, 4), (503, 4, 4), (429, 4, 4), (409, 4, 1), (404, 1, 1), (403, 1, 1)]
        {
            let tries = Cell::new(0);
            let call = || {
                tries.set(tries.get() + 1);
                std::future::ready(Err::<(), _>(failure(code)))
            };
            assert!(again(&pauses, call, read_may_pass).await.is_err());
            assert_eq!(tries.replace(0), reads, "{code}");
            assert!(again(&pauses, call, write_may_pass).await.is_err());
            assert_eq!(tries.get(), writes, "{code}");
        }
        let tries = Cell::new(0);
        let second = || {
            tries.set(tries.get() + 1);
            std::future::ready(if tries.get() < 2 { Err(failure(500)) } else { Ok(tries.get()) })
        };
        assert_eq!(again(&pauses, second, write_may_pass).await.unwrap(), 2);
    }

    #[test]
    fn a_watch_waits_longer_each_time_and_never_long() {
        let mut pauses = WatchPauses::default();
        let longest = pauses.by_ref().take(20).last().unwrap();
        assert!(longest >= LONGEST_WATCH_PAUSE && longest <= LONGEST_WATCH_PAUSE * 11 / 10);
        pauses.reset();
        assert!(pauses.next().unwrap() <= FIRST_WATCH_PAUSE * 11 / 10);
    }
}
