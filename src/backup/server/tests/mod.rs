//! Servers that say what a test makes them say, and real ones.

pub(super) mod bytes;
