//! Whether a backup can be used: it is restored as for a new database, and PostgreSQL itself looks at every table and index
//! of what comes of it.
//!
//! - `room` says how much a volume must have free for that;
//! - `instance` runs PostgreSQL where nobody else reaches it, and `amcheck` has its own tool look through it;
//! - `blame` tells damage of the backup from troubles of the machine: only the former says anything of the backup;
//! - `run` does one after the other.

mod amcheck;
mod blame;
mod instance;
mod room;
mod run;

pub use amcheck::CheckError;
pub use instance::InstanceError;
pub use run::{Checked, Place, Step, VerificationError, verify};
