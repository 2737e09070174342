//! Storage classes: which one a claim is of, and what it asks for. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ObjectMeta;

use crate::sandbox::controllers::meta::{annotation, name};

/// The provisioner, and CSI driver, of the sandbox's volumes.
pub const PROVISIONER: &str = "sandbox.dbctl";
/// The class made where there is none of that provisioner.
const STANDARD: &str = "standard";
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
/// The provisioner of classes whose volumes people make by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What a claim's class means for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) name: String,
    pub(super) at_once: bool,
    pub(super) reclaim: String,
    pub(super) expands: bool,
}

/// What is known of a claim's class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Volumes of this class are made here.
    Here(Class),
    /// The claim names a class that does not exist.
    Missing(String),
    /// Nobody makes a volume for this claim.
    Nobody,
}

/// The class to make at first, unless there is one already.
pub(super) fn standard(classes: &[Arc<StorageClass>]) -> Option<StorageClass> {
    if classes.iter().any(|class| class.provisioner == PROVISIONER) {
        return None;
    }
    let is_default = default_of(classes).is_none();
    Some(StorageClass {
        metadata: ObjectMeta {
            name: Some(STANDARD.to_owned()),
            annotations: Some([(IS_DEFAULT.to_owned(), is_default.to_string())].into()),
            ..Default::default()
        },
        provisioner: PROVISIONER.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        allow_volume_expansion: Some(true),
        ..Default::default()
    })
}

/// The class of claims that name none: the newest that is marked so.
pub(super) fn default_of(classes: &[Arc<StorageClass>]) -> Option<&StorageClass> {
    let marked = classes.iter().filter(|class| annotation(&class.metadata, IS_DEFAULT) == Some("true"));
    let newest = marked.max_by_key(|class| {
        (
            class.metadata.creation_timestamp.as_ref().map(|time| time.0),
            std::cmp::Reverse(name(&class.metadata)),
        )
    });
    newest.map(|class| &**class)
}

/// The class a claim is of. With `any`, one that does not exist is as good as the standard one.
pub(super) fn of(claim: &PersistentVolumeClaim, classes: &[Arc<StorageClass>], any: bool) -> Found {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    let class = match wanted {
        // No class, and said so: only volumes that are there already.
        Some("") => return Found::Nobody,
        Some(wanted) => classes.iter().map(|class| &**class).find(|class| name(&class.metadata) == wanted),
        None => default_of(classes),
    };
    match (class, wanted) {
        (Some(class), _) if class.provisioner == NO_PROVISIONER => Found::Nobody,
        (Some(class), _) => Found::Here(Class {
            name: name(&class.metadata).to_owned(),
            at_once: class.volume_binding_mode.as_deref() == Some("Immediate"),
            reclaim: class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned()),
            expands: class.allow_volume_expansion == Some(true),
        }),
        (None, Some(wanted)) if any => Found::Here(Class {
            name: wanted.to_owned(),
            at_once: false,
            reclaim: "Delete".to_owned(),
            expands: true,
        }),
        (None, Some(wanted)) => Found::Missing(wanted.to_owned()),
        (None, None) => Found::Nobody,
    }
}
