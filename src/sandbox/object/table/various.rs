//! Tables of Services, endpoints, ConfigMaps, Secrets, Events and the like.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::workloads::plain_selector;
use super::{AGE, Layout, NAME, age, age::since, items, joined, name, number, selector, text, text_or};

/// More addresses than this are only counted.
const MAX_SHOWN: usize = 3;

pub(super) fn layout(group: &str, kind: &str) -> Option<Layout> {
    Some(match (group, kind) {
        ("", "Service") => Layout {
            columns: &[
                NAME,
                ("Type", "string", 0, "How it can be reached."),
                ("Cluster-IP", "string", 0, "Its address in the cluster."),
                ("External-IP", "string", 0, "Its addresses outside."),
                ("Port(s)", "string", 0, "Its ports."),
                AGE,
                ("Selector", "string", 1, "Labels of the pods it leads to."),
            ],
            cells: service,
        },
        ("", "ConfigMap") => Layout {
            columns: &[NAME, ("Data", "integer", 0, "How many keys it has."), AGE],
            cells: |object, now| {
                let count =
                    |field: &str| object.get(field).and_then(Value::as_object).map_or(0, |map| map.len());
                vec![name(object), json!(count("data") + count("binaryData")), age(object, now)]
            },
        },
        ("", "Secret") => Layout {
            columns: &[
                NAME,
                ("Type", "string", 0, "What its keys mean."),
                ("Data", "integer", 0, "How many keys it has."),
                AGE,
            ],
            cells: |object, now| {
                let count = object.get("data").and_then(Value::as_object).map_or(0, |map| map.len());
                vec![name(object), json!(text(object, "/type")), json!(count), age(object, now)]
            },
        },
        ("", "ServiceAccount") => Layout { columns: &[NAME, AGE], cells: plain },
        ("", "Event") => Layout {
            columns: &[
                ("Last Seen", "string", 0, "Time since it last happened."),
                ("Type", "string", 0, "Normal or Warning."),
                ("Reason", "string", 0, "What happened, in a word."),
                ("Object", "string", 0, "What it happened to."),
                ("Subobject", "string", 1, "The part of it."),
                ("Source", "string", 1, "Who says so."),
                ("Message", "string", 0, "What happened."),
                ("First Seen", "string", 1, "Time since it first happened."),
                ("Count", "string", 1, "How often it happened."),
                ("Name", "string", 1, "Name of the event."),
            ],
            cells: |object, now| event(object, now, "involvedObject", "message"),
        },
        ("events.k8s.io", "Event") => Layout {
            columns: layout("", "Event")?.columns,
            cells: |object, now| event(object, now, "regarding", "note"),
        },
        ("", "Endpoints") => Layout {
            columns: &[NAME, ("Endpoints", "string", 0, "Addresses that are ready."), AGE],
            cells: endpoints,
        },
        ("discovery.k8s.io", "EndpointSlice") => Layout {
            columns: &[
                NAME,
                ("AddressType", "string", 0, "What its addresses are."),
                ("Ports", "string", 0, "Its ports."),
                ("Endpoints", "string", 0, "Its addresses."),
                AGE,
            ],
            cells: endpoint_slice,
        },
        ("coordination.k8s.io", "Lease") => Layout {
            columns: &[NAME, ("Holder", "string", 0, "Who holds it."), AGE],
            cells: |object, now| {
                vec![name(object), json!(text(object, "/spec/holderIdentity")), age(object, now)]
            },
        },
        ("networking.k8s.io", "NetworkPolicy") => Layout {
            columns: &[NAME, ("Pod-Selector", "string", 0, "Labels of the pods it is about."), AGE],
            cells: |object, now| {
                vec![name(object), json!(selector(object.pointer("/spec/podSelector"))), age(object, now)]
            },
        },
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => Layout {
            columns: &[NAME, ("Created At", "date", 0, "When it was made.")],
            cells: |object, _| vec![name(object), json!(text(object, "/metadata/creationTimestamp"))],
        },
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => Layout {
            columns: &[
                NAME,
                ("Role", "string", 0, "What it allows."),
                AGE,
                ("Users", "string", 1, "Users it allows it to."),
                ("Groups", "string", 1, "Groups it allows it to."),
                ("ServiceAccounts", "string", 1, "Service accounts it allows it to."),
            ],
            cells: binding,
        },
        _ => return None,
    })
}

fn plain(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let kind = text(object, "/spec/type");
    let mut outside: Vec<&str> =
        items(object, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    let ingress = items(object, "/status/loadBalancer/ingress");
    outside.extend(ingress.iter().map(|address| text_or(address, "/ip", text(address, "/hostname"))));
    let outside = match kind {
        "ExternalName" => text(object, "/spec/externalName").to_owned(),
        "LoadBalancer" if outside.is_empty() => "<pending>".to_owned(),
        _ => joined(outside),
    };
    let ports: Vec<String> = items(object, "/spec/ports")
        .iter()
        .map(|port| {
            let (number, protocol) = (number(port, "/port"), text(port, "/protocol"));
            match port.get("nodePort").and_then(Value::as_i64) {
                Some(outer) if outer > 0 => format!("{number}:{outer}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    vec![
        name(object),
        json!(kind),
        json!(text_or(object, "/spec/clusterIP", "<none>")),
        json!(outside),
        json!(joined(ports.iter().map(String::as_str))),
        age(object, now),
        json!(plain_selector(object)),
    ]
}

/// Events of both forms, and of both ways to count.
fn event(object: &Value, now: Timestamp, about: &str, message: &str) -> Vec<Value> {
    let first_of = |pointers: &[&str]| -> String {
        pointers
            .iter()
            .map(|pointer| text(object, pointer))
            .find(|text| !text.is_empty())
            .unwrap_or_default()
            .to_owned()
    };
    let first = first_of(&["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]);
    let last =
        first_of(&["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp", "/eventTime"]);
    let count =
        ["/series/count", "/count", "/deprecatedCount"].iter().map(|pointer| number(object, pointer)).max();
    let source = first_of(&["/source/component", "/deprecatedSource/component", "/reportingComponent"]);
    let source = if source.is_empty() { first_of(&["/reportingController"]) } else { source };
    let target = format!(
        "{}/{}",
        text(object, &format!("/{about}/kind")).to_lowercase(),
        text(object, &format!("/{about}/name"))
    );
    vec![
        json!(since(&last, now)),
        json!(text(object, "/type")),
        json!(text(object, "/reason")),
        json!(target),
        json!(text(object, &format!("/{about}/fieldPath"))),
        json!(source),
        json!(text(object, &format!("/{message}")).trim()),
        json!(since(&first, now)),
        json!(count.unwrap_or_default().max(1)),
        name(object),
    ]
}

/// The first few, and how many more there are.
fn shortened(all: &[String]) -> String {
    let shown = joined(all.iter().take(MAX_SHOWN).map(String::as_str));
    match all.len().saturating_sub(MAX_SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in items(object, "/subsets") {
        for address in items(subset, "/addresses") {
            let address = text(address, "/ip");
            let ports = items(subset, "/ports");
            if ports.is_empty() {
                all.push(address.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{address}:{}", number(port, "/port"))));
        }
    }
    vec![name(object), json!(shortened(&all)), age(object, now)]
}

fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = items(object, "/ports")
        .iter()
        .map(|port| match port.get("port").and_then(Value::as_i64) {
            Some(number) => number.to_string(),
            None => "*".to_owned(),
        })
        .collect();
    let ports = if ports.is_empty() { "<unset>".to_owned() } else { shortened(&ports) };
    let addresses: Vec<String> = items(object, "/endpoints")
        .iter()
        .flat_map(|endpoint| items(endpoint, "/addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { shortened(&addresses) };
    vec![name(object), json!(text(object, "/addressType")), json!(ports), json!(addresses), age(object, now)]
}

fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let subjects = |kind: &str| {
        let names: Vec<String> = items(object, "/subjects")
            .iter()
            .filter(|subject| subject["kind"] == json!(kind))
            .map(|subject| match (kind, text(subject, "/namespace")) {
                ("ServiceAccount", namespace) => format!("{namespace}/{}", text(subject, "/name")),
                _ => text(subject, "/name").to_owned(),
            })
            .collect();
        json!(names.join(", "))
    };
    let role = format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    vec![
        name(object),
        json!(role),
        age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
