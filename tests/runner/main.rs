//! Whole-program tests: one binary, a module per concern.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod agent;
mod backups;
mod cache;
mod checklist;
mod cli;
mod conformance;
mod data;
mod external;
mod failover;
mod faults;
mod install;
mod isolation;
mod journeys;
mod kills;
mod kubectl;
mod major;
mod monitoring;
mod proof;
mod recording;
mod restore;
mod settings;
mod stores;
mod support;
mod turns;
mod upgrade;
