//! The kinds that every cluster has, as far as this one has them.

use super::{Resource, Subresource};
use crate::sandbox::api::store::TypeName;

struct Kind {
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    subresources: &'static [Subresource],
}

const fn kind(plural: &'static str, kind: &'static str, namespaced: bool) -> Kind {
    Kind { plural, kind, namespaced, short: &[], categories: &[], subresources: &[] }
}

impl Kind {
    const fn short(self, short: &'static [&'static str]) -> Self {
        Self { short, ..self }
    }

    const fn all(self) -> Self {
        Self { categories: &["all"], ..self }
    }

    const fn sub(self, subresources: &'static [Subresource]) -> Self {
        Self { subresources, ..self }
    }
}

use Subresource::{Attach, Binding, Eviction, Exec, Finalize, Log, PortForward, Proxy, Scale, Status, Token};

const GROUPS: &[(&str, &[Kind])] = &[
    (
        "",
        &[
            kind("configmaps", "ConfigMap", true).short(&["cm"]),
            kind("endpoints", "Endpoints", true).short(&["ep"]),
            kind("events", "Event", true).short(&["ev"]),
            kind("limitranges", "LimitRange", true).short(&["limits"]),
            kind("namespaces", "Namespace", false).short(&["ns"]).sub(&[Finalize, Status]),
            kind("nodes", "Node", false).short(&["no"]).sub(&[Proxy, Status]),
            kind("persistentvolumeclaims", "PersistentVolumeClaim", true).short(&["pvc"]).sub(&[Status]),
            kind("persistentvolumes", "PersistentVolume", false).short(&["pv"]).sub(&[Status]),
            kind("pods", "Pod", true).short(&["po"]).all().sub(&[
                Attach,
                Binding,
                Eviction,
                Exec,
                Log,
                PortForward,
                Proxy,
                Status,
            ]),
            kind("podtemplates", "PodTemplate", true),
            kind("resourcequotas", "ResourceQuota", true).short(&["quota"]).sub(&[Status]),
            kind("secrets", "Secret", true),
            kind("serviceaccounts", "ServiceAccount", true).short(&["sa"]).sub(&[Token]),
            kind("services", "Service", true).short(&["svc"]).all().sub(&[Proxy, Status]),
        ],
    ),
    (
        "apiextensions.k8s.io",
        &[kind("customresourcedefinitions", "CustomResourceDefinition", false)
            .short(&["crd", "crds"])
            .sub(&[Status])],
    ),
    (
        "apps",
        &[
            kind("controllerrevisions", "ControllerRevision", true),
            kind("daemonsets", "DaemonSet", true).short(&["ds"]).all().sub(&[Status]),
            kind("deployments", "Deployment", true).short(&["deploy"]).all().sub(&[Scale, Status]),
            kind("replicasets", "ReplicaSet", true).short(&["rs"]).all().sub(&[Scale, Status]),
            kind("statefulsets", "StatefulSet", true).short(&["sts"]).all().sub(&[Scale, Status]),
        ],
    ),
    (
        "authentication.k8s.io",
        &[kind("selfsubjectreviews", "SelfSubjectReview", false), kind("tokenreviews", "TokenReview", false)],
    ),
    (
        "authorization.k8s.io",
        &[
            kind("localsubjectaccessreviews", "LocalSubjectAccessReview", true),
            kind("selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
            kind("selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
            kind("subjectaccessreviews", "SubjectAccessReview", false),
        ],
    ),
    (
        "batch",
        &[
            kind("cronjobs", "CronJob", true).short(&["cj"]).all().sub(&[Status]),
            kind("jobs", "Job", true).all().sub(&[Status]),
        ],
    ),
    ("coordination.k8s.io", &[kind("leases", "Lease", true)]),
    ("discovery.k8s.io", &[kind("endpointslices", "EndpointSlice", true)]),
    ("events.k8s.io", &[kind("events", "Event", true)]),
    (
        "networking.k8s.io",
        &[
            kind("ingressclasses", "IngressClass", false),
            kind("ingresses", "Ingress", true).short(&["ing"]).sub(&[Status]),
            kind("networkpolicies", "NetworkPolicy", true).short(&["netpol"]),
        ],
    ),
    ("policy", &[kind("poddisruptionbudgets", "PodDisruptionBudget", true).short(&["pdb"]).sub(&[Status])]),
    (
        "rbac.authorization.k8s.io",
        &[
            kind("clusterrolebindings", "ClusterRoleBinding", false),
            kind("clusterroles", "ClusterRole", false),
            kind("rolebindings", "RoleBinding", true),
            kind("roles", "Role", true),
        ],
    ),
    ("scheduling.k8s.io", &[kind("priorityclasses", "PriorityClass", false).short(&["pc"])]),
    (
        "storage.k8s.io",
        &[
            kind("csidrivers", "CSIDriver", false),
            kind("storageclasses", "StorageClass", false).short(&["sc"]),
        ],
    ),
];

/// All of them. Every one is `v1`.
pub fn resources() -> impl Iterator<Item = Resource> {
    GROUPS.iter().flat_map(|(group, kinds)| kinds.iter().map(|kind| resource(group, kind)))
}

fn resource(group: &str, kind: &Kind) -> Resource {
    let owned = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
    let converted = group == "events.k8s.io";
    let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    Resource {
        group: group.into(),
        version: "v1".into(),
        plural: kind.plural.into(),
        singular: kind.kind.to_lowercase().into(),
        kind: kind.kind.into(),
        list_kind: format!("{}List", kind.kind).into(),
        short_names: owned(kind.short),
        categories: owned(kind.categories),
        namespaced: kind.namespaced,
        create_only: matches!(group, "authentication.k8s.io" | "authorization.k8s.io"),
        subresources: kind.subresources.to_vec(),
        // Events are stored once, in the core's form.
        storage: format!("{}/{}", if converted { "" } else { group }, kind.plural).into(),
        name: TypeName { api_version: api_version.into(), kind: kind.kind.into() },
        converted,
        custom: None,
        schema: None,
    }
}
