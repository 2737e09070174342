//! What an installation of dbctl in a cluster consists of, as plain objects: `manifests/` is generated from it, `dbctl install`
//! applies it, and the sandbox's own controller runs with its roles.

mod apply;
#[cfg(test)]
mod image;
mod manifests;
mod network;
mod objects;
mod rbac;
mod rights;
#[cfg(test)]
mod standard;
mod version;

pub use apply::{Change, api_of, apply, change, resource, resource_name, submit};
pub use manifests::{Manifest, manifests};
pub use network::databases_policy;
pub use objects::{
    HEALTH_PORT, Installation, METRICS_PORT, default_image, is_installed, namespace_object, selector,
};
pub use rbac::{ACCOUNT, METRICS_READER, NAMESPACE, Scope, rbac, rbac_yaml};
pub use rights::{LEASES, RULES, Rule, qualified, rights_table};
pub use version::{Advice, Remedy, Versions, is_newer, label_value, skew};
