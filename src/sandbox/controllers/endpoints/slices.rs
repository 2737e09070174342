//! Which endpoints a Service has. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;

use crate::sandbox::controllers::meta::{
    contains, controller_reference, is_deleting, is_finished, is_ready, label, name, node_of,
};
use crate::sandbox::controllers::revision::short_hash;

/// The label that names a slice's Service.
pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The label that says who writes a slice.
pub(super) const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Its value for those written here.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The label of a Service without an address of its own; copied to what is made for it.
pub(super) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Endpoints in one slice at most, as in Kubernetes.
const SLICE_SIZE: usize = 100;

/// The selector of a Service that has endpoints found for it.
pub(super) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// Whether the Service wants to know of pods that are not ready as well.
pub(super) fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The pods of the Service that have an address, in order of their names. One on a node that does not exist is
/// left out, unless the Service takes pods in whatever state.
pub(super) fn members<'a>(
    service: &Service,
    pods: &'a [Arc<Pod>],
    nodes: &BTreeMap<String, Arc<Node>>,
) -> Vec<&'a Arc<Pod>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let unready = publishes_unready(service);
    let mut members: Vec<&Arc<Pod>> = pods
        .iter()
        .filter(|pod| contains(pod.metadata.labels.as_ref(), Some(selector)))
        .filter(|pod| !is_finished(pod) && !addresses(pod).is_empty())
        .filter(|pod| unready || node_of(pod).is_some_and(|node| nodes.contains_key(node)))
        .collect();
    members.sort_by_key(|pod| name(&pod.metadata));
    members
}

/// A pod's addresses.
pub(super) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = pod.status.as_ref() else { return Vec::new() };
    let listed: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if listed.is_empty() { status.pod_ip.as_deref().into_iter().collect() } else { listed }
}

/// The number a Service's port leads to in that pod; nothing where the pod has no port of that name.
pub(super) fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(wanted)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|each| each.restart_policy.as_deref() == Some("Always"));
            let ports = spec.containers.iter().chain(sidecars).flat_map(|each| each.ports.iter().flatten());
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            ports
                .filter(|each| each.protocol.as_deref().unwrap_or("TCP") == protocol)
                .find(|each| each.name.as_deref() == Some(wanted))
                .map(|each| each.container_port)
        }
    }
}

/// A Service's ports as one pod serves them.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                app_protocol: port.app_protocol.clone(),
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target(port, pod)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            })
        })
        .collect()
}

/// A reference to the pod behind an endpoint.
pub(super) fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

/// The name the pod has below the Service's, if it asks for one.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let host = spec.hostname.clone().filter(|host| !host.is_empty())?;
    (spec.subdomain.as_deref() == Some(name(&service.metadata))).then_some(host)
}

fn endpoint(service: &Service, pod: &Pod, address: &str, node: Option<&Arc<Node>>) -> Endpoint {
    let serving = is_ready(pod);
    let terminating = is_deleting(&pod.metadata);
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_unready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node_of(pod).map(str::to_owned),
        target_ref: Some(pod_reference(pod)),
        zone: node.and_then(|node| label(&node.metadata, "topology.kubernetes.io/zone")).map(str::to_owned),
        ..Default::default()
    }
}

/// The families of the Service's addresses.
fn families(service: &Service) -> Vec<String> {
    let listed = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    if listed.is_empty() { vec!["IPv4".to_owned()] } else { listed }
}

fn family(address: &str) -> Option<&'static str> {
    match address.parse().ok()? {
        IpAddr::V4(_) => Some("IPv4"),
        IpAddr::V6(_) => Some("IPv6"),
    }
}

/// The slices the Service should have. There is always one per family, if only an empty one, and their names follow
/// from what they hold, so that the same endpoints are always in the same object.
pub(super) fn desired(
    service: &Service,
    members: &[&Arc<Pod>],
    nodes: &BTreeMap<String, Arc<Node>>,
) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for wanted in families(service) {
        // Pods whose named ports lead to different numbers cannot share a slice.
        let mut groups: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
        for pod in members {
            let node = node_of(pod).and_then(|node| nodes.get(node));
            for address in addresses(pod).into_iter().filter(|each| family(each) == Some(wanted.as_str())) {
                let ports = ports(service, pod);
                let group = groups.entry(signature(&ports)).or_insert_with(|| (ports, Vec::new()));
                group.1.push(endpoint(service, pod, address, node));
            }
        }
        if groups.is_empty() {
            let pod = Pod::default();
            let ports = ports(service, &pod);
            groups.insert(signature(&ports), (ports, Vec::new()));
        }
        for (signature, (ports, endpoints)) in groups {
            let chunks: Vec<&[Endpoint]> =
                if endpoints.is_empty() { vec![&[]] } else { endpoints.chunks(SLICE_SIZE).collect() };
            for (index, chunk) in chunks.into_iter().enumerate() {
                slices.push(slice(service, &wanted, &signature, index, &ports, chunk));
            }
        }
    }
    slices
}

fn signature(ports: &[EndpointPort]) -> String {
    let parts: BTreeSet<String> = ports
        .iter()
        .map(|port| format!("{:?}/{:?}/{:?}/{:?}", port.name, port.port, port.protocol, port.app_protocol))
        .collect();
    parts.into_iter().collect::<Vec<_>>().join(",")
}

fn slice(
    service: &Service,
    family: &str,
    signature: &str,
    index: usize,
    ports: &[EndpointPort],
    endpoints: &[Endpoint],
) -> EndpointSlice {
    let service_name = name(&service.metadata);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), service_name.to_owned());
    labels.insert(MANAGER_LABEL.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    let hash =
        short_hash(&[service_name.as_bytes(), family.as_bytes(), signature.as_bytes(), &index.to_le_bytes()]);
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints: Some(endpoints.to_vec()),
        metadata: ObjectMeta {
            name: Some(format!("{service_name}-{hash}")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(service)]),
            ..Default::default()
        },
        ports: Some(ports.to_vec()),
    }
}
