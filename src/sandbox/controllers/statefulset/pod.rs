//! A StatefulSet's pod: its name, number, labels and volumes.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, Volume};
use kube::api::ObjectMeta;

use crate::sandbox::controllers::meta::{controller_reference, name};
use crate::sandbox::controllers::revision::{HASH_LABEL, Revision};

/// The label that holds the pod's own name.
pub(super) const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// The label that holds the pod's number.
pub(super) const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The number in a pod's name, if it is one of the set's names.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let number: i32 = digits.parse().ok()?;
    // "-01" or "-+1" would be another pod's number under a second name.
    (number.to_string() == digits).then_some(number)
}

/// The name of a pod.
pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", name(&set.metadata))
}

/// The pod of that number as the revision's template has it.
pub(super) fn build(set: &StatefulSet, revision: &Revision, ordinal: i32) -> Pod {
    let template = revision.template.clone();
    let from = template.metadata.unwrap_or_default();
    let pod = pod_name(set, ordinal);
    let mut labels = from.labels.unwrap_or_default();
    labels.insert(NAME_LABEL.to_owned(), pod.clone());
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
    labels.insert(HASH_LABEL.to_owned(), revision.name.clone());
    let mut spec = template.spec.unwrap_or_default();
    spec.hostname = Some(pod.clone());
    spec.subdomain = set.spec.service_name.clone().filter(|service| !service.is_empty());
    let claimed: Vec<Volume> = super::claims::names(set, ordinal)
        .map(|(template, claim)| Volume {
            name: template,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim,
                read_only: None,
            }),
            ..Default::default()
        })
        .collect();
    let others = spec.volumes.take().unwrap_or_default();
    let others = others.into_iter().filter(|volume| claimed.iter().all(|claim| claim.name != volume.name));
    let volumes: Vec<Volume> = claimed.iter().cloned().chain(others).collect();
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
    Pod {
        metadata: ObjectMeta {
            name: Some(pod),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..Default::default()
        },
        spec: Some(spec),
        status: None,
    }
}
