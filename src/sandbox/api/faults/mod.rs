//! Faults on demand: what real clusters do to their clients, at the one place that every request passes.
//!
//! Chance is drawn from a seed, and for each user, verb and resource apart: the n-th such request fares the same under
//! the same seed, however requests of others are mixed with it.

mod admin;
mod line;
mod spec;
mod watching;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

pub use admin::{PATH, answer};
pub use line::{Gate, Line, Peer, local};
pub use spec::{ErrorRate, FaultSpec, Outage, STATUSES, Selection, VERBS};
pub use watching::{Strike, WatchFaults};

use super::failure::Failure;
use super::rbac::Attributes;

/// What faults are chosen by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Request {
    /// Who asks.
    pub user: Box<str>,
    /// The verb as RBAC has it.
    pub verb: &'static str,
    /// API group; empty for the core, and for what is no resource.
    pub group: Box<str>,
    /// Plural name; empty for what is no resource.
    pub resource: Box<str>,
    /// The subresource; empty for none.
    pub subresource: Box<str>,
    /// The object; empty for none.
    pub name: String,
}

impl Request {
    /// What somebody asks for. A verb that no selection can name is none.
    pub fn of(user: &str, asked: &Attributes) -> Self {
        Self {
            user: user.into(),
            verb: VERBS.into_iter().find(|verb| *verb == asked.verb).unwrap_or_default(),
            group: asked.group.as_str().into(),
            resource: asked.resource.as_str().into(),
            subresource: asked.subresource.as_str().into(),
            name: asked.name.clone(),
        }
    }
}

/// The faults that are on, if any.
#[derive(Debug)]
pub struct Faults {
    active: watch::Sender<Option<Arc<Active>>>,
    generations: AtomicU64,
}

/// One order of faults.
#[derive(Debug)]
struct Active {
    spec: FaultSpec,
    seed: u64,
    /// Orders are counted: an open watch tells by this which came after it.
    generation: u64,
    since: Timestamp,
    until: Option<Timestamp>,
    /// What the store was at: nothing before it can be resumed from, where watches were to expire.
    version: u64,
    /// How often each kind of request has been seen.
    seen: Mutex<HashMap<u64, u64>>,
    tally: Tally,
}

/// How often each fault has struck.
#[derive(Debug, Default)]
struct Tally {
    requests: AtomicU64,
    delayed: AtomicU64,
    errors: [AtomicU64; STATUSES.len()],
    resets: AtomicU64,
    dropped: AtomicU64,
    expired: AtomicU64,
    refusals: AtomicU64,
}

/// An error that is to be answered once the request has had its effect.
#[derive(Debug)]
#[must_use]
pub struct Afterwards(Option<Failure>);

impl Afterwards {
    /// What is answered in the place of a success.
    pub fn instead_of<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        match (self.0, result) {
            (Some(failure), Ok(_)) => Err(failure),
            (_, result) => result,
        }
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self { active: watch::Sender::new(None), generations: AtomicU64::new(0) }
    }
}

impl Faults {
    /// Puts faults in the place of those that are on.
    pub fn set(self: &Arc<Self>, spec: FaultSpec, version: u64) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let since = Timestamp::now();
        let duration = spec.duration_ms.map(Duration::from_millis);
        let active = Active {
            seed: spec.seed.unwrap_or_else(|| fastrand::u64(..1 << 53)),
            spec,
            generation,
            since,
            until: duration.and_then(|duration| since.checked_add(duration).ok()),
            version,
            seen: Mutex::default(),
            tally: Tally::default(),
        };
        self.active.send_replace(Some(Arc::new(active)));
        if let Some(duration) = duration {
            let faults = Arc::downgrade(self);
            tokio::spawn(async move {
                tokio::time::sleep(duration).await;
                if let Some(faults) = faults.upgrade() {
                    faults.clear_if(|active| active.generation == generation);
                }
            });
        }
    }

    /// Ends all faults.
    pub fn clear(&self) {
        self.clear_if(|_| true);
    }

    fn clear_if(&self, meant: impl Fn(&Active) -> bool) {
        self.active.send_if_modified(|active| {
            let clear = active.as_ref().is_some_and(|active| meant(active));
            if clear {
                *active = None;
            }
            clear
        });
    }

    fn current(&self) -> Option<Arc<Active>> {
        self.active.borrow().clone()
    }

    /// What is on and how often it struck; an empty object where nothing is.
    pub fn describe(&self) -> Value {
        let Some(active) = self.current() else { return json!({}) };
        let mut value = json!(active.spec);
        value["seed"] = active.seed.into();
        value["status"] = active.tally.describe();
        value["status"]["since"] = active.since.to_string().into();
        if let Some(until) = active.until {
            value["status"]["until"] = until.to_string().into();
        }
        value
    }

    /// Breaks the connection of a request of anybody, where an outage resets everybody's.
    pub async fn meet_anybody(&self, peer: Option<&Peer>) {
        let (Some(active), Some(peer)) = (self.current(), peer) else { return };
        if active.spec.outage == Outage::Reset && active.spec.target == Selection::default() {
            count(&active.tally.resets);
            peer.reset();
            // The connection is gone, and this with it.
            std::future::pending::<()>().await;
        }
    }

    /// Lets a request meet its faults: it is late, it fails, its connection breaks, or nothing happens to it.
    ///
    /// # Errors
    /// The error that chance has chosen for it.
    pub async fn meet(
        &self,
        user: &str,
        asked: &Attributes,
        peer: Option<&Peer>,
    ) -> Result<Afterwards, Failure> {
        // What comes over the machine's own socket is not subject to faults.
        let (Some(active), Some(peer)) = (self.current(), peer) else { return Ok(Afterwards(None)) };
        let request = &Request::of(user, asked);
        if !active.spec.target.matches(request) {
            return Ok(Afterwards(None));
        }
        count(&active.tally.requests);
        if active.spec.outage == Outage::Reset {
            count(&active.tally.resets);
            peer.reset();
            // The connection is gone, and this with it.
            return std::future::pending().await;
        }
        let (delay, error) = active.draw(request);
        if !delay.is_zero() {
            count(&active.tally.delayed);
            tokio::time::sleep(delay).await;
        }
        let Some(error) = error else { return Ok(Afterwards(None)) };
        if let Some(index) = STATUSES.iter().position(|status| *status == error.status) {
            count(&active.tally.errors[index]);
        }
        let failure = failure(error, request);
        let writes = matches!(request.verb, "create" | "update" | "patch" | "delete" | "deletecollection");
        if error.after && writes { Ok(Afterwards(Some(failure))) } else { Err(failure) }
    }

    /// Whether nobody is to be let in at all.
    pub fn is_refusing(&self) -> bool {
        self.active.borrow().as_ref().is_some_and(|active| active.spec.outage == Outage::Refuse)
    }
}

impl Active {
    /// The fate of a request.
    fn draw(&self, request: &Request) -> (Duration, Option<&ErrorRate>) {
        let mut chance = self.chance(request);
        let jitter = if self.spec.jitter_ms == 0 { 0 } else { chance.u64(..=self.spec.jitter_ms) };
        let mut left = chance.f64();
        let mut chosen = None;
        for error in self.spec.errors.iter().filter(|error| error.fits(request)) {
            if left < error.rate {
                chosen = Some(error);
                break;
            }
            left -= error.rate;
        }
        (Duration::from_millis(self.spec.latency_ms + jitter), chosen)
    }

    /// The next numbers for requests of this kind.
    fn chance(&self, request: &Request) -> fastrand::Rng {
        let hash = |parts: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            parts(&mut hasher);
            hasher.finish()
        };
        let Request { user, verb, group, resource, subresource, name: _ } = request;
        let kind = hash(&|hasher| (user, verb, group, resource, subresource).hash(hasher));
        let turn = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = seen.entry(kind).or_default();
            *turn += 1;
            *turn
        };
        fastrand::Rng::with_seed(hash(&|hasher| (self.seed, kind, turn).hash(hasher)))
    }
}

impl ErrorRate {
    /// A real API server answers 409 to writes only.
    fn fits(&self, request: &Request) -> bool {
        self.status != 409 || !matches!(request.verb, "get" | "list" | "watch")
    }
}

fn failure(error: &ErrorRate, request: &Request) -> Failure {
    let Request { group, resource, name, .. } = request;
    let again = error.retry_after_seconds;
    match error.status {
        409 => Failure::outrun(group, resource, name),
        429 => Failure::overloaded(again.unwrap_or(1)),
        503 => {
            Failure::unavailable("the server is currently unable to handle the request").retry_after(again)
        }
        504 => Failure::timeout().retry_after(again),
        _ => Failure::internal("a fault was asked for").retry_after(again),
    }
}

fn count(number: &AtomicU64) {
    number.fetch_add(1, Ordering::Relaxed);
}

impl Tally {
    fn describe(&self) -> Value {
        let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let errors: serde_json::Map<String, Value> = STATUSES
            .iter()
            .zip(&self.errors)
            .filter(|(_, times)| number(times) > 0)
            .map(|(status, times)| (status.to_string(), number(times).into()))
            .collect();
        json!({
            "requests": number(&self.requests),
            "delayed": number(&self.delayed),
            "errors": errors,
            "resets": number(&self.resets),
            "refusals": number(&self.refusals),
            "watchesDropped": number(&self.dropped),
            "watchesExpired": number(&self.expired),
        })
    }
}

#[cfg(test)]
mod tests;
