//! The ConfigMap `kube-root-ca.crt` of every namespace: by it, pods trust the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use serde_json::json;

use super::cache::Cache;
use super::context::Context;
use super::error::{is_not_found, is_there};
use super::meta::{Key, is_deleting, name, namespace};
use super::queue::{Outcome, Queue};
use super::run::{Tasks, feed};
use super::write::merge;

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const NOTE: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);

/// Starts the controller, where the authority's certificate is known.
pub(super) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let Some(certificate) = context.config.root_ca.clone().map(Arc::<str>::from) else { return };
    let maps = Cache::<ConfigMap>::new();
    let (queue, requests) = Queue::new();
    feed(&context.caches.namespaces, &queue, |change| {
        change.new.as_ref().map(|each| name(&each.metadata).to_owned())
    });
    feed(&maps, &queue, |change| change.latest().map(|map| namespace(&map.metadata).to_owned()));
    tasks.watch_named(maps.clone(), kube::Api::all(context.client.clone()), NAME);
    tasks.controller("root-ca-certificate-publisher", requests, 2, move |context, space: String| {
        let (maps, certificate) = (maps.clone(), Arc::clone(&certificate));
        async move {
            maps.synced().await;
            reconcile(&context, &maps, &certificate, &space).await
        }
    });
}

fn wanted(certificate: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            annotations: Some(BTreeMap::from([(NOTE.0.to_owned(), NOTE.1.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(FILE.to_owned(), certificate.to_owned())])),
        ..ConfigMap::default()
    }
}

async fn reconcile(context: &Context, maps: &Cache<ConfigMap>, certificate: &str, space: &str) -> Outcome {
    let lives =
        context.caches.namespaces.get(&Key::new("", space)).is_some_and(|each| !is_deleting(&each.metadata));
    if !lives {
        return Ok(None);
    }
    let (api, wanted) = (context.api::<ConfigMap>(space), wanted(certificate));
    let Some(found) = maps.get(&Key::new(space, NAME)) else {
        return match api.create(&PostParams::default(), &wanted).await {
            // A namespace that went meanwhile, or a map that came.
            Err(error) if !is_there(&error) && !is_not_found(&error) && !is_forbidden(&error) => {
                Err(error.into())
            }
            _ => Ok(None),
        };
    };
    let noted = found.metadata.annotations.as_ref().and_then(|notes| notes.get(NOTE.0));
    if found.data == wanted.data && noted.is_some_and(|note| note == NOTE.1) {
        return Ok(None);
    }
    let mut patch =
        json!({ "metadata": { "annotations": wanted.metadata.annotations }, "data": wanted.data });
    // A merge patch takes away only what it names.
    for other in found.data.iter().flat_map(BTreeMap::keys).filter(|key| *key != FILE) {
        patch["data"][other] = serde_json::Value::Null;
    }
    merge(&api, &found, patch).await.map(|()| None)
}

/// What a namespace that is being emptied says to everything new.
fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}
