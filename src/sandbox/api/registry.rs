//! What is served: the built-in kinds, and the kinds that definitions have added.

mod builtin;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::store::TypeName;
use crate::sandbox::object::Gvk;
use crate::sandbox::object::schema::Schema;

/// What can be asked of an object beside itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subresource {
    /// Its status.
    Status,
    /// Its number of replicas.
    Scale,
    /// A pod's node.
    Binding,
    /// A pod's polite deletion.
    Eviction,
    /// A service account's token.
    Token,
    /// A pod's output.
    Log,
    /// A namespace's finalizers.
    Finalize,
    /// A command in a pod.
    Exec,
    /// A pod's main process.
    Attach,
    /// A pod's ports, as streams.
    PortForward,
    /// What answers HTTP behind an object.
    Proxy,
}

impl Subresource {
    /// As paths name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Token => "token",
            Self::Log => "log",
            Self::Finalize => "finalize",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
        }
    }

    /// Whether a request for it is passed on as a connection, and never read here.
    pub fn connects(self) -> bool {
        matches!(self, Self::Exec | Self::Attach | Self::PortForward | Self::Proxy)
    }
}

/// Where a custom resource keeps what its scale subresource shows.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    /// JSON pointer to the wish.
    pub spec_replicas: String,
    /// JSON pointer to the count.
    pub status_replicas: String,
    /// JSON pointer to the selector string.
    pub selector: Option<String>,
}

/// What only custom resources have.
#[derive(Clone, Debug)]
pub struct Custom {
    /// The name of the definition.
    pub definition: String,
    /// Its version's `additionalPrinterColumns`.
    pub columns: Value,
    /// Tells its version's `openAPIV3Schema` from another.
    pub schema_hash: u64,
    /// Fields that field selectors may name.
    pub selectable: Vec<String>,
    /// Where the scale subresource looks.
    pub scale: Option<ScalePaths>,
    /// Cancelled when the resource is no longer served: its watches end.
    pub gone: CancellationToken,
    /// What the server warns of at each use of a deprecated version.
    pub deprecation: Option<String>,
}

/// One resource in one version.
#[derive(Clone, Debug)]
pub struct Resource {
    /// API group; empty for the core.
    pub group: Arc<str>,
    /// API version.
    pub version: Arc<str>,
    /// Name in paths.
    pub plural: Arc<str>,
    /// Name of one, in lower case.
    pub singular: Arc<str>,
    /// Kind of one.
    pub kind: Arc<str>,
    /// Kind of a list.
    pub list_kind: Arc<str>,
    /// Short names.
    pub short_names: Vec<String>,
    /// Groups of resources that kubectl knows, such as `all`.
    pub categories: Vec<String>,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
    /// Whether it is only a question and its answer: created, never stored.
    pub create_only: bool,
    /// What can be asked of an object.
    pub subresources: Vec<Subresource>,
    /// Where objects are stored.
    pub storage: Arc<str>,
    /// `apiVersion` and `kind`.
    pub name: TypeName,
    /// Whether stored objects are of another version and must be converted.
    pub converted: bool,
    /// What only custom resources have.
    pub custom: Option<Arc<Custom>>,
    schema: Option<Schema>,
}

impl Resource {
    /// Name with the group, as messages have it: `statefulsets.apps`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> Gvk {
        Gvk { group: self.group.to_string(), version: self.version.to_string(), kind: self.kind.to_string() }
    }

    /// The schema of its objects.
    pub fn schema(&self) -> Schema {
        match &self.schema {
            Some(schema) => schema.clone(),
            None => Schema::builtin(&self.gvk()).unwrap_or_else(Schema::any),
        }
    }

    /// Whether it has this subresource.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// The key of an object in the store.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        match namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        }
    }
}

type GroupVersion = (Arc<str>, Arc<str>);

/// Everything that is served.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    resources: BTreeMap<GroupVersion, Vec<Arc<Resource>>>,
    /// Versions of each group, preferred first.
    groups: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

impl Registry {
    /// The built-in kinds.
    pub fn builtin() -> Self {
        let mut registry = Self::default();
        for resource in builtin::resources() {
            registry.add(resource);
        }
        registry
    }

    fn add(&mut self, resource: Resource) {
        let (group, version) = (Arc::clone(&resource.group), Arc::clone(&resource.version));
        let versions = self.groups.entry(Arc::clone(&group)).or_default();
        if !versions.contains(&version) {
            versions.push(Arc::clone(&version));
            versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        }
        self.resources.entry((group, version)).or_default().push(Arc::new(resource));
    }

    /// The same with these custom resources in place of all it had.
    pub fn with_custom(&self, custom: Vec<Resource>) -> Self {
        let mut registry = Self::default();
        for resource in self.all().filter(|resource| resource.custom.is_none()) {
            registry.add(Resource::clone(resource));
        }
        for resource in custom {
            registry.add(resource);
        }
        registry
    }

    /// The resource of that path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.of(group, version).iter().find(|resource| &*resource.plural == plural)
    }

    /// The resources of one group and version.
    pub fn of(&self, group: &str, version: &str) -> &[Arc<Resource>] {
        self.resources.get(&(group.into(), version.into())).map_or(&[], Vec::as_slice)
    }

    /// The groups with their versions, preferred first; the core group has no name.
    pub fn groups(&self) -> impl Iterator<Item = (&Arc<str>, &[Arc<str>])> {
        self.groups.iter().map(|(group, versions)| (group, versions.as_slice()))
    }

    /// Every resource.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values().flatten()
    }
}

/// Kubernetes' order of versions: `v2` before `v1` before `v1beta2` before `v1alpha1` before anything else.
fn priority(version: &str) -> (u8, u32, u32) {
    let digits = |text: &str| text.parse::<u32>().ok();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    if let Some(major) = digits(rest) {
        return (3, major, 0);
    }
    for (rank, word) in [(2, "beta"), (1, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word)
            && let (Some(major), Some(minor)) = (digits(major), digits(minor))
        {
            return (rank, major, minor);
        }
    }
    (0, 0, 0)
}

/// A custom resource in one of its versions.
pub struct CustomVersion {
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Accepted names: `plural`, `singular`, `kind`, `listKind`, `shortNames`, `categories`.
    pub names: Value,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
    /// Whether status is written apart.
    pub status: bool,
    /// What only custom resources have.
    pub custom: Custom,
    /// Its compiled schema.
    pub schema: Schema,
}

impl CustomVersion {
    /// The resource to serve.
    pub fn resource(self) -> Resource {
        let text = |name: &str| self.names.get(name).and_then(Value::as_str).unwrap_or_default();
        let list = |name: &str| -> Vec<String> {
            let items = self.names.get(name).and_then(Value::as_array);
            items.into_iter().flatten().filter_map(|item| Some(item.as_str()?.to_owned())).collect()
        };
        let mut subresources = Vec::new();
        if self.status {
            subresources.push(Subresource::Status);
        }
        if self.custom.scale.is_some() {
            subresources.push(Subresource::Scale);
        }
        let api_version = format!("{}/{}", self.group, self.version);
        Resource {
            storage: format!("{}/{}", self.group, text("plural")).into(),
            version: self.version.as_str().into(),
            plural: text("plural").into(),
            singular: text("singular").into(),
            kind: text("kind").into(),
            list_kind: text("listKind").into(),
            short_names: list("shortNames"),
            categories: list("categories"),
            namespaced: self.namespaced,
            create_only: false,
            subresources,
            name: TypeName { api_version: api_version.into(), kind: text("kind").into() },
            converted: false,
            group: self.group.as_str().into(),
            custom: Some(Arc::new(self.custom)),
            schema: Some(self.schema),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_kubernetes_orders_them() {
        let mut versions = ["v1alpha1", "foo", "v1", "v2beta1", "v10", "v1beta2", "v2"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
    }

    #[test]
    fn events_of_both_groups_are_one_store() {
        let registry = Registry::builtin();
        let core = registry.find("", "v1", "events").unwrap();
        let new = registry.find("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(core.storage, new.storage);
        assert!(new.converted && !core.converted);
    }
}
