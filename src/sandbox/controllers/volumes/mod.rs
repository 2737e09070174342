//! Claims and volumes: provisioning, binding, growth, protection, and the end of a volume.

mod act;
mod claim;
mod class;
#[cfg(test)]
mod tests;
mod volume;

pub(super) use act::{binds_at_once, start, start_provisioner};
pub(super) use claim::SELECTED_NODE;
pub use class::PROVISIONER;
