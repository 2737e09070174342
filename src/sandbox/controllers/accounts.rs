//! The service account `default` of every namespace.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ObjectMeta, PostParams};

use super::context::Context;
use super::error::is_there;
use super::meta::{Key, is_deleting, name, namespace};
use super::queue::{Outcome, Queue};
use super::run::{Tasks, feed};

const DEFAULT: &str = "default";

/// Starts the controller.
pub(super) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let (queue, requests) = Queue::new();
    feed(&context.caches.namespaces, &queue, |change| {
        change.new.as_ref().map(|each| name(&each.metadata).to_owned())
    });
    feed(&context.caches.accounts, &queue, |change| {
        let gone = change.old.as_ref().filter(|_| change.new.is_none());
        gone.filter(|account| name(&account.metadata) == DEFAULT)
            .map(|each| namespace(&each.metadata).to_owned())
    });
    tasks.controller("serviceaccount", requests, 2, |context, space: String| async move {
        reconcile(&context, &space).await
    });
}

async fn reconcile(context: &Context, space: &str) -> Outcome {
    let wanted =
        context.caches.namespaces.get(&Key::new("", space)).is_some_and(|each| !is_deleting(&each.metadata));
    if !wanted || context.caches.accounts.get(&Key::new(space, DEFAULT)).is_some() {
        return Ok(None);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some(DEFAULT.to_owned()), ..Default::default() },
        ..Default::default()
    };
    match context.api(space).create(&PostParams::default(), &account).await {
        Err(error) if !is_there(&error) => Err(error.into()),
        _ => Ok(None),
    }
}
