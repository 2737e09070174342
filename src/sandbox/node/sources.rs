//! The ConfigMaps, Secrets and volume claims that a pod refers to, kept up to date by watches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The driver of the volumes that this node holds.
pub const VOLUME_DRIVER: &str = "sandbox.dbctl";

/// An object that a pod refers to by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ref {
    ConfigMap(String),
    Secret(String),
    Claim(String),
}

impl fmt::Display for Ref {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ref::ConfigMap(name) => write!(formatter, "configmap {name:?}"),
            Ref::Secret(name) => write!(formatter, "secret {name:?}"),
            Ref::Claim(name) => write!(formatter, "persistentvolumeclaim {name:?}"),
        }
    }
}

/// What a pod gets from such an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Data(BTreeMap<String, Vec<u8>>),
    /// The handle of a bound volume.
    Volume(String),
    /// Why the volume cannot be had.
    Unusable(String),
}

/// What is known so far: an absent entry has not been looked up yet, an empty one does not exist.
pub(super) type Contents = BTreeMap<Ref, Option<Content>>;

/// All that a pod refers to.
pub(super) fn references(pod: &Pod) -> BTreeSet<Ref> {
    let mut found = BTreeSet::new();
    if let Some(spec) = &pod.spec {
        from_volumes(spec, &mut found);
        from_environment(spec, &mut found);
    }
    found
}

fn from_volumes(spec: &PodSpec, found: &mut BTreeSet<Ref>) {
    for volume in spec.volumes.iter().flatten() {
        if let Some(map) = &volume.config_map {
            found.insert(Ref::ConfigMap(map.name.clone()));
        }
        if let Some(name) = volume.secret.as_ref().and_then(|secret| secret.secret_name.clone()) {
            found.insert(Ref::Secret(name));
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            found.insert(Ref::Claim(claim.claim_name.clone()));
        }
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            found.extend(source.config_map.iter().map(|map| Ref::ConfigMap(map.name.clone())));
            found.extend(source.secret.iter().map(|secret| Ref::Secret(secret.name.clone())));
        }
    }
}

fn from_environment(spec: &PodSpec, found: &mut BTreeSet<Ref>) {
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for source in container.env_from.iter().flatten() {
            found.extend(source.config_map_ref.iter().map(|map| Ref::ConfigMap(map.name.clone())));
            found.extend(source.secret_ref.iter().map(|secret| Ref::Secret(secret.name.clone())));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            found.extend(source.config_map_key_ref.iter().map(|map| Ref::ConfigMap(map.name.clone())));
            found.extend(source.secret_key_ref.iter().map(|secret| Ref::Secret(secret.name.clone())));
        }
    }
}

/// Watches over what one pod refers to. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Sources {
    pub contents: watch::Receiver<Contents>,
    _watches: JoinSet<()>,
}

impl Sources {
    pub fn watch(client: &Client, namespace: &str, references: BTreeSet<Ref>) -> Self {
        let (sender, contents) = watch::channel(Contents::new());
        let mut watches = JoinSet::new();
        for reference in references {
            let (client, namespace, sender) = (client.clone(), namespace.to_owned(), sender.clone());
            watches.spawn(async move { follow(client, &namespace, reference, sender).await });
        }
        Self { contents, _watches: watches }
    }
}

type Sender = watch::Sender<Contents>;

async fn follow(client: Client, namespace: &str, reference: Ref, sender: Sender) {
    match &reference {
        Ref::ConfigMap(name) => {
            let api = Api::<ConfigMap>::namespaced(client, namespace);
            follow_data(api, name, &reference, &sender, |map| {
                let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
                text.chain(map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0))).collect()
            })
            .await;
        }
        Ref::Secret(name) => {
            let api = Api::<Secret>::namespaced(client, namespace);
            follow_data(api, name, &reference, &sender, |secret| {
                secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()
            })
            .await;
        }
        Ref::Claim(name) => {
            let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
            let events = objects(api, name);
            futures::pin_mut!(events);
            while let Some(claim) = events.next().await {
                let content = match claim {
                    Some(claim) => volume_of(&client, &claim).await,
                    None => None,
                };
                put(&sender, &reference, content);
            }
        }
    }
}

async fn follow_data<K>(
    api: Api<K>,
    name: &str,
    reference: &Ref,
    sender: &Sender,
    data: impl Fn(K) -> BTreeMap<String, Vec<u8>>,
) where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let events = objects(api, name);
    futures::pin_mut!(events);
    while let Some(object) = events.next().await {
        put(sender, reference, object.map(|object| Content::Data(data(object))));
    }
}

fn put(sender: &Sender, reference: &Ref, content: Option<Content>) {
    sender.send_if_modified(|contents| {
        if contents.get(reference) == Some(&content) {
            return false;
        }
        contents.insert(reference.clone(), content);
        true
    });
}

/// The states of one named object: what it is, or that it is not there.
fn objects<K>(api: Api<K>, name: &str) -> impl futures::Stream<Item = Option<K>> + Send
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut seen = false;
    watcher(api, config)
        .default_backoff()
        .inspect_err(|error| tracing::debug!(%error, "a watch of a pod's object is retried"))
        .filter_map(|event| std::future::ready(event.ok()))
        .filter_map(move |event| {
            let state = match event {
                watcher::Event::Init => {
                    seen = false;
                    None
                }
                watcher::Event::InitApply(object) => {
                    seen = true;
                    Some(Some(object))
                }
                watcher::Event::Apply(object) => Some(Some(object)),
                watcher::Event::InitDone if seen => None,
                watcher::Event::InitDone | watcher::Event::Delete(_) => Some(None),
            };
            std::future::ready(state)
        })
}

/// The volume that a claim is bound to, once it is.
async fn volume_of(client: &Client, claim: &PersistentVolumeClaim) -> Option<Content> {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let name =
        claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty())?;
    if phase != Some("Bound") {
        return None;
    }
    let volumes = Api::<PersistentVolume>::all(client.clone());
    loop {
        match volumes.get_opt(&name).await {
            Ok(Some(volume)) => return Some(handle(&volume)),
            Ok(None) => return Some(Content::Unusable(format!("persistentvolume {name:?} not found"))),
            Err(error) => tracing::warn!(%error, "failed to read persistent volume {name}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn handle(volume: &PersistentVolume) -> Content {
    let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
    match csi.filter(|csi| csi.driver == VOLUME_DRIVER) {
        // The handle is a directory's name, and no path to elsewhere.
        Some(csi) if is_name(&csi.volume_handle) => Content::Volume(csi.volume_handle.clone()),
        Some(csi) => Content::Unusable(format!("volume handle {:?} is not a plain name", csi.volume_handle)),
        None => Content::Unusable(format!("this node provides volumes of driver {VOLUME_DRIVER} only")),
    }
}

/// Whether a text can be one directory's name.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_refer_to_an_object_is_seen() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s1"}}]}],
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "m1"}}], "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "m2", "key": "k"}}},
            ]}],
            "volumes": [
                {"name": "1", "configMap": {"name": "m3"}},
                {"name": "2", "secret": {"secretName": "s3"}},
                {"name": "3", "persistentVolumeClaim": {"claimName": "p"}},
                {"name": "4", "projected": {"sources": [{"configMap": {"name": "m4"}}, {"secret": {"name": "s4"}}]}},
                {"name": "5", "emptyDir": {}},
            ],
        }}))
        .unwrap();
        let maps = ["m1", "m2", "m3", "m4"].map(|name| Ref::ConfigMap(name.to_owned()));
        let secrets = ["s1", "s2", "s3", "s4"].map(|name| Ref::Secret(name.to_owned()));
        let expected: BTreeSet<Ref> =
            maps.into_iter().chain(secrets).chain([Ref::Claim("p".to_owned())]).collect();
        assert_eq!(references(&pod), expected);
    }

    #[test]
    fn only_our_own_volumes_are_mounted() {
        let volume = |spec| handle(&serde_json::from_value(json!({ "spec": spec })).unwrap());
        let csi = |driver: &str, handle: &str| json!({"csi": {"driver": driver, "volumeHandle": handle}});
        assert_eq!(volume(csi(VOLUME_DRIVER, "pvc-1")), Content::Volume("pvc-1".to_owned()));
        for spec in [
            csi(VOLUME_DRIVER, "../x"),
            csi(VOLUME_DRIVER, ".."),
            csi("other", "x"),
            json!({"hostPath": {"path": "/"}}),
        ] {
            assert!(matches!(volume(spec.clone()), Content::Unusable(_)), "{spec}");
        }
    }
}
