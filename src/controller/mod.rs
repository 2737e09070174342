//! The controller: watches, observes, plans, acts. All decisions are [`crate::plan`]'s; here is only what needs a client,
//! a clock or randomness.

mod act;
mod asks;
mod backoff;
mod cache;
mod certificates;
mod health;
mod known;
mod lease;
mod mark;
mod metrics;
mod nodes;
mod noise;
mod observe;
mod packed;
mod random;
mod reconcile;
mod resource;
mod retry;
mod rotation;
mod run;
mod silence;
#[cfg(test)]
mod tests;

pub use lease::{LeaseConfig, LeaseError, Terms, identity};
pub use metrics::{MetricsConfig, Reached, ServeError, metrics};
pub use run::{ControllerConfig, ControllerError, run};
