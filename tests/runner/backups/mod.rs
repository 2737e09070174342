//! Backups: what `archive_command` and `restore_command` do with failing stores, and journeys with base backups.

mod bucket;
mod cluster;
mod fetch;
mod local;
mod push;
mod retention;
mod wal;
