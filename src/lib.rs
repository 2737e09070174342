//! dbctl: creates and runs replicated PostgreSQL on Kubernetes, or on one machine without it.
//!
//! ARCHITECTURE.md is the map; arrows between these modules point one way.

pub mod agent;
pub mod api;
pub mod backup;
pub mod certified;
pub mod cli;
pub mod controller;
pub mod install;
pub mod metrics;
pub mod patroni;
pub mod plan;
pub mod reviews;
pub mod sandbox;
