//! Where a Service's connections may go; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

/// The label by which a slice names its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What one front address leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Backends {
    /// New connections go to these.
    pub ready: BTreeSet<SocketAddr>,
    /// Established connections to these go on; to any other they are cut.
    pub known: BTreeSet<SocketAddr>,
}

/// All fronts of all Services.
pub(super) type Table = BTreeMap<SocketAddr, Backends>;

/// The table that Services and their slices make.
pub(super) fn table<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice> + Clone,
) -> Table {
    let mut table = Table::new();
    for service in services {
        for (front, port) in fronts(service) {
            let (namespace, name) = (service.namespace(), service.name_any());
            let own = slices.clone().into_iter().filter(|slice| {
                slice.namespace() == namespace && slice.labels().get(SERVICE_LABEL) == Some(&name)
            });
            let mut backends = Backends::default();
            own.for_each(|slice| add(slice, port, &mut backends));
            table.insert(front, backends);
        }
    }
    table
}

/// The addresses at which a Service is reached, each with its port's name.
fn fronts(service: &Service) -> Vec<(SocketAddr, &str)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    // "None" and an empty address do not parse.
    let address: Option<IpAddr> = spec.cluster_ip.as_ref().and_then(|address| address.parse().ok());
    let tcp =
        spec.ports.iter().flatten().filter(|port| port.protocol.as_deref().is_none_or(|kind| kind == "TCP"));
    let fronts = tcp.filter_map(|port| {
        let number = u16::try_from(port.port).ok()?;
        Some((SocketAddr::new(address?, number), port.name.as_deref().unwrap_or_default()))
    });
    fronts.collect()
}

fn add(slice: &EndpointSlice, name: &str, backends: &mut Backends) {
    let mut ports =
        slice.ports.iter().flatten().filter(|port| port.name.as_deref().unwrap_or_default() == name);
    let Some(port) = ports.find_map(|port| u16::try_from(port.port?).ok()) else { return };
    for endpoint in slice.endpoints.iter().flatten() {
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
        for address in endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
            let backend = SocketAddr::new(address, port);
            backends.known.insert(backend);
            if ready {
                backends.ready.insert(backend);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(address: &str, ports: Value) -> Service {
        let spec = json!({"clusterIP": address, "ports": ports});
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec})).unwrap()
    }

    fn slice(namespace: &str, service: &str, endpoints: Value, ports: Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": "x", "namespace": namespace, "labels": {SERVICE_LABEL: service}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        }))
        .unwrap()
    }

    #[test]
    fn ports_are_matched_by_name_and_readiness_respected() {
        let service = service(
            "127.1.255.1",
            json!([{"name": "pg", "port": 5432}, {"name": "rest", "port": 80, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]),
        );
        let endpoints = json!([
            {"addresses": ["127.1.1.1"], "conditions": {"ready": true}},
            {"addresses": ["127.1.1.2"], "conditions": {"ready": false}},
            {"addresses": ["127.1.1.3"], "conditions": {}},
        ]);
        let ports = json!([{"name": "pg", "port": 5433}, {"name": "rest", "port": 8008}]);
        let slices = [
            slice("n", "s", endpoints, ports.clone()),
            slice("n", "other", json!([{"addresses": ["127.1.1.9"]}]), ports.clone()),
            slice("m", "s", json!([{"addresses": ["127.1.1.8"]}]), ports),
        ];
        let table = table([&service], &slices);
        let fronts: Vec<String> = table.keys().map(SocketAddr::to_string).collect();
        assert_eq!(fronts, ["127.1.255.1:80", "127.1.255.1:5432"]);
        let list = |set: &BTreeSet<SocketAddr>| set.iter().map(SocketAddr::to_string).collect::<Vec<_>>();
        let backends = &table[&"127.1.255.1:5432".parse().unwrap()];
        assert_eq!(list(&backends.ready), ["127.1.1.1:5433", "127.1.1.3:5433"]);
        assert_eq!(list(&backends.known), ["127.1.1.1:5433", "127.1.1.2:5433", "127.1.1.3:5433"]);
    }

    #[test]
    fn headless_services_have_no_front() {
        for address in ["None", ""] {
            assert!(table([&service(address, json!([{"port": 1}]))], &[]).is_empty());
        }
        let unnamed = service("127.1.255.2", json!([{"port": 1}]));
        let slices = [slice("n", "s", json!([{"addresses": ["127.1.1.1"]}]), json!([{"port": 7}]))];
        let table = table([&unnamed], &slices);
        assert_eq!(table[&"127.1.255.2:1".parse().unwrap()].ready.len(), 1);
    }
}
