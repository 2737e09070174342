//! Events are kept for an hour, as in Kubernetes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::call::App;
use super::failure::Failure;
use super::store::{Write, WriteError};

const LIFE_SECONDS: i64 = 3600;
const PERIOD: Duration = Duration::from_secs(300);

/// Removes old events, until the server stops.
pub async fn expire(app: Arc<App>) {
    loop {
        if let Err(failure) = remove_before(&app, Timestamp::now().as_second() - LIFE_SECONDS).await {
            tracing::warn!("failed to remove old events: {}", failure.body());
        }
        tokio::select! {
            () = app.stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

async fn remove_before(app: &Arc<App>, limit: i64) -> Result<(), Failure> {
    let events = app.builtin("", "events")?;
    for (key, record) in app.store.list(&events.storage, "", None).items {
        if last_seen(&events.load(&record)?) >= limit {
            continue;
        }
        let expect = Some(record.version());
        let write = Write { collection: &events.storage, key: &key, expect, draft: None, guard: None };
        match app.store.write(write).await {
            // It has just happened again.
            Ok(_) | Err(WriteError::Stale) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// When an event last happened, in seconds since 1970.
fn last_seen(event: &Value) -> i64 {
    let times = ["/metadata/creationTimestamp", "/eventTime", "/lastTimestamp", "/series/lastObservedTime"];
    let time = |pointer: &&str| event.pointer(pointer)?.as_str()?.parse::<Timestamp>().ok();
    times.iter().filter_map(time).map(Timestamp::as_second).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_that_repeats_is_young() {
        let event = json!({"metadata": {"creationTimestamp": "1970-01-01T00:00:10Z"}, "lastTimestamp": null,
            "series": {"lastObservedTime": "1970-01-01T00:01:00.5Z"}});
        assert_eq!(last_seen(&event), 60);
    }
}
