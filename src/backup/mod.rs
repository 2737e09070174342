//! Backups: the archive of WAL, base backups, and what is made of them.
//!
//! - `wal` knows the files that PostgreSQL archives, and `timeline` how timelines hang together;
//! - `layout` says what lies where in a destination, and `retention` what of it may go.

pub mod layout;
pub mod retention;
pub mod timeline;
pub mod wal;
