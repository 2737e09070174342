//! Whole-program tests: one binary, a module per concern.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cli;
mod conformance;
mod isolation;
mod journeys;
mod kills;
mod kubectl;
mod recording;
mod support;
