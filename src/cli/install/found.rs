//! What there is of an installation in a cluster.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DeleteParams, DynamicObject, ListParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, TypeMeta};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::cli::session::Session;
use crate::install::{ACCOUNT, METRICS_READER, is_installed, resource, resource_name, selector};

/// What lies in the controller's namespace, in the order in which it goes: first what acts.
const IN_PLACE: [(&str, &str); 5] = [
    ("apps/v1", "Deployment"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "Service"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "ServiceAccount"),
];
const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// An object of an installation.
#[derive(Clone, Debug)]
pub struct Found {
    resource: ApiResource,
    namespace: Option<String>,
    name: String,
    uid: Option<String>,
}

fn kind(api_version: &str, kind: &str) -> ApiResource {
    resource(&TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

/// What selects the objects of all installations.
pub fn labels() -> String {
    let ours = selector().into_iter().map(|(name, value)| format!("{name}={value}"));
    ours.collect::<Vec<_>>().join(",")
}

impl Found {
    /// An object as it is to be made; `None` where it says not what it is.
    pub fn of(object: &Value) -> Option<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            resource: kind(&text("/apiVersion")?, &text("/kind")?),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name")?,
            uid: text("/metadata/uid"),
        })
    }

    fn listed(resource: &ApiResource, object: &DynamicObject) -> Self {
        Self {
            resource: resource.clone(),
            namespace: object.namespace(),
            name: object.name_any(),
            uid: object.uid(),
        }
    }

    /// Whether both are the same object.
    pub fn is(&self, other: &Self) -> bool {
        (&self.resource.group, &self.resource.kind) == (&other.resource.group, &other.resource.kind)
            && (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }

    /// As kubectl names it, with its namespace.
    pub fn title(&self) -> String {
        let name = resource_name(&self.resource, &self.name);
        self.namespace.as_ref().map_or_else(|| name.clone(), |namespace| format!("{name} -n {namespace}"))
    }

    /// Deletes this very object; one that has gone is no error.
    ///
    /// # Errors
    /// Where the API server refuses.
    pub async fn delete(&self, session: &Session) -> Result<(), kube::Error> {
        let api: Api<DynamicObject> = match &self.namespace {
            Some(namespace) => Api::namespaced_with(session.client.clone(), namespace, &self.resource),
            None => Api::all_with(session.client.clone(), &self.resource),
        };
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: self.uid.clone(), resource_version: None }),
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match api.delete(&self.name, &params).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Everything that an installation in that namespace consists of, but for the namespace and the definition, in the order in
/// which it goes. In the sandbox, the account and its rights are the sandbox's own and are none of it.
///
/// # Errors
/// Where the API server refuses a list.
pub async fn find(session: &Session, namespace: &str) -> Result<Vec<Found>, kube::Error> {
    let sandbox = session.place.sandbox().is_some();
    let (bindings, mut places) = rights(&session.client, namespace).await?;
    places.retain(|place| place != namespace);
    let mut all = Vec::new();
    for (api_version, kind_name) in IN_PLACE {
        if sandbox && kind_name == "ServiceAccount" {
            continue;
        }
        let resource = kind(api_version, kind_name);
        let mut within = vec![namespace.to_owned()];
        // Who reaches databases is said where they are.
        within.extend(places.iter().filter(|_| kind_name == "NetworkPolicy").cloned());
        for place in within {
            let found = list(Api::namespaced_with(session.client.clone(), &place, &resource)).await?;
            all.extend(found.iter().map(|object| Found::listed(&resource, object)));
        }
        // The account outlives its rights, so that nothing is left that names one that is not there.
        if kind_name == "NetworkPolicy" && !sandbox {
            all.extend(bindings.iter().cloned());
            all.extend(reader(&session.client, namespace).await?);
        }
    }
    Ok(all)
}

async fn list(api: Api<DynamicObject>) -> Result<Vec<DynamicObject>, kube::Error> {
    let all = api.list(&ListParams::default().labels(&labels())).await?;
    Ok(all.items.into_iter().filter(|object| is_installed(object.labels())).collect())
}

/// The bindings of that namespace's controller and their roles, wherever they are, and the namespaces that those are in.
async fn rights(client: &Client, namespace: &str) -> Result<(Vec<Found>, Vec<String>), kube::Error> {
    let (mut all, mut places) = (Vec::new(), Vec::new());
    for prefix in ["Cluster", ""] {
        let (role, binding) =
            (kind(RBAC, &format!("{prefix}Role")), kind(RBAC, &format!("{prefix}RoleBinding")));
        let bound = list(Api::all_with(client.clone(), &binding)).await?;
        let bound: Vec<_> = bound.into_iter().filter(|found| is_bound(found, namespace)).collect();
        // A binding may name a role that is not dbctl's.
        let roles = list(Api::all_with(client.clone(), &role)).await?;
        let meant = |found: &DynamicObject| {
            bound.iter().any(|binding| {
                binding.namespace() == found.namespace()
                    && binding.data["roleRef"]["name"] == found.name_any()
            })
        };
        all.extend(bound.iter().map(|found| Found::listed(&binding, found)));
        all.extend(roles.iter().filter(|found| meant(found)).map(|found| Found::listed(&role, found)));
        places.extend(bound.iter().filter_map(ResourceExt::namespace));
    }
    places.sort();
    places.dedup();
    Ok((all, places))
}

/// The role of those who read metrics. All controllers share it, so it goes with the last one.
async fn reader(client: &Client, namespace: &str) -> Result<Option<Found>, kube::Error> {
    let deployments = list(Api::all_with(client.clone(), &kind("apps/v1", "Deployment"))).await?;
    if deployments.iter().any(|deployment| deployment.namespace().as_deref() != Some(namespace)) {
        return Ok(None);
    }
    let role = kind(RBAC, "ClusterRole");
    let roles = list(Api::all_with(client.clone(), &role)).await?;
    let reader = roles.iter().find(|found| found.name_any() == METRICS_READER);
    Ok(reader.map(|found| Found::listed(&role, found)))
}

/// Whether a binding is that of the account in that namespace.
fn is_bound(binding: &DynamicObject, namespace: &str) -> bool {
    let subjects = binding.data["subjects"].as_array().into_iter().flatten();
    subjects.into_iter().any(|subject| {
        subject["kind"] == "ServiceAccount" && subject["name"] == ACCOUNT && subject["namespace"] == namespace
    })
}

/// A Deployment of the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its namespace.
    pub namespace: String,
    /// The one namespace that it works for; all without it.
    pub watch: Option<String>,
    /// The version that it asks for.
    pub version: Option<String>,
    /// How many there should be.
    pub replicas: i32,
    /// How many are ready.
    pub ready: i32,
}

impl Controller {
    /// Reads a Deployment.
    pub fn of(deployment: &Deployment) -> Self {
        let containers = deployment.spec.template.spec.as_ref().map(|pod| &pod.containers);
        let mut words =
            containers.into_iter().flatten().flat_map(|container| container.args.iter().flatten());
        let version = deployment.labels().get("app.kubernetes.io/version");
        Self {
            namespace: deployment.namespace().unwrap_or_default(),
            watch: words.find_map(|word| word.strip_prefix("--namespace=")).map(str::to_owned),
            version: version.map(|version| version.replace('_', "+")),
            replicas: deployment.spec.replicas.unwrap_or(1),
            ready: deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0),
        }
    }

    /// Whether both would work for some database.
    pub fn overlaps(&self, watch: Option<&str>) -> bool {
        match (self.watch.as_deref(), watch) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::Installation;
    use serde_json::json;

    fn deployment(wanted: &Installation) -> Deployment {
        let all = wanted.workload();
        serde_json::from_value(all.last().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_deployment_tells_what_was_installed() {
        let mut wanted = Installation::new("ops");
        let controller = Controller {
            namespace: "ops".to_owned(),
            watch: None,
            version: Some(crate::api::VERSION.to_owned()),
            replicas: 2,
            ready: 0,
        };
        assert_eq!(Controller::of(&deployment(&wanted)), controller);
        wanted.watch = Some("shop".to_owned());
        assert_eq!(Controller::of(&deployment(&wanted)).watch, wanted.watch);
    }

    #[test]
    fn scopes_overlap_unless_each_has_its_own_namespace() {
        for (one, other, overlaps) in [
            (None, None, true),
            (Some("a"), None, true),
            (None, Some("a"), true),
            (Some("a"), Some("a"), true),
            (Some("a"), Some("b"), false),
        ] {
            let mut wanted = Installation::new("ops");
            wanted.watch = one.map(str::to_owned);
            assert_eq!(Controller::of(&deployment(&wanted)).overlaps(other), overlaps, "{one:?} {other:?}");
        }
    }

    #[test]
    fn bindings_are_known_by_the_account() {
        let all = Installation::new("ops").objects().unwrap();
        let bindings: Vec<DynamicObject> = all
            .into_iter()
            .filter(|object| object["kind"].as_str().unwrap().ends_with("Binding"))
            .map(|object| serde_json::from_value(object).unwrap())
            .collect();
        assert_eq!(bindings.len(), 2);
        for binding in bindings {
            assert!(is_bound(&binding, "ops") && !is_bound(&binding, "other"));
        }
    }

    #[test]
    fn the_same_object_is_known_whatever_its_uid() {
        let object = |kind: &str, namespace: &str, uid: &str| {
            let metadata = json!({ "name": "x", "namespace": namespace, "uid": uid });
            Found::of(&json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata })).unwrap()
        };
        let one = object("Service", "a", "1");
        assert!(one.is(&object("Service", "a", "2")));
        assert!(!one.is(&object("Service", "b", "1")) && !one.is(&object("ServiceAccount", "a", "1")));
        assert_eq!(one.title(), "service/x -n a");
    }
}
