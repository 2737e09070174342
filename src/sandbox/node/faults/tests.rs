//! Faults of real pods.
