//! Requests: annotations that ask for something once. Each is answered in `status.operations`, and none is ever answered
//! twice: what was answered stays listed for as long as its annotation is there.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ring::digest;

use super::Event;
use super::context::Context;
use crate::api::{Operation, OperationPhase, requests};

/// How many operations the status keeps.
const KEPT: usize = 10;

/// The operations to list, newest first, and the events for those that are new.
pub fn plan(cx: &Context<'_>, now: jiff::Timestamp) -> (Vec<Operation>, Vec<Event>) {
    let old = cx.database.status.as_ref().map(|status| status.operations.clone()).unwrap_or_default();
    let annotations = cx.database.metadata.annotations.clone().unwrap_or_default();
    // More than fit at once are left for later, or their answers would push each other out for ever.
    let answers: Vec<Operation> =
        requests(&annotations).iter().take(KEPT).map(|found| answer(cx, found, now)).collect();
    let current: BTreeSet<&str> = answers.iter().map(|operation| operation.id.as_str()).collect();
    let known: BTreeSet<&str> = old.iter().map(|operation| operation.id.as_str()).collect();

    let fresh: Vec<Operation> =
        answers.iter().filter(|operation| !known.contains(operation.id.as_str())).cloned().collect();
    let events = fresh.iter().map(event).collect();
    let room = KEPT - current.len();
    let mut past = 0;
    let kept = old.iter().filter(|operation| {
        past += usize::from(!current.contains(operation.id.as_str()));
        current.contains(operation.id.as_str()) || past <= room
    });
    (fresh.iter().chain(kept).cloned().collect(), events)
}

fn event(operation: &Operation) -> Event {
    let message = operation.message.clone().unwrap_or_default();
    Event::warning("RequestRejected", format!("{} request {}: {message}", operation.kind, operation.id))
}

fn answer(cx: &Context<'_>, found: &crate::api::Found, now: jiff::Timestamp) -> Operation {
    let (kind, raw, parsed) = found;
    let (id, message) = match parsed {
        Ok((verb, request)) => {
            let message = match request.check(*verb, cx.uid, now) {
                Ok(()) => format!("{verb} is not available in this version of dbctl"),
                Err(error) => error.to_string(),
            };
            (request.id.to_string(), message)
        }
        Err(error) => (stand_in_id(kind, raw), error.to_string()),
    };
    Operation {
        id,
        kind: kind.clone(),
        phase: OperationPhase::Rejected,
        message: Some(message),
        finished_at: Some(Time(now)),
        ..Operation::default()
    }
}

/// A request that cannot be read has no id; the same text always gets the same one.
fn stand_in_id(kind: &str, raw: &str) -> String {
    let digest = digest::digest(&digest::SHA256, format!("{kind}={raw}").as_bytes());
    let hash: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("unreadable-{hash}")
}
