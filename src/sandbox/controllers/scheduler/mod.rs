//! The scheduler: gives each pod a node, and its claims with it.

mod act;
mod affinity;
mod choose;
mod spread;
#[cfg(test)]
mod tests;

pub(super) use act::start;
pub(super) use affinity::bears;
