//! A single-machine stand-in for a cluster. It knows Kubernetes, not databases.

pub mod api;
pub mod controllers;
pub mod daemon;
pub mod home;
pub mod node;
pub mod object;
pub mod process;
pub mod provision;
pub mod rotate;
