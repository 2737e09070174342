//! Whole-program tests: one binary, a module per concern.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod agent;
mod backups;
mod cache;
mod checklist;
mod cli;
mod completion;
mod conformance;
mod data;
mod doctor;
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
mod proxies;
mod recording;
mod report;
mod restore;
mod security;
mod settings;
mod soak;
mod stores;
mod support;
mod terminal;
mod turnover;
mod turns;
mod upgrade;
