//! ControllerRevisions: which pod template a StatefulSet's pods were made from.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::error::ReconcileError;
use super::meta::{controller_of, controller_reference, is_controlled_by, is_deleting, name, uid};
use super::selector;

/// The label that names a pod's revision.
pub(super) const HASH_LABEL: &str = "controller-revision-hash";

/// A revision's name and the template it stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Revision {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

/// What is to be done about the stored revisions of a set.
#[derive(Debug, PartialEq)]
pub(super) enum Write {
    /// The template is new.
    Create(Box<ControllerRevision>),
    /// A set of the same selector has let go of it, so that its pods can be taken over as they are.
    Adopt(Arc<ControllerRevision>),
    /// The template is back: its revision becomes the newest again.
    Renumber(Arc<ControllerRevision>, i64),
    /// Nothing needs it any more.
    Delete(Arc<ControllerRevision>),
}

/// The revisions a pass works with, and the writes that make them so.
#[derive(Debug)]
pub(super) struct Revisions {
    pub(super) current: Revision,
    pub(super) update: Revision,
    pub(super) writes: Vec<Write>,
}

/// Letters that spell no words, as Kubernetes encodes hashes.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short, stable name part made of the given bytes (FNV-1a, 32 bits).
pub(super) fn short_hash(parts: &[&[u8]]) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in parts.iter().flat_map(|part| part.iter().chain(std::iter::once(&0))) {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    hash.to_string().bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

fn data_of(template: &PodTemplateSpec) -> Result<Value, ReconcileError> {
    let mut template = serde_json::to_value(template)?;
    template["$patch"] = json!("replace");
    Ok(json!({"spec": {"template": template}}))
}

fn template_of(revision: &ControllerRevision) -> Result<PodTemplateSpec, ReconcileError> {
    let mut template = revision.data.0["spec"]["template"].clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    Ok(serde_json::from_value(template)?)
}

/// Finds the set's current and newest revision among those stored. `in_use` are those that pods carry.
pub(super) fn resolve(
    set: &StatefulSet,
    stored: &[Arc<ControllerRevision>],
    in_use: &[&str],
) -> Result<Revisions, ReconcileError> {
    let adoptable = |each: &ControllerRevision| {
        controller_of(&each.metadata).is_none()
            && !is_deleting(&each.metadata)
            && selector::matches(&set.spec.selector, each.metadata.labels.as_ref())
    };
    let mut own: Vec<_> = stored
        .iter()
        .filter(|each| is_controlled_by(&each.metadata, uid(&set.metadata)) || adoptable(each))
        .collect();
    own.sort_by_key(|each| (each.revision, each.metadata.name.clone()));
    let data = data_of(&set.spec.template)?;
    let newest = own.last().and_then(|each| each.revision).unwrap_or(0);
    let orphans = own.iter().filter(|each| adoptable(each));
    let mut writes: Vec<_> = orphans.map(|each| Write::Adopt(Arc::clone(each))).collect();
    let update = match own.iter().rev().find(|each| each.data.0 == data) {
        Some(same) => {
            if same.revision < Some(newest) {
                writes.push(Write::Renumber(Arc::clone(same), newest + 1));
            }
            name(&same.metadata).to_owned()
        }
        None => {
            let created = create(set, data, newest + 1, stored);
            let name = name(&created.metadata).to_owned();
            writes.push(Write::Create(Box::new(created)));
            name
        }
    };
    let update = Revision { name: update, template: set.spec.template.clone() };
    let recorded = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
    let current = match own.iter().find(|each| each.metadata.name.as_deref() == recorded) {
        Some(stored) => Revision { name: name(&stored.metadata).to_owned(), template: template_of(stored)? },
        None => update.clone(),
    };
    let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let unused: Vec<_> = own
        .into_iter()
        .filter(|each| {
            let name = name(&each.metadata);
            name != update.name && name != current.name && !in_use.contains(&name)
        })
        .collect();
    let surplus = unused.len().saturating_sub(limit);
    writes.extend(unused.into_iter().take(surplus).map(|each| Write::Delete(Arc::clone(each))));
    Ok(Revisions { current, update, writes })
}

fn create(
    set: &StatefulSet,
    data: Value,
    number: i64,
    stored: &[Arc<ControllerRevision>],
) -> ControllerRevision {
    let taken = |name: &str| stored.iter().any(|each| each.metadata.name.as_deref() == Some(name));
    let text = data.to_string();
    let mut salt = 0_u32;
    let (hash, name) = loop {
        let hash = short_hash(&[text.as_bytes(), &salt.to_le_bytes()]);
        let name = format!("{}-{hash}", name(&set.metadata));
        if !taken(&name) {
            break (hash, name);
        }
        salt += 1;
    };
    let mut labels =
        set.spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash);
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(set)]),
            ..Default::default()
        },
        data: RawExtension(data),
        revision: Some(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(image: &str, status: Value) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "n", "uid": "u"},
            "spec": {
                "selector": {"matchLabels": {"app": "s"}}, "revisionHistoryLimit": 1,
                "template": {"metadata": {"labels": {"app": "s"}},
                             "spec": {"containers": [{"name": "one", "image": image}]}},
            },
            "status": status,
        }))
        .unwrap()
    }

    fn created(revisions: &Revisions) -> ControllerRevision {
        match &revisions.writes[..] {
            [Write::Create(created)] => (**created).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_template_keeps_its_name_and_comes_back_to_it() {
        let first = resolve(&set("i:1", json!({"replicas": 0})), &[], &[]).unwrap();
        let one = Arc::new(created(&first));
        assert_eq!(first.update.name, name(&one.metadata));
        assert_eq!(first.current, first.update);

        let status = json!({"replicas": 1, "currentRevision": first.update.name});
        let same = resolve(&set("i:1", status.clone()), &[Arc::clone(&one)], &[]).unwrap();
        assert_eq!(same.writes, []);

        let changed = resolve(&set("i:2", status.clone()), &[Arc::clone(&one)], &[]).unwrap();
        let two = Arc::new(created(&changed));
        assert_eq!(two.revision, Some(2));
        assert_ne!(changed.update.name, first.update.name);
        assert_eq!(changed.current, first.update);

        let back = resolve(&set("i:1", status), &[Arc::clone(&one), two], &[]).unwrap();
        assert_eq!(back.writes, [Write::Renumber(one, 3)]);
        assert_eq!(back.update.name, first.update.name);
    }

    #[test]
    fn history_keeps_what_is_in_use_and_the_limit() {
        let mut stored = Vec::new();
        for number in 1..=4 {
            let made = resolve(&set(&format!("i:{number}"), json!({"replicas": 0})), &[], &[]).unwrap();
            let mut made = created(&made);
            made.revision = Some(number);
            stored.push(Arc::new(made));
        }
        let used = name(&stored[0].metadata);
        let now = resolve(&set("i:4", json!({"replicas": 0})), &stored, &[used]).unwrap();
        assert_eq!(now.writes, [Write::Delete(Arc::clone(&stored[1]))]);
    }

    #[test]
    fn another_owners_revision_of_the_same_name_is_stepped_around() {
        let made = created(&resolve(&set("i:1", json!({"replicas": 0})), &[], &[]).unwrap());
        let mut foreign = made.clone();
        let owners = foreign.metadata.owner_references.iter_mut().flatten();
        owners.for_each(|owner| owner.uid = "another".to_owned());
        let other = resolve(&set("i:1", json!({"replicas": 0})), &[Arc::new(foreign)], &[]).unwrap();
        assert_ne!(other.update.name, name(&made.metadata));
    }

    #[test]
    fn what_a_predecessor_let_go_of_is_taken_over() {
        let made = created(&resolve(&set("i:1", json!({"replicas": 0})), &[], &[]).unwrap());
        let mut orphan = made.clone();
        orphan.metadata.owner_references = None;
        let orphan = Arc::new(orphan);
        let successor = resolve(&set("i:1", json!({"replicas": 0})), &[Arc::clone(&orphan)], &[]).unwrap();
        assert_eq!(successor.update.name, name(&made.metadata), "its pods need no restart");
        assert_eq!(successor.writes, [Write::Adopt(orphan)]);
    }
}
