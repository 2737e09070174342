//! Backups: what `archive_command` and `restore_command` do with failing stores, and journeys with base backups.

mod fetch;
mod push;
mod wal;
