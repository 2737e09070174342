//! Backups: what `archive_command` and `restore_command` do with failing stores, and journeys with base backups.

mod azure;
pub mod bucket;
pub mod cluster;
mod fetch;
mod inplace;
mod kills;
mod local;
mod owners;
mod push;
mod retention;
mod timelines;
mod times;
pub mod wal;

use std::sync::atomic::{AtomicBool, Ordering};

/// Has somebody stop in any case: who waits for them would wait for ever.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
