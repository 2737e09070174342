//! Backups: the archive of WAL, base backups, and what is made of them.
//!
//! - `wal` knows the files that PostgreSQL archives, and `timeline` how timelines hang together;
//! - `archive` moves WAL there and back, and `claim` says whose a destination is;
//! - `server` speaks with PostgreSQL's servers, `base` takes base backups from them and lists what there is;
//! - `chain` follows WAL over timelines, and `restore` makes a new data directory of what is stored;
//! - `verification` restores a backup to see that it can be, and has PostgreSQL check what comes of it;
//! - `store` is where it all goes: S3, Google, Azure or a directory;
//! - `probe` finds out whether a destination does what is relied on;
//! - `layout` says what lies where in a destination, and `retention` what of it may go.

pub mod archive;
pub mod base;
pub mod chain;
pub mod claim;
pub mod layout;
pub mod probe;
pub mod restore;
pub mod retention;
pub mod server;
pub mod store;
pub mod timeline;
pub mod verification;
pub mod wal;

#[cfg(test)]
mod checklist;
