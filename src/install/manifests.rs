//! The files of `manifests/`.

use serde_json::{Value, json};

use super::network;
use super::objects::{Installation, namespace_object};
use super::rbac::{NAMESPACE, Scope, documents, rbac_yaml};
use crate::api::crd_yaml;

/// A file: its name and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its name below the directory.
    pub name: &'static str,
    /// Its text.
    pub text: String,
}

/// How all of them are written.
const GENERATED: &str = "Generated: `dbctl generate manifests manifests`.";
/// What `kubectl apply -k` applies, in the order in which it can be applied one by one.
const RESOURCES: [&str; 5] =
    ["namespace.yaml", "crd.yaml", "rbac.yaml", "networkpolicy.yaml", "controller.yaml"];

/// All files, as an installation for all namespaces has them.
///
/// # Errors
/// Where they cannot be written as YAML.
pub fn manifests() -> Result<Vec<Manifest>, serde_yaml::Error> {
    let installation = Installation::new(NAMESPACE);
    let file = |name, comment: &str, objects: &[Value]| -> Result<Manifest, serde_yaml::Error> {
        Ok(Manifest { name, text: documents(&format!("# {comment}\n# {GENERATED}\n"), objects)? })
    };
    Ok(vec![
        file(
            "namespace.yaml",
            "Where the controller runs; pods must keep to the restricted standard there.",
            &[namespace_object(NAMESPACE)],
        )?,
        Manifest { name: "crd.yaml", text: crd_yaml()? },
        Manifest { name: "rbac.yaml", text: rbac_yaml(NAMESPACE, Scope::Cluster)? },
        file(
            "networkpolicy.yaml",
            "Whom the controller reaches, and who reaches it. An API server at another port than these needs that port too.",
            &installation.policies(),
        )?,
        file("controller.yaml", "What runs: two controllers, of which one works.", &installation.workload())?,
        file(
            "databases-networkpolicy.yaml",
            "Who reaches the members of databases; for each namespace with databases: kubectl apply -n NAMESPACE -f FILE.",
            &[network::databases_policy(None, NAMESPACE)],
        )?,
        file(
            "kustomization.yaml",
            "All that `dbctl install` applies: kubectl apply --server-side -k manifests. Images of your own: `images:`.",
            &[kustomization()],
        )?,
    ])
}

fn kustomization() -> Value {
    json!({ "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": RESOURCES })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_have_not_drifted() {
        for Manifest { name, text } in manifests().unwrap() {
            let path = format!("{}/manifests/{name}", env!("CARGO_MANIFEST_DIR"));
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(committed == text, "{name}: run `cargo run -- generate manifests manifests`");
        }
    }

    /// The files and the command are one source.
    #[test]
    fn the_kustomization_is_what_is_installed() {
        let all = manifests().unwrap();
        let text = |name: &str| all.iter().find(|file| file.name == name).unwrap().text.clone();
        let parse = |text: &str| -> Vec<Value> {
            text.split("\n---\n")
                .map(|document| serde_yaml::from_str(document).unwrap())
                .filter(|value: &Value| !value.is_null())
                .collect()
        };
        let mut held: Vec<Value> = RESOURCES.iter().flat_map(|name| parse(&text(name))).collect();
        let mut wanted = Installation::new(NAMESPACE).objects().unwrap();
        for all in [&mut held, &mut wanted] {
            all.sort_by_key(|object| format!("{}{}", object["kind"], object["metadata"]["name"]));
        }
        assert_eq!(held, wanted);
    }
}
