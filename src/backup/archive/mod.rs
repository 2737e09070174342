//! The archive of WAL: what PostgreSQL's `archive_command` and `restore_command` do.

mod fetch;
mod origin;
mod push;
mod spool;

pub use fetch::{FetchError, Fetched, Purpose, fetch};
pub use origin::{Origin, OriginError};
pub use push::{PushError, Pushed, holds, push};
pub use spool::Spool;
