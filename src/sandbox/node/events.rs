//! Events about pods, written in the background; what is said again is counted, not repeated.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;

/// How many different events are remembered for counting.
const MEMORY: usize = 1000;

/// Normal or a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Normal,
    Warning,
}

#[derive(Debug)]
struct Said {
    about: ObjectReference,
    kind: Kind,
    reason: &'static str,
    message: String,
}

/// Where events are handed in.
#[derive(Clone, Debug)]
pub(super) struct Events(mpsc::UnboundedSender<Said>);

impl Events {
    /// Starts the writer; it ends when the last handle is dropped.
    pub fn start(client: Client, node: String) -> Self {
        let (sender, inbox) = mpsc::unbounded_channel();
        tokio::spawn(write(client, node, inbox));
        Self(sender)
    }

    /// Says something about a pod, or one of its containers.
    pub fn say(&self, pod: &Pod, container: Option<&str>, kind: Kind, reason: &'static str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|name| format!("spec.containers{{{name}}}")),
        };
        let _ = self.0.send(Said { about, kind, reason, message });
    }
}

/// How often what is said again is counted in the API: probes fail every second while something starts.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// What was said before: its event, how often, and when that was last written.
struct Known {
    name: String,
    count: i32,
    written: Instant,
}

/// Of which object and field, why, and what was said.
type Key = (Option<String>, Option<String>, &'static str, String);

async fn write(client: Client, node: String, mut inbox: mpsc::UnboundedReceiver<Said>) {
    let mut known: HashMap<Key, Known> = HashMap::new();
    while let Some(said) = inbox.recv().await {
        let namespace = said.about.namespace.clone().unwrap_or_default();
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        let key = (said.about.uid.clone(), said.about.field_path.clone(), said.reason, said.message.clone());
        let result = match known.get_mut(&key) {
            Some(event) => {
                event.count += 1;
                if event.written.elapsed() < COUNT_EVERY {
                    continue;
                }
                event.written = Instant::now();
                let patch = json!({"count": event.count, "lastTimestamp": Time(Timestamp::now())});
                api.patch(&event.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
            None => match api.create(&PostParams::default(), &event(&node, said)).await {
                Ok(event) => {
                    if known.len() >= MEMORY {
                        known.clear();
                    }
                    known.insert(key, Known { name: event.name_any(), count: 1, written: Instant::now() });
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = result {
            tracing::debug!(%error, "an event could not be written");
        }
    }
}

fn event(node: &str, said: Said) -> Event {
    let now = Time(Timestamp::now());
    let name = said.about.name.clone().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            // As client-go names them: the object's name and the time.
            name: Some(format!("{name}.{:x}", now.0.as_nanosecond())),
            namespace: said.about.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: said.about,
        type_: Some(format!("{:?}", said.kind)),
        reason: Some(said.reason.to_owned()),
        message: Some(said.message),
        source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node.to_owned()),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    }
}
