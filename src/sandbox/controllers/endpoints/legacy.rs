//! The Endpoints object of a Service. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use kube::api::ObjectMeta;

use super::slices::{
    HEADLESS_LABEL, addresses, hostname, is_headless, pod_reference, ports, publishes_unready,
};
use crate::sandbox::controllers::meta::{is_deleting, is_ready, node_of};

/// The label that says who writes an Endpoints object.
pub(super) const MANAGER_LABEL: &str = "endpoints.kubernetes.io/managed-by";
/// Its value for those written here.
pub(super) const MANAGER: &str = "endpoint-controller";

/// The object the Service should have: one subset per set of ports. Pods that are on their way out are left out.
pub(super) fn desired(service: &Service, members: &[&Arc<Pod>]) -> Endpoints {
    let everyone = publishes_unready(service);
    let mut subsets: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    for pod in members.iter().filter(|pod| everyone || !is_deleting(&pod.metadata)) {
        let Some(address) = addresses(pod).first().map(|ip| (*ip).to_owned()) else { continue };
        let ports: Vec<EndpointPort> = ports(service, pod)
            .into_iter()
            .map(|port| EndpointPort {
                app_protocol: port.app_protocol,
                name: port.name.filter(|name| !name.is_empty()),
                port: port.port.unwrap_or_default(),
                protocol: port.protocol,
            })
            .collect();
        let address = EndpointAddress {
            hostname: hostname(service, pod),
            ip: address,
            node_name: node_of(pod).map(str::to_owned),
            target_ref: Some(pod_reference(pod)),
        };
        let subset = subsets.entry(format!("{ports:?}")).or_insert_with(|| EndpointSubset {
            ports: (!ports.is_empty()).then_some(ports),
            ..Default::default()
        });
        let list =
            if everyone || is_ready(pod) { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGER_LABEL.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    let subsets: Vec<EndpointSubset> = subsets.into_values().collect();
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            ..Default::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}
