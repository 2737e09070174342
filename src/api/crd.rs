//! The CustomResourceDefinition, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::{DBCTL_VERSION, Database, VERSION};

/// The definition as the API server takes it. It says which dbctl's it is.
pub fn crd() -> CustomResourceDefinition {
    let mut definition = Database::crd();
    let annotations = definition.metadata.annotations.get_or_insert_default();
    annotations.insert(DBCTL_VERSION.to_owned(), VERSION.to_owned());
    definition
}

/// The definition as `manifests/crd.yaml` holds it.
///
/// # Errors
/// Where it cannot be written as YAML.
pub fn crd_yaml() -> Result<String, serde_yaml::Error> {
    let body = serde_yaml::to_string(&crd())?;
    Ok(format!("# Generated from the Rust types: `dbctl generate crd > manifests/crd.yaml`.\n{body}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_has_not_drifted() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/crd.yaml");
        let committed = std::fs::read_to_string(path).unwrap();
        assert!(committed == crd_yaml().unwrap(), "run `cargo run -- generate crd > manifests/crd.yaml`");
    }
}
