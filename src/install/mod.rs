//! What an installation of dbctl in a cluster consists of, as plain objects: `manifests/` is generated from it, and the
//! sandbox's own controller runs with it.

mod apply;
mod rbac;

pub use apply::apply;
pub use rbac::{ACCOUNT, NAMESPACE, RULES, Rule, Scope, qualified, rbac, rbac_yaml};
