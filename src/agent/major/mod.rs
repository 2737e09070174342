//! A major upgrade, inside the pods: by the mark on `NAME-config` each member knows whether it may start PostgreSQL.
//!
//! - `hold` is what stands before Patroni, and `decide` says what a member may do;
//! - `disk` is what happens to a volume, and `upgrade` runs pg_upgrade on it;
//! - `finish` is what follows while PostgreSQL runs, and `report` what the controller is told;
//! - `rehearse` tries it all on an empty copy, in a pod of its own;
//! - `tool` runs the programs of both releases.

mod decide;
mod disk;
mod finish;
mod hold;
mod rehearse;
mod report;
mod tool;
mod upgrade;

pub use disk::Made;
pub use finish::follow;
pub use hold::{Told, hold};
pub use rehearse::{Rehearsal, RehearseError, rehearse};
pub use report::{Facts, MajorReport, MajorState};
#[cfg(test)]
pub use tool::previous as previous_programs;
pub use upgrade::{Upgrade, UpgradeError, upgrade};
