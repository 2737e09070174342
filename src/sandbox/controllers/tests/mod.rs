//! The controllers against a real API server in this process. The recordings of a real cluster are replayed in
//! `tests/`; here is what they do not touch.

mod collection;
mod pods;
mod server;
mod storage;
mod workloads;
