//! A StatefulSet's claims: one per template and pod, and who owns them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::pod::pod_name;
use crate::sandbox::controllers::meta::{controller_reference, name, uid};

/// The claims of a namespace by name.
pub(super) type Claims = BTreeMap<String, Arc<PersistentVolumeClaim>>;

/// The volume and claim names of a pod.
pub(super) fn names(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = (String, String)> {
    let pod = pod_name(set, ordinal);
    set.spec.volume_claim_templates.iter().flatten().map(move |template| {
        let template = name(&template.metadata);
        (template.to_owned(), format!("{template}-{pod}"))
    })
}

/// The claims of a pod that are not there.
pub(super) fn missing(set: &StatefulSet, ordinal: i32, claims: &Claims) -> Vec<PersistentVolumeClaim> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates
        .zip(names(set, ordinal))
        .filter(|(_, (_, name))| !claims.contains_key(name))
        .map(|(template, (_, name))| build(set, template, name))
        .collect()
}

fn build(set: &StatefulSet, template: &PersistentVolumeClaim, name: String) -> PersistentVolumeClaim {
    let mut claim = template.clone();
    claim.metadata.name = Some(name);
    claim.metadata.namespace = set.metadata.namespace.clone();
    let selected = set.spec.selector.match_labels.iter().flatten();
    let labels = claim.metadata.labels.get_or_insert_default();
    labels.extend(selected.map(|(key, value)| (key.clone(), value.clone())));
    claim.status = None;
    claim
}

/// Whether one of the pod's claims is on its way out: a pod that took it up would hold it there for ever.
pub(super) fn any_leaving(set: &StatefulSet, ordinal: i32, claims: &Claims) -> bool {
    names(set, ordinal)
        .any(|(_, name)| claims.get(&name).is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()))
}

/// What becomes of a claim with its set or its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Retention {
    delete_with_set: bool,
    delete_when_scaled: bool,
}

fn retention(set: &StatefulSet) -> Retention {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let delete = |word: Option<&String>| word.is_some_and(|word| word == "Delete");
    Retention {
        delete_with_set: delete(policy.and_then(|policy| policy.when_deleted.as_ref())),
        delete_when_scaled: delete(policy.and_then(|policy| policy.when_scaled.as_ref())),
    }
}

/// The owner references a claim of this pod should have, where they differ from those it has. Owners that are
/// neither the set nor the pod are left as they are.
pub(super) fn owners(
    set: &StatefulSet,
    pod: Option<&Pod>,
    condemned: bool,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let policy = retention(set);
    let by_pod = policy.delete_when_scaled && condemned;
    let by_set = policy.delete_with_set && !by_pod;
    let set_uid = uid(&set.metadata);
    let pod_name = pod.map(|pod| name(&pod.metadata));
    let old = claim.metadata.owner_references.clone().unwrap_or_default();
    let mine = |owner: &OwnerReference| {
        owner.uid == set_uid || (owner.kind == "Pod" && Some(owner.name.as_str()) == pod_name)
    };
    let mut new: Vec<OwnerReference> = old.iter().filter(|owner| !mine(owner)).cloned().collect();
    if by_set {
        new.push(controller_reference(set));
    }
    if let Some(pod) = pod.filter(|_| by_pod) {
        new.push(controller_reference(pod));
    }
    let same = old.len() == new.len() && new.iter().all(|owner| old.iter().any(|each| each.uid == owner.uid));
    (!same).then_some(new)
}
