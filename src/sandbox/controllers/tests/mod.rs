//! The controllers against a real API server, in this process.
