//! Whole-program tests: one binary, a module per concern.

mod cli;
mod conformance;
mod journeys;
mod kubectl;
mod recording;
mod support;
