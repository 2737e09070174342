//! `/faults`: what the API server's node proxy passes on.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Outcome, Told, Wanted, put};
use crate::sandbox::node::context::Context;
use crate::sandbox::node::run::Run;

type Shared = State<(Arc<Context>, CancellationToken)>;
type Name = Path<(String, String)>;

/// The faults of all pods that have any.
pub(in crate::sandbox::node) async fn list(State((context, _)): Shared) -> Response {
    let mut items = Vec::new();
    for run in context.all_pods() {
        let about = describe(&run, None).await;
        if about["wanted"].as_object().is_some_and(|wanted| !wanted.is_empty()) {
            items.push(about);
        }
    }
    Json(json!({ "items": items })).into_response()
}

/// Those of one pod.
pub(in crate::sandbox::node) async fn get(State((context, _)): Shared, name: Name) -> Response {
    match find(&context, &name) {
        Ok(run) => Json(describe(&run, None).await).into_response(),
        Err(refusal) => *refusal,
    }
}

/// Gives a pod the faults of the body, and no others.
pub(in crate::sandbox::node) async fn replace(
    State((context, _)): Shared,
    name: Name,
    body: Bytes,
) -> Response {
    let refuse = |message: String| (StatusCode::BAD_REQUEST, message).into_response();
    let wanted: Wanted = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => return refuse(format!("the faults cannot be read: {error}")),
    };
    if let Err(message) = wanted.check() {
        return refuse(message.to_owned());
    }
    change(&context, &name, &wanted).await
}

/// Clears all of a pod's.
pub(in crate::sandbox::node) async fn clear(State((context, _)): Shared, name: Name) -> Response {
    change(&context, &name, &Wanted::default()).await
}

async fn change(context: &Arc<Context>, name: &Name, wanted: &Wanted) -> Response {
    let run = match find(context, name) {
        Ok(run) => run,
        Err(refusal) => return *refusal,
    };
    // To its end, even when whoever asked goes away: half a fault could not be cleared.
    let (context, wanted, of) = (Arc::clone(context), wanted.clone(), Arc::clone(&run));
    match tokio::spawn(async move { put(&context, &of, &wanted).await }).await {
        Ok(told) => Json(describe(&run, Some(told)).await).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn find(context: &Context, Path((namespace, name)): &Name) -> Result<Arc<Run>, Box<Response>> {
    let missing = || (StatusCode::NOT_FOUND, format!("pod {name:?} is not on this node")).into_response();
    context.pod(namespace, name).ok_or_else(|| Box::new(missing()))
}

async fn describe(run: &Run, told: Option<Vec<Told>>) -> Value {
    let state = run.faults.lock().await;
    let told = told.unwrap_or_else(|| {
        let effects = state.effects.iter();
        effects
            .map(|(name, reason)| Told { name, status: Outcome::Applied, reason: reason.clone() })
            .collect()
    });
    let mut about = json!({
        "pod": {"namespace": run.namespace, "name": run.name, "uid": run.uid},
        "wanted": state.wanted,
        "faults": told,
    });
    if let (Some(_), Some((until, _))) = (state.wanted.duration_ms, &state.timer) {
        about["until"] = until.to_string().into();
    }
    about
}
