//! Collects, at the edge: what cannot be had is listed, and the rest goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::core::TypeMeta;
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::archive::Files;
use super::redact;
use crate::agent::AGENT_PORT;
use crate::api::{Database, LABEL_DATABASE, Names, VERSION, crd};
use crate::cli::ask;
use crate::cli::install::found;
use crate::cli::output::{self, Document};
use crate::cli::session::Session;
use crate::cli::{events, ui};
use crate::install::{NAMESPACE, resource};
use crate::patroni::REST_PORT;
use crate::plan::Kind;

/// How long one thing may take to be read.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most of each container's log, in bytes: what came last counts. Thousands of lines more help nobody.
const LOG: i64 = 4 << 20;
/// The same in lines, which the API server counts from the end.
const LINES: i64 = 20_000;
/// What Patroni answers whoever asks.
const PATRONI: [&str; 4] = ["patroni", "cluster", "history", "config"];

/// What was collected, with its secrets still in it.
#[derive(Debug, Default)]
pub struct Collected {
    /// Files by their path in the archive.
    pub files: Files,
    /// Values that must not be in any of them, by `SECRET/KEY`.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

impl Collected {
    /// Adds a file.
    pub fn add(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.files.insert(path.into(), text.into());
    }

    /// Adds an object as YAML.
    fn object(&mut self, path: impl Into<String>, object: &Value) {
        match output::document(Document::Yaml, object) {
            Ok(text) => self.add(path, text),
            Err(error) => self.unread.push(error.message),
        }
    }

    /// What was read; why it was not is noted.
    fn take<T>(&mut self, what: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|why| self.unread.push(format!("{what}: {why}"))).ok()
    }
}

async fn read<T>(reading: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// Collects everything about one database.
pub async fn collect(session: &Session, name: &str) -> Collected {
    let mut all = Collected::default();
    let databases: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let database = all.take("the Database", read(databases.get(name)).await);
    if let Some(database) = &database
        && let Ok(value) = serde_json::to_value(database)
    {
        all.object("database.yaml", &value);
    }
    objects(session, name, &mut all).await;
    named_secrets(session, name, database.as_ref(), &mut all).await;
    nodes(session, &mut all).await;
    happened(session, name, &mut all).await;
    let pods = names_of(&all, Kind::Pod);
    logs(session, &session.namespace, "pods", &pods, &mut all).await;
    asked(session, name, &pods, &mut all).await;
    installation(session, &mut all).await;
    all
}

/// All objects that carry the database's label.
async fn objects(session: &Session, name: &str, all: &mut Collected) {
    let labelled = ListParams::default().labels(&format!("{LABEL_DATABASE}={name}"));
    let lists = join_all(Kind::ALL.map(|kind| {
        let types = TypeMeta { api_version: kind.api_version(), kind: kind.as_str().to_owned() };
        let mut resource = resource(&types);
        kind.plural().clone_into(&mut resource.plural);
        let api: Api<DynamicObject> =
            Api::namespaced_with(session.client.clone(), &session.namespace, &resource);
        let labelled = &labelled;
        async move { (kind, types, read(async move { api.list(labelled).await }).await) }
    }));
    for (kind, types, list) in lists.await {
        for mut object in all.take(kind.plural(), list).into_iter().flatten() {
            object.types = Some(types.clone());
            let path = format!("objects/{}/{}.yaml", kind.plural(), object.name_any());
            let Ok(mut value) = serde_json::to_value(&object) else { continue };
            if kind == Kind::Secret {
                redact::secret(&mut value);
            }
            all.object(path, &value);
        }
    }
}

fn names_of(all: &Collected, kind: Kind) -> Vec<String> {
    let within = format!("objects/{}/", kind.plural());
    let names = all.files.keys().filter_map(|path| path.strip_prefix(&within)?.strip_suffix(".yaml"));
    names.map(str::to_owned).collect()
}

/// The values that must not be told: of the database's Secrets, and of those that it names.
async fn named_secrets(session: &Session, name: &str, database: Option<&Database>, all: &mut Collected) {
    let names = Names(name);
    let mut wanted: BTreeSet<String> = names_of(all, Kind::Secret).into_iter().collect();
    wanted.extend([names.internal_secret(), names.app_secret()]);
    if let Some(spec) = database.and_then(|database| serde_json::to_value(&database.spec).ok()) {
        named(&spec, &mut wanted);
    }
    let api: Api<Secret> = Api::namespaced(session.client.clone(), &session.namespace);
    for name in wanted {
        let secret = read(api.get_opt(&name)).await;
        let Some(Some(secret)) = all.take(&format!("Secret {name}"), secret) else { continue };
        for (key, value) in secret.data.iter().flatten() {
            all.secrets.insert(format!("{name}/{key}"), value.0.clone());
        }
        if let Ok(mut value) = serde_json::to_value(&secret) {
            redact::secret(&mut value);
            all.object(format!("objects/secrets/{name}.yaml"), &value);
        }
    }
}

/// Every Secret that a spec names, wherever it does.
fn named(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(name) if key.ends_with("Secret") => drop(found.insert(name.clone())),
                    other => named(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| named(item, found)),
        _ => {}
    }
}

/// The nodes that its pods are on.
async fn nodes(session: &Session, all: &mut Collected) {
    let api: Api<Node> = Api::all(session.client.clone());
    let pods = all.files.iter().filter(|(path, _)| path.starts_with("objects/pods/"));
    let on = pods.filter_map(|(_, text)| {
        serde_yaml::from_str::<Value>(text).ok()?.pointer("/spec/nodeName")?.as_str().map(str::to_owned)
    });
    let on: BTreeSet<String> = on.collect();
    for name in on {
        let node = read(api.get(&name)).await;
        if let Some(value) =
            all.take(&format!("node {name}"), node).and_then(|node| serde_json::to_value(node).ok())
        {
            all.object(format!("nodes/{name}.yaml"), &value);
        }
    }
}

/// Events, as a table in order of time and as they are.
async fn happened(session: &Session, name: &str, all: &mut Collected) {
    let api: Api<Event> = Api::namespaced(session.client.clone(), &session.namespace);
    let Some(list) = all.take("events", read(api.list(&ListParams::default())).await) else { return };
    let mut found: Vec<Event> =
        list.items.into_iter().filter(|event| events::concerns(name, event)).collect();
    found.sort_by_key(events::time);
    let now = jiff::Timestamp::now();
    all.add(
        "events.txt",
        ui::table(&events::HEADER, found.iter().map(|event| events::row(event, true, now))),
    );
    if let Ok(value) = serde_json::to_value(&found) {
        all.object("events.yaml", &value);
    }
}

/// What containers of these pods logged, now and before their last restart.
async fn logs(session: &Session, namespace: &str, within: &str, pods: &[String], all: &mut Collected) {
    let api: Api<Pod> = Api::namespaced(session.client.clone(), namespace);
    let api = &api;
    let read_one = |pod: String, previous: bool| async move {
        let params = LogParams {
            limit_bytes: Some(LOG),
            tail_lines: Some(LINES),
            timestamps: true,
            previous,
            ..Default::default()
        };
        let text = read(api.logs(&pod, &params)).await;
        (pod, previous, text)
    };
    let wanted = pods.iter().flat_map(|pod| [(pod.clone(), false), (pod.clone(), true)]);
    for (pod, previous, text) in join_all(wanted.map(|(pod, previous)| read_one(pod, previous))).await {
        let file = if previous { "previous.log" } else { "current.log" };
        match text {
            Ok(text) => all.add(format!("{within}/{pod}/{file}"), text),
            // That a container never ended before is no loss.
            Err(_) if previous => {}
            Err(why) => all.unread.push(format!("the log of {pod}: {why}")),
        }
    }
}

/// What members answer: Patroni, and the agent.
async fn asked(session: &Session, name: &str, pods: &[String], all: &mut Collected) {
    let members: Vec<&String> = pods.iter().filter(|pod| Names(name).ordinal(pod).is_some()).collect();
    let wanted = members.iter().flat_map(|member| {
        let patroni =
            PATRONI.iter().map(|path| (REST_PORT, format!("/{path}"), format!("patroni-{path}.json")));
        let agent = [
            (AGENT_PORT, "/".to_owned(), "agent.json".to_owned()),
            (AGENT_PORT, "/metrics".to_owned(), "metrics.txt".to_owned()),
        ];
        patroni.chain(agent).map(move |(port, path, file)| (member.as_str(), port, path, file))
    });
    let answers = join_all(wanted.map(|(member, port, path, file)| async move {
        (member, file, ask::fetch(session, member, port, &path).await)
    }));
    for (member, file, answer) in answers.await {
        let what = format!("{file} of {member}");
        if let Some(bytes) = all.take(&what, answer.map_err(|error| error.to_string())) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let pretty = serde_json::from_str::<Value>(&text).ok();
            let pretty = pretty.and_then(|value| serde_json::to_string_pretty(&value).ok());
            all.add(format!("pods/{member}/{file}"), pretty.unwrap_or(text));
        }
    }
}

/// dbctl itself: versions, the controller's objects, Lease and log.
async fn installation(session: &Session, all: &mut Collected) {
    let server = read(session.client.apiserver_version()).await;
    let server = all.take("the API server's version", server);
    let mut versions = format!("dbctl: {VERSION}\n");
    if let Some(server) = server {
        versions.push_str(&format!("kubernetes: {} ({})\n", server.git_version, server.platform));
    }
    all.add("versions.txt", versions);
    let definitions: Api<CustomResourceDefinition> = Api::all(session.client.clone());
    let definition = read(definitions.get_metadata(&crd().name_any())).await;
    if let Some(definition) = all.take("the definition of Databases", definition)
        && let Ok(value) = serde_json::to_value(&definition.metadata)
    {
        all.object("definition-metadata.yaml", &value);
    }
    if let Some(home) = session.place.sandbox() {
        let log = home.state().join("daemon.log");
        let read = tokio::fs::read(&log).await.map_err(|error| error.to_string());
        if let Some(bytes) = all.take("the sandbox's log", read) {
            let start = bytes.len().saturating_sub(usize::try_from(LOG).unwrap_or(usize::MAX));
            all.add(
                "sandbox.log",
                String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned(),
            );
        }
        return;
    }
    let namespace = NAMESPACE;
    let ours = ListParams::default().labels(&found::labels());
    for (api_version, kind) in [("apps/v1", "Deployment"), ("v1", "Pod"), ("coordination.k8s.io/v1", "Lease")]
    {
        let types = TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let api: Api<DynamicObject> =
            Api::namespaced_with(session.client.clone(), namespace, &resource(&types));
        // Leases carry no labels of the installation.
        let params = if kind == "Lease" { ListParams::default() } else { ours.clone() };
        let list = read(async { api.list(&params).await }).await;
        let mut pods = Vec::new();
        for mut object in all.take(&format!("{kind} objects in {namespace}"), list).into_iter().flatten() {
            object.types = Some(types.clone());
            let name = object.name_any();
            if let Ok(value) = serde_json::to_value(&object) {
                all.object(format!("controller/{}-{name}.yaml", kind.to_lowercase()), &value);
            }
            pods.push(name);
        }
        if kind == "Pod" {
            logs(session, namespace, "controller", &pods, all).await;
        }
    }
}
