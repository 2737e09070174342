//! Watches: what is there, then every change, one JSON document per chunk.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::call::Call;
use super::failure::Failure;
use super::faults::{self, Strike, WatchFaults};
use super::filter::Filter;
use super::rbac::Attributes;
use super::request::Form;
use super::store::{Change, Record, StoreError, TooOld};
use crate::sandbox::object::FieldError;

/// How long a watch lasts whose client does not say: within the half hour to an hour of a real API server.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// How often a watch that wants bookmarks gets one.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// One watch.
struct Watch {
    call: Call,
    filter: Filter,
    /// Everything up to this version was sent or is about to be.
    cursor: u64,
    initial: std::vec::IntoIter<(Arc<str>, Arc<Record>)>,
    /// Whether the end of what was there is still to be announced.
    announce_end: bool,
    changes: std::vec::IntoIter<Change>,
    /// Whether there may be changes that were not fetched.
    stale: bool,
    changed: Receiver<u64>,
    bookmark_due: bool,
    bookmarks: Option<Interval>,
    deadline: Instant,
    gone: CancellationToken,
    faults: WatchFaults,
    ended: bool,
}

/// Opens the watch that a list request with `watch=true` asks for.
///
/// # Errors
/// 400 for parameters that do not parse or fit together, 504 for a version from the future.
pub fn open(call: Call) -> Result<Response, Failure> {
    let watch = Watch::new(call)?;
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let document = watch.next().await?;
        Some((document, watch))
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn check_options(version_match: Option<&str>, send_initial: Option<bool>) -> Result<(), Failure> {
    const FIELD: &str = "resourceVersionMatch";
    let mut errors = Vec::new();
    if send_initial.is_some() && version_match != Some("NotOlderThan") {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(FIELD, why));
    }
    if let Some(found) = version_match {
        if send_initial.is_none() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(FIELD, why));
        }
        if found != "NotOlderThan" {
            errors.push(FieldError::not_supported(FIELD, &json!(found), ["NotOlderThan"]));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::options("ListOptions", &errors)) }
}

impl Watch {
    fn new(call: Call) -> Result<Self, Failure> {
        let mut filter = Filter::parse(&call.resource, call.namespace.as_deref(), &call.query)?;
        if let Some(name) = &call.name {
            // A watch of one object by its path.
            filter.prefix = call.resource.key(call.namespace.as_deref(), name);
            filter.exact = true;
        }
        let asked = call.query.resource_version().map_err(|_| {
            Failure::no_watch_version(&call.resource, call.query.get("resourceVersion").unwrap_or_default())
        })?;
        let send_initial = call.query.flag_or("sendInitialEvents");
        check_options(call.query.get("resourceVersionMatch"), send_initial)?;
        let store = &call.app.store;
        let changed = store.subscribe(&call.resource.storage);
        let current = store.version();
        let from_state = send_initial.unwrap_or(asked.unwrap_or(0) == 0);
        let (cursor, initial) = if from_state {
            let listing = store.list(&call.resource.storage, &filter.prefix, None);
            (listing.version, listing.items)
        } else {
            (asked.filter(|asked| *asked > 0).unwrap_or(current), Vec::new())
        };
        let wants_bookmarks = call.query.flag("allowWatchBookmarks");
        let timeout = call.query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        let timeout = timeout.filter(|seconds| *seconds > 0).map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        call.query.number("limit")?;
        let now = Instant::now();
        let custom = call.resource.custom.as_ref();
        Ok(Self {
            cursor,
            initial: initial.into_iter(),
            announce_end: send_initial == Some(true) && wants_bookmarks,
            changes: Vec::new().into_iter(),
            stale: true,
            changed,
            bookmark_due: false,
            bookmarks: wants_bookmarks.then(|| {
                let mut ticks = interval_at(now + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                ticks
            }),
            deadline: now + timeout,
            gone: custom.map(|custom| custom.gone.clone()).unwrap_or_default(),
            faults: call.watch_faults(if from_state { None } else { asked }),
            ended: false,
            filter,
            call,
        })
    }

    /// The next document; none when the watch has ended, an error when its connection is to break.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self.faults.now() {
                Some(Strike::Drop) if !self.ended => {
                    self.ended = true;
                    return Some(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Some(Strike::Expire) if !self.ended => {
                    let oldest = self.call.app.store.version() + 1;
                    return Some(Ok(self.fail(&Failure::too_old(self.cursor, TooOld { oldest }))));
                }
                _ => {}
            }
            if self.faults.stalled() {
                tokio::select! {
                    () = self.call.app.stop.cancelled() => return None,
                    () = self.faults.stirs() => {
                        // What happened meanwhile is told even where the watch's time is over.
                        self.stale = true;
                        continue;
                    }
                }
            }
            match self.ready() {
                Ok(Some(document)) => return Some(Ok(document)),
                Ok(None) if self.ended => return None,
                Ok(None) => {}
                Err(error) => return Some(Ok(self.fail(&error.into()))),
            }
            if !self.wait().await {
                return None;
            }
        }
    }

    /// What can be sent without waiting.
    fn ready(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        while let Some((key, record)) = self.initial.next() {
            if self.filter.matches(&self.call.resource, &key, &record)? {
                return self.event("ADDED", &record).map(Some);
            }
        }
        if std::mem::take(&mut self.announce_end) {
            return Ok(Some(self.bookmark(true)));
        }
        loop {
            while let Some(change) = self.changes.next() {
                if let Some(document) = self.shown_change(&change)? {
                    return Ok(Some(document));
                }
            }
            if !std::mem::take(&mut self.stale) {
                break;
            }
            match self.call.app.store.changes_since(&self.call.resource.storage, self.cursor) {
                Ok((version, changes)) => {
                    // A watch may begin in the future: until then it says nothing.
                    self.cursor = self.cursor.max(version);
                    self.changes = changes.into_iter();
                }
                Err(error) => return Ok(Some(self.fail(&Failure::too_old(self.cursor, error)))),
            }
        }
        Ok(std::mem::take(&mut self.bookmark_due).then(|| self.bookmark(false)))
    }

    /// Waits for something to happen; false when the watch is over.
    async fn wait(&mut self) -> bool {
        let tick = async {
            match &mut self.bookmarks {
                Some(ticks) => ticks.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.call.app.stop.cancelled() => return false,
            () = self.gone.cancelled() => return false,
            () = sleep_until(self.deadline) => return false,
            () = self.faults.stirs() => return true,
            _ = tick => self.bookmark_due = true,
            changed = self.changed.changed() => {
                if changed.is_err() {
                    return false;
                }
            }
        }
        // A bookmark, too, speaks only of what was sent before it.
        self.stale = true;
        true
    }

    /// A change as this watch sees it: an object that comes to match is new, one that ceases to is deleted.
    fn shown_change(&self, change: &Change) -> Result<Option<Bytes>, StoreError> {
        let matching = |record: &Option<Arc<Record>>| match record {
            Some(record) => self.filter.matches(&self.call.resource, &change.key, record),
            None => Ok(false),
        };
        let before = change.old.as_ref().filter(|_| matching(&change.old).unwrap_or(false));
        let after = if matching(&change.new)? { change.new.as_ref() } else { None };
        match (before, after) {
            (None, None) => Ok(None),
            (None, Some(record)) => self.shared_event("ADDED", change, record).map(Some),
            (Some(_), Some(record)) => self.shared_event("MODIFIED", change, record).map(Some),
            (Some(record), None) => {
                self.shared_event("DELETED", change, &record.at(change.version)).map(Some)
            }
        }
    }

    /// An event that other watches send too.
    fn shared_event(
        &self,
        kind: &'static str,
        change: &Change,
        record: &Record,
    ) -> Result<Bytes, StoreError> {
        let form = match self.call.form {
            Form::Object => "object",
            Form::Metadata => "metadata",
            // A row says how old the object is now, and has what this watch wants of it.
            Form::Table => return self.event(kind, record),
        };
        let api_version = Arc::clone(&self.call.resource.name.api_version);
        change.documents.get((kind, form, api_version), || self.event(kind, record))
    }

    fn event(&self, kind: &str, record: &Record) -> Result<Bytes, StoreError> {
        let mut out = Vec::with_capacity(record.size() + 192);
        out.extend_from_slice(format!("{{\"type\":\"{kind}\",\"object\":").as_bytes());
        self.call.write_record(record, false, &mut out)?;
        out.extend_from_slice(b"}\n");
        Ok(out.into())
    }

    fn bookmark(&self, end_of_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string()});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let name = &self.call.resource.name;
        let object = match self.call.form {
            Form::Object => json!({"kind": name.kind, "apiVersion": name.api_version, "metadata": metadata}),
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Table => self.call.table(&[], &metadata),
        };
        document("BOOKMARK", &object)
    }

    /// Ends the watch with an error that the client reads as an event.
    fn fail(&mut self, failure: &Failure) -> Bytes {
        self.ended = true;
        document("ERROR", failure.body())
    }
}

impl Call {
    /// The faults of a watch, which resumes from a version or begins with what is there.
    fn watch_faults(&self, resumes: Option<u64>) -> WatchFaults {
        if self.exempt {
            return self.app.faults.of_exempt_watch();
        }
        let (resource, name) = (&self.resource, self.name.as_deref().unwrap_or_default());
        let asked = Attributes::resource("watch", &resource.group, &resource.plural, "", name);
        self.app.faults.of_watch(faults::Request::of(&self.user.username, &asked), resumes)
    }
}

fn document(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    text.into()
}
