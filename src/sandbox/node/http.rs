//! What the API server asks a node: the logs of its containers, and ways into them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::attach::attach;
use super::context::Context;
use super::exec::exec;
use super::faults::http as faults;
use super::forward::port_forward;
use super::guard::{self, Guard};
use super::logs::{Follower, Select, limit};
use super::run::Run;

/// How often a followed log is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// The options of `pods/log`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Options {
    follow: Option<String>,
    tail_lines: Option<usize>,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    timestamps: Option<String>,
    previous: Option<String>,
    limit_bytes: Option<usize>,
}

fn yes(option: Option<&String>) -> bool {
    option.is_some_and(|value| matches!(value.as_str(), "" | "1" | "t" | "T" | "true" | "True" | "TRUE"))
}

impl Options {
    fn select(&self, now: Timestamp) -> Result<Select, String> {
        let since_time = match &self.since_time {
            Some(text) => Some(text.parse().map_err(|_| format!("invalid sinceTime {text:?}"))?),
            None => None,
        };
        let since_seconds =
            self.since_seconds.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
        let timestamps = yes(self.timestamps.as_ref());
        Ok(Select { tail: self.tail_lines, since: since_time.or(since_seconds), timestamps })
    }
}

/// Serves until it is told to stop.
pub(super) async fn serve(
    context: Arc<Context>,
    listener: TcpListener,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/attach/{namespace}/{pod}/{container}", any(attach))
        .route("/faults", get(faults::list))
        .route("/faults/{namespace}/{pod}", get(faults::get).put(faults::replace).delete(faults::clear))
        .route("/exec/{namespace}/{pod}/{container}", any(exec))
        .route("/portForward/{namespace}/{pod}", any(port_forward))
        .route("/healthz", get(|| async { "ok" }))
        .layer(from_fn_with_state(Guard::new(context.client.clone(), &context.config.name), guard::check))
        .with_state((context, stop.clone()));
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// What all handlers get.
pub(super) type Shared = (Arc<Context>, CancellationToken);

async fn container_logs(
    State((context, stop)): State<Shared>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(options): Query<Options>,
) -> Response {
    let refuse = |code: StatusCode, message: String| (code, message).into_response();
    let Some(run) = context.pod(&namespace, &pod) else {
        return refuse(StatusCode::NOT_FOUND, format!("pod {pod:?} is not on this node"));
    };
    let Some(status) = run.status(&container) else {
        return refuse(
            StatusCode::NOT_FOUND,
            format!("container {container:?} in pod {pod:?} is not available"),
        );
    };
    let select = match options.select(Timestamp::now()) {
        Ok(select) => select,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
    };
    let previous = yes(options.previous.as_ref());
    let Some(start) = which_start(&run, &container, status.restart_count, previous) else {
        let message = if previous {
            format!("previous terminated container {container:?} in pod {pod:?} not found")
        } else {
            let reason = status.state.and_then(|state| state.waiting).and_then(|waiting| waiting.reason);
            let reason = reason.unwrap_or_else(|| "ContainerCreating".to_owned());
            format!("container {container:?} in pod {pod:?} is waiting to start: {reason}")
        };
        return refuse(StatusCode::BAD_REQUEST, message);
    };
    let follower = Follower::new(run.log(&container, start), select);
    let follow = yes(options.follow.as_ref()) && !previous;
    let reader =
        Reader { run, container, start, follower, follow, left: options.limit_bytes, stop, done: false };
    let body = Body::from_stream(futures::stream::unfold(reader, Reader::next));
    ([(http::header::CONTENT_TYPE, "text/plain")], body).into_response()
}

/// The start whose log is meant. A container that waits for its next start still has the log of its last one.
fn which_start(run: &Run, container: &str, restarts: i32, previous: bool) -> Option<i32> {
    let exists = |start: i32| start >= 0 && run.log(container, start).exists();
    let latest = [restarts, restarts - 1].into_iter().find(|start| exists(*start))?;
    if previous { Some(latest - 1).filter(|start| exists(*start)) } else { Some(latest) }
}

struct Reader {
    run: Arc<Run>,
    container: String,
    start: i32,
    follower: Follower,
    follow: bool,
    left: Option<usize>,
    stop: CancellationToken,
    done: bool,
}

impl Reader {
    /// The next piece of the answer.
    async fn next(mut self) -> Option<(std::io::Result<Bytes>, Self)> {
        loop {
            if self.done || self.left == Some(0) {
                return None;
            }
            // Asked before reading: what is written up to the end is then in what is read.
            let ended = !self.follow || self.is_over();
            let mut bytes = match self.follower.more() {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.done = true;
                    return Some((Err(error), self));
                }
            };
            self.done = ended;
            limit(&mut bytes, &mut self.left);
            if !bytes.is_empty() {
                return Some((Ok(bytes.into()), self));
            }
            if !self.done {
                let stop = self.stop.clone();
                tokio::select! {
                    () = tokio::time::sleep(FOLLOW_EVERY) => {}
                    () = stop.cancelled() => return None,
                }
            }
        }
    }

    /// Whether nothing will be added to this log.
    fn is_over(&self) -> bool {
        let Some(status) = self.run.status(&self.container) else { return true };
        let state = status.state.unwrap_or_default();
        // Right after a start its log is there before its state is; waiting for the next one is not that.
        let backs_off =
            state.waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"));
        status.restart_count != self.start || state.terminated.is_some() || backs_off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_kubernetes_writes_them() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let parse = |text: &str| {
            let uri: http::Uri = format!("/x?{text}").parse().unwrap();
            Query::<Options>::try_from_uri(&uri).unwrap().0
        };
        let options = parse("follow=true&tailLines=5&timestamps=true&limitBytes=9&previous=false");
        let select = options.select(now).unwrap();
        assert_eq!((select.tail, select.timestamps, options.limit_bytes), (Some(5), true, Some(9)));
        assert!(yes(options.follow.as_ref()) && !yes(options.previous.as_ref()));
        let since =
            |text: &str| parse(text).select(now).map(|select| select.since.map(|time| time.to_string()));
        assert_eq!(since("sinceSeconds=10").unwrap().as_deref(), Some("2026-01-01T00:00:50Z"));
        assert_eq!(since("sinceTime=2026-01-01T00:00:07Z").unwrap().as_deref(), Some("2026-01-01T00:00:07Z"));
        assert_eq!(since("").unwrap(), None);
        assert!(since("sinceTime=yesterday").is_err());
    }
}
