//! What of kube-controller-manager and kube-scheduler a database operator relies on.
//!
//! Each kind is watched once ([`cache`]); what changes becomes keys in the queues of the controllers that care
//! ([`queue`]). A controller's decision is a pure function over what the caches hold; its edge carries it out.

mod accounts;
mod aggregation;
mod cache;
mod context;
mod cronjob;
mod disruption;
mod endpoints;
mod error;
mod gc;
mod job;
mod meta;
mod namespace;
mod nodes;
mod podgc;
mod queue;
mod revision;
mod root_ca;
mod run;
mod scheduler;
mod selector;
mod statefulset;
mod volumes;
mod write;

#[cfg(test)]
mod tests;

pub use context::Config;
pub use error::{ControllersError, ReconcileError};
pub use run::{provision, run, run_with};
pub use volumes::PROVISIONER;
