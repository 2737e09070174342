//! A small client of PostgreSQL: questions by the simple protocol, and base backups by the replication protocol.
//!
//! - `connection` opens connections (`login`) and asks; `wire` sends and receives messages, `frame` reads them;
//! - `options` says what is asked for, `copy` understands the answer, and `base` hands it on as it comes.
//!
//! A member proves itself by its certificate (`tls`) before anything is said; a password is proven by SCRAM and never sent.
//!
//! <https://www.postgresql.org/docs/current/protocol-replication.html>

mod base;
mod connection;
mod copy;
mod error;
mod frame;
mod login;
mod options;
mod tls;
mod wire;

#[cfg(test)]
mod tests;

pub use base::BaseBackup;
pub use connection::{Address, Connection, Limits, Mode, Row, System, Target};
pub use copy::{Archive, Event, Tablespace};
pub use error::{Report, ServerError, Warnings};
pub use frame::Point;
pub use options::{Compression, ManifestChecksums, Options};
pub use tls::Tls;
